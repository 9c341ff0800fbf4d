"""Optimizers chosen by a string, as configuration files do, in the packages that do it.

Needs ``pip install fastopt[frameworks]``, and for timm ``fastopt[timm]``: it brings torchvision, which,
of another build than torch (CPU beside CUDA), other packages fail to import. Each package makes its
optimizer and makes steps; they have the bits of one that is built by hand.
"""

from __future__ import annotations

import importlib
import inspect
import io
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import fastopt
from _optim_cases import assert_same_bits
from fastopt.optim._fused import Fused

CLASSES = [
    name
    for name, it in vars(fastopt.optim).items()
    if isinstance(it, type) and issubclass(it, Fused) and not name.startswith("_")
]
NAMES = ["bfloat16", "torch.bfloat16", "int8", "torch.float32"]  # of dtypes, as they stand in YAML
each_class = pytest.mark.parametrize("name", sorted(CLASSES))


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """The networks are small."""
    set_threads(1)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 70), nn.Tanh(), nn.Linear(70, 3))


def make_steps(model: nn.Module, optimizer: Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 64, generator=generator)
        nn.functional.mse_loss(model(x), x[:, :3].sin()).backward()
        optimizer.step()


def assert_as_by_hand(
    model: nn.Module, optimizer: Optimizer, cls: type[Optimizer], **by_hand: Any
) -> None:
    """It is of this class, steps to the bits of one that is built with these options, and its
    checkpoint holds nothing that torch.load refuses."""
    assert type(optimizer) is cls
    other = make_model()
    make_steps(model, optimizer)
    make_steps(other, cls(other.parameters(), **by_hand))
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert_same_bits(mine, its)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def options_of(cls: type[Optimizer], state_dtype: str = "torch.bfloat16") -> dict[str, Any]:
    """What a file could hold for a class: numbers, strings and lists."""
    options = {"lr": 0.01, "max_grad_norm": 1.0, "state_dtype": state_dtype}
    betas = inspect.signature(cls).parameters.get("betas")
    return options if betas is None else {**options, "betas": list(betas.default)}


# ---- dotted paths ---------------------------------------------------------------------------------


@each_class
def test_the_dotted_path_is_all_that_is_needed(name: str) -> None:
    """verl, kohya's scripts, torchtune and many others split it at the last dot and import."""
    module, _, attribute = f"fastopt.optim.{name}".rpartition(".")
    cls = getattr(importlib.import_module(module), attribute)
    model = make_model()
    options = options_of(cls)
    assert_as_by_hand(model, cls(model.parameters(), **options), cls, **options)


@each_class
def test_hydra(name: str) -> None:
    """Whose lists are of a class of its own, which neither a rule nor a checkpoint knows."""
    hydra = pytest.importorskip("hydra", reason="needs Hydra: pip install fastopt[frameworks]")
    from omegaconf import OmegaConf

    cls, model = getattr(fastopt.optim, name), make_model()
    config = OmegaConf.create({"_target_": f"fastopt.optim.{name}", **options_of(cls)})
    optimizer = hydra.utils.instantiate(config, model.parameters())
    assert_as_by_hand(model, optimizer, cls, **options_of(cls))


def test_hydra_in_a_group_of_its_own() -> None:
    pytest.importorskip("hydra", reason="needs Hydra: pip install fastopt[frameworks]")
    from omegaconf import OmegaConf

    model = make_model()
    group = OmegaConf.create({"betas": [0.5, 0.75], "state_dtype": "torch.bfloat16"})
    optimizer = fastopt.optim.Lion([{"params": model.parameters(), **group}], lr=0.01)
    assert type(optimizer.param_groups[0]["betas"]) is tuple
    by_hand = {"lr": 0.01, "betas": (0.5, 0.75), "state_dtype": torch.bfloat16}
    assert_as_by_hand(model, optimizer, fastopt.optim.Lion, **by_hand)


@pytest.mark.parametrize("state_dtype", NAMES)
def test_lightnings_cli(state_dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``--optimizer fastopt.optim.AdamW`` and by a file's class_path and init_args alike."""
    lightning = pytest.importorskip(
        "lightning", reason="needs Lightning: pip install fastopt[frameworks]"
    )
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

    config = tmp_path / "config.yaml"
    config.write_text(
        "optimizer:\n  class_path: fastopt.optim.AdamW\n  init_args:\n    lr: 0.01\n"
        f"    betas: [0.5, 0.75]\n    state_dtype: {state_dtype}\n    max_grad_norm: 1.0\n"
    )
    arguments = {
        "file": [f"--config={config}"],
        "options": [
            "--optimizer=fastopt.optim.AdamW",
            "--optimizer.lr=0.01",
            "--optimizer.betas=[0.5, 0.75]",
            f"--optimizer.state_dtype={state_dtype}",
            "--optimizer.max_grad_norm=1.0",
        ],
    }
    expected = {"lr": 0.01, "betas": (0.5, 0.75), "state_dtype": state_dtype, "max_grad_norm": 1.0}
    monkeypatch.chdir(tmp_path)
    for args in arguments.values():
        cli = LightningCLI(Module, run=False, args=args, save_config_callback=None)
        optimizer = cli.model.configure_optimizers()
        assert_as_by_hand(cli.model.model, optimizer, fastopt.optim.AdamW, **expected)


# ---- timm -----------------------------------------------------------------------------------------


@pytest.fixture
def timm() -> Iterator[Any]:
    """timm with our names, and without them again."""
    pytest.importorskip("timm", reason="needs timm: pip install fastopt[timm]")
    import timm.optim as module
    from timm.optim._optim_factory import default_registry

    yield module
    for name in module.list_optimizers("fastopt*"):
        del default_registry._optimizers[name]


def test_timm_knows_every_optimizer(timm: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = fastopt.integrations.timm.register()
    with caplog.at_level(logging.WARNING):
        assert fastopt.integrations.timm.register() == names  # as timm's, at once, without a warning
    assert not caplog.records
    assert sorted(timm.list_optimizers("fastopt*")) == sorted(names)
    built = set()
    for name in names:
        model = make_model()
        optimizer = timm.create_optimizer_v2(
            model, opt=name, lr=0.01, weight_decay=0.1, state_dtype="torch.bfloat16"
        )
        built.add(type(optimizer).__name__)
        assert optimizer.param_groups[0]["state_dtype"] == "bfloat16"
        make_steps(model, optimizer)
        theirs = name.removeprefix("fastopt")
        if theirs in timm.list_optimizers() and theirs not in _OF_ITS_OWN:
            other = timm.create_optimizer_v2(make_model(), opt=theirs, lr=0.01, weight_decay=0.1)
            for mine, its in zip(optimizer.param_groups, other.param_groups, strict=True):
                assert {key: mine[key] for key in its if key != "params"} == {
                    key: value for key, value in its.items() if key != "params"
                }
    assert built == set(CLASSES)


# Rules that timm has, too, in classes of its own, which have other options.
_OF_ITS_OWN = ("adabelief", "adan", "adopt", "lamb", "laprop", "lion", "mars")


def test_timm_adamw_by_name(timm: Any) -> None:
    fastopt.integrations.timm.register()
    model = make_model()
    optimizer = timm.create_optimizer_v2(
        model.parameters(), opt="fastoptadamw", lr=0.01, weight_decay=0.1, max_grad_norm=1.0
    )
    options = {"lr": 0.01, "weight_decay": 0.1, "max_grad_norm": 1.0}
    assert_as_by_hand(model, optimizer, fastopt.optim.AdamW, **options)


def test_timm_is_not_imported_with_fastopt(run_python: Any) -> None:
    done = run_python("-c", "import sys, fastopt; print('timm' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


# ---- Hugging Face's Trainer -----------------------------------------------------------------------


@pytest.fixture
def no_accelerator_left() -> Iterator[None]:
    """Accelerate's, which the Trainer makes, are one for the whole process."""
    yield
    if not find_spec("accelerate"):
        return
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.usefixtures("no_accelerator_left")
@pytest.mark.parametrize("state_dtype", NAMES)
def test_hugging_faces_trainer(state_dtype: str, tmp_path: Path) -> None:
    """By ``optimizer_cls_and_kwargs``; its scheduler, clipping and checkpoints as with torch's."""
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install fastopt[frameworks]")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers: pip install fastopt[frameworks]"
    )

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": nn.functional.mse_loss(self.model(x), labels)}

    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(12, 64, generator=generator)
    data = [{"x": row, "labels": row[:3].sin()} for row in rows]

    def train(cls: type[Optimizer], folder: Path, resume: Path | None = None, **options: Any) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            per_device_train_batch_size=4,
            num_train_epochs=2,
            max_grad_norm=0.5,
            save_steps=3,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            Regression(),
            arguments,
            train_dataset=data,
            optimizer_cls_and_kwargs=(cls, {"lr": 0.01, **options}),
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer

    whole = train(fastopt.optim.AdamW, tmp_path / "whole", state_dtype=state_dtype)
    optimizer = getattr(whole.optimizer, "optimizer", whole.optimizer)
    assert type(optimizer) is fastopt.optim.AdamW
    assert {it.path for it in fastopt.optim.fused_report(whole.optimizer)} == {"no gradient"}
    assert optimizer.param_groups[0]["state_dtype"] == state_dtype.removeprefix("torch.")
    half = tmp_path / "whole" / "checkpoint-3"
    resumed = train(fastopt.optim.AdamW, tmp_path / "resumed", half, state_dtype=state_dtype)
    for mine, its in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert_same_bits(mine, its)
    if state_dtype == "torch.float32":
        torchs = train(torch.optim.AdamW, tmp_path / "torchs")
        for mine, its in zip(whole.model.parameters(), torchs.model.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)
