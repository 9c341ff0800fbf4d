"""A group that lacks an option: KeyError where torch's step raises it, else the constructor's value.

As groups are that came with the checkpoint of another optimizer, or were made by hand.
"""

from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from _optim_cases import (
    EVERY,
    FULL,
    WITH_TORCH,
    Snapshot,
    assert_same_bits,
    complex64,
    parameters,
    set_gradients,
    set_odd_gradient,
)


def of_two_groups(optimizer_class: type[Optimizer], name: str, **others: Any) -> Optimizer:
    first, second = parameters(shapes=[(5, 7), (3,)])
    optimizer = optimizer_class([{"params": [first]}, {"params": [second]}], **FULL[name], **others)
    for step in range(2):
        set_gradients([first, second], seed=step)
        optimizer.step()
    set_gradients([first, second], seed=9)
    return optimizer


def step(optimizer: Optimizer) -> str | None:
    """What a step lacks."""
    try:
        optimizer.step()
    except KeyError as error:
        return str(error.args[0])
    return None


@pytest.mark.parametrize("name", WITH_TORCH)
def test_what_torchs_class_has(name: str) -> None:
    """Whether it is needed is what torch's step says."""
    needed = []
    for key in sorted(EVERY[name].torchs(parameters()).defaults):
        ours, theirs = (of_two_groups(it, name) for it in EVERY[name].classes)
        for optimizer in (ours, theirs):
            del optimizer.param_groups[1][key]
        before = Snapshot(ours)
        lacks = step(theirs)
        assert step(ours) == lacks, key
        if lacks is not None:
            needed.append(key)
            before.assert_unchanged()
    assert {"lr", "weight_decay", "maximize", "foreach"} <= set(needed)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_what_torchs_class_lacks(name: str) -> None:
    """Its value is the constructor's, as if the group had it."""
    torchs = EVERY[name].torchs(parameters()).defaults if EVERY[name].torchs else {}
    others: dict[str, Any] = {"max_grad_norm": 0.5, "ema_decay": 0.75, "ema_bias_correction": True}
    if name in ("Adam", "AdamW"):
        others |= {"bias_correction": False, "eps_inside_sqrt": True}
    if name in ("AdamW", "Lion"):
        others |= {"cautious_decay": True}
    if name == "RMSprop":
        others |= {"eps_inside_sqrt": True}
    if name == "SGD":
        others |= {"exponential_average": True, "bias_correction": True, "nesterov": False}
        others |= {"cautious_decay": True}
    for key in sorted(EVERY[name].ours(parameters()).defaults.keys() - torchs.keys()):
        options = FULL[name] | others
        lacking, whole = (made(name, options) for _ in range(2))
        for optimizer in (lacking, whole):
            first, last = (group["params"][0] for group in optimizer.param_groups)
            if optimizer is lacking:
                del optimizer.param_groups[1][key]
            for seed in range(2):
                set_gradients([first, last], seed)
                optimizer.step()
        for mine, other in zip(lacking.param_groups, whole.param_groups, strict=True):
            assert_same_bits(mine["params"][0], other["params"][0].detach(), key)
            for entry, value in lacking.state[mine["params"][0]].items():
                assert_same_bits(value, whole.state[other["params"][0]][entry], entry)


def made(name: str, options: dict[str, Any]) -> Optimizer:
    first, second = parameters(shapes=[(5, 7), (3,)])
    return EVERY[name].ours([{"params": [first]}, {"params": [second]}], **options)


@pytest.mark.parametrize("key", ["state_dtype", "master_weights", "stochastic_rounding"])
def test_what_states_are_stored_in(key: str) -> None:
    value = torch.float32 if key == "state_dtype" else True
    param = parameters(torch.bfloat16, shapes=[(5, 7)])[0]
    optimizer = EVERY["AdamW"].ours([param], **{key: value})
    del optimizer.param_groups[0][key]
    set_gradients([param], 0)
    optimizer.step()
    state = optimizer.state[param]
    made = {"master_weights": "param_low", "stochastic_rounding": "rounding"}.get(key)
    assert made is None or made in state
    assert key == "stochastic_rounding" or state["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("key", ["eps", "betas", "foreach"])
def test_beside_a_parameter_of_torchs_step(key: str) -> None:
    """torch by itself would have stepped the first group."""
    first, last = complex64(), complex64()
    optimizer = EVERY["Adam"].ours([{"params": [first]}, {"params": [last]}])
    for param in (first, last):
        set_odd_gradient(param, seed=0)
    del optimizer.param_groups[1][key]
    before = Snapshot(optimizer)
    with pytest.raises(KeyError, match=key):
        optimizer.step()
    before.assert_unchanged()
    optimizer.param_groups[1] |= {key: optimizer.defaults[key], "differentiable": True}
    del optimizer.param_groups[1][key]
    with pytest.raises(KeyError, match=key):
        optimizer.step()
    before.assert_unchanged()


@pytest.mark.parametrize("name", WITH_TORCH)
def test_the_checkpoint_of_another_optimizer(name: str) -> None:
    for other in WITH_TORCH:
        lacks = []
        for optimizer_class in EVERY[name].classes:
            param = parameters(shapes=[(5, 7)])[0]
            optimizer = optimizer_class([param], **FULL[name])
            saved = EVERY[other].torchs([param], lr=0.1).state_dict()
            optimizer.load_state_dict({**saved, "state": {}})
            param.grad = torch.ones_like(param)
            before = param.detach().clone()
            lacks.append(step(optimizer))
            assert (lacks[-1] is None) != torch.equal(param, before)
        assert (lacks[0] is None) == (lacks[1] is None), (other, lacks)
