"""A kernel refuses wrong arguments: the message names the argument, what came and what is accepted.

And nothing has been written, not even where only the last array of a list is wrong.
"""

import ctypes
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from _kernel_cases import (
    STATES,
    USING_ALL_STATES,
    Array,
    Options,
    arguments_of,
    kernel,
    make_arrays,
    rule,
)

Arrays = dict[str, Any]
SHAPE = (3, 4)
EVERY_ARGUMENT = [(name, argument) for name in STATES for argument in arguments_of(name)]


def arrays_for(name: str, dtype: Any = np.float32) -> Arrays:
    return dict(make_arrays(name, np.random.default_rng(0), SHAPE, dtype))


def root(array: Array) -> Array:
    """The array that owns the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def refuse(
    name: str, arrays: Arrays, error: type[Exception], match: str, **options: Any
) -> None:
    """The kernel raises an error with this message and writes to none of the arrays."""
    things = [thing for column in arrays.values() for thing in np.atleast_1d_or_list(column)]
    raise NotImplementedError(things)
