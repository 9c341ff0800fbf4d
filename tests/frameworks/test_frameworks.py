"""Training under Lightning and Hugging Face Accelerate, with a checkpoint and a resumption.

Each framework trains the model that a plain loop trains, in one go and in two with a checkpoint
between them; all three end with the same bits. Needs ``pip install fastopt[frameworks]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import fastopt
from _optim_cases import CASES, FULL, assert_same_bits

each_optimizer = pytest.mark.parametrize("name", CASES)
EPOCHS, BATCHES = 4, 3


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def make_optimizer(name: str, model: nn.Module) -> tuple[Optimizer, LRScheduler]:
    optimizer = CASES[name].ours(model.parameters(), **FULL[name])
    cycles = any(key in optimizer.defaults for key in ("momentum", "betas"))
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * BATCHES + 1, cycle_momentum=cycles)
    return optimizer, scheduler


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(4 * BATCHES, 5, generator=generator)
    return DataLoader(TensorDataset(data, data[:, :3].sin()), batch_size=4)


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def train_plainly(name: str) -> nn.Module:
    model = make_model()
    optimizer, scheduler = make_optimizer(name, model)
    for _ in range(EPOCHS):
        for batch in batches():
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            scheduler.step()
    return model


def assert_same_parameters(actual: nn.Module, expected: nn.Module) -> None:
    for mine, other in zip(actual.parameters(), expected.parameters(), strict=True):
        assert_same_bits(mine, other)


# ---- Lightning ----------------------------------------------------------------------------------


def lightning_module(name: str) -> Any:
    lightning = pytest.importorskip(
        "lightning", reason="needs Lightning: pip install fastopt[frameworks]"
    )

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return loss_of(self.model, batch)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer, scheduler = make_optimizer(name, self.model)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    return Module()


def fit(module: Any, folder: Path, epochs: int, checkpoint: Path | None = None, **options: Any) -> Any:
    import lightning

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer.fit(module, batches(), ckpt_path=checkpoint, weights_only=True)
    return trainer


@each_optimizer
def test_lightning(name: str, tmp_path: Path) -> None:
    whole = lightning_module(name)
    trainer = fit(whole, tmp_path, EPOCHS)
    assert type(trainer.optimizers[0]) is CASES[name].ours
    assert_same_parameters(whole.model, train_plainly(name))

    checkpoint = tmp_path / "half.ckpt"
    fit(lightning_module(name), tmp_path, EPOCHS // 2).save_checkpoint(checkpoint)
    resumed = lightning_module(name)
    trainer = fit(resumed, tmp_path, EPOCHS, checkpoint)
    assert trainer.global_step == EPOCHS * BATCHES
    assert_same_parameters(resumed.model, whole.model)
    assert [it.name for it in tmp_path.iterdir()] == ["half.ckpt"]


@each_optimizer
def test_lightning_clips_and_accumulates(name: str, tmp_path: Path) -> None:
    """What its trainer does with the gradients, it does with ours as with torch's."""
    module = lightning_module(name)
    fit(module, tmp_path, 1, gradient_clip_val=0.05, accumulate_grad_batches=2)
    model = make_model()
    optimizer, scheduler = make_optimizer(name, model)
    for index, batch in enumerate(batches()):
        (loss_of(model, batch) / 2).backward()
        if index % 2 or index == BATCHES - 1:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            assert norm > 0.05
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    assert_same_parameters(module.model, model)


def test_lightnings_wrapper_has_the_norm(tmp_path: Path) -> None:
    """It is what ``self.optimizers()`` gives; so has Fabric's."""
    lightning = pytest.importorskip(
        "lightning", reason="needs Lightning: pip install fastopt[frameworks]"
    )
    module = lightning_module("AdamW")
    trainer = fit(module, tmp_path, 1)
    optimizer, wrapper = trainer.optimizers[0], module.optimizers()
    assert wrapper is not optimizer
    assert wrapper.grad_norm is None
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    loss_of(module.model, next(iter(batches()))).backward()
    optimizer.step()
    assert torch.equal(wrapper.grad_norm, optimizer.grad_norm)

    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    ours = fabric.setup_optimizers(fastopt.optim.AdamW(module.model.parameters(), max_grad_norm=1.0))
    ours.step()
    assert ours.grad_norm.item() == ours.optimizer.grad_norm.item()
    ours.grad_norm_group = "a group"
    assert ours.optimizer.grad_norm_group == "a group"


# ---- Accelerate ---------------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Iterator[Any]:
    accelerate = pytest.importorskip(
        "accelerate", reason="needs Accelerate: pip install fastopt[frameworks]"
    )
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepare(accelerator: Any, name: str) -> tuple[Any, Any, Any, Any]:
    model = make_model()
    prepared: tuple[Any, Any, Any, Any] = accelerator.prepare(
        model, *make_optimizer(name, model), batches()
    )
    return prepared


def train(accelerator: Any, prepared: tuple[Any, Any, Any, Any], epochs: int) -> nn.Module:
    model, optimizer, scheduler, loader = prepared
    for _ in range(epochs):
        for batch in loader:
            with accelerator.accumulate(model):
                optimizer.zero_grad()
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                scheduler.step()
    unwrapped: nn.Module = accelerator.unwrap_model(model)
    return unwrapped


@each_optimizer
def test_accelerate(name: str, accelerator: Any, tmp_path: Path) -> None:
    whole = train(accelerator, prepare(accelerator, name), EPOCHS)
    assert_same_parameters(whole, train_plainly(name))

    accelerator.free_memory()
    first = prepare(accelerator, name)
    assert type(first[1].optimizer) is CASES[name].ours
    train(accelerator, first, EPOCHS // 2)
    accelerator.save_state(str(tmp_path / "half"))

    accelerator.free_memory()
    second = prepare(accelerator, name)
    accelerator.load_state(str(tmp_path / "half"))
    assert_same_parameters(train(accelerator, second, EPOCHS - EPOCHS // 2), whole)


@each_optimizer
def test_accelerate_with_a_converted_optimizer(name: str, accelerator: Any) -> None:
    """Converted after Accelerate has wrapped it: the wrapper drives the new step."""
    model = make_model()
    torchs = CASES[name].torchs(model.parameters(), **FULL[name])
    model, optimizer, loader = accelerator.prepare(model, torchs, batches())
    fastopt.from_torch(optimizer.optimizer)
    other = make_model()
    plain = CASES[name].ours(other.parameters(), **FULL[name])
    for batch in loader:
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, batch))
        optimizer.step()
        plain.zero_grad()
        loss_of(other, batch).backward()
        plain.step()
    assert_same_parameters(accelerator.unwrap_model(model), other)
