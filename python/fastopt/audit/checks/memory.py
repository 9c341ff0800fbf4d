"""Are tensors read and written as they are laid out, and nothing beside them?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastopt.audit.compare import same_bits
from fastopt.audit.registry import Failed, case, check
from fastopt.audit.subject import Subject

SHAPE = (2, 3, 4, 5)
SPARE = 4096  # elements around a view, so that a wrong read stays in its memory

Layout = Callable[[Tensor], Tensor]


def contiguous(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (60, 20, 5, 1))


def transposed(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (1, 2, 6, 24))


def channels_last(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (60, 1, 15, 3))


def every_second(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (120, 40, 10, 2))


def with_gaps(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (120, 35, 7, 1))


def at_an_odd_place(numbers: Tensor) -> Tensor:
    return laid_out(numbers, (60, 20, 5, 1), offset=SPARE // 2 + 1)


def laid_out(numbers: Tensor, strides: tuple[int, ...], offset: int = SPARE // 2) -> Tensor:
    """The numbers in a view of a larger memory, whose rest is 7."""
    memory = torch.full((2 * SPARE,), 7.0, dtype=numbers.dtype, device=numbers.device)
    return memory.as_strided(SHAPE, strides, offset).copy_(numbers)


def expanded(numbers: Tensor) -> Tensor:
    """One row in the place of all of them."""
    row = contiguous(numbers)[:1, :1, :1]
    return row.expand(SHAPE)


def expanded_number(numbers: Tensor) -> Tensor:
    return contiguous(numbers)[:1, :1, :1, :1].expand(SHAPE)


LAYOUTS = {
    "transposed": transposed,
    "channels-last": channels_last,
    "every second element": every_second,
    "with gaps between rows": with_gaps,
}
SPREAD = {"expanded from a row": expanded, "expanded from one number": expanded_number}


def stepped(subject: Subject, of_param: Layout, of_grad: Layout) -> Tensor:
    """A parameter and its gradients laid out so, after some steps."""
    numbers = subject.parameter(SHAPE).detach()
    param = of_param(numbers).requires_grad_()
    optimizer = subject.optimizer([param])
    for number in range(subject.comparable_steps):
        param.grad = of_grad(subject.gradient(numbers, number))
        optimizer.step()
    return param.detach()


def as_dense(layout: Layout) -> Layout:
    """The same numbers, contiguous."""
    return lambda numbers: contiguous(layout(numbers))


@check(each_dtype=True)
def layouts_of_gradients(subject: Subject) -> None:
    """Gradients that are transposed, channels-last, expanded or strided are read as if they were not:
    weights are trained by other weights' gradients, without an error."""
    for about, layout in (LAYOUTS | SPREAD).items():
        with case(f"gradients {about}, shape {SHAPE}"):
            want = stepped(subject, contiguous, as_dense(layout))
            subject.close(stepped(subject, contiguous, layout), want)


@check(each_dtype=True)
def layouts_of_parameters(subject: Subject) -> None:
    """Parameters that are transposed, channels-last or strided are stepped by other elements'
    gradients, without an error."""
    want = stepped(subject, contiguous, contiguous)
    for about, layout in LAYOUTS.items():
        for which, of_grad in (("laid out alike", layout), ("contiguous", contiguous)):
            with case(f"parameters {about}, gradients {which}, shape {SHAPE}"):
                subject.close(stepped(subject, layout, of_grad), want)


@check()
def bits_of_layouts(subject: Subject) -> None:
    """How a tensor is laid out changes the last bits of results: channels-last training is another
    run."""
    subject.needs_same_bits()
    want = stepped(subject, contiguous, contiguous)
    for about, layout in LAYOUTS.items():
        with case(f"parameters and gradients {about}, shape {SHAPE}"):
            subject.same(stepped(subject, layout, layout), want)
        with case(f"gradients {about}, shape {SHAPE}"):
            subject.same(stepped(subject, contiguous, layout), want)


@check(each_dtype=True)
def memory_beside(subject: Subject) -> None:
    """A step writes to memory that does not belong to its parameter, or moves the parameter to other
    memory: other tensors are corrupted, or what shares memory with it is left behind."""
    for about, layout in ({"at an odd place": at_an_odd_place} | LAYOUTS).items():
        with case(f"parameters {about}, shape {SHAPE}"):
            numbers = subject.parameter(SHAPE).detach()
            param = layout(numbers).requires_grad_()
            memory = param.detach().as_strided((2 * SPARE,), (1,), 0)
            inside = torch.zeros(2 * SPARE, dtype=torch.bool, device=subject.device)
            inside.as_strided(SHAPE, param.stride(), param.storage_offset()).fill_(True)
            place = param.data_ptr()
            optimizer = subject.optimizer([param])
            for number in range(2):
                param.grad = layout(subject.gradient(numbers, number))
                optimizer.step()
            if param.data_ptr() != place:
                raise Failed("the parameter was moved to other memory")
            if written := int((memory[~inside] != 7).sum()):
                raise Failed(f"{written} elements that are not the parameter's were written")


@check(each_dtype=True)
def gradients_kept(subject: Subject) -> None:
    """A step changes the gradients: what is logged, clipped or accumulated after it is wrong."""
    for options in ({}, {"weight_decay": 0.1}, {"maximize": True}):
        if options.keys() <= subject.defaults.keys():
            params = subject.parameters([(33,), (4, 5)])
            optimizer = subject.optimizer([{"params": params, **options}])
            for number in range(2):
                subject.set_gradients(params, number)
                grads = [param.grad for param in params]
                before = [grad.clone() for grad in grads if grad is not None]
                optimizer.step()
                with case(f"step {number + 1}, {options or 'defaults'}"):
                    for param, grad, copy in zip(params, grads, before, strict=True):
                        if param.grad is not grad or grad is None:
                            raise Failed("param.grad is another object than before")
                        same_bits(grad, copy)


@check()
def replaced_data(subject: Subject) -> None:
    """After `param.data = ...`, which `.to()`, FSDP and model surgery use, a step goes to memory that
    is no longer the parameter's."""
    param = subject.parameter((33,))
    optimizer = subject.optimizer([param])
    subject.train(optimizer, [param], range(2))
    other, old = subject.parameter((33,), seed=5).detach(), param.data
    kept = old.clone()
    param.data = other.clone()
    subject.train(optimizer, [param], range(2, 3))
    with case("the old memory"):
        same_bits(old, kept)
    twin = subject.parameter((33,))
    optimizer = subject.optimizer([twin])
    subject.train(optimizer, [twin], range(2))
    with torch.no_grad():
        twin.copy_(other)
    subject.train(optimizer, [twin], range(2, 3))
    with case("the new memory, against the same numbers written in place"):
        subject.close(param, twin)


@check()
def versions(subject: Subject) -> None:
    """Autograd does not notice that a parameter was changed: `backward()` through a graph of before
    the step gives wrong gradients instead of an error."""
    params = subject.parameters([(33,), (4, 5)])
    optimizer = subject.optimizer(params)
    for number in range(2):
        before = [(param._version, param.detach().clone()) for param in params]
        subject.train(optimizer, params, range(number, number + 1))
        for param, (version, old) in zip(params, before, strict=True):
            if param._version <= version and not torch.equal(param, old):
                raise Failed(
                    f"step {number + 1}: the version of a parameter of {param.numel()} elements is "
                    f"{version} before and {param._version} after"
                )
