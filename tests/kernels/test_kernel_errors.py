"""A kernel refuses wrong arrays: the message names the argument, what came and what is accepted.

And nothing has been written, not even where only the last array of a list is wrong.
"""

import array
import contextlib
import ctypes
import gc
import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from _kernel_cases import (
    SHAPE,
    STATES,
    USING_ALL_STATES,
    Array,
    Producer,
    arguments_of,
    arrays_for,
    lists_for,
    refuse,
)
from _walk import Walk
from conftest import CPU_ONLY
from fastopt import _C, kernels

EVERY_ARGUMENT = [(name, argument) for name in STATES for argument in arguments_of(name)]


def refuse_array(name: str, argument: str, wrong: Any, error: type[Exception], got: str) -> None:
    """Refused alone, and as the last of a list."""
    match = rf"^{argument}: expected .*, got .*{got}"
    refuse(name, arrays_for(name) | {argument: wrong}, error, match)
    lists = lists_for(name)
    lists[argument][2] = wrong
    refuse(name, lists, error, rf"^{argument}\[2\]: expected .*, got .*{got}")


# ---- one wrong array ------------------------------------------------------------------------------


class Altered(Producer):
    """DLPack with a number changed in the struct that it hands out."""

    def __init__(self, contents: Array, offset: int, number: Any) -> None:
        super().__init__(contents)
        self.offset, self.number = offset, number

    def __dlpack__(self, **arguments: Any) -> object:
        capsule = super().__dlpack__(**arguments)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        struct = pointer(capsule, b"dltensor_versioned")
        ctypes.memmove(struct + self.offset, ctypes.byref(self.number), ctypes.sizeof(self.number))
        return capsule


# Offsets into DLManagedTensorVersioned, of its version, data, device and lanes.
def of_another_version(good: Array) -> Altered:
    return Altered(good, 0, ctypes.c_uint32(2))


def without_data(good: Array) -> Altered:
    return Altered(good, 32, ctypes.c_void_p(None))


def on_cuda(good: Array) -> Altered:
    return Altered(good, 40, ctypes.c_int32(2))


def on_rocm(good: Array) -> Altered:
    return Altered(good, 40, ctypes.c_int32(10))


def of_pairs(good: Array) -> Altered:
    return Altered(good, 54, ctypes.c_uint16(2))


class Refusing(Producer):
    def __dlpack__(self, **arguments: Any) -> object:
        raise BufferError("not today")


class Nonsense(Producer):
    def __dlpack__(self, **arguments: Any) -> object:
        return 3


def torch_of(good: Array) -> torch.Tensor:
    return torch.from_numpy(good.copy())


def unaligned(good: Array) -> Array:
    return np.frombuffer(bytearray(good.nbytes + 1), np.uint8)[1:].view(good.dtype).reshape(SHAPE)


def field(good: Array) -> Array:
    record = np.zeros(SHAPE, [("flag", np.int8), ("value", good.dtype)])
    return record["value"]


def freed(good: Array) -> torch.Tensor:
    tensor = torch.ones(SHAPE)
    tensor.untyped_storage().resize_(0)
    return tensor


FAKE = FakeTensorMode()


def fake(good: Array) -> torch.Tensor:
    with FAKE:
        return torch.ones(SHAPE)


def negated(good: Array) -> torch.Tensor:
    return torch.complex(torch_of(good), torch_of(good)).conj().imag


LAYOUT = "strides that leave gaps"
WRONG_LAYOUTS: dict[str, tuple[Callable[[Array], Any], str]] = {
    "every other column": (lambda good: np.repeat(good, 2, axis=1)[:, ::2], LAYOUT),
    "Fortran order": (np.asfortranarray, LAYOUT),
    "reversed": (lambda good: good.copy()[::-1], LAYOUT),
    "broadcast": (lambda good: np.broadcast_to(good[:1].copy(), SHAPE), LAYOUT),
    "field of a record": (field, LAYOUT),
    "unaligned": (unaligned, "an address between elements"),
    "torch transposed": (lambda good: torch.ones(4, 3).t(), LAYOUT),
    "torch channels": (lambda good: torch.ones(3, 8)[:, ::2], LAYOUT),
    "DLPack Fortran order": (lambda good: Producer(np.asfortranarray(good)), LAYOUT),
    "torch negated view": (negated, "a lazily negated view"),
}
WRONG_DTYPES: dict[str, tuple[Callable[[Array], Any], str]] = {
    **{
        name: (lambda good, name=name: good.astype(name), name + "$")
        for name in ("int32", "int64", "uint8", "bool", "complex64", "complex128")
    },
    "longdouble": (lambda good: good.astype(np.longdouble), r"float(96|128)$"),
    "byte-swapped": (lambda good: good.astype(">f4"), "buffer format '>f'$"),
    "text": (lambda good: good.astype("S9"), "buffer format '9s'$"),
    "record": (lambda good: np.zeros(SHAPE, "f4,f4"), r"buffer format 'T\{"),
    "objects": (lambda good: good.astype(object), "buffer format 'O'$"),
    "nothing": (lambda good: np.empty(SHAPE, "V0"), "buffer format '0x'$"),
    "times": (lambda good: np.zeros(SHAPE, "M8[s]"), "ndarray "),
    "pairs": (of_pairs, "float32x2$"),
    **{
        f"torch {name}": (lambda good, name=name: torch_of(good).to(getattr(torch, name)), got)
        for name, got in {
            "float8_e4m3fn": "8 bits$",
            "int16": "int16$",
            "bool": "bool$",
            "complex64": "complex64$",
        }.items()
    },
}
WRONG_MEMORY: dict[str, tuple[Callable[[Array], Any], type[Exception], str]] = {
    "torch meta": (lambda good: torch.ones(SHAPE, device="meta"), ValueError, "on device meta$"),
    "torch sparse COO": (lambda good: torch_of(good).to_sparse(), TypeError, "torch.sparse_coo"),
    "torch sparse CSR": (lambda good: torch_of(good).to_sparse_csr(), TypeError, "torch.sparse_csr"),
    "torch freed": (freed, TypeError, "torch.strided, torch.float32 on device cpu$"),
    "torch fake": (fake, TypeError, "FakeTensor, which has none$"),
    "DLPack on ROCm": (on_rocm, ValueError, "memory of a ROCm device$"),
    "DLPack without data": (without_data, TypeError, "Altered, which has none$"),
    "DLPack of another version": (of_another_version, TypeError, "version 2$"),
    "DLPack refused": (Refusing, TypeError, r"Refusing \(not today\)$"),
    "DLPack nonsense": (Nonsense, TypeError, "int$"),
}


@pytest.mark.parametrize("wrong", WRONG_LAYOUTS)
def test_a_wrong_layout(wrong: str) -> None:
    make, got = WRONG_LAYOUTS[wrong]
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, make(arrays_for(name)[argument]), ValueError, got)


@pytest.mark.parametrize("wrong", WRONG_DTYPES)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_wrong_dtype(wrong: str) -> None:
    make, got = WRONG_DTYPES[wrong]
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, make(arrays_for(name)[argument]), TypeError, got)


@pytest.mark.parametrize("wrong", WRONG_MEMORY)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:Accessing the data pointer of FakeTensor")
def test_wrong_memory(wrong: str) -> None:
    make, error, got = WRONG_MEMORY[wrong]
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, make(arrays_for(name)[argument]), error, got)


@pytest.mark.skipif(_C.cuda_trouble() is None, reason="the kernels would take it for a device's")
def test_memory_of_cuda_without_kernels_for_it() -> None:
    got = r"memory of CUDA device 0 \(.*(no CUDA library|driver is missing).*\)$"
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, on_cuda(arrays_for(name)[argument]), ValueError, got)


def test_memory_of_cuda_that_is_not_torchs(cuda_walk: Walk) -> None:
    """What another library has on its streams may not be done yet."""
    for name, argument in EVERY_ARGUMENT:
        if name in CPU_ONLY:
            continue
        wrong = on_cuda(arrays_for(name)[argument])
        refuse_array(name, argument, wrong, ValueError, "CUDA device 0 that is not torch's$")


@pytest.mark.parametrize(
    "wrong", ["text", 1.0, object(), {}, {1.0}, range(3)], ids=lambda it: type(it).__name__
)
def test_what_is_no_array(wrong: Any) -> None:
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, wrong, TypeError, type(wrong).__name__ + "$")


@pytest.mark.parametrize("wrong", [b"bytes", np.float32(1)], ids=repr)
def test_buffers_that_are_no_arrays(wrong: Any) -> None:
    for name, argument in EVERY_ARGUMENT:
        error = TypeError if isinstance(wrong, bytes) else ValueError
        refuse_array(name, argument, wrong, error, "")


class Impostor:
    """Calls itself bfloat16, as ml_dtypes' arrays do, and has items of another size."""

    class dtype:
        name = "bfloat16"

    def __init__(self, items: Array) -> None:
        self.items = items

    def view(self, _: str) -> Array:
        return self.items


@pytest.mark.parametrize("items", [np.uint8, np.uint32, np.int16, np.float16])
def test_what_calls_itself_bfloat16(items: type) -> None:
    for name, argument in EVERY_ARGUMENT:
        refuse_array(name, argument, Impostor(np.zeros(SHAPE, items)), TypeError, "Impostor$")


READ_ONLY: dict[str, Callable[[Array], Any]] = {
    "numpy": np.asarray,
    "memoryview": memoryview,
    "DLPack": Producer,
}


@pytest.mark.parametrize("kind", READ_ONLY)
def test_read_only_memory(kind: str) -> None:
    for name, argument in EVERY_ARGUMENT:
        if argument != "grad":
            array = arrays_for(name)[argument]
            array.flags.writeable = False
            refuse_array(name, argument, READ_ONLY[kind](array), ValueError, "a read-only array$")


@pytest.mark.parametrize("shape", [(), (12,), (4, 3), (3, 5), (3, 4, 1), (0, 4)], ids=str)
def test_a_shape_other_than_the_parameters(shape: tuple[int, ...]) -> None:
    got = re.escape(str(shape)) + "$"
    for name, argument in EVERY_ARGUMENT:
        if argument != "param":
            for wrong in (np.ones(shape, np.float32), torch.ones(shape)):
                refuse_array(name, argument, wrong, ValueError, got)


def test_a_dtype_other_than_the_parameters() -> None:
    for name, argument in EVERY_ARGUMENT:
        if argument != "param":
            refuse_array(name, argument, np.ones(SHAPE), TypeError, "float64$")
            half = np.ones(SHAPE, np.float16)
            wide = dict.fromkeys(arguments_of(name), np.ones(SHAPE)) | {argument: half}
            copies = {key: value.copy() for key, value in wide.items()}
            match = f"^{argument}: expected float64 like param, got float16$"
            refuse(name, copies, TypeError, match)
            halves = {key: half.copy() for key in wide} | {argument: np.ones(SHAPE)}
            match = f"^{argument}: expected float32, bfloat16 or float16 beside param, got float64$"
            refuse(name, halves, TypeError, match)
    lists = lists_for("adam") | {"param": [np.ones(SHAPE, np.float32)] * 2 + [np.ones(SHAPE)]}
    lists["param"][1] = lists["param"][0].copy()
    refuse("adam", lists, TypeError, r"^grad\[2\]: expected float64 like param\[2\], got float32$")


def test_a_missing_array() -> None:
    for name, argument in EVERY_ARGUMENT:
        match = rf"^{argument}: expected an array .*, got None$"
        refuse(name, arrays_for(name) | {argument: None}, TypeError, match)
        refuse(name, lists_for(name) | {argument: None}, TypeError, match)
        lists = lists_for(name)
        lists[argument][2] = None
        refuse(name, lists, TypeError, rf"^{argument}\[2\]: expected .*, got NoneType$")


# ---- lists that do not go together ----------------------------------------------------------------


def test_lists_of_different_lengths() -> None:
    for name, argument in EVERY_ARGUMENT:
        for count in (2, 4) if argument != "param" else ():
            match = rf"^{argument}: expected 3 arrays like param, got {count}$"
            wrong = lists_for(name, count)[argument]
            refuse(name, lists_for(name) | {argument: wrong}, ValueError, match)


def test_a_list_beside_single_arrays() -> None:
    for name, argument in EVERY_ARGUMENT:
        one, many = arrays_for(name), lists_for(name, 1)
        if argument == "param":
            match = "^grad: expected a list of arrays like param, got ndarray$"
            refuse(name, one | {"param": many["param"]}, TypeError, match)
        else:
            match = f"^{argument}: expected one array like param, got list$"
            refuse(name, one | {argument: many[argument]}, TypeError, match)
            match = f"^{argument}: expected a list of arrays like param, got ndarray$"
            refuse(name, many | {argument: one[argument]}, TypeError, match)


# ---- memory that is shared ------------------------------------------------------------------------


def overlapping(shift: int) -> tuple[Array, Array]:
    """Two arrays in one buffer, the second `shift` elements after the first."""
    buffer, size = np.ones(100, np.float32), int(np.prod(SHAPE))
    return buffer[:size].reshape(SHAPE), buffer[shift : shift + size].reshape(SHAPE)


@pytest.mark.parametrize("shift", [0, 1, 11], ids=["all", "all but one", "only one"])
def test_arrays_that_share_elements(shift: int) -> None:
    for name in STATES:
        for one, two in itertools.combinations(arguments_of(name), 2):
            first, second = overlapping(shift)
            match = f"^({one}: .* with {two}|{two}: .* with {one})$"
            refuse(name, arrays_for(name) | {one: first, two: second}, ValueError, match)
            refuse(name, arrays_for(name) | {two: first, one: second}, ValueError, match)


@pytest.mark.parametrize("shift", [0, 1, 11], ids=["all", "all but one", "only one"])
def test_arrays_that_share_elements_across_lists(shift: int) -> None:
    for name in STATES:
        for one, two in itertools.product(arguments_of(name), repeat=2):
            if one == two == "grad":
                continue
            lists = lists_for(name)
            lists[one][0], lists[two][2] = overlapping(shift)
            names = rf"{one}\[0\]", rf"{two}\[2\]"
            match = "^({0}: expected .* with {1}|{1}: expected .* with {0})$".format(*names)
            refuse(name, lists, ValueError, match)


def test_one_memory_behind_different_kinds_of_arrays() -> None:
    array = np.ones(SHAPE, np.float32)
    for one, two in itertools.permutations([array, torch.from_numpy(array), Producer(array)], 2):
        refuse("sgd", arrays_for("sgd") | {"param": one, "grad": two}, ValueError, "memory shared")


# ---- code that runs inside the call ---------------------------------------------------------------

MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "frees": lambda tensor: tensor.untyped_storage().resize_(0),
    "grows": lambda tensor: tensor.resize_(100_000),
    "shrinks": lambda tensor: tensor.resize_(0),
    "replaces": lambda tensor: tensor.set_(torch.ones(SHAPE)),
}


class Moving(Producer):
    """Does something to another argument once it is asked for its own memory or number."""

    def __init__(self, contents: Any, move: Callable[[torch.Tensor], Any], of: torch.Tensor) -> None:
        super().__init__(contents)
        self.move, self.of = move, of

    def __dlpack__(self, **arguments: Any) -> object:
        self.move(self.of)
        return super().__dlpack__(**arguments)

    def __float__(self) -> float:
        self.move(self.of)
        return float(self.contents)


@pytest.mark.parametrize("move", MOVES)
def test_a_tensor_that_another_argument_moves(move: str) -> None:
    for name in STATES:
        first, *others = arguments_of(name)
        for other in [*others, "step"]:
            tensor = torch.ones(SHAPE)
            arrays: dict[str, Any] = {**arrays_for(name), first: tensor}
            contents = arrays.get(other, 1)
            arguments = arrays | {other: Moving(contents, MOVES[move], tensor)}
            before = {key: value.copy() for key, value in arrays.items() if key not in (first, other)}
            with pytest.raises(ValueError, match=rf"^{first}: expected memory that stays"):
                getattr(kernels, f"{name}_")(**USING_ALL_STATES[name], **arguments)
            assert all((arrays[key] == value).all() for key, value in before.items())


# ---- what a refusal leaves behind -----------------------------------------------------------------


def test_a_refusal_bumps_no_version_counter() -> None:
    param, grad = torch.ones(4), torch.ones(4)
    with pytest.raises(ValueError, match=r"^lr: "):
        kernels.sgd_(param, grad, lr=-1)
    assert param._version == grad._version == 0


@pytest.mark.parametrize("size", [4, 5], ids=["accepted", "refused"])
def test_nothing_is_held_after_a_call(size: int) -> None:
    """Neither a buffer, which could no longer grow, nor a reference."""
    param, contents = array.array("f", [1, 1, 1, 1]), np.ones(size, np.float32)
    references = sys.getrefcount(contents)
    grad = Producer(contents)
    with contextlib.nullcontext() if size == 4 else pytest.raises(ValueError, match="shape"):
        kernels.sgd_(param, grad)
    param.append(1)
    del grad
    gc.collect()
    assert sys.getrefcount(contents) == references
