"""What the dropout tests share: every form as a kernel and as its reference, dtypes, rates, arrays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt import kernels, reference

try:
    from ml_dtypes import bfloat16
except ImportError:  # an optional dependency of the tests
    bfloat16 = None

Array = npt.NDArray[Any]

DTYPES = [np.dtype(name) for name in ("float32", "float64", "float16")]
if bfloat16 is not None:
    DTYPES.append(np.dtype(bfloat16))

SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 255, 256, 257, 1000, 4097, 70000, 200003]
RATES = [0, 1, 1e-9, 1 - 1e-9, 0.1, 0.5, 0.9]


def known_answers(rounds: int) -> list[list[int]]:
    """Philox's: counter, key and output."""
    lines = (Path(__file__).parent / "data/philox.txt").read_text().splitlines()
    split = (line.split() for line in lines if not line.startswith("#"))
    return [[int(word, 16) for word in words] for first, *words in split if int(first) == rounds]


@dataclass(frozen=True)
class Form:
    """A form of dropout: a function's name in fastopt.kernels and fastopt.reference."""

    function: str
    extra: tuple[str, ...] = ()  # arguments between x and p, None where not given
    given: tuple[str, ...] = field(default=())

    def arguments(self, x: Array, random: np.random.Generator) -> list[Any]:
        """x, then bias and residual (or None), or inner."""
        made: list[Any] = [x]
        for name in self.extra:
            if name == "inner":
                made.append(49)
            elif name not in self.given:
                made.append(None)
            else:
                shape = x.shape if name == "residual" else x.shape[-1:]
                made.append(values(random, shape, x.dtype))
        return made

    @property
    def kernel(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(kernels, self.function)
        return function

    @property
    def reference(self) -> Callable[..., Array]:
        function: Callable[..., Array] = getattr(reference, self.function)
        return function


BOTH = ("bias", "residual")
FORMS = {
    "plain": Form("dropout"),
    "relu": Form("relu_dropout"),
    "nothing added": Form("bias_dropout_add", BOTH),
    "bias": Form("bias_dropout_add", BOTH, ("bias",)),
    "residual": Form("bias_dropout_add", BOTH, ("residual",)),
    "bias and residual": Form("bias_dropout_add", BOTH, BOTH),
    "rows": Form("dropout_rows", ("inner",)),
    "alpha": Form("alpha_dropout"),
}


def values(random: np.random.Generator, shape: Any, dtype: Any) -> Array:
    """Normal numbers, and in one of 16 places a corner of the format."""
    dtype = np.dtype(dtype)
    numbers = random.standard_normal(shape)
    corners = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 6e-8, -3e38, 65504, 1e-310]
    places = random.random(shape) < 1 / 16
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return np.where(places, random.choice(corners, shape), numbers).astype(dtype)


def matrix(random: np.random.Generator, size: int, dtype: Any, columns: int) -> Array:
    """Of about `size` elements, in rows of `columns`."""
    return values(random, (size // columns, columns), dtype)


def assert_same(actual: Array, expected: Array, about: object = "") -> None:
    """Equal dtype, shape and bits; any NaN equals any other."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), about
    unsigned = f"u{actual.dtype.itemsize}"
    one, two = (np.ascontiguousarray(a).reshape(-1) for a in (actual, expected))
    same = (one.view(unsigned) == two.view(unsigned)) | (np.isnan(one) & np.isnan(two))
    wrong = np.flatnonzero(~same)
    first = wrong[:1]
    assert not len(wrong), f"{about}: {len(wrong)} differ, at {first}: {one[first]}, not {two[first]}"
