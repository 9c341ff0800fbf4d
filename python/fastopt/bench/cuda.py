"""The suites on a CUDA device: GPU time by events, and the host's time where that is what users feel.

The limit is the device's own copy of as many bytes as the work moves. Large cases are far beyond the L2
cache. Where a step is short, twenty are captured in a CUDA graph and replayed, so that the GPU's time
is measured and neither the host's nor a graph's launch; so are twenty copies of the limit. The work
named "host" is the time until `step()` returns. Half of the gradient is zero in one work, in places
drawn at random: divisions and roots of zero are the slow ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

import fastopt.nn
import fastopt.optim
from fastopt import _C
from fastopt.bench import lowbit, peers
from fastopt.bench.shapes import MODELS, count, shrink
from fastopt.bench.suites import ALL, Case, Enter, Scene, Suite
from fastopt.bench.timing import Contender
from fastopt.bench.workload import SETTINGS

PEERS = ("torch fused", "torch foreach", "torch compiled", "optimi")
P = 0.1  # of dropout
REPLAYED = 20  # steps in a CUDA graph

Run = Callable[[], object]


@dataclass
class Replay:
    """A CUDA graph's replay. It keeps what was captured: a graph knows addresses, not tensors."""

    graph: torch.cuda.CUDAGraph
    captured: Run

    def __call__(self) -> None:
        self.graph.replay()


class Gpu:
    """The current CUDA device and its clock."""

    name = "cuda"

    def seconds(self, run: Run, repeats: int) -> float:
        """The GPU's time for all of them."""
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def wait(self) -> None:
        torch.cuda.synchronize()

    def captured(self, run: Run) -> Run:
        """A CUDA graph's replay of ``REPLAYED`` runs."""
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(REPLAYED):
                run()
        return Replay(graph, run)


gpu = Gpu()  # a test without a GPU puts another clock here


def trouble() -> str | None:
    """Why nothing can be measured; None if it can."""
    if gpu.name == Gpu.name and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return _C.cuda_trouble()


@dataclass
class OnGpu(Contender):
    """A contender on the GPU's clock; on the host's, if what is measured is how soon it returns.

    ``replayed`` puts its runs into a CUDA graph.
    """

    on_host: bool = False
    replayed: bool = False

    def __post_init__(self) -> None:
        if self.replayed:
            self.run = gpu.captured(self.run)

    def measure(self) -> float:
        """Seconds of one run, the mean over ``repeats``."""
        gpu.wait()
        if not self.on_host:
            runs = self.repeats * (REPLAYED if self.replayed else 1)
            return gpu.seconds(self.run, self.repeats) / runs
        begin = time.perf_counter_ns()
        for _ in range(self.repeats):
            self.run()
        taken = time.perf_counter_ns() - begin
        gpu.wait()
        return taken / self.repeats / 1e9


@dataclass(frozen=True)
class Work:
    """An optimizer's step and how it is measured."""

    optimizer: str  # of workload.SETTINGS
    storage: lowbit.Storage = lowbit.WORKS["AdamW float32"]
    replayed: bool = False  # as a CUDA graph
    on_host: bool = False
    zeros: bool = False  # in half of the gradient


WORKS = {
    **{name: Work(name) for name in (*ALL, "clip + AdamW", "clip + AdamW + EMA")},
    **{name: Work("AdamW", storage) for name, storage in lowbit.WORKS.items()},
    "AdamW, half the gradient zero": Work("AdamW", zeros=True),
    "AdamW, replayed": Work("AdamW", replayed=True),
    "AdamW, host": Work("AdamW", on_host=True),
    "clip + AdamW + EMA, host": Work("clip + AdamW + EMA", on_host=True),
}


def copy_of(moved_bytes: int) -> Run:
    """A copy that reads and writes so many bytes in all."""
    source = torch.empty(max(1, moved_bytes // 2), dtype=torch.uint8, device=gpu.name).random_()
    return partial(torch.empty_like(source).copy_, source)


class Steps:
    """Parameters with gradients on the device, and the contenders' steps on them."""

    def __init__(self, work: Work, shapes: Sequence[tuple[int, ...]]) -> None:
        self.work, self.setting = work, SETTINGS[work.optimizer]
        self.elements = count(tuple(shapes))
        dtype = work.storage.dtype
        made = partial(torch.empty, device=gpu.name)
        self.params = [torch.nn.Parameter(made(s).uniform_(-1, 1).to(dtype)) for s in shapes]
        for param in self.params:
            grad = made(param.shape).uniform_(5e-4, 1.5e-3)
            param.grad = (grad * made(param.shape).bernoulli_() if work.zeros else grad).to(dtype)

    def options(self) -> dict[str, Any]:
        return self.setting.options | ({"capturable": True} if self.work.replayed else {})

    def contender(
        self, name: str, run: Run, optimizer: Optimizer, version: str | None, **more: Any
    ) -> Contender:
        reads_and_writes = 4 if "max_grad_norm" in self.setting.tail else 3  # one for the norm
        arrays = reads_and_writes * self.elements * self.work.storage.dtype.itemsize
        states = lowbit.total_state_bytes(optimizer)
        return OnGpu(
            name,
            run,
            arrays + 2 * states,
            version=version,
            state_bytes=states / self.elements,
            on_host=self.work.on_host,
            replayed=self.work.replayed,
            **more,
        )

    def limit_and_ours(self) -> Iterator[Contender]:
        options = self.options() | self.setting.tail | self.work.storage.options
        cls: Any = getattr(fastopt.optim, self.setting.optimizer or self.work.optimizer)
        optimizer: Optimizer = cls(self.params, **options)
        optimizer.step()
        version = fastopt.__version__
        ours = self.contender("fastopt", optimizer.step, optimizer, version, target=gpu.name)
        copy = copy_of(ours.moved_bytes)
        yield OnGpu(
            "limit",
            copy,
            ours.moved_bytes,
            target=gpu.name,
            on_host=self.work.on_host,
            replayed=self.work.replayed,
        )
        yield ours

    def theirs(self, peer: peers.Peer) -> Contender | None:
        optimizer = peer.build(
            self.setting.optimizer or self.work.optimizer, list(self.params), self.options()
        )
        if optimizer is None:
            return None
        optimizer.step()
        run = peer.run(optimizer)
        run()
        return self.contender(peer.name, run, optimizer, peer.version)

    def torch_tail(self) -> Contender:
        """clip_grad_norm_, then fused AdamW, then, where an average is kept, _foreach_lerp_."""
        tail = self.setting.tail
        optimizer = torch.optim.AdamW(self.params, fused=True, **self.setting.options)
        values = [param.detach() for param in self.params]
        averages = [value.clone() for value in values] if "ema_decay" in tail else []

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(self.params, tail["max_grad_norm"])
            optimizer.step()
            if averages:
                torch._foreach_lerp_(averages, values, 1 - tail["ema_decay"])

        run()
        name = "torch clip, fused, lerp" if averages else "torch clip, fused"
        return self.contender(name, run, optimizer, torch.__version__.split("+")[0])

    def enter(self, scene: Scene) -> list[Contender]:
        found = list(self.limit_and_ours())
        if self.setting.tail:
            return [*found, self.torch_tail()]
        for peer in (it for it in peers.PEERS if it.name in PEERS and it.installed):
            if peer.compiles and not scene.compile:
                continue
            scene.show(f"{peer.name} prepares")
            try:
                contender = self.theirs(peer)
            except Exception as error:  # whatever it is, the others are measured
                scene.failed.add(f"{peer.name}: {type(error).__name__}: {error}".splitlines()[0])
                continue
            if contender:
                found.append(contender)
        return found


DROPOUTS = {
    "dropout float32": (torch.float32, False),
    "dropout bfloat16": (torch.bfloat16, False),
    "dropout float32, with backward": (torch.float32, True),
    "dropout bfloat16, with backward": (torch.bfloat16, True),
}


def enter_dropout(case: Case, scene: Scene) -> list[Contender]:
    """Dropout of one array, perhaps with its backward pass."""
    dtype, backward = DROPOUTS[case.work]
    x = torch.randn(case.shapes[0], device=gpu.name).to(dtype).requires_grad_(backward)
    ones = torch.ones_like(x)
    moved = (4 if backward else 2) * x.nbytes

    def run(dropout: Callable[[Tensor, float], Tensor]) -> None:
        y = dropout(x, P)
        if backward:
            torch.autograd.grad(y, x, ones)

    version, torchs = fastopt.__version__, torch.__version__.split("+")[0]
    return [
        OnGpu("limit", copy_of(moved), moved, target=gpu.name),
        OnGpu("fastopt", partial(run, fastopt.nn.functional.dropout), moved, gpu.name, version=version),
        OnGpu("torch dropout", partial(run, F.dropout), moved, version=torchs),
    ]


def cases_of(
    works: Sequence[str], shapes: Callable[[bool], dict[str, Sequence[tuple[int, ...]]]]
) -> Callable[[bool, Sequence[str] | None], list[Case]]:
    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        wanted = [work for work in works if chosen is None or WORKS[work].optimizer in chosen]
        found = shapes(quick)
        return [Case(name, work, tuple(found[name])) for name in found for work in wanted]

    return cases


def large(quick: bool) -> dict[str, Sequence[tuple[int, ...]]]:
    name, shape = ("16 x 64K", (16, 1 << 16)) if quick else ("4096 x 64K", (1 << 12, 1 << 16))
    return {name: [shape]}


def small(quick: bool) -> dict[str, Sequence[tuple[int, ...]]]:
    return {"1000 x 4096": [(4096,)] * 1000, "200 x 64": [(64,)] * 200, "1 x 64": [(64,)]}


def gpt2(quick: bool) -> dict[str, Sequence[tuple[int, ...]]]:
    return {"GPT-2 small": list(shrink(MODELS["GPT-2 small"](), 8 if quick else 1))}


def arrays(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
    size = 1 << 20 if quick else 1 << 28
    return [Case(f"{size >> 20}M", work, ((size,),)) for work in DROPOUTS]


def steps_suite(description: str, works: Sequence[str], shapes: Any) -> Suite:
    def prepare(case: Case) -> Enter:
        return Steps(WORKS[case.work], case.shapes).enter

    # A parameter, its gradient, the copies of the limit, and every contender's states.
    return Suite(
        description, 15, cases_of(works, shapes), prepare, lambda case: 80 * count(case.shapes)
    )


def dropout_bytes(case: Case) -> int:
    return 40 * sum(map(prod, case.shapes))


SUITES = {
    "large": steps_suite(
        "one tensor far larger than the L2 cache", (*ALL, "AdamW, half the gradient zero"), large
    ),
    "small": steps_suite("many small tensors", ("AdamW, replayed", "AdamW, host"), small),
    "models": steps_suite("the tensors of GPT-2 small", ("AdamW, replayed", "AdamW, host"), gpt2),
    "tail": steps_suite(
        "clipping and averaging inside the step", ("clip + AdamW", "clip + AdamW + EMA"), large
    ),
    "dropout": Suite(
        "dropout of one array beside torch's",
        15,
        arrays,
        lambda case: partial(enter_dropout, case),
        dropout_bytes,
    ),
    "lowbit": steps_suite("numbers stored in fewer bits", list(lowbit.WORKS), large),
}
