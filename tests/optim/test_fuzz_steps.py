"""A thousand random lives of optimizers: the bits of the reference or of torch, or all as before."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import _fuzz
import fastopt
from _copy_cases import rounded
from _fuzz_lives import (
    Life,
    add_group,
    data,
    draw_storage,
    freeze,
    grads,
    look,
    option,
    schedule,
    surgery,
    zero,
)
from _fuzz_steps import REFUSALS, Picture, contents, master_of, outcome, params_of, step
from _optim_cases import EVERY, Options, array_of
from conftest import TARGETS
from fastopt import _C


@pytest.mark.parametrize("first", range(0, _fuzz.CALLS, _fuzz.BLOCK))
def test_random_lives(first: int) -> None:
    _fuzz.check(__file__, first, {"stepped": 0.6})


# ---- copies, checkpoints, other classes -----------------------------------------------------------


def same_states(one: Optimizer, other: Optimizer) -> None:
    """Both hold the same numbers."""
    for mine, theirs in zip(params_of(one), params_of(other), strict=True):
        assert contents(mine) == contents(theirs), "a parameter differs"
        a, b = one.state.get(mine, {}), other.state.get(theirs, {})
        assert a.keys() == b.keys(), "states differ in their keys"
        for key in a:
            if not isinstance(a[key], (int, float)):  # of which torch makes tensors
                assert contents(a[key]) == contents(b[key]), f"{key} differs"


def another(life: Life, random: Random) -> None:
    """Go on with a copy."""
    old, before = life.optimizer, Picture(life.optimizer)
    how = random.choice(["deepcopy", "pickle"])
    make = copy.deepcopy if how == "deepcopy" else lambda it: pickle.loads(pickle.dumps(it))
    try:
        life.optimizer = make(old)
        life.log(how)
        same_states(old, life.optimizer)
    except (*REFUSALS, AttributeError, pickle.PicklingError) as error:  # torch's, of odd states
        life.log(f"{how}: {error!r:.100}")
    before.assert_same()


def torn(saved: Options, random: Random) -> Options:
    """A checkpoint that has suffered."""
    groups = [{**group, "params": list(group["params"])} for group in saved["param_groups"]]
    state = {index: dict(entries) for index, entries in saved["state"].items()}
    saved = {"state": state, "param_groups": groups}
    what = random.randrange(8)
    if what == 0:
        groups.pop()
    elif what == 1:
        groups[0]["params"] = groups[0]["params"][:-1]
    elif what == 2:
        groups[0].pop(random.choice(list(groups[0])))
    elif what == 3:
        groups[0]["state_dtype"] = random.choice(["garbage", "int8", 3])
    elif what == 4:
        saved.pop(random.choice(list(saved)))
    elif what == 5 and state:
        entry = random.choice(list(state.values()))
        if entry:
            key = random.choice(list(entry))
            entry[key] = random.choice([None, "x", torch.ones(3), torch.ones(2, 2).to(torch.int8), 3])
    elif what == 6 and state:
        entry = random.choice(list(state.values()))
        if entry:
            entry.pop(random.choice(list(entry)))
    else:
        groups[0]["lr"] = random.choice(["x", None, 7.0])
    return saved


def load(life: Life, random: Random) -> None:
    """From its own checkpoint, another's, or one that has suffered."""
    optimizer = life.optimizer
    kind = random.choice(["own", "torch's", "other storage", "torn", "torn", "file"])
    saved = optimizer.state_dict()
    if kind == "torch's":
        try:
            saved = optimizer.state_dict(as_torch=True)
        except REFUSALS:
            return
    elif kind == "file":
        file = io.BytesIO()
        if outcome(lambda: torch.save(saved, file)) is not None:
            return
        file.seek(0)
        saved = torch.load(file, weights_only=False)
    elif kind == "torn":
        saved = torn(saved, random)
    elif kind == "other storage":
        groups = [
            {"params": [torch.nn.Parameter(it.detach().clone()) for it in group["params"]]}
            for group in optimizer.param_groups
        ]
        try:
            life.optimizer = optimizer = EVERY[life.name].ours(groups, **draw_storage(random))
        except (TypeError, ValueError):
            return
    before = Picture(optimizer)
    error = outcome(lambda: optimizer.load_state_dict(saved))
    life.log(f"load ({kind}): {error!r:.150}")
    if error is not None:
        assert isinstance(error, (*REFUSALS, AttributeError)), repr(error)
        before.assert_same()


def convert(life: Life, random: Random) -> None:
    """To torch's class and back."""
    optimizer, before = life.optimizer, Picture(life.optimizer)
    keys = {param: set(state) for param, state in optimizer.state.items()}
    error = outcome(lambda: fastopt.to_torch(optimizer))
    life.log(f"to_torch: {error!r:.120}")
    if error is not None:
        assert isinstance(error, (TypeError, ValueError)), repr(error)
        assert type(optimizer) is EVERY[life.name].ours
        return before.assert_same()
    fastopt.from_torch(optimizer)
    assert type(optimizer) is EVERY[life.name].ours
    for param, state in optimizer.state.items():
        assert set(state) >= keys[param] - {"ema", "ema_step", "step"}
    return None


def one_step(life: Life, random: Random) -> None:
    """Now and then with copies, which only this step writes."""
    optimizer = life.optimizer
    copies: list[Copy] = []
    if random.random() < 0.3:
        for group in optimizer.param_groups:
            group["copy_to"] = [copy_for(param, random) for param in group["params"]]
            pairs = zip(group["params"], group["copy_to"], strict=True)
            copies += [(group, param, it) for param, it in pairs if it is not None]
    life.log(f"{len(copies)} copies")
    stepped = step(life.name, optimizer, life.log)
    life.steps += stepped
    for group, param, it in copies:
        check_copy(group, param, optimizer.state.get(param, {}), it, stepped)
    for group in optimizer.param_groups:
        if "copy_to" in group:
            group["copy_to"] = None


Copy = tuple[Options, Tensor, Tensor]


def copy_for(param: Tensor, random: Random) -> Tensor | None:
    """One that fits, full of sevens; or None."""
    if type(param) is not torch.nn.Parameter or not param.dtype.is_floating_point:
        return None
    double = param.dtype == torch.float64
    dtypes = (
        [torch.float32, torch.float64] if double else [torch.float32, torch.bfloat16, torch.float16]
    )
    dtype = random.choice([None, *dtypes])
    return None if dtype is None else torch.empty_like(param.detach(), dtype=dtype).fill_(7)


def check_copy(group: Options, param: Tensor, state: Options, copied: Tensor, stepped: bool) -> None:
    if not stepped:  # or only in part, where torch has raised
        return
    if param.grad is None:
        assert (copied == 7).all(), "a copy of what has no gradient was written"
        return
    expected = rounded(master_of(param, group, state), copied.dtype)
    got = array_of(copied)
    same = got.view(f"u{got.itemsize}") == expected.view(f"u{got.itemsize}")
    assert (same | (np.isnan(got) & np.isnan(expected))).all(), "a copy is not the parameter, rounded"


def machine(life: Life, random: Random) -> None:
    torch.set_num_threads(random.choice([1, 2, 3]))
    _C.set_cpu_target(random.choice(TARGETS))


ACTS: dict[str, tuple[Callable[[Life, Random], Any], float]] = {
    "grads": (grads, 2),
    "step": (one_step, 4),
    "option": (option, 1.5),
    "surgery": (surgery, 1),
    "data": (data, 0.5),
    "freeze": (freeze, 0.3),
    "add_group": (add_group, 0.4),
    "look": (look, 1),
    "schedule": (schedule, 0.3),
    "another": (another, 0.5),
    "load": (load, 0.8),
    "convert": (convert, 0.4),
    "zero": (zero, 0.2),
    "machine": (machine, 0.5),
}


def draw(random: Random) -> list[_fuzz.Part]:
    names = random.choices(
        list(ACTS), [weight for _, weight in ACTS.values()], k=random.randrange(3, 9)
    )
    return [
        (name, random.getrandbits(32)) for name in ["machine", "grads", "step", *names, "grads", "step"]
    ]


def attempt(seed: int, parts: list[_fuzz.Part], log: _fuzz.Log) -> str:
    before = torch.get_num_threads(), _C.cpu_target()
    try:
        try:
            life = Life(Random(-seed - 1), log)
        except (TypeError, ValueError):
            return "refused"
        for name, own_seed in parts:
            if not life.is_over:
                ACTS[name][0](life, Random(own_seed))
        return "stepped" if life.steps else "never stepped"
    finally:
        torch.set_num_threads(before[0])
        _C.set_cpu_target(before[1])


if __name__ == "__main__":
    _fuzz.main(_fuzz.Fuzzer(draw, attempt), sys.argv[1:])
