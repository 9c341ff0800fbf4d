"""fastopt.averages: the optimizer's averages as a model, and ensembles of snapshots."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import fastopt
from _optim_cases import CASES, FULL, assert_same_bits
from fastopt.averages import AveragedModel, SnapshotEnsemble

DECAY = 0.9
STEPS = 8

each_optimizer = pytest.mark.parametrize("name", CASES)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def batches(count: int = STEPS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 5, generator=generator) for _ in range(count)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


# ---- averages of weights --------------------------------------------------------------------------


@each_optimizer
def test_it_is_torchs_averaged_model_updated_once_before_and_after_each_step(name: str) -> None:
    model = network()
    optimizer = CASES[name].ours(model.parameters(), **FULL[name], ema_decay=DECAY)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(DECAY))
    theirs.update_parameters(model)
    ours = AveragedModel(model, optimizer)
    for inputs in batches():
        step(model, optimizer, inputs)
        theirs.update_parameters(model)
    ours.update_parameters(model)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        if mine is not ours.n_averaged:
            assert torch.equal(mine, other)


@pytest.mark.parametrize("corrected", [False, True])
def test_it_holds_the_optimizers_averages_to_the_bit(corrected: bool) -> None:
    model = network()
    optimizer = fastopt.optim.AdamW(model.parameters(), ema_decay=DECAY, ema_bias_correction=corrected)
    averaged = AveragedModel(model, optimizer)
    for inputs in batches():
        step(model, optimizer, inputs)
    averaged.update_parameters(model)
    for own, average in zip(averaged.module.parameters(), optimizer.ema_parameters(), strict=True):
        assert_same_bits(own, average)
    inputs = batches()[0]
    model.eval()
    with optimizer.swap_ema():
        expected = model(inputs)
    assert torch.equal(averaged.eval()(inputs), expected)


def test_training_goes_on_untouched_and_a_copy_stays() -> None:
    model = network()
    optimizer = fastopt.optim.SGD(model.parameters(), lr=0.1, ema_decay=DECAY)
    averaged = AveragedModel(model, optimizer)
    for own, param in zip(averaged.module.parameters(), model.parameters(), strict=True):
        assert torch.equal(own, param)  # before the first step there is nothing else
    before = [param.detach().clone() for param in averaged.parameters()]
    step(model, optimizer, batches()[0])
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), before, strict=True))
    trained = [param.detach().clone() for param in model.parameters()]
    averaged.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(averaged.parameters(), before, strict=True))


def test_frozen_parameters_and_buffers_are_the_models() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = fastopt.optim.SGD(model[1:].parameters(), lr=0.1, ema_decay=DECAY)
    averaged = AveragedModel(model, optimizer)
    for inputs in batches():
        step(model, optimizer, inputs)
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    averaged.update_parameters(model)
    assert torch.equal(averaged.module[0].weight, model[0].weight)
    assert torch.equal(averaged.module[1].running_mean, model[1].running_mean)
    assert not torch.equal(averaged.module[3].weight, model[3].weight)


def test_update_bn_and_state_dicts_are_as_torchs() -> None:
    model = network()
    optimizer = fastopt.optim.SGD(model.parameters(), lr=0.1, ema_decay=DECAY)
    averaged = AveragedModel(model, optimizer)
    step(model, optimizer, batches()[0])
    averaged.update_parameters(model)
    swa_utils.update_bn(batches(), averaged)
    theirs = swa_utils.AveragedModel(network(seed=1))
    theirs.load_state_dict(averaged.state_dict())
    inputs = batches()[0]
    assert torch.equal(theirs.eval()(inputs), averaged.eval()(inputs))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, fastopt.optim.SGD])
def test_an_optimizer_without_averages_is_refused(optimizer: Any) -> None:
    model = network()
    error = ValueError if optimizer is fastopt.optim.SGD else TypeError
    with pytest.raises(error, match="optimizer: expected one"):
        AveragedModel(model, optimizer(model.parameters(), lr=0.1))


def test_another_model_is_refused() -> None:
    optimizer = fastopt.optim.SGD(network().parameters(), ema_decay=DECAY)
    with pytest.raises(ValueError, match="model: expected the one that the optimizer trains"):
        AveragedModel(network(), optimizer)


# ---- averages of predictions ----------------------------------------------------------------------


def ensemble_of(count: int, **options: Any) -> tuple[SnapshotEnsemble, list[nn.Sequential]]:
    """An ensemble, and copies of the networks that it was made of."""
    model = network()
    optimizer = fastopt.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=3)
    ensemble, copies = SnapshotEnsemble(model, **options), []
    for inputs in batches(3 * count):
        step(model, optimizer, inputs)
        schedule.step()
        if schedule.T_cur == 0:
            ensemble.take(model)
            copies.append(copy.deepcopy(model).eval())
    return ensemble, copies


def test_the_prediction_is_the_mean_of_the_snapshots() -> None:
    ensemble, copies = ensemble_of(4)
    inputs = batches()[0]
    assert len(ensemble) == len(copies) == 4
    with torch.no_grad():
        each = torch.stack([it(inputs).softmax(-1) for it in copies])
    torch.testing.assert_close(ensemble(inputs), each.mean(0))
    torch.testing.assert_close(ensemble(inputs, last=2), each[2:].mean(0))
    assert torch.equal(ensemble(inputs, last=1), each[3])
    torch.testing.assert_close(ensemble(inputs).sum(-1), torch.ones(8))
    assert not ensemble(inputs).requires_grad


def test_snapshots_are_copies_with_their_buffers() -> None:
    model = network()
    ensemble = SnapshotEnsemble(model)
    ensemble.take(model)
    inputs = batches()[0]
    before = ensemble(inputs)
    model(inputs)  # moves the running means
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(ensemble(inputs), before)
    assert model.training
    assert all(param.requires_grad for param in model.parameters())


def test_other_outputs_than_logits() -> None:
    ensemble, copies = ensemble_of(2, probabilities=torch.sigmoid)
    inputs = batches()[0]
    with torch.no_grad():
        expected = sum(it(inputs).sigmoid() for it in copies) / 2
    torch.testing.assert_close(ensemble(inputs), expected)


def test_tied_weights() -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    ensemble = SnapshotEnsemble(model)
    ensemble.take(model)
    inputs = batches()[0]
    assert torch.equal(ensemble(inputs), model(inputs).softmax(-1))


def test_a_saved_ensemble_predicts_the_same() -> None:
    ensemble, _ = ensemble_of(3)
    file = io.BytesIO()
    torch.save(ensemble.state_dict(), file)
    file.seek(0)
    loaded = SnapshotEnsemble(network(seed=5))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert len(loaded) == 3
    assert torch.equal(loaded(batches()[0]), ensemble(batches()[0]))


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    ensemble, _ = ensemble_of(2)
    before = ensemble(batches()[0])
    other = network()
    other[3] = nn.Linear(7, 4)
    with pytest.raises(ValueError, match=r"3.weight: expected \(3, 7\) torch.float32, got \(4, 7\)"):
        ensemble.take(other)
    with pytest.raises(ValueError, match=r"0.weight: expected .*, got no tensor"):
        ensemble.take(nn.Sequential())
    state = ensemble.state_dict()
    state["snapshots"][1]["3.weight"] = torch.zeros(3, 7, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"got .* torch.float64"):
        ensemble.load_state_dict(state)
    assert torch.equal(ensemble(batches()[0]), before)


@pytest.mark.parametrize("last", [0, 3, -1])
def test_more_snapshots_than_there_are(last: int) -> None:
    ensemble, _ = ensemble_of(2)
    with pytest.raises(ValueError, match=f"last: expected 1 to 2, the snapshots there are, got {last}"):
        ensemble(batches()[0], last=last)


def test_no_snapshot_no_prediction() -> None:
    with pytest.raises(RuntimeError, match="no snapshot has been taken yet"):
        SnapshotEnsemble(network())(batches()[0])


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got builtin"):
        SnapshotEnsemble(torch.relu)  # type: ignore[arg-type]
