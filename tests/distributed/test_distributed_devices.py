"""`max_grad_norm` over groups whose only backend is a device's, as NCCL is: the sums travel there.

No machine of these tests has such a device. A stand-in for its backend refuses tensors of the CPU, but
for those that were asked for on the device, which are made on the CPU in its place.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _world
from torch.distributed.tensor import DTensor, Shard

import fastopt
from _ranks import Job
from fastopt.optim import _distributed

asked_for: list[torch.device] = []


class Work(dist.Work):
    """Done."""

    def wait(self, timeout: Any = None) -> bool:
        return True


class OfDevices(dist.ProcessGroup):
    """Gathers by gloo what lies on the device."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any) -> Work:
        if not asked_for:
            raise RuntimeError("No backend type associated with device type cpu")
        dist.all_gather(outputs[0], inputs[0])
        return Work()

    @property
    def group_name(self) -> str:
        return str(_world.pg_names[self])

    def getBackendName(self) -> str:
        return "of devices"


def create(store: Any, rank: int, size: int, timeout: Any) -> OfDevices:
    return OfDevices(rank, size)


def group_of_devices(backend: str) -> dist.ProcessGroup:
    if "standin" not in dist.Backend.backend_list:
        dist.Backend.register_backend("standin", create, devices=["cuda"])
    return dist.new_group(backend=backend)


def step_on_mesh(backend: str, size: int) -> tuple[float, list[str]]:
    """The norm, and where the sums travelled.

    Each size is of one group: DTensor remembers, by sizes, which of equal meshes it has seen first.
    """
    asked_for.clear()
    group = group_of_devices(backend)
    mesh = DeviceMesh.from_group(group, "cpu")
    local = torch.arange(1.0, size + 1) + size * dist.get_rank()
    param = torch.nn.Parameter(DTensor.from_local(local, mesh, [Shard(0)], run_check=False))
    param.grad = DTensor.from_local(local.clone(), mesh, [Shard(0)], run_check=False)
    optimizer = fastopt.optim.SGD([param], lr=1.0, max_grad_norm=0.5)

    def in_its_place(group: Any) -> torch.device:
        device = device_of(group)
        asked_for.append(device)
        return torch.device("cpu")

    device_of = _distributed._device_of
    with mock.patch.object(_distributed, "_device_of", in_its_place):
        optimizer.step()
    assert optimizer.grad_norm is not None
    factor = 0.5 / (optimizer.grad_norm.item() + 1e-6)
    before = np.arange(1, size + 1, dtype=np.float32) + size * dist.get_rank()
    expected = before - np.float32(factor) * before
    stepped: Any = param.detach()
    assert np.array_equal(stepped.to_local().numpy(), expected)
    return optimizer.grad_norm.item(), [str(it) for it in asked_for]


@pytest.mark.parametrize(
    ("backend", "device", "size"),
    [("cuda:standin", "cuda", 3), ("gloo", "cpu", 4), ("cpu:gloo,cuda:gloo", "cpu", 5)],
)
def test_the_sums_travel_where_the_group_can(job: Job, backend: str, device: str, size: int) -> None:
    for norm, devices in job.run(step_on_mesh, backend, size):
        assert norm == np.sqrt(np.square(np.arange(1.0, 2 * size + 1)).sum())
        assert set(devices) == {device}


def bound() -> str:
    group = group_of_devices("cuda:standin")
    with mock.patch.object(type(group), "bound_device_id", torch.device("cuda", 1)):
        return str(_distributed._device_of(group))


def test_a_group_that_is_bound_to_a_device(job: Job) -> None:
    assert job.run(bound) == ["cuda:1", "cuda:1"]


def refused_by_one() -> str:
    """A refusal travels there, too."""
    asked_for.clear()
    group = group_of_devices("cuda:standin")
    mesh = DeviceMesh.from_group(group, "cpu")
    part = DTensor.from_local(torch.ones(6), mesh, [Shard(0)], run_check=False)
    param = torch.nn.Parameter(part)
    param.grad = DTensor.from_local(torch.ones(6), mesh, [Shard(0)], run_check=False)
    optimizer = fastopt.optim.AdamW([param], max_grad_norm=0.5)
    if dist.get_rank() == 1:
        optimizer.state[param] = {"step": torch.zeros(())}
    with mock.patch.object(_distributed, "_device_of", lambda group: asked_for.append(group) or "cpu"):
        try:
            optimizer.step()
        except (ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
    return "stepped"


def test_a_refusal_is_everybodys(job: Job) -> None:
    answers = job.run(refused_by_one)
    assert "max_grad_norm: refused on rank 1" in answers[0]
    assert answers[1].startswith("KeyError")
