"""The draws of random rounding: uniform, unbiased, and correlated only as far as is documented.

As in test_dropout_statistics.py, p-values are bounded and seeds are fixed.
"""

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from test_dropout_statistics import Floats, assert_chi_square, assert_normal

from fastopt.reference.rounding import rounding_draws
from fastopt.reference.storage import from_bfloat16, round_stochastic

BLOCKS = 1 << 20
PAIRS = list(itertools.combinations(range(16), 2))
SHARING = [(i, j) for i, j in PAIRS if i < 8 <= j and i // 2 == j // 2 - 4]
CORRELATION = 256 / 65537  # of two draws that share a byte


@functools.cache
def drawn(seed: int = 2024, offset: int = 1) -> npt.NDArray[np.uint16]:
    """The draws of all blocks, a row each."""
    return rounding_draws(16 * BLOCKS, seed=seed, offset=offset, index=0).reshape(BLOCKS, 16)


@functools.cache
def standard(seed: int = 2024, offset: int = 1) -> Floats:
    """They, with mean 0 and variance 1."""
    return (drawn(seed, offset) - 65535 / 2) / math.sqrt((2**32 - 1) / 12)


@pytest.mark.parametrize("place", range(16))
def test_a_draw_is_uniform(place: int) -> None:
    counts = np.bincount(drawn()[:, place], minlength=1 << 16)
    expected = BLOCKS / (1 << 16)
    assert_chi_square(float(((counts - expected) ** 2 / expected).sum()), 65535, place)


def test_draws_that_share_a_byte_have_the_documented_correlation() -> None:
    d = standard()
    measured = {(i, j): float(d[:, i] @ d[:, j]) / BLOCKS for i, j in PAIRS}
    for pair, correlation in measured.items():
        expected = CORRELATION if pair in SHARING else 0
        assert_normal((correlation - expected) * math.sqrt(BLOCKS), pair, tests=len(PAIRS))
    mean = sum(measured[pair] for pair in SHARING) / len(SHARING)
    assert_normal((mean - CORRELATION) * math.sqrt(BLOCKS * len(SHARING)))
    assert mean * math.sqrt(BLOCKS * len(SHARING)) > 10  # so it would be seen if it were not there


def test_the_upper_bytes_of_a_block_are_independent() -> None:
    """The upper four bits of any two draws: 256 pairs of equal chance."""
    upper = drawn().astype(np.int64) >> 12
    expected = BLOCKS / 256
    for i, j in PAIRS:
        counts = np.bincount(16 * upper[:, i] + upper[:, j], minlength=256)
        assert_chi_square(float(((counts - expected) ** 2 / expected).sum()), 255, (i, j))


def assert_no_correlation(a: Floats, b: Floats, about: object, tests: int) -> None:
    """Between any place of a's blocks and any of b's."""
    for z in (a.T @ b / math.sqrt(len(a))).reshape(-1).tolist():
        assert_normal(z, about, tests=256 * tests)


def test_blocks_are_independent() -> None:
    d = standard()
    lags = [*range(1, 9), 16, 256, 1 << 12, 1 << 16, 1 << 19]
    for lag in lags:
        assert_no_correlation(d[:-lag], d[lag:], lag, len(lags))


def test_seeds_and_offsets_are_independent() -> None:
    """The first seeds and steps, as a training takes them, and ones that differ in a single bit."""
    others = [(2024, 0), (2024, 2), (2024, 3), (2024, 2**40), (2025, 1), (2026, 1), (2024 ^ 2**63, 1)]
    for key in others:
        assert_no_correlation(standard(), standard.__wrapped__(*key), key, len(others))


def test_rounding_is_unbiased() -> None:
    """The mean error of numbers of all fractions, in units of its standard deviation.

    Draws that share a byte add at most 2 / 256 to the variance, far below what SIGNIFICANCE leaves.
    """
    bits = np.random.default_rng(1).integers(0x3F800000, 0x40000000, 16 * BLOCKS, np.uint32)
    x = bits.view(np.float32)
    error = from_bfloat16(round_stochastic(x, drawn().reshape(-1))).astype(np.float64) - x
    up = (bits & 0xFFFF) / 65536
    variance = float((up * (1 - up)).sum()) * 2.0**-14  # a bfloat16's last bit is 2^-7 here
    assert_normal(float(error.sum()) / math.sqrt(variance))


def test_the_most_that_two_elements_have_in_common() -> None:
    """The bound, 2^-10, is reached where one goes up for 128 of 65536 draws and the other for half."""
    numbers = drawn().astype(np.int64)
    for w in range(4):
        first, second = numbers[:, 2 * w], numbers[:, 8 + 2 * w]  # whose upper byte is first's lower
        both = int(((first + 128 >= 65536) & (second + 32768 >= 65536)).sum())
        covariance = 1 / 1024
        expected = BLOCKS * (128 / 65536 / 2 + covariance)
        assert_normal((both - expected) / math.sqrt(expected), w, tests=4)
