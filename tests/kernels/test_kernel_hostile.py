"""A kernel among Python code that takes away what it works on: objects that act when they are asked for
an array or a number, and other threads."""

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from _kernel_cases import STATES, USING_ALL_STATES, kernel
from fastopt import _C, kernels

SIZES = [64, 1 << 17]  # under the GIL, and without it


class Acts:
    """An array or a number that does something when it is asked for."""

    def __init__(self, value: Any, act: Callable[[], object]) -> None:
        self.value, self.act = value, act

    def __dlpack__(self, **options: Any) -> object:
        self.act()
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __float__(self) -> float:
        self.act()
        return float(self.value)

    def __index__(self) -> int:
        self.act()
        return int(self.value)


def free(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def replace(tensor: Tensor) -> None:
    tensor.data = tensor.clone()


def shrink(tensor: Tensor) -> None:
    tensor.data = torch.zeros(3, dtype=tensor.dtype)


Call = Callable[[dict[str, Any]], object]


def calls(size: int) -> dict[str, tuple[Call, dict[str, Any]]]:
    """Every kernel, with its arrays and numbers."""
    ones = lambda: torch.ones(size)  # noqa: E731
    all_calls: dict[str, tuple[Call, dict[str, Any]]] = {}
    for name, states in STATES.items():
        names = ["param", "grad", *states]
        arrays: dict[str, Any] = {key: ones() for key in names} | {"step": 2, "lr": 0.5}

        def one(given: dict[str, Any], name: str = name) -> None:
            kernel(name)(**given, **USING_ALL_STATES[name])

        def listed(given: dict[str, Any], name: str = name, names: list[str] = names) -> None:
            lists = {key: [ones(), given[key]] for key in names}
            steps = [2, given["step"]]
            kernel(name)(**lists, step=steps, lr=given["lr"], **USING_ALL_STATES[name])

        all_calls[name] = (one, arrays)
        all_calls[f"{name} of lists"] = (listed, {**arrays, "param": ones()})
    draws = {"p": 0.5, "seed": 1, "offset": 2, "index": 3}
    bits = torch.full(((size + 7) // 8,), 255, dtype=torch.uint8)
    dropout = {"x": ones(), "out": ones(), **draws}
    all_calls["dropout"] = (lambda it: kernels.dropout(**it), {**dropout, "mask": bits})
    all_calls["alpha_dropout"] = (lambda it: kernels.alpha_dropout(**it), dict(dropout))
    all_calls["dropout_rows"] = (lambda it: kernels.dropout_rows(**it), {**dropout, "inner": 4})
    biased = {**dropout, "bias": ones(), "residual": ones()}
    all_calls["bias_dropout_add"] = (lambda it: kernels.bias_dropout_add(**it), biased)
    mask = {"shape": size, "out": torch.ones(size, dtype=torch.bool), **draws}
    all_calls["dropout_mask"] = (lambda it: kernels.dropout_mask(**it), mask)
    return all_calls


@pytest.mark.parametrize(("act", "size"), [(free, 64), (replace, 64), (shrink, 64), (replace, 1 << 17)])
@pytest.mark.parametrize("name", calls(1))
def test_an_argument_that_acts(name: str, size: int, act: Callable[[Tensor], None]) -> None:
    """Memory that is gone is refused, unless the array is read only then."""
    examples = calls(1)[name][1]
    for key in examples.keys() - {"shape"}:
        for victim in [it for it, value in examples.items() if isinstance(value, Tensor) and it != key]:
            call, given = calls(size)[name]
            plain = {
                it: value.clone() if isinstance(value, Tensor) else value for it, value in given.items()
            }
            tensor = given[victim]
            given[key] = Acts(given[key], lambda tensor=tensor: act(tensor))
            try:
                call(given)
            except (ValueError, TypeError) as error:
                assert re.search("expected .*, got", str(error))  # noqa: PT017  or it is right
            else:
                assert act is replace  # before the array was read
                call(plain)
                assert torch.equal(tensor, plain[victim]), (key, victim)


@pytest.mark.parametrize("act", [free, shrink])
@pytest.mark.parametrize("size", SIZES)
def test_vectors_that_act(size: int, act: Callable[[Tensor], None]) -> None:
    for place in range(1, 4):
        a, b, c = (torch.ones(size) for _ in range(3))
        pieces: list[Any] = [a, b, c]
        pieces[place - 1] = Acts(
            torch.ones(size), lambda a=a, b=b, p=pieces: (act(a), act(b), p.clear())
        )
        out = torch.ones(3 * size)
        with pytest.raises((ValueError, TypeError), match="expected"):
            _C.gather(pieces, pieces, out, None, 2)
        assert torch.all(out == 1)
        s, y = torch.ones(size), torch.ones(size)
        curvature, direction = _C.Curvature(), torch.ones(size)
        curvature.restore([s], [y], 2)
        steps: list[Any] = [s]
        grad = Acts(torch.ones(size), lambda s=s, steps=steps: (act(s), steps.clear()))
        with pytest.raises((ValueError, TypeError), match="expected"):
            curvature.direction(grad, steps, [y], direction, 2)
        assert torch.all(direction == 1)


@pytest.mark.parametrize("size", [64, 1 << 20])
def test_another_thread_replaces_the_data(size: int) -> None:
    param, grad, out = (torch.ones(size) for _ in range(3))
    done = False

    def replace_all() -> None:
        while not done:
            for tensor in (param, grad, out):
                tensor.data = torch.ones(size)

    thread = threading.Thread(target=replace_all)
    thread.start()
    try:
        for i in range(60):
            kernels.sgd_(param, grad, lr=1e-3)
            kernels.dropout(param, 0.5, seed=i, out=out)
            _C.gather([grad], [param], out, None, 2)
    finally:
        done = True
        thread.join()
    for tensor in (param, grad, out):
        assert tensor.isfinite().all()


def test_threads_at_one_curvature() -> None:
    """All but one are told so, and nothing is torn."""
    size = 1 << 19
    s, y = np.ones(size, np.float32), np.ones(size, np.float32)
    curvature = _C.Curvature()
    curvature.restore([s], [y], 1)
    grad, other = np.ones(size, np.float32), np.zeros(size, np.float32)
    results: list[object] = []

    def work() -> None:
        for _ in range(10):
            made = [np.empty(size, np.float32) for _ in range(2)]
            try:
                results.append(curvature.observe(grad, other, grad, 1.0, *made, [s], [y], 1))
            except RuntimeError as error:
                results.append("another thread is at work" in str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (size, size) in results
    assert all(it in ((size, size), True) for it in results)
