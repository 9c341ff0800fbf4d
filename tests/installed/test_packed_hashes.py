"""Hashes of the bits of steps whose states are in 8 bits, or whose parameters have more behind them.

``tests/data/packed_hashes.txt`` is what tests/cpp/packed_hashes.cpp replays without Python, on
emulated Arm and under sanitizers. To write it anew after a deliberate change:

    PYTHONPATH=tests python tests/installed/test_packed_hashes.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_kernel_hashes import BF16, hash_bits, hash_words, make_finite

from fastopt import reference
from fastopt.reference import codes, storage
from fastopt.reference.rounding import rounding_draws

FILE = Path(__file__).parents[1] / "data" / "packed_hashes.txt"
SEED = 0x9E3779B97F4A7C15
START = 0xCBF29CE484222325
# rows, length of a row, the first row's place in a whole parameter
SHAPES = [(1, 256, 0), (3, 67, 2), (2, 1000, 7), (70, 1027, 3)]
SHAPES += [(2, 1027, 2**36 // 1027)]  # a block of draws has number 2^32 within the first row


def numbers(array: int, rows: int, row: int) -> np.ndarray:
    """A committed input whose numbers are finite."""
    return make_finite(array, rows * row, np.float32).reshape(rows, row)


def kept(x: np.ndarray) -> np.ndarray:
    """What bfloat16 keeps of numbers."""
    return storage.from_bfloat16(storage.to_bfloat16(x))


def hash_of_codes(kind: str, rows: int, row: int, first_row: int) -> int:
    """Of a parameter after two steps of Adam, of its states' codes and of their scales."""
    rounded = kept if kind == "half_codes" else np.asarray
    x, grad = (rounded(numbers(array, rows, row)) for array in (0, 1))
    grad.reshape(-1)[3] = np.nan
    states = [np.zeros_like(x), np.zeros_like(x)]
    stored = []
    for step in (1, 2):
        x, *states = reference.adam(x, grad, *states, step=step)
        x = rounded(x)
        stored = [
            codes.encode_blocks(state, code, step=step, first_row=first_row)
            for state, code in zip(states, ("signed8", "root8"), strict=True)
        ]
        states = [codes.decode_blocks(*it) for it in stored]
    h = hash_bits(START, x.reshape(-1))
    for code, _ in stored:
        h = hash_words(h, code.view(np.uint8))
    for _, scales in stored:
        h = hash_bits(h, scales.reshape(-1))
    return h


def hash_of_halves(kind: str, rows: int, row: int, first_row: int) -> int:
    """Of a bfloat16 parameter and its states, and the lower halves that a master keeps of it."""
    x, grad = (kept(numbers(array, rows, row).reshape(-1)) for array in (0, 1))
    high, low = storage.to_bfloat16(x), np.zeros(x.shape, np.uint16)
    states, index = [np.zeros_like(x), np.zeros_like(x)], first_row * row
    for step in (1, 2):
        x, *states = reference.adam(x, grad, *states, step=step)
        states = [
            storage.widen(storage.store_state(state, BF16, step=step, state=number, first=index))
            for number, state in enumerate(states)
        ]
        if kind == "low_half":
            high, low = storage.split_float32(x)
            x = storage.join_float32(high, low)
        else:
            draws = rounding_draws(x.size, seed=SEED, offset=step, index=index)
            high = storage.round_stochastic(x, draws)
            x = storage.from_bfloat16(high)
    h = START
    for array in (storage.from_bfloat16(high), *states):
        h = hash_bits(h, array)
    return hash_words(h, low.view(np.uint16)) if kind == "low_half" else h


def lines() -> list[str]:
    listed = ["# kind rows row first-row hash: written by test_packed_hashes.py"]
    for shape in SHAPES:
        named = " ".join(map(str, shape))
        listed.append(f"codes {named} {hash_of_codes('codes', *shape):016x}")
        for kind in ("low_half", "rounded"):
            listed.append(f"{kind} {named} {hash_of_halves(kind, *shape):016x}")
    for shape in SHAPES:
        named = " ".join(map(str, shape))
        listed.append(f"half_codes {named} {hash_of_codes('half_codes', *shape):016x}")
    return listed


def test_the_reference_has_the_committed_bits() -> None:
    assert FILE.read_text().splitlines() == lines()


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
