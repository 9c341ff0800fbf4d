"""The CUDA kernels without a GPU: every block and thread of their launches, one after another."""

import ctypes
import fcntl
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastopt import _C

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "walk"
EVERY_BLOCK = (0, 2**63 - 1)


def constant(name: str, file: str) -> int:
    """A constant of the CUDA sources."""
    text = (ROOT / "csrc" / "cuda" / file).read_text()
    found = re.search(rf"constexpr int {name} = (\d+);", text)
    assert found, name
    return int(found[1])


CHUNK, THREADS = constant("chunk_size", "table.h"), constant("block_threads", "launch.h")
CHUNK_BYTES = constant("chunk_bytes", "table.h")  # of arrays of one type


class Events(ctypes.Structure):
    """What the walk does as a device and its driver would (csrc/cuda/launch.h)."""

    _fields_ = (
        ("captures", ctypes.c_bool),
        ("launches_left", ctypes.c_int64),
        ("asked", ctypes.c_void_p),
        ("answers", ctypes.c_int),
    )


class Walk:
    """csrc/cuda as the C++ compiler makes it; in use, CPU tensors count as lying on device 0."""

    def __init__(self) -> None:
        settings = ("BINDINGS=OFF", "TESTS=ON", "CUDA=OFF", "WARNINGS_AS_ERRORS=ON")
        options = [f"-DFASTOPT_{setting}" for setting in settings]
        FOLDER.mkdir(parents=True, exist_ok=True)
        with open(FOLDER / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of pytest's workers one builds, and the others find it
            for command in (
                ["cmake", "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *options],
                ["cmake", "--build", FOLDER, "--target", "fastopt_cuda_walk"],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
        self.path = str(FOLDER / "tests" / "cpp" / "libfastopt_cuda_walk.so")
        library = ctypes.CDLL(self.path)
        self._set = library.fastopt_cuda_walk
        self._set.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_bool)
        self._replay, self._forget = library.fastopt_cuda_walk_replay, library.fastopt_cuda_walk_forget
        self._pool: list[torch.Tensor] = []
        library.fastopt_cuda_walk_events.restype = ctypes.POINTER(Events)
        self._events = library.fastopt_cuda_walk_events().contents

    @contextmanager
    def in_use(self) -> Iterator[None]:
        _C.load_cuda(self.path, takes_cpu=True)
        try:
            yield
        finally:
            _C.load_cuda("")

    @contextmanager
    def out_of_use(self) -> Iterator[None]:
        """The CPU's kernels again, within ``in_use``."""
        _C.load_cuda("")
        try:
            yield
        finally:
            _C.load_cuda(self.path, takes_cpu=True)

    @contextmanager
    def going(self, blocks: tuple[int, int] = EVERY_BLOCK, backwards: bool = False) -> Iterator[None]:
        """Over these blocks of each launch only; or from the last block and thread to the first."""
        self._set(*blocks, backwards)
        try:
            yield
        finally:
            self._set(*EVERY_BLOCK, False)

    @contextmanager
    def captured(self) -> Iterator[None]:
        """While a graph captures the stream: for `replay`."""
        self._forget()
        self._pool.clear()
        empty = torch.empty

        def kept(*args: Any, **options: Any) -> torch.Tensor:
            self._pool.append(empty(*args, **options))
            return self._pool[-1]

        self._events.captures = True
        torch.empty = kept  # a graph keeps what is allocated
        try:
            yield
        finally:
            torch.empty = empty
            self._events.captures = False

    def replay(self) -> None:
        """All launches that the latest graph has captured, on the same memory."""
        self._replay()

    @contextmanager
    def failing(self, after: int) -> Iterator[None]:
        """Launches fail after so many."""
        self._events.launches_left = after
        try:
            yield
        finally:
            self._events.launches_left = 2**63 - 1

    @contextmanager
    def asking(self, function: object) -> Iterator[Callable[[], int]]:
        """Each launch calls a function of C without arguments; tells the sum of what it returned."""
        self._events.asked, self._events.answers = ctypes.cast(function, ctypes.c_void_p), 0
        try:
            yield lambda: self._events.answers
        finally:
            self._events.asked = None
