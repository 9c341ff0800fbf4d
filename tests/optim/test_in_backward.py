"""step_in_backward: the plain loop's bits, one gradient at a time, one optimizer's checkpoints."""

from __future__ import annotations

import copy
import gc
import io
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import fastopt
from _optim_cases import CASES, FULL, TORCH_OPTIONS, Options, assert_same_bits, option_id
from fastopt.optim import StepInBackward, step_in_backward

each_optimizer = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """The models are tiny: more threads would only wait for each other."""
    set_threads(1)


class Tied(nn.Module):
    """An embedding that is also the output layer, and a parameter that some steps do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.rare = nn.Parameter(torch.ones(4))
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, index: Tensor, rare: bool = False) -> Tensor:
        hidden = self.norm(torch.tanh(self.layer(self.words(index))))
        output: Tensor = self.out(hidden * self.rare if rare else hidden)
        return output


def tied_model(dtype: torch.dtype = torch.float32) -> Tied:
    torch.manual_seed(0)
    return Tied().to(dtype)


def backward(model: nn.Module, step: int) -> None:
    index = torch.arange(6) * (step + 3) % 11
    loss = nn.functional.cross_entropy(model(index, rare=step % 3 == 1), index.flip(0))
    loss.backward()


def train(model: nn.Module, optimizer: Optimizer, first: int, count: int) -> None:
    for step in range(first, first + count):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def assert_same_training(
    model: nn.Module, handle: StepInBackward, other: nn.Module, theirs: Any
) -> None:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    for (mine, expected), name in zip(pairs, dict(model.named_parameters()), strict=True):
        assert_same_bits(mine, expected, name)
    ours, plain = handle.state_dict(), theirs.state_dict()
    assert ours["param_groups"] == plain["param_groups"]
    assert ours["state"].keys() == plain["state"].keys()
    assert list(ours["state"]) == sorted(ours["state"])
    for index, state in plain["state"].items():
        assert ours["state"][index].keys() == state.keys()
        for key, value in state.items():
            assert_same_bits(ours["state"][index][key], value, f"{key} of {index}")


# ---- bits ---------------------------------------------------------------------------------------

EXTRA: list[tuple[str, Options]] = [
    ("AdamW", {"ema_decay": 0.9}),
    ("SGD", {"ema_decay": 0.9, "ema_bias_correction": True, "momentum": 0.9}),
    ("Adam", {"eps_inside_sqrt": True}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in CASES for options in TORCH_OPTIONS[name]] + EXTRA,
    ids=option_id,
)
def test_same_bits_as_the_plain_loop(name: str, options: Options) -> None:
    """Tied weights, a parameter with a gradient now and then, one that never has one."""
    model, other = tied_model(), tied_model()
    model.norm.bias.requires_grad_(False)
    other.norm.bias.requires_grad_(False)
    handle = step_in_backward(model, CASES[name].ours, **options)
    plain = CASES[name].ours(other.parameters(), **options)
    for step in range(6):
        backward(model, step)
        assert all(param.grad is None for param in model.parameters())
        train(other, plain, step, 1)
    assert_same_training(model, handle, other, plain)


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=option_id)
def test_parameters_in_16_bits(name: str, dtype: torch.dtype) -> None:
    model, other = tied_model(dtype), tied_model(dtype)
    options = FULL[name] if name == "SGD" else FULL[name] | {"state_dtype": torch.float32}
    handle = step_in_backward(model, CASES[name].ours, **options)
    plain = CASES[name].ours(other.parameters(), **options)
    assert not any(it.reason for it in plain.fused_report())
    for step in range(4):
        backward(model, step)
        train(other, plain, step, 1)
    assert_same_training(model, handle, other, plain)


class Slanted(nn.Module):
    """Of complex numbers, trained by the loop of `backward`."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(11, dtype=torch.complex64, generator=generator))

    def forward(self, index: Tensor, rare: bool = False) -> Tensor:
        return torch.outer(self.weight[index], self.weight).abs()


@each_optimizer
def test_parameters_on_torchs_path(name: str) -> None:
    """Of another dtype, where torch's step does the work, and warns once of that."""
    model, other = Slanted(), Slanted()
    with pytest.warns(UserWarning, match="no parameter takes fastopt's kernels") as warned:
        handle = step_in_backward(model, CASES[name].ours, **FULL[name])
    assert [it.filename for it in warned] == [__file__]
    plain = CASES[name].ours(other.parameters(), **FULL[name])
    with pytest.warns(UserWarning, match="no parameter takes"):
        train(other, plain, 0, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(4):
            backward(model, step)
    assert_same_training(model, handle, other, plain)


@pytest.mark.filterwarnings("error")
def test_a_sparse_gradient() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Sequential(nn.Embedding(11, 4, sparse=True), nn.Linear(4, 3)))
    handle = step_in_backward(models[0], fastopt.optim.SGD, lr=0.1)
    plain = fastopt.optim.SGD(models[1].parameters(), lr=0.1)
    for step in range(3):
        for model in models:
            model(torch.arange(4) * (step + 2) % 11).square().sum().backward()
        plain.step()
        plain.zero_grad()
    assert_same_training(models[0], handle, models[1], plain)


def test_a_loop_that_still_calls_step_trains_the_same() -> None:
    model, other = tied_model(), tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW, lr=0.01)
    calls: list[str] = []
    handle.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    plain = fastopt.optim.AdamW(other.parameters(), lr=0.01)
    train(model, handle.optimizer, 0, 4)
    train(other, plain, 0, 4)
    assert_same_training(model, handle, other, plain)
    assert calls == ["post"] * 4


def test_freezing_and_replaced_data_are_seen() -> None:
    model, other = tied_model(), tied_model()
    for each in (model, other):
        each.layer.requires_grad_(False)
    handle = step_in_backward(model, fastopt.optim.Adam, lr=0.01)
    assert not model.layer.weight.requires_grad
    plain = fastopt.optim.Adam(other.parameters(), lr=0.01)
    for step in range(6):
        for each in (model, other):
            each.layer.requires_grad_(step >= 2)
            each.norm.requires_grad_(step != 3)
            if step == 4:
                each.layer.weight.data = each.layer.weight.data.clone() * 2
        backward(model, step)
        train(other, plain, step, 1)
    assert_same_training(model, handle, other, plain)


# ---- memory -------------------------------------------------------------------------------------


def most_gradients_alive(in_backward: bool, layers: int = 8) -> tuple[int, int]:
    """The most gradients that lived at once, as attributes and as memory, in one backward."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(layers)])
    plain = fastopt.optim.AdamW(model.parameters())
    handle = step_in_backward(model, fastopt.optim.AdamW) if in_backward else None
    seen: list[StorageWeakRef] = []
    attributes, memory = 0, 0

    def on_gradient(grad: Tensor) -> None:
        nonlocal attributes, memory
        seen.append(StorageWeakRef(grad.untyped_storage()))
        attributes = max(attributes, sum(param.grad is not None for param in model.parameters()))
        memory = max(memory, sum(not ref.expired() for ref in seen))

    for param in model.parameters():
        param.register_hook(on_gradient)
    for _ in range(2):
        model(torch.randn(3, 64)).square().sum().backward()
        plain.step()
        plain.zero_grad()
        seen.clear()
    assert in_backward == (handle is not None)
    return attributes, memory


def test_no_two_gradients_live_at_once() -> None:
    assert most_gradients_alive(in_backward=True) == (0, 1)  # counted before each is stored
    assert most_gradients_alive(in_backward=False) == (7, 8)


def test_nothing_keeps_a_dropped_model_alive() -> None:
    model = tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW)
    backward(model, 0)
    alive = [weakref.ref(it) for it in (model.layer.weight, handle, handle.optimizer)]
    del model, handle
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_a_dropped_handle_is_missed() -> None:
    """Kept through the optimizer, as a scheduler keeps it; without either, backward says so."""
    model = tied_model()
    scheduler = warm_up(step_in_backward(model, fastopt.optim.AdamW).optimizer)
    gc.collect()
    backward(model, 0)
    del scheduler
    gc.collect()
    with pytest.raises(RuntimeError, match="keep what step_in_backward returned"):
        backward(model, 1)


# ---- checkpoints and schedulers --------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("start", [0, 3])
def test_checkpoints_load_into_a_plain_optimizer_and_back(name: str, start: int) -> None:
    models = [tied_model() for _ in range(3)]
    first = step_in_backward(models[0], CASES[name].ours, **FULL[name])
    for step in range(start):
        backward(models[0], step)

    def saved(state: dict[str, Any], model: nn.Module) -> tuple[Any, Any]:
        file = io.BytesIO()
        torch.save((state, model.state_dict()), file)
        file.seek(0)
        loaded: tuple[Any, Any] = torch.load(file, weights_only=True)
        return loaded

    plain = CASES[name].ours(models[1].parameters(), lr=9.0)
    state, weights = saved(first.state_dict(), models[0])
    plain.load_state_dict(state)
    models[1].load_state_dict(weights)
    train(models[1], plain, start, 2)

    second = step_in_backward(models[2], CASES[name].ours, lr=9.0)
    state, weights = saved(plain.state_dict(), models[1])
    second.load_state_dict(state)
    models[2].load_state_dict(weights)

    for step in range(start, start + 4):
        backward(models[0], step)
    for step in range(start + 2, start + 4):
        backward(models[2], step)
    train(models[1], plain, start + 2, 2)
    assert_same_training(models[0], first, models[1], plain)
    assert_same_training(models[2], second, models[1], plain)


def warm_up(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))


def one_cycle(optimizer: Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, 0.1, total_steps=12)


@pytest.mark.parametrize("scheduler", [warm_up, one_cycle])
@pytest.mark.filterwarnings("error")
def test_schedulers_drive_it(scheduler: Any) -> None:
    model, other = tied_model(), tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW, lr=0.1)
    plain = fastopt.optim.AdamW(other.parameters(), lr=0.1)
    ours, theirs = scheduler(handle.optimizer), scheduler(plain)
    for step in range(5):
        backward(model, step)
        ours.step()
        train(other, plain, step, 1)
        theirs.step()
    assert handle.param_groups[0]["lr"] == plain.param_groups[0]["lr"] != 0.1
    assert_same_training(model, handle, other, plain)


def test_what_is_set_in_a_group_holds_from_the_next_gradient_on() -> None:
    model = tied_model()
    handle = step_in_backward(model, fastopt.optim.SGD, lr=0.1)
    handle.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    backward(model, 0)
    for key, value in model.state_dict().items():
        assert_same_bits(value, before[key], key)


def test_remove_gives_a_plain_optimizer_back() -> None:
    model, other = tied_model(), tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW, lr=0.01)
    plain = fastopt.optim.AdamW(other.parameters(), lr=0.01)
    backward(model, 0)
    handle.remove()
    handle.remove()
    backward(model, 1)
    assert model.layer.weight.grad is not None
    handle.optimizer.step()
    train(model, handle.optimizer, 2, 2)
    train(other, plain, 0, 4)
    assert_same_training(model, handle, other, plain)


# ---- refusals -----------------------------------------------------------------------------------


class OwnStep(fastopt.optim.SGD):
    """A step that a step in backward would pass over."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class OwnInit(fastopt.optim.SGD):
    """A subclass with nothing but options of its own."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, lr)


def test_clipping_by_the_global_norm_is_refused() -> None:
    """Asked for at first, in a checkpoint, or later in the group."""
    message = r"max_grad_norm=1\.0: the norm of all gradients is not known .* expected None"
    with pytest.raises(ValueError, match=message):
        step_in_backward(tied_model(), fastopt.optim.AdamW, max_grad_norm=1.0)
    model = tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW)
    clips = fastopt.optim.AdamW(tied_model().parameters(), max_grad_norm=1.0)
    with pytest.raises(ValueError, match=message):
        handle.load_state_dict(clips.state_dict())
    handle.param_groups[0]["max_grad_norm"] = 1.0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        backward(model, 0)
    for key, value in model.state_dict().items():
        assert_same_bits(value, before[key], key)


def test_other_optimizers_are_refused() -> None:
    for kind in (torch.optim.SGD, nn.Linear, 3):
        with pytest.raises(TypeError, match=r"expected an optimizer of fastopt's own, got"):
            step_in_backward(tied_model(), kind)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="OwnStep has a step of its own"):
        step_in_backward(tied_model(), OwnStep)
    handle = step_in_backward(tied_model(), OwnInit)
    assert handle.param_groups[0]["lr"] == 0.5


def test_a_grad_scaler_finds_no_gradients_and_says_so() -> None:
    model = tied_model()
    handle = step_in_backward(model, fastopt.optim.AdamW)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.arange(3)).sum()).backward()
    with pytest.raises(AssertionError, match="No inf checks were recorded"):
        scaler.step(handle.optimizer)
