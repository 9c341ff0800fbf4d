"""Hooks of every kind run when and as torch's do; named parameters keep their names."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from _optim_cases import CASES, parameters, set_gradients

each_optimizer = pytest.mark.parametrize("name", CASES)


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def hooked_run(optimizer_class: Any) -> list[str]:
    """What hooks of every kind see, in order, of a step, a save and a load."""
    seen: list[str] = []
    params = parameters(shapes=[(3,)])
    optimizer = optimizer_class(params)

    def note(about: str, result: Any = None) -> Callable[..., Any]:
        def hook(it: Optimizer, *rest: Any) -> Any:
            assert it is optimizer
            keys = [sorted(arg) if isinstance(arg, dict) else len(arg) for arg in rest]
            seen.append(f"{about} {keys}")
            return result(rest) if result else None

        return hook

    def pass_closure(rest: Any) -> Any:
        return (rest[0], {"closure": lambda: seen.append("closure")})

    def with_note(rest: Any) -> Any:
        return rest[0] | {"note": 1}

    handles = [
        register_optimizer_step_pre_hook(note("every pre")),
        register_optimizer_step_post_hook(note("every post")),
        optimizer.register_step_pre_hook(note("pre", pass_closure)),
        optimizer.register_step_post_hook(note("post")),
        optimizer.register_state_dict_pre_hook(note("save pre")),
        optimizer.register_state_dict_pre_hook(note("save first"), prepend=True),
        optimizer.register_state_dict_post_hook(note("save post", with_note)),
        optimizer.register_state_dict_post_hook(note("save post first"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(note("load pre", with_note)),
        optimizer.register_load_state_dict_pre_hook(note("load first"), prepend=True),
        optimizer.register_load_state_dict_post_hook(note("load post")),
        optimizer.register_load_state_dict_post_hook(note("load post first"), prepend=True),
    ]
    set_gradients(params, seed=0)
    optimizer.step()
    state = optimizer.state_dict()
    seen.append(f"saved {sorted(state)}")
    optimizer.load_state_dict(state)
    for handle in handles:
        handle.remove()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return seen


@each_optimizer
def test_hooks_of_every_kind_run_as_torchs(name: str) -> None:
    ours, theirs = (hooked_run(it) for it in CASES[name].classes)
    assert ours == theirs
    assert len(ours) == 14


@each_optimizer
def test_a_pre_hook_that_returns_nonsense_is_torchs_error(name: str) -> None:
    for optimizer_class in CASES[name].classes:
        optimizer = optimizer_class(parameters(shapes=[(3,)]))
        optimizer.register_step_pre_hook(lambda *_: 1)  # type: ignore[arg-type, return-value]
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            optimizer.step()


def named(names: list[str] | None) -> Any:
    params = parameters(shapes=[(3,), (2,)])
    return params if names is None else list(zip(names, params, strict=True))


@each_optimizer
@pytest.mark.parametrize("saved", [None, ["a", "b"], ["c", "d"]], ids=str)
@pytest.mark.parametrize("into", [None, ["a", "b"]], ids=str)
def test_named_parameters(name: str, saved: Any, into: Any) -> None:
    """Names are printed, saved, and kept by who has some when a state_dict is loaded."""
    found = []
    for optimizer_class in CASES[name].classes:
        source, target = optimizer_class(named(saved)), optimizer_class(named(into))
        for optimizer in (source, target):
            set_gradients(optimizer.param_groups[0]["params"], seed=0)
        source.step()
        target.load_state_dict(through_file(source.state_dict()))
        target.step()
        for optimizer in (source, target):
            found.append(optimizer.param_groups[0].get("param_names"))
            found.append("param_names" in str(optimizer))
    assert found[:4] == found[4:]
