"""fastopt.kernels.ema_: its reference's bits, what it averages, errors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from _kernel_cases import KINDS, Array, assert_same_bits, values
from fastopt import kernels, reference

STORED = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
each_type = pytest.mark.parametrize("dtype", STORED)


@each_type
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_bits(kind: str, dtype: Any, threads: int, target: str, set_threads: Any) -> None:
    set_threads(threads)
    for size in (0, 1, 15, 33, 1001, 70_001):
        rng = np.random.default_rng(size)
        average, value, corrected = (values(rng, size, dtype, kind) for _ in range(3))
        expected = reference.corrected_ema(average, value, decay=0.9, step=3)
        plain = average.copy()
        kernels.ema_(plain, value, decay=0.9)
        kernels.ema_(average, value, corrected, decay=0.9, step=3)
        assert_same_bits(average, expected[0])
        assert_same_bits(corrected, expected[1])
        assert_same_bits(plain, expected[0])


def test_an_average_of_the_same_is_that_once_it_is_corrected() -> None:
    average, corrected = np.zeros(5), np.empty(5)
    for step in range(1, 30):
        kernels.ema_(average, np.full(5, 3.0), corrected, decay=0.9, step=step)
        np.testing.assert_allclose(average, 3 * (1 - 0.9**step), rtol=1e-14)
        np.testing.assert_allclose(corrected, 3, rtol=1e-14)


def test_the_reference_of_optimizers_averages_is_the_same() -> None:
    average, value = np.arange(4.0), np.ones(4)
    both = reference.corrected_ema(average, value, decay=0.5, step=1)
    assert_same_bits(reference.ema(average, value, decay=0.5), both[0])


def test_lists() -> None:
    averages: list[Array] = [np.zeros(3), np.zeros(2)]
    kernels.ema_(averages, [np.ones(3), np.ones(2)], decay=0.75)
    assert [it.tolist() for it in averages] == [[0.25] * 3, [0.25] * 2]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"average": None}, TypeError, "average: expected an array or a list of arrays"),
        ({"average": [np.ones(3)]}, TypeError, "value: expected a list of arrays like average"),
        ({"value": np.ones(4)}, ValueError, r"value: expected shape \(3,\) like average"),
        ({"value": np.ones(3, int)}, TypeError, "value: expected float32, float64"),
        ({"corrected": np.ones(2)}, ValueError, r"corrected: expected shape \(3,\) like average"),
        ({"decay": 1.0}, ValueError, r"decay: expected a number in \[0, 1\), got 1.0"),
        ({"step": 0}, ValueError, "step: expected a whole number from 1"),
    ],
)
def test_errors(arguments: Any, kind: type[Exception], message: str) -> None:
    average = np.ones(3)
    given = {"average": average, "value": np.zeros(3), "decay": 0.5, **arguments}
    with pytest.raises(kind, match=message):
        kernels.ema_(**given)
    assert average.tolist() == [1, 1, 1]
