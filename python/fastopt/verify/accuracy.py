"""How far a float32 step lies from the same step in float64, in units in the last place (ulp).

The inputs are the same float32 numbers; the reference evaluates them in float64. The unit is that
of the larger of the element before and after the step: a parameter that the step brings near 0 has
been rounded as the larger number that it was.

Counted are elements whose inputs are all plain random numbers and that are well-conditioned: the
exact result moves by at most MAX_MOVE, in all, when each input in turn moves by NUDGE. The others
(a sum that cancels, a centered RMSProp's variance of next to nothing) have few right digits in
float32 however well they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import Options
from .storage import Array

MIN_SAMPLE, MAX_SAMPLE = 1 << 10, 1 << 12  # elements of one trial
NUDGE = 4 * 2.0**-24  # of the input: 4 roundings
MAX_MOVE = 4 * 4.0  # ulp: 4 for each rounding

Arrays = Mapping[str, Array]


class Accuracy:
    """The first step of a trial in float64."""

    def __init__(
        self,
        evaluate: Callable[[Arrays, int], dict[str, Array]],
        arrays: Arrays,
        segments: Sequence[tuple[int, int, int]],
        sample: npt.NDArray[np.intp],
    ) -> None:
        self.sample = sample[:: -(-len(sample) // MAX_SAMPLE)]

        def step(inputs: Arrays) -> dict[str, Array]:
            results: dict[str, list[Array]] = {}
            for begin, end, number in segments:
                low, high = np.searchsorted(self.sample, (begin, end))
                segment = {name: array[low:high] for name, array in inputs.items()}
                for name, result in evaluate(segment, number).items():
                    results.setdefault(name, []).append(result)
            return {name: np.concatenate(parts) for name, parts in results.items()}

        before = {name: array[self.sample].astype(np.float64) for name, array in arrays.items()}
        self.exact = step(before)
        nudged = [
            step({**before, name: array * (1 + nudge)})
            for name, array in before.items()
            for nudge in (-NUDGE, NUDGE)
        ]
        self.unit, self.counted = {}, {}
        with np.errstate(invalid="ignore"):
            for name, true in self.exact.items():
                size = np.maximum(np.abs(before[name]), np.abs(true)).astype(np.float32)
                self.unit[name] = np.spacing(size).astype(np.float64)
                moves = sum(np.abs(other[name] - true) for other in nudged) / 2
                self.counted[name] = moves <= MAX_MOVE * self.unit[name]

    @staticmethod
    def applies_to(sample: npt.NDArray[np.intp], param: Array, options: Options) -> bool:
        """Whether this is a fair sample of float32, which holds the options to all its digits."""
        if len(sample) < MIN_SAMPLE or param.dtype != np.float32:
            return False
        smallest = float(np.finfo(np.float32).smallest_normal)
        numbers: list[Any] = np.hstack(list(options.values())).tolist()
        return all(n == 0 or abs(n) >= smallest for n in numbers)

    def error(self, arrays: Arrays) -> float:
        """The largest error of what a kernel made of the arrays, in ulp."""
        worst = 0.0
        for name, true in self.exact.items():
            counted = self.counted[name]
            got = arrays[name][self.sample][counted].astype(np.float64)
            error = np.abs(got - true[counted]) / self.unit[name][counted]
            worst = max(worst, float(error.max(initial=0.0)))
        return worst
