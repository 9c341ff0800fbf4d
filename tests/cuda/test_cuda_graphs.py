"""What a graph's replays would repeat is refused before anything is written; launches that fail."""

import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastopt
from _kernel_cases import STATES, USING_ALL_STATES, arguments_of, kernel
from _optim_cases import CAPTURABLE, EVERY, FULL, Options, Snapshot, array_of, parameters, set_gradients
from _optimizers import RECORDS
from _walk import Walk
from conftest import CPU_ONLY
from fastopt import _C, kernels, optim

pytestmark = pytest.mark.usefixtures("cuda_walk")

ON_CUDA = [name for name in EVERY if name not in CPU_ONLY]
STORED = [{}, {"state_dtype": torch.bfloat16}, {"state_dtype": "int8"}, {"stochastic_rounding": True}]


def begun(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """An optimizer after its first step, with gradients for the next."""
    params = parameters(dtype, shapes=[(67, 3), (70, 130), (5,)])
    optimizer = EVERY[name].ours(params, **{"lr": 0.1} | options)
    for step in range(2):
        set_gradients(params, seed=step)
        if step == 0:
            optimizer.step()
    return optimizer


def bits(optimizer: Any) -> list[bytes]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [optimizer.state[param] for param in params]
    tensors = [*params, *(state[key] for state in states for key in sorted(state))]
    return [array_of(it).tobytes() for it in tensors]


def refuses(walk: Walk, optimizer: Any, message: str) -> None:
    before = Snapshot(optimizer)
    with walk.captured(), pytest.raises(RuntimeError, match=message):
        optimizer.step()
    before.assert_unchanged()


def takes(walk: Walk, make: Callable[[], Any]) -> None:
    """A captured step's bits are those of any other."""
    one, other = make(), make()
    one.step()
    with walk.captured():
        other.step()
    assert bits(one) == bits(other)


@pytest.mark.parametrize("name", CAPTURABLE)
def test_steps_counted_on_the_host_are_refused(name: str, cuda_walk: Walk) -> None:
    message = "step lies on the CPU while a CUDA graph captures.*expected capturable=True"
    refuses(cuda_walk, begun(name), message)
    optimizer = EVERY[name].ours(params := parameters())
    set_gradients(params, seed=0)
    with cuda_walk.captured(), pytest.raises(RuntimeError, match="expected capturable=True"):
        optimizer.step()
    assert not optimizer.state
    takes(cuda_walk, lambda: begun(name, **FULL[name], capturable=True))


def test_a_class_without_capturable_names_what_it_has(cuda_walk: Walk) -> None:
    refuses(cuda_walk, begun("Adagrad"), "step lies on the CPU.*expected fused=True")
    takes(cuda_walk, lambda: begun("Adagrad", fused=True))


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("name", ["SGD", "Lion"])
def test_sgd_and_lion_are_captured_whatever_they_count(
    name: str, stored: Options, cuda_walk: Walk
) -> None:
    """For the dither, a correction or an average: what torch does not count is on the device."""
    dtype = torch.bfloat16 if "stochastic_rounding" in stored else torch.float32
    tail = {"max_grad_norm": 1.0, "ema_decay": 0.9, "ema_bias_correction": True}
    takes(cuda_walk, lambda: begun(name, dtype, **FULL[name], **stored, **tail))
    takes(cuda_walk, lambda: begun(name, torch.bfloat16, **FULL[name]))


def test_a_bias_correction_of_sgd_counts_on_the_device(cuda_walk: Walk) -> None:
    options = {"momentum": 0.9, "exponential_average": True, "bias_correction": True}
    takes(cuda_walk, lambda: begun("SGD", **options))


@pytest.mark.parametrize("name", [name for name in ON_CUDA if name != "Adagrad"])
def test_states_made_in_a_capture_are_refused(name: str, cuda_walk: Walk) -> None:
    """Every replay would make them anew. Adagrad's constructor makes its own."""
    options = FULL[name] | ({"capturable": True} if name in CAPTURABLE else {})
    params = parameters()
    optimizer = EVERY[name].ours(params, **options)
    set_gradients(params, seed=0)
    before = [param.detach().clone() for param in params]
    message = "would be made by a step that a CUDA graph captures.*expected a step before the capture"
    with cuda_walk.captured(), pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(*pair) for pair in zip(params, before, strict=True))


def test_states_converted_in_a_capture_are_refused(cuda_walk: Walk) -> None:
    for name, more in (("AdamW", {"capturable": True}), ("Adagrad", {"fused": True}), ("Lion", {})):
        optimizer = begun(name, **more)
        optimizer.param_groups[0]["state_dtype"] = "bfloat16"
        refuses(cuda_walk, optimizer, "would be made by a step that a CUDA graph captures")


def test_sgd_without_states_is_captured_from_the_first_step(cuda_walk: Walk) -> None:
    params = parameters()
    set_gradients(params, seed=0)
    optimizer = optim.SGD(params, lr=1.0)
    with cuda_walk.captured():
        optimizer.step()
    assert not optimizer.state


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_rate_in_a_tensor_of_the_host_is_refused(name: str, cuda_walk: Walk) -> None:
    """A number is a constant of the graph, as for torch; a tensor is there to be changed."""
    refuses(cuda_walk, begun(name, lr=torch.tensor(0.1)), "lr: expected a number, or under capturable")
    takes(cuda_walk, lambda: begun("AdamW", lr=torch.tensor(0.1), capturable=True))


@pytest.mark.parametrize("which", ["grad_scale", "found_inf"])
def test_what_a_scaler_tells_lies_on_the_device(which: str, cuda_walk: Walk) -> None:
    optimizer = begun("AdamW", capturable=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    setattr(optimizer, which, getattr(optimizer, which).to(torch.float16))
    refuses(cuda_walk, optimizer, f"{which}: expected a float32 or float64 tensor of one element")


def test_a_report_is_no_step(cuda_walk: Walk) -> None:
    optimizer = begun("AdamW")
    with cuda_walk.captured():
        assert [path.reason for path in optimizer.fused_report()] == [""] * 3


def test_what_sgd_counts_moves_to_the_device_with_a_checkpoint() -> None:
    optimizer = begun("SGD", state_dtype=torch.bfloat16, momentum=0.9)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["step"] = state["step"].to(torch.float16)
    optimizer.load_state_dict(saved)
    for state in optimizer.state.values():
        assert (state["step"].dtype, float(state["step"])) == (torch.float32, 1)


# ---- functions on arrays ---------------------------------------------------------------------------


FUNCTIONS = {it.function: it.facts.counts_steps for it in RECORDS.values() if not it.facts.norms}


def ones(name: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {key: torch.ones(5, dtype=dtype) for key in arguments_of(name)}


def refuses_call(walk: Walk, name: str, arrays: dict[str, torch.Tensor], **options: Any) -> None:
    message = "^step: a number of the CPU, while a CUDA graph captures.*expected an optimizer"
    with walk.captured(), pytest.raises(RuntimeError, match=message):
        kernel(name)(**arrays, **options)
    assert all(torch.equal(it, torch.ones_like(it)) for it in arrays.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_whose_step_a_replay_would_repeat_is_refused(name: str, cuda_walk: Walk) -> None:
    """So are all whose states have 16 bits, as their dither goes by the step."""
    arrays = ones(name)
    if FUNCTIONS[name]:
        refuses_call(cuda_walk, name, arrays)
    else:
        with cuda_walk.captured():
            kernel(name)(**arrays)
        assert not torch.equal(arrays["param"], torch.ones(5))
    if STATES[name]:
        refuses_call(cuda_walk, name, ones(name, torch.bfloat16), **USING_ALL_STATES[name])


def test_numbers_of_a_captured_function_are_no_arrays(cuda_walk: Walk) -> None:
    arrays = ones("sgd")
    for key in ("lr", "momentum", "grad_scale"):
        for number in (torch.tensor(0.5), np.array(0.5)):
            with cuda_walk.captured(), pytest.raises(RuntimeError, match=f"^{key}: expected a number"):
                kernels.sgd_(**arrays, **{key: number})
            assert torch.equal(arrays["param"], torch.ones(5))
    with cuda_walk.captured():
        kernels.sgd_(**arrays, lr=0.5, grad_scale=2.0)
    assert torch.equal(arrays["param"], torch.full((5,), 0.75))


# ---- launches -------------------------------------------------------------------------------------


def test_a_launch_that_fails_first_leaves_all_as_it_was(cuda_walk: Walk) -> None:
    for options in ({}, {"capturable": True}, {"max_grad_norm": 1.0}):
        optimizer = begun("AdamW", **options)
        before = Snapshot(optimizer)
        message = re.escape("CUDA device 0: the walk's launch failed")
        with cuda_walk.failing(after=0), pytest.raises(RuntimeError, match=message):
            optimizer.step()
        before.assert_unchanged()
    params = parameters()
    set_gradients(params, seed=0)
    optimizer = optim.AdamW(params)
    with cuda_walk.failing(after=0), pytest.raises(RuntimeError, match=r"; nothing has been written$"):
        optimizer.step()
    assert not optimizer.state


def test_a_launch_that_fails_later_says_what_is_done(cuda_walk: Walk) -> None:
    groups = [{"params": parameters(dtype)} for dtype in (torch.float32, torch.float64)]
    optimizer = optim.AdamW(groups, lr=0.5)
    for group in groups:
        set_gradients(group["params"], seed=0)
    before = [[param.detach().clone() for param in group["params"]] for group in groups]
    message = "of this step are done: 1 launches, .* not done: the other parameters, counts on the host"
    with cuda_walk.failing(after=1), pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert not optimizer.state
    for group, old, is_done in zip(groups, before, (True, False), strict=True):
        for param, its in zip(group["params"], old, strict=True):
            assert torch.equal(param, its) is not (is_done and param.numel() > 0)


def test_what_torch_has_stepped_is_told(cuda_walk: Walk) -> None:
    params = [*parameters(), torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = optim.AdamW(params)
    message = "done: the 1 parameters left to torch, 0 launches"
    with cuda_walk.failing(after=0), pytest.raises(RuntimeError, match=message):
        optimizer.step()


def test_a_device_is_tried_with_a_whole_table_before_the_first_step(walk: Walk) -> None:
    with walk.in_use(), walk.failing(after=0):
        assert _C.cuda_trouble(0) == "the walk's launch failed"
    with walk.in_use():
        assert _C.cuda_trouble(0) is None
        assert fastopt.info()["cuda_trouble"] is None


def test_other_threads_may_run_during_launches(cuda_walk: Walk) -> None:
    """Whoever launches does not hold the interpreter's lock."""
    is_held: Any = ctypes.pythonapi.PyGILState_Check
    assert is_held() == 1
    optimizers = [
        begun("AdamW", capturable=True, max_grad_norm=1.0),
        begun("NAdam", capturable=True),
        begun("SGD", torch.bfloat16, master_weights=True, max_grad_norm=1.0),
    ]
    optimizers[0].grad_scale, optimizers[0].found_inf = torch.tensor(2.0), torch.tensor(0.0)
    array = np.ones(3000, np.float32)
    tensor, mask = torch.ones(3000), np.empty(300, bool)
    calls: list[Callable[[], Any]] = [
        *(optimizer.step for optimizer in optimizers),
        lambda: kernels.sgd_(array, np.ones_like(array), lr=0.1),
        lambda: kernels.dropout(tensor, 0.5, seed=1),
        lambda: kernels.dropout_mask(300, 0.5, seed=1, out=mask),
    ]
    for call in calls:
        with cuda_walk.asking(is_held) as answers:
            call()
        assert answers() == 0


def storages_count(tensor: torch.Tensor) -> int:
    """The references to a tensor's storage, with that of its Python object."""
    use_count: Any = torch._C._storage_Use_Count  # type: ignore[attr-defined]
    return int(use_count(tensor.untyped_storage()._cdata))


@pytest.mark.parametrize("with_layout", [True, False])
@pytest.mark.parametrize("key", ["param", "grad", "exp_avg", "step"])
def test_memory_that_another_thread_replaces_during_launches_stays(
    key: str, with_layout: bool, cuda_walk: Walk, restored_layout: None
) -> None:
    """It is stepped, and let go of at the end; what is in its place is not touched."""
    _C.use_tensor_layout(with_layout)
    optimizer, after = begun("AdamW"), begun("AdamW")
    (param, *_), (other, *_) = (it.param_groups[0]["params"] for it in (optimizer, after))
    after.step()
    tensor = {"param": param, "grad": param.grad, **optimizer.state[param]}[key]
    stepped = {"param": other, "grad": other.grad, **after.state[other]}[key].detach()
    count = storages_count(tensor)
    kept, done = tensor.detach(), list[None]()

    def replace() -> int:
        if not done:
            tensor.data = torch.zeros_like(tensor)
            done.append(None)
        return 0

    with cuda_walk.asking(ctypes.CFUNCTYPE(ctypes.c_int)(replace)):
        optimizer.step()
    assert done
    assert storages_count(kept) == count  # `kept` has come in the place of `tensor`
    assert torch.equal(kept, stepped)
    assert not tensor.any()


@pytest.mark.parametrize("has_object", [True, False])
@pytest.mark.parametrize("with_layout", [True, False])
def test_memory_that_has_no_other_owner_is_freed_after_the_step(
    with_layout: bool, has_object: bool, cuda_walk: Walk, restored_layout: None
) -> None:
    _C.use_tensor_layout(with_layout)
    optimizer = begun("SGD")
    (param, *_) = optimizer.param_groups[0]["params"]
    storage: Any = torch.UntypedStorage
    weak = param.untyped_storage()._weak_ref()
    there = list[Any]()

    def replace() -> int:
        if not there:
            there.append(param.untyped_storage() if has_object else None)
            param.data = torch.zeros_like(param)
            assert not storage._expired(weak)
        return 0

    try:
        with cuda_walk.asking(ctypes.CFUNCTYPE(ctypes.c_int)(replace)):
            optimizer.step()
        assert storage._expired(weak) != has_object
        there.clear()
        assert storage._expired(weak)
    finally:
        storage._free_weak_ref(weak)
