"""FSDP2 with CPUOffloadPolicy: parameters, gradients and states of each process on its host.

    python examples/offload/fsdp2.py

Two processes over gloo. On GPUs the mesh is CUDA's and the rest is the same.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from task import OPTIONS, STEPS, by_hand, check, loss_of, network
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

import fastopt


def main(rank: int, store: str, size: int = 2) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))
    model: Any = network()
    for layer in [*model, model]:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
    optimizer = fastopt.optim.AdamW(model.parameters(), **OPTIONS)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()  # the same batch on both, so that a plain loop has the same
        optimizer.step()
    assert {it.path for it in optimizer.fused_report()} == {"fastopt"}
    whole = [it.full_tensor() if isinstance(it, DTensor) else it for it in model.parameters()]
    if rank == 0:
        check("FSDP2, offloaded", whole, by_hand())
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(main, args=(f"{folder}/store",), nprocs=2)
