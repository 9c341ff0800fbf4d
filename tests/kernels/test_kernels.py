"""The kernels equal the references bit for bit: on every target, for any shape, place and options."""

import array
import ctypes
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from _kernel_cases import (
    DTYPES,
    KINDS,
    OPTIONS,
    SEEDS,
    SHAPES,
    STATES,
    STEPS,
    USING_ALL_STATES,
    Array,
    Options,
    Producer,
    arguments_of,
    assert_same_bits,
    assert_step,
    kernel,
    make_arrays,
    rule,
    values,
)
from conftest import takes
from fastopt import _C, kernels

Arrays = dict[str, Array]


def copies(arrays: Arrays) -> Arrays:
    return {key: value.copy() for key, value in arrays.items()}


# ---- one array per argument -----------------------------------------------------------------------

RULES = st.sampled_from(list(STATES)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]))


def placed(contents: Array, offset: int) -> tuple[Array, Array]:
    """A copy of an array, `offset` elements into a larger buffer of NaN; the buffer."""
    buffer = np.full(contents.size + offset + 20, np.nan, contents.dtype)
    place = buffer[offset : offset + contents.size].reshape(contents.shape)
    place[...] = contents
    return place, buffer


@given(
    case=RULES,
    step=STEPS,
    dtype=st.sampled_from(DTYPES),
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
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    kind: str,
    offsets: list[int],
    random: np.random.Generator,
) -> None:
    name, options = case
    assume(takes(backend, name))
    before = {key: values(random, shape, dtype, kind) for key in arguments_of(name)}
    after, buffers = {}, {}
    for (key, contents), offset in zip(before.items(), offsets, strict=False):
        after[key], buffers[key] = placed(contents, offset)
    kernel(name)(**after, step=step, **options)
    assert_step(name, before, after, step=step, **options)
    for (key, buffer), offset in zip(buffers.items(), offsets, strict=False):
        around = np.delete(buffer, np.arange(offset, offset + before[key].size))
        assert np.isnan(around).all(), f"{key}: written outside of the array"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STATES)
def test_every_size_around_a_vector(
    backend: str, name: str, dtype: np.dtype[Any], random: np.random.Generator
) -> None:
    for size in [*range(35), 63, 64, 65, 127, 128, 129, 1000]:
        before = make_arrays(name, random, size, dtype)
        after = copies(before)
        kernel(name)(**after, step=3, weight_decay=0.1, **USING_ALL_STATES[name])
        assert_step(name, before, after, step=3, weight_decay=0.1, **USING_ALL_STATES[name])


def test_many_steps_stay_on_the_reference(backend: str, random: np.random.Generator) -> None:
    """What one step leaves, the next one takes: 100 steps from zero states."""
    for name, states in STATES.items():
        if not takes(backend, name):
            continue
        param = random.standard_normal(37).astype(np.float32)
        after = {"param": param, **{state: np.zeros_like(param) for state in states}}
        expected = copies(after)
        for step in range(1, 101):
            grad = random.standard_normal(37).astype(np.float32)
            kernel(name)(**after, grad=grad, step=step, **USING_ALL_STATES[name])
            results = rule(name)(**expected, grad=grad, step=step, **USING_ALL_STATES[name])
            expected = dict(zip(expected, results, strict=True))
        for key, value in expected.items():
            assert_same_bits(after[key], value, (name, key))


@pytest.mark.parametrize("name", STATES)
def test_a_kernel_takes_what_its_reference_takes(name: str) -> None:
    ours, theirs = (dict(inspect.signature(it(name)).parameters) for it in (kernel, rule))
    for around in ("grad_scale", "copy_to"):  # every kernel: test_around_kernels.py
        ours.pop(around)
    theirs.pop("as_stored", None)  # which a kernel knows
    for kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
        shared = [
            [(key, it.default) for key, it in parameters.items() if it.kind == kind]
            for parameters in (ours, theirs)
        ]
        if kind == inspect.Parameter.KEYWORD_ONLY:
            shared = [sorted(parameters) for parameters in shared]
        assert shared[0] == shared[1]
    rules = {function for function in kernels.__all__ if function.endswith("_")}
    assert rules == {rule_name + "_" for rule_name in STATES} | {"ema_"}  # see test_ema.py


def test_a_state_that_the_options_do_not_use_stays_as_it_was(random: np.random.Generator) -> None:
    for name in ("sgd", "rmsprop", "adam"):
        arrays = make_arrays(name, random, 5, np.float32)
        before = copies(arrays)
        kernel(name)(**arrays)
        assert_step(name, before, arrays)
        optional = STATES[name][0 if name == "sgd" else 1 if name == "rmsprop" else 2 :]
        for state in optional:
            assert arrays[state].tobytes() == before[state].tobytes()
            arrays[state] = None
        assert kernel(name)(**arrays) is None


# ---- lists of arrays ------------------------------------------------------------------------------


@given(
    case=RULES,
    tensors=st.lists(
        st.tuples(st.sampled_from(DTYPES), SHAPES, STEPS, st.sampled_from(KINDS)), max_size=6
    ),
    one_step=st.none() | STEPS,
    container=st.sampled_from([list, tuple]),
    random=SEEDS,
)
@settings(max_examples=60)
def test_a_list_steps_each_array_by_itself(
    backend: str,
    case: tuple[str, Options],
    tensors: list[tuple[np.dtype[Any], tuple[int, ...], int, str]],
    one_step: int | None,
    container: type,
    random: np.random.Generator,
) -> None:
    name, options = case
    assume(takes(backend, name))
    before = [
        {key: values(random, shape, dtype, kind) for key in arguments_of(name)}
        for dtype, shape, _, kind in tensors
    ]
    after = [copies(arrays) for arrays in before]
    steps = [step if one_step is None else one_step for *_, step, _ in tensors]
    columns = {key: container(arrays[key] for arrays in after) for key in arguments_of(name)}
    kernel(name)(**columns, step=container(steps) if one_step is None else one_step, **options)
    for was, now, step in zip(before, after, steps, strict=True):
        assert_step(name, was, now, step=step, **options)


SERIAL_BELOW = 1 << 16  # elements of a call, as in csrc/cpu/parallel.cpp


@pytest.mark.parametrize(
    "sizes",
    [
        [SERIAL_BELOW - 1],
        [SERIAL_BELOW],
        [SERIAL_BELOW + 1],
        [0, 1, 30_000, 0, 63, 40_001, 65, 1],  # the cut of two threads falls into a tensor
        [SERIAL_BELOW // 2 + 33, 7, SERIAL_BELOW // 2 - 5],  # and here close to an end
        [100] * 700,
    ],
    ids=lambda sizes: f"{len(sizes)}x{max(sizes)}",
)
def test_bits_do_not_depend_on_the_threads(
    backend: str,
    sizes: list[int],
    set_threads: Callable[[int], None],
    random: np.random.Generator,
) -> None:
    for name, dtypes in (("adamw", DTYPES), ("sgd", DTYPES[:1])):
        options = USING_ALL_STATES[name] | {"weight_decay": 0.1, "step": 7}
        before = [
            make_arrays(name, random, size, dtypes[i % len(dtypes)]) for i, size in enumerate(sizes)
        ]
        for threads in (1, 2, 3):
            set_threads(threads)
            after = [copies(arrays) for arrays in before]
            kernel(name)(**{key: [it[key] for it in after] for key in arguments_of(name)}, **options)
            for was, now in zip(before, after, strict=True):
                assert_step(name, was, now, **options)


def test_more_threads_than_work(set_threads: Callable[[int], None]) -> None:
    set_threads(7)
    param, grad = np.ones(SERIAL_BELOW, np.float32), np.ones(SERIAL_BELOW, np.float32)
    kernels.sgd_([param, np.ones(0, np.float32)], [grad, np.ones(0, np.float32)], lr=1.0)
    assert not param.any()


# ---- kinds of arrays ------------------------------------------------------------------------------


class OldProducer(Producer):
    """From before DLPack had versions."""

    def __dlpack__(self) -> object:  # type: ignore[override]
        self.asked += 1
        return self.contents.__dlpack__()


class TensorSubclass(torch.Tensor):
    pass


def as_array_array(contents: Array) -> Any:
    return array.array("f" if contents.itemsize == 4 else "d", contents.tolist())


def as_ctypes(contents: Array) -> Any:
    element = ctypes.c_float if contents.itemsize == 4 else ctypes.c_double
    return (element * contents.size)(*contents.tolist())


def contents_of(thing: Any) -> Array:
    if isinstance(thing, Producer):
        return thing.contents
    return thing.detach().numpy() if isinstance(thing, torch.Tensor) else np.asarray(thing)


MAKERS: dict[str, Callable[[Array], Any]] = {
    "numpy": np.copy,
    "torch": lambda contents: torch.from_numpy(contents.copy()),
    "torch requires_grad": lambda contents: torch.from_numpy(contents.copy()).requires_grad_(),
    "torch Parameter": lambda contents: torch.nn.Parameter(torch.from_numpy(contents.copy())),
    "torch subclass": lambda contents: torch.from_numpy(contents.copy()).as_subclass(TensorSubclass),
    "memoryview": lambda contents: memoryview(contents.copy()),
    "array.array": as_array_array,
    "ctypes": as_ctypes,
    "DLPack": lambda contents: Producer(contents.copy()),
    "DLPack, unversioned": lambda contents: OldProducer(contents.copy()),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("maker", MAKERS)
def test_any_kind_of_array(maker: str, dtype: np.dtype[Any], random: np.random.Generator) -> None:
    before = make_arrays("adam", random, 21, dtype)
    things = {key: MAKERS[maker](value) for key, value in before.items()}
    kernels.adam_(**things, step=4, amsgrad=True)
    after = {key: contents_of(thing) for key, thing in things.items()}
    assert_step("adam", before, after, step=4, amsgrad=True)
    if isinstance(things["param"], Producer):
        assert things["param"].asked > 0


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 5), (2, 3, 4), (2, 1, 3, 2)])
def test_kinds_of_arrays_may_be_mixed(shape: tuple[int, ...], random: np.random.Generator) -> None:
    before = make_arrays("adam", random, shape, np.float64)
    makers = ["torch Parameter", "DLPack", "numpy", "torch", "memoryview"]
    things = {
        key: MAKERS[maker](value) for (key, value), maker in zip(before.items(), makers, strict=True)
    }
    kernels.adam_(**{key: [thing] for key, thing in things.items()}, amsgrad=True)
    after = {key: contents_of(thing) for key, thing in things.items()}
    assert_step("adam", before, after, amsgrad=True)


def test_axes_of_length_one_may_have_any_stride() -> None:
    param = np.ones((4, 3), np.float32)[::2][:1]
    assert param.strides == (24, 4)
    kernels.sgd_(param, np.ones((1, 3), np.float32), lr=1.0)
    assert not param.any()
    parameter = torch.ones(3, 1).expand(3, 1).as_strided((3, 1), (1, 7))
    kernels.sgd_(parameter, torch.ones(3, 1), lr=1.0)
    assert not parameter.any()


def test_gradients_may_be_read_only_and_shared() -> None:
    """Nothing writes to them."""
    grad = np.ones(4, np.float32)
    grad.flags.writeable = False
    params = [np.ones(4, np.float32), np.ones(4, np.float32)]
    kernels.sgd_(params, [grad, grad], lr=1.0)
    kernels.sgd_(params[0], grad.tobytes() and memoryview(grad), lr=1.0)
    assert params[0].tolist() == [-1] * 4
    assert params[1].tolist() == [0] * 4


def test_neighbours_in_one_buffer_are_no_overlap() -> None:
    buffer = np.ones(30, np.float32)
    kernels.adam_(*np.split(buffer[:20], 4))
    kernels.sgd_([buffer[:10], buffer[20:]], [buffer[10:20], buffer[10:20]])


# ---- autograd -------------------------------------------------------------------------------------


def test_version_counters_are_bumped() -> None:
    tensors = {key: torch.ones(4) for key in arguments_of("adam")}
    versions = {key: tensor._version for key, tensor in tensors.items()}
    kernels.adam_(**tensors, amsgrad=True)
    kernels.adam_(**{key: [tensor] for key, tensor in tensors.items()}, amsgrad=True)
    for key, tensor in tensors.items():
        assert (tensor._version > versions[key]) == (key != "grad"), key


def test_autograd_notices_the_write() -> None:
    param = torch.nn.Parameter(torch.ones(4))
    loss = (param * param).sum()  # its backward pass needs param as it was
    kernels.sgd_(param, torch.ones(4))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_parameter_with_its_gradient(random: np.random.Generator) -> None:
    start = random.standard_normal(9).astype(np.float32)
    param = torch.nn.Parameter(torch.from_numpy(start.copy()))
    (param**2).sum().backward()
    assert param.grad is not None
    kernels.sgd_(param, param.grad, lr=0.1)
    (expected,) = rule("sgd")(start, param.grad.numpy(), lr=0.1)
    assert_same_bits(param.detach().numpy(), expected)
    assert param.requires_grad
    assert param.is_leaf


def test_hyperparameters_may_be_any_number(random: np.random.Generator) -> None:
    """NumPy scalars, ints and one-element tensors stand for their value as a double."""
    for options in (
        {"lr": np.float32(0.1), "betas": [0, np.float64(0.5)], "step": np.int64(2)},
        {"lr": torch.tensor(0.1), "betas": np.array([0.25, 0.5]), "step": torch.tensor(3.0)},
        {"lr": 1, "step": 2**53, "betas": (True - 1, 0.5)},
    ):
        before = make_arrays("adam", random, 9, np.float32)
        after = copies(before)
        kernels.adam_(**after, **options)
        plain = {key: float(value) for key, value in options.items() if key != "betas"}
        betas = tuple(float(beta) for beta in options["betas"])
        assert_step("adam", before, after, **plain, betas=betas)


def test_the_target_is_the_one_that_was_set(target: str) -> None:
    assert _C.cpu_target() == target
