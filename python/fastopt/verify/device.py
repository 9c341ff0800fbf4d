"""Where trials run: a CPU target on NumPy's memory, or the CUDA device on copies of it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastopt import _C

CUDA = "cuda"
device = torch.device(CUDA)  # a test without a GPU puts the CPU here, and walks CUDA's kernels on it


def use(target: str, threads: int) -> None:
    """Make ready for a trial on this target."""
    if target != CUDA:
        _C.set_cpu_target(target)
    torch.set_num_threads(threads)


def placed(target: str, tensor: Tensor) -> Tensor:
    """The tensor itself on the CPU; a copy on the device."""
    return tensor.to(device, copy=True) if target == CUDA else tensor


def put_back(there: Tensor, here: Tensor) -> None:
    """Take what a copy holds into the tensor that it was made from."""
    if there is not here:
        here.copy_(there)


def trouble() -> str | None:
    """Why nothing can run on the device; None if it can."""
    return None if device.type == "cpu" or torch.cuda.is_available() else "torch sees no CUDA device"
