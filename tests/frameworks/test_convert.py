"""from_torch and to_torch: the same object under another class, and the bits that follow from it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import fastopt
from _convert_cases import assert_same, each_start, params_of, take_steps, twin, warm_up
from _optim_cases import (
    CASES,
    DTYPES,
    EVERY,
    FEW_BITS,
    FULL,
    STORED,
    TORCH_OPTIONS,
    WITH_TORCH,
    Options,
    option_id,
    parameters,
)

each_optimizer = pytest.mark.parametrize("name", CASES)
all_options = pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in CASES for options in TORCH_OPTIONS[name]]
    + [(name, FULL[name]) for name in WITH_TORCH if name not in CASES],
    ids=option_id,
)

Convert = Callable[[Optimizer], Optimizer]


# ---- bits ---------------------------------------------------------------------------------------


@all_options
@each_start
def test_from_torch_goes_on_as_fastopt_would(name: str, options: Options, start: int) -> None:
    optimizer = EVERY[name].torchs(parameters(), **options)
    take_steps(optimizer, 0, start)
    expected = twin(optimizer, EVERY[name].ours)
    assert fastopt.from_torch(optimizer) is optimizer
    assert type(optimizer) is EVERY[name].ours
    take_steps(optimizer, start, 4)
    take_steps(expected, start, 4)
    assert_same(optimizer, expected)


@all_options
@each_start
def test_to_torch_goes_on_as_torch_would(name: str, options: Options, start: int) -> None:
    optimizer = EVERY[name].ours(parameters(), **options)
    take_steps(optimizer, 0, start)
    assert fastopt.to_torch(optimizer) is optimizer
    assert type(optimizer) is EVERY[name].torchs
    expected = twin(optimizer, EVERY[name].torchs)
    take_steps(optimizer, start, 4)
    take_steps(expected, start, 4)
    assert_same(optimizer, expected)


@pytest.mark.parametrize("name", WITH_TORCH)
@pytest.mark.parametrize("dtype", [*DTYPES, *STORED])
def test_there_and_back_changes_nothing(name: str, dtype: torch.dtype) -> None:
    """Converted back at once, a torch optimizer holds what it held, attributes and all."""
    optimizer = EVERY[name].torchs(parameters(dtype), **FULL[name])
    take_steps(optimizer, 0, 2)
    before, params = copy.deepcopy(optimizer.state_dict()), params_of(optimizer)
    defaults, attributes = dict(optimizer.defaults), set(vars(optimizer))
    held = {param: dict(optimizer.state[param]) for param in params}
    fastopt.to_torch(fastopt.from_torch(optimizer))
    assert type(optimizer) is EVERY[name].torchs
    assert optimizer.defaults == defaults
    assert set(vars(optimizer)) == attributes
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for mine, other in zip(params_of(optimizer), params, strict=True):
        assert mine is other
        for key, value in held[other].items():
            assert optimizer.state[mine][key] is value


@each_optimizer
def test_several_groups_with_options_of_their_own(name: str) -> None:
    params = parameters()
    groups: list[Options] = [
        {"params": params[:2], "lr": 0.01},
        {"params": params[2:], "weight_decay": 0.1, "mine": "kept"},
    ]
    optimizer = EVERY[name].torchs(groups, **FULL[name])
    take_steps(optimizer, 0, 1)
    lists = list(optimizer.param_groups)
    expected = twin(optimizer, EVERY[name].ours)
    fastopt.from_torch(optimizer)
    assert all(mine is other for mine, other in zip(optimizer.param_groups, lists, strict=True))
    assert optimizer.param_groups[1]["mine"] == "kept"
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    expected.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    take_steps(optimizer, 1, 3)
    take_steps(expected, 1, 3)
    assert_same(optimizer, expected)


@pytest.mark.parametrize(
    "flags", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=option_id
)
@each_optimizer
def test_flags_are_kept(name: str, flags: Options) -> None:
    if name == "RMSprop" and "fused" in flags:
        pytest.skip("torch has no fused RMSprop")
    optimizer = EVERY[name].torchs(parameters(), **FULL[name], **flags)
    take_steps(optimizer, 0, 2)
    built = EVERY[name].ours(parameters(), **FULL[name], **flags)
    expected = twin(optimizer, EVERY[name].ours)
    fastopt.from_torch(optimizer)
    flag = "_step_supports_amp_scaling"
    assert getattr(optimizer, flag, None) == getattr(built, flag, None)
    take_steps(optimizer, 2, 2)
    take_steps(expected, 2, 2)
    assert_same(optimizer, expected)
    fastopt.to_torch(optimizer)
    theirs = EVERY[name].torchs(
        parameters(), **FULL[name], **flags
    )  # of a fused Adagrad not in torch 2.10
    assert getattr(optimizer, flag, None) == getattr(theirs, flag, None)
    assert flags.items() <= optimizer.param_groups[0].items()
    take_steps(optimizer, 4, 1)


@each_optimizer
def test_a_converted_optimizer_saves_loads_and_copies(name: str) -> None:
    optimizer = EVERY[name].torchs(parameters(), **FULL[name])
    take_steps(optimizer, 0, 2)
    fastopt.from_torch(optimizer)
    other = EVERY[name].ours(parameters(), **FULL[name])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for mine, theirs in zip(params_of(other), params_of(optimizer), strict=True):
        mine.data.copy_(theirs.detach())
    copied = copy.deepcopy(optimizer)
    for each in (optimizer, other, copied):
        take_steps(each, 2, 2)
    assert_same(other, optimizer)
    assert_same(copied, optimizer)


# ---- refusals -----------------------------------------------------------------------------------


class Mine(torch.optim.AdamW):
    """A subclass, whose own step would be lost."""


class MineToo(fastopt.optim.AdamW):
    """The same on the other side."""


REFUSED: list[tuple[Convert, type[Optimizer], str]] = [
    (fastopt.from_torch, torch.optim.Rprop, r"got torch\.optim\.Rprop"),
    (fastopt.from_torch, Mine, r"got test_convert\.Mine"),
    (fastopt.from_torch, fastopt.optim.SGD, r"one of torch\.optim\.SGD, .* got fastopt\.optim\.SGD"),
    (fastopt.to_torch, torch.optim.SGD, r"one of fastopt\.optim\.SGD, .* got torch\.optim\.SGD"),
    (fastopt.to_torch, MineToo, r"fastopt\.optim\.AdamW.*, got test_convert\.MineToo"),
]


@pytest.mark.parametrize(("convert", "kind", "message"), REFUSED)
def test_other_classes_are_refused(convert: Convert, kind: Any, message: str) -> None:
    optimizer = kind(parameters(), lr=0.1)
    with pytest.raises(TypeError, match=message):
        convert(optimizer)
    assert type(optimizer) is kind
    with pytest.raises(TypeError, match=r"exactly one of .* got builtins\.int"):
        convert(3)  # type: ignore[arg-type]


EXTRAS: list[tuple[str, Options, str]] = [
    ("SGD", {"momentum": 0.9, "exponential_average": True}, "exponential_average=True"),
    ("Adam", {"bias_correction": False}, "bias_correction=False"),
    ("RMSprop", {"eps_inside_sqrt": True}, "eps_inside_sqrt=True"),
    ("AdamW", {"cautious_decay": True}, "cautious_decay=True"),
    ("Adagrad", {"max_grad_norm": 1.0}, "max_grad_norm=1.0"),
    ("AdamW", {"ema_decay": 0.9}, "ema_decay=0.9"),
]


@pytest.mark.parametrize(("name", "options", "message"), EXTRAS)
def test_options_that_torch_lacks_are_refused(name: str, options: Options, message: str) -> None:
    """Even where only the second group asks for one, and with nothing changed."""
    first, second = parameters()[:2]
    needed = {key: value for key, value in options.items() if key in ("momentum", "max_grad_norm")}
    groups = [{"params": [first]}, {"params": [second], **options}]
    optimizer = EVERY[name].ours(groups, **needed)
    take_steps(optimizer, 0, 1)
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=f"{message} in group [01]: torch.optim.{name} has no such"):
        fastopt.to_torch(optimizer)
    assert type(optimizer) is EVERY[name].ours
    assert [dict(group) for group in optimizer.param_groups] == before
    take_steps(optimizer, 1, 1)


@each_optimizer
def test_to_torch_drops_an_average_that_is_no_longer_kept(name: str) -> None:
    optimizer = EVERY[name].ours(parameters(), ema_decay=0.9, ema_bias_correction=True)
    take_steps(optimizer, 0, 1)
    for group in optimizer.param_groups:
        group.update(ema_decay=None, ema_bias_correction=False)
    fastopt.to_torch(optimizer)
    theirs = EVERY[name].torchs(parameters())
    take_steps(theirs, 0, 1)
    described = [[sorted(it.state[p]) for p in params_of(it)] for it in (optimizer, theirs)]
    if name != "SGD":  # which keeps an entry for its lack of a buffer
        assert described[0] == described[1]
    assert not any("ema" in key for keys in described[0] for key in keys)
    assert optimizer.param_groups[0].keys() == theirs.param_groups[0].keys()
    take_steps(optimizer, 1, 1)


@each_optimizer
def test_what_a_program_keeps_in_the_state_stays(name: str) -> None:
    """Under a key of its own, of no parameter or beside a parameter's states; in a checkpoint, too."""
    optimizer = EVERY[name].ours(parameters(), **FULL[name])
    take_steps(optimizer, 0, 1)
    first = params_of(optimizer)[0]
    optimizer.state["calls"] = 7  # type: ignore[index, assignment]
    optimizer.state["nothing"] = None  # type: ignore[index, assignment]
    optimizer.state[first]["mine"] = 0.5
    packed: Any = optimizer
    assert packed.state_dict(as_torch=True)["state"]["calls"] == 7
    resumed: Any = EVERY[name].ours(parameters())
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.state["calls"] == 7
    assert resumed.state[params_of(resumed)[0]]["mine"] == 0.5
    fastopt.to_torch(optimizer)
    assert type(optimizer) is EVERY[name].torchs
    assert optimizer.state["calls"] == 7  # type: ignore[index, comparison-overlap]
    assert optimizer.state[first]["mine"] == 0.5
    del optimizer.state["calls"], optimizer.state["nothing"]  # type: ignore[arg-type]
    take_steps(optimizer, 1, 1)


@each_optimizer
def test_to_torch_ends_what_options_had_begun(name: str) -> None:
    """Options set back to torch's just before leave nothing of ours, and states as torch has them."""
    params = [torch.nn.Parameter(torch.ones(64, 128, dtype=torch.bfloat16))]
    stored = "bfloat16" if name == "Adagrad" else "int8"
    ours = {"state_dtype": stored, "master_weights": True, "ema_decay": 0.9}
    optimizer = EVERY[name].ours(params, **FEW_BITS[name], **ours)
    take_steps(optimizer, 0, 1)
    for group in optimizer.param_groups:
        group.update(state_dtype=None, master_weights=False, ema_decay=None)
    fastopt.to_torch(optimizer)
    theirs = EVERY[name].torchs([torch.nn.Parameter(torch.ones_like(params[0]))], **FEW_BITS[name])
    take_steps(theirs, 0, 1)
    (mine,), (other,) = optimizer.state.values(), theirs.state.values()
    kept = {key: it.dtype for key, it in other.items() if it is not None}
    assert {key: it.dtype for key, it in mine.items()} == kept
    take_steps(optimizer, 1, 1)


def test_a_step_replaced_by_others_is_refused() -> None:
    optimizer = torch.optim.SGD(parameters())
    inner = optimizer.step
    optimizer.step = lambda *_: inner()  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match=r"optimizer\.step has been replaced .* convert .* before"):
        fastopt.from_torch(optimizer)
    assert type(optimizer) is torch.optim.SGD
    warm_up_of_replaced = torch.optim.SGD(parameters())
    warm_up(warm_up_of_replaced)
    scheduled = warm_up_of_replaced.step
    warm_up_of_replaced.step = lambda *_: scheduled()  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match="has been replaced"):
        fastopt.from_torch(warm_up_of_replaced)
