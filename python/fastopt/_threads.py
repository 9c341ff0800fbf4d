"""torch's operations in a forked child, where GNU OpenMP would wait for threads that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastopt import _C


@contextmanager
def fit_for_forks() -> Iterator[None]:
    """Within, and in a function that this decorates, torch starts no threads in a forked child.

    For all of its operations on whole tensors. The kernels see to it themselves.
    """
    threads = torch.get_num_threads()
    if not _C.in_forked_child() or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
