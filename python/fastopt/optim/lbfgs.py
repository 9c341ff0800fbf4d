"""L-BFGS on fused passes over flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastopt import _C
from fastopt._threads import fit_for_forks
from fastopt.optim._fused import torch_step_of
from fastopt.optim._hooks import hooked
from fastopt.optim._report import FusedReport, uniform_report
from fastopt.optim._stepped import Group
from fastopt.reference.lbfgs import LEAST_CURVATURE
from fastopt.reference.line_search import Point, strong_wolfe

NO_FIT = "LBFGS expects float32 or float64 parameters, all of one dtype, contiguous and on the CPU"
MAXIMIZES = "LBFGS's kernels minimize, and the group has maximize set"
UNUSED_VECTORS = 3  # kept for the next gradient, pair and line search


class LBFGS(torch.optim.LBFGS):
    r"""L-BFGS: :class:`torch.optim.LBFGS` on fastopt's kernels.

    Steps along :math:`d = -H g`, where H approximates the inverse Hessian by the last pairs of step
    and change of gradient; see :func:`fastopt.reference.lbfgs` and docs/second_order.md. An
    iteration reads the pairs twice and writes no vector of the recursion but d.

    Parameters are float32 or float64, all of one dtype, contiguous and on the CPU; with any others,
    and with ``maximize``, which torch has from 2.15 on, the step is torch's. The state is torch's,
    too, and loads on either side. Pairs are written over when the history is full, so clone what is
    to be kept of them.

    Args:
        params: parameters; one group.
        lr: the first trial of the line search, or the step length without one.
        max_iter: iterations in a ``step``.
        max_eval: evaluations of the closure in a ``step``; 1.25 ``max_iter`` unless given.
        tolerance_grad: stop where no element of the gradient is larger.
        tolerance_change: stop where neither an element nor the loss changes by more.
        history_size: pairs kept, each twice the parameters' memory.
        line_search_fn: ``"strong_wolfe"`` or None.

    Raises:
        ValueError: for a learning rate out of range or several groups, as torch does.

    Source: Nocedal & Wright 2006, algorithms 7.4 and 7.5; Nocedal 1980.
    """

    _memory: _Memory | None = None

    @hooked
    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        """Perform up to ``max_iter`` iterations.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns the loss.

        Returns:
            The loss before the step.
        """
        if len(self.param_groups) != 1:
            raise AssertionError(f"Expected exactly one param_group, but got {len(self.param_groups)}")
        group = self.param_groups[0]
        if _misfit(group):
            self._memory, self._params, self._numel_cache = None, group["params"], None
            return torch_step_of(self)(self, closure)
        closure = torch.enable_grad()(closure)
        first_loss = closure()  # which may step this optimizer, too
        state = self.state[group["params"][0]]
        if self._memory is None or not self._memory.is_of(state):
            self._memory = _Memory(group["params"], state)
        return _Step(group, state, self._memory, closure).run(first_loss)

    def fused_report(self) -> FusedReport:
        """Tell whether the parameters take fastopt's kernels, which is all of them or none."""
        return uniform_report(self, _misfit(self.param_groups[0]))


def _misfit(group: Group) -> str:
    """Why the step is torch's; empty where it is not."""
    if group.get("maximize"):
        return MAXIMIZES
    return "" if _fit_kernels(group["params"]) else NO_FIT


def _fit_kernels(params: list[Tensor]) -> bool:
    if not params:  # which torch steps over from 2.15 on
        return False
    dtype = params[0].dtype
    return (
        not _C.torch_is_watched()
        and dtype in (torch.float32, torch.float64)
        and all(
            type(param) in (Tensor, torch.nn.Parameter)
            and param.dtype == dtype
            and param.device.type == "cpu"
            and param.layout == torch.strided
            and param.is_contiguous()
            and not param.is_neg()
            and _is_aligned(param)
            for param in params
        )
    )


class _Memory:
    """What goes from iteration to iteration: torch's state, and vectors that are used again."""

    @fit_for_forks()
    def __init__(self, params: list[Tensor], state: dict[str, Any]) -> None:
        """Takes over a state of torch's or of another object, by copy: its vectors are written to."""

        def copies(key: str) -> list[Tensor]:
            return [vector.clone() for vector in state.get(key) or ()]

        self.steps, self.changes = copies("old_stps"), copies("old_dirs")
        self.ro = [float(value) for value in state.get("ro") or ()]
        self.scale = float(state.get("H_diag", 1.0))
        self.t, self.prev_loss = float(state.get("t", 0.0)), state.get("prev_loss")
        size = sum(param.numel() for param in params)
        d, grad = state.get("d"), state.get("prev_flat_grad")
        self.direction = params[0].new_empty(size) if d is None else d.clone()
        self.prev_grad = None if grad is None else grad.clone()
        self.unused: list[Tensor] = []
        self.curvature = _C.Curvature()
        self.curvature.restore(self.steps, self.changes, torch.get_num_threads())

    def is_of(self, state: dict[str, Any]) -> bool:
        """Whether the state still is what was saved: loading one makes new lists."""
        return state.get("old_stps") is self.steps and state.get("old_dirs") is self.changes

    def save(self, state: dict[str, Any]) -> None:
        state["d"], state["t"] = self.direction, self.t
        state["old_dirs"], state["old_stps"], state["ro"] = self.changes, self.steps, self.ro
        state["H_diag"] = self.scale
        state["prev_flat_grad"], state["prev_loss"] = self.prev_grad, self.prev_loss

    def vector(self) -> Tensor:
        return self.unused.pop() if self.unused else torch.empty_like(self.direction)

    def give_back(self, *vectors: Tensor) -> None:
        self.unused.extend(vectors[: UNUSED_VECTORS - len(self.unused)])

    def forget(self) -> None:
        self.steps, self.changes, self.ro, self.scale = [], [], [], 1.0
        self.curvature = _C.Curvature()

    def remember(self, grad: Tensor, history_size: int) -> None:
        """The pair of the last iteration joins, if the function curves upwards along it."""
        prev = self.prev_grad
        step, change = self.vector(), self.vector()
        curvature, square = self.curvature.observe(
            grad,
            prev,
            self.direction,
            self.t,
            step,
            change,
            self.steps,
            self.changes,
            torch.get_num_threads(),
        )
        if prev is not None and prev is not grad:
            self.give_back(prev)
        if not curvature > LEAST_CURVATURE:
            return self.give_back(step, change)
        if len(self.steps) == history_size:
            self.ro.pop(0)
            self.give_back(self.steps.pop(0), self.changes.pop(0))
            self.curvature.drop_oldest()
        self.steps.append(step)
        self.changes.append(change)
        self.ro.append(1.0 / curvature)
        self.scale = curvature / square
        self.curvature.keep()


class _Step:
    """One call of ``step``; :func:`fastopt.reference.lbfgs` is the same on arrays."""

    def __init__(
        self, group: Group, state: dict[str, Any], memory: _Memory, closure: Callable[[], Any]
    ) -> None:
        self.group, self.state, self.memory, self.closure = group, state, memory, closure
        self.params: list[Tensor] = group["params"]
        self.threads = torch.get_num_threads()

    def run(self, first_loss: Any) -> Any:
        self.state.setdefault("n_iter", 0)
        self.state["func_evals"] = self.state.get("func_evals", 0) + 1
        grad, (largest, total, _) = self.gather(None)
        if largest <= self.group["tolerance_grad"]:
            self.memory.give_back(grad)
            return first_loss
        try:
            self.iterate(float(first_loss), grad, largest, total)
        finally:
            self.memory.save(self.state)
        return first_loss

    def iterate(self, loss: float, grad: Tensor, largest: float, total: float) -> None:
        """From a point with this loss and gradient, its largest magnitude and the sum of them."""
        group, state, memory = self.group, self.state, self.memory
        change_tolerance, evaluations = group["tolerance_change"], 1
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            t = float(group["lr"])
            if state["n_iter"] == 1:
                memory.forget()
                t = 1.0 / max(1.0, total) * t
            else:
                memory.remember(grad, group["history_size"])
            slope, longest = memory.curvature.direction(
                grad, memory.steps, memory.changes, memory.direction, self.threads
            )
            memory.t, memory.prev_grad, memory.prev_loss = t, grad, loss
            if slope > -change_tolerance:
                break

            start = Point(0.0, loss, slope, (grad, largest))
            if group["line_search_fn"] is None:
                self.move(None, t)
                if iteration == group["max_iter"]:
                    break
                end, trials = self.evaluate(t), 1
            elif group["line_search_fn"] == "strong_wolfe":
                end, trials = self.search(start, t, longest, group["max_eval"] - evaluations)
            else:
                raise RuntimeError("only 'strong_wolfe' is supported")
            memory.t, loss, (grad, largest) = end.t, end.loss, end.grad
            evaluations += trials
            state["func_evals"] += trials
            if (
                evaluations >= group["max_eval"]
                or largest <= group["tolerance_grad"]
                or abs(memory.t * longest) <= change_tolerance
                or abs(loss - start.loss) < change_tolerance
            ):
                break
        if memory.prev_grad is not grad:
            memory.give_back(grad)

    def search(
        self, start: Point[Any], t: float, longest: float, max_trials: int
    ) -> tuple[Point[Any], int]:
        """Move to a point that the line search is content with."""
        begin = self.memory.vector()
        _C.gather(self.params, self.params, begin, None, self.threads)
        tried: list[Point[Any]] = []

        def evaluate(t: float) -> Point[Any]:
            self.move(begin, t)
            tried.append(self.evaluate(t))
            return tried[-1]

        end, trials = strong_wolfe(evaluate, start, t, longest, max_trials=max_trials)
        if tried[-1] is not end:
            self.move(begin, end.t)
        self.memory.give_back(begin, *(point.grad[0] for point in tried if point is not end))
        return end, trials

    def evaluate(self, t: float) -> Point[Any]:
        """The point where the parameters are, t along the direction."""
        loss = float(self.closure())
        grad, (largest, _, slope) = self.gather(self.memory.direction)
        return Point(t, loss, slope, (grad, largest))

    def gather(self, direction: Tensor | None) -> tuple[Tensor, tuple[float, float, float]]:
        """The gradient as one vector; its largest magnitude, sum of them, product with direction."""
        grad = self.memory.vector()
        pieces = [_plain(param.grad, param.dtype) for param in self.params]
        return grad, _C.gather(pieces, self.params, grad, direction, self.threads)

    def move(self, begin: Tensor | None, t: float) -> None:
        """To ``begin``, or where the parameters are, plus t times the direction."""
        _C.move(self.params, begin, self.memory.direction, t, self.threads)
        torch.autograd.graph.increment_version(self.params)


@fit_for_forks()
def _is_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % tensor.element_size() == 0


def _plain(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A gradient as the kernels take it."""
    if grad is None:
        return None
    if grad.layout != torch.strided:
        grad = grad.to_dense()
    grad = grad.to(dtype).resolve_neg().contiguous()
    return grad if _is_aligned(grad) else grad.clone()
