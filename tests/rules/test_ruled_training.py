"""The optimizers of rules in Python where training happens: hooks, scalers, checkpoints, the digits."""

import copy
import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

from fastopt import audit, demo, optim
from fastopt.optim import ruled

CLASSES: dict[str, Any] = {
    name: it
    for name, it in vars(ruled).items()
    if inspect.isclass(it) and issubclass(it, optim.Optimizer) and it.__module__ == ruled.__name__
    if not name.startswith("_")
}
FREE = [name for name in CLASSES if name.startswith("ScheduleFree")]
each_class = pytest.mark.parametrize("name", CLASSES)
# Rates that train the digits in five epochs, where the default does not.
RATES = {
    "ADOPT": 0.004, "AdEMAMix": 0.004, "AdaBelief": 0.004, "Adan": 0.01, "CautiousAdamW": 0.004,
    "CautiousLion": 0.001, "LaProp": 0.004, "MARS": 0.004, "Signum": 0.001, "StableAdamW": 0.004,
    "Yogi": 0.01, "ScheduleFreeAdamW": 0.02, "ScheduleFreeSGD": 2.0,
}  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    loss: Tensor = (model(torch.randn(9, 6, generator=draw)) ** 2).sum()
    return loss


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for mine, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, expected)


def test_every_class_is_there() -> None:
    assert len(CLASSES) == 13
    assert CLASSES.keys() == RATES.keys()


@each_class
def test_step_in_backward_has_the_bits_of_a_step(name: str) -> None:
    model, other = network(), network()
    handle = optim.step_in_backward(model, CLASSES[name])
    plain = CLASSES[name](other.parameters())
    for step in range(4):
        loss_of(model, step).backward()
    train(other, plain, range(4))
    assert_same(model, other)
    assert handle.state_dict()["state"].keys() == plain.state_dict()["state"].keys()


@each_class
def test_what_torch_promises_of_optimizers_holds(name: str) -> None:
    """Late gradients, groups, hooks, schedulers, scalers, checkpoints, copies, errors."""
    families = ("groups", "saving", "calls", "care")
    checks = [it.name for it in audit.CHECKS.values() if it.family in families and it.name != "leaks"]
    report = audit.audit(CLASSES[name], CLASSES[name].rule, checks=checks)
    assert {it.check: it.detail for it in report.answers if it.status == "failed"} == {}
    assert report.status("grad_scaler") == report.status("schedulers") == "passed"


@each_class
def test_a_checkpoint_goes_on_with_the_same_bits(name: str) -> None:
    model = network()
    optimizer = CLASSES[name](model.parameters(), max_grad_norm=1.0, ema_decay=0.9)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(loaded["model"])
    resumed = CLASSES[name](other.parameters(), max_grad_norm=1.0, ema_decay=0.9)
    resumed.load_state_dict(loaded["optimizer"])
    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert_same(model, other)
    kept = {*CLASSES[name].rule.states, *CLASSES[name].rule.kept, "step", "ema"}
    for param, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine, expected = optimizer.state[param], resumed.state[theirs]
        assert mine.keys() == expected.keys() == kept
        for key in kept:
            assert torch.equal(mine[key], expected[key]), key


# ---- Schedule-Free ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FREE)
class TestScheduleFree:
    def test_eval_puts_the_average_there_and_train_brings_it_back(self, name: str) -> None:
        model = network()
        optimizer = CLASSES[name](model.parameters())
        train(model, optimizer, range(5))
        y = [param.detach().clone() for param in model.parameters()]
        optimizer.eval()
        optimizer.eval()  # again is nothing
        share = 0.9
        for param, before in zip(model.parameters(), y, strict=True):
            z = optimizer.state[param]["z"]
            x = (before.double() - (1 - share) * z.double()) / share  # y = share x + (1 - share) z
            torch.testing.assert_close(param.double(), x, rtol=2e-6, atol=1e-6)
        optimizer.train()
        for param, before in zip(model.parameters(), y, strict=True):
            torch.testing.assert_close(param.detach(), before, rtol=2e-6, atol=1e-7)

    def test_a_step_in_eval_is_refused_before_anything_is_written(self, name: str) -> None:
        model = network()
        optimizer = CLASSES[name](model.parameters())
        train(model, optimizer, range(2))
        optimizer.eval()
        before = copy.deepcopy((list(model.parameters()), optimizer.state_dict()))
        with pytest.raises(
            RuntimeError, match=rf"{name}: .*expected optimizer.train\(\) before a step"
        ):
            optimizer.step()
        after = list(model.parameters()), optimizer.state_dict()
        torch.testing.assert_close(after, before, rtol=0, atol=0)

    def test_the_mode_is_in_the_checkpoint(self, name: str) -> None:
        model = network()
        optimizer = CLASSES[name](model.parameters())
        train(model, optimizer, range(2))
        optimizer.eval()
        other = network()
        other.load_state_dict(model.state_dict())
        resumed = CLASSES[name](other.parameters())
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with pytest.raises(RuntimeError, match=r"expected optimizer\.train"):
            resumed.step()
        for it in (optimizer, resumed):
            it.train()
        train(model, optimizer, range(2, 4))
        train(other, resumed, range(2, 4))
        assert_same(model, other)

    def test_what_it_cannot_do_is_refused(self, name: str) -> None:
        model = network().bfloat16()
        optimizer = CLASSES[name](model.parameters(), master_weights=True)
        with pytest.raises(ValueError, match=r"no master_weights and no stochastic_rounding"):
            optimizer.eval()
        still = {"ScheduleFreeSGD": {"momentum": 0.0}, "ScheduleFreeAdamW": {"betas": (0.0, 0.9)}}
        optimizer = CLASSES[name](network().parameters(), **still[name])
        with pytest.raises(ValueError, match="need a momentum > 0"):
            optimizer.eval()


# ---- the digits -----------------------------------------------------------------------------------


@each_class
def test_it_learns_the_digits(name: str) -> None:
    """Five epochs of the demo's network; the compiled optimizers reach 97 % and more in twenty."""
    pytest.importorskip("sklearn")
    digits = demo.load_digits()
    model = demo.build_network(0)
    optimizer = CLASSES[name](model.parameters(), lr=RATES[name])
    batches = torch.randperm(len(digits.train_labels), generator=torch.Generator().manual_seed(0))
    epochs, batch = 5, 64
    scheduler = CosineAnnealingLR(optimizer, epochs * -(-len(batches) // batch))
    for _ in range(epochs):
        for chosen in batches.split(batch):
            optimizer.zero_grad()
            cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen]).backward()
            optimizer.step()
            if name not in FREE:  # which need no schedule
                scheduler.step()
    if name in FREE:
        optimizer.eval()
        with torch.no_grad():  # the averages' statistics, as the paper's code asks for
            for chosen in batches.split(batch):
                model(digits.train_images[chosen])
    model.eval()
    with torch.no_grad():
        right = (model(digits.test_images).argmax(1) == digits.test_labels).double().mean()
    print(name, float(right))
    assert right > 0.95, float(right)
