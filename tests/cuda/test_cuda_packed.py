"""The CUDA kernel of masters, random rounding and 8-bit states, without a GPU.

That its bits are the references' is tested where the CPU's are, with the fixture ``backend``; here is
what CUDA alone has: pieces and tables, lanes that take eight elements at once or not, the order of
threads, what lies on the device.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from _walk import Walk
from fastopt import optim

WAYS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "int8": (torch.float32, {"state_dtype": "int8"}),
    "bfloat16, int8": (torch.bfloat16, {"state_dtype": "int8"}),
    "master": (torch.bfloat16, {"master_weights": True}),
    "master, bfloat16 states": (
        torch.bfloat16,
        {"master_weights": True, "state_dtype": torch.bfloat16},
    ),
    "float32 master": (torch.float16, {"master_weights": True}),
    "rounding": (torch.bfloat16, {"stochastic_rounding": True}),
    "int8, master": (torch.bfloat16, {"state_dtype": "int8", "master_weights": True}),
    "int8, rounding": (torch.bfloat16, {"state_dtype": "int8", "stochastic_rounding": True}),
}
SHAPES = [(64, 64), (5, 1023), (3, 9000), (7,), (0,), (300, 257)]
ROWS = [(80, 64 + n) for n in range(9)] + [(9, 512 + n) for n in (-8, -1, 0, 1, 8)]
each_way = pytest.mark.parametrize("way", WAYS)


def placed(contents: Tensor, offset: int) -> Tensor:
    """A copy that begins so many elements behind a multiple of 64 bytes."""
    around = torch.empty(contents.numel() + offset, dtype=contents.dtype)
    return around[offset:].view(contents.shape).copy_(contents)


def run(
    way: str,
    shapes: Any = SHAPES,
    steps: int = 3,
    name: str = "AdamW",
    offsets: tuple[int, int] = (0, 0),
    **more: Any,
) -> list[Tensor]:
    """All parameters and states after some steps. ``offsets``: where parameters and gradients begin."""
    dtype, options = WAYS[way]
    generator = torch.manual_seed(0)
    params = [placed(torch.randn(shape, generator=generator).to(dtype), offsets[0]) for shape in shapes]
    optimizer = getattr(optim, name)(params, lr=0.01, **options, **more)
    for _ in range(steps):
        for param in params:
            grad = torch.randn(param.shape, generator=generator).to(dtype)
            param.grad = placed(grad, offsets[1])
        optimizer.step()
    states = [optimizer.state[param] for param in params]
    return [*params, *(state[name] for state in states for name in sorted(state))]


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for one, two in zip(got, expected, strict=True):
        assert torch.equal(one, two)


@pytest.fixture
def both(walk: Walk) -> Callable[..., None]:
    """Takes the same steps by the CPU's kernels and by CUDA's, and compares."""

    def both(way: str, **more: Any) -> None:
        expected = run(way, **more)
        with walk.in_use():
            assert_equal(run(way, **more), expected)

    return both


@each_way
def test_with_the_whole_tail(way: str, both: Callable[..., None]) -> None:
    both(way, max_grad_norm=0.5, ema_decay=0.9, amsgrad=True)


@pytest.mark.parametrize("offsets", [(0, 0), (1, 1), (0, 3), (4, 0), (8, 8)], ids=str)
@each_way
def test_rows_of_any_length_anywhere_in_memory(
    way: str, offsets: tuple[int, int], both: Callable[..., None]
) -> None:
    """Some are aligned to what a lane loads at once and some are not."""
    both(way, shapes=ROWS, steps=2, offsets=offsets)


@each_way
def test_more_parameters_than_a_launch_takes(way: str, both: Callable[..., None]) -> None:
    both(way, shapes=[(64, 64), (3,)] * 200, steps=2)


def test_blocks_of_several_chunks(both: Callable[..., None]) -> None:
    """No piece is longer than a row, so that these are 8195 chunks, of which a block takes two."""
    both("int8", shapes=[(8192 * 32 + 70, 64), (9, 300)], steps=2)


@each_way
def test_no_thread_relies_on_anothers_turn(way: str, cuda_walk: Walk) -> None:
    forwards = run(way)
    with cuda_walk.going(backwards=True):
        assert_equal(run(way), forwards)


@each_way
def test_blocks_that_do_not_run_write_nothing(way: str, cuda_walk: Walk) -> None:
    """So it is this kernel that the other tests are about."""
    with cuda_walk.going(blocks=(0, 0)):
        params = run(way)[: len(SHAPES)]
    start = torch.manual_seed(0)
    for param in params:
        assert torch.equal(param, torch.randn(param.shape, generator=start).to(param.dtype))


@each_way
def test_numbers_on_the_device(way: str, walk: Walk) -> None:
    """With fused=True the step's number lies there, and so do a rounding's seed and number."""
    expected = run(way)
    with walk.in_use():
        assert_equal(run(way, fused=True), expected)


@each_way
def test_products_on_the_device(way: str, walk: Walk) -> None:
    expected = run(way, name="NAdam")
    with walk.in_use():
        assert_equal(run(way, name="NAdam"), expected)
        assert_equal(run(way, name="NAdam", capturable=True), expected)


@each_way
def test_a_step_that_is_skipped(way: str, cuda_walk: Walk) -> None:
    dtype, options = WAYS[way]
    param = torch.ones(64, 64, dtype=dtype)
    optimizer = optim.AdamW([param], **options, fused=True)
    optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), torch.ones(())
    param.grad = torch.full_like(param, 0.5)
    optimizer.step()
    before = [param.clone(), *(it.clone() for it in optimizer.state[param].values())]
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert_equal([param, *optimizer.state[param].values()], before)
