"""Dropout's random numbers are random: rates, independence, expectations.

Each test computes a statistic whose distribution is known if the draws are independent and uniform,
and bounds its two-sided p-value by SIGNIFICANCE. Seeds are fixed, so a test passes always or never.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fastopt import kernels

SIGNIFICANCE = 1e-6
COUNT = 1 << 20
RATES = [0.1, 0.25, 0.5, 0.9, 0.001]

Floats = npt.NDArray[np.float64]


def keep_rate(p: float) -> float:
    """q, the rate in effect."""
    return round((1 - p) * 65536) / 65536


def standard(p: float, **where: int) -> Floats:
    """The mask of COUNT elements, with mean 0 and variance 1."""
    q = keep_rate(p)
    mask = kernels.dropout_mask(COUNT, p, **{"seed": 2024, **where})
    return (mask - q) / math.sqrt(q * (1 - q))


def assert_normal(z: float, about: object = "", tests: int = 1) -> None:
    """z is standard normal; so many were looked at (Bonferroni)."""
    assert math.erfc(abs(z) / math.sqrt(2)) > SIGNIFICANCE / tests, (about, z)


def assert_chi_square(statistic: float, freedom: int, about: object = "") -> None:
    """By Wilson and Hilferty's cube root, which is close for many degrees of freedom."""
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert_normal(z, about)


@pytest.mark.parametrize("p", RATES)
def test_the_rate_of_keeping(p: float) -> None:
    for seed in range(10):
        for offset in range(3):
            kept = standard(p, seed=seed, offset=offset)
            assert_normal(kept.sum() / math.sqrt(COUNT), (seed, offset), tests=30)


@pytest.mark.parametrize("p", RATES)
def test_the_rate_at_each_place_of_a_block(p: float) -> None:
    """The eight draws of a block, and the 64 lanes of a vector, are each as frequent."""
    for period in (8, 64):
        sums = standard(p).reshape(-1, period).sum(0) / math.sqrt(COUNT / period)
        assert_chi_square(float((sums**2).sum()), period, period)


@pytest.mark.parametrize("p", RATES)
def test_neighbours_are_independent(p: float) -> None:
    """Lags 1 to 64: within a block, a vector, and from one to the next."""
    m = standard(p)
    for lag in range(1, 65):
        z = float(m[:-lag] @ m[lag:]) / math.sqrt(COUNT - lag)
        assert_normal(z, lag, tests=64)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_lags_of_many_blocks_are_independent(p: float) -> None:
    m = standard(p)
    for power in range(7, 19):
        lag = 1 << power
        z = float(m[:-lag] @ m[lag:]) / math.sqrt(COUNT - lag)
        assert_normal(z, lag, tests=12)


def assert_all_independent(masks: list[Floats]) -> None:
    pairs = [(i, j) for i in range(len(masks)) for j in range(i)]
    for i, j in pairs:
        z = float(masks[i] @ masks[j]) / math.sqrt(COUNT)
        assert_normal(z, (i, j), tests=len(pairs))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_offsets_are_independent(p: float) -> None:
    offsets = [*range(8), 255, 256, 2**32 - 1, 2**32, 2**56 - 1]
    assert_all_independent([standard(p, offset=offset) for offset in offsets])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_seeds_are_independent(p: float) -> None:
    seeds = [*range(8), 2**31, 2**32 - 1, 2**32, 2**63, -1]
    assert_all_independent([standard(p, seed=seed) for seed in seeds])


def test_far_parts_are_independent() -> None:
    indices = [0, COUNT, 2**34, 2**35, 2**36, 2**62]
    assert_all_independent([standard(0.5, index=index) for index in indices])


def test_patterns_of_eight_are_equally_frequent() -> None:
    """The bytes of a packed mask at p = 1/2: a chi-square test with 255 degrees of freedom."""
    for seed in range(10):
        packed = kernels.dropout_mask(8 * COUNT, 0.5, seed=seed, packed=True)
        counts = np.bincount(packed, minlength=256)
        expected = COUNT / 256
        assert_chi_square(float(((counts - expected) ** 2 / expected).sum()), 255, seed)


def test_runs() -> None:
    """Wald and Wolfowitz: the number of runs of kept and of dropped elements."""
    for p in (0.1, 0.5):
        m = kernels.dropout_mask(COUNT, p, seed=9)
        kept = int(m.sum())
        dropped = COUNT - kept
        mean = 2 * kept * dropped / COUNT + 1
        variance = (mean - 1) * (mean - 2) / (COUNT - 1)
        runs = 1 + int(np.count_nonzero(m[1:] != m[:-1]))
        assert_normal((runs - mean) / math.sqrt(variance), p)


def test_gaps_between_kept_elements_are_geometric() -> None:
    q = keep_rate(0.9)
    gaps = np.diff(np.flatnonzero(kernels.dropout_mask(8 * COUNT, 0.9, seed=3)))
    cells = 60
    counts = np.bincount(np.minimum(gaps, cells), minlength=cells + 1)[1:]
    chance = q * (1 - q) ** np.arange(cells)
    chance[-1] = (1 - q) ** (cells - 1)
    expected = len(gaps) * chance
    assert_chi_square(float(((counts - expected) ** 2 / expected).sum()), cells - 1)


@pytest.mark.parametrize(
    ("dtype", "p"),
    [(torch.float32, p) for p in RATES] + [(torch.bfloat16, p) for p in RATES if p > 2**-8],
    ids=str,
)
def test_the_expectation_stays(dtype: Any, p: float) -> None:
    """E[y] = E[x]: the mean of y - x over many draws, in units of its standard deviation.

    In bfloat16 y is rounded by up to 2^-9 of itself, up as often as down over numbers of all sizes,
    far below the noise of dropping. (A scale rounded to bfloat16, 1.1094 for p = 0.1, would be seen.)
    For p below 2^-9, though, x / (1 - p) always rounds back to x: bfloat16 cannot hold the scale.
    """
    x = (1 + torch.rand(COUNT, generator=torch.Generator().manual_seed(7))).to(dtype)
    q = keep_rate(p)
    total, repeats = 0.0, 16
    for offset in range(repeats):
        y = kernels.dropout(x, p, seed=11, offset=offset)
        total += float((y.double() - x.double()).sum())
    variance = repeats * float((x.double() ** 2).sum()) * (1 - q) / q
    assert_normal(total / math.sqrt(variance), (dtype, p))


def test_the_expectation_of_rows_stays() -> None:
    x = np.ones((COUNT // 64, 64), np.float32)
    y = kernels.dropout_rows(x, 64, 0.3, seed=5)
    q = keep_rate(0.3)
    z = (float(y.mean()) - 1) / math.sqrt((1 - q) / q / len(x))
    assert_normal(z)
