"""A job of several processes on this machine, over gloo and the loopback, for tests to run code in.

    with Job(tmp_path) as job:
        per_rank = job.run(function, argument)  # calls function(argument) on each, in rank order

The processes stay between calls, for each takes seconds to import torch. What fails or does not
answer in time takes the whole job down; the next call starts another.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 90  # seconds for one call, and for the start


def _serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT),
    )
    while True:
        function, arguments = pipe.recv()
        try:
            answer = True, function(*arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send(answer)


class Job:
    """`size` processes of one process group. What is sent both ways must pickle; send NumPy arrays."""

    def __init__(self, directory: Path, size: int = 2) -> None:
        self.directory, self.size, self.starts = directory, size, 0
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(*arguments)`, importable by name, returns on each process."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, arguments))
        deadline = time.monotonic() + TIMEOUT
        answers: list[Any] = []
        try:
            for rank, pipe in enumerate(self.pipes):
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"rank {rank}: no answer in {TIMEOUT} s")
                succeeded, answer = pipe.recv()
                assert succeeded, f"rank {rank}:\n{answer}"
                answers.append(answer)
        except BaseException:
            self.kill()
            raise
        return answers

    def start(self) -> None:
        self.starts += 1
        store = str(self.directory / f"store{self.starts}")
        context = multiprocessing.get_context("spawn")
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.pipes = [], []
