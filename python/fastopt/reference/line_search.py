"""A step length that satisfies the strong Wolfe conditions.

Nocedal & Wright 2006, Numerical optimization: conditions 3.7, algorithms 3.5 (bracketing) and 3.6
(zoom), interpolation 3.59. Which trial points are taken, where a search gives up and how close to
the ends of an interval it may go are those of torch.optim.LBFGS, after Schmidt's minFunc (2005).

Of the function, the search sees its values and slopes along a line, as Python floats. So the one
text here serves the reference and fastopt.optim.LBFGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9  # c₁ and c₂
SHORTEST = 1e-9  # a bracket whose largest change of an element is below this is not searched further

Grad = TypeVar("Grad")


@dataclass(frozen=True)
class Point(Generic[Grad]):
    """φ(t) = f(x + t d) and φ'(t) = ∇f(x + t d)·d, with the gradient in whatever form."""

    t: float
    loss: float
    slope: float
    grad: Grad


@np.errstate(all="ignore")
def cubic_minimum(a: Point[Grad], b: Point[Grad], bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with these slopes is least (3.59), within `bounds`.

    The bounds are the points' own unless given, and their middle is taken where the cubic has no
    minimum. Division by zero gives infinity or NaN, as in torch.
    """
    low, high = bounds or (min(a.t, b.t), max(a.t, b.t))
    x1, f1, g1 = np.float64(a.t), np.float64(a.loss), np.float64(a.slope)
    x2, f2, g2 = np.float64(b.t), np.float64(b.loss), np.float64(b.slope)
    d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if not square >= 0:
        return (low + high) / 2.0
    d2 = np.sqrt(square)
    if x1 <= x2:
        t = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
    else:
        t = x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2 * d2))
    return min(max(float(t), low), high)


def strong_wolfe(
    evaluate: Callable[[float], Point[Grad]],
    start: Point[Grad],
    t: float,
    largest: float,
    *,
    max_trials: int,
) -> tuple[Point[Grad], int]:
    r"""Find t with φ(t) ≤ φ(0) + c₁ t φ'(0) and |φ'(t)| ≤ c₂ |φ'(0)|.

    Args:
        evaluate: gives the point at a t.
        start: the point at 0, of negative slope.
        t: the first trial.
        largest: the largest magnitude of an element of d.
        max_trials: trials after the first; then the best point so far is taken.

    Returns:
        The point, and how many were evaluated.
    """

    def decreases_too_little(point: Point[Grad]) -> bool:
        return point.loss > start.loss + SUFFICIENT_DECREASE * point.t * start.slope

    def is_flat(point: Point[Grad]) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    # Algorithm 3.5: go on until an interval must hold such a t.
    previous, point, trials = start, evaluate(t), 0
    while trials < max_trials:
        if decreases_too_little(point) or (trials > 1 and point.loss >= previous.loss):
            break
        if is_flat(point):
            return point, trials + 1
        if point.slope >= 0:
            break
        bounds = (point.t + 0.01 * (point.t - previous.t), point.t * 10)
        t = cubic_minimum(previous, point, bounds)
        previous, point = point, evaluate(t)
        trials += 1
    else:
        previous = start

    # Algorithm 3.6: shrink the interval, whose better end is `low`.
    bracket = [previous, point]
    low, high = (0, 1) if previous.loss <= point.loss else (1, 0)
    is_slow = False
    while trials < max_trials:
        left, right = sorted(end.t for end in bracket)
        if abs(right - left) * largest < SHORTEST:
            break
        t = cubic_minimum(bracket[0], bracket[1])
        t, is_slow = _away_from_ends(t, left, right, is_slow)
        point = evaluate(t)
        trials += 1
        if decreases_too_little(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        if is_flat(point):
            return point, trials + 1
        if point.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
    return bracket[low], trials + 1


def _away_from_ends(t: float, left: float, right: float, is_slow: bool) -> tuple[float, bool]:
    """A trial in the outer tenths of an interval is moved inwards, the second time it happens."""
    margin = 0.1 * (right - left)
    if not min(right - t, t - left) < margin:
        return t, False
    if is_slow or t >= right or t <= left:
        return (right - margin if abs(t - right) < abs(t - left) else left + margin), False
    return t, True
