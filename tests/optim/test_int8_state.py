"""state_dtype="int8": codes of 8 bits and scales, in and around a step; state_dict(as_torch=True)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from _low_cases import (
    COPIES,
    RULES,
    TAILS,
    THREADS,
    Low,
    assert_equal,
    assert_same_everything,
    low_parameters,
    numbers,
    params_of,
    raw,
    set_grads,
    train,
)
from _optim_cases import EVERY, Options, option_id
from fastopt.optim._storage import decoded
from fastopt.reference.codes import BLOCK, decode_blocks, encode_blocks

INT8: Options = {"state_dtype": "int8"}
# Rows of whole blocks and not, of one block and of the least; three dimensions; one row.
CODED = [(64, 64), (16, 256), (8, 600), (5, 1023), (70, 3, 200), (1, 4096), (4096 // 255 + 1, 255)]
# Too small by one element, rows too short by one, one dimension, none, nothing.
PLAIN = [(63, 65), (100, 63), (5000,), (), (0, 100), (100, 0)]
DTYPES = [torch.float32, torch.bfloat16]
each_rule = pytest.mark.parametrize(("name", "options"), RULES, ids=option_id)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=option_id)


def build(name: str, params: Any, **options: Any) -> Optimizer:
    made: Optimizer = EVERY[name].ours(params, **options)
    return made


def coded(optimizer: Optimizer, param: Tensor) -> set[str]:
    eight = (torch.int8, torch.uint8)
    return {key for key, value in optimizer.state[param].items() if value.dtype in eight}


# ---- steps ----------------------------------------------------------------------------------------


@each_dtype
@each_rule
def test_steps_equal_the_reference(
    backend: str, name: str, options: Options, dtype: torch.dtype
) -> None:
    params = low_parameters(CODED + PLAIN, dtype)
    low = Low(name, build(name, params, **options, **INT8))
    for step in range(4):
        set_grads(params, step)
        low.step()
    states = set(low.optimizer.state[params[0]]) & set(EVERY[name].states)
    for index, param in enumerate(params):
        assert coded(low.optimizer, param) == (states if index < len(CODED) else set()), param.shape
    for key in states:
        square = key in low.optimizer._facts.squares  # type: ignore[attr-defined]
        state = low.optimizer.state[params[2]]
        assert state[key].dtype == (torch.uint8 if square else torch.int8)
        assert (state[f"{key}_scale"].shape, state[f"{key}_scale"].dtype) == ((8, 3), torch.float32)


@each_dtype
@pytest.mark.parametrize("tail", TAILS, ids=option_id)
def test_clipping_and_averaging(backend: str, tail: Options, dtype: torch.dtype) -> None:
    params = low_parameters([*CODED, (9,)], dtype)
    low = Low("Adam", build("Adam", params, **tail, amsgrad=True, **INT8))
    for step in range(3):
        set_grads(params, step)
        low.step()


@pytest.mark.parametrize("behind", ["master_weights", "stochastic_rounding"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_16_bit_parameters(backend: str, name: str, behind: str) -> None:
    params = low_parameters([(8, 600), (3, 1500), (40,)], torch.bfloat16)
    options = {"momentum": 0.9} if name == "SGD" else {}
    low = Low(name, build(name, params, **options, **INT8, **{behind: True}))
    for step in range(3):
        set_grads(params, step)
        low.step()
    assert coded(low.optimizer, params[0])


@each_dtype
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", [(3, 100003), (331, 407)], ids=str)
def test_threads(
    backend: str, shape: tuple[int, ...], threads: int, dtype: torch.dtype, set_threads: Any
) -> None:
    set_threads(threads)
    params = low_parameters([shape], dtype)
    low = Low("AdamW", build("AdamW", params, **INT8))
    for step in range(2):
        set_grads(params, step)
        low.step()


@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
@each_dtype
@each_rule
def test_a_broken_block_says_so(
    backend: str, name: str, options: Options, what: float, dtype: torch.dtype
) -> None:
    """Its scale is NaN, so the next step makes all that it touches NaN; others stay numbers."""
    params = low_parameters([(8, 600)], dtype)
    low = Low(name, build(name, params, **options, **INT8))
    for step in range(3):
        set_grads(params, step)
        if step == 1:
            assert params[0].grad is not None
            params[0].grad[2, 300] = what
        low.step()
    state, broken = low.optimizer.state[params[0]], np.zeros((8, 3), bool)
    broken[2, 1] = True
    for key in coded(low.optimizer, params[0]):
        assert (np.isnan(raw(state[f"{key}_scale"])) == broken).all()
        assert (raw(state[key])[2, 256:512] == 0).all()
    expected = np.zeros((8, 600), bool)
    expected[2, 256:512] = True
    assert (np.isnan(numbers(params[0])) == expected).all()


@pytest.mark.parametrize("clips", [False, True])
def test_a_square_may_overflow_where_its_gradient_does_not(backend: str, clips: bool) -> None:
    """Which breaks the block of squares, and none if the norm is clipped."""
    params = low_parameters([(8, 600)])
    low = Low("AdamW", build("AdamW", params, **INT8, max_grad_norm=1.0 if clips else None))
    for step in range(3):
        set_grads(params, step)
        if step == 1:
            assert params[0].grad is not None
            params[0].grad[2, 300] = 2e19
        low.step()
    state, broken = low.optimizer.state[params[0]], np.zeros((8, 3), bool)
    broken[2, 1] = not clips
    assert (np.isnan(raw(state["exp_avg_sq_scale"])) == broken).all()
    assert not np.isnan(raw(state["exp_avg_scale"])).any()
    assert np.isnan(numbers(params[0])).sum() == (0 if clips else 256)


@each_dtype
@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001])
def test_a_scale_may_be_any_nan(backend: str, bits: int, dtype: torch.dtype) -> None:
    """One that was loaded, say, whose lower bits must not carry when the parameter is rounded."""
    params = low_parameters([(8, 600)], dtype)
    optimizer = build("AdamW", params, **INT8, ema_decay=0.9)
    train(optimizer, range(1))
    state = optimizer.state[params[0]]
    for key in coded(optimizer, params[0]):
        state[f"{key}_scale"].view(torch.int32)[2, :] = bits
    train(optimizer, range(1, 2))
    expected = np.zeros((8, 600), bool)
    expected[2] = True
    assert (np.isnan(numbers(params[0])) == expected).all()
    assert (np.isnan(numbers(state["ema"])) == expected).all()


def test_the_dither_changes_from_step_to_step(backend: str) -> None:
    """A sum to which each step adds a hundredth of a code's step grows all the same."""
    for name, key, options in (
        ("SGD", "momentum_buffer", {"momentum": 0.999999, "lr": 1e-9}),
        ("RMSprop", "square_avg", {"alpha": 0.999, "lr": 1e-9}),
    ):
        param = torch.nn.Parameter(torch.zeros(64, 256))
        optimizer = build(name, [param], **options, **INT8)
        param.grad = torch.ones_like(param)
        optimizer.step()
        param.grad = torch.full_like(param, 1e-3) if name == "SGD" else torch.zeros_like(param)
        param.grad[:, 0] = 1.0 if name == "RMSprop" else 0.0  # keeps the scale
        state = optimizer.state[param]
        start = decode_blocks(raw(state[key]), raw(state[f"{key}_scale"]))[:, 1:].mean()
        for _ in range(200):
            optimizer.step()
        end = decode_blocks(raw(state[key]), raw(state[f"{key}_scale"]))[:, 1:].mean()
        ratio = end / start
        assert abs(ratio / (1.2 if name == "SGD" else 0.999**200) - 1) < 0.02, (name, ratio)


def test_a_group_without_codes_after_one_with_them(backend: str) -> None:
    """Each parameter has its own dither, or none."""
    params = low_parameters([(64, 64), (5,), (64, 65)])
    groups: list[Options] = [
        {"params": params[:1], "momentum": 0.9},
        {"params": params[1:2]},
        {"params": params[2:], "momentum": 0.9, "bias_correction": False},
    ]
    low = Low("SGD", build("SGD", groups, lr=0.1, **INT8))
    for step in range(4):
        set_grads(params, step)
        if step == 1:
            params[2].grad = None
        low.step()
    assert coded(low.optimizer, params[2]) == {"momentum_buffer"}
    assert not low.optimizer.state.get(params[1])


# ---- who takes codes ------------------------------------------------------------------------------


def transposed() -> Tensor:
    return torch.randn(100, 80).T.requires_grad_()


def channels_last() -> Tensor:
    image = torch.randn(16, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    return torch.nn.Parameter(image)


def double() -> Tensor:
    return torch.nn.Parameter(torch.randn(80, 100, dtype=torch.float64))


@pytest.mark.parametrize("make", [transposed, channels_last, double])
def test_states_of_others_stay_as_they_are(backend: str, make: Any) -> None:
    param = make()
    plain = param.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    ours, theirs = build("AdamW", [param], **INT8), build("AdamW", [plain])
    train(ours, range(2))
    train(theirs, range(2))
    assert_same_everything(ours, theirs)
    assert ours.state[param]["exp_avg"].dtype == param.dtype


def test_adagrad_has_none() -> None:
    params = low_parameters([(64, 64)])
    with pytest.raises(ValueError, match='state_dtype="int8": Adagrad'):
        build("Adagrad", params, **INT8)


WRONG = ["int4", torch.int8, "torch.int8", torch.int32, torch.float64, "float64", "bf16", 8, True]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_state_dtype_is_refused(wrong: Any) -> None:
    params = low_parameters([(64, 64)])
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        build("AdamW", params, state_dtype=wrong)
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        build("AdamW", [{"params": params, "state_dtype": wrong}])
    optimizer = build("AdamW", params)
    optimizer.param_groups[0]["state_dtype"] = wrong
    set_grads(params, 0)
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        optimizer.step()
    assert not optimizer.state


def test_codes_without_their_scales_are_refused() -> None:
    """Rather than read as 0."""
    params = low_parameters([(64, 64)])
    optimizer = build("AdamW", params, **INT8)
    train(optimizer, range(1))
    scale = optimizer.state[params[0]].pop("exp_avg_sq_scale")
    with pytest.raises(KeyError, match="exp_avg_sq_scale"):
        optimizer.step()
    for wrong in (scale[:, :0], scale.double(), scale.expand(64, 2)):
        optimizer.state[params[0]]["exp_avg_sq_scale"] = wrong
        vars(optimizer)["_has_warned"] = False
        message = r"scales of a state in 8 bits that are not float32 .* as state_dtype='int8'"
        with pytest.raises(ValueError, match=message):
            optimizer.step()


# ---- state dicts ----------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("way", COPIES)
@each_rule
def test_a_copy_continues(name: str, options: Options, way: str, dtype: torch.dtype) -> None:
    more = {"master_weights": dtype == torch.bfloat16, "ema_decay": 0.9, "ema_bias_correction": True}
    first = build(name, low_parameters([(64, 70), (9,)], dtype), **options, **INT8, **more)
    train(first, range(2))
    other = COPIES[way](first)
    assert_same_everything(other, first)
    train(first, range(2, 5))
    train(other, range(2, 5))
    assert_same_everything(other, first)
    assert coded(other, params_of(other)[0])


def decoded_states(optimizer: Optimizer, param: Tensor) -> dict[str, Any]:
    state = optimizer.state[param]
    return {
        key: decode_blocks(raw(state[key]), raw(state[f"{key}_scale"]))
        for key in coded(optimizer, param)
    }


TORCHS = [(name, it) for name, it in RULES if EVERY[name].torchs and "exponential_average" not in it]


@pytest.mark.parametrize(("name", "options"), TORCHS, ids=option_id)
def test_numbers_become_codes_and_codes_numbers(name: str, options: Options) -> None:
    shapes = [(64, 70), (9,)]
    theirs = EVERY[name].torchs(low_parameters(shapes), **options)
    train(theirs, range(3))
    params = low_parameters(shapes)
    ours = build(name, params, **options, **INT8)
    ours.load_state_dict(theirs.state_dict())
    first = params_of(theirs)[0]
    assert coded(ours, params[0]) == set(EVERY[name].states) & ours.state[params[0]].keys()
    for key in coded(ours, params[0]):
        code = "signed8" if ours.state[params[0]][key].dtype == torch.int8 else "root8"
        codes, scales = encode_blocks(raw(theirs.state[first][key]), code, step=0)
        assert_equal(raw(ours.state[params[0]][key]), codes, key)
        assert_equal(raw(ours.state[params[0]][f"{key}_scale"]), scales, key)
    train(ours, range(3, 5))

    saved = ours.state_dict()
    for group in saved["param_groups"]:
        group["state_dtype"] = None
    again = build(name, low_parameters(shapes), **options)
    again.load_state_dict(saved)
    param = params_of(again)[0]
    assert coded(again, param) == set()
    assert not any(key.endswith("_scale") for key in again.state[param])
    for key, value in decoded_states(ours, params[0]).items():
        assert_equal(raw(again.state[param][key]), value, key)
    train(again, range(5, 6))


def test_what_was_loaded_is_not_written_to() -> None:
    first = build("AdamW", low_parameters([(64, 70)]), **INT8)
    train(first, range(2))
    saved = first.state_dict()
    other = build("AdamW", low_parameters([(64, 70)]), **INT8)
    other.load_state_dict(saved)
    before = {key: value.clone() for key, value in saved["state"][0].items()}
    train(other, range(2, 3))
    for key in ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"):
        assert torch.equal(saved["state"][0][key], before[key]), key


def test_groups_have_their_own(backend: str) -> None:
    params = low_parameters([(64, 64)] * 3)
    groups: list[Options] = [
        {"params": params[:1], **INT8},
        {"params": params[1:2]},
        {"params": params[2:], "state_dtype": torch.bfloat16},
    ]
    low = Low("AdamW", build("AdamW", groups))
    for step in range(3):
        set_grads(params, step)
        low.step()
    kept = [low.optimizer.state[param]["exp_avg_sq"].dtype for param in params]
    assert kept == [torch.uint8, torch.float32, torch.bfloat16]


def test_a_quarter_of_the_bytes() -> None:
    params = low_parameters([(256, 1024)])
    optimizer = build("AdamW", params, **INT8)
    train(optimizer, range(1))
    state = optimizer.state[params[0]]
    total = sum(value.nbytes for value in state.values())
    assert total == params[0].numel() * 2 * (1 + 4 / BLOCK) + 4


# ---- state_dict(as_torch=True) --------------------------------------------------------------------

STORED: list[tuple[torch.dtype, Options]] = [
    (torch.float32, {}),
    (torch.float32, INT8),
    (torch.float32, {"state_dtype": torch.bfloat16}),
    (torch.bfloat16, {"master_weights": True}),
    (torch.bfloat16, {"stochastic_rounding": True, **INT8}),
    (torch.float16, {"master_weights": True, **INT8}),
]


@pytest.mark.parametrize(("dtype", "stored"), STORED, ids=option_id)
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=option_id)
def test_as_torch_is_what_torch_could_have_saved(
    name: str, options: Options, dtype: torch.dtype, stored: Options
) -> None:
    shapes = [(64, 70), (9,), (3,)]
    params = low_parameters(shapes, dtype)
    ours = build(name, params, **options, **stored, max_grad_norm=1.0, ema_decay=0.9)
    for step in range(2):
        set_grads(params, step)
        params[2].grad = None  # a parameter without state
        ours.step()
    saved: Any = ours.state_dict(as_torch=True)  # type: ignore[call-arg]

    like = low_parameters(shapes, dtype)
    theirs = EVERY[name].torchs(like, **options)
    set_grads(like, 0)
    like[2].grad = None
    theirs.step()
    model = theirs.state_dict()
    assert saved.keys() == model.keys()
    assert [g.keys() for g in saved["param_groups"]] == [g.keys() for g in model["param_groups"]]
    assert saved["state"].keys() == model["state"].keys() == {0, 1}
    for index, state in model["state"].items():
        numbers = {key for key, value in state.items() if value is not None}
        assert saved["state"][index].keys() == numbers
        for key in numbers:
            assert saved["state"][index][key].dtype == state[key].dtype, key
            assert saved["state"][index][key].shape == state[key].shape, key
    for key, value in decoded_states(ours, params[0]).items():
        assert_equal(raw(saved["state"][0][key]), raw(torch.from_numpy(value).to(dtype)), key)
    theirs.load_state_dict(saved)
    train(theirs, range(2, 3))
    assert "ema" in ours.state[params[0]]  # nothing is taken from the optimizer itself


@pytest.mark.parametrize("entry", [3, 2.5, "text"])
def test_as_torch_keeps_entries_that_are_no_tensors(entry: Any) -> None:
    params = low_parameters([(4,)])
    optimizer: Any = build("Adam", params)
    set_grads(params, 0)
    optimizer.step()
    optimizer.state[params[0]]["exp_avg"] = entry
    assert optimizer.state_dict(as_torch=True)["state"][0]["exp_avg"] == entry


@each_dtype
@pytest.mark.parametrize("stored", [None, *DTYPES], ids=option_id)
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=option_id)
def test_states_that_are_reset_by_hand(
    name: str, options: Options, stored: torch.dtype | None, dtype: torch.dtype
) -> None:
    """With zeros_like, as programs do that start anew: numbers until a step makes codes of them."""
    params = low_parameters([(64, 64)], dtype)
    optimizer = build(name, params, **INT8, **options)
    train(optimizer, range(2))
    state = optimizer.state[params[0]]
    reset = coded(optimizer, params[0])
    for key in reset:
        state[key] = torch.zeros_like(params[0], dtype=stored)
    assert not coded(optimizer, params[0])
    for key, value in optimizer.state_dict(as_torch=True)["state"][0].items():  # type: ignore[call-arg]
        assert key not in reset or torch.equal(value, torch.zeros_like(params[0]))
    if stored is None:  # a checkpoint of what no step has seen yet
        build(name, low_parameters([(64, 64)], dtype), **INT8, **options).load_state_dict(
            optimizer.state_dict()
        )
    train(optimizer, range(2, 4))
    assert coded(optimizer, params[0]) == reset
    saved = copy.deepcopy(optimizer.state_dict())
    torchs = optimizer.state_dict(as_torch=True)["state"][0]  # type: ignore[call-arg]
    for key in reset:
        assert torch.equal(torchs[key], decoded(state, key).to(dtype))
    for storage in (INT8, {"state_dtype": torch.float32}):
        others = low_parameters([(64, 64)], dtype)
        new = build(name, others, **storage, **options)
        new.load_state_dict(saved)
        new.param_groups[0].update(storage)
        new.load_state_dict(new.state_dict())
        train(new, range(4, 6))
        for key in reset:
            assert torch.isfinite(new.state[others[0]][key]).all()


def test_as_torch_refuses_an_optimizer_that_torch_lacks() -> None:
    with pytest.raises(ValueError, match=r"as_torch=True: torch\.optim has no Lion"):
        build("Lion", low_parameters([(4,)])).state_dict(as_torch=True)  # type: ignore[call-arg]


def test_as_torch_refuses_another_rule() -> None:
    params = low_parameters([(4,)])
    optimizer: Any = build("SGD", params, momentum=0.9, exponential_average=True)
    with pytest.raises(ValueError, match="exponential_average=True in group 0"):
        optimizer.state_dict(as_torch=True)
