"""``python -m fastopt demo``: it learns, tells when it does not, and names what is missing."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastopt import demo
from fastopt.demo import optimizers

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """As the demo itself does by default: on a busy machine its small batches wait for no other."""
    set_threads(1)


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    return demo.load_digits()


def train(digits: demo.Digits, name: str, seed: int = 3) -> optimizers.Comparison:
    return optimizers.compare(name, digits, 1, seed, lambda: None)


def test_the_whole_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], set_threads: Callable[[int], None]
) -> None:
    plot, report = tmp_path / "curves.png", tmp_path / "report.json"
    set_threads(2)
    random_state = torch.get_rng_state()
    argv = ["--optimizers", "SGD", "AdamW", "SGD", "--plot", str(plot), "--json", str(report)]
    assert demo.main(argv) == 0
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), random_state)

    printed = capsys.readouterr().out
    assert "every run reached 97% test accuracy" in printed
    assert "FAILED" not in printed
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    facts = json.loads(report.read_text(encoding="utf-8"))
    assert facts["passed"]
    assert facts["shortfalls"] == []
    assert [result["name"] for result in facts["results"]] == ["SGD", "AdamW"]
    for result in facts["results"]:
        for library in ("fastopt", "torch"):
            assert result[library]["accuracy"] >= optimizers.MIN_ACCURACY
            assert len(result[library]["curve"]) == facts["epochs"]
        assert result["speedup"] > 0


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_fastopt_trains_as_torch_does(digits: demo.Digits, name: str) -> None:
    found = train(digits, name)
    assert found.fastopt.accuracy > 50  # an untrained network guesses one in ten
    assert found.fastopt.curve == pytest.approx(found.torch.curve, rel=1e-4)
    assert found.max_param_difference < 1e-2


def test_the_seed_decides_everything_but_the_times(digits: demo.Digits) -> None:
    def without_times(found: optimizers.Comparison) -> optimizers.Comparison:
        sides = (replace(run, step_us=0.0) for run in (found.fastopt, found.torch))
        return replace(found, **dict(zip(("fastopt", "torch"), sides, strict=True)))

    first, second, other = (without_times(train(digits, "Adam", seed)) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_the_split_is_stratified_and_fixed(digits: demo.Digits) -> None:
    again = demo.load_digits()
    assert all(torch.equal(a, b) for a, b in zip(digits, again, strict=True))
    assert len(digits.train_labels) == 1198
    train_share, test_share = (
        labels.bincount() / len(labels) for labels in (digits.train_labels, digits.test_labels)
    )
    assert torch.allclose(train_share, test_share, atol=2e-3)


def test_a_run_that_falls_short_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    argv = ["--epochs", "1", "--optimizers", "Adagrad", "--plot", str(tmp_path / "curves.png")]
    assert demo.main([*argv, "--json", str(report)]) == 2
    printed = capsys.readouterr().out
    assert "FAILED: fastopt's Adagrad" in printed
    assert "every run reached" not in printed
    facts = json.loads(report.read_text(encoding="utf-8"))
    assert not facts["passed"]
    assert "less than 97%" in facts["shortfalls"][0]


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [(98.5, 98, 0), (98, 98.5, 0), (98.6, 98, 1), (97, 98, 1), (96.9, 97, 1), (10, 98, 2)],
)
def test_shortfalls(ours: float, theirs: float, count: int) -> None:
    runs = [optimizers.Outcome(loss=0.1, accuracy=a, step_us=1.0, curve=[]) for a in (ours, theirs)]
    assert len(optimizers.Comparison("Adam", *runs, 0.0).shortfalls()) == count


@pytest.mark.parametrize("module", ["rich", "matplotlib", "sklearn"])
def test_a_missing_package_exits_2(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert demo.main([]) == 2
    message = capsys.readouterr().err
    assert module.replace("sklearn", "scikit-learn") in message
    assert 'pip install "fastopt[demo]"' in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs 0 is less than 1"),
        (["--threads", "0"], "--threads 0 is less than 1"),
        (["--seed", "-1"], "--seed -1 is less than 0"),
        (["--epochs", "many"], "invalid int value: 'many'"),
        (["--optimizers", "LBFGS"], "invalid choice: 'LBFGS'"),
        (["--json", "no/such/folder/x.json"], "is not a file in an existing folder"),
        (["--plot", "."], "is not a file in an existing folder"),
    ],
)
def test_wrong_options_exit_2_at_once(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
