"""A step among Python code that takes away what it works on: other threads, objects that act when they
are asked for a number, and interrupts.

Run under AddressSanitizer by scripts/sanitize.sh, which sees what a lucky step would not.
"""

import gc
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from _in_threads import in_threads
from _optim_cases import complex64

SMALL, LARGE = (40, 64), (6, 1 << 17)  # so many tensors of so many elements: under the GIL and without
SIZES = pytest.mark.parametrize(("count", "size"), [SMALL, LARGE], ids=["small", "large"])


def ones(count: int, size: int) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.ones(size)) for _ in range(count)]
    for param in params:
        param.grad = torch.ones(size)
    return params


@pytest.fixture
def by_turns(switching: Callable[[float], None]) -> None:
    """Threads take turns as often as they can."""
    switching(1e-6)


# ---- other threads ------------------------------------------------------------------------------

Change = Callable[[Any, list[torch.nn.Parameter]], None]


def new_states(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    for param in params:
        optimizer.state[param]["exp_avg"] = torch.zeros_like(param)


def new_entries(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    for param in params:
        optimizer.state[param] = {key: it.clone() for key, it in optimizer.state[param].items()}


def new_data(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    for param in params:
        param.data = torch.ones_like(param)


def new_grads(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    for param in params:
        param.grad = torch.ones_like(param)
        param.grad.data = torch.ones_like(param)


def no_states(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    optimizer.state.clear()


@SIZES
@pytest.mark.parametrize(
    "change", [new_states, new_entries, new_data, new_grads, no_states], ids=lambda it: it.__name__
)
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.5}], ids=["", "tail"])
def test_another_thread_replaces(
    count: int, size: int, change: Change, options: dict[str, Any], by_turns: None
) -> None:
    params = ones(count, size)
    optimizer = fastopt.optim.Adam(params, **options)
    optimizer.step()
    done = False

    def work() -> None:
        nonlocal done
        try:
            for _ in range(40):
                optimizer.step()
        finally:
            done = True

    def replace() -> None:
        while not done:
            change(optimizer, params)

    in_threads(work, replace)
    for tensor in [*params, *(it for state in optimizer.state.values() for it in state.values())]:
        assert tensor.isfinite().all()


@SIZES
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam", "LAMB"])
def test_several_threads_step_one_optimizer(
    count: int, size: int, warm: bool, name: str, by_turns: None
) -> None:
    """As in Hogwild training; the first steps at once make states that others throw away."""
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    for _ in range(3):
        params = ones(count, size)
        optimizer = getattr(fastopt.optim, name)(params, lr=1e-3, **momentum)
        if warm:
            optimizer.step()

        def work(optimizer: Any = optimizer) -> None:
            for _ in range(4):
                optimizer.step()

        in_threads(*[work] * 3)
        for param in params:
            assert torch.all(param < 1)


# ---- objects that act ---------------------------------------------------------------------------


class Rate:
    """A learning rate that does something when it is first asked for."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def __float__(self) -> float:
        act, self.act = self.act, None
        if act is not None:
            act()
            gc.collect()
        return 1e-3


def clear_groups(optimizer: Any) -> None:
    optimizer.param_groups.clear()


def append_groups(optimizer: Any) -> None:
    optimizer.param_groups.extend([{**optimizer.param_groups[0], "params": []}] * 1000)


def clear_params(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        group["params"].clear()


def clear_states(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state.clear()
    optimizer.state.clear()


def replace_states(optimizer: Any) -> None:
    for param, state in list(optimizer.state.items()):
        optimizer.state[param] = {key: value.clone() for key, value in state.items()}


def replace_data(optimizer: Any) -> None:
    for param in list(optimizer.state):
        param.data = torch.ones_like(param)


def step_again(optimizer: Any) -> None:
    optimizer.step()


ACTS = [
    clear_groups,
    append_groups,
    clear_params,
    clear_states,
    replace_states,
    replace_data,
    step_again,
]


@SIZES
@pytest.mark.parametrize("act", ACTS, ids=lambda it: it.__name__)
def test_a_rate_that_acts(count: int, size: int, act: Callable[[Any], None]) -> None:
    params = ones(count, size)
    optimizer: Any = fastopt.optim.Adam([{"params": [param]} for param in params], lr=1e-3)
    optimizer.step()
    groups = list(optimizer.param_groups)
    groups[-2]["lr"] = Rate(lambda: act(optimizer))
    del params
    optimizer.step()
    assert groups[-2]["lr"].act is None


@pytest.mark.parametrize("key", ["param", "grad", "exp_avg", "step"])
def test_storage_that_was_freed(key: str) -> None:
    """torch's step would read and write there."""
    first, last = ones(2, 64)
    optimizer = fastopt.optim.Adam([first, last])
    optimizer.step()
    assert last.grad is not None
    tensors = {"param": last, "grad": last.grad, **optimizer.state[last]}
    tensors[key].untyped_storage().resize_(0)
    before = first.detach().clone()
    with pytest.raises(RuntimeError, match=r"shape torch\.Size\(\[.*\]\): expected .*was freed"):
        optimizer.step()
    assert torch.equal(first, before)
    assert ("step" if key == "step" else "freed") in optimizer.fused_report()[1].reason


# ---- interrupts ---------------------------------------------------------------------------------


class Interrupts:
    """Raises KeyboardInterrupt in the n-th line of Python that is run."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        torch.set_grad_enabled(True)  # it may have stopped no_grad's own way out

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.n -= 1
            if self.n == 0:
                raise KeyboardInterrupt
        return self.trace


def plain() -> Tensor:
    return torch.nn.Parameter(torch.ones(8, 8))


def with_gaps() -> Tensor:
    return torch.nn.Parameter(torch.ones(8, 12)[:, :8])


def snapshot(optimizer: Any) -> dict[str, Any]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    tensors = {f"param {i}": param for i, param in enumerate(params)}
    for i, param in enumerate(params):
        tensors |= {f"{key} {i}": it for key, it in optimizer.state.get(param, {}).items()}
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("steps", [0, 1])
def test_an_interrupt_leaves_no_step_half_made(steps: int) -> None:
    """At every line of Python within a step; what it makes is all there or not at all."""

    def build() -> Any:
        params = [plain(), with_gaps(), plain()]
        optimizer = fastopt.optim.Adam(params, max_grad_norm=1.0, ema_decay=0.5)
        for param in params:
            param.grad = torch.ones_like(param)
        for _ in range(steps):
            optimizer.step()
        return optimizer

    after = build()
    after.step()
    results = {"before": 0, "after": 0}
    for n in range(1, 5000):
        optimizer, before = build(), snapshot(build())
        try:
            with Interrupts(n):
                optimizer.step()
            break
        except KeyboardInterrupt:
            now = snapshot(optimizer)
            assert same(now, before) or same(now, snapshot(after)), f"line {n}"
            results["before" if same(now, before) else "after"] += 1
    assert min(results.values()) > 0


@pytest.mark.parametrize("scaled", [False, True])
def test_an_interrupt_of_torchs_step_leaves_the_groups(scaled: bool) -> None:
    first, last = plain(), complex64()
    optimizer: Any = fastopt.optim.Adam([{"params": [first]}, {"params": [last]}])
    first.grad, last.grad = torch.ones_like(first), torch.ones_like(last)
    optimizer.step()
    if scaled:
        optimizer.grad_scale = torch.tensor(2.0)
    groups, grad = optimizer.param_groups, last.grad
    members = [dict(group) for group in groups]
    for n in range(1, 1000):
        try:
            with Interrupts(n):
                optimizer.step()
            break
        except KeyboardInterrupt:
            assert optimizer.param_groups is groups
            assert [dict(group) for group in groups] == members
            assert last.grad is grad
            assert hasattr(optimizer, "grad_scale") == scaled
    assert n > 20


def test_a_signal_while_a_step_copies_back() -> None:
    """A real one, which Python looks at between two lines of its own."""
    param = torch.nn.Parameter(torch.ones(1200, 1203)[:, :1200])
    param.grad = torch.ones_like(param)
    optimizer = fastopt.optim.SGD([param], lr=0.5)

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(1, 30):
            was = param.detach().clone()
            try:
                signal.setitimer(signal.ITIMER_REAL, i * 1e-3)
                optimizer.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            now = param.detach()
            assert torch.equal(now, was) or torch.equal(now, was - 0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(True)  # it may have stopped no_grad's own way out
