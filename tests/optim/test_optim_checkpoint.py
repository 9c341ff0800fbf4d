"""Saving and resuming: 20 steps are 10, a save, a load and 10 more, bit for bit.

A state_dict also passes between torch.optim and fastopt.optim, both ways and with torch's keys, and
optimizers survive pickle and deepcopy.
"""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import (
    CASES,
    DTYPES,
    EVERY,
    FULL,
    WITH_TORCH,
    Options,
    assert_same_bits,
    option_cases,
    option_id,
    parameters,
    set_gradients,
    torch_has_fused,
)

StateDict = dict[str, Any]
each_optimizer = pytest.mark.parametrize("name", WITH_TORCH)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch's fused step wakes its threads for each small tensor: slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def train(optimizer: Optimizer, start: int, stop: int) -> None:
    """Steps `start` to `stop`; the last parameter gets its first gradient at step 4."""
    for step in range(start, stop):
        set_gradients(params_of(optimizer), seed=step)
        if step < 4:
            params_of(optimizer)[-1].grad = None
        optimizer.step()


def groups(dtype: torch.dtype) -> list[dict[str, Any]]:
    """Two groups with options of their own, of small gradients' sizes."""
    return [
        {"params": parameters(dtype)},
        {"params": parameters(dtype), "lr": 0.05, "weight_decay": 0.1},
    ]


def copy_params(source: Optimizer, target: Optimizer) -> None:
    for ours, theirs in zip(params_of(target), params_of(source), strict=True):
        ours.data.copy_(theirs.data)


def assert_equal(actual: Optimizer, expected: Optimizer) -> None:
    pairs = zip(params_of(actual), params_of(expected), strict=True)
    for index, (ours, theirs) in enumerate(pairs):
        assert_same_bits(ours, theirs, f"parameter {index}")
        mine, other = actual.state.get(ours, {}), expected.state.get(theirs, {})
        assert mine.keys() == other.keys()
        for key in other:
            assert_same_bits(mine[key], other[key], f"{key} of parameter {index}")


def through_file(state: StateDict) -> StateDict:
    """torch's own safe loader accepts what was saved."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: StateDict = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=option_id)
@pytest.mark.parametrize(("name", "options"), list(option_cases()), ids=option_id)
def test_a_resumed_run_is_an_unbroken_one(name: str, options: Options, dtype: torch.dtype) -> None:
    unbroken = EVERY[name].ours(groups(dtype), **options)
    train(unbroken, 0, 20)
    first = EVERY[name].ours(groups(dtype), **options)
    train(first, 0, 10)
    saved = through_file(first.state_dict())
    resumed = EVERY[name].ours(groups(dtype))  # the options, too, come from the file
    copy_params(first, resumed)
    resumed.load_state_dict(saved)
    train(resumed, 10, 20)
    assert_equal(resumed, unbroken)


@each_optimizer
def test_a_resumed_run_leaves_the_loaded_dict_alone(name: str) -> None:
    first = EVERY[name].ours(groups(torch.float32), **FULL[name])
    train(first, 0, 3)
    saved = first.state_dict()
    kept = copy.deepcopy(saved)
    resumed = EVERY[name].ours(groups(torch.float32), **FULL[name])
    resumed.load_state_dict(copy.deepcopy(saved))
    train(resumed, 3, 6)
    for key, state in saved["state"].items():
        for entry, value in state.items():
            assert torch.equal(value, kept["state"][key][entry])


@each_optimizer
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copied_or_pickled_optimizer_continues(
    name: str, clone: Callable[[Optimizer], Optimizer]
) -> None:
    unbroken = EVERY[name].ours(groups(torch.float32), **FULL[name])
    train(unbroken, 0, 10)
    copied = clone(unbroken)
    assert type(copied) is type(unbroken)
    assert copied.defaults == unbroken.defaults
    before = [param.detach().clone() for param in params_of(unbroken)]
    train(copied, 10, 20)
    assert all(map(torch.equal, params_of(unbroken), before))  # the copy has its own
    train(unbroken, 10, 20)
    assert_equal(copied, unbroken)


# ---- to and from torch --------------------------------------------------------------------------


def start_and_continue(
    name: str, first: type[Optimizer], second: type[Optimizer], **options: Any
) -> Optimizer:
    """Ten steps with one class, ten with another that loads the first one's state."""
    optimizer = first(groups(torch.float64), **options)
    train(optimizer, 0, 10)
    resumed = second(groups(torch.float64))
    copy_params(optimizer, resumed)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    train(resumed, 10, 20)
    return resumed


@each_optimizer
@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("direction", ["torch to fastopt", "fastopt to torch"])
def test_a_run_continues_in_the_other_library(name: str, flags: Options, direction: str) -> None:
    """Measured: at most 2e-14 apart (absolute for parameters below 1, relative above); with a lost
    state or step count, at least 2e-4.
    """
    if "fused" in flags and (name == "SGD" or not torch_has_fused(name)):
        pytest.skip("torch has none, or it fails on a late first gradient")
    ours_first = direction == "fastopt to torch"
    classes = EVERY[name].classes if ours_first else EVERY[name].classes[::-1]
    options = FULL[name] | flags
    expected = EVERY[name].torchs(groups(torch.float64), **options)
    train(expected, 0, 20)
    resumed = start_and_continue(name, *classes, **options)
    # torch makes a loaded mu_product as wide as the parameter, though it keeps it in float32.
    within = 1e-10 if ours_first and name == "NAdam" else 1e-12
    for ours, theirs in zip(params_of(resumed), params_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=within, atol=within)


@each_optimizer
def test_a_state_of_torch_keeps_our_extras(name: str) -> None:
    """torch's groups do not have them: the loading optimizer's stand."""
    extras: dict[str, Options] = {
        "SGD": {"momentum": 0.9, "exponential_average": True},
        "RMSprop": {"eps_inside_sqrt": True},
        "Adam": {"bias_correction": False, "eps_inside_sqrt": True},
        "AdamW": {"bias_correction": False},
    }
    options = extras.get(name, {})
    theirs = EVERY[name].torchs(groups(torch.float32), **FULL[name])
    train(theirs, 0, 2)
    ours = EVERY[name].ours(groups(torch.float32), **options)
    ours.load_state_dict(theirs.state_dict())
    for key in options.keys() - FULL[name].keys():
        assert [group[key] for group in ours.param_groups] == [options[key]] * 2


@each_optimizer
@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("default", DTYPES, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES, ids=option_id)
def test_state_dicts_have_torchs_keys_and_dtypes(
    name: str, flags: Options, default: torch.dtype, dtype: torch.dtype
) -> None:
    """Only our extras come on top, among the group's keys. Also before the first step."""
    if "fused" in flags and not torch_has_fused(name):
        pytest.skip("torch has none")
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        dicts = []
        for optimizer_class in EVERY[name].classes:
            for options in ({}, FULL[name]):
                optimizer = optimizer_class(parameters(dtype), **options, **flags)
                dicts.append(copy.deepcopy(optimizer.state_dict()))
                for step in range(2):
                    set_gradients(params_of(optimizer), seed=step)
                    optimizer.step()
                    dicts.append(copy.deepcopy(optimizer.state_dict()))
    finally:
        torch.set_default_dtype(before)
    for ours, theirs in zip(dicts[:6], dicts[6:], strict=True):
        assert describe(ours["state"]) == describe(theirs["state"])
        extras = ours["param_groups"][0].keys() - theirs["param_groups"][0].keys()
        assert extras <= {
            "exponential_average",
            "bias_correction",
            "eps_inside_sqrt",
            "cautious_decay",
            "max_grad_norm",
            "error_if_nonfinite",
            "ema_decay",
            "ema_bias_correction",
            "copy_to",
            "state_dtype",
            "master_weights",
            "stochastic_rounding",
            "rounding_seed",
        }
        for group in ours["param_groups"]:
            for extra in extras:
                del group[extra]
        assert ours["param_groups"] == theirs["param_groups"]


def describe(state: StateDict) -> dict[tuple[int, str], Any]:
    return {
        (index, key): (value.dtype, value.shape) if isinstance(value, Tensor) else value
        for index, entries in state.items()
        for key, value in entries.items()
    }


@each_optimizer
def test_older_state_dicts(name: str) -> None:
    """A step count that is a number, and groups from before a key was added."""
    unbroken = EVERY[name].ours(groups(torch.float32), **FULL[name])
    train(unbroken, 0, 20)
    first = EVERY[name].ours(groups(torch.float32), **FULL[name])
    train(first, 0, 10)
    saved = first.state_dict()
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    for group in saved["param_groups"]:
        for key in ("maximize", "foreach", "differentiable", "capturable", "fused"):
            group.pop(key, None)
        for key in ("bias_correction", "eps_inside_sqrt", "exponential_average", "state_dtype"):
            group.pop(key, None)
    resumed = EVERY[name].ours(groups(torch.float32))
    copy_params(first, resumed)
    resumed.load_state_dict(saved)
    train(resumed, 10, 20)
    assert_equal(resumed, unbroken)


def test_a_momentum_buffer_of_none_is_a_first_step() -> None:
    """Older versions of torch saved it for parameters that had never had a gradient."""
    unbroken = CASES["SGD"].ours(groups(torch.float32), momentum=0.9)
    train(unbroken, 0, 6)
    first = CASES["SGD"].ours(groups(torch.float32), momentum=0.9)
    train(first, 0, 3)
    saved = first.state_dict()
    for index in range(len(params_of(first))):
        saved["state"].setdefault(index, {"momentum_buffer": None})
    resumed = CASES["SGD"].ours(groups(torch.float32))
    copy_params(first, resumed)
    resumed.load_state_dict(saved)
    train(resumed, 3, 6)
    assert_equal(resumed, unbroken)


@each_optimizer
def test_named_parameters_are_saved_with_their_names(name: str) -> None:
    model = torch.nn.Linear(3, 2)
    ours = EVERY[name].ours(model.named_parameters())
    theirs = EVERY[name].torchs(model.named_parameters())
    names = theirs.state_dict()["param_groups"][0]["param_names"]
    assert ours.state_dict()["param_groups"][0]["param_names"] == names == ["weight", "bias"]
    ours.load_state_dict(theirs.state_dict())


@each_optimizer
def test_state_dict_hooks_run(name: str) -> None:
    optimizer = EVERY[name].ours(parameters())
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("save post"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save pre", "save post", "load pre", "load post"]


@each_optimizer
def test_a_checkpoint_in_the_process_shares_its_tensors_as_torchs_does(name: str) -> None:
    """With the optimizer that it is of, and with those that load it; so does what `.data` gives."""
    shared, moved = [], []
    for optimizer_class in EVERY[name].classes:
        params = parameters(shapes=[(5, 3)])
        optimizer = optimizer_class(params, **FULL[name])
        train(optimizer, 4, 6)
        saved, kept = optimizer.state_dict(), params[0].data
        other = optimizer_class(parameters(shapes=[(5, 3)]), **FULL[name])
        other.load_state_dict(saved)
        loaded = other.state[params_of(other)[0]]
        states = optimizer.state[params[0]]
        shared.append({key: saved["state"][0][key] is value for key, value in states.items()})
        moved.append(
            states["step"].data_ptr() == loaded["step"].data_ptr() if "step" in states else None
        )
        before = kept.clone()
        train(optimizer, 6, 7)
        assert not torch.equal(kept, before)
        assert kept.data_ptr() == params[0].data_ptr()
    assert shared[0] == shared[1]
    assert all(shared[0].values())
    assert moved[0] == moved[1]
