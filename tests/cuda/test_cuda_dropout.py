"""Dropout's CUDA kernel without a GPU: what it has beside the bits of test_dropout_kernels.py.

Numbers that lie on the device, long arrays by index arithmetic, and the order of threads.
"""

import mmap

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from _dropout_cases import FORMS, assert_same, values
from _walk import Walk
from fastopt import _C, kernels, nn, reference

EIGHTS_SIZE = 4 * 8 * 256  # elements of a block (csrc/cuda/dropout.h)


def test_no_thread_relies_on_anothers_turn(cuda_walk: Walk) -> None:
    x = values(np.random.default_rng(0), (90, 1000), np.float32)
    for form in FORMS.values():
        arguments = form.arguments(x, np.random.default_rng(1))
        forwards = form.kernel(*arguments, 0.3, seed=1, index=5)
        with cuda_walk.going(backwards=True):
            assert_same(form.kernel(*arguments, 0.3, seed=1, index=5), forwards)


def test_more_elements_than_32_bits_count(cuda_walk: Walk) -> None:
    """The last blocks of 2³³ elements, in memory that is never touched elsewhere."""
    count, rest = 2**33 + 4099, 4099 + 2 * EIGHTS_SIZE
    blocks = -(-count // EIGHTS_SIZE)
    with mmap.mmap(-1, (count + 7) // 8) as memory:
        packed = np.frombuffer(memory, np.uint8)
        with cuda_walk.going(blocks=(blocks - 3, blocks)):
            kernels.dropout_mask(count, 0.4, seed=3, index=1, packed=True, out=packed)
        expected = reference.dropout_mask(rest, 0.4, seed=3, index=1 + count - rest)
        assert np.array_equal(packed[(count - rest) // 8 :], np.packbits(expected, bitorder="little"))
        del packed


@pytest.mark.parametrize("columns", [7, 8])
def test_a_bias_beyond_32_bits(cuda_walk: Walk, columns: int) -> None:
    """Of bfloat16, which is short enough to be mapped; in place, so that only one array is."""
    rows = 2**32 // columns + 3
    size, rest = rows * columns, 2 * columns
    blocks = -(-size // EIGHTS_SIZE)
    bias = torch.arange(columns, dtype=torch.bfloat16) + 1
    with mmap.mmap(-1, 2 * size) as memory:
        x = torch.frombuffer(memory, dtype=torch.bfloat16).view(rows, columns)
        with cuda_walk.going(blocks=(blocks - 1, blocks)):
            kernels.bias_dropout_add(x, bias, None, 0.0, seed=3, out=x)
        assert torch.equal(x[-2:], bias.expand(2, columns))
        assert x.view(-1)[-rest:].count_nonzero() == rest
        del x


def test_seed_and_offset_on_the_device(cuda_walk: Walk) -> None:
    """Tensors there are read by the kernel, whatever they are when it is called, in every form."""
    x = values(np.random.default_rng(0), (3, 100), np.float32)
    seed, offset = torch.tensor(-5), torch.tensor(0)
    for form in FORMS.values():
        arguments = form.arguments(x, np.random.default_rng(1))
        for number in (0, 1, 2**56 - 1):
            offset.fill_(number)
            got = form.kernel(*arguments, 0.3, seed=seed, offset=offset)
            assert_same(got, form.reference(*arguments, 0.3, seed=-5, offset=number))
    mask = kernels.dropout_mask(100, 0.3, seed=seed, offset=offset)
    assert np.array_equal(mask, reference.dropout_mask(100, 0.3, seed=-5, offset=2**56 - 1))


@pytest.mark.parametrize("packed_mask", [False, True])
def test_an_offset_that_counts_on_the_device(cuda_walk: Walk, packed_mask: bool) -> None:
    """Each step's mask is another, and its backward pass has the forward pass's."""
    counter = torch.zeros((), dtype=torch.int64)
    masks = []
    for step in range(3):
        x = torch.ones(1000, requires_grad=True)
        y = nn.functional.dropout(x, 0.5, seed=1, offset=counter, packed_mask=packed_mask)
        counter.add_(1)
        y.sum().backward()
        expected = reference.dropout(np.ones(1000, np.float32), 0.5, seed=1, offset=step)
        assert np.array_equal(y.detach().numpy(), expected)
        assert torch.equal(x.grad, y)
        masks.append(y.detach())
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_forms_of_nn_with_their_gradients(walk: Walk) -> None:
    """The same as with the CPU's kernels, forwards and backwards."""

    def run() -> list[torch.Tensor]:
        x = torch.randn(12, 30, generator=torch.manual_seed(0))
        made = []
        for inplace in (False, True):
            a = x.clone().requires_grad_()
            bias, residual = torch.ones(30, requires_grad=True), torch.ones(12, 30, requires_grad=True)
            torch.manual_seed(7)
            y = nn.functional.dropout(a * 1, 0.2, inplace=inplace)
            y = nn.functional.relu_dropout(y, 0.2, inplace=inplace)
            y = nn.functional.bias_dropout_add(y, bias, residual, 0.2)
            y = nn.functional.alpha_dropout(y, 0.2, inplace=inplace)
            y = nn.functional.dropout1d(y.view(3, 4, 30), 0.2, inplace=inplace)
            y = nn.functional.dropout1d(y.transpose(1, 2), 0.2)
            grads = torch.autograd.grad(F.silu(y).sum(), (a, bias, residual))
            made += [y.detach(), *grads]
        return made

    expected = run()
    with walk.in_use():
        got = run()
    for one, two in zip(got, expected, strict=True):
        assert torch.equal(one, two)


def test_arrays_of_two_devices_are_told_apart() -> None:
    """Here of one that has no kernels."""
    x, meta = torch.ones(3), torch.ones(3, device="meta")
    with pytest.raises(ValueError, match="out: "):
        _C.dropout(x, meta, 0.5, 1, 0, 0, 1)
