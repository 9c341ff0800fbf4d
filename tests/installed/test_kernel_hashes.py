"""Hashes of the references' bits, committed, so that one moved bit anywhere is seen.

``tests/data/kernel_hashes.txt`` is what tests/cpp/kernel_hashes.cpp replays without Python, on
emulated Arm and under sanitizers; ``rule_programs.txt`` beside it is what those of the rules that are
in Python are traced to. To write them anew after a deliberate change of the arithmetic:

    PYTHONPATH=tests python tests/installed/test_kernel_hashes.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from _optimizers import RECORDS
from fastopt import reference
from fastopt.reference.storage import narrow, widen
from fastopt.rules import library

FILE = Path(__file__).parents[1] / "data" / "kernel_hashes.txt"
PROGRAMS = FILE.with_name("rule_programs.txt")
HASHED = {it.function: it for it in RECORDS.values() if it.hashed}
# What param, grad and the states are stored in: `stores` of tests/cpp/kernel_hashes.cpp.
F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
STORED: dict[str, list[Any]] = {
    "float32": [F32] * 5,
    "float64": [np.dtype(np.float64)] * 5,
    "bfloat16": [BF16] * 5,
    "mixed": [BF16, F16, F32, BF16, F16],
}
SIZES_AND_STEPS = [(1, 1), (67, 1), (1000, 10), (70001, 1000)]


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_input(array: int, size: int, stored: Any, negative: bool) -> np.ndarray:
    """The same numbers as input_of() in tests/cpp/inputs.h."""
    mantissa, bias, top = (52, 1023, 63) if stored == np.float64 else (23, 127, 31)
    h = mix(np.uint64(array << 32) | np.arange(size, dtype=np.uint64))
    exponent = np.uint64(bias - 20) + (h >> np.uint64(6) & np.uint64(0xFF)) % np.uint64(41)
    fraction = h >> np.uint64(12) & np.uint64((1 << mantissa) - 1)
    kind = h % np.uint64(256)
    exponent[kind <= 1] = 0
    fraction[kind == 0] = 0
    exponent[(kind == 2) | (kind == 3)] = 2 * bias + 1
    fraction[kind == 2] = 0
    fraction[kind == 3] |= np.uint64(1)
    sign = (h >> np.uint64(5) & np.uint64(1)) << np.uint64(top) if negative else np.uint64(0)
    bits = sign | exponent << np.uint64(mantissa) | fraction
    if top == 63:
        return bits.view(np.float64)
    return narrow(bits.astype(np.uint32).view(np.float32), stored)


def tamed(x: np.ndarray) -> np.ndarray:
    """With 1 in the place of what a norm could not bear: fill() of tests/cpp/kernel_hashes.cpp."""
    return np.where(np.abs(widen(x)) <= 1000, x, x.dtype.type(1))


def make_finite(array: int, size: int, dtype: Any) -> np.ndarray:
    """As above, but for 1 in the place of infinities and NaNs: finite_input() there."""
    x = make_input(array, size, dtype, True)
    return np.where(np.isfinite(x), x, dtype(1))


def hash_words(h: int, words: np.ndarray) -> int:
    """FNV-1a over whole numbers."""
    for word in words.reshape(-1).tolist():
        h = (h ^ word) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def hash_bits(h: int, values: np.ndarray) -> int:
    """FNV-1a over the widened numbers' bits as 64-bit words; every NaN counts as one."""
    values = widen(values)
    words = values.view(np.uint32 if values.dtype == np.float32 else np.uint64).astype(np.uint64)
    words[np.isnan(values)] = np.uint64(0xFFFFFFFFFFFFFFFF)
    return hash_words(h, words)


def keywords_of(options: dict[str, float]) -> dict[str, Any]:
    """The options as a function takes them."""
    keywords: dict[str, Any] = {k: v for k, v in options.items() if not k.startswith("beta")}
    for key, value in keywords.items():
        if key in {"maximize", "nesterov", "amsgrad", "centered"} or not isinstance(value, float):
            keywords[key] = bool(value) if isinstance(value, int) and key != "eps" else value
    if "beta1" in options:
        keywords["betas"] = (options["beta1"], options["beta2"])
    return keywords


def reference_hash(rule: str, name: str, size: int, step: int, options: dict[str, float]) -> int:
    """The hash after two steps of the reference."""
    keywords = keywords_of(options)
    every, needs = HASHED[rule].states, HASHED[rule].needs
    names = [it for it in every if it not in needs or options.get(needs[it])]
    places = {name: 2 + i for i, name in enumerate(every)}
    stored = STORED[name]
    param = make_input(0, size, stored[0], True)
    grad = make_input(1, size, stored[1], True)
    states = {state: make_input(places[state], size, stored[places[state]], False) for state in names}
    if rule == "lamb":
        param, grad = tamed(param), tamed(grad)
        states = {state: tamed(array) for state, array in states.items()}
    for now in (step, step + 1):
        param, *new = getattr(reference, rule)(param, grad, **states, step=now, **keywords)
        states = dict(zip(names, new, strict=True))
    h = 0xCBF29CE484222325
    for array in (param, *states.values()):
        h = hash_bits(h, array)
    return h


def lines() -> list[str]:
    """The file's lines, computed from the references."""
    return [
        f"{rule} {dtype} {size} {step} {reference_hash(rule, dtype, size, step, options):016x} "
        + " ".join(f"{key}={value!r}" for key, value in options.items())
        for rule, record in HASHED.items()
        for options in record.hashed
        for dtype in STORED
        for size, step in SIZES_AND_STEPS
    ]


def program_of(rule: str, step: int, options: dict[str, float]) -> str:
    """A rule in Python at a step with options, as tests/cpp/programs.h reads it."""
    traced = getattr(library, rule).program(t=step, **keywords_of(options))
    words: list[Any] = [rule, step, len(traced.arrays), 0, len(traced.code)]
    for it in traced.code:
        words[3] |= 1 << it.to if it.to < len(traced.arrays) else 0
        operands = [*it.operands, *it.operands[:1] * 3, 0, 0, 0][:3]
        numbers = [*(float(number.value).hex() for number in it.numbers), "0", "0"][:2]
        words += [it.op, it.to, *operands, *numbers]
    return " ".join(map(str, [*words, *(f"{key}={value!r}" for key, value in options.items())]))


def programs() -> list[str]:
    """The lines of the other file."""
    steps = sorted({now for _, step in SIZES_AND_STEPS for now in (step, step + 1)})
    return [
        program_of(rule, step, options)
        for rule in reference.RULED
        for options in HASHED[rule].hashed
        for step in steps
    ]


def committed(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("#")]


def test_references_still_give_the_committed_hashes() -> None:
    assert sorted(lines()) == sorted(committed(FILE))


def test_rules_in_python_are_still_traced_to_the_committed_programs() -> None:
    assert sorted(programs()) == sorted(committed(PROGRAMS))


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    header = "# rule dtype size first-step hash options: written by test_kernel_hashes.py"
    FILE.write_text("\n".join([header, *lines()]) + "\n")
    header = "# rule step arrays written length instructions options: written by test_kernel_hashes.py"
    PROGRAMS.write_text("\n".join([header, *programs()]) + "\n")
