"""Do equal inputs give equal results wherever an element lies?"""

from __future__ import annotations

import torch
from torch import Tensor

from fastopt.audit.compare import same_bits
from fastopt.audit.registry import Failed, NotApplicable, case, check
from fastopt.audit.subject import Subject, normal
from fastopt.verify.memory import EDGES

LARGER = (511, 513, 1023, 1025, 4095, 4097, 16385)
PERIOD = 61  # of the numbers that come again and again: no multiple of a vector
HUGE = 2**31 + 65  # elements


@check(each_dtype=True)
def positions(subject: Subject) -> None:
    """An element's result depends on where in its tensor it lies: the last few are computed otherwise,
    so that padding, splitting or merging tensors changes a run."""
    subject.needs_same_bits()
    sizes = [size for size in (*EDGES, *(() if subject.quick else LARGER)) if size]
    if not subject.has_sums:
        compare_positions(subject, sizes, normal((PERIOD,), 3), "that repeat after 61")
        return
    for number in range(3):  # norms are those of the whole: of a constant, all elements are alike
        compare_positions(subject, sizes, normal((1,), number), "that are all equal")


def compare_positions(subject: Subject, sizes: list[int], numbers: Tensor, about: str) -> None:
    """Steps tensors of all sizes, made of these numbers, beside one tensor for each number."""
    period = len(numbers)
    slopes = normal((period,), 77)
    lists = [numbers[k : k + 1] for k in range(period)]
    lists += [numbers.repeat(size // period + 1)[:size] for size in sizes]
    params = [torch.nn.Parameter(subject.tensor(it)) for it in lists]
    optimizer = subject.optimizer(params)
    for step in range(subject.comparable_steps):
        for k, param in enumerate(params):
            grads = slopes[k : k + 1] if k < period else slopes.repeat(len(param) // period + 1)
            param.grad = subject.tensor(grads[: len(param)] * (1 - 0.3 * step))
        optimizer.step()
    single = torch.cat([param.detach() for param in params[:period]])
    for size, param in zip(sizes, params[period:], strict=True):
        of = param.detach()[:1] if subject.has_sums else single
        with case(f"{size} numbers {about}"):
            same_bits(param, of.repeat(size // period + 1)[:size])


@check()
def alignment(subject: Subject) -> None:
    """An element's result depends on where in memory its tensor begins: equal runs differ."""
    subject.needs_same_bits()
    start = subject.parameter((131,)).detach()
    for shift in range(17):
        copies = []
        for places in ((0, 0), (shift, (3 * shift) % 17)):
            memory = [torch.zeros(160, dtype=subject.dtype, device=subject.device) for _ in places]
            param, grad = (it[at : at + 131] for it, at in zip(memory, places, strict=True))
            param.copy_(start)
            param.requires_grad_()
            optimizer = subject.optimizer([param])
            for number in range(subject.comparable_steps):
                grad.copy_(subject.gradient(start, number))
                param.grad = grad
                optimizer.step()
            copies.append(param.detach())
        with case(f"131 elements, {shift} behind an aligned place"):
            same_bits(copies[1], copies[0])


@check()
def thread_counts(subject: Subject) -> None:
    """The number of threads changes results: a run cannot be repeated on another machine."""
    if subject.device != "cpu":
        raise NotApplicable("asked on the CPU")
    subject.needs_same_bits()
    results: list[torch.Tensor] = []
    for count in (1, 2, 3) if subject.quick else (1, 2, 3, 5, 8):
        torch.set_num_threads(count)
        params = subject.parameters([(100_003,), (257,), (70_001,), (5,)])
        optimizer = subject.optimizer(params)
        subject.train(optimizer, params, range(subject.comparable_steps))
        flat = torch.cat([param.detach() for param in params])
        results.append(flat)
        with case(f"{count} threads, tensors of 100003, 257, 70001 and 5 elements"):
            same_bits(flat, results[0])


@check()
def order_of_parameters(subject: Subject) -> None:
    """The order in which parameters are listed changes what becomes of them."""
    subject.needs_same_bits()
    shapes = [(1,), (33,), (4, 5), (257,), (0,), (7,), (2, 3, 4)]
    results = []
    for turn in (1, -1):
        params = subject.parameters(shapes)
        optimizer = subject.optimizer(params[::turn])
        subject.train(optimizer, params, range(subject.comparable_steps))
        results.append(params)
    for shape, got, want in zip(shapes, *results, strict=True):
        with case(f"a parameter of shape {shape}, in reverse order"):
            same_bits(got, want)


@check()
def repeated_runs(subject: Subject) -> None:
    """The same run gives other results the second time: no experiment can be repeated."""
    results = []
    torch.set_num_threads(2)
    for _ in range(2):
        torch.manual_seed(11)
        params = subject.parameters([(70_001,), (33,), (12, 11)])
        optimizer = subject.optimizer(params)
        subject.train(optimizer, params, range(3))
        results.append(params)
    for got, want in zip(*results, strict=True):
        with case(f"{got.numel()} elements, three steps, twice"):
            same_bits(got, want)


@check()
def empty_tensors(subject: Subject) -> None:
    """A parameter without elements, or without dimensions, makes the step fail."""
    shapes = [(0,), (), (3, 0), (5,)]
    params = subject.parameters(shapes)
    with case(f"parameters of the shapes {', '.join(map(str, shapes))}"):
        optimizer = subject.optimizer(params)
        subject.train(optimizer, params, range(2))
        subject.close(params[3], subject.alone(subject.parameters(shapes)[3], 3, range(2)))


@check()
def huge_tensors(subject: Subject) -> None:
    """Elements beyond number 2**31 are not stepped, or others are stepped in their place."""
    if not subject.huge:
        raise NotApplicable("asked with --huge: tensors of 2**31 elements")
    dtype = torch.bfloat16 if torch.bfloat16 in subject.dtypes else subject.dtype
    param = torch.nn.Parameter(torch.ones(HUGE, dtype=dtype, device=subject.device))
    param.grad = torch.ones_like(param)
    small = torch.nn.Parameter(torch.ones(65, dtype=dtype, device=subject.device))
    small.grad = torch.ones_like(small)
    for it in (small, param):
        subject.optimizer([{"params": [it], **subject.only(lr=0.25)}]).step()
    for part, about in ((param[:65], "first"), (param[-65:], "last")):
        with case(f"the {about} 65 of {HUGE} elements"):
            subject.close(part, small)
    if not bool((param.detach()[:: 2**20] == small.detach()[0]).all()):
        raise Failed(f"some of {HUGE} elements are other than the first, though all are alike")
