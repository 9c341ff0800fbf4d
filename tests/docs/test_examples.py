"""The scripts in examples/, at a small size: they run, print what they promise, and draw."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the repository's examples")


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """The networks are small."""
    set_threads(1)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """An example as a module."""
    for needed in ("sklearn", "matplotlib"):
        pytest.importorskip(needed)

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"{name}_example", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        return module

    return load


def assert_is_small_picture(file: Path) -> None:
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 100_000  # as those in docs/images are to be


# ---- landscape ------------------------------------------------------------------------------------


def test_landscape(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landscape, picture = load("landscape"), tmp_path / "paths.png"
    assert landscape.main(["--quick", "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 7
    assert [line.split("  ")[0] for line in lines[1:]] == [*landscape.RULES]
    assert_is_small_picture(picture)


def test_landscape_says_what_the_guide_says(load: Any) -> None:
    """Which rule is good for what, at the rates and the steps of the full run."""
    landscape = load("landscape")

    def steps(where: str, rule: str) -> float:
        found = landscape.walk(landscape.LANDSCAPES[where], *landscape.RULES[rule], steps=600).steps
        return math.inf if found is None else found

    assert steps("ravine", "Nesterov") < steps("ravine", "SGD") / 2
    assert steps("ravine", "momentum") < steps("ravine", "SGD")
    assert all(steps("saddle", rule) < steps("saddle", "SGD") / 5 for rule in ("RMSProp", "Adam"))
    assert steps("two pits", "SGD") == math.inf
    assert steps("two pits", "momentum") < math.inf


def test_the_minima_of_the_landscapes_are_minima(load: Any) -> None:
    for it in load("landscape").LANDSCAPES.values():
        point = torch.tensor(it.minimum, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(it.at(point), point)
        assert gradient.norm() < 1e-7


# ---- snapshots ------------------------------------------------------------------------------------


def test_snapshots(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "scores.png"
    assert load("snapshots").main(["--quick", "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    for name in ("single network", "last snapshot", "mean of 3 snapshots"):
        assert name in printed
    assert_is_small_picture(picture)


def test_both_runs_of_snapshots_have_one_budget(load: Any) -> None:
    snapshots = load("snapshots")
    data = snapshots.load_digits()
    assert [len(snapshots.train(data, cycles, 6 // cycles, 0)) for cycles in (1, 3)] == [1, 3]
    first, second = (snapshots.compare(data, 2, 2, seed=1) for _ in range(2))
    assert first == second
    assert first["single network"].errors < 70  # of four epochs; guessing makes 90


# ---- search ---------------------------------------------------------------------------------------


def test_search(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    picture = tmp_path / "trials.png"
    search = load("search")
    assert search.main(["--quick", "--jobs", "2", "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "coarse: 8 trials" in printed
    assert "fine: 8 trials" in printed
    assert_is_small_picture(picture)


def test_the_fine_search_looks_where_the_coarse_one_was_good(load: Any) -> None:
    pytest.importorskip("optuna")
    search = load("search")

    def objective(trial: Any) -> float:  # best at α = 1e-2, whatever the others are
        drawn = {name: trial.suggest_float(name, *it, log=True) for name, it in search.WIDE.items()}
        return float(abs(math.log10(drawn["alpha"]) + 2))

    box = search.around_the_best(search.study(objective, trials=100, jobs=1, seed=0))
    low, high = box["alpha"]
    assert low < 1e-2 < high
    assert high / low < 100
    low, high = box["1 - beta2"]
    assert high / low > 100


# ---- transfer -------------------------------------------------------------------------------------


def test_transfer(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("transfer").main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for name in ("after 2 epochs", "after 4 epochs", "from scratch", "last layer", "fine-tuned"):
        assert name in printed


@pytest.mark.parametrize(("way", "frozen"), [("last layer", 8), ("fine-tuned", 4)])
def test_what_is_frozen_stays_to_the_bit(load: Any, way: str, frozen: int) -> None:
    transfer = load("transfer")
    torch.manual_seed(0)
    learnt = transfer.new_network(0)
    learnt.eval()(transfer.task(0).test)
    adapted = transfer.adapt(learnt, way, transfer.task(5, 3), 2, seed=1)
    for index, (before, after) in enumerate(zip(learnt, adapted, strict=True)):
        for old, new in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
            assert torch.equal(old, new) == (index < frozen), index


def test_each_group_has_its_rate(load: Any) -> None:
    transfer = load("transfer")
    network = transfer.new_network(0)
    transfer.freeze(network[transfer.FIRST])
    groups = [{"params": network[transfer.SECOND].parameters(), "lr": 1e-5}]
    groups.append({"params": network[-1].parameters()})
    optimizer = transfer.train(network, groups, transfer.task(5, 2), epochs=1)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1e-5, transfer.LEARNING_RATE]
    assert {it.path for it in optimizer.fused_report()} == {"fastopt"}


def test_augmented_pictures_are_the_pictures_moved_a_little(load: Any) -> None:
    transfer = load("transfer")
    torch.manual_seed(0)
    images = transfer.task(0).train[:50]
    moved = transfer.augment(images)
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    assert 0.5 < moved.sum() / images.sum() <= 1.01
    shift = (centre(moved) - centre(images)).norm(dim=1)
    assert shift.mean() > 0.2
    assert shift.max() < 2  # a pixel each way, and what the turn and the edge add


def centre(images: torch.Tensor) -> torch.Tensor:
    """Of gravity, in pixels."""
    weights = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    places = torch.arange(8.0)
    return torch.stack([(weights.sum(2) * places).sum(1), (weights.sum(1) * places).sum(1)], 1)
