"""Dropout's kernels equal the reference bit for bit: on every backend, thread count, size and place."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from _dropout_cases import (
    DTYPES,
    FORMS,
    RATES,
    SIZES,
    assert_same,
    known_answers,
    matrix,
    values,
)
from _kernel_cases import Producer
from fastopt import _C, kernels, reference

KEY: dict[str, int] = {"seed": -123456789, "offset": 77}
THREADS = (1, 2, 3, 7)


def columns_of(size: int) -> int:
    """A last dimension that divides the size."""
    return next((c for c in (100, 91, 17, 8, 7, 3) if size % c == 0), max(size, 1))


# ---- the draws ------------------------------------------------------------------------------------


def test_known_answers(target: str) -> None:
    for line in known_answers(10):
        block, offset, seed = (
            low | high << 32 for low, high in zip(line[:6:2], line[1:6:2], strict=True)
        )
        assert list(_C.philox(seed, offset, block)) == line[6:]


@pytest.mark.parametrize("p", RATES)
def test_masks(backend: str, p: float) -> None:
    for size in SIZES:
        for index in (0, 3, 8, 64, 1001, 2**35 - 100, 2**63 - 1 - 2**20):
            where = {**KEY, "index": index}
            expected = reference.dropout_mask(size, p, **where)
            mask = kernels.dropout_mask(size, p, **where)
            assert mask.dtype == np.bool_
            assert np.array_equal(mask, expected), (size, index)
            packed = kernels.dropout_mask(size, p, packed=True, **where)
            assert packed.dtype == np.uint8
            assert np.array_equal(packed, np.packbits(expected, bitorder="little")), (size, index)


def test_every_seed_and_offset(backend: str, random: np.random.Generator) -> None:
    corners = [0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -(2**63)]
    for seed in [*corners, *random.integers(-(2**63), 2**63 - 1, 5).tolist()]:
        for offset in (0, 2**32 - 1, 2**32, 2**56 - 1):
            where = {"seed": seed, "offset": offset, "index": 3}
            mask = kernels.dropout_mask(300, 0.5, **where)
            assert np.array_equal(mask, reference.dropout_mask(300, 0.5, **where)), where


def test_every_threshold_next_to_a_draw(backend: str) -> None:
    """One element is kept from its own draw plus one on, and by no threshold below."""
    draws = reference.philox4x32((0, 0, 77, 0), (5, 0)).astype("<u4").view("<u2")
    for i, draw in enumerate(draws.tolist()):
        for threshold, kept in ((draw, False), (draw + 1, True)):
            mask = kernels.dropout_mask(8, 1 - threshold / 65536, seed=5, offset=77)
            assert mask[i] == kept


def test_extreme_thresholds(backend: str) -> None:
    for threshold in (1, 2, 32767, 32768, 32769, 65534, 65535):
        p = 1 - threshold / 65536
        mask = kernels.dropout_mask(200003, p, **KEY)
        assert np.array_equal(mask, reference.dropout_mask(200003, p, **KEY)), threshold


# ---- the forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_size(backend: str, form: str, dtype: Any, random: np.random.Generator) -> None:
    it = FORMS[form]
    for size in SIZES:
        x = matrix(random, size, dtype, columns_of(size))
        arguments = it.arguments(x, random)
        before = [a.tobytes() for a in arguments if isinstance(a, np.ndarray)]
        for index in (0, 3) if size < 70000 else (5,):
            expected = it.reference(*arguments, 0.1, **KEY, index=index)
            assert_same(it.kernel(*arguments, 0.1, **KEY, index=index), expected, (size, index))
        assert [a.tobytes() for a in arguments if isinstance(a, np.ndarray)] == before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_rate(backend: str, form: str, dtype: Any, random: np.random.Generator) -> None:
    it = FORMS[form]
    arguments = it.arguments(matrix(random, 5000, dtype, 100), random)
    for p in RATES:
        expected = it.reference(*arguments, p, **KEY, index=1)
        assert_same(it.kernel(*arguments, p, **KEY, index=1), expected, p)


@pytest.mark.parametrize("form", FORMS)
def test_every_number_of_threads(
    target: str, form: str, random: np.random.Generator, set_threads: Callable[[int], None]
) -> None:
    it = FORMS[form]
    for size in (70000, 200003):
        arguments = it.arguments(matrix(random, size, np.float32, columns_of(size)), random)
        expected = it.reference(*arguments, 0.3, **KEY, index=7)
        for threads in THREADS:
            set_threads(threads)
            assert_same(it.kernel(*arguments, 0.3, **KEY, index=7), expected, threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_in_place_and_out(backend: str, form: str, dtype: Any, random: np.random.Generator) -> None:
    """In x's own place, in another, in the residual's; at odd addresses, and nowhere beside."""
    it = FORMS[form]
    x = matrix(random, 3000, dtype, 1000)
    arguments = it.arguments(x, random)
    expected = it.reference(*arguments, 0.1, **KEY)
    for offset in (0, 1, 3, 8):
        buffer = np.full(x.size + offset + 64, 7, dtype)
        out = buffer[offset : offset + x.size].reshape(x.shape)
        assert it.kernel(*arguments, 0.1, **KEY, out=out) is out
        assert_same(out, expected)
        out[...] = x
        assert it.kernel(out, *arguments[1:], 0.1, **KEY, out=out) is out
        assert_same(out, expected)
        if "residual" in it.given:
            out[...] = arguments[2]
            it.kernel(x, arguments[1], out, 0.1, **KEY, out=out)
            assert_same(out, expected)
        assert (np.delete(buffer, np.arange(offset, offset + x.size)) == 7).all()


@pytest.mark.parametrize("columns", [1, 2, 3, 15, 16, 17, 255, 256, 257, 300, 511, 512, 1000, 7000])
def test_every_width_of_a_bias(backend: str, columns: int, random: np.random.Generator) -> None:
    for dtype in DTYPES:
        it = FORMS["bias and residual"]
        arguments = it.arguments(matrix(random, 7000, dtype, columns), random)
        expected = it.reference(*arguments, 0.5, **KEY, index=3)
        assert_same(it.kernel(*arguments, 0.5, **KEY, index=3), expected)


@pytest.mark.parametrize("inner", [1, 2, 3, 8, 15, 16, 17, 255, 256, 257, 4999, 5000, 10**12])
def test_every_length_of_a_row(backend: str, inner: int, random: np.random.Generator) -> None:
    for dtype in DTYPES:
        x = values(random, 5000, dtype)
        for index in (0, 13):
            expected = reference.dropout_rows(x, inner, 0.5, **KEY, index=index)
            assert_same(kernels.dropout_rows(x, inner, 0.5, **KEY, index=index), expected)


def test_long_arrays(backend: str, random: np.random.Generator) -> None:
    """Past the size from which fresh memory is written past the caches, aligned and not."""
    size = (1 << 23) + 4097
    x = np.tile(values(random, 4097, np.float32), 2049)[:size]
    expected = reference.dropout(x, 0.25, **KEY, index=1)
    buffer = np.empty(size + 64, np.float32)
    aligned = -(buffer.ctypes.data // 4) % 16
    for start in (aligned, aligned + 1):
        out = buffer[start : start + size]
        kernels.dropout(x, 0.25, **KEY, index=1, out=out)
        assert_same(out, expected)


# ---- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "relu", "residual", "alpha"])
def test_shards_make_the_whole(backend: str, form: str, random: np.random.Generator) -> None:
    it = FORMS[form]
    arguments = it.arguments(values(random, 5000, np.float32), random)
    whole = it.kernel(*arguments, 0.4, **KEY, index=9)
    cuts = [0, 1, 2, 9, 17, 256, 300, 1021, 1022, 4000, 4993, 5000]
    parts = []
    for begin, end in itertools.pairwise(cuts):
        part = [a[begin:end] if isinstance(a, np.ndarray) else a for a in arguments]
        parts.append(it.kernel(*part, 0.4, **KEY, index=9 + begin))
    assert_same(np.concatenate(parts), whole)


# ---- masks that are stored ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stored_mask_gives_what_drawing_gives(
    backend: str, dtype: Any, random: np.random.Generator, set_threads: Callable[[int], None]
) -> None:
    for size in SIZES:
        x = values(random, size, dtype)
        for p, index in ((0.1, 0), (0.5, 5), (0, 0), (1, 0)):
            packed = kernels.dropout_mask(size, p, packed=True, **KEY, index=index)
            drawn = reference.dropout(x, p, **KEY, index=index)
            for threads in (1, 3):
                set_threads(threads)
                assert_same(kernels.dropout(x, p, seed=0, mask=packed), drawn)


def test_a_mask_of_ones_beyond_the_end_is_not_looked_at(backend: str) -> None:
    x = np.ones(9, np.float32)
    y = kernels.dropout(x, 0.5, seed=0, mask=np.array([0x55, 0xFF], np.uint8))
    assert y.tolist() == [2, 0, 2, 0, 2, 0, 2, 0, 2]


@pytest.mark.parametrize("size", [1, 9, 257, 4097, 70000])
def test_a_mask_written_on_the_way(backend: str, size: int, random: np.random.Generator) -> None:
    x = values(random, size, np.float32)
    bias = np.zeros(size, np.float32)
    for index in (0, 6):
        expected = kernels.dropout_mask(size, 0.3, packed=True, **KEY, index=index)
        place = (0.3, KEY["seed"], KEY["offset"], index, 2)
        out = np.empty_like(x)
        calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
            (_C.dropout, (x, out), {}),
            (_C.dropout, (x, out), {"relu": True}),
            (_C.alpha_dropout, (x, out), {}),
            (_C.bias_dropout_add, (x, bias, x, out), {}),
        ]
        for function, arrays, options in calls:
            mask = np.full((size + 7) // 8, 0xFF, np.uint8)
            function(*arrays, *place, mask_out=mask, **options)
            assert np.array_equal(mask, expected)
        _C.bias_dropout_add(x, bias, x, out, 0.3, 0, 0, 0, 2, expected)
        assert_same(out, reference.bias_dropout_add(x, bias, x, 0.3, **KEY, index=index))


def test_mask_out_arguments(backend: str) -> None:
    packed, bools = np.full(3, 9, np.uint8), torch.zeros(4, 5, dtype=torch.bool)
    assert kernels.dropout_mask(20, 0.5, seed=1, packed=True, out=packed) is packed
    assert kernels.dropout_mask((4, 5), 0.5, seed=1, out=bools) is bools
    expected = reference.dropout_mask((4, 5), 0.5, seed=1)
    assert np.array_equal(bools.numpy(), expected)
    assert np.array_equal(packed, np.packbits(expected, bitorder="little"))
    assert bools._version == 1


# ---- backward -------------------------------------------------------------------------------------


def test_the_scale_of_a_backward_pass(backend: str, random: np.random.Generator) -> None:
    grad, out = random.standard_normal((2, 1000))
    place = (0.3, 5, 6, 7, 1)
    scale = _C.alpha_dropout(grad, out.copy(), *place)
    _C.dropout(grad, out, *place, scale=scale)
    kept = reference.dropout_mask(1000, 0.3, seed=5, offset=6, index=7)
    assert_same(out, np.where(kept, grad * scale, 0))
    x = torch.zeros(1000, dtype=torch.float64)
    one = torch.from_numpy(reference.alpha_dropout(x.numpy() + 1, 0.3, seed=5, offset=6, index=7))
    zero = torch.from_numpy(reference.alpha_dropout(x.numpy(), 0.3, seed=5, offset=6, index=7))
    np.testing.assert_allclose((one - zero).numpy(), np.where(kept, scale, 0), rtol=1e-12, atol=0)


# ---- kinds of arrays ------------------------------------------------------------------------------


def test_torch_tensors(backend: str, random: np.random.Generator) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.from_numpy(random.standard_normal((30, 70))).to(dtype)
        version = x._version
        y = kernels.dropout(x, 0.2, **KEY)
        assert type(y) is torch.Tensor
        assert (y.dtype, y.shape, x._version) == (dtype, x.shape, version)
        wide = torch.from_numpy(reference.dropout(x.float().numpy(), 0.2, **KEY)).to(dtype)
        if dtype != torch.float64:
            assert torch.equal(y, wide)
        assert kernels.dropout(x, 0.2, **KEY, out=x) is x
        assert x._version == version + 1
        assert torch.equal(x, y)


def test_other_arrays(backend: str) -> None:
    contents = np.arange(40, dtype=np.float32)
    expected = reference.dropout(contents, 0.5, seed=1)
    for x in (Producer(contents), memoryview(contents)):
        assert_same(kernels.dropout(x, 0.5, seed=1), expected)
    x = memoryview(contents.copy())
    assert kernels.dropout(x, 0.5, seed=1, out=x) is x
    assert_same(np.asarray(x), expected)
    read_only = contents.copy()
    read_only.flags.writeable = False
    assert_same(kernels.dropout(read_only, 0.5, seed=1), expected)


def test_numbers_of_every_kind(backend: str) -> None:
    x = np.ones(100, np.float32)
    expected = reference.dropout(x, 0.5, seed=3, offset=4, index=5)
    for number in (np.int64, np.uint8, torch.tensor):
        y = kernels.dropout(x, np.float32(0.5), seed=number(3), offset=number(4), index=number(5))
        assert_same(y, expected)


def test_the_callers_floating_point_mode_is_not_used(backend: str) -> None:
    x = np.full(100, 1e-40, np.float32)
    expected = reference.dropout(x, 0.5, seed=1)
    torch.set_flush_denormal(True)
    try:
        got = kernels.dropout(x, 0.5, seed=1)
    finally:
        torch.set_flush_denormal(False)
    assert_same(got, expected)


@pytest.mark.parametrize("name", sorted({form.function for form in FORMS.values()}))
def test_a_kernel_takes_what_its_reference_takes(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (kernels, reference))
    extra = [key for key in ours if key not in theirs]
    assert extra == (["out", "mask"] if name == "dropout" else ["out"])
    assert [(k, p.default, p.kind) for k, p in ours.items() if k not in extra] == [
        (k, p.default, p.kind) for k, p in theirs.items()
    ]
