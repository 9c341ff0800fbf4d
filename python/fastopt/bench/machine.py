"""The machine and the software that a run was measured on."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch

import fastopt


def proc_field(file: str, key: str) -> str | None:
    """The value behind the first line ``key: value`` of a file in /proc; None where there is none."""
    path = Path("/proc") / file
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    if device == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    kilobytes = proc_field("meminfo", "MemAvailable")
    return int(kilobytes.split()[0]) * 1024 if kilobytes else None


def cpu_count() -> int:
    """The CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts(cpus: int) -> list[int]:
    """1, 2, 4, … and all: where memory saturates lies somewhere between."""
    powers = (1 << power for power in range(cpus.bit_length()))
    return [*(count for count in powers if count < cpus), cpus]


def load_average() -> float | None:
    """Processes running or waiting to run, over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def huge_pages() -> str | None:
    """The kernel's setting of transparent huge pages: always, madvise or never."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.is_file():
        return None
    return next((word.strip("[]") for word in path.read_text().split() if "[" in word), None)


def gpu() -> dict[str, Any] | None:
    """The current CUDA device and what drives it."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(ask, capture_output=True, text=True).stdout if which(ask[0]) else ""
    return {
        "name": about.name,
        "memory_bytes": about.total_memory,
        "driver": next(iter(told.split()), None),
        "cuda": torch.version.cuda,
    }


def describe(argv: list[str], device: str = "cpu") -> dict[str, Any]:
    """Everything that a figure may depend on."""
    memory = proc_field("meminfo", "MemTotal")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "fastopt", "bench", *argv]),
        "cpu": proc_field("cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpus": cpu_count(),
        **({"gpu": gpu()} if device == "cuda" else {}),
        "memory_bytes": int(memory.split()[0]) * 1024 if memory else None,
        "huge_pages": huge_pages(),
        "load_average": [load_average()],  # at the start; the run adds the end's
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fastopt": fastopt.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
