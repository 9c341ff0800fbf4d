"""CUDA's kernels without a GPU: the launches' geometry, walked block by block and thread by thread.

That the kernels' bits are the references' for all options, dtypes and numbers is tested beside the
CPU's, with the fixture ``backend``; here is what CUDA alone has: chunks, packets, tables, edges.
"""

import mmap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from _kernel_cases import (
    KINDS,
    STATES,
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
from _walk import CHUNK, CHUNK_BYTES, THREADS, Walk
from conftest import CPU_ONLY
from fastopt import _C, kernels

Arrays = dict[str, Array]
F32, F64, F16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)
MIXES = {
    "float32": (F32,) * 5,
    "float64": (F64,) * 5,
    "bfloat16": (BF16,) * 5,
    "mixed": (BF16, F16, F32, BF16, F32),
}
each_mix = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
ON_CUDA = [name for name in STATES if name not in CPU_ONLY]
each_rule = pytest.mark.parametrize("name", ON_CUDA)


def draw(name: str, mix: tuple[np.dtype, ...], random: np.random.Generator, size: int) -> Arrays:
    """Arrays for one step, of numbers of every kind."""
    kind = KINDS[int(random.integers(len(KINDS)))]
    pairs = zip(arguments_of(name), mix, strict=False)
    return {key: values(random, size, dtype, kind) for key, dtype in pairs}


class Placed:
    """Copies of arrays, each as many elements into a larger buffer of sevens as ``offsets`` says."""

    def __init__(self, before: Arrays, offsets: list[int]) -> None:
        self.before, self.offsets = before, offsets
        self.buffers, self.after = {}, {}
        for (key, contents), offset in zip(before.items(), offsets, strict=False):
            # Memory of more than a page begins at a multiple of 16 bytes.
            self.buffers[key] = np.full(contents.size + offset + 5000, 7, contents.dtype)
            self.after[key] = self.buffers[key][offset : offset + contents.size]
            self.after[key][...] = contents

    def check(self, name: str, **options: object) -> None:
        assert_step(name, self.before, self.after, **options)
        for (key, buffer), offset in zip(self.buffers.items(), self.offsets, strict=False):
            around = np.delete(buffer, np.arange(offset, offset + self.before[key].size))
            assert (around == 7).all(), f"{key}: written outside of the array"


def step_all(name: str, all_placed: list[Placed], options: Options) -> None:
    columns = {key: [placed.after[key] for placed in all_placed] for key in arguments_of(name)}
    kernel(name)(**columns, **options)
    for placed in all_placed:
        placed.check(name, **options)


def test_it_is_the_walk_that_runs(cuda_walk: Walk) -> None:
    """Where no block is walked, nothing happens."""
    param = np.ones(3, np.float32)
    with cuda_walk.going(blocks=(0, 0)):
        kernels.sgd_(param, np.ones(3, np.float32), lr=1.0)
    assert (param == 1).all()
    kernels.sgd_(param, np.ones(3, np.float32), lr=1.0)
    assert not param.any()


@each_mix
@each_rule
def test_sizes_around_packets_rounds_and_chunks(
    cuda_walk: Walk, name: str, mix: tuple[np.dtype, ...], random: np.random.Generator
) -> None:
    """Beginning at a packet, alike at any element of one, and each array elsewhere."""
    around = [1, 2, 4, 8, 16, THREADS, THREADS * 4, THREADS * 8, CHUNK // 2, CHUNK, 2 * CHUNK]
    sizes = sorted({size + more for size in around for more in (-1, 0, 1)} | {3 * CHUNK + 77})
    options = USING_ALL_STATES[name] | {"step": 3, "weight_decay": 0.1}
    for alike in (True, False):
        starts = random.integers(0, 9, (len(sizes), 5))
        offsets = np.repeat(starts[:, :1], 5, axis=1) if alike else starts
        placed = [
            Placed(draw(name, mix, random, size), offset.tolist())
            for size, offset in zip(sizes, offsets, strict=True)
        ]
        step_all(name, placed, options)


@each_mix
def test_nothing_depends_on_the_order_of_threads(
    cuda_walk: Walk, mix: tuple[np.dtype, ...], random: np.random.Generator
) -> None:
    for name in ON_CUDA:
        sizes = [1, 300, CHUNK + 9, 2 * CHUNK]
        placed = [Placed(draw(name, mix, random, size), [0] * 5) for size in sizes]
        with cuda_walk.going(backwards=True):
            step_all(name, placed, USING_ALL_STATES[name] | {"step": 2})


@pytest.mark.parametrize("count", [1, 2, 3, 100, 310, 315, 320, 1000, 2000])
def test_lists(cuda_walk: Walk, count: int, random: np.random.Generator) -> None:
    """Of few and many parameters, in one launch and in several, of every form and size mixed."""
    mixes = list(MIXES.values())
    placed = [
        Placed(draw("adamw", mixes[int(random.integers(4))], random, int(size)), [0] * 5)
        for size in random.integers(0, 40, count)
    ]
    placed[count // 2] = Placed(draw("adamw", mixes[0], random, 2 * CHUNK + 1), [1] * 5)
    step_all("adamw", placed, {"amsgrad": True, "step": 5})
    options = {"step": [1 + i % 7 for i in range(count)]}
    columns = {key: [it.after[key] for it in placed] for key in arguments_of("adamw")[:4]}
    before = [{key: value.copy() for key, value in it.after.items()} for it in placed]
    kernels.adamw_(**columns, **options)
    for it, was, step in zip(placed, before, options["step"], strict=True):
        assert_step("adamw", was, it.after, step=step)


def sparse(size: int, dtype: np.dtype) -> Array:
    """Zeros of which only what is written to takes memory."""
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return np.frombuffer(mmap.mmap(-1, size * dtype.itemsize, flags), dtype)


@pytest.mark.parametrize("elements", [2**31, 2**32], ids=["2^31", "2^32"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_more_elements_than_32_bits_count(
    cuda_walk: Walk, dtype: np.dtype, elements: int, random: np.random.Generator
) -> None:
    """The blocks around the place where an index of 32 bits would turn over, and the last ones."""
    chunk = CHUNK_BYTES // dtype.itemsize
    chunks, size = elements // chunk, elements + chunk + 5
    place = slice((chunks - 1) * chunk, size)
    whole = {key: sparse(size, dtype) for key in arguments_of("sgd")}
    small = draw("sgd", (dtype,) * 3, random, 3)
    before = draw("sgd", (dtype,) * 3, random, size - place.start)
    for key, numbers in before.items():
        whole[key][place] = numbers
    small_before = {key: value.copy() for key, value in small.items()}
    with cuda_walk.going(blocks=(chunks - 1, chunks + 10)):
        columns = {key: [whole[key], small[key]] for key in whole}
        kernels.sgd_(**columns, momentum=0.9, step=2)
    after = {key: it[place] for key, it in whole.items()}
    assert_step("sgd", before, after, first=place.start, momentum=0.9, step=2)
    assert_step("sgd", small_before, small, momentum=0.9, step=2)
    rest = slice(place.start - 4096, place.start)
    assert all(not it[rest].any() for it in whole.values())


def test_parameters_on_another_device_than_their_gradients(cuda_walk: Walk) -> None:
    with pytest.raises(ValueError, match="grad: expected"):
        kernels.sgd_(torch.zeros(2), torch.zeros(2, device="meta"))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path, cuda_walk: Walk) -> None:
    file = tmp_path / "libfastopt_cuda.so"
    file.write_text("")
    with pytest.raises(RuntimeError, match="file too short"):
        _C.load_cuda(str(file))
    with pytest.raises(RuntimeError, match="is not fastopt's CUDA library"):
        _C.load_cuda(_C.__file__)


def test_states_that_are_not_used_stay(cuda_walk: Walk, random: np.random.Generator) -> None:
    for name in ("sgd", "rmsprop", "adam"):
        before = draw(name, MIXES["float32"], random, CHUNK + 1)
        after = {key: value.copy() for key, value in before.items()}
        kernel(name)(**after)
        results = rule(name)(**before)
        for key, result in zip(["param", *STATES[name]], results, strict=True):
            assert_same_bits(after[key], result, key)
