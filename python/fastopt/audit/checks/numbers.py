"""Are the numbers right?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastopt.audit.compare import Doubles, doubles, ulp, within
from fastopt.audit.course import SIZE, Course
from fastopt.audit.model import Model, set_step_counts
from fastopt.audit.registry import Failed, NotApplicable, case, check
from fastopt.audit.subject import WHOLE, Subject, nameof, normal

ULPS, LATE_ULPS = 16.0, 512.0  # the second holds what float32 makes of 0.9999 ** 1000
LATE, LAST = 1000, 10**6
SMALL, SMALL_STEPS = 2.0**-14, 256  # of weights that are 1, whose neighbour in bfloat16 is at 1 - 2**-8


@check(each_dtype=True)
def first_steps(subject: Subject) -> str:
    """The first steps are not those of the formula that its paper and its documentation give: results
    differ from everybody else's, or whole parts of a tensor are not trained."""
    course, worst = Course(subject), 0.0
    allowed = ULPS if subject.dtype != torch.float16 else 4 * ULPS  # which holds few small squares
    for number in range(1, 11):
        course.step(number)
        if number in (1, 2, 10):
            for which, about in enumerate(("from 0", "from normal numbers")):
                with case(f"step {number} {about}, {SIZE} elements"):
                    worst = max(worst, course.error(which, allowed))
    return f"at most {worst:.1f} ulp from float64"


@check(each_dtype=True)
def late_steps(subject: Subject) -> str:
    """Corrections for the bias of averages drift in long runs: after a thousand or a million steps, a
    step has another size than it should."""
    if subject.dtype not in WHOLE:
        raise NotApplicable("asked of float32 and float64; see averages_in_16_bits")
    course = Course(subject, late=True)
    for number in range(1, LATE + 1):
        course.step(number)
    with case(f"step {LATE}"):
        worst = course.error(0, LATE_ULPS)
    # What is kept with its bias and what is kept corrected are then the same.
    is_pair = len(subject.defaults.get("betas", ())) == 2
    options = {"betas": (0.9, 0.98)} if is_pair else {"beta2": 0.98}
    course = Course(subject, late=True, **options)
    for number in range(1, LATE + 1):
        course.step(number)
    if not set_step_counts(course.optimizer, LAST - 1):
        return f"at most {worst:.1f} ulp; counts no steps that could be set to {LAST}"
    course.step(LAST)
    with case(f"step {LAST}"):
        worst = max(worst, course.error(0, LATE_ULPS))
    return f"at most {worst:.1f} ulp from float64"


@check(each_dtype=True)
def averages_in_16_bits(subject: Subject) -> str:
    """Averages that are kept in 16 bits stop moving, because what a step takes off them is rounded
    away: once gradients have become smaller, steps are far too small."""
    if subject.dtype in WHOLE:
        raise NotApplicable("asked of 16 bits")
    course = Course(subject, late=True)
    for number in range(1, LATE + 1):
        if number == LATE // 4:
            course.scale /= 10
        course.step(number)
    got, want = doubles(course.params[0]), course.models[0][0].param
    error = float(np.median(np.abs(got - want) / np.maximum(np.abs(want), 1e-30)))
    if not error <= 0.1:
        raise Failed(
            f"gradients are a tenth from step {LATE // 4} on; step {LATE} is off by {error:.0%}, "
            f"the median of {SIZE} elements"
        )
    return f"step {LATE} is off by {error:.1%}"


@check()
def weight_decay(subject: Subject) -> str:
    """Weights decay by another factor than asked for: regularisation is not what was tuned."""
    subject.needs("weight_decay")
    course, worst = Course(subject, weight_decay=0.25), 0.0
    for number in (1, 2, 3):
        course.step(number)
        with case(f"step {number}, weight_decay=0.25"):
            worst = max(worst, course.error(1, ULPS))
    return f"at most {worst:.1f} ulp from float64"


@check()
def decay_of_16_bits(subject: Subject) -> str:
    """Small updates of 16-bit weights add up, as promised, but small decays are rounded away: weight
    decay does nothing."""
    subject.needs("weight_decay", "lr")
    if torch.bfloat16 not in subject.dtypes:
        raise NotApplicable("does not take bfloat16")
    subject.dtype = torch.bfloat16
    moved = follow_small(subject, 1.0, lr=SMALL, weight_decay=0.0)
    if moved < 0.5:
        raise NotApplicable("parameters are rounded to nearest: no small update counts")
    moved = follow_small(subject, 0.0, lr=8 * SMALL, weight_decay=0.125)
    if not 0.5 < moved < 1.5:
        raise Failed(
            f"{SMALL_STEPS} steps by gradients of 0, lr * weight_decay = 2**-14: weights of 1 go "
            f"{moved:.0%} of the way that they should"
        )
    return f"{moved:.0%} of the way"


def follow_small(subject: Subject, grad: float, **options: float) -> float:
    """The mean way of weights that are 1 after SMALL_STEPS, over the way that they should have gone."""
    param = torch.nn.Parameter(subject.tensor(torch.ones(256, dtype=torch.float64)))
    optimizer = subject.optimizer([{"params": [param], **options}])
    model: Model = subject.model(optimizer, param)
    for number in range(1, SMALL_STEPS + 1):
        before = model.param
        param.grad = torch.full_like(param, grad)
        optimizer.step()
        model.step(np.full(256, grad), number)
        if np.abs(model.param - before).max() > 2.0**-9:  # is half of the way to bfloat16's next
            raise NotApplicable(f"its steps are larger than bfloat16's rounding at lr={options['lr']}")
    way = float((model.param - 1).mean())
    if abs(way) < 1e-6:
        raise NotApplicable("by its rule, such weights do not move")
    return float((doubles(param) - 1).mean()) / way


@check()
def denormal_numbers(subject: Subject) -> None:
    """Numbers below the smallest normal one become 0: small weights and gradients vanish."""
    tiny = torch.finfo(subject.dtype).smallest_normal
    small = subject.tensor(normal((33,), 3) * tiny / 8)
    follow_denormals(subject, small, torch.zeros_like(small), "parameters")
    if subject.dtype == torch.float32 and subject.rule is not None:
        follow_denormals(subject, torch.zeros_like(small), small, "gradients")


def follow_denormals(subject: Subject, start: Tensor, grad: Tensor, about: str) -> None:
    """Two steps, against the model, or where there is none against the start."""
    param = torch.nn.Parameter(start.clone())
    optimizer = subject.optimizer([{"params": [param], **subject.only(weight_decay=0.0)}])
    model = subject.model(optimizer, param) if subject.rule is not None else None
    for number in (1, 2):
        param.grad = grad.clone()
        optimizer.step()
        if model is not None:
            model.step(doubles(grad), number)
    want = doubles(start) if model is None else model.param
    with case(f"{about} below the smallest normal number, two steps"):
        within(param, want, 16 + np.abs(want) / 16 / ulp(want, subject.dtype))


@check()
def infinite_and_nan(subject: Subject) -> None:
    """A gradient that is NaN or infinite leaves no trace, so that nobody notices that training has
    gone wrong; or it spoils elements that it has nothing to do with."""
    for shape in ((SIZE,), (64, 72)):  # the second is long enough for states in blocks
        for bad in (float("nan"), float("inf")):
            with case(f"gradient {bad} in element 5 of {math.prod(shape)}"):
                clean, other, _ = with_gradient(subject, shape, None)
                spoilt, beside, exact = with_gradient(subject, shape, bad)
                if not np.array_equal(other, beside):
                    raise Failed("another parameter has other numbers than without it")
                rest = np.arange(clean.size) != 5
                if shape == (SIZE,) and not subject.has_sums and (clean != spoilt)[rest].any():
                    raise Failed("other elements have other numbers than without it")
                expected = np.isfinite(exact[5]) if exact is not None else bad == bad
                if np.isfinite(spoilt[5]) and not expected:
                    raise Failed(f"the element is {spoilt[5]:.6g}, as if nothing had happened")


def with_gradient(
    subject: Subject, shape: tuple[int, ...], bad: float | None
) -> tuple[Doubles, Doubles, Doubles | None]:
    """Two parameters, and the first one's model, after three steps; the first with this gradient."""
    params = subject.parameters([shape, (SIZE,)])
    optimizer = subject.optimizer([{"params": params}])
    model = subject.model(optimizer, params[0]) if subject.rule is not None else None
    for number in (1, 2, 3):
        subject.set_gradients(params, number)
        grad = params[0].grad
        assert grad is not None
        if bad is not None and number == 2:
            grad.view(-1)[5] = bad
        if model is not None:
            model.step(doubles(grad), number)
        optimizer.step()
    exact = None if model is None else model.param.reshape(-1)
    return doubles(params[0]).reshape(-1), doubles(params[1]), exact


@check()
def maximize(subject: Subject) -> None:
    """`maximize=True` does not go up where the default goes down."""
    subject.needs("maximize")
    down, up = subject.parameter((SIZE,)), subject.parameter((SIZE,))
    for param, options in ((down, {}), (up, {"maximize": True})):
        optimizer = subject.optimizer([{"params": [param], **options}])
        for number in range(3):
            grad = subject.gradient(param, number)
            param.grad = -grad if options else grad
            optimizer.step()
    with case(f"three steps by negated gradients, {nameof(subject.dtype)}"):
        subject.close(up, down.detach())
