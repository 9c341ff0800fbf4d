"""A step of fastopt.optim is the reference's, bit for bit: every option, dtype, group and thread.

What surrounds a step in a training loop is in test_optim_around.py.
"""

import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from _optim_cases import (
    DTYPES,
    EVERY,
    FULL,
    STORED,
    TORCH_OPTIONS,
    Mirror,
    Options,
    assert_same_bits,
    failures_in_fresh_processes,
    option_cases,
    option_id,
    parameters,
    set_gradients,
    step_and_check,
)

each_optimizer = pytest.mark.parametrize("name", EVERY)

# ---- equal to the reference ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, *STORED], ids=option_id)
@pytest.mark.parametrize(("name", "options"), list(option_cases()), ids=option_id)
def test_steps_equal_the_reference(
    name: str, options: Options, dtype: torch.dtype, backend: str
) -> None:
    optimizer = EVERY[name].ours(parameters(dtype), **options)
    mirror = Mirror(name, optimizer)
    for step in range(6):
        set_gradients(optimizer.param_groups[0]["params"], seed=step)
        step_and_check(mirror)


@each_optimizer
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_large_enough_for_threads_equals_the_reference(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    params = parameters(shapes=[(70_001,), (3,), (129, 513), (1,)])
    mirror = Mirror(name, EVERY[name].ours(params, **FULL[name]))
    torch.set_num_threads(threads)
    try:
        for step in range(2):
            set_gradients(params, seed=step)
            step_and_check(mirror)
    finally:
        torch.set_num_threads(before)


@each_optimizer
def test_groups_differ_in_options_and_dtypes(name: str, backend: str) -> None:
    """Also two dtypes within one group, and a group that is added between two steps."""
    first, second, third = TORCH_OPTIONS[name][1:4]
    optimizer = EVERY[name].ours(
        [
            {"params": parameters(torch.float64), **first},
            {"params": parameters(torch.float32) + parameters(torch.float64), **second},
        ],
        lr=0.1,
    )
    mirror = Mirror(name, optimizer)
    for step in range(6):
        if step == 2:
            optimizer.add_param_group({"params": parameters(torch.float32), **third, "lr": 0.5})
        for group in optimizer.param_groups:
            set_gradients(group["params"], seed=step)
        step_and_check(mirror)


@each_optimizer
def test_parameters_without_a_gradient_stay_and_join_late(name: str, backend: str) -> None:
    """The step counts then differ within a group, and with them torch's first momentum step."""
    params = parameters()
    optimizer = EVERY[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    optimizer.step()
    mirror.follow()
    for step in range(8):
        set_gradients(params, seed=step)
        params[0].requires_grad_(step not in (3, 4))  # frozen for two steps
        for index, param in enumerate(params):
            if index > step or not param.requires_grad:
                param.grad = None
        step_and_check(mirror)
    assert [mirror.steps[param] for param in params] == [6, 7, 6, 5, 4, 3]


@each_optimizer
def test_gradients_are_left_as_they_are(name: str) -> None:
    params = parameters()
    optimizer = EVERY[name].ours(params, **FULL[name], maximize=True)
    set_gradients(params, seed=0)
    grads = [(param.grad, param.grad.clone(), param.grad._version) for param in params]
    optimizer.step()
    for param, (grad, before, version) in zip(params, grads, strict=True):
        assert param.grad is grad
        assert torch.equal(grad, before)
        assert grad._version == version


@each_optimizer
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-42])
def test_special_values_equal_the_reference(name: str, value: float) -> None:
    """NaNs are compared by class: the reference and torch give them other bits."""
    params = parameters(shapes=[(35,)])
    mirror = Mirror(name, EVERY[name].ours(params, **FULL[name]))
    for step in range(3):
        set_gradients(params, seed=step)
        assert params[0].grad is not None
        params[0].grad[::3] = value
        mirror.follow()
        mirror.optimizer.step()
        expected = torch.from_numpy(mirror.params[params[0]])
        assert_same_bits(params[0].nan_to_num(77.0), expected.nan_to_num(77.0))


def test_two_threads_that_step_optimizers_of_one_class_do_not_mix_their_options() -> None:
    """A gradient in another layout sends the walk through Python, where threads take turns; with
    a change of dtype from one parameter to the next it reads the options again.
    """

    def train(lr: float) -> list[Tensor]:
        singles, doubles = (parameters(dtype, [(5, 7)] * 20) for dtype in DTYPES)
        params = [param for pair in zip(singles, doubles, strict=True) for param in pair]
        optimizer = fastopt.optim.AdamW(params, lr=lr)
        for step in range(10):
            set_gradients(params, seed=step)
            for param in params:
                assert param.grad is not None
                param.grad = param.grad.t().contiguous().t()
            optimizer.step()
        return [param.detach() for param in params]

    rates = [1e-4, 1e-1]
    expected = [train(lr) for lr in rates]
    actual: dict[int, list[Tensor]] = {}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda i=i, lr=lr: actual.update({i: train(lr)}))
            for i, lr in enumerate(rates)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for i, params in enumerate(expected):
        for ours, theirs in zip(actual[i], params, strict=True):
            assert_same_bits(ours, theirs, f"lr={rates[i]}")


def test_a_step_within_a_step_does_not_change_the_outer_ones_options() -> None:
    inner = fastopt.optim.Adam(parameters(), lr=7.0)
    set_gradients(inner.param_groups[0]["params"], seed=0)

    class Nested(fastopt.optim.Adam):
        def _new_state(self, group: Any, param: Tensor, name: str) -> Tensor:
            inner.step()
            return super()._new_state(group, param, name)

    params = parameters()
    mirror = Mirror("Adam", Nested(params, lr=0.1))
    set_gradients(params, seed=1)
    step_and_check(mirror)


def test_parameters_in_one_memory_are_stepped_one_after_the_other() -> None:
    """Weights tied by their data, large enough for threads: the second step adds to the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seed in range(5):
            first = parameters(shapes=[(400_000,)])[0]
            start = first.detach().clone()
            second = torch.nn.Parameter(first.data)
            optimizer = fastopt.optim.SGD([first, second], lr=1.0)
            set_gradients([first, second], seed=seed)
            assert first.grad is not None
            assert second.grad is not None
            optimizer.step()
            assert_same_bits(first, start - first.grad - second.grad)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["SGD", "Adam", "LAMB"])
def test_a_gradient_or_state_that_is_another_parameters_memory(name: str) -> None:
    """Large enough for threads, and as on one: the second parameter sees what the first has become."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            params = parameters(shapes=[(300_000,), (300_000,), (300_000,)])
            optimizer = EVERY[name].ours(params, lr=0.1)
            set_gradients(params, seed=0)
            params[1].grad = params[0].data
            if name != "SGD":
                optimizer.step()
                optimizer.state[params[2]]["exp_avg"] = optimizer.state[params[1]]["exp_avg"]
            optimizer.step()
            results.append([param.detach().clone() for param in params])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.filterwarnings("ignore:.*no parameter takes")
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("shift", [-1, 1, 20])
def test_a_gradient_that_overlaps_its_parameter(name: str, shift: int) -> None:
    """The step is torch's, which refuses it where its order would matter."""
    results: list[tuple[str, Tensor]] = []
    for optimizer_class in EVERY[name].classes:
        memory = torch.arange(1000.0)
        param = torch.nn.Parameter(memory[20:900])
        param.grad = memory[20 + shift : 900 + shift]
        optimizer = optimizer_class([param], lr=0.1)
        try:
            optimizer.step()
            results.append(("", memory))
        except RuntimeError as error:
            results.append((str(error), memory))
    assert results[0][0] == results[1][0]
    assert ("refer to a single memory location" in results[0][0]) == (name == "SGD")
    assert torch.equal(results[0][1], results[1][1])


def test_a_gradient_that_is_its_own_parameter() -> None:
    param = torch.nn.Parameter(torch.ones(1000))
    param.grad = param.data
    optimizer = fastopt.optim.SGD([param], lr=0.25)
    assert [it.path for it in optimizer.fused_report()] == ["fastopt"]
    optimizer.step()
    assert torch.all(param == 0.75)


# ---- groups that a user bent --------------------------------------------------------------------

BENT_GROUPS = {
    "a tuple of parameters": "optimizer.param_groups[0]['params'] = tuple(params)",
    "a view of dict keys": "optimizer.param_groups[0]['params'] = dict.fromkeys(params).keys()",
    "the same parameter twice": "optimizer.param_groups[0]['params'].append(params[0])",
}
ACROSS_GROUPS = "optimizer.add_param_group({'params': [torch.nn.Parameter(torch.ones(2000))]})\n"
ACROSS_GROUPS += "optimizer.param_groups[1]['params'].append(params[0])"
# In processes of their own, because what goes wrong here may be memory.
BENT = """
import torch, fastopt

def check(change):
    results = []
    for optimizer_class in (torch.optim.Adam, fastopt.optim.Adam):
        params = [torch.nn.Parameter(torch.arange(1.0, 2000.0)) for _ in range(3)]
        optimizer = optimizer_class(params, lr=0.1)
        exec(change)
        for step in range(4):
            for param in params:
                param.grad = param.detach().sin() + step
            optimizer.step()
        state = [optimizer.state[param]["exp_avg"] for param in params]
        results.append([param.detach() for param in params] + state)
    for theirs, ours in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
"""


@pytest.fixture(scope="module")
def bent_failures() -> dict[str, str]:
    return failures_in_fresh_processes(BENT, [*BENT_GROUPS.values(), ACROSS_GROUPS])


@pytest.mark.parametrize("change", BENT_GROUPS.values(), ids=BENT_GROUPS.keys())
def test_groups_that_torch_takes_are_taken(change: str, bent_failures: dict[str, str]) -> None:
    assert bent_failures.get(change) is None


def test_a_parameter_that_was_slipped_into_a_second_group(bent_failures: dict[str, str]) -> None:
    """torch refuses it where it is asked; where it is not, right or refused will do."""
    failure = bent_failures.get(ACROSS_GROUPS)
    assert failure is None or "ValueError: " in failure
