"""How far a float32 step lies from the same step in float64, in units in the last place (ulp).

The inputs are the same float32 numbers; the reference evaluates them in float64. Only elements whose
inputs are all plain random numbers count, and of those only the well-conditioned ones. The unit is
that of the larger of the element before and after the step: a parameter that the step brings near 0
has been rounded as the larger number that it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import Options, Rule
from .evaluate import evaluate
from .inputs import Array

MAX_SAMPLE = 1 << 14  # elements of one trial

# An element is well-conditioned if its exact result moves by at most MAX_MOVE when each input moves
# by NUDGE in either direction. A centered RMSProp with a variance of next to nothing is not, nor is
# a sum that cancels: there a float32 result has few right digits, however well it is computed.
NUDGE = 2.0**-24  # of the input: half an ulp or a quarter
MAX_MOVE = 4.0  # ulp


class Accuracy:
    """The first step of a trial in float64."""

    def __init__(
        self,
        rule: Rule,
        options: Options,
        arrays: Mapping[str, Array],
        segments: Sequence[tuple[int, int, int]],
        harmless: npt.NDArray[np.intp],
    ) -> None:
        stride = -(-len(harmless) // MAX_SAMPLE)
        self.sample = harmless[::stride]
        before = {name: array[self.sample].astype(np.float64) for name, array in arrays.items()}

        def step(inputs: Mapping[str, Array]) -> dict[str, Array]:
            results: dict[str, list[Array]] = {}
            for begin, end, number in segments:
                low, high = np.searchsorted(self.sample, (begin, end))
                segment = {name: array[low:high] for name, array in inputs.items()}
                for name, result in evaluate(rule, options, segment, number).items():
                    results.setdefault(name, []).append(result)
            return {name: np.concatenate(parts) for name, parts in results.items()}

        self.exact = step(before)
        self.unit = {}
        for name, true in self.exact.items():
            size = np.maximum(np.abs(before[name]), np.abs(true)).astype(np.float32)
            self.unit[name] = np.spacing(size).astype(np.float64)
        self.counts = {name: np.isfinite(true) for name, true in self.exact.items()}
        rng = np.random.default_rng(0)
        signs = {name: rng.choice((-NUDGE, NUDGE), len(self.sample)) for name in before}
        for direction in (1, -1):
            moved = step({n: array * (1 + direction * signs[n]) for n, array in before.items()})
            for name, result in moved.items():
                with np.errstate(invalid="ignore"):
                    move = np.abs(result - self.exact[name])
                self.counts[name] &= move <= MAX_MOVE * self.unit[name]

    @staticmethod
    def applies_to(param: Array, options: Options) -> bool:
        """Whether this is float32, and float32 holds the options to all its digits."""
        smallest = float(np.finfo(np.float32).smallest_normal)
        numbers: list[Any] = np.hstack(list(options.values())).tolist()
        return param.dtype == np.float32 and all(n == 0 or abs(n) >= smallest for n in numbers)

    def error(self, arrays: Mapping[str, Array]) -> float:
        """The largest error of the kernel's results, in ulp."""
        worst = 0.0
        for name, true in self.exact.items():
            got = arrays[name][self.sample].astype(np.float64)
            error = (np.abs(got - true) / self.unit[name])[self.counts[name]]
            worst = max(worst, float(error.max(initial=0.0)))
        return worst
