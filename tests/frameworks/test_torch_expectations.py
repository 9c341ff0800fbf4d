"""What PyTorch expects of its optimizers, asked of ours.

Its wheel holds a table, ``torch.testing._internal.common_optimizers.optim_db``, of each optimizer's
options, errors, flags and what it supports. Every entry of our five is run with our class and with
torch's beside it: errors word for word, checkpoints, groups, and numbers within rounding.
"""

import copy
import functools
import importlib
import io
import itertools
import pickle
import re
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import CASES, Mirror, Options, parameters, set_gradients, step_and_check

each_optimizer = pytest.mark.parametrize("name", CASES)


def torchs_table() -> Any:
    """The module, imported without what its import does to the whole process.

    It imports the base class of torch's tests, which needs a package that nothing here uses and
    forbids to set flags of ``torch.backends``.
    """
    expecttest = types.ModuleType("expecttest")
    expecttest.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        patch.setitem(sys.modules, "expecttest", expecttest)
        return importlib.import_module("torch.testing._internal.common_optimizers")


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """Waking threads for each small tensor is slow on a busy machine."""
    set_threads(1)


TABLE = torchs_table()
INFO = {it.optim_cls.__name__: it for it in TABLE.optim_db if it.optim_cls.__name__ in CASES}


def test_the_table_has_all_five() -> None:
    assert INFO.keys() == CASES.keys()
    assert all(INFO[name].optim_cls is case.torchs for name, case in CASES.items())


@functools.cache
def inputs(name: str) -> list[tuple[str, Options]]:
    """The table's options, each without and with the flags foreach, fused and differentiable."""
    made = TABLE._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, INFO[name])
    found = [(it.desc, it.kwargs) for it in made]
    for lr in (torch.tensor(0.05), torch.tensor([0.05]), torch.tensor([[0.05]])):
        found.append((f"lr of {lr.dim()} dimensions", {"lr": lr}))
        found.append((f"lr of {lr.dim()} dimensions, fused", {"lr": lr, "fused": True}))
    return [it for it in found if not (name == "RMSprop" and it[1].get("fused"))]


each_input = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{about}")
        for name in CASES
        for about, options in inputs(name)
    ],
)


def is_plain(options: Options) -> bool:
    """Whether the kernels take the parameters, so that a Mirror tells each bit."""
    return not options.get("differentiable")


def make_params(options: Options, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """With differentiable, a step is an operation of autograd's, so no parameter may be a leaf."""
    params: list[Tensor] = list(parameters(dtype, [(7, 3), (4,), ()]))
    return params if is_plain(options) else [param.detach() for param in params]


def made(name: str, options: Options, dtype: torch.dtype = torch.float32) -> list[Optimizer]:
    """Ours and torch's, each with two groups; the second has a rate and a decay of its own."""
    optimizers = []
    for optimizer_class in CASES[name].classes:
        groups = [{"params": make_params(options, dtype)}, {"params": make_params(options, dtype)}]
        groups[1] |= {"lr": 0.125, "weight_decay": 0.25}
        optimizers.append(optimizer_class(groups, **copy.deepcopy(options)))
    return optimizers


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def set_late_gradients(optimizer: Optimizer, step: int) -> None:
    """The last parameter has its first one at step 2, where torch's fused SGD raises TypeError."""
    set_gradients(params_of(optimizer), seed=step)
    fails = optimizer.defaults.get("fused") and optimizer.defaults.get("momentum")
    if step < 2 and not fails:
        params_of(optimizer)[-1].grad = None


def train(optimizer: Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        set_late_gradients(optimizer, step)
        optimizer.step()


def assert_alike(ours: Optimizer, theirs: Optimizer) -> None:
    """Parameters, and states with their keys, dtypes and shapes; numbers within rounding.

    Both compute in the tensors' precision, by formulas that round otherwise. Where the rate is a
    float32 tensor, torch computes Adam's step size in float32, and fastopt in double.
    """

    def close(mine: Tensor, other: Tensor) -> None:
        exact = mine.dtype == torch.float64 and not isinstance(ours.defaults["lr"], Tensor)
        tolerance = 1e-11 if exact else 2e-5
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)

    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        close(mine, other)
        assert ours.state.get(mine, {}).keys() == theirs.state.get(other, {}).keys()
        for key, value in theirs.state.get(other, {}).items():
            close(ours.state[mine][key], value)


def assert_same(ours: Optimizer, theirs: Optimizer) -> None:
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        assert torch.equal(mine, other)
        assert ours.state.get(mine, {}).keys() == theirs.state.get(other, {}).keys()
        for key, value in theirs.state.get(other, {}).items():
            assert torch.equal(ours.state[mine][key], value)


# ---- every set of options -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_input
def test_numbers_and_states_are_torchs(name: str, options: Options, dtype: torch.dtype) -> None:
    ours, theirs = made(name, options, dtype)
    train(theirs, 0, 5)
    if is_plain(options):
        mirror = Mirror(name, ours)
        for step in range(5):
            set_late_gradients(ours, step)
            step_and_check(mirror)
    else:
        train(ours, 0, 5)
    assert_alike(ours, theirs)
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert list(mine)[: len(other)] == list(other)
        assert {k: mine[k] for k in other.keys() - {"params"}} == {
            k: other[k] for k in other.keys() - {"params"}
        }


@each_optimizer
def test_printing_shows_torchs_lines_in_torchs_order(name: str) -> None:
    ours, theirs = (str(it).splitlines() for it in made(name, {}))
    extras = {line for line in ours if line.split(":")[0].strip() in own_keys(name)}
    assert [line for line in ours if line not in extras] == theirs


def own_keys(name: str) -> set[str]:
    ours, theirs = (it(parameters(shapes=[(1,)])) for it in CASES[name].classes)
    return ours.defaults.keys() - theirs.defaults.keys()


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def state_dict_clone(optimizer: Optimizer) -> Optimizer:
    """A new optimizer of fresh defaults: the options, too, come from the state_dict."""
    groups = []
    for group in optimizer.param_groups:
        params = [it.detach().clone().requires_grad_(it.requires_grad) for it in group["params"]]
        groups.append({"params": params})
    target = type(optimizer)(groups)  # type: ignore[call-arg]
    target.load_state_dict(through_file(optimizer.state_dict()))
    return target


CLONES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda it: pickle.loads(pickle.dumps(it)),
    "state_dict": state_dict_clone,
}


@pytest.mark.parametrize("clone", CLONES)
@each_input
def test_a_clone_goes_on_alike(name: str, options: Options, clone: str) -> None:
    optimizer, _ = made(name, options)
    train(optimizer, 0, 3)
    other = CLONES[clone](optimizer)
    public = [{key for key in vars(it) if key[0] != "_"} for it in (optimizer, other)]
    assert public[0] == public[1]
    train(optimizer, 3, 6)
    train(other, 3, 6)
    assert_same(other, optimizer)


@each_input
def test_an_older_checkpoint_goes_on_as_with_torch(name: str, options: Options) -> None:
    """From before some flags, and from when a step count was a number."""
    ours, theirs = made(name, options)
    train(ours, 0, 3)
    train(theirs, 0, 3)
    for optimizer in (ours, theirs):
        state = optimizer.state_dict()
        for group in state["param_groups"]:
            for flag in (*INFO[name].not_og_supported_flags, "fused", *own_keys(name)):
                group.pop(flag, None)
        for entries in state["state"].values():
            if "step" in entries:
                entries["step"] = entries["step"].item()
        optimizer.load_state_dict(through_file(state))
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys() | own_keys(name)
    if not options.get("maximize"):  # whose loss turns the last steps around
        train(ours, 3, 6)
        train(theirs, 3, 6)
        assert_alike(ours, theirs)


@each_input
@pytest.mark.parametrize("grads", ["none", "zero"])
def test_steps_without_gradients(name: str, options: Options, grads: str) -> None:
    """No gradient: nothing at all. A gradient of zeros: what torch does, decay at most."""
    ours, theirs = made(name, options)
    before = [param.detach().clone() for param in params_of(ours)]
    for optimizer, _ in itertools.product((ours, theirs), range(3)):
        for param in params_of(optimizer):
            param.grad = torch.zeros_like(param) if grads == "zero" else None
        optimizer.step()
    assert_alike(ours, theirs)
    if grads == "none":
        assert all(map(torch.equal, params_of(ours), before))


# ---- errors -------------------------------------------------------------------------------------


def errors(name: str) -> Iterator[Any]:
    for dtype in (torch.float32, torch.float64):
        yield from INFO[name].optim_error_inputs_func("cpu", dtype)


def caught(optimizer_class: Any, wrong: Any) -> Any:
    params = wrong.optimizer_error_input.params
    if params is None:
        params = [torch.nn.Parameter(torch.randn(1, 1))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = optimizer_class(params, **wrong.optimizer_error_input.kwargs)
            if wrong.error_on is TABLE.OptimizerErrorEnum.STEP_ERROR:
                optimizer.step()
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param(name, it, id=f"{name}-{it.optimizer_error_input.desc}")
        for name in CASES
        for it in errors(name)
    ],
)
def test_errors_are_torchs_word_for_word(name: str, wrong: Any) -> None:
    found = caught(CASES[name].ours, wrong)
    assert found == caught(CASES[name].torchs, wrong)
    assert issubclass(found[0], wrong.error_type)
    assert re.search(wrong.error_regex, found[1])


# ---- complex and sparse -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:fastopt.*no parameter takes")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_input
def test_complex_parameters_are_torchs(name: str, options: Options, dtype: torch.dtype) -> None:
    """To the bit: torch's own step takes them."""
    options = options | {"fused": False} if "fused" in options else options  # never of complex ones
    made_of = []
    for optimizer_class in CASES[name].classes:
        numbers = [torch.complex(it, 2 * it + 1).to(dtype) for it in make_params(options)]
        params = [it.detach().requires_grad_(is_plain(options)) for it in numbers]
        optimizer = optimizer_class(params, **copy.deepcopy(options))
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            for param in params:
                param.grad = torch.randn(param.shape, dtype=dtype, generator=generator)
            optimizer.step()
        made_of.append(optimizer)
    assert INFO[name].supports_complex
    assert_same(*made_of)


SPARSE = ["SGD", "Adagrad"]


def sparse_rosenbrock(params: Tensor, row: int) -> Tensor:
    """The gradient of Rosenbrock's function in one of the two coordinates."""
    x, y = params.detach().tolist()
    slopes = (-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x))
    return torch.sparse_coo_tensor(
        [[row]], [slopes[row]], (2,), dtype=params.dtype, check_invariants=True
    )


@pytest.mark.filterwarnings("ignore:fastopt.*no parameter takes")
@pytest.mark.parametrize("with_schedulers", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients_are_torchs(name: str, maximize: bool, with_schedulers: bool) -> None:
    """With the table's options, and its schedulers, for them."""
    assert [it for it in CASES if INFO[it].supports_sparse] == SPARSE
    options, make_schedulers = INFO[name].metadata_for_sparse
    runs = []
    for optimizer_class in CASES[name].classes:
        param = torch.nn.Parameter(torch.tensor([1.5, 1.5], dtype=torch.float64))
        optimizer = optimizer_class([param], **options | {"maximize": maximize})
        schedulers = [make(optimizer) for make in make_schedulers] if with_schedulers else []
        for step in range(40):
            param.grad = sparse_rosenbrock(param, step % 2)
            optimizer.step()
            for scheduler in schedulers:
                takes_loss = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*[1.0] * takes_loss)
        runs.append(optimizer)
    assert_same(*runs)


@pytest.mark.filterwarnings("ignore:fastopt.*no parameter takes")
@pytest.mark.parametrize("name", [name for name in CASES if name not in SPARSE])
def test_the_others_refuse_sparse_gradients_in_torchs_words(name: str) -> None:
    messages = []
    for optimizer_class in CASES[name].classes:
        param = torch.nn.Parameter(torch.ones(2))
        optimizer = optimizer_class([param])
        param.grad = sparse_rosenbrock(param, 0)
        with pytest.raises(RuntimeError, match="sparse") as error:
            optimizer.step()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
