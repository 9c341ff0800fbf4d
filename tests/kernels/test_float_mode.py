"""Kernels compute in the default floating-point mode, whatever the caller's, and leave the caller's.

A mode belongs to a thread: in the caller's mode, bits would depend on which thread got an element.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastopt
from _kernel_cases import make_arrays
from fastopt import kernels

SIZE = 1 << 17  # elements: more than one thread's worth


def assert_bits_in_this_mode(set_threads: Callable[[int], None], entering: Callable[[], None]) -> None:
    """Kernels give the reference's bits, tiny numbers included, after `entering` another mode."""
    small = np.finfo(np.float32).tiny
    before = make_arrays("adam", np.random.default_rng(0), SIZE, np.float32)
    before = {key: (array * small).astype(np.float32) for key, array in before.items()}
    assert 0 < np.abs(before["param"][:10]).min() < small
    options: dict[str, Any] = {"lr": float(small) / 3, "eps": 1e-3, "weight_decay": 0.1}
    expected = fastopt.reference.adam(**before, **options)
    results = []
    entering()
    for threads in (1, 2, 3):
        set_threads(threads)
        arrays = {key: array.copy() for key, array in before.items()}
        kernels.adam_(**arrays, **options)
        del arrays["grad"]
        results.append([array.tobytes() for array in arrays.values()])
        params = torch.nn.Parameter(torch.from_numpy(before["param"].copy()))
        params.grad = torch.from_numpy(before["grad"].copy())
        fastopt.optim.SGD([params], lr=0.1).step()
        results[-1].append(params.detach().numpy().tobytes())
    assert results[0][:-1] == [array.tobytes() for array in expected]
    assert results[0] == results[1] == results[2]


def test_flushing_denormals_changes_no_bit_and_comes_back(
    set_threads: Callable[[int], None],
) -> None:
    tiny, one = np.full(2, 1e-310), np.ones(2)

    def flushed() -> bool:
        return bool((tiny * one).view(np.uint64).max() == 0)

    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    torch.set_flush_denormal(False)
    try:
        assert_bits_in_this_mode(set_threads, lambda: torch.set_flush_denormal(True))
        assert flushed()
        with pytest.raises(ValueError, match=r"^lr"):
            kernels.sgd_(tiny, one, lr=-1)
        assert flushed()
        torch.set_flush_denormal(False)
        kernels.sgd_(tiny, one)
        assert not flushed()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the modes' numbers are x86's")
def test_another_rounding_changes_no_bit_and_comes_back(
    set_threads: Callable[[int], None],
) -> None:
    libm, nearest, upward = ctypes.CDLL(None), 0x000, 0x800
    try:
        assert_bits_in_this_mode(set_threads, lambda: libm.fesetround(upward))
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(nearest)
