"""What this installation is: ``fastopt.info()`` and ``python -m fastopt info``."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastopt import _C
from fastopt._cuda import library_path

__version__ = version("fastopt")


def openmp_library() -> str | None:
    """The file of the OpenMP runtime that fastopt's threads come from; None if it cannot be told, or
    if fastopt was built without OpenMP.

    Of the runtimes mapped into the process, the dynamic linker binds to the one that torch made
    global, where torch ships one, and else to the system's.
    """
    maps = Path("/proc/self/maps")
    if not maps.is_file() or not _C.max_threads():
        return None
    files = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    runtimes = sorted(f for f in files if any(n in Path(f).name for n in ("gomp", "iomp", "libomp")))
    torch_folder = str(Path(torch.__file__).parent.parent)
    ours = [f for f in runtimes if f.startswith(torch_folder) and "torch" in f]
    return next(iter(ours or runtimes), None)


def info() -> dict[str, Any]:
    """Version, CPU targets, threads, CUDA and torch, as a plain dict."""
    return {
        "fastopt": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu_targets": _C.cpu_targets(),
        "cpu_target": _C.cpu_target(),
        "threads": torch.get_num_threads(),
        "openmp_threads": _C.max_threads(),
        "openmp_library": openmp_library(),
        "cuda_library": library_path(),
        "cuda_trouble": _C.cuda_trouble(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
