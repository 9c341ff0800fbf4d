"""Checkpoints, copies and conversions where states are stored in other dtypes than parameters."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import fastopt
from _convert_cases import assert_same, params_of, take_steps
from _optim_cases import (
    CASES,
    EVERY,
    FEW_BITS,
    FULL,
    STATE_PAIRS,
    STORED,
    Options,
    assert_same_bits,
    option_id,
    parameters,
    state_dtypes,
)
from fastopt.optim._storage import decoded

each_optimizer = pytest.mark.parametrize("name", CASES)
each_pair = pytest.mark.parametrize(("dtype", "stored"), STATE_PAIRS, ids=option_id)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def continued(first: Optimizer, resumed: Optimizer) -> None:
    """Load one's parameters and, through a file, its state into another; then step it."""
    for ours, theirs in zip(params_of(resumed), params_of(first), strict=True):
        ours.data.copy_(theirs.data)
    resumed.load_state_dict(through_file(first.state_dict()))
    take_steps(resumed, 3, 3)


@each_optimizer
@each_pair
@pytest.mark.parametrize("asked", [True, False])
def test_a_resumed_run_is_an_unbroken_one(
    name: str, dtype: torch.dtype, stored: torch.dtype, asked: bool
) -> None:
    """The dtype of the states comes from the file, like every option."""
    options = FEW_BITS[name] | {"state_dtype": stored, "ema_decay": 0.9}
    unbroken = CASES[name].ours(parameters(dtype), **options)
    take_steps(unbroken, 0, 6)
    first = CASES[name].ours(parameters(dtype), **options)
    take_steps(first, 0, 3)
    resumed = CASES[name].ours(parameters(dtype), **options if asked else {})
    continued(first, resumed)
    assert state_dtypes(resumed, *CASES[name].states) == {stored}
    assert state_dtypes(resumed, "ema") == {torch.float32}
    assert_same(resumed, unbroken)


@each_optimizer
@each_pair
@pytest.mark.parametrize("theirs_dtype", [torch.float32, torch.bfloat16], ids=option_id)
def test_checkpoints_of_torch(
    name: str, dtype: torch.dtype, stored: torch.dtype, theirs_dtype: torch.dtype
) -> None:
    """States are rounded once, from what the checkpoint holds to what is asked for."""
    theirs = CASES[name].torchs(parameters(theirs_dtype), **FEW_BITS[name])
    take_steps(theirs, 0, 2)
    saved = theirs.state_dict()
    kept = copy.deepcopy(saved)
    ours = CASES[name].ours(parameters(dtype), **FEW_BITS[name], state_dtype=stored)
    ours.load_state_dict(saved)
    for index, param in enumerate(params_of(ours)):
        for key, value in kept["state"][index].items():
            expected = value if key == "step" else value.to(stored)
            assert_same_bits(ours.state[param][key], expected, key)
            assert_same_bits(saved["state"][index][key], value, key)
    mine = [{**group, "params": 0} for group in ours.param_groups]
    assert [group.pop("state_dtype") for group in mine] == [str(stored).removeprefix("torch.")]
    assert not any(it.reason for it in ours.fused_report())


@each_optimizer
def test_a_hook_before_loading_is_heeded(name: str) -> None:
    """States come from the dict that it returns."""
    first = CASES[name].ours(parameters(), **FEW_BITS[name])
    take_steps(first, 0, 2)
    options = FEW_BITS[name] | {"state_dtype": torch.bfloat16}
    second = CASES[name].ours(parameters(), **options)

    def ones(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        states = {
            index: {key: torch.ones_like(value) for key, value in state.items()}
            for index, state in given["state"].items()
        }
        groups = [{**group, "state_dtype": torch.bfloat16} for group in given["param_groups"]]
        return {"state": states, "param_groups": groups}

    second.register_load_state_dict_pre_hook(ones)
    second.load_state_dict(first.state_dict())
    assert state_dtypes(second, *CASES[name].states) == {torch.bfloat16}
    for state, key in itertools.product(second.state.values(), CASES[name].states):
        assert key not in state or (state[key] == 1).all()


@each_optimizer
@each_pair
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copied_or_pickled_optimizer_continues(
    name: str, dtype: torch.dtype, stored: torch.dtype, clone: Callable[[Optimizer], Optimizer]
) -> None:
    unbroken = CASES[name].ours(parameters(dtype), **FEW_BITS[name], state_dtype=stored)
    take_steps(unbroken, 0, 3)
    copied = clone(unbroken)
    assert copied.defaults["state_dtype"] == str(stored).removeprefix("torch.")
    take_steps(copied, 3, 3)
    take_steps(unbroken, 3, 3)
    assert state_dtypes(copied, *CASES[name].states) == {stored}
    assert_same(copied, unbroken)


@each_optimizer
@pytest.mark.parametrize("dtype", STORED, ids=option_id)
def test_a_converted_optimizer_takes_the_kernels(name: str, dtype: torch.dtype) -> None:
    optimizer: Any = CASES[name].torchs(parameters(dtype), **FEW_BITS[name])
    take_steps(optimizer, 0, 2)
    fastopt.from_torch(optimizer)
    assert not any(it.reason for it in optimizer.fused_report())
    take_steps(optimizer, 2, 2)
    assert state_dtypes(optimizer, *CASES[name].states) == {dtype}
    fastopt.to_torch(optimizer)
    assert "state_dtype" not in optimizer.param_groups[0].keys() | optimizer.defaults.keys()
    take_steps(optimizer, 4, 1)


# ---- options that change ------------------------------------------------------------------------

CHANGES: list[Options] = [
    {"state_dtype": None},
    {"state_dtype": "float32"},
    {"state_dtype": "bfloat16"},
    {"state_dtype": "int8"},
    {"master_weights": True},
    {"stochastic_rounding": True},
]
SHAPES = [(64, 65), (7, 3), (5,), (2, 3, 1024)]


def changes(name: str, dtype: torch.dtype) -> Iterator[tuple[Options, Options]]:
    for pair in itertools.permutations(CHANGES, 2):
        if name == "Adagrad" and {"state_dtype": "int8"} in pair:
            continue
        if name == "RMSprop" and any(it.get("state_dtype") in ("bfloat16", "int8") for it in pair):
            continue  # which may refuse them for centered states
        if dtype == torch.float32 and any("state_dtype" not in it for it in pair):
            continue
        yield pair


@pytest.mark.parametrize("text", ["float32", "bfloat16"])
@each_optimizer
def test_a_dtype_by_its_dotted_name(name: str, text: str) -> None:
    """In a constructor, a group, a change and a checkpoint: as a text has it, ``torch.bfloat16``."""
    if name == "RMSprop" and text == "bfloat16":
        pytest.skip("centered states are refused in bfloat16")

    def make(**options: Any) -> Any:
        return CASES[name].ours(parameters(shapes=SHAPES), **FULL[name], **options)

    plain, dotted = make(state_dtype=getattr(torch, text)), {"state_dtype": f"torch.{text}"}
    take_steps(plain, 0, 3)
    by_constructor, by_change, loaded = make(**dotted), make(), make()
    by_group = CASES[name].ours([{"params": parameters(shapes=SHAPES), **dotted}], **FULL[name])
    by_change.param_groups[0].update(dotted)
    saved = copy.deepcopy(make(**dotted).state_dict())
    saved["param_groups"][0].update(dotted)
    loaded.load_state_dict(saved)
    for optimizer in (by_constructor, by_group, by_change, loaded):
        take_steps(optimizer, 0, 3)
        assert optimizer.param_groups[0]["state_dtype"] == text
        for mine, its in zip(params_of(optimizer), params_of(plain), strict=True):
            assert_same_bits(mine, its)
            assert described(optimizer) == described(plain)


def described(optimizer: Any) -> list[dict[str, Any]]:
    return [
        {key: it.dtype for key, it in optimizer.state[param].items()} for param in params_of(optimizer)
    ]


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=option_id)
def test_an_option_that_changes_in_a_group_takes_effect_at_the_next_step(
    name: str, dtype: torch.dtype
) -> None:
    """As if the run had been saved, and gone on with an optimizer of the new options."""
    for before, after in changes(name, dtype):
        neutral = {"state_dtype": None, "master_weights": False, "stochastic_rounding": False}
        changed: Any = CASES[name].ours(parameters(dtype, SHAPES), **FULL[name], **before)
        take_steps(changed, 0, 3)
        saved = copy.deepcopy(changed.state_dict())
        resumed: Any = CASES[name].ours(copy.deepcopy(params_of(changed)), **FULL[name])
        for group in (*changed.param_groups, *saved["param_groups"]):
            group.update({**neutral, **after})
        resumed.load_state_dict(saved)
        assert not any(it.reason for it in changed.fused_report())
        take_steps(changed, 3, 2)
        take_steps(resumed, 3, 2)
        fresh: Any = CASES[name].ours(parameters(dtype, SHAPES), **FULL[name], **after)
        take_steps(fresh, 0, 1)
        for mine, expected in zip(described(changed), described(fresh), strict=True):
            for key in ("rounding", "step"):  # which stay, so that no number is drawn twice
                mine.pop(key, None)
                expected.pop(key, None)
            assert mine == expected, (before, after)
        for state in resumed.state.values():
            for key in ("param_low", "master"):
                if not after.get("master_weights"):
                    assert key not in state
        assert_same(changed, resumed)


@each_optimizer
def test_what_the_constructor_was_given_holds_after_a_load(name: str) -> None:
    """For each option and group by itself; where nothing was given, the checkpoint's option does."""
    for before, given in changes(name, torch.bfloat16):
        first = CASES[name].ours(parameters(torch.bfloat16, SHAPES), **FULL[name], **before)
        take_steps(first, 0, 2)
        for own in (given, {}):  # of the second group
            params = parameters(torch.bfloat16, SHAPES)
            groups = [{"params": params[:2]}, {"params": params[2:], **own}]
            saved = copy.deepcopy(first.state_dict())
            (whole,) = saved["param_groups"]
            saved["param_groups"] = [{**whole, "params": [0, 1]}, {**whole, "params": [2, 3]}]
            second: Any = CASES[name].ours(groups, **FULL[name], **({} if own else given))
            second.load_state_dict(saved)
            for index, group in enumerate(second.param_groups):
                holds = {**before, **given} if index == 1 or not own else before
                if "stochastic_rounding" in given and holds is not before:
                    holds["master_weights"] = False
                if "master_weights" in given and holds is not before:
                    holds["stochastic_rounding"] = False
                if given == {"state_dtype": None} and not own:
                    holds = before  # what is the default was not given
                assert {key: group[key] for key in holds} == holds, (before, given, index)
            take_steps(second, 2, 1)


@each_optimizer
def test_the_names_of_dtypes_stand_for_them(name: str) -> None:
    """In constructors, groups, and checkpoints that hold dtypes; groups hold names, which all carry."""
    for stored in (torch.float32, torch.bfloat16):
        text = str(stored).removeprefix("torch.")
        for given in (stored, text, f"torch.{text}"):
            optimizer: Any = CASES[name].ours(parameters(), **FEW_BITS[name], state_dtype=given)
            extra = torch.nn.Parameter(torch.ones(3))
            optimizer.add_param_group({"params": [extra], "state_dtype": given})
            assert optimizer.defaults["state_dtype"] == text
            for group in optimizer.param_groups:
                assert group["state_dtype"] == text
                assert type(group["state_dtype"]) is str
            optimizer.param_groups[1]["state_dtype"] = given
            take_steps(optimizer, 0, 2)
            assert state_dtypes(optimizer, *CASES[name].states) == {stored}
            older = copy.deepcopy(optimizer.state_dict())
            json.dumps(older["param_groups"])
            for group in older["param_groups"]:
                group["state_dtype"] = given
            resumed: Any = CASES[name].ours([*parameters(), extra], **FEW_BITS[name])
            resumed.param_groups = [
                {**resumed.param_groups[0], "params": params}
                for params in (params_of(resumed)[:-1], [extra])
            ]
            resumed.load_state_dict(older)
            assert [group["state_dtype"] for group in resumed.param_groups] == [text, text]
            assert state_dtypes(resumed, *CASES[name].states) == {stored}


@each_optimizer
@pytest.mark.parametrize("option", [{"full_state_dict": True}, {"cpu_offload": True}, {}], ids=str)
def test_torchs_helpers_for_checkpoints_take_the_groups(name: str, option: Options) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model = torch.nn.Linear(3, 2)
    optimizer = CASES[name].ours(model.parameters(), **FEW_BITS[name], state_dtype=torch.float32)
    take_steps(optimizer, 0, 1)
    got = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(**option))
    assert [group["state_dtype"] for group in got["param_groups"]] == ["float32"]


# ---- all or nothing -----------------------------------------------------------------------------


def spoilt(saved: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoints that cannot be loaded, and what the error names."""
    for option, value in (("state_dtype", "garbage"), ("state_dtype", 8), ("rounding_seed", 0.5)):
        wrong = copy.deepcopy(saved)
        wrong["param_groups"][-1][option] = value
        yield option, wrong
    wrong = copy.deepcopy(saved)
    wrong["param_groups"][0].update(master_weights=True, stochastic_rounding=True)
    yield "stochastic_rounding", wrong
    wrong = copy.deepcopy(saved)
    wrong["state"][0]["exp_avg_scale"] = torch.ones(3, 3)
    yield "exp_avg of 8-bit codes", wrong
    wrong = copy.deepcopy(saved)
    del wrong["state"][0]["exp_avg_sq_scale"]
    yield "exp_avg_sq of 8-bit codes", wrong
    wrong = copy.deepcopy(saved)
    wrong["state"][0]["exp_avg"] = torch.ones(3)
    yield "exp_avg of shape", wrong
    yield "different number of parameter groups", {**saved, "param_groups": saved["param_groups"] * 2}


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam"])
def test_a_load_that_raises_leaves_everything_as_it_was(name: str) -> None:
    build = functools.partial(EVERY[name].ours, lr=0.01, state_dtype="int8")
    other = build(parameters(shapes=SHAPES))
    take_steps(other, 0, 2)
    saved = other.state_dict()
    saved["param_groups"][0]["lr"] = 7.0
    for message, wrong in spoilt(saved):
        optimizer: Any = build(parameters(shapes=SHAPES))
        twin = copy.deepcopy(optimizer)
        for it in (optimizer, twin):
            take_steps(it, 0, 2)
        objects = optimizer.param_groups, optimizer.state, [dict(it) for it in optimizer.param_groups]
        with pytest.raises((ValueError, KeyError), match=message):
            optimizer.load_state_dict(wrong)
        assert (optimizer.param_groups, optimizer.state) == objects[:2]
        assert [dict(it) for it in optimizer.param_groups] == objects[2]
        assert not optimizer._optimizer_load_state_dict_pre_hooks
        assert not optimizer._optimizer_load_state_dict_post_hooks
        for it in (optimizer, twin):
            take_steps(it, 2, 2)
        assert_same(optimizer, twin)


def test_a_hook_that_raises_after_a_load_undoes_it() -> None:
    """It sees the states in their dtypes."""
    optimizer: Any = fastopt.optim.AdamW(parameters(torch.bfloat16), state_dtype=torch.float32)
    take_steps(optimizer, 0, 1)
    saved, before = copy.deepcopy(optimizer.state_dict()), optimizer.state
    saved["param_groups"][0]["lr"] = 7.0
    seen = []

    def hook(it: Any) -> None:
        seen.append(state_dtypes(it, "exp_avg", "exp_avg_sq"))
        raise RuntimeError("no")

    optimizer.register_load_state_dict_post_hook(hook)
    with pytest.raises(RuntimeError, match="no"):
        optimizer.load_state_dict(saved)
    assert seen == [{torch.float32}]
    assert optimizer.state is before
    assert optimizer.param_groups[0]["lr"] != 7.0


@pytest.mark.parametrize("stored", [None, "float32", "bfloat16", "int8"])
def test_a_clone_shares_all_of_a_state_or_nothing(stored: Any) -> None:
    """torch's shares what it need not convert, step counts always."""
    optimizer: Any = fastopt.optim.AdamW(parameters(shapes=SHAPES), ema_decay=0.9)
    take_steps(optimizer, 0, 2)
    options = {} if stored is None else {"state_dtype": stored}
    clone: Any = fastopt.optim.AdamW(parameters(shapes=SHAPES), **options)
    clone.load_state_dict(optimizer.state_dict())
    for mine, theirs in zip(params_of(clone), params_of(optimizer), strict=True):
        shared = {
            value.data_ptr() == optimizer.state[theirs][key].data_ptr()
            for key, value in clone.state[mine].items()
            if key in optimizer.state[theirs]
        }
        assert len(shared) == 1
    take_steps(clone, 2, 1)
    if stored in ("bfloat16", "int8"):
        assert all(float(optimizer.state[param]["step"]) == 2 for param in params_of(optimizer)[:1])


class Packed(Tensor):
    """A tensor that stands for others, as those of torchao's 8-bit optimizers do."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor) * 2


@pytest.mark.parametrize("stored", [None, "bfloat16", "int8"])
def test_states_of_another_librarys_making_are_read_through_it(stored: Any) -> None:
    first = torch.optim.AdamW(parameters(shapes=SHAPES))
    take_steps(first, 0, 2)
    saved = copy.deepcopy(first.state_dict())
    plain = copy.deepcopy(saved)
    for index, state in saved["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            plain["state"][index][key] = state[key] * 2
            state[key] = state[key].as_subclass(Packed)
    loaded: list[Any] = []
    for state_dict in (saved, plain):
        loaded.append(fastopt.optim.AdamW(parameters(shapes=SHAPES), state_dtype=stored))
        loaded[-1].load_state_dict(state_dict)
        assert not any(it.reason for it in loaded[-1].fused_report())
        take_steps(loaded[-1], 2, 1)
    assert_same(*loaded)


def test_numbers_beside_a_scale_are_numbers() -> None:
    """A state that was reset by hand keeps the scale of its codes until it is saved and loaded."""
    optimizer: Any = fastopt.optim.AdamW(parameters(shapes=SHAPES), state_dtype="int8")
    take_steps(optimizer, 0, 2)
    state = optimizer.state[params_of(optimizer)[0]]
    state["exp_avg"] = torch.zeros(SHAPES[0])
    resumed: Any = fastopt.optim.AdamW(copy.deepcopy(params_of(optimizer)), state_dtype="int8")
    resumed.load_state_dict(optimizer.state_dict())
    loaded = resumed.state[params_of(resumed)[0]]
    assert loaded["exp_avg"].dtype == torch.int8
    assert (decoded(loaded, "exp_avg") == 0).all()


@pytest.mark.parametrize("stored", ["int8", torch.bfloat16])
def test_what_a_program_keeps_beside_the_states_is_loaded_as_torch_loads_it(stored: Any) -> None:
    mask = torch.rand(64, 64)
    optimizers = []
    for kind, options in ((torch.optim.AdamW, {}), (fastopt.optim.AdamW, {"state_dtype": stored})):
        (param,) = parameters(shapes=[(64, 64)])
        optimizer = kind([param], **options)
        take_steps(optimizer, 0, 1)
        optimizer.state[param] |= {"mask": mask.clone(), "mask_scale": torch.ones(64, 1)}
        optimizer.load_state_dict(through_file(optimizer.state_dict()))
        optimizers.append(optimizer.state[param])
    for name in ("mask", "mask_scale"):
        assert_same_bits(optimizers[1][name], optimizers[0][name], name)
