"""``fastopt.gradcheck``: autograd's gradient against central differences, parameter by parameter."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fastopt.gradients._differences import Compared, Loss, Settings, compare
from fastopt.gradients._trace import calls_of, map_tensors, weighted_sum, wrong_modules

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["right", "wrong", "unknown"]


@dataclass(frozen=True)
class ParameterCheck:
    """What was found for one parameter, or for one argument of a function."""

    name: str
    shape: tuple[int, ...]

    checked: int
    """How many elements were compared."""

    kinks: int
    """How many were left out, being where the loss has no derivative (ReLU at 0, say)."""

    ratio: float
    """‖d̃ − d‖ / (‖d̃‖ + ‖d‖) over the compared elements; 0 where both are 0."""

    rounding: float
    """The ratio that rounding in the differences d̃ can make by itself, at most 1."""

    gradient: float
    """‖d‖, of autograd's gradient."""

    verdict: Verdict
    """"wrong" for a ratio above the tolerance and above ``rounding``; "unknown" where rounding hides
    the gradient, or all elements are at kinks; else "right"."""


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`fastopt.gradcheck` returns. It is true if no parameter is wrong, and prints a table;
    ``rich.print`` prints it in color."""

    parameters: tuple[ParameterCheck, ...]

    ratio: float
    """‖d̃ − d‖ / (‖d̃‖ + ‖d‖) over all parameters together."""

    tolerance: float

    suspects: tuple[str, ...]
    """The modules whose own backward is wrong. None, if something is wrong in a model: the loss."""

    @property
    def passed(self) -> bool:
        """Whether no parameter's gradient is wrong."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[str, ...]:
        """The names of the parameters whose gradient is wrong."""
        return tuple(it.name for it in self.parameters if it.verdict == "wrong")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        rows = [HEADINGS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self.summary()])

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(*HEADINGS, title="gradient check", caption=self.summary())
        table.columns[0].overflow = "fold"  # a name is to be read to its end
        for row, found in zip(self._rows(), self.parameters, strict=True):
            table.add_row(*row, style="bold red" if found.verdict == "wrong" else None)
        return table

    def summary(self) -> str:
        """One sentence: the verdict, and where to look."""
        ratio = f"ratio {self.ratio:.1e} over all, tolerance {self.tolerance:.0e}"
        if self.passed:
            return f"passed: {ratio}"
        where = f"look at {', '.join(self.suspects)}" if self.suspects else LOSS_ALONE
        return f"FAILED: {ratio}; wrong: {', '.join(self.wrong)}; {where}"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for it in self.parameters:
            elements = f"{it.checked} of {math.prod(it.shape)}"
            if it.kinks:
                elements += f", {it.kinks} at kinks"
            ratios = (f"{it.ratio:.1e}", f"{it.rounding:.0e}", f"{it.gradient:.1e}")
            yield it.name, str(it.shape), elements, *ratios, it.verdict


HEADINGS = ("parameter", "shape", "compared", "ratio", "rounding", "gradient", "verdict")
LOSS_ALONE = "no module is wrong by itself, so look at what is no module: the loss, functions"


def gradcheck(
    target: nn.Module | Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    elements: int | None = 64,
    step: float = 1e-5,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> GradientCheck:
    """Compare autograd's gradient d with central differences d̃, in float64.

        d̃ᵢ = (L(θ + h eᵢ) − L(θ − h eᵢ)) / 2h        ‖d̃ − d‖ / (‖d̃‖ + ‖d‖) ≤ tolerance

    with Euclidean norms, for each parameter by itself. A copy of the model, with its parameters,
    buffers and floating-point inputs in float64, is checked in the mode that the model is in (train or
    eval); the model stays as it is. If a parameter is wrong, each module is checked by itself on the
    inputs that it gets, and those that are wrong are named.

    Dropout, torch's and fastopt's, draws the same mask at every evaluation: torch's generator is set
    to ``seed`` before each and restored at the end, and a module's own ``generator`` to its state.
    Elements at kinks (ReLU at exactly 0) are left out and counted. Gradients that vanish in rounding,
    such as of a bias before batch normalisation, are "unknown", not wrong.

    Args:
        target: a network, whose parameters that require gradients are checked; or a function of
            tensors, whose floating-point tensor arguments are.
        inputs: what it is called with.
        loss: from the output to a scalar. None for an output that is one, or for a sum of the
            outputs' elements with fixed random weights.
        elements: how many elements of a tensor to compare at most: drawn at random with ``seed``, the
            one with the largest gradient among them. Each costs two evaluations. None for all.
        step: h, times max(1, |θᵢ|).
        tolerance: for the ratio. 1e-7 is what a right float64 gradient meets.
        seed: of the elements that are drawn, and of dropout.

    Returns:
        A :class:`fastopt.gradients.GradientCheck`.

    Raises:
        TypeError: for a target that is neither, complex parameters, or a loss that is not float64.
        ValueError: for options out of range, nothing to check, or a loss that is no scalar, not
            finite, or differs between two evaluations.

    Source: the criterion is that of Andrew Ng's Deep Learning Specialization, course 2, week 1.
    """
    settings = _settings(elements, step, tolerance, seed)
    own_inputs = map_tensors(_to_float64, inputs)
    tensors: dict[str, Tensor]
    if isinstance(target, nn.Module):
        target = copy.deepcopy(target).double()
        tensors = {name: it for name, it in target.named_parameters() if it.requires_grad}
    elif callable(target):
        tensors = _arguments(target, own_inputs)
    else:
        kind = type(target).__name__
        raise TypeError(f"target: expected a torch.nn.Module or a function, got {kind}")
    _check_tensors(tensors)
    settle = _Randomness(target, seed)

    def evaluate() -> Tensor:
        settle()
        output = target(*map_tensors(Tensor.clone, own_inputs))
        scalar = isinstance(output, Tensor) and output.numel() == 1 and output.is_floating_point()
        return (loss or (torch.sum if scalar else weighted_sum))(output)

    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        _check_loss(evaluate)
        found = compare(evaluate, tensors, settings)
        checks = tuple(_judged(name, tensors[name], it, tolerance) for name, it in found.items())
        suspects: list[str] = []
        if isinstance(target, nn.Module) and any(it.verdict == "wrong" for it in checks):
            calls = calls_of(target, evaluate)
            suspects = wrong_modules(calls, settle, settings)
    analytic, numeric = (
        torch.cat([getattr(it, side) for it in found.values()]) for side in ("analytic", "numeric")
    )
    total = Compared(analytic, numeric, noise=0.0, kinks=0)
    return GradientCheck(checks, total.ratio, tolerance, tuple(suspects))


# ---- verdicts -------------------------------------------------------------------------------------


def _judged(name: str, tensor: Tensor, found: Compared, tolerance: float) -> ParameterCheck:
    hidden = found.rounding == 1 or (found.kinks > 0 and not found.numeric.numel())
    right: Verdict = "unknown" if hidden else "right"
    return ParameterCheck(
        name=name,
        shape=tuple(tensor.shape),
        checked=found.numeric.numel(),
        kinks=found.kinks,
        ratio=found.ratio,
        rounding=found.rounding,
        gradient=float(found.analytic.norm()),
        verdict="wrong" if found.is_wrong(tolerance) else right,
    )


# ---- arguments ------------------------------------------------------------------------------------


class _Randomness:
    """Puts the generators that a model draws from back to where they were."""

    def __init__(self, target: Any, seed: int) -> None:
        modules = target.modules() if isinstance(target, nn.Module) else []
        owned = [vars(module).get("generator") for module in modules]
        self.states = [(it, it.get_state()) for it in owned if isinstance(it, torch.Generator)]
        self.seed = seed

    def __call__(self) -> None:
        torch.default_generator.manual_seed(self.seed)
        if torch.cuda.is_available():  # else torch.manual_seed keeps a stack trace, which is slow
            torch.cuda.manual_seed_all(self.seed)
        for generator, state in self.states:
            generator.set_state(state)


def _settings(elements: int | None, step: float, tolerance: float, seed: int) -> Settings:
    if elements is not None and not elements >= 1:
        raise ValueError(f"elements: expected a number >= 1 or None, got {elements}")
    for name, value in {"step": step, "tolerance": tolerance}.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")
    return Settings(elements, step, tolerance, seed)


def _to_float64(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return copied.double() if copied.is_floating_point() else copied


def _arguments(function: Callable[..., Any], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The floating-point tensors that a function is called with, by the names of its parameters."""
    try:
        known = inspect.signature(function).parameters.values()
    except ValueError:  # a function of C++, which tells no signature
        known = {}.values()
    names = [it.name for it in known if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
    return {
        names[i] if i < len(names) else f"argument {i}": it.requires_grad_()
        for i, it in enumerate(inputs)
        if isinstance(it, Tensor) and (it.is_floating_point() or it.is_complex())
    }


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    if not any(it.numel() for it in tensors.values()):
        raise ValueError(
            "target: expected parameters that require gradients, or floating-point tensors among "
            "the inputs of a function; got none"
        )
    for name, it in tensors.items():
        if it.dtype != torch.float64:
            raise TypeError(f"{name}: expected a real parameter, got {it.dtype}")


def _check_loss(evaluate: Loss) -> None:
    first, second = evaluate(), evaluate()
    if not isinstance(first, Tensor) or first.dtype != torch.float64:
        kind = first.dtype if isinstance(first, Tensor) else type(first).__name__
        raise TypeError(f"loss: expected a float64 tensor, got {kind}; does the model cast to it?")
    if first.numel() != 1:
        raise ValueError(f"loss: expected a scalar, got shape {tuple(first.shape)}")
    if not first.isfinite().all():
        raise ValueError(f"loss: expected a finite number, got {first.item()}")
    if not torch.equal(first, second):
        raise ValueError(
            f"loss: expected the same at every evaluation, got {first.item()!r} and "
            f"{second.item()!r}; draw random numbers from torch's generator, or from a module's"
        )
