"""CUDA's kernels on a GPU: the CPU's bits, graphs, streams, checkpoints, torch's scaler and fused path.

Run by ``python -m pytest -m cuda`` and skipped where torch sees no device or no library was built.
FASTOPT_TEST_DEVICE=cpu runs what of this module needs neither graphs nor streams on the walk.
"""

import copy
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from _dropout_cases import FORMS, values
from _optim_cases import CAPTURABLE, CASES, EVERY, FULL
from _walk import Walk
from conftest import CPU_ONLY
from fastopt import _C, kernels, nn, optim, reference

DEVICE = torch.device(os.environ.get("FASTOPT_TEST_DEVICE", "cuda"))
IS_WALKED = DEVICE.type == "cpu"
MISSING = not IS_WALKED and not torch.cuda.is_available()

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(MISSING, reason="torch sees no CUDA device")]
on_a_gpu = pytest.mark.skipif(IS_WALKED, reason="needs streams or graphs")

SHAPES = [(), (1,), (7,), (0,), (64, 64), (33, 257), (5, 8191), (3, 70001)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
STORAGE: list[dict[str, Any]] = [
    {"state_dtype": torch.bfloat16},
    {"state_dtype": "int8"},
    {"master_weights": True},
    {"stochastic_rounding": True},
    {"state_dtype": "int8", "stochastic_rounding": True},
]
TAIL = {"max_grad_norm": 0.5, "ema_decay": 0.9, "ema_bias_correction": True}
ON_CUDA = [name for name in EVERY if name not in CPU_ONLY]
IN_PYTHON = ("ADOPT", "StableAdamW", "ScheduleFreeAdamW")  # ifs, sums, numbers that are kept
STORED = [
    (name, options)
    for name in (*CASES, "NAdam", *IN_PYTHON)
    for options in STORAGE
    if name != "Adagrad" or options.get("state_dtype") != "int8"  # which it refuses
]


def dtype_for(options: dict[str, Any]) -> torch.dtype:
    """What parameters are stored in, to be stored so."""
    is_half = options.keys() & {"master_weights", "stochastic_rounding"}
    return torch.bfloat16 if is_half else torch.float32


@pytest.fixture(autouse=True)
def the_library(request: pytest.FixtureRequest) -> Iterator[None]:
    if IS_WALKED:
        with request.getfixturevalue("walk").in_use():
            yield
    else:
        assert _C.cuda_trouble() is None, _C.cuda_trouble()
        yield


def on_the_cpu(act: Callable[[], Any], walk: Walk | None) -> Any:
    """With the CPU's kernels, which on the walk must be asked for."""
    if walk is None:
        return act()
    with walk.out_of_use():
        return act()


@pytest.fixture
def cpu(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    walk = request.getfixturevalue("walk") if IS_WALKED else None
    return lambda act: on_the_cpu(act, walk)


def same(got: Tensor, expected: Tensor) -> bool:
    """Equal bits; any NaN equals any other."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    one, two = (it.detach().cpu().contiguous().view(-1) for it in (got, expected))
    bits = [it.view(torch.uint8).view(-1, it.element_size()) for it in (one, two)]
    equal = (bits[0] == bits[1]).all(1)
    return bool((equal | (one != one) & (two != two)).all())


def everything(params: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    states = [optimizer.state[param] for param in params]
    tensors = (state[name] for state in states for name in sorted(state))
    return [*(p.detach() for p in params), *(it for it in tensors if isinstance(it, Tensor))]


def assert_all_same(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for number, (one, two) in enumerate(zip(got, expected, strict=True)):
        assert same(one, two), number


def gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        numbers = torch.randn(param.shape, generator=generator)
        param.grad = numbers.to(param.dtype).to(param.device)


def parameters(device: torch.device, dtype: torch.dtype, shapes: Any = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes]


def trained(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    steps: int = 4,
    shapes: Any = SHAPES,
    **options: Any,
) -> list[Tensor]:
    """All parameters and states after some steps."""
    params = parameters(device, dtype, shapes)
    optimizer = getattr(optim, name)(params, **options)
    for step in range(steps):
        gradients(params, step)
        optimizer.step()
    return everything(params, optimizer)


# ---- one of each ----------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "float32": ("AdamW", torch.float32, {}),
    "float64": ("AdamW", torch.float64, {}),
    "bfloat16": ("AdamW", torch.bfloat16, {}),
    "mixed": ("AdamW", torch.float32, {"state_dtype": torch.bfloat16}),
    "int8": ("AdamW", torch.float32, {"state_dtype": "int8"}),
    "masters": ("AdamW", torch.bfloat16, {"master_weights": True}),
    "rounding": ("AdamW", torch.bfloat16, {"stochastic_rounding": True}),
    "tail": ("AdamW", torch.float32, TAIL),
    "momentum": ("SGD", torch.float32, {"lr": 0.1, "momentum": 0.9}),
    "product": ("NAdam", torch.float32, {}),
    "norms": ("LAMB", torch.float32, {}),
    "program": ("ADOPT", torch.float32, {}),
    "program with sums": ("StableAdamW", torch.float32, {}),
    "program, int8": ("StableAdamW", torch.float32, {"state_dtype": "int8"}),
    "program, masters": ("ADOPT", torch.bfloat16, {"master_weights": True}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_first_launches_of_steps(family: str, cpu: Any) -> None:
    """What memcheck and racecheck look at: small, and every kind of kernel."""
    name, dtype, options = FAMILIES[family]
    run: dict[str, Any] = {"steps": 2, "shapes": [(7,), (33, 257)], **options}
    expected = cpu(partial(trained, name, torch.device("cpu"), dtype, **run))
    assert_all_same(trained(name, DEVICE, dtype, **run), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_first_launches_of_dropout(dtype: torch.dtype, cpu: Any) -> None:
    x = torch.randn(33, 257, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = cpu(lambda: kernels.dropout(x, 0.3, seed=5))
    assert same(kernels.dropout(x.to(DEVICE), 0.3, seed=5), expected)


# ---- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", [{}, TAIL], ids=["plain", "tail"])
@pytest.mark.parametrize("name", ON_CUDA)
def test_steps_have_the_cpus_bits(
    name: str, tail: dict[str, Any], dtype: torch.dtype, cpu: Any
) -> None:
    for options in ({"lr": 0.01}, FULL[name]):
        expected = cpu(partial(trained, name, torch.device("cpu"), dtype, **options, **tail))
        assert_all_same(trained(name, DEVICE, dtype, **options, **tail), expected)


@pytest.mark.parametrize(("name", "options"), STORED, ids=str)
def test_storages_have_the_cpus_bits(name: str, options: dict[str, Any], cpu: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        expected = cpu(partial(trained, name, torch.device("cpu"), dtype, **options))
        assert_all_same(trained(name, DEVICE, dtype, **options), expected)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_has_the_references_bits(form: str) -> None:
    it = FORMS[form]
    for dtype in (np.float32, np.float64, np.float16):
        for size in (1, 255, 1000, 300_000):
            random = np.random.default_rng(size)
            arguments = it.arguments(
                values(random, (size // min(size, 100), min(size, 100)), dtype), random
            )
            there = [
                torch.from_numpy(a).to(DEVICE) if isinstance(a, np.ndarray) else a for a in arguments
            ]
            got = it.kernel(*there, 0.3, seed=5, offset=7, index=3)
            expected = it.reference(*arguments, 0.3, seed=5, offset=7, index=3)
            assert same(got, torch.from_numpy(np.asarray(expected)))


def test_the_norm_has_the_cpus_bits() -> None:
    for sizes in ([1], [4096], [4097, 3, 0], [5_000_011, 77]):
        params = [torch.randn(n, generator=torch.Generator().manual_seed(n)).to(DEVICE) for n in sizes]
        optimizer = optim.SGD(params, lr=0.0, max_grad_norm=1.0)
        gradients(params, 3)
        optimizer.step()
        expected = reference.grad_norm([param.grad.cpu().numpy() for param in params])
        assert float(optimizer.grad_norm) == expected


def test_lists_of_every_length(cpu: Any) -> None:
    for count in (1, 225, 226, 227, 2000):
        run: dict[str, Any] = {
            "shapes": [(17,), (64, 65)] * (count // 2) + [(3,)] * (count % 2),
            "steps": 2,
        }
        expected = cpu(partial(trained, "AdamW", torch.device("cpu"), torch.float32, **run))
        assert_all_same(trained("AdamW", DEVICE, torch.float32, **run), expected)


@on_a_gpu
@pytest.mark.parametrize("options", [{"state_dtype": "int8"}, {"stochastic_rounding": True}], ids=str)
def test_more_chunks_than_blocks(options: dict[str, Any], cpu: Any) -> None:
    """Of so many elements a block takes several chunks where the states are codes."""
    run: dict[str, Any] = {"steps": 2, "shapes": [(1 << 14, 1 << 13), (3, 300)], **options}
    dtype = dtype_for(options)
    expected = cpu(partial(trained, "AdamW", torch.device("cpu"), dtype, **run))
    assert_all_same(trained("AdamW", DEVICE, dtype, **run), expected)


# ---- nn -------------------------------------------------------------------------------------------


def test_masks_are_the_same_on_every_device(cpu: Any) -> None:
    def run(device: torch.device) -> tuple[Tensor, Tensor]:
        x = torch.ones(300, 100, device=device, requires_grad=True)
        torch.manual_seed(3)
        y = nn.functional.dropout(nn.functional.relu_dropout(x, 0.2), 0.3)
        y.sum().backward()
        return y, x.grad

    assert_all_same(list(run(DEVICE)), list(cpu(lambda: run(torch.device("cpu")))))


@on_a_gpu
def test_dropout_in_a_graph_draws_a_new_mask_at_every_replay() -> None:
    x = torch.ones(100_000, device=DEVICE, requires_grad=True)
    y, grad, replay = captured_dropout(x)
    found = []
    for _ in range(100):
        replay()
        torch.cuda.synchronize()
        assert torch.equal(y, grad)  # the backward pass has the forward pass's mask
        found.append(y.detach().clone())
        assert 0.45 < float((y != 0).float().mean()) < 0.55
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(found))


def captured_dropout(x: Tensor) -> tuple[Tensor, Tensor, Callable[[], None]]:
    graph = torch.cuda.CUDAGraph()
    nn.functional.dropout(x, 0.5).sum().backward()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = nn.functional.dropout(x, 0.5)
        (grad,) = torch.autograd.grad(y.sum(), x)
    return y, grad, graph.replay


@on_a_gpu
def test_an_offset_in_a_graph_counts_the_steps() -> None:
    counter = torch.zeros((), dtype=torch.int64, device=DEVICE)
    x = torch.ones(1000, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    nn.functional.dropout(x, 0.5, seed=9, offset=counter)  # a kernel is loaded when it first runs
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = nn.functional.dropout(x, 0.5, seed=9, offset=counter)
        counter.add_(1)
    for step in range(5):
        graph.replay()
        expected = kernels.dropout(torch.ones(1000), 0.5, seed=9, offset=step)
        assert same(y, expected)


# ---- graphs and streams ---------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("options", [{}, TAIL, *STORAGE], ids=str)
@pytest.mark.parametrize("name", [*CAPTURABLE, *IN_PYTHON])
def test_a_hundred_replays_are_a_hundred_steps(name: str, options: dict[str, Any]) -> None:
    dtype = dtype_for(options)
    lr = torch.tensor(0.01, device=DEVICE)

    def started() -> tuple[list[Tensor], torch.optim.Optimizer]:
        params = parameters(DEVICE, dtype)
        optimizer = getattr(optim, name)(params, lr=lr, capturable=True, **options)
        gradients(params, 0)
        optimizer.step()  # makes the states
        return params, optimizer

    params, optimizer = started()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        optimizer.step()
    eager_params, eager = started()
    for step in range(100):
        lr.fill_(0.01 / (1 + step))
        for param, twin in zip(params, eager_params, strict=True):
            param.grad.add_(0.125)
            twin.grad.add_(0.125)
        graph.replay()
        eager.step()
    assert_all_same(everything(params, optimizer), everything(eager_params, eager))


@on_a_gpu
def test_a_step_is_on_the_current_stream() -> None:
    side = torch.cuda.Stream()
    params = parameters(DEVICE, torch.float32, [(1 << 22,)])
    optimizer = optim.SGD(params, lr=1.0)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        params[0].grad = torch.ones_like(params[0])
        before = params[0].clone()
        optimizer.step()
        after = params[0].clone()
    side.synchronize()
    assert torch.equal(after, before - 1)


@on_a_gpu
def test_several_devices_in_a_group(cpu: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    devices = [torch.device("cuda", i % 2) for i in range(4)]
    params = [torch.ones(1000, device=device) for device in devices]
    optimizer = optim.AdamW(params, lr=0.1, max_grad_norm=1.0)
    gradients(params, 0)
    optimizer.step()
    here = [torch.ones(1000) for _ in params]
    twin = optim.AdamW(here, lr=0.1, max_grad_norm=1.0)
    gradients(here, 0)
    twin.step()
    assert_all_same(params, here)
    assert torch.cuda.current_device() == 0


# ---- around the optimizer -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, TAIL, *STORAGE], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
def test_checkpoints_go_from_device_to_device(name: str, options: dict[str, Any], cpu: Any) -> None:
    """Two steps there, saved, two more here: the bits of four. A loaded product lies on the device."""
    dtype = dtype_for(options)
    expected = cpu(lambda: trained(name, torch.device("cpu"), dtype, 4, **options))

    def two(params: list[Tensor], first: int, saved: Any = None) -> Any:
        optimizer = getattr(optim, name)(params, **options)
        if saved is not None:
            optimizer.load_state_dict(saved)
        for step in (first, first + 1):
            gradients(params, step)
            optimizer.step()
        return optimizer

    there, here = parameters(DEVICE, dtype), parameters(torch.device("cpu"), dtype)
    saved = copy.deepcopy(two(there, 0).state_dict())
    for to, other in zip(here, there, strict=True):
        to.copy_(other)
    assert_all_same(everything(here, cpu(lambda: two(here, 2, saved))), expected)

    there, here = parameters(DEVICE, dtype), parameters(torch.device("cpu"), dtype)
    saved = copy.deepcopy(cpu(lambda: two(here, 0)).state_dict())
    for to, other in zip(there, here, strict=True):
        to.copy_(other)
    assert_all_same(everything(there, two(there, 2, saved)), expected)


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_read_where_torch_keeps_them(dtype: torch.dtype) -> None:
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        (param,) = parameters(device, dtype, [(3, 5)])
        gradients([param], 0)
        optimizer = optim.AdamW([param], lr=0.1)
        optimizer.step()  # which meets a tensor there
        assert all(map(_C.reads_in_place, (param, param.grad, param.grad.t())))


@on_a_gpu
def test_a_parameter_whose_memory_was_freed_is_left_to_torch() -> None:
    params = parameters(DEVICE, torch.float32, [(7,)])
    gradients(params, 0)
    params[0].untyped_storage().resize_(0)
    ((_, _, reason),) = _C.left_over("adam", optim.AdamW(params))
    assert reason == "without storage, which was freed"


@on_a_gpu
def test_a_product_that_a_host_cannot_advance_is_left_to_torch() -> None:
    params = parameters(DEVICE, torch.float32)
    gradients(params, 0)
    optimizer = optim.NAdam(params)
    optimizer.step()
    state = optimizer.state[params[0]]
    state["step"] = state["step"].to(DEVICE)
    ((_, _, reason),) = _C.left_over("nadam", optimizer)
    assert reason == "its state's mu_product lies on the CPU, but its step does not"


@on_a_gpu
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_scaler_waits_for_nothing(name: str) -> None:
    params = parameters(DEVICE, torch.float32)
    optimizer = getattr(optim, name)(params, lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    scaler.scale(torch.ones((), device=DEVICE))
    gradients(params, 0)
    scaler.step(optimizer)
    scaler.update()
    before = [param.clone() for param in params]
    params[-1].grad[0, 0] = float("inf")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        scaler.step(optimizer)
        scaler.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_all_same(params, before)
    assert scaler.get_scale() == 4.0


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_agrees_with_torchs_fused_step(name: str) -> None:
    ours, theirs = (parameters(DEVICE, torch.float32) for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.1, "fused": True}
    optimizer = getattr(optim, name)(ours, **options)
    try:
        twin = getattr(torch.optim, name)(theirs, **options)
        gradients(theirs, 0)
        twin.step()
    except RuntimeError as error:  # NotImplementedError is one
        if not isinstance(error, NotImplementedError) and "supported devices" not in str(error):
            raise
        pytest.skip(f"this torch has no such kernel: {error}")
    gradients(ours, 0)
    optimizer.step()
    for step in range(1, 10):
        for params, its in ((ours, optimizer), (theirs, twin)):
            gradients(params, step)
            its.step()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-6, atol=2e-6)


def test_no_parameter_is_left_to_torch() -> None:
    params = parameters(DEVICE, torch.float32)
    gradients(params, 0)
    optimizer = optim.AdamW(params)
    optimizer.step()
    assert not _C.left_over("adam", optimizer)
