"""The other packages that the bench measures, where they are installed.

A peer is one entry in PEERS: how to import it, and how to build its counterpart of an optimizer of
torch.optim. A package that is missing is left out; one that is there but fails is left out with its
error. Nothing is imported before it is needed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastopt.bench.timing import Contender
from fastopt.bench.workload import Workload

# From an optimizer's name in torch.optim, the parameters and the options, to the package's own; None
# if the package has no such optimizer.
Build = Callable[[str, list[Tensor], dict[str, Any]], Optimizer | None]


def step_of(optimizer: Optimizer) -> Callable[[], object]:
    return optimizer.step


def compiled_step_of(optimizer: Optimizer) -> Callable[[], object]:
    """The step through torch.compile, as PyTorch's documentation does it."""
    torch.compiler.reset()  # else steps compiled before count towards the limit on recompilation

    @torch.compile(fullgraph=False)
    def step() -> None:
        optimizer.step()

    return step


@dataclass(frozen=True)
class Peer:
    """A package's optimizers, or one way to run them."""

    name: str
    module: str
    distribution: str
    build: Build
    run: Callable[[Optimizer], Callable[[], object]] = step_of
    compiles: bool = False  # with torch.compile, for every case anew: only on request
    state_size: int = 4  # bytes of one element of state

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None

    @property
    def version(self) -> str:
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # installed under another name
            return str(getattr(importlib.import_module(self.module), "__version__", "unknown"))

    def enter(self, workload: Workload) -> Contender | None:
        """The contender, ready to run; None if the package has no such optimizer."""
        options = workload.setting.options
        optimizer = self.build(workload.optimizer, list(workload.params), dict(options))
        if optimizer is None:
            return None
        optimizer.step()
        workload.share_states(optimizer)
        run = self.run(optimizer)
        run()
        return Contender(
            name=self.name,
            run=run,
            moved_bytes=workload.moved_bytes(optimizer, self.state_size),
            version=self.version,
            state_bytes=workload.state_bytes(optimizer),
        )


def torch_with(**flags: bool) -> Build:
    """torch.optim's own, with the flags that choose the implementation."""

    def build(name: str, params: list[Tensor], options: dict[str, Any]) -> Optimizer | None:
        cls: Any = getattr(torch.optim, name)
        if not flags.keys() <= inspect.signature(cls).parameters.keys():
            return None
        optimizer: Optimizer = cls(params, **options, **flags)
        return optimizer

    return build


def attribute_of(module: str, suffix: str = "", **fixed: object) -> Build:
    """A package that names its optimizers like torch.optim, perhaps with something appended."""

    def build(name: str, params: list[Tensor], options: dict[str, Any]) -> Optimizer | None:
        cls: Any = getattr(importlib.import_module(module), name + suffix, None)
        if cls is None:
            return None
        optimizer: Optimizer = cls(params, **options, **fixed)
        return optimizer

    return build


def build_deepspeed(name: str, params: list[Tensor], options: dict[str, Any]) -> Optimizer | None:
    """DeepSpeed's CPU optimizers, which compile their C++ on first use."""
    optimizer: Optimizer | None = None
    if name in ("Adam", "AdamW"):
        adam: Any = importlib.import_module("deepspeed.ops.adam")
        optimizer = adam.DeepSpeedCPUAdam(params, adamw_mode=name == "AdamW", **options)
    elif name == "Adagrad":
        adagrad: Any = importlib.import_module("deepspeed.ops.adagrad")
        optimizer = adagrad.DeepSpeedCPUAdagrad(params, **options)
    return optimizer


PEERS = (
    Peer("torch fused", "torch", "torch", torch_with(fused=True)),
    Peer("torch foreach", "torch", "torch", torch_with(foreach=True)),
    Peer("torch default", "torch", "torch", torch_with()),
    Peer("torch compiled", "torch", "torch", torch_with(), run=compiled_step_of, compiles=True),
    Peer("DeepSpeed CPU", "deepspeed", "deepspeed", build_deepspeed),
    Peer("optimi", "optimi", "torch-optimi", attribute_of("optimi")),
    Peer(
        "bitsandbytes 32-bit",
        "bitsandbytes",
        "bitsandbytes",
        attribute_of("bitsandbytes.optim", optim_bits=32),
    ),
    Peer(
        "bitsandbytes 8-bit",
        "bitsandbytes",
        "bitsandbytes",
        attribute_of("bitsandbytes.optim", suffix="8bit"),
        state_size=1,
    ),
    Peer(
        "torchao 8-bit",
        "torchao",
        "torchao",
        attribute_of("torchao.optim", suffix="8bit"),
        compiles=True,
        state_size=1,
    ),
)


def join(
    workload: Workload,
    joining: Sequence[Peer],
    compile: bool,
    failed: set[str],
    show: Callable[[str], object],
) -> Iterator[Contender]:
    """Those of ``joining`` that can be measured; the errors of those that cannot are added to
    ``failed``. ``show`` is told who is preparing, which for some means compiling."""
    for peer in joining:
        if not peer.installed or (peer.compiles and not compile):
            continue
        show(f"{peer.name} prepares")
        try:
            contender = peer.enter(workload)
        except Exception as error:  # whatever it is, the others are measured
            reason = str(error).strip().splitlines() or [""]
            failed.add(f"{peer.name} {peer.version}: {type(error).__name__}: {reason[0]}")
            continue
        if contender:
            yield contender


def absent() -> list[str]:
    """The packages that could join but are not installed."""
    return sorted({peer.distribution for peer in PEERS if not peer.installed})
