"""torch's operations in a forked child, where GNU OpenMP would wait for threads that are not there."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from fastopt import _C

P = ParamSpec("P")
T = TypeVar("T")


class fit_for_forks:  # named as what it is used like, a function
    """Within, and in a function that this decorates, torch starts no threads in a forked child.

    For all of its operations on whole tensors. The kernels see to it themselves.
    """

    _threads = 0  # to be set again

    def __enter__(self) -> None:
        if _C.in_forked_child() and (threads := torch.get_num_threads()) > 1:
            self._threads = threads
            torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def inner(*args: P.args, **options: P.kwargs) -> T:
            with fit_for_forks():  # not contextlib's decorator, which takes 2 us longer
                return function(*args, **options)

        return inner
