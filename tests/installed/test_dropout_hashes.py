"""Hashes of the bits of dropout's reference, committed, so that one moved bit anywhere is seen.

``tests/data/dropout_hashes.txt`` is what tests/cpp/dropout_hashes.cpp replays without Python, on
emulated Arm and under sanitizers. To write it anew after a deliberate change:

    PYTHONPATH=tests python tests/installed/test_dropout_hashes.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_kernel_hashes import hash_bits, hash_words, make_input

from fastopt import reference

FILE = Path(__file__).parents[1] / "data" / "dropout_hashes.txt"
KEY = {"seed": 0x9E3779B97F4A7C15, "offset": 0x00C0FFEE12345678}
DTYPES = ["float32", "float64", "bfloat16", "float16"]
FORMS = ["plain", "relu", "bias", "residual", "bias_residual", "alpha", "rows"]
# size, p, index, columns of the bias or length of a row
CASES = [
    (1, 0.5, 0, 1),
    (67, 0.1, 3, 67),
    (1000, 0.9, 2**35 - 500, 50),
    (4098, 0.25, 6, 683),
    (70001, 0.1, 2**62 + 1, 239 * 17),
]


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers in the storage type, as the numbers that it holds."""
    with np.errstate(all="ignore"):
        if dtype == "bfloat16":
            return reference.from_bfloat16(reference.to_bfloat16(x))
        return x.astype(np.float16).astype(np.float32) if dtype == "float16" else x


def result(form: str, dtype: str, x: list[np.ndarray], p: float, index: int, width: int) -> np.ndarray:
    """Computed in float32 or float64, and rounded to the storage type."""
    where = {**KEY, "index": index}
    if form == "plain":
        y = reference.dropout(x[0], p, **where)
    elif form == "relu":
        y = reference.relu_dropout(x[0], p, **where)
    elif form == "alpha":
        y = reference.alpha_dropout(x[0], p, **where)
    elif form == "rows":
        y = reference.dropout_rows(x[0], width, p, **where)
    else:
        whole = -(-x[0].size // width) * width  # rows of the bias's width, the last one cut off
        wide, residual = (np.resize(a, whole).reshape(-1, width) for a in (x[0], x[2]))
        y = reference.bias_dropout_add(
            wide,
            x[1] if "bias" in form else None,
            residual if "residual" in form else None,
            p,
            **where,
        ).reshape(-1)[: x[0].size]
    return stored(y, dtype)


def reference_hash(form: str, dtype: str, size: int, p: float, index: int, width: int) -> int:
    """Of the result, and of the packed mask but for rows, whose mask stays zero."""
    made = np.float64 if dtype == "float64" else np.float32
    x = [stored(make_input(a, width if a == 1 else size, made, True), dtype) for a in range(3)]
    mask = reference.dropout_mask(size, p, **KEY, index=index) & (form != "rows")
    h = hash_bits(0xCBF29CE484222325, result(form, dtype, x, p, index, width))
    return hash_words(h, np.packbits(mask, bitorder="little"))


def lines() -> list[str]:
    listed = ["# form dtype size p index width hash: written by test_dropout_hashes.py"]
    for form in FORMS:
        for dtype in DTYPES:
            for size, p, index, width in CASES:
                h = reference_hash(form, dtype, size, p, index, width)
                listed.append(f"{form} {dtype} {size} {p} {index} {width} {h:016x}")
    return listed


def test_the_reference_has_the_committed_bits() -> None:
    assert FILE.read_text().splitlines() == lines()


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
