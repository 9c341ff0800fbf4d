"""Dropout's trials: the mask and every form, in every dtype, against the reference.

A trial is one form, dtype and rate p. It takes arrays of every size around an edge, and some that are
long enough for threads, with any bits at all in them; seed, offset and index are drawn anew each
time. Results are written into the middle of a larger buffer that must stay as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastopt import kernels, reference

from . import device
from .compare import Report, Row, spell
from .memory import EDGES
from .storage import Array, Storage

RATES = (0.1, 0.5, 0.9, 0.0, 1.0, 1e-9, 1 - 1e-9, 1 / 3, 2.0**-16, 1 - 2.0**-16)
SIZES = tuple(sorted({*EDGES, 255, 256, 257, 511, 513, 1000, 4097}))
LARGE = (70001, 65536, 131075)
COLUMNS = (1, 7, 64, 256, 300)
GUARD = 40  # elements before and after a result


@dataclass(frozen=True)
class Form:
    """A form of dropout, by its functions' name in fastopt.kernels and fastopt.reference."""

    name: str
    function: str
    bias: bool = False
    residual: bool = False

    @property
    def takes_columns(self) -> bool:
        return self.bias or self.function == "dropout_rows"


FORMS = (
    Form("dropout mask", "dropout_mask"),
    Form("packed mask", "dropout_mask"),
    Form("dropout", "dropout"),
    Form("from packed mask", "dropout"),
    Form("relu dropout", "relu_dropout"),
    Form("dropout + residual", "bias_dropout_add", residual=True),
    Form("bias, dropout", "bias_dropout_add", bias=True),
    Form("bias, dropout + res.", "bias_dropout_add", bias=True, residual=True),
    Form("dropout by rows", "dropout_rows"),
    Form("alpha dropout", "alpha_dropout"),
)


def random_array(storage: Storage, size: int, rng: np.random.Generator) -> Array:
    """Normal numbers, and in one of eight places any bits at all."""
    stored = storage.rounded(rng.standard_normal(size).astype(storage.compute))
    bits = stored.view(storage.bits)
    places = rng.integers(0, 8, size) == 0
    bits[places] = rng.integers(0, 2 ** (8 * bits.itemsize), size, np.uint64)[places]
    return stored


def dtypes_of(form: Form) -> tuple[str, ...]:
    """The dtypes of a form's result."""
    if form.function == "dropout_mask":
        return ("uint8" if form.name == "packed mask" else "bool",)
    return ("float32", "float64", "bfloat16", "float16")


def cases(forms: Sequence[Form], quick: bool) -> list[tuple[Form, str, float]]:
    """Every trial: form, dtype, p."""
    rates = RATES[:5] if quick else RATES
    return [(form, dtype, p) for form in forms for dtype in dtypes_of(form) for p in rates]


class DropoutTrial:
    """One call on one array, computed by the reference once and then by every target."""

    def __init__(
        self, form: Form, dtype: str, p: float, size: int, columns: int, rng: np.random.Generator
    ) -> None:
        size -= size % columns
        self.form, self.p, self.size, self.columns = form, p, size, columns
        self.storage = Storage(dtype)
        self.where = {
            "seed": int(rng.integers(-(2**63), 2**63)),
            "offset": int(rng.integers(2**56)),
            "index": int(rng.choice([0, int(rng.integers(10**6)), 2**35 - int(rng.integers(300))])),
        }
        self.masks = form.function == "dropout_mask"
        count = 0 if self.masks else size
        self.inputs = {"x": random_array(self.storage, count, rng)} if not self.masks else {}
        if form.bias:
            self.inputs["bias"] = random_array(self.storage, columns, rng)
        if form.residual:
            self.inputs["residual"] = random_array(self.storage, size, rng)
        self.in_place = not self.masks and bool(rng.integers(2))
        self.shift = int(rng.integers(4))
        self.expected = self.reference()

    def arguments(self, convert: Callable[[Array], Any]) -> list[Any]:
        """All before p, each array as `convert` makes it."""
        if self.masks:
            return [self.size]
        rows = (self.size // self.columns, self.columns)
        x = convert(self.inputs["x"]).reshape(rows)
        if self.form.function == "dropout_rows":
            return [x, self.columns]
        if self.form.function != "bias_dropout_add":
            return [x]
        bias = convert(self.inputs["bias"]) if self.form.bias else None
        residual = convert(self.inputs["residual"]).reshape(rows) if self.form.residual else None
        return [x, bias, residual]

    def reference(self) -> Array:
        function: Any = getattr(reference, self.form.function)
        with np.errstate(all="ignore"):
            result = function(*self.arguments(self.storage.visible), self.p, **self.where)
        if self.form.name == "packed mask":
            return np.packbits(result, bitorder="little")
        return self.storage.rounded(np.asarray(result).reshape(-1))

    def run(self, target: str) -> tuple[Array, Array]:
        """The kernel's result, and whether each element beside it is untouched."""
        length = len(self.expected)
        buffer = np.full(length + 2 * GUARD + self.shift, 1, self.storage.dtype)
        middle = slice(GUARD + self.shift, GUARD + self.shift + length)
        here = self.storage.tensor(buffer)
        there = device.placed(target, here)
        out = there[middle]

        def argument(array: Array) -> Any:
            on_device = target == device.CUDA
            tensor = self.storage.tensor(array) if on_device else self.storage.argument(array)
            return device.placed(target, tensor) if on_device else tensor

        arguments = self.arguments(argument)
        where: dict[str, Any] = dict(self.where)
        shaped: Any = out if target == device.CUDA else self.storage.argument(buffer[middle])
        if self.masks:
            where["packed"] = self.form.name == "packed mask"
        else:
            shaped = shaped.reshape(arguments[0].shape)
            if self.in_place:
                out.copy_(self.storage.tensor(self.inputs["x"]))
                arguments[0] = shaped
        if self.form.name == "from packed mask":
            mask = kernels.dropout_mask(self.size, self.p, packed=True, **self.where)
            where["mask"] = device.placed(target, torch.from_numpy(mask))
        function: Any = getattr(kernels, self.form.function)
        function(*arguments, self.p, out=shaped, **where)
        device.put_back(there, here)
        beside = np.delete(buffer, np.arange(middle.start, middle.stop))
        return buffer[middle], beside

    def check(self, report: Report, row: Row, threads: int) -> None:
        """Run it on the row's target and compare."""
        device.use(row.target, threads)
        got, beside = self.run(row.target)

        def describe(i: int) -> dict[str, Any]:
            facts = {
                "call": f"fastopt.kernels.{self.form.function}",
                "threads": threads,
                "in place": self.in_place,
                "index": f"{i} of {len(self.expected)}",
                "options": {"p": self.p, **self.where, "columns": self.columns},
            }
            inputs = {
                name: spell(self.storage.visible(stored)[i % len(stored)])
                for name, stored in self.inputs.items()
            }
            return {**facts, "inputs": inputs} if inputs else facts

        row.elements += len(got)
        visible = self.storage.visible
        report.compare(row, visible(got), visible(self.expected), describe)
        report.compare(
            row,
            beside,
            np.ones_like(beside),
            lambda i: {**describe(0), "index": "outside the result, where nothing may be written"},
        )


def check_case(
    report: Report,
    rows: Sequence[Row],
    case: tuple[Form, str, float],
    threads: Sequence[int],
    rng: np.random.Generator,
    *,
    quick: bool,
) -> None:
    """Every size of one case: the small ones on one thread, large ones on several."""
    form, dtype, p = case
    columns = [int(c) for c in rng.permutation(COLUMNS)] if form.takes_columns else [1]
    turn = int(rng.integers(len(threads)))
    for i, size in enumerate(SIZES):
        for shape in columns[: 1 if quick else None]:
            trial = DropoutTrial(form, dtype, p, size, shape, rng)
            for row in rows:
                trial.check(report, row, threads[(turn + i) % len(threads)])
    for i, size in enumerate(LARGE[: 1 if quick else None]):
        trial = DropoutTrial(form, dtype, p, size, columns[i % len(columns)], rng)
        several = threads if not quick else (threads[turn],)
        for row, count in itertools.product(rows, several):
            trial.check(report, row, count)
