"""The passes over vectors that L-BFGS is made of: bits on every target and thread count, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from _kernel_cases import KINDS, Array, assert_same_bits, values
from fastopt import _C, reference
from fastopt.reference.tail import dot

DTYPES = (np.float32, np.float64)
# Around a vector, around the 32 lanes, around a chunk; the last is shared out among threads.
SIZES = (0, 1, 3, 7, 15, 16, 17, 31, 32, 33, 63, 65, 100, 4095, 4096, 4097, 8205, 40_003)
THREADS = (1, 2, 3)


def odd_start(array: Array) -> Array:
    """The same numbers, an odd number of elements into their memory."""
    memory = np.zeros(array.size + 3, array.dtype)
    memory[3:] = array
    return memory[3:]


def pairs_of(
    rng: np.random.Generator, count: int, size: int, dtype: Any
) -> tuple[list[Array], list[Array]]:
    """Steps, and the changes that a positive definite quadratic makes of them."""
    steps = [odd_start(values(rng, size, dtype)) for _ in range(count)]
    return steps, [odd_start(np.asarray(s * dtype(3) + dtype(0.25) * np.abs(s))) for s in steps]


def same_or_nan(actual: float, expected: float) -> bool:
    return np.float64(actual).tobytes() == np.float64(expected).tobytes() or (
        np.isnan(actual) and np.isnan(expected)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", THREADS)
def test_gathering_measures_what_it_gathers(threads: int, dtype: Any, kind: str, target: str) -> None:
    for size in SIZES:
        rng = np.random.default_rng(size)
        parts = np.split(values(rng, size, dtype, kind), [size // 3, size // 3 + 1])
        like = [odd_start(part) for part in parts]
        pieces: list[Array | None] = [like[0], None, like[2]]
        direction, out = values(rng, size, dtype, kind), np.full(size, 7, dtype)
        largest, total, product = _C.gather(pieces, like, out, direction, threads)
        whole = np.concatenate([like[0], np.zeros_like(like[1]), like[2]])
        assert_same_bits(out, whole)
        with np.errstate(all="ignore"):
            assert same_or_nan(largest, float(np.max(np.abs(whole), initial=0)))
            assert same_or_nan(total, dot(np.abs(whole), np.ones_like(whole)))
            assert same_or_nan(product, dot(whole, direction))
        assert _C.gather(pieces, like, out, None, threads)[2] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", THREADS)
def test_moving(threads: int, dtype: Any, kind: str, target: str) -> None:
    for size in (*SIZES, 70_001):
        rng = np.random.default_rng(size)
        begin, direction = (odd_start(values(rng, size, dtype, kind)) for _ in range(2))
        params = [odd_start(part) for part in np.split(values(rng, size, dtype), [size // 2])]
        for start in (begin, None):
            x = np.concatenate(params) if start is None else start
            with np.errstate(all="ignore"):
                expected = x + dtype(0.3) * direction
            _C.move(params, start, direction, 0.3, threads)
            assert_same_bits(np.concatenate(params), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_direction_has_the_references_bits(count: int, threads: int, dtype: Any, target: str) -> None:
    for size in SIZES[1:]:
        rng = np.random.default_rng([count, size])
        steps, changes = pairs_of(rng, count, size, dtype)
        grad, prev, old = (odd_start(values(rng, size, dtype)) for _ in range(3))
        step, change = np.full(size, 7, dtype), np.full(size, 7, dtype)
        curvature = _C.Curvature()
        curvature.restore(steps, changes, threads)
        products = curvature.observe(grad, prev, old, 0.7, step, change, steps, changes, threads)
        assert_same_bits(step, dtype(0.7) * old)
        assert_same_bits(change, grad - prev)
        assert products == (dot(step, change), dot(change, change))
        out = np.full(size, 7, dtype)
        for renewed in (False, True):  # then with the new pair in the oldest one's place
            slope, largest = curvature.direction(grad, steps, changes, out, threads)
            assert_same_bits(out, reference.lbfgs_direction(grad, steps, changes), size)
            assert (slope, largest) == (dot(out, grad), np.max(np.abs(out)))
            if not renewed:
                curvature.keep()
                steps, changes = [*steps, step][1:], [*changes, change][1:]
                curvature.drop_oldest()


def two_loops(grad: Array, steps: list[Array], changes: list[Array]) -> Array:
    """Algorithm 7.4 as it is printed."""
    q, alphas = -grad, []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        alphas.append((s @ q) / (s @ y))
        q = q - alphas[-1] * y
    r = q * ((steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1]))
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        r = r + (alpha - (y @ r) / (s @ y)) * s
    return r


@pytest.mark.parametrize("count", [1, 4, 20])
def test_products_do_what_the_recursion_on_vectors_does(count: int) -> None:
    rng = np.random.default_rng(count)
    factor = rng.standard_normal((50, 50))
    hessian = factor @ factor.T + np.eye(50)
    steps = [rng.standard_normal(50) for _ in range(count)]
    changes, grad = [hessian @ s for s in steps], rng.standard_normal(50)
    d = reference.lbfgs_direction(grad, steps, changes)
    np.testing.assert_allclose(d, two_loops(grad, steps, changes), rtol=1e-9, atol=1e-11)


def test_float32_is_summed_in_double() -> None:
    """So it comes closer to the direction of the same numbers in float64 than float32 sums could."""
    rng = np.random.default_rng(0)
    steps, changes = pairs_of(rng, 8, 100_000, np.float32)
    grad = values(rng, 100_000, np.float32)
    exact = two_loops(*(np.asarray(a, np.float64) for a in (grad, steps, changes)))  # type: ignore[arg-type]
    d = reference.lbfgs_direction(grad, steps, changes)
    assert np.abs(d - exact).max() <= np.spacing(np.float32(np.abs(exact).max()))


def test_a_newton_step_solves_a_quadratic() -> None:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((9, 9))
    hessian, x = factor @ factor.T + np.eye(9), rng.standard_normal(9)
    np.testing.assert_allclose(x + reference.newton_step(hessian @ x, hessian), 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"hessian must have shape \(N, N\).*not \(9, 8\) for \(9,\)"):
        reference.newton_step(x, hessian[:, :8])
    with pytest.raises(np.linalg.LinAlgError):
        reference.newton_step(x, np.zeros((9, 9)))


# ---- errors ---------------------------------------------------------------------------------------

a, b = np.ones(4, np.float32), np.ones(5, np.float32)
CALLS: dict[str, tuple[type[Exception], str, Any]] = {
    "size": (
        ValueError,
        "direction: expected 4 elements like the other vectors, got 5",
        lambda: _C.gather([a], [a], a.copy(), b, 1),
    ),
    "sum of sizes": (
        ValueError,
        "pieces: expected 5 elements together, got 4",
        lambda: _C.gather([a], [a], b.copy(), None, 1),
    ),
    "count": (
        ValueError,
        "pieces: expected as many as in like, 1, got 2",
        lambda: _C.gather([a, a], [a], b.copy(), None, 1),
    ),
    "dtype": (
        TypeError,
        r"params\[0\]: expected float32 or float64, the same for all, got float64",
        lambda: _C.move([a.astype(np.float64)], None, a, 1.0, 1),
    ),
    "half": (
        TypeError,
        "direction: expected float32 or float64, the same for all, got float16",
        lambda: _C.move([a], None, a.astype(np.float16), 1.0, 1),
    ),
    "pairs": (
        ValueError,
        "steps, changes: expected 0 vectors each, got 1 and 0",
        lambda: _C.Curvature().direction(a, [a], [], a.copy(), 1),
    ),
    "order": (
        RuntimeError,
        "observe first",
        lambda: restored().direction(a, [a], [a], a.copy(), 1),
    ),
    "nothing to keep": (RuntimeError, "observe first", lambda: _C.Curvature().keep()),
    "nothing to drop": (RuntimeError, "there is no pair", lambda: _C.Curvature().drop_oldest()),
}


def restored() -> Any:
    curvature = _C.Curvature()
    curvature.restore([a], [a], 1)
    return curvature


@pytest.mark.parametrize("case", CALLS)
def test_errors(case: str) -> None:
    kind, message, call = CALLS[case]
    with pytest.raises(kind, match=message):
        call()
