"""fastopt.optim.LBFGS: the reference's iterates to the bit, torch's and SciPy's minima, its state."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import fastopt
from _kernel_cases import Array, assert_same_bits
from fastopt import reference

Options = dict[str, Any]
Loss = Callable[[Tensor], Tensor]
SEARCHES = ("strong_wolfe", None)


# ---- functions of one vector ----------------------------------------------------------------------


def rosenbrock(x: Tensor) -> Tensor:
    """Moré, Garbow & Hillstrom 1981, number 1, in any even number of dimensions; least at ones."""
    even, odd = x[::2], x[1::2]
    return (100 * (odd - even**2) ** 2 + (1 - even) ** 2).sum()


def beale(x: Tensor) -> Tensor:
    """Number 5 there; least, 0, at (3, 1/2)."""
    return sum((c - x[0] * (1 - x[1] ** k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))  # type: ignore[return-value]


def logistic() -> tuple[Loss, int]:
    """Regression of ten classes on the digits, full batch, with an L2 penalty."""
    data = load_digits()
    images, labels = torch.tensor(data.data / 16), torch.tensor(data.target)
    pixels = images.shape[1]

    def loss(x: Tensor) -> Tensor:
        weights, biases = x[: 10 * pixels].view(10, pixels), x[10 * pixels :]
        scores = images.to(x.dtype) @ weights.T + biases
        return torch.nn.functional.cross_entropy(scores, labels) + 1e-3 * (x * x).sum()

    return loss, 10 * pixels + 10


PROBLEMS: dict[str, tuple[Loss, list[float]]] = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock in 60 dimensions": (rosenbrock, [-1.2, 1.0] * 30),
    "beale": (beale, [1.0, 1.0]),
    "logistic regression": (logistic()[0], [0.0] * logistic()[1]),
}


def with_gradient(loss: Loss, x: Array) -> tuple[float, Array]:
    """What the reference and SciPy call."""
    leaf = torch.tensor(x, requires_grad=True)
    value = loss(leaf)
    value.backward()
    return value.item(), leaf.grad.numpy()


def closure_of(optimizer: torch.optim.Optimizer, loss: Loss) -> Callable[[], Tensor]:
    params: list[Tensor] = optimizer.param_groups[0]["params"]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(torch.cat([param.view(-1) for param in params]))
        value.backward()
        return value

    return closure


def split(start: Any, dtype: torch.dtype = torch.float64, cut: int = 1) -> list[torch.nn.Parameter]:
    """Two parameters that together are the vector."""
    x = torch.tensor(start, dtype=dtype)
    return [torch.nn.Parameter(x[:cut].clone().view(1, -1)), torch.nn.Parameter(x[cut:].clone())]


def joined(params: list[torch.nn.Parameter]) -> Array:
    return torch.cat([param.detach().view(-1) for param in params]).numpy()


# ---- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterates_are_the_references(
    dtype: torch.dtype, problem: str, search: str | None, target: str
) -> None:
    loss, start = PROBLEMS[problem]
    options: Options = {"lr": 1.0 if search else 1e-2, "history_size": 3, "line_search_fn": search}
    params = split(start, dtype)
    optimizer = fastopt.optim.LBFGS(params, max_iter=4, **options)
    memory, x = reference.LBFGSMemory(), joined(params)
    for _ in range(6):
        optimizer.step(closure_of(optimizer, loss))
        x = reference.lbfgs(lambda x: with_gradient(loss, x), x, memory, max_iter=4, **options)
        assert_same_bits(joined(params), x)
        state = optimizer.state[params[0]]
        assert (state["n_iter"], state["func_evals"]) == (memory.iterations, memory.evaluations)
        for ours, theirs in (("old_stps", memory.steps), ("old_dirs", memory.changes)):
            assert [it.numpy().tobytes() for it in state[ours]] == [it.tobytes() for it in theirs]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_iterates_of_a_long_vector_are_the_references(
    threads: int, set_threads: Any, target: str
) -> None:
    """Long enough for threads; a gradient computed by NumPy is the same whoever asks."""
    set_threads(threads)
    rng = np.random.default_rng(0)
    curvature = rng.uniform(0.1, 10, 40_000).astype(np.float32)

    def function(x: Array) -> tuple[float, Array]:
        return float(np.sum(curvature * x * x, dtype=np.float64)) / 2, curvature * x

    params = split(rng.standard_normal(40_000), torch.float32, 17_001)
    optimizer = fastopt.optim.LBFGS(params, history_size=5, line_search_fn="strong_wolfe")
    x = joined(params)

    def closure() -> float:
        loss, grad = function(joined(params))
        for param, part in zip(params, np.split(grad, [17_001]), strict=True):
            param.grad = torch.from_numpy(part).view_as(param)
        return loss

    optimizer.step(closure)
    options: Options = {"history_size": 5, "line_search_fn": "strong_wolfe"}
    expected = reference.lbfgs(function, x, reference.LBFGSMemory(), **options)
    assert_same_bits(joined(params), expected)
    assert function(expected)[0] < 1e-3 * function(x)[0]


# ---- torch and SciPy ------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_agrees_with_torch(problem: str, search: str | None) -> None:
    """Ten iterations in float64: rounding in another order, and nothing else, is between the two."""
    loss, start = PROBLEMS[problem]
    ends = []
    for library in (torch, fastopt):
        params = split(start)
        options: Options = {"lr": 1.0 if search else 1e-2, "line_search_fn": search, "max_iter": 5}
        optimizer = library.optim.LBFGS(params, **options)
        first = [optimizer.step(closure_of(optimizer, loss)).item() for _ in range(2)]
        ends.append((joined(params), first, optimizer.state[params[0]]["func_evals"]))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ends[1][1], ends[0][1], rtol=1e-9)
    assert ends[1][2] == ends[0][2]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_agrees_with_scipy(problem: str) -> None:
    """The same minimum; the line searches differ, so the numbers of evaluations do a little."""
    loss, start = PROBLEMS[problem]
    params = split(start)
    optimizer = fastopt.optim.LBFGS(
        params,
        max_iter=500,
        history_size=10,
        tolerance_grad=1e-8,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure_of(optimizer, loss))
    theirs = scipy.optimize.minimize(
        lambda x: with_gradient(loss, x),
        np.array(start),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 10, "maxiter": 500, "gtol": 1e-8, "ftol": 0},
    )
    np.testing.assert_allclose(joined(params), theirs.x, rtol=1e-5, atol=1e-5)
    assert with_gradient(loss, joined(params))[0] == pytest.approx(theirs.fun, rel=1e-9, abs=1e-12)
    state = optimizer.state[params[0]]
    assert state["n_iter"] <= 1.5 * theirs.nit + 5
    assert state["func_evals"] <= 1.5 * theirs.nfev + 5


# ---- the state ------------------------------------------------------------------------------------


def run(optimizer: Any, loss: Loss, steps: int) -> Any:
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, loss))
    return optimizer


def saved(optimizer: torch.optim.Optimizer) -> Any:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("before", [torch, fastopt])
@pytest.mark.parametrize("after", [torch, fastopt])
def test_a_checkpoint_goes_on_with_either(before: Any, after: Any, search: str | None) -> None:
    options: Options = {
        "lr": 1.0 if search else 1e-2,
        "max_iter": 3,
        "history_size": 4,
        "line_search_fn": search,
    }
    start = [-1.2, 1.0] * 8
    first = split(start)
    optimizer = run(before.optim.LBFGS(first, **options), rosenbrock, 3)
    second = split(joined(first))
    other = after.optim.LBFGS(second, lr=7.0)
    other.load_state_dict(saved(optimizer))
    assert other.state[second[0]].keys() - {"al"} == optimizer.state[first[0]].keys() - {"al"}
    run(optimizer, rosenbrock, 2)
    run(other, rosenbrock, 2)
    if before is after:
        assert_same_bits(joined(second), joined(first))
    np.testing.assert_allclose(joined(second), joined(first), rtol=1e-9)


def test_a_loaded_state_is_not_shared() -> None:
    """Ours writes over pairs; torch does not."""
    params = split([-1.2, 1.0] * 8)
    optimizer = run(fastopt.optim.LBFGS(params, max_iter=3, history_size=2), rosenbrock, 2)
    others = split(joined(params))
    other = fastopt.optim.LBFGS(others, history_size=2)
    other.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    run(other, rosenbrock, 3)
    after = optimizer.state_dict()["state"][0]
    for key in ("old_dirs", "old_stps"):
        assert all(map(torch.equal, before["state"][0][key], after[key]))
    for key in ("d", "prev_flat_grad"):
        assert torch.equal(before["state"][0][key], after[key])


def test_a_copy_goes_on_with_the_same_bits() -> None:
    params = split([-1.2, 1.0] * 8)
    optimizer = run(fastopt.optim.LBFGS(params, lr=1e-2, max_iter=3), rosenbrock, 2)
    other = copy.deepcopy(optimizer)
    run(optimizer, rosenbrock, 2)
    run(other, rosenbrock, 2)
    assert_same_bits(joined(other.param_groups[0]["params"]), joined(params))


def test_memory_is_used_again() -> None:
    params = split([-1.2, 1.0] * 8)
    optimizer = run(fastopt.optim.LBFGS(params, lr=1e-3, max_iter=4, history_size=3), rosenbrock, 3)
    state = optimizer.state[params[0]]

    def addresses() -> set[int]:
        vectors = [*state["old_dirs"], *state["old_stps"], state["d"], state["prev_flat_grad"]]
        return {it.data_ptr() for it in [*vectors, *optimizer._memory.unused]}

    before = addresses()
    run(optimizer, rosenbrock, 5)
    assert addresses() == before


def test_an_exception_in_the_closure_leaves_a_state_to_go_on_from() -> None:
    params = split([-1.2, 1.0] * 8)
    optimizer = fastopt.optim.LBFGS(params, line_search_fn="strong_wolfe", history_size=3)
    calls = itertools.count()
    good = closure_of(optimizer, rosenbrock)

    def failing() -> Tensor:
        if next(calls) == 7:
            raise KeyError("once")
        return good()

    with pytest.raises(KeyError, match="once"):
        optimizer.step(failing)
    run(optimizer, rosenbrock, 8)
    np.testing.assert_allclose(joined(params), 1, rtol=1e-4)


# ---- what goes in ---------------------------------------------------------------------------------


def quadratic(params: list[Tensor], optimizer: Any) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(((param.real - 3) ** 2).sum() for param in params)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize(
    "params",
    [
        [torch.ones(3, dtype=torch.bfloat16)],
        [torch.ones(3), torch.ones(2, dtype=torch.float64)],
        [torch.ones(3, dtype=torch.complex64)],
        [torch.ones(3, 2).T],
    ],
    ids=["bfloat16", "two types", "complex", "transposed"],
)
def test_what_the_kernels_do_not_take_goes_to_torch(params: list[Tensor]) -> None:
    outcomes = []
    for library in (torch, fastopt):
        copies = [param.clone().requires_grad_() for param in params]
        optimizer = library.optim.LBFGS(copies, lr=0.1, max_iter=3)
        try:
            for _ in range(2):
                optimizer.step(quadratic(copies, optimizer))
            outcomes.append(copies)
        except RuntimeError as error:  # torch views a gradient that cannot be viewed
            outcomes.append([str(error)])
    assert str(outcomes[0]) == str(outcomes[1])


@pytest.mark.parametrize("search", SEARCHES)
def test_a_step_that_maximizes_is_torchs(search: str | None) -> None:
    """Of torch 2.15 and later, which climbs; older ones know no such option and descend."""
    climbs = "maximize" in inspect.signature(torch.optim.LBFGS).parameters
    ends = []
    for library in (torch, fastopt):
        params = split([1.0, 2.0])
        optimizer = library.optim.LBFGS(params, lr=0.1, max_iter=3, line_search_fn=search)
        hill = closure_of(optimizer, lambda x: -((x - 3) ** 2).sum())
        optimizer.step(hill)  # by the kernels, down
        optimizer.param_groups[0]["maximize"] = True
        before = hill().item()
        optimizer.step(hill)
        assert (hill().item() > before) == climbs
        ends.append(joined(params))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-9)
    assert "minimize, and the group has maximize set" in str(optimizer.fused_report())


def test_without_parameters_a_step_is_torchs() -> None:
    outcomes = []
    for library in (torch, fastopt):
        optimizer = library.optim.LBFGS([{"params": []}])
        try:
            outcomes.append(str(optimizer.step(lambda: torch.tensor(2.5))))
        except IndexError as error:  # of torch before 2.15
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_sparse_and_missing_gradients() -> None:
    """As dense ones, and as zeros."""
    ends = []
    for library in (torch, fastopt):
        table = torch.nn.Embedding(5, 3, sparse=True)
        with torch.no_grad():
            table.weight.fill_(1.0)
        unused = torch.nn.Parameter(torch.ones(4))
        optimizer = library.optim.LBFGS([table.weight, unused], lr=0.1, max_iter=4)

        def closure(table: Any = table, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = ((table(torch.tensor([0, 2, 2])) - 3) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        ends.append(table.weight.detach().clone())
        assert torch.equal(unused, torch.ones(4))
    torch.testing.assert_close(ends[1], ends[0])


def test_errors_are_torchs() -> None:
    params = split([1.0, 2.0])
    for library in (torch, fastopt):
        with pytest.raises(ValueError, match="Invalid learning rate: -1"):
            library.optim.LBFGS(params, lr=-1)
        with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
            library.optim.LBFGS([{"params": params[:1]}, {"params": params[1:]}])
        optimizer = library.optim.LBFGS(params, line_search_fn="armijo")
        with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
            optimizer.step(closure_of(optimizer, beale))
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'closure'"):
            optimizer.step()


def test_the_closure_and_its_surroundings() -> None:
    """Gradients are on in it, hooks run once a step, autograd hears of writes; rates as tensors."""
    params = split([-1.2, 1.0])
    optimizer = fastopt.optim.LBFGS(params, lr=torch.tensor(0.5), max_iter=2)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("before"))
    optimizer.register_step_post_hook(lambda *_: events.append("after"))
    versions = [param._version for param in params]
    good = closure_of(optimizer, rosenbrock)

    def closure() -> Tensor:
        events.append("closure")
        assert torch.is_grad_enabled()
        return good()

    with torch.no_grad():
        first = optimizer.step(closure)
    assert first.item() == pytest.approx(24.2)
    assert events == ["before", "closure", "closure", "after"]
    assert all(param._version > old for param, old in zip(params, versions, strict=True))


def test_a_gradient_within_tolerance_ends_it() -> None:
    params = split([1.0, 1.0])
    optimizer = fastopt.optim.LBFGS(params)
    assert optimizer.step(closure_of(optimizer, rosenbrock)).item() == 0
    assert optimizer.state[params[0]] == {"n_iter": 0, "func_evals": 1}


@pytest.mark.parametrize("search", SEARCHES)
def test_values_that_are_not_finite(search: str | None) -> None:
    """As with torch: they spread, and nothing hangs or raises."""
    for bad in (float("nan"), float("inf")):
        ends = []
        for library in (torch, fastopt):
            params = split([1.0, 2.0, 3.0])
            optimizer = library.optim.LBFGS(params, line_search_fn=search, max_iter=4)
            for _ in range(2):
                optimizer.step(closure_of(optimizer, lambda x, bad=bad: (x * x * bad).sum()))
            ends.append((joined(params), optimizer.state[params[0]]["func_evals"]))
        np.testing.assert_equal(np.isfinite(ends[1][0]), np.isfinite(ends[0][0]))
        assert ends[1][1] == ends[0][1]


# ---- hostile use ----------------------------------------------------------------------------------


def stepped_within_closures(optimizer_class: type[Any], search: str | None) -> Array:
    """The first evaluation of a step steps, too, and so do later ones."""
    params = split([-1.2, 1.0] * 3)
    optimizer = optimizer_class(params, lr=1e-3, max_iter=3, line_search_fn=search)
    plain, calls, inside = closure_of(optimizer, rosenbrock), 0, False

    def closure() -> Tensor:
        nonlocal calls, inside
        calls += 1
        if not inside and calls in (1, 4, 9):
            inside = True
            optimizer.step(closure)
            inside = False
        return plain()

    for _ in range(3):
        optimizer.step(closure)
    assert calls > 9
    return joined(params)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_step_within_its_own_closure(search: str | None) -> None:
    start = rosenbrock(torch.tensor([-1.2, 1.0] * 3))
    for optimizer_class in (torch.optim.LBFGS, fastopt.optim.LBFGS):
        assert rosenbrock(torch.tensor(stepped_within_closures(optimizer_class, search))) < start


def misaligned(values: Tensor) -> Tensor:
    memory = bytearray(values.numel() * values.element_size() + 1)
    tensor = torch.frombuffer(memory, dtype=values.dtype, offset=1, count=values.numel())
    return tensor.copy_(values)


def test_memory_between_the_multiples_of_its_size() -> None:
    """A parameter's step is torch's; a gradient is copied."""
    results = []
    for optimizer_class in (torch.optim.LBFGS, fastopt.optim.LBFGS):
        param = torch.nn.Parameter(misaligned(torch.zeros(6)))
        optimizer = optimizer_class([param], line_search_fn="strong_wolfe")
        optimizer.step(closure_of(optimizer, lambda x: (x - 1).square().sum()))
        results.append(param.detach())
    assert torch.equal(*results)
    params = [torch.nn.Parameter(torch.zeros(6)) for _ in range(2)]
    for param, change in zip(params, (misaligned, torch.clone), strict=True):
        optimizer = fastopt.optim.LBFGS([param], line_search_fn="strong_wolfe")

        def closure(param: Tensor = param, change: Callable[[Tensor], Tensor] = change) -> Tensor:
            param.grad = change(2 * (param.detach() - 1))
            return (param.detach() - 1).square().sum()

        optimizer.step(closure)
    assert torch.equal(*params)
    torch.testing.assert_close(params[0].detach(), torch.ones(6))
