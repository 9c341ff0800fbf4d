"""The squared norm of gradients that lie on several processes.

A step sums up the squares that its own process holds; :func:`total_squares` adds what the others
hold, every element once:

* parameters that are DTensors: over the mesh dimensions that cut them, and not over replicas;
* parameters that are spread whole, a part of the list on each process (``ZeroRedundancyOptimizer``,
  stages of a pipeline) or cut without saying so (FSDP1): over ``optimizer.grad_norm_group``;
* all others count as the same on every process, as under DistributedDataParallel.

Every process adds the same doubles in the order of their ranks, so all get the same bits. What is
not understood is refused, never taken for the whole.

Random rounding and 8-bit states ask where a part lies in the whole (:func:`first_index`,
:func:`first_row`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fastopt.optim._stepped import Part

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

_AVAILABLE = dist.is_available()  # in this build of torch


def is_distributed() -> bool:
    """Whether this process belongs to a job of several."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size() > 1


def rank_in(group: ProcessGroup | None) -> int:
    """This process's place among those that hold different parameters; 0 if there are none."""
    return 0 if group is None else dist.get_rank(group)


def total_squares(parts: list[Part], group: ProcessGroup | None) -> float:
    """The sum of squares over all processes.

    Args:
        parts: what this process holds, the same meshes and placements in the same order everywhere.
        group: processes that hold different parameters.

    Raises:
        ValueError: if it is unknown which processes hold what, or one of them has refused.
    """
    return _exchange(parts, group, None)


def announce_refusal(params: list[Tensor], group: ProcessGroup | None) -> None:
    """Let the others, which wait in :func:`total_squares`, know that no sum will come.

    Args:
        params: all of this process's parameters, in the order of the groups.
    """
    parts: list[Part] = []
    for param in params:
        if not is_dtensor(param) and param.grad is None:
            continue
        part = _layout_of(param) if is_dtensor(param) else (None, None)
        if (*part, 0.0) not in parts:
            parts.append((*part, 0.0))
    parts.sort(key=lambda part: part[0] is not None)  # plain ones first, as in a step
    try:
        _exchange(parts, group, dist.get_rank())
    except ValueError:  # this very refusal, or another one that all have come to before they waited
        return


def _exchange(parts: list[Part], group: ProcessGroup | None, refuser: int | None) -> float:
    """What total_squares returns. A process that refuses takes part in its collectives all the same.

    Refusals travel as negative numbers, and whoever has met one sends it on: over every dimension of
    a mesh, so that no process goes on alone, replicas included.
    """
    sums: dict[tuple[DeviceMesh, tuple[int, ...]], float] = {}
    total = 0.0
    for mesh, placements, squares in parts:
        if mesh is None:
            total += squares
        else:
            key = mesh, _cut_dimensions(placements)
            sums[key] = sums.get(key, 0.0) + squares
    if sums:
        _check_meshes([mesh for mesh, _ in sums], group, plain=len(parts) > 0 and parts[0][0] is None)

    def add_up(value: float, over: ProcessGroup) -> float:
        nonlocal refuser
        gathered = _gather(value if refuser is None else -1.0 - refuser, over)
        refusals = [it for it in gathered if it < 0]
        if refusals:
            refuser = int(-1 - max(refusals))
        return _add_up(gathered)

    for (mesh, dimensions), squares in sums.items():
        for dimension in dimensions:
            squares = add_up(squares, mesh.get_group(dimension))
        total += squares
    if sums:
        for mesh, dimension in _silent_dimensions(list(sums)):
            add_up(0.0, mesh.get_group(dimension))
    if group is not None:
        total = add_up(total, group)
    if refuser is not None:
        raise ValueError(f"max_grad_norm: refused on rank {refuser}, whose error tells why")
    return total


def first_index(param: Tensor) -> int | None:
    """Where this process's part of a DTensor begins in it, in C order; None if it is no range of it."""
    tensor = cast("DTensor", param)
    mesh = tensor.device_mesh
    place = mesh.get_coordinate()
    return _first_index(tensor.shape, mesh, tensor.placements, None if place is None else tuple(place))


@lru_cache(maxsize=4096)
def _first_index(
    whole: torch.Size, mesh: DeviceMesh, placements: tuple[Any, ...], coordinate: tuple[int, ...] | None
) -> int | None:
    """The same; torch takes longer to tell than a step takes. The coordinate is this process's."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(type(it) not in (Replicate, Shard) for it in placements):
        return None
    shape, offset = compute_local_shape_and_global_offset(whole, mesh, placements)
    if tuple(shape[1:]) != tuple(whole[1:]):
        return None
    return int(offset[0]) * math.prod(shape[1:]) if shape else 0


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is a DTensor; nothing is before somebody has imported them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and type(tensor) is module.DTensor


def first_row(param: Tensor) -> int | None:
    """Where this process's rows of a parameter begin in it; None if it does not hold whole rows."""
    if not is_dtensor(param):
        return 0
    first = first_index(param)
    return None if first is None or param.ndim == 0 else first // max(1, math.prod(param.shape[1:]))


def local_part(tensor: Tensor) -> Tensor:
    """What of it lies in this process."""
    return cast("DTensor", tensor).to_local() if is_dtensor(tensor) else tensor


def cut_like(param: Tensor, local: Tensor, columns: int | None = None) -> Tensor:
    """A tensor whose part in this process is ``local``, cut up as ``param`` is.

    Its shape is the parameter's, or (rows, columns).
    """
    if not is_dtensor(param):
        return local
    from torch.distributed.tensor import DTensor

    like = cast("DTensor", param)
    whole = like.shape if columns is None else torch.Size((like.shape[0], columns))
    stride = torch.empty(whole, device="meta").stride()
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=whole, stride=stride
    )


def refuse_hidden_shards(params: Iterable[Tensor], group: ProcessGroup | None) -> None:
    """ValueError if plain tensors are shards of FSDP1, which does not say how it cuts them."""
    if group is not None or "torch.distributed.fsdp" not in sys.modules:
        return
    if any(getattr(param, "_fsdp_flattened", False) for param in params):
        raise ValueError(
            "max_grad_norm: expected parameters that are whole on every process, got shards of "
            "FullyShardedDataParallel; set optimizer.grad_norm_group to the process group that it "
            "shards over, or use fully_shard"
        )


def _cut_dimensions(placements: Any) -> tuple[int, ...]:
    """The mesh dimensions whose processes hold different elements."""
    from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

    for placement in placements:
        if not isinstance(placement, (Replicate, Shard, _StridedShard)):
            raise ValueError(
                f"max_grad_norm: expected DTensors that are sharded or replicated, got {placement}"
            )
    return tuple(i for i, it in enumerate(placements) if not isinstance(it, Replicate))


def _silent_dimensions(
    cuts: list[tuple[DeviceMesh, tuple[int, ...]]],
) -> Iterator[tuple[DeviceMesh, int]]:
    """Dimensions of a mesh that no sum goes over, unless sums go over all dimensions of some mesh."""
    summed: dict[DeviceMesh, set[int]] = {}
    for mesh, dimensions in cuts:
        summed.setdefault(mesh, set()).update(dimensions)
    if all(len(dimensions) < mesh.ndim for mesh, dimensions in summed.items()):
        mesh = cuts[0][0]
        yield from ((mesh, it) for it in range(mesh.ndim) if it not in summed[mesh])


def _layout_of(param: Tensor) -> tuple[DeviceMesh, Any]:
    tensor = cast("DTensor", param)
    return tensor.device_mesh, tensor.placements


def _check_meshes(meshes: list[DeviceMesh], group: ProcessGroup | None, plain: bool) -> None:
    """ValueError unless the sums over these meshes, added up, are the same on every process."""
    if plain:
        raise ValueError(
            "max_grad_norm: expected DTensors only or plain tensors only, got both; whether the "
            "plain ones are replicas or parts is unknown. Clip with torch.nn.utils.clip_grad_norm_"
        )
    ranks = [sorted(mesh.mesh.flatten().tolist()) for mesh in meshes]
    if ranks.count(ranks[0]) < len(ranks):
        raise ValueError(f"max_grad_norm: expected every mesh to span the same processes, got {meshes}")
    if dist.get_rank() not in ranks[0]:
        raise ValueError(f"max_grad_norm: this process is not part of {meshes[0]}")
    if group is None:
        if len(ranks[0]) < dist.get_world_size():
            raise ValueError(
                f"max_grad_norm: {meshes[0]} spans {len(ranks[0])} of {dist.get_world_size()} "
                "processes, and whether the others hold replicas or other parameters is unknown; "
                "set optimizer.grad_norm_group to the processes that hold other parameters (a group "
                "of this process alone if none do)"
            )
    elif set(ranks[0]) & set(dist.get_process_group_ranks(group)) != {dist.get_rank()}:
        raise ValueError(
            "max_grad_norm: expected a grad_norm_group that shares no process with the parameters' "
            f"mesh but this one, got {dist.get_process_group_ranks(group)} and {ranks[0]}"
        )


def _gather(value: float, group: ProcessGroup) -> list[float]:
    """The values of all processes, in the order of their ranks."""
    size = dist.get_world_size(group)
    if size == 1:
        return [value]
    own = torch.tensor([value], dtype=torch.float64, device=_device_of(group))
    values = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(values, own, group=group)
    return [it.item() for it in values]


def _device_of(group: ProcessGroup) -> torch.device:
    """Where what the group's processes exchange must lie: the CPU, unless it has no backend for that.

    NCCL alone is such a group's, of a mesh of CUDA's whose parameters are offloaded to the CPU.
    """
    kinds = [it.partition(":")[0] for it in dist.get_backend_config(group).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    bound = getattr(group, "bound_device_id", None)
    return bound if bound is not None and bound.type in kinds else torch.device(kinds[0])


def _add_up(values: list[float]) -> float:
    total = 0.0  # the sum of newer Pythons compensates, and has other bits
    for value in values:
        total += value
    return total
