"""What the kernels do not take goes through torch's own step, and equals torch.optim bit for bit.

Hooks run once all the same, whether or not a program has also built torch's class.
"""

import collections
import contextlib
import inspect
import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import (
    CASES,
    DTYPES,
    EVERY,
    FULL,
    ODD,
    STORED,
    WITH_TORCH,
    Mirror,
    Options,
    Subclass,
    assert_same_bits,
    complex64,
    failures_in_fresh_processes,
    option_id,
    parameters,
    set_gradients,
    set_odd_gradient,
    sparse_gradient,
)
from fastopt import kernels
from fastopt.optim._report import Reports

each_optimizer = pytest.mark.parametrize("name", CASES)
each_odd = pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())


def train(optimizer_class: type[Optimizer], odd: Tensor, options: Options) -> Optimizer:
    optimizer = optimizer_class([odd], **options)
    for step in range(5):
        set_odd_gradient(odd, seed=step)
        optimizer.step()
    return optimizer


def assert_same_state(ours: Optimizer, theirs: Optimizer) -> None:
    for mine, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert value.dtype == other[key].dtype, key
            assert torch.equal(value, other[key]), key


# ---- equal to torch -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_TORCH)
@each_odd
def test_parameters_that_the_kernels_do_not_take(name: str, odd: Callable[[], Tensor]) -> None:
    ours, theirs = odd(), odd()
    mine = train(EVERY[name].ours, ours, FULL[name])
    other = train(EVERY[name].torchs, theirs, FULL[name])
    assert torch.equal(ours, theirs)
    assert type(ours) is type(theirs)
    assert_same_state(mine, other)


@each_optimizer
def test_odd_and_plain_parameters_mixed(name: str) -> None:
    """Each odd one equals torch's, each plain one the reference, in whatever order they come."""
    odd = [make() for make in ODD.values()]
    plain = parameters(shapes=[(5, 7), (3,)])
    mirror = Mirror(name, CASES[name].ours(plain, **FULL[name]))
    groups = [[odd[0], plain[0], odd[1]], [plain[1], odd[2]]]
    optimizer = CASES[name].ours([{"params": group} for group in groups], **FULL[name])
    for step in range(5):
        set_gradients(plain, seed=step)
        for param in odd:
            set_odd_gradient(param, seed=step)
        mirror.follow()
        optimizer.step()
    for param in plain:
        assert_same_bits(param, mirror.params[param])
    for param, make in zip(odd, ODD.values(), strict=True):
        expected = make()
        train(CASES[name].torchs, expected, FULL[name])
        assert torch.equal(param, expected)
    assert [group["params"] for group in optimizer.param_groups] == groups


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"maximize": True}),
        ("SGD", {"momentum": 0.9}),
        ("Adagrad", {"lr": 0.1}),
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "maximize": True}),
    ],
)
def test_sparse_gradients(name: str, options: Options) -> None:
    results = []
    for optimizer_class in CASES[name].classes:
        param, plain = parameters(shapes=[(9, 3), (5,)])
        optimizer = optimizer_class([plain, param], **options)
        for step in range(5):
            plain.grad = torch.zeros(5)  # of which both make nothing
            param.grad = sparse_gradient(step)
            optimizer.step()
        results.append((param, optimizer))
    assert_same_bits(results[0][0], results[1][0])
    if not options.get("momentum"):  # torch keeps a sparse buffer
        assert_same_state(results[0][1], results[1][1])


def test_sparse_gradients_of_an_embedding_and_a_dense_layer() -> None:
    embedding, layer = torch.nn.Embedding(50, 4, sparse=True), torch.nn.Linear(4, 2)
    start = [p.detach().clone() for p in (*embedding.parameters(), *layer.parameters())]
    results = []
    for optimizer_class in CASES["Adagrad"].classes:
        params = [*embedding.parameters(), *layer.parameters()]
        for param, value in zip(params, start, strict=True):
            param.data = value.clone()
        optimizer = optimizer_class(params, lr=0.1)
        for step in range(5):
            optimizer.zero_grad()
            words = torch.arange(6) * (step + 3) % 50
            layer(embedding(words)).square().sum().backward()
            optimizer.step()
        results.append([param.detach().clone() for param in params])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@each_optimizer
@pytest.mark.filterwarnings("error")
def test_differentiable(name: str) -> None:
    """The derivative of a loss after a step by the start, the gradient and a tensor lr."""
    results = []
    for optimizer_class in CASES[name].classes:
        leaves = [*parameters(torch.float64, [(7,), (7,)]), torch.tensor(0.1, dtype=torch.float64)]
        start, grad, lr = leaves
        lr.requires_grad_()
        param = start.clone()
        options = FULL[name] | ({"lr": lr} if name == "SGD" else {})
        optimizer = optimizer_class([param], **options, differentiable=True)
        param.grad = grad * 2
        optimizer.step()
        (param**2).sum().backward()
        results.append([param.detach(), start.grad, grad.grad, lr.grad])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    assert results[0][2].any()
    assert (results[0][3] is not None) == (name == "SGD")


@each_optimizer
def test_a_gradient_of_another_type(name: str) -> None:
    """A plain parameter whose gradient is a subclass: torch's step, and its result."""
    results = []
    for optimizer_class in CASES[name].classes:
        param = parameters(shapes=[(5, 7)])[0]
        optimizer = optimizer_class([param], **FULL[name])
        for step in range(3):
            set_gradients([param], seed=step)
            assert param.grad is not None
            param.grad = param.grad.as_subclass(Subclass)
            optimizer.step()
        results.append(param.detach())
    assert torch.equal(results[0], results[1])


@each_optimizer
def test_torchs_step_keeps_the_callers_way_with_denormals(name: str) -> None:
    """The kernels keep denormals whatever the caller's mode; torch's code goes by that mode."""
    results = []
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        for optimizer_class in CASES[name].classes:
            param = complex64()
            optimizer = optimizer_class([param], **FULL[name] | {"lr": 1e-3})
            param.grad = torch.full((5, 7), 1e-37 + 1e-37j)
            optimizer.step()
            results.append(list(optimizer.state[param].values()))
    finally:
        torch.set_flush_denormal(False)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@each_optimizer
def test_states_of_another_dtype(name: str) -> None:
    """float64 states of a float32 parameter: torch's step decides what becomes of them."""
    results: list[Any] = []
    for optimizer_class in CASES[name].classes:
        param = parameters(shapes=[(5, 7)])[0]
        optimizer = optimizer_class([param], **FULL[name])
        param.grad = torch.zeros(5, 7)
        optimizer.step()
        state = optimizer.state[param]
        for key in CASES[name].states:
            state[key] = state[key].double()
        set_gradients([param], seed=1)
        try:
            optimizer.step()
            results.append(param.detach())
        except RuntimeError as error:
            results.append(str(error))
    assert type(results[0]) is type(results[1])
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert torch.equal(results[0], results[1])


@pytest.mark.filterwarnings("ignore:.*no parameter takes")
@pytest.mark.parametrize(("name", "key"), [("Adam", "step"), ("NAdam", "mu_product")])
def test_a_count_between_the_multiples_of_its_size(name: str, key: str) -> None:
    results = []
    for optimizer_class in EVERY[name].classes:
        param = parameters(shapes=[(5, 7)])[0]
        optimizer = optimizer_class([param])
        for step in range(3):
            set_gradients([param], seed=step)
            optimizer.step()
            count = torch.frombuffer(bytearray(8), dtype=torch.float32, offset=1, count=1)[0]
            optimizer.state[param][key] = count.copy_(optimizer.state[param][key])
        if isinstance(optimizer, Reports):
            assert "at a multiple of its size" in optimizer.fused_report()[0].reason
        results.append((param.detach(), optimizer.state[param][key]))
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][0], results[1][0])


def every_dtype() -> list[torch.dtype]:
    """Those of which torch can make a tensor."""
    dtypes = {it for it in vars(torch).values() if isinstance(it, torch.dtype)}
    made = []
    for dtype in sorted(dtypes, key=str):
        with contextlib.suppress(RuntimeError, NotImplementedError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.empty(4, dtype=dtype)
            made.append(dtype)
    return made


OTHER_DTYPES = [it for it in every_dtype() if it not in (*DTYPES, *STORED)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["parameter", "gradient", "state", "step"])
@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=option_id)
def test_every_dtype_of_torch(dtype: torch.dtype, where: str) -> None:
    """It does not crash: the step is torch's, or raises what torch's would, and writes nothing."""
    # DLPack tells integers of fewer bits as those of 8.
    is_code = where == "state" and re.fullmatch(r"torch\.u?int[1-8]", str(dtype))
    results: list[Any] = []
    for optimizer_class in CASES["Adam"].classes:
        plain, param = parameters(shapes=[(4,), (4,)])
        odd = torch.empty(4 if where != "step" else (), dtype=dtype)
        odd.untyped_storage().fill_(0)
        if where == "parameter":
            param = torch.nn.Parameter(odd, requires_grad=False)
            param.grad_dtype = torch.float32
        optimizer = optimizer_class([plain, param])
        plain.grad, param.grad = torch.ones(4), torch.ones(4)
        if where == "parameter":
            pass
        elif where == "gradient":
            param.grad_dtype = None  # so that torch takes any
            param.grad = odd
        else:
            optimizer.step()
            optimizer.state[param]["exp_avg" if where == "state" else "step"] = odd
        before = plain.detach().clone()
        if is_code:
            with pytest.raises(KeyError, match="exp_avg_scale"):
                optimizer.step()
            return
        if isinstance(optimizer, Reports):
            assert [it.path for it in optimizer.fused_report()] == ["fastopt", "torch"]
        try:
            optimizer.step()
            results.append(None)
        except Exception as error:
            results.append((type(error), str(error)))
            assert optimizer_class is CASES["Adam"].torchs or torch.equal(plain, before)
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=option_id)
@pytest.mark.filterwarnings("ignore")
def test_every_dtype_of_torch_in_the_kernels(dtype: torch.dtype) -> None:
    ones, odd = torch.ones(4), torch.empty(4, dtype=dtype)
    calls: list[Callable[[], Any]] = [
        lambda: kernels.sgd_(odd, ones),
        lambda: kernels.sgd_(ones, odd),
        lambda: kernels.adam_(ones, torch.ones(4), odd, torch.ones(4)),
        lambda: kernels.dropout(odd, 0.5, seed=1),
        lambda: kernels.dropout(ones, 0.5, seed=1, out=odd),
        lambda: kernels.dropout(ones, 0.5, seed=1, mask=odd),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=r"expected|qscheme"):
            call()
    assert torch.equal(ones, torch.ones(4))


# ---- a model whose dtype changes ----------------------------------------------------------------

STORAGES: list[Options] = [
    {},
    {"state_dtype": "int8"},
    {"state_dtype": torch.bfloat16},
    {"master_weights": True},
    {"stochastic_rounding": True},
    {"state_dtype": "int8", "master_weights": True},
    {"ema_decay": 0.5},
]


@pytest.mark.filterwarnings("ignore:.*no parameter takes")
@pytest.mark.parametrize("options", STORAGES, ids=option_id)
@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_dtype_that_changes(name: str, options: Options) -> None:
    """States stay what they were: the step goes on with them, or is refused and writes nothing."""
    has_codes = name not in ("Adagrad", "LAMB")
    known = inspect.signature(EVERY[name].ours).parameters.keys() >= options.keys()
    if not known or (options.get("state_dtype") == "int8" and not has_codes):
        pytest.skip("it has no such option")
    for before, after in itertools.permutations([*DTYPES, *STORED], 2):
        change_dtype(name, options, before, after)


def change_dtype(name: str, options: Options, before: torch.dtype, after: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(96, 64, bias=False)
    torch.nn.init.uniform_(model.weight, -1, 1, generator=generator)
    model.to(before)
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = EVERY[name].ours(model.parameters(), lr=1e-3, **momentum, **options)
    for _ in range(3):
        model.weight.grad = torch.randn(64, 96, generator=generator).to(before)
        optimizer.step()
    model.to(after)
    was = model.weight.detach().clone()
    model.weight.grad = torch.randn(64, 96, generator=generator).to(after)
    refusal = None
    try:
        optimizer.step()
    except (ValueError, RuntimeError) as error:
        refusal = error
    if refusal is not None:
        assert torch.float64 in (before, after)
        # torch's own refusal comes after AdamW's decay.
        assert isinstance(refusal, RuntimeError) or torch.equal(model.weight, was)
        return
    moved = (model.weight.detach() - was).abs().double()
    assert 0 < moved.max() < 0.1, moved.max()


# ---- hooks --------------------------------------------------------------------------------------

# torch adds the hooks to a class when the first of its objects is built.
HOOKS = """
import torch, fastopt

def build(module, name):
    return getattr(module, name)([torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))])

def count_hooks(optimizer):
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    param = optimizer.param_groups[0]["params"][0]
    for step in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    assert calls == ["pre", "post"] * 2, calls
    steps = optimizer.state[param].get("step", 2)  # SGD counts none
    assert steps == 2, steps

def check(order):
    names = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
    for name in reversed(names) if order == "torch's first, in reverse" else names:
        if order.startswith("torch's first"):
            build(torch.optim, name).step()
        optimizer = build(fastopt.optim, name)
        if order == "fastopt's first":
            build(torch.optim, name).step()
        count_hooks(optimizer)
        count_hooks(build(fastopt.optim, name))
"""
ORDERS = ["fastopt's alone", "fastopt's first", "torch's first", "torch's first, in reverse"]


@pytest.fixture(scope="module")
def hook_failures() -> dict[str, str]:
    return failures_in_fresh_processes(HOOKS, ORDERS)


@pytest.mark.parametrize("order", ORDERS)
def test_hooks_run_once_on_torchs_path(order: str, hook_failures: dict[str, str]) -> None:
    assert hook_failures.get(order) is None


# ---- mappings that are no plain dicts -----------------------------------------------------------


class Doubled(dict[str, Any]):
    """A dict that reads its rate in a way of its own."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value * 2 if key == "lr" else value


MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "UserDict": collections.UserDict,
    "OrderedDict": collections.OrderedDict,
    "ChainMap": lambda it: collections.ChainMap({}, it),
    "a dict's own way": Doubled,
}


@each_optimizer
@pytest.mark.parametrize("kind", MAPPINGS)
@pytest.mark.parametrize("place", ["groups", "entries", "state"])
def test_groups_and_states_are_read_as_torch_reads_them(name: str, kind: str, place: str) -> None:
    made = MAPPINGS[kind]
    params, plain_params = parameters(), parameters()
    optimizer, plain = (CASES[name].ours(it, **FULL[name]) for it in (params, plain_params))
    for step in range(3):
        if step == 1 and place == "groups":
            optimizer.param_groups = [made(group) for group in optimizer.param_groups]
            if kind == "a dict's own way":
                plain.param_groups[0]["lr"] *= 2
        elif step == 1 and place == "entries":
            for param in params:
                optimizer.state[param] = made(optimizer.state[param])
        elif step == 1:
            optimizer.state = made(optimizer.state)
        for it in (params, plain_params):
            set_gradients(it, seed=step)
            if step == 0:
                it[-1].grad = None  # whose state is made later
        plain.step()
        assert not any(it.reason for it in optimizer.fused_report())
        optimizer.step()
        for mine, theirs in zip(params, plain_params, strict=True):
            assert_same_bits(mine, theirs)
    for mine, theirs in zip(params, plain_params, strict=True):
        assert optimizer.state[mine].keys() == plain.state[theirs].keys()


@each_optimizer
@pytest.mark.parametrize("wrong", [None, 7, [1], "text"], ids=str)
def test_a_state_or_group_that_is_no_mapping_is_refused(name: str, wrong: Any) -> None:
    params = parameters()
    optimizer: Any = CASES[name].ours(params, **FULL[name])
    for place in ("entry", "group"):
        set_gradients(params, seed=0)
        optimizer.step()
        before = [param.detach().clone() for param in params]
        kept = optimizer.state[params[-1]], optimizer.param_groups
        if place == "entry":
            optimizer.state[params[-1]] = wrong
        else:
            optimizer.param_groups = [*optimizer.param_groups, wrong]
        with pytest.raises(TypeError, match=r"expected a dict or another mapping .* got"):
            optimizer.step()
        assert all(map(torch.equal, params, before))
        optimizer.state[params[-1]], optimizer.param_groups = kept


@each_optimizer
def test_a_step_under_another_default_device(name: str) -> None:
    """States are made beside their parameters, and step counts where torch has them."""
    options = {**FULL[name], "max_grad_norm": 1.0, "ema_decay": 0.9, "ema_bias_correction": True}
    for dtype, more in (
        (torch.float32, {}),
        (torch.bfloat16, {"stochastic_rounding": True}),
        (torch.bfloat16, {"master_weights": True}),
        (torch.float32, {} if name == "Adagrad" else {"state_dtype": "int8"}),
    ):
        runs = []
        for device in ("cpu", "meta"):
            params = parameters(dtype, [(64, 128), (5,)])
            if name == "RMSprop":
                options["centered"] = False
            optimizer = CASES[name].ours(params, **options, **more)
            for step in range(2):
                set_gradients(params, seed=step)
                with torch.device(device):
                    optimizer.step()
            assert {it.device.type for state in optimizer.state.values() for it in state.values()} == {
                "cpu"
            }
            runs.append(params)
        for mine, theirs in zip(*runs, strict=True):
            assert_same_bits(mine, theirs)


@each_optimizer
@pytest.mark.parametrize("options", [{"ema_decay": 0.9}, {"state_dtype": "bfloat16"}], ids=str)
def test_a_refused_step_does_not_say_that_it_was_torchs(name: str, options: Options) -> None:
    """The error begins with what is wrong, and not with an option that is not."""
    params = [torch.nn.Parameter(torch.ones(5, dtype=torch.complex64))]
    if name == "Adagrad":
        params = [torch.nn.Parameter(torch.ones(5))]
        params[0].grad = torch.ones(5).to_sparse()
    else:
        params[0].grad = torch.ones_like(params[0])
    optimizer = CASES[name].ours(params, lr=0.1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"^a parameter of shape \(5,\) needs torch's step \("):
            optimizer.step()
