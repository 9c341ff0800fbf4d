"""Hashes of the bits of L-BFGS's reference, committed, so that one moved bit anywhere is seen.

``tests/data/lbfgs_hashes.txt`` is what tests/cpp/lbfgs_hashes.cpp replays without Python, on
emulated Arm and under sanitizers. To write it anew after a deliberate change:

    PYTHONPATH=tests python tests/installed/test_lbfgs_hashes.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from test_kernel_hashes import hash_bits, make_finite

from fastopt import reference
from fastopt.reference.lbfgs import largest
from fastopt.reference.tail import dot

FILE = Path(__file__).parents[1] / "data" / "lbfgs_hashes.txt"
T_STEP = 0.3
CASES = [(1, 0), (31, 1), (67, 2), (1000, 10), (4097, 3), (70_001, 5)]  # size, pairs


def reference_hash(dtype: Any, size: int, pairs: int) -> int:
    """Of what the passes of one iteration write and measure, in order."""
    steps = [make_finite(3 + 2 * k, size, dtype) for k in range(pairs)]
    changes = [s * np.abs(make_finite(4 + 2 * k, size, dtype)) for k, s in enumerate(steps)]
    prev, direction, params = (make_finite(k, size, dtype) for k in (1, 2, 0))
    first, last = size // 3, size - size // 3 // 2  # the parameter between has no gradient
    grad = params.copy()
    grad[first:last] = 0

    def measures(x: np.ndarray, beside: np.ndarray) -> np.ndarray:
        return np.array([dot(np.abs(x), np.ones_like(x)), dot(x, beside), largest(x)])

    step, change = dtype(T_STEP) * direction, grad - prev
    d = reference.lbfgs_direction(grad, steps, changes)
    h = 0xCBF29CE484222325
    for part in (
        measures(grad, direction),
        grad,
        np.array([dot(step, change), dot(change, change)]),
        step,
        change,
        measures(d, grad),
        d,
        params + dtype(T_STEP) * d,
    ):
        h = hash_bits(h, part)
    return h


def lines() -> list[str]:
    listed = ["# dtype size pairs hash: written by test_lbfgs_hashes.py"]
    for dtype in (np.float32, np.float64):
        for size, pairs in CASES:
            h = reference_hash(dtype, size, pairs)
            listed.append(f"{dtype.__name__} {size} {pairs} {h:016x}")
    return listed


def test_the_reference_has_the_committed_bits() -> None:
    assert FILE.read_text().splitlines() == lines()


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
