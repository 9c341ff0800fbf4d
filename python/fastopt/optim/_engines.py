"""Engines that give each process's optimizer a part of the parameters, found among the calls.

They say nothing of what they do to the optimizer that they drive, so whoever needs to know looks for
them up the stack:

* ``ZeroRedundancyOptimizer`` gives each process whole parameters, other ones than the rest;
* DeepSpeed, Megatron and torchao put tensors of their own in the parameters' place: flat parts of many
  of them, in pieces that are stepped one after the other, or copies on the CPU. These clip by
  themselves; a norm, an average or a code by rows of what the optimizer sees would be another thing
  than what was asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

_ZERO = "torch.distributed.optim.zero_redundancy_optimizer"

_CLIP_WITH = {  # by the package, how it clips
    "deepspeed": 'set "gradient_clipping" in DeepSpeed\'s configuration',
    "megatron": "set clip_grad in Megatron's OptimizerConfig",
    "torchao": "call torch.nn.utils.clip_grad_norm_ before its step",
}
PACKAGES = tuple(_CLIP_WITH)
_KEEP_PARAMETERS = {"FP32Optimizer", "ChainedOptimizer"}  # of Megatron's wrappers
_PIECES = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")  # of DeepSpeed's


def zero_around() -> Any:
    """The ZeroRedundancyOptimizer that is building or stepping an optimizer; None if there is none."""
    module = sys.modules.get(_ZERO)
    if module is None:
        return None
    for frame in _calls():
        if frame.f_code.co_filename == module.__file__:
            owner = frame.f_locals.get("self")
            if isinstance(owner, module.ZeroRedundancyOptimizer):
                return owner
    return None


def averages_of_all(owner: Any, own: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """The averages of every parameter of a ZeroRedundancyOptimizer, each from the process that has it.

    A call of all its processes.
    """
    group, found = owner.process_group, {}
    for param, rank in owner._param_to_rank.items():
        if rank == owner.rank:
            value = own[param].to(param.dtype).contiguous()
        else:
            value = torch.empty(param.shape, dtype=param.dtype, device=param.device)
        if value.numel() > 0:
            dist.broadcast(value, dist.get_global_rank(group, rank), group=group)
        found[param] = value
    return found


def refuse_clipping(optimizer: Optimizer, has_group: bool) -> None:
    """ValueError if an engine steps a part of what ``max_grad_norm`` is to take the norm of.

    With a ``grad_norm_group`` it may be taken of what the engine has all stepped in one call.
    """
    for package, owner in _engines_around(optimizer):
        in_pieces = package == "torchao" or any(len(getattr(owner, it, ())) > 1 for it in _PIECES)
        is_whole = _is_deepspeed_engine(owner) and not _splits_models(owner)
        if not is_whole and (in_pieces or not has_group):
            raise ValueError(
                f"max_grad_norm: {type(owner).__name__} of {package} steps a part of the parameters at "
                f"a time, and whose norm is meant is unknown; expected None: {_CLIP_WITH[package]}"
            )


def refuse_copies(optimizer: Optimizer, option: str, expected: str) -> None:
    """ValueError if an engine has put tensors of its own in the place of the model's parameters."""
    for package, owner in _engines_around(optimizer):
        if not _is_deepspeed_engine(owner) and type(owner).__name__ not in _KEEP_PARAMETERS:
            raise ValueError(
                f"{option}: expected the model's own parameters, got what {type(owner).__name__} of "
                f"{package} has put in their place; expected {expected}"
            )


def _engines_around(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """The objects of these packages that hold an optimizer and are at work, the innermost first."""
    if not any(package in sys.modules for package in PACKAGES):  # not all of thousands of modules
        return
    optimizer = vars(optimizer).get("_whole", optimizer)  # of which it is a part
    for frame in _calls():
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in _CLIP_WITH:
            owner = frame.f_locals.get("self")
            if owner is not None and _holds(owner, optimizer):
                yield package, owner


def _holds(owner: Any, optimizer: Optimizer) -> bool:
    """Whether it is among the object's attributes, or in a list or dict there."""
    for value in getattr(owner, "__dict__", {}).values():
        several = value.values() if isinstance(value, dict) else value if type(value) is list else ()
        if value is optimizer or any(it is optimizer for it in several):
            return True
    return False


def _is_deepspeed_engine(owner: Any) -> bool:
    return any(it.__name__ == "DeepSpeedEngine" for it in type(owner).__mro__)


def _splits_models(owner: Any) -> bool:
    """Whether a DeepSpeedEngine's processes hold different parameters: by stages or within layers."""
    return getattr(owner, "dp_world_size", 1) < (dist.get_world_size() if dist.is_initialized() else 1)


def _calls() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
