"""Kernels on arrays of bfloat16 and float16, in any mix with float32: the references' bits."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from _kernel_cases import (
    KINDS,
    OPTIONS,
    SEEDS,
    SHAPES,
    STATES,
    STEPS,
    USING_ALL_STATES,
    Array,
    Options,
    arguments_of,
    assert_same_bits,
    assert_step,
    kernel,
    rule,
    values,
)
from conftest import takes
from fastopt import kernels
from fastopt.reference.storage import widen

Arrays = dict[str, Array]

F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)

# What param, grad and the states are stored in.
MIXES: dict[str, tuple[np.dtype[Any], ...]] = {
    "bfloat16": (BF16,) * 5,
    "float16": (F16,) * 5,
    "bfloat16 states": (F32, F32, BF16, BF16, BF16),
    "bfloat16 grad": (F32, BF16, F32, F32, F32),
    "bfloat16 param": (BF16, F32, F32, F32, F32),
    "float32 states": (BF16, BF16, F32, F32, F32),
    "float32 last state": (BF16, BF16, BF16, BF16, F32),
    "float16 grad": (BF16, F16, BF16, BF16, BF16),
    "float16 param": (F16, F16, F32, BF16, F32),
    "everything": (F16, BF16, F32, BF16, F16),
}
SIZES = [0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 4097]
each_mix = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
each_rule = pytest.mark.parametrize("name", STATES)


def draw(
    name: str, mix: tuple[np.dtype[Any], ...], random: np.random.Generator, shape: Any, kind: str
) -> Arrays:
    """Arrays for one step. Of ordinary numbers, every state is >= 0."""
    pairs = zip(arguments_of(name), mix, strict=False)
    arrays = {key: values(random, shape, dtype, kind) for key, dtype in pairs}
    if kind == "normal":
        for state in STATES[name]:
            np.abs(arrays[state], out=arrays[state])
    return arrays


def copies(arrays: Arrays) -> Arrays:
    return {key: value.copy() for key, value in arrays.items()}


def placed(contents: Array, offset: int) -> tuple[Array, Array]:
    """A copy of an array, `offset` elements into a larger buffer of sevens; the buffer."""
    buffer = np.full(contents.size + offset + 40, 7, contents.dtype)
    place = buffer[offset : offset + contents.size].reshape(contents.shape)
    place[...] = contents
    return place, buffer


def step_within_buffers(name: str, before: Arrays, offsets: list[int], **options: Any) -> None:
    """One step on arrays within larger ones: the reference's bits, and nothing written beside."""
    after, buffers = {}, {}
    for (key, contents), offset in zip(before.items(), offsets, strict=False):
        after[key], buffers[key] = placed(contents, offset)
    kernel(name)(**after, **options)
    assert_step(name, before, after, **options)
    for (key, buffer), offset in zip(buffers.items(), offsets, strict=False):
        around = np.delete(buffer, np.arange(offset, offset + before[key].size))
        assert (around == 7).all(), f"{key}: written outside of the array"


RULES = st.sampled_from(list(STATES)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]))


@given(
    case=RULES,
    step=STEPS,
    mix=st.sampled_from(list(MIXES.values())) | st.tuples(*[st.sampled_from([F32, F16, BF16])] * 5),
    shape=SHAPES,
    kind=st.sampled_from(KINDS),
    offsets=st.lists(st.integers(0, 20), min_size=5, max_size=5),
    random=SEEDS,
)
@settings(max_examples=150)
def test_a_step_equals_the_reference(
    backend: str,
    case: tuple[str, Options],
    step: int,
    mix: tuple[np.dtype[Any], ...],
    shape: tuple[int, ...],
    kind: str,
    offsets: list[int],
    random: np.random.Generator,
) -> None:
    name, options = case
    assume(takes(backend, name))
    step_within_buffers(name, draw(name, mix, random, shape, kind), offsets, step=step, **options)


@each_mix
@each_rule
def test_every_size_around_a_vector(
    backend: str, name: str, mix: tuple[np.dtype[Any], ...], random: np.random.Generator
) -> None:
    for turn, size in enumerate(SIZES):
        before = draw(name, mix, random, size, KINDS[turn % len(KINDS)])
        offsets = random.integers(0, 20, 5).tolist()
        options = USING_ALL_STATES[name] | {"step": 3, "weight_decay": 0.1}
        step_within_buffers(name, before, offsets, **options)


@each_rule
def test_bits_do_not_depend_on_the_threads(
    backend: str, name: str, set_threads: Callable[[int], None], random: np.random.Generator
) -> None:
    """Every mix in one call, each long enough to be cut."""
    kinds = ["normal", "bits"] * len(MIXES)
    before = [
        draw(name, mix, random, size, kind)
        for mix, kind in zip(MIXES.values(), kinds, strict=False)
        for size in (70001, 63)
    ]
    options = USING_ALL_STATES[name] | {"step": 7}
    expected = [rule(name)(**arrays, **options) for arrays in before]
    for threads in (1, 2, 3):
        set_threads(threads)
        after = [copies(arrays) for arrays in before]
        kernel(name)(**{key: [it[key] for it in after] for key in arguments_of(name)}, **options)
        for arrays, results in zip(after, expected, strict=True):
            for key, result in zip(["param", *STATES[name]], results, strict=True):
                assert_same_bits(arrays[key], result, key)


@each_mix
@each_rule
def test_many_steps_stay_on_the_reference(
    name: str, mix: tuple[np.dtype[Any], ...], random: np.random.Generator
) -> None:
    """What one step stores, the next one takes: 50 steps from zero states."""
    after = draw(name, mix, random, 67, "normal")
    after |= {state: np.zeros_like(after[state]) for state in STATES[name]}
    expected = copies(after)
    for step in range(1, 51):
        after["grad"] = expected["grad"] = values(random, 67, mix[1])
        kernel(name)(**after, step=step, **USING_ALL_STATES[name])
        results = rule(name)(**expected, step=step, **USING_ALL_STATES[name])
        expected |= dict(zip(["param", *STATES[name]], results, strict=True))
    for key, value in expected.items():
        assert_same_bits(after[key], value, key)


# ---- every number ---------------------------------------------------------------------------------


def everything(dtype: np.dtype[Any]) -> Array:
    """Every number that there is in a type of 16 bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_every_number_is_read_and_stored(backend: str, dtype: np.dtype[Any]) -> None:
    """By a step that changes nothing. NaN stays NaN, also where all of its bits are ones."""
    param = everything(dtype)
    kernels.sgd_(param, np.zeros_like(param))
    assert_same_bits(param, everything(dtype))
    assert np.isnan(param).sum() == {BF16: 2 * 127, F16: 2 * 1023}[dtype]


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFFC00001], ids=hex)
def test_states_keep_a_gradients_nan(backend: str, dtype: np.dtype[Any], bits: int) -> None:
    """Whatever its bits are: no draw that is added to them makes a number of it."""
    grad = np.full(67, bits, np.uint32).view(np.float32)
    param, exp_avg, exp_avg_sq = np.zeros(67, np.float32), np.zeros(67, dtype), np.zeros(67, dtype)
    kernels.adam_(param, grad, exp_avg, exp_avg_sq, step=1)
    for it in (param, exp_avg, exp_avg_sq):
        assert np.isnan(it).all()


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_rounding(backend: str, dtype: np.dtype[Any]) -> None:
    """Of float32 numbers on both sides of, and at, the middle between two that can be stored."""
    upper = np.arange(0, 1 << 32, 1 << 12, dtype=np.uint64)[:, None]
    lower = np.array([0, 1, 0x7FF, 0x800, 0x801, 0xFFF], np.uint64)
    exact = (upper | lower).astype(np.uint32).view(np.float32).reshape(-1)
    param = np.zeros(exact.shape, dtype)
    kernels.sgd_(param, exact, lr=1.0)
    with np.errstate(all="ignore"):
        assert_same_bits(param, (0 - exact).astype(dtype))


def test_ties_go_to_the_even_number(target: str) -> None:
    """With all arrays bfloat16: 1 + k/128 and half of a last place more, k from 0 to 127."""
    size = 128
    param = (1 + np.arange(size) / 128).astype(BF16)
    kernels.sgd_(param, np.full(size, -(2.0**-8), BF16), lr=1.0)
    assert np.array_equal(widen(param), 1 + (np.arange(size) + 1) // 2 * 2 / 128)


def test_what_is_too_large_is_infinite(target: str) -> None:
    for dtype in (F16, BF16):
        largest = ml_dtypes.finfo(dtype).max
        param = np.full(33, largest, dtype)
        kernels.sgd_(param, np.full(33, -largest, dtype), lr=1.0)
        assert np.isposinf(widen(param)).all()
    half_more = np.full(33, -16, F16)  # 65504 + 16 is the middle between 65504 and 65536
    param = np.full(33, 65504, F16)
    kernels.sgd_(param, half_more, lr=0.9)
    assert (param == 65504).all()
    kernels.sgd_(param, half_more, lr=1.0)
    assert np.isposinf(param).all()


def test_arithmetic_is_in_float32(target: str) -> None:
    """Nothing is rounded on the way: a sum of squares in bfloat16 would lose each of these."""
    param, sums = np.ones(40, F32), np.full(40, 1, BF16)
    kernels.adagrad_(param, np.full(40, 0.03125, BF16), sums, lr=1.0, eps=0.0)
    expected = F32.type(1) - F32.type(0.03125) / np.sqrt(F32.type(1 + 2.0**-10))
    assert np.unique(param).tolist() == [expected]
    assert set(np.unique(widen(sums))) == {1, 1 + 2.0**-7}  # to either side of 1 + 2^-10


# ---- kinds of arrays ------------------------------------------------------------------------------


def tensor_of(array: Array) -> torch.Tensor:
    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@each_mix
def test_tensors_are_taken_like_arrays(
    mix: tuple[np.dtype[Any], ...], random: np.random.Generator
) -> None:
    before = draw("adam", mix, random, (5, 9), "normal")
    after = copies(before)
    tensors = {key: tensor_of(array) for key, array in after.items()}
    versions = {key: tensor._version for key, tensor in tensors.items()}
    kernels.adam_(**tensors, step=2, amsgrad=True)
    assert_step("adam", before, after, step=2, amsgrad=True)
    for key, tensor in tensors.items():
        assert tensor._version == versions[key] + (key != "grad"), key


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@each_rule
def test_references_leave_arguments_alone(
    name: str, dtype: np.dtype[Any], random: np.random.Generator
) -> None:
    arrays = draw(name, (dtype,) * 5, random, (3, 4), "normal")
    kept = copies(arrays)
    results = rule(name)(**arrays, **USING_ALL_STATES[name])
    for key, value in kept.items():
        assert_same_bits(arrays[key], value, key)
    for result in results:
        assert result.dtype == dtype
        assert not any(np.shares_memory(result, array) for array in arrays.values())
    if name == "lamb":
        return  # an element alone has other norms
    scalars = {key: np.array(array[0, 0]) for key, array in arrays.items()}
    for scalar, result in zip(rule(name)(**scalars, **USING_ALL_STATES[name]), results, strict=True):
        assert_same_bits(scalar, np.array(result[0, 0]))


def test_a_rule_of_float32_arrays_is_not_narrowed() -> None:
    """Only a result whose own array came in 16 bits."""
    param, grad = np.ones(3, F32), np.full(3, 1 / 3, BF16)
    param_new, buffer = rule("sgd")(param, grad, np.zeros(3, BF16), momentum=0.9, lr=0.1)
    assert (param_new.dtype, buffer.dtype) == (F32, BF16)
    assert_same_bits(param_new, param - F32.type(0.1) * widen(grad))
