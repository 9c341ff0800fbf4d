"""Calls of fastopt.kernels for the fuzzer: good ones by seeds, what may go wrong with them, a judge.

What a call is to do is the reference's to say: its bits, or an error where it has one. What it does
not know of (layout, memory, kinds of objects) stands with each defect.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import torch

from _kernel_cases import KINDS, Producer, assert_same_bits, values
from fastopt import kernels

Array = np.ndarray[Any, np.dtype[Any]]
Expected = Callable[[], dict[str, list[Array]]]  # raises where the call is to

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SINGLES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]
DOUBLE = np.dtype(np.float64)
SIDES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65)
SIZES = (4095, 4097, 16_385, 40_003)  # around chunks; shared out among threads
GUARD = 0xA5  # in every byte around an array


class Place:
    """An array in memory that is watched, and the object that a call is given for it."""

    def __init__(self, contents: Array, elements_before: int) -> None:
        begin = elements_before * contents.itemsize
        self.root = np.full(begin + contents.nbytes + 64, GUARD, np.uint8)
        self.span = slice(begin, begin + contents.nbytes)
        self.view = self.root[self.span].view(contents.dtype).reshape(contents.shape)
        self.view[...] = contents
        self.before = self.view.copy()
        self.object: Any = self.view
        self.broken = False


@dataclass
class Call:
    function: str
    places: dict[str, list[Place]]
    arguments: dict[str, Any]  # that are no arrays
    listed: type[list[Any]] | type[tuple[Any, ...]] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)  # as they are given
    one_of: dict[str, Any] = field(default_factory=dict)  # arrays given once, as they are
    bad: set[str] = field(default_factory=set)  # arguments that must be refused
    odd: set[str] = field(default_factory=set)  # that may be
    plain: dict[str, Any] = field(default_factory=dict)  # as the reference takes the arguments

    def given(self) -> dict[str, Any]:
        for name, places in self.places.items():
            self.columns.setdefault(name, []).extend(it.object for it in places)
        arrays = {
            name: column[0]
            if self.listed is None
            else tuple(column)
            if self.listed is tuple
            else column
            for name, column in self.columns.items()
        }
        return {**self.arguments, **arrays, **self.one_of}


# ---- shapes, numbers, kinds of objects ------------------------------------------------------------


def draw_shape(random: Random) -> tuple[int, ...]:
    if random.random() < 0.04:
        return (random.choice(SIZES),)
    shape: tuple[int, ...] = ()
    for _ in range(random.choice([0, 1, 1, 1, 2, 2, 3])):
        side = random.choice(SIDES)
        shape += (side if np.prod((*shape, side)) <= 5000 else 1,)
    return shape


def draw_contents(random: Random, shape: tuple[int, ...], dtype: Any) -> Array:
    kind = random.choice(KINDS) if random.random() < 0.4 else "normal"
    return values(np.random.default_rng(random.getrandbits(32)), shape, dtype, kind)


def as_torch(view: Array) -> torch.Tensor:
    if view.dtype == BFLOAT16:
        return torch.from_numpy(view.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(view)


class OldProducer(Producer):
    """From before DLPack had versions."""

    def __dlpack__(self, **others: Any) -> object:  # type: ignore[override]
        if others:
            raise TypeError("__dlpack__ takes no keyword arguments")
        return self.contents.__dlpack__()


KINDS_OF_ARRAYS: list[Callable[[Array], Any]] = [
    lambda view: view,
    as_torch,
    lambda view: torch.nn.Parameter(as_torch(view)),
    lambda view: as_torch(view).requires_grad_(),
    lambda view: as_torch(view)[...],
    lambda view: view if view.dtype == BFLOAT16 else Producer(view),
    lambda view: view if view.dtype == BFLOAT16 else OldProducer(view),
    lambda view: view if view.dtype == BFLOAT16 else memoryview(view),
    lambda view: view.view(np.recarray) if view.dtype != BFLOAT16 else view,
]


class Floats:
    """A number for float() alone."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value)


class Whole:
    """A number for operator.index() alone."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return int(self.value)


KINDS_OF_NUMBERS: list[Callable[[Any], Any]] = [
    np.float64,
    np.array,
    lambda value: torch.tensor(float(value), dtype=torch.float64),
    Floats,
    lambda value: Whole(value) if value == value // 1 < 2**62 else value,
]
KINDS_OF_WHOLE_NUMBERS: list[Callable[[Any], Any]] = [
    lambda value: np.int64(value) if value < 2**63 else value,
    lambda value: torch.tensor(value) if value < 2**63 else value,
    Whole,
]


class Raises:
    """Fails as soon as anything is asked of it."""

    def __float__(self) -> float:
        raise RuntimeError("no number")

    __bool__ = __index__ = __len__ = __dlpack__ = __float__  # type: ignore[assignment]

    def __iter__(self) -> Any:
        raise RuntimeError("no sequence")


NO_NUMBERS: list[Any] = ["1", None, 1j, [0.5], {}, object(), np.ones(3), torch.ones(2), Raises()]
BAD_NUMBERS: list[Any] = [float("nan"), -1.0, -1e-300, 10**400, float("-inf"), np.float32("nan")]
USUAL = (0.0, 0.1, 0.5, 0.9)
UNUSUAL = (1e-320, 1e-8, 0.999, 1.0, 2.0, 1e300, float("inf"), 3)


def draw_options(random: Random, rule: Callable[..., Any], without: set[str]) -> dict[str, Any]:
    """Of the rule's own, by its signature; mostly good ones."""
    options: dict[str, Any] = {}
    for name, it in inspect.signature(rule).parameters.items():
        if it.kind != it.KEYWORD_ONLY or name in without or random.random() < 0.5:
            continue
        pool = USUAL if random.random() < 0.9 else UNUSUAL
        if isinstance(it.default, bool):
            options[name] = random.random() < 0.5
        elif isinstance(it.default, tuple):
            options[name] = random.choice(USUAL), random.choice(pool)
        else:
            options[name] = random.choice(pool)
    return options


# ---- defects of arrays ----------------------------------------------------------------------------


class Refuses(Producer):
    def __dlpack__(self, **others: Any) -> object:
        raise BufferError("not today")


class Nonsense(Producer):
    def __dlpack__(self, **others: Any) -> object:
        return "a capsule"


class Impostor:
    """Calls itself bfloat16, and views as something else."""

    def __init__(self, contents: Array) -> None:
        self.dtype, self.shape = BFLOAT16, contents.shape
        self.contents = contents

    def view(self, dtype: Any) -> Array:
        return self.contents.view(np.uint8) if self.contents.ndim else self.contents.astype(np.uint8)


def freed(view: Array) -> torch.Tensor:
    tensor = torch.ones(view.shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def unaligned(view: Array) -> Array:
    moved = np.frombuffer(bytearray(view.nbytes + 1), np.uint8)[1:]
    return moved[: view.nbytes].view(view.dtype).reshape(view.shape)


def read_only(view: Array) -> Array:
    fixed = view.view()
    fixed.flags.writeable = False
    return fixed


def spread(view: Array) -> Array:
    """Every other element of a larger array."""
    return np.repeat(view, 2, axis=-1)[..., ::2] if view.ndim else view


# Each with whether it is wrong for an array of any shape; None where some may be taken.
BROKEN: list[tuple[Callable[[Array], Any], bool | None]] = [
    (lambda view: view.astype(np.int32), True),
    (lambda view: view.astype(bool), True),
    (lambda view: view.astype(np.complex64), True),
    (lambda view: view.astype(np.longdouble), True),
    (lambda view: view.astype(">f4"), True),
    (lambda view: view.astype(object), True),
    (lambda view: np.full(view.shape, b"text"), True),
    (lambda view: np.zeros(view.shape, "f4,i1"), True),
    (lambda view: torch.ones(view.shape).to(torch.float8_e5m2), True),
    (lambda view: torch.zeros(view.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), True),
    (lambda view: torch.zeros(view.shape, dtype=torch.complex32), True),
    (Impostor, True),
    (lambda view: torch.ones(view.shape).short(), True),
    (lambda view: view[..., None], None),
    (lambda view: np.ones(view.size + 1, view.dtype), None),
    (spread, None),
    (np.asfortranarray, None),
    (lambda view: view[::-1] if view.ndim else view, None),
    (lambda view: np.broadcast_to(view[:1], view.shape) if view.ndim else view, None),
    (unaligned, None),
    (read_only, None),
    (lambda view: Producer(read_only(view.astype(np.float32))), None),
    (lambda view: torch.ones(view.shape, device="meta"), True),
    (lambda view: torch.ones(view.shape).to_sparse(), True),
    (freed, None),
    (
        lambda view: torch.quantize_per_tensor(torch.ones(view.shape), 1, 0, torch.qint8),
        True,
    ),
    (lambda view: torch.ones(view.shape, dtype=torch.complex64).conj().imag, True),
    (lambda view: inference(view), None),
    (Refuses, True),
    (Nonsense, True),
    (lambda view: view.tobytes(), True),
    (lambda view: [view], True),
    (lambda view: 1.0, True),
    (lambda view: "array", True),
    (lambda view: None, True),
    (lambda view: object(), True),
    (lambda view: {0: view}, True),
    (lambda view: np.ndarray, True),
    (lambda view: Raises(), True),
]


def inference(view: Array) -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(view.shape)


# ---- the judge ------------------------------------------------------------------------------------

NAMED = re.compile(r"^(\w+)(?:\[\d+\])?: ")


def watched(call: Call) -> list[Place]:
    return [place for places in call.places.values() for place in places]


def judge(
    call: Call, expected: Callable[[], dict[str, list[Array]]], log: Callable[[str], None]
) -> str:
    """Make the call, and hold what it does against what the reference does."""
    try:
        results, refused = expected(), set(call.bad)
    except (TypeError, ValueError) as wrong:
        results, refused = {}, {*call.bad, "the reference: " + str(wrong)}
    given = call.given()
    log(f"kernels.{call.function}({', '.join(f'{k}={told(v)}' for k, v in given.items())})")
    before = [(place.root, place.root.copy()) for place in watched(call)]
    function = getattr(kernels, call.function)
    error: Exception | None = None
    try:
        returned = function(**given)
    except Exception as caught:
        error = caught
    if error is not None:
        assert isinstance(error, (TypeError, ValueError)), f"{type(error).__name__}: {error}"
        named = NAMED.match(str(error))
        assert named, f"names no argument: {error}"
        assert named[1] in inspect.signature(function).parameters, error
        assert refused or call.odd, f"a good call was refused: {error}"
        # The first array is what others are compared with; which option it is, the reference knows.
        known = not call.odd and refused <= given.keys() - {next(iter(call.places), "")}
        assert not known or named[1] in refused, f"expected an error for {refused}, got {error}"
        for root, copy in before:
            assert np.array_equal(root, copy), f"written before it was refused: {error}"
        return "refused"
    assert not refused, f"expected an error for {refused}"
    if call.odd:
        return "taken, though odd"
    check_memory(call, results, returned)
    return "equal"


def check_memory(call: Call, results: dict[str, list[Array]], returned: Any) -> None:
    """Every array holds its result, or what it held; around it, all is as it was."""
    around = {id(place.root): (place.root, np.ones(place.root.size, bool)) for place in watched(call)}
    for name, places in call.places.items():
        for i, place in enumerate(places):
            around[id(place.root)][1][place.span] = False
            if name in results:
                assert_same_bits(place.view, results[name][i], f"{name}[{i}]")
            elif not any(place.root is it.root for key in results for it in call.places.get(key, ())):
                assert place.view.tobytes() == place.before.tobytes(), f"{name}[{i}] was written"
    for root, outside in around.values():
        assert (root[outside] == GUARD).all(), "written around an array"
    if "return" in results:
        assert_same_bits(numpy_of(returned), results["return"][0], "what was returned")


def numpy_of(returned: Any) -> Array:
    if isinstance(returned, torch.Tensor):
        returned = returned.detach()
        if returned.dtype == torch.bfloat16:
            return returned.view(torch.int16).numpy().view(BFLOAT16)
        return returned.numpy()
    return np.asarray(returned)


def told(value: Any) -> str:
    """An argument in a line of the log."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(told, value))})"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__}({value.dtype}, {tuple(value.shape)})"
    if isinstance(value, Producer):
        return f"{type(value).__name__}({told(value.contents)})"
    return repr(value)[:80] if type(value) is not Raises else "Raises()"
