"""The rules suite's works: rules in Python beside compiled kernels, plain PyTorch and torch.compile.

A work is a rule as a program, the class that is compiled from C++ if there is one, and the same
mathematics as it is written for PyTorch today: a function on tensors, in place. torch.compile takes
that function as it is, at one step, so that it is compiled once. The limit is that of the lowbit
suite: as many bytes in memory of its own.

"first step" is the time from a rule that nobody has seen to the end of its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import fastopt.optim
from fastopt import _C
from fastopt.bench.lowbit import limit_contender
from fastopt.bench.shapes import Shape, count
from fastopt.bench.timing import Contender
from fastopt.bench.workload import drawn_params
from fastopt.rules import Rule, library
from fastopt.rules.library import compiled

STEP = 10  # at which plain PyTorch and torch.compile stay
NEEDED = 120  # bytes an element at the peak: Adan's arrays, its limit's, torch's temporaries
FIRST = "first step"


def adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
    m.mul_(0.9).add_(g, alpha=0.1)
    v.mul_(0.999).addcmul_(g, g, value=0.001)
    c1, c2 = 1 - 0.9**STEP, 1 - 0.999**STEP
    p.mul_(1 - 1e-4 * 1e-2).addcdiv_(m, (v.sqrt() / c2**0.5).add_(1e-8), value=-1e-4 / c1)


def lion(p: Tensor, g: Tensor, m: Tensor) -> None:
    p.mul_(1 - 1e-4 * 1e-2).add_(m.mul(0.9).add_(g, alpha=0.1).sign_(), alpha=-1e-4)
    m.mul_(0.99).add_(g, alpha=0.01)


def adopt(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
    bound = (STEP - 1) ** 0.25
    m.mul_(0.9).add_((g / v.sqrt().clamp_(min=1e-6)).clamp_(-bound, bound), alpha=0.1)
    v.mul_(0.9999).addcmul_(g, g, value=1e-4)
    p.add_(m, alpha=-1e-4)


def ademamix(p: Tensor, g: Tensor, fast: Tensor, slow: Tensor, v: Tensor) -> None:
    fast.mul_(0.9).add_(g, alpha=0.1)
    slow.mul_(0.9999).add_(g, alpha=1e-4)
    v.mul_(0.999).addcmul_(g, g, value=0.001)
    c1, c2 = 1 - 0.9**STEP, 1 - 0.999**STEP
    update = (fast / c1).add_(slow, alpha=2.0).div_((v.sqrt() / c2**0.5).add_(1e-8))
    p.add_(update.add_(p, alpha=1e-2), alpha=-1e-4)


def adan(p: Tensor, g: Tensor, m: Tensor, d: Tensor, n: Tensor, last: Tensor) -> None:
    change = g - last
    m.mul_(0.98).add_(g, alpha=0.02)
    d.mul_(0.92).add_(change, alpha=0.08)
    ahead = g + 0.92 * change
    n.mul_(0.99).addcmul_(ahead, ahead, value=0.01)
    c1, c2, c3 = 1 - 0.98**STEP, 1 - 0.92**STEP, 1 - 0.99**STEP
    denominator = (n.sqrt() / c3**0.5).add_(1e-8)
    p.sub_((m * (1e-4 / c1)).add_(d, alpha=1e-4 * 0.92 / c2).div_(denominator)).div_(1 + 1e-6)
    last.copy_(g)


@dataclass(frozen=True)
class Work:
    """One rule as it is measured."""

    rule: Rule
    options: dict[str, Any]
    compiled: str | None = None  # the class of fastopt.optim
    plain: Callable[..., None] | None = None
    dtype: torch.dtype = torch.float32
    settings: dict[str, Any] = field(default_factory=dict)  # of fastopt's classes alone
    read_again: int = 0  # arrays, by a second pass over a tensor that has been seen whole


DECAYING = {"lr": 1e-4, "weight_decay": 1e-2}

WORKS = {
    "AdamW": Work(library.adamw, DECAYING, "AdamW", adamw),
    "Lion": Work(compiled.lion, DECAYING, "Lion", lion),
    "ADOPT": Work(library.adopt, {"lr": 1e-4}, None, adopt),
    "AdEMAMix": Work(library.ademamix, DECAYING, None, ademamix),
    "Adan": Work(library.adan, DECAYING, None, adan),
    "AdamW bf16": Work(library.adamw, DECAYING, "AdamW", adamw, torch.bfloat16),
    "AdamW, int8 state": Work(library.adamw, DECAYING, "AdamW", settings={"state_dtype": "int8"}),
    "SGD": Work(compiled.sgd, {"lr": 1e-4, "momentum": 0.9}, "SGD"),
}
CLASSES = {name.lower(): name for name in fastopt.optim.__all__}
WORKS |= {
    CLASSES[name]: Work(it, {"lr": 1e-4}, CLASSES[name], read_again=3 if name == "lamb" else 0)
    for name, it in vars(compiled).items()
    if isinstance(it, Rule) and CLASSES[name] not in WORKS
}


class Arrays:
    """Parameters with gradients; every contender has states of its own."""

    def __init__(self, work: Work, shapes: tuple[Shape, ...]) -> None:
        self.work, self.elements = work, count(shapes)
        self.params = drawn_params(shapes, work.dtype)

    def contenders(self, targets: Sequence[str], threads: int, compile: bool) -> Iterator[Contender]:
        """The limit, programs and kernels on every target; plain PyTorch and torch.compile."""
        program = self.stepped(self.work.rule.optimizer("Program", __name__))
        written = (
            sum(it.nbytes for entries in program.state.values() for it in entries.values() if it.ndim)
            + self.elements * self.work.dtype.itemsize
        )
        read = self.elements * self.work.dtype.itemsize * (1 + self.work.read_again)
        moved = read + 2 * written
        makers = {"fastopt": program}
        if self.work.compiled:
            makers["fastopt compiled"] = self.stepped(getattr(fastopt.optim, self.work.compiled))
        for target in targets:
            yield limit_contender(target, threads, read, written)
            for name, optimizer in makers.items():
                yield Contender(
                    name=name,
                    run=optimizer.step,
                    moved_bytes=moved,
                    target=target,
                    version=fastopt.__version__,
                    prepare=partial(_C.set_cpu_target, target),
                )
        if self.work.plain:
            states = [[torch.zeros_like(param) for _ in self.work.rule.states] for param in self.params]
            yield self.torchs("torch", self.work.plain, states, moved)
            if compile:
                torch.compiler.reset()
                step = torch.compile(self.work.plain)
                yield self.torchs("torch compiled", step, states, moved)

    def stepped(self, cls: Any) -> Optimizer:
        optimizer: Optimizer = cls(self.params, **self.work.options, **self.work.settings)
        for _ in range(2):  # some rules begin otherwise
            optimizer.step()
        return optimizer

    def torchs(
        self, name: str, step: Callable[..., None], states: list[list[Tensor]], moved: int
    ) -> Contender:
        grads: Any = [param.grad for param in self.params]

        @torch.no_grad()
        def run() -> None:
            for param, grad, kept in zip(self.params, grads, states, strict=True):
                step(param, grad, *kept)

        run()
        return Contender(
            name=name, run=run, moved_bytes=moved, version=torch.__version__, most_rounds=5
        )


def first_steps(targets: Sequence[str], compile: bool) -> Iterator[Contender]:
    """A new rule's first step on one small parameter."""
    param = torch.nn.Parameter(torch.ones(64))
    param.grad = grad = torch.ones(64)
    kept = [torch.zeros(64) for _ in range(2)]
    moved = 28 * 64

    def ours() -> None:
        made = Rule(library.adopt.function).optimizer("New", __name__)
        optimizer = made([param])
        for _ in range(2):  # the first step's program, and all others'
            optimizer.step()

    @torch.no_grad()
    def plain(step: Callable[..., None] = adopt) -> None:
        step(param, grad, *kept)

    def theirs() -> None:
        torch.compiler.reset()
        plain(torch.compile(adopt))

    for target in targets:
        use = partial(_C.set_cpu_target, target)
        yield Contender("limit", partial(torch.ones(64).add_, 0), moved, target, prepare=use)
        yield Contender("fastopt", ours, moved, target, version=fastopt.__version__, prepare=use)
    yield Contender("torch", plain, moved, version=torch.__version__)
    if compile:
        yield Contender("torch compiled", theirs, moved, version=torch.__version__, most_rounds=2)
