"""L-BFGS: Newton's method with an inverse Hessian that is made of the last few steps.

Nocedal & Wright 2006, Numerical optimization, 2nd edition: algorithm 7.4 (the two-loop recursion)
and 7.5 (L-BFGS). Nocedal 1980, Updating quasi-Newton matrices with limited storage. The recursion
on inner products: Chen, Wang & Zhou 2014, Large-scale L-BFGS using MapReduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._common import Array
from .line_search import Point, strong_wolfe
from .tail import dot

Function = Callable[[Array], tuple[float, Array]]

LEAST_CURVATURE = 1e-10  # pairs with s·y of this or less are not kept


@np.errstate(all="ignore")
def lbfgs_direction(grad: Array, steps: Sequence[Array], changes: Sequence[Array]) -> Array:
    r"""The direction :math:`d = -H g` of L-BFGS.

    With pairs :math:`s_i = x_{i+1} - x_i` and :math:`y_i = g_{i+1} - g_i`, oldest first, and
    :math:`\rho_i = 1 / s_i^\top y_i`, algorithm 7.4 computes

    .. math::
        q = -g;&\quad \alpha_i = \rho_i s_i^\top q,\quad q \leftarrow q - \alpha_i y_i
            \quad\text{(newest to oldest)} \\
        r = \gamma q;&\quad \beta_i = \rho_i y_i^\top r,\quad r \leftarrow r + (\alpha_i - \beta_i) s_i
            \quad\text{(oldest to newest)}

    with :math:`\gamma = s^\top y / y^\top y` of the newest pair (7.20), 1 if there is none, and
    :math:`d = r`. Here q and r are not formed: all that the loops ask of them are inner products,
    which follow from those of g, s and y with each other. These are sums in double
    (:func:`~fastopt.reference.tail.dot`), and so is the recursion; d is the sum

    .. math:: d = -\gamma g + \sum_i (\alpha_i - \beta_i) s_i - \gamma \alpha_i y_i

    in double, rounded once to the gradient's type.

    Args:
        grad: g, of one dimension, float32 or float64.
        steps, changes: the pairs, like it, oldest first; :math:`s_i^\top y_i > 0`.

    Returns:
        d, a new array like ``grad``.
    """
    count = len(steps)
    step_change = np.array([[dot(s, y) for y in changes] for s in steps]).reshape(count, count)
    change_change = np.array([[dot(a, b) for b in changes] for a in changes]).reshape(count, count)
    gamma = step_change[-1, -1] / change_change[-1, -1] if count else np.float64(1)

    step_q = -np.array([dot(s, grad) for s in steps])
    change_q = -np.array([dot(y, grad) for y in changes])
    alpha = np.zeros(count)
    for j in reversed(range(count)):
        alpha[j] = step_q[j] / step_change[j, j]
        step_q = step_q - alpha[j] * step_change[:, j]
        change_q = change_q - alpha[j] * change_change[:, j]

    d = -gamma * grad.astype(np.float64)
    change_r = gamma * change_q
    for i in range(count):
        weight = alpha[i] - change_r[i] / step_change[i, i]
        change_r = change_r + weight * step_change[i]
        d = d + weight * steps[i].astype(np.float64)
        d = d + -(gamma * alpha[i]) * changes[i].astype(np.float64)
    return np.asarray(d.astype(grad.dtype))


@dataclass
class LBFGSMemory:
    """What one call of :func:`lbfgs` leaves to the next; a new one for the first."""

    iterations: int = 0
    evaluations: int = 0
    steps: list[Array] = field(default_factory=list)
    changes: list[Array] = field(default_factory=list)
    grad: Array | None = None
    direction: Array | None = None
    t: float = 0.0


@np.errstate(all="ignore")
def lbfgs(
    function: Function,
    x: Array,
    memory: LBFGSMemory,
    *,
    lr: float = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
) -> Array:
    """Algorithm 7.5 for at most `max_iter` iterations: one ``step`` of torch.optim.LBFGS.

    Each iteration makes x' = x + t d, with d of :func:`lbfgs_direction` and t from a line search
    (``line_search_fn="strong_wolfe"``), or t = lr; in the very first one, whose d is -g, t is
    lr min(1, 1 / Σ|gᵢ|) to begin with. A pair is kept if s·y > 1e-10, and the oldest one is dropped
    if there are more than `history_size`.

    Args:
        function: gives f and its gradient at an x.
        x: where to begin; of one dimension, float32 or float64.
        memory: goes from call to call, and is changed.
        lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, line_search_fn: as in
            torch.optim.LBFGS.

    Returns:
        The last x, as a new array.
    """
    T = x.dtype.type
    max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
    loss, grad = function(x)
    evaluations = 1
    memory.evaluations += 1
    if largest(grad) <= tolerance_grad:
        return x.copy()
    for iteration in range(1, max_iter + 1):
        memory.iterations += 1
        t = lr
        if memory.iterations == 1:
            memory.steps, memory.changes = [], []
            t = 1.0 / max(1.0, dot(np.abs(grad), np.ones_like(grad))) * lr
        else:
            remember(memory, grad, history_size)
        direction = lbfgs_direction(grad, memory.steps, memory.changes)
        memory.grad, memory.direction, memory.t = grad, direction, t
        start = Point(0.0, loss, dot(direction, grad), grad)
        if start.slope > -tolerance_change:
            break

        def evaluate(t: float, x: Array = x, d: Array = direction) -> Point[Array]:
            loss, grad = function(x + T(t) * d)
            return Point(t, loss, dot(grad, d), grad)

        end, trials = start, 0
        if line_search_fn == "strong_wolfe":
            end, trials = strong_wolfe(
                evaluate, start, t, largest(direction), max_trials=max_eval - evaluations
            )
            t = memory.t = end.t
        elif iteration < max_iter:
            end, trials = evaluate(t), 1
        x = x + T(t) * direction
        evaluations += trials
        memory.evaluations += trials
        previous, loss, grad = loss, end.loss, end.grad
        if (
            evaluations >= max_eval
            or largest(grad) <= tolerance_grad
            or abs(t * largest(direction)) <= tolerance_change
            or abs(loss - previous) < tolerance_change
        ):
            break
    return x


def remember(memory: LBFGSMemory, grad: Array, history_size: int) -> None:
    """The pair of the last iteration joins the memory, if the function curves upwards along it."""
    assert memory.grad is not None
    assert memory.direction is not None
    step = grad.dtype.type(memory.t) * memory.direction
    change = grad - memory.grad
    if dot(step, change) > LEAST_CURVATURE:
        if len(memory.steps) == history_size:
            del memory.steps[0], memory.changes[0]
        memory.steps.append(step)
        memory.changes.append(change)


def largest(values: Array) -> float:
    """The largest magnitude; NaN if there is one."""
    return float(np.max(np.abs(values), initial=0))


def newton_step(grad: NDArray[np.float64], hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Newton's step: the d that solves :math:`\nabla^2 f\, d = -\nabla f`.

    :math:`f(x + d)` is then stationary in the second-order model of f (Nocedal & Wright 2006,
    equation 2.15). It takes :math:`N^2` numbers and :math:`N^3/3` multiplications for N parameters:
    for small problems, and for comparison. See docs/second_order.md.

    Args:
        grad: of shape (N,).
        hessian: of shape (N, N), symmetric.

    Returns:
        d, of shape (N,).

    Raises:
        ValueError: for other shapes.
        numpy.linalg.LinAlgError: if the Hessian is singular.
    """
    grad, hessian = np.asarray(grad), np.asarray(hessian)
    if grad.ndim != 1 or hessian.shape != (grad.size, grad.size):
        raise ValueError(
            f"hessian must have shape (N, N) for a grad of shape (N,), not {hessian.shape} "
            f"for {grad.shape}"
        )
    return np.asarray(np.linalg.solve(hessian, -grad))
