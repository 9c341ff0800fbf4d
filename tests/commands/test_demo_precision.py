"""``python -m fastopt demo --precision``: what each storage trains to, and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastopt import demo
from fastopt.demo import gpt, precision

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    set_threads(1)


def test_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot, report = tmp_path / "curves.png", tmp_path / "report.json"
    random_state = torch.get_rng_state()
    argv = ["--precision", "--quick", "--seeds", "1", "--plot", str(plot), "--json", str(report)]
    assert demo.main(argv) == 0
    assert torch.equal(torch.get_rng_state(), random_state)
    printed = capsys.readouterr().out
    assert all(name in printed for name in precision.STORAGES)
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    facts = json.loads(report.read_text(encoding="utf-8"))
    assert len(facts["runs"]) == 2 * len(precision.STORAGES)
    assert all(0 < run["test_loss"] < 10 for run in facts["runs"])
    sizes = {
        (s["task"], s["storage"]): (s["weight_bytes"], s["state_bytes"]) for s in facts["summaries"]
    }
    for task in ("digits", "character GPT"):
        expected = {
            "float32": (4, 8),
            "bf16, nearest": (2, 4),
            "bf16, stochastic": (2, 4),
            "bf16, master weights": (2, 10),
            "float32, bf16 state": (4, 4),
            "float32, int8 state": (4, 2.2),  # some tensors are too small for 8 bits
        }
        for storage, size in expected.items():
            assert sizes[task, storage] == pytest.approx(size, abs=0.03)


@pytest.fixture(scope="module")
def digits() -> precision.Task:
    return precision.digits_task(quick=True)


@pytest.mark.parametrize("storage", precision.STORAGES)
def test_it_learns_and_the_seed_decides(digits: precision.Task, storage: str) -> None:
    first, again = (precision.train(digits, storage, 1, lambda: None) for _ in range(2))
    assert first == again
    assert first.curve[-1] < 0.97 * first.curve[0]


def test_float32_is_torch_optims(digits: precision.Task) -> None:
    """The baseline is plain training: the same loop with torch.optim ends at the same loss."""
    network, batches = digits.build(1), digits.batches(1)
    optimizer = torch.optim.AdamW(network.parameters(), **digits.options)
    for step, (inputs, answers) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = digits.options["lr"] * precision.rate(step, len(batches))
        optimizer.zero_grad()
        precision.loss_of(network(inputs), answers).backward()
        optimizer.step()
    ((images, labels),) = digits.train
    with torch.no_grad():
        expected = precision.loss_of(network.eval()(images), labels).item()
    found = precision.train(digits, precision.BASELINE, 1, lambda: None)
    assert found.train_loss == pytest.approx(expected, rel=1e-4)


def test_summaries() -> None:
    def run(storage: str, seed: int, loss: float) -> precision.Outcome:
        return precision.Outcome("digits", storage, seed, loss, loss, 90.0, 4, 8.0, [loss])

    runs = [run("float32", 0, 1.0), run("bf16, nearest", 0, 1.5)]
    runs += [run("float32", 1, 3.0), run("bf16, nearest", 1, 3.5)]
    base, nearest = precision.summarize(runs)
    assert (base.train_loss.mean, base.excess.mean) == (2.0, 0.0)
    assert nearest.train_loss == precision.Figure(2.5, pytest.approx(2**0.5))
    assert nearest.excess == precision.Figure(0.5, 0.0)
    assert precision.Figure.of([2.0]) == precision.Figure(2.0, 0.0)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [precision.rate(step, 400) for step in range(401)]
    assert rates[0] == pytest.approx(1 / precision.WARM_UP)
    assert max(rates) == pytest.approx(1, abs=0.02)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_text() -> None:
    learned, unseen, characters = gpt.load_text()
    assert len(unseen) == pytest.approx((len(learned) + len(unseen)) / 10, rel=0.1)
    assert int(torch.cat([learned, unseen]).max()) == characters - 1
    first, again = (gpt.draw_batches(learned, 3, 2) for _ in range(2))
    for (inputs, answers), (same, _) in zip(first, again, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(inputs[:, 1:], answers[:, :-1])


def test_the_gpt_sees_only_what_came_before() -> None:
    network = gpt.build_network(7, seed=0)
    text = torch.arange(10).remainder(7)[None]
    changed = text.clone()
    changed[0, 6] = 0
    before, after = network(text), network(changed)
    torch.testing.assert_close(before[0, :6], after[0, :6])
    assert not torch.isclose(before[0, 6:], after[0, 6:]).all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "0"], "--seeds 0 is less than 1"),
        (["--threads", "0"], "--threads 0 is less than 1"),
        (["--optimizers", "SGD"], "unrecognized arguments"),
    ],
)
def test_wrong_options_exit_2_at_once(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--precision", *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
