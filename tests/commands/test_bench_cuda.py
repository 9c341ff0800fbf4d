"""`python -m fastopt bench --device cuda` without a GPU: CUDA's kernels walked, another clock."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastopt.bench import cuda, main, report
from fastopt.bench import run as running


class Walked:
    """In place of ``cuda.Gpu``: the CPU's memory and clock, and no graphs."""

    name = "cpu"

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - begin

    def wait(self) -> None:
        pass

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(cuda.REPLAYED)]


@pytest.fixture
def walked(cuda_walk: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpu", Walked())
    monkeypatch.setattr(running, "QUICK_SHORTEST", 0.0)  # one run each: the figures mean nothing


def tiny(works: tuple[str, ...]) -> object:
    return cuda.steps_suite("tiny", works, lambda quick: {"3 x 64": [(64, 64)] * 3})


@pytest.mark.parametrize("work", cuda.WORKS)
def test_every_work_of_a_step(
    work: str, walked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda.WORKS[work].replayed:  # torch's own capturable steps are not for the CPU
        monkeypatch.setattr(cuda, "PEERS", ())
    monkeypatch.setitem(cuda.SUITES, "small", tiny((work,)))
    (result,) = run(["small"], tmp_path)["results"]
    names = [entry["name"] for entry in result["entries"]]
    assert names[:2] == ["limit", "fastopt"]
    assert all(len(entry["samples"]) == 1 for entry in result["entries"])
    if "clip" in work:
        assert names[2].startswith("torch clip, fused")
    elif not cuda.WORKS[work].replayed:
        assert "torch foreach" in names


def test_a_replay_is_twenty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the time of one is told, as for the limit's copies."""
    gpu, runs = Walked(), []
    monkeypatch.setattr(cuda, "gpu", gpu)
    contender = cuda.OnGpu("a", lambda: runs.append(1), moved_bytes=1, replayed=True)
    monkeypatch.setattr(gpu, "seconds", lambda run, repeats: 40.0 * (run() is not None))
    assert (contender.measure(), len(runs)) == (2.0, 20)


def test_clipping_reads_the_gradient_once_more(walked: None, tmp_path: Path) -> None:
    moved = [
        next(cuda.Steps(cuda.WORKS[work], [(64,)]).limit_and_ours()).moved_bytes
        for work in ("AdamW", "clip + AdamW")
    ]
    assert moved[1] - moved[0] == 4 * 64


def test_half_of_a_gradient_is_zero(walked: None) -> None:
    work = cuda.Steps(cuda.WORKS["AdamW, half the gradient zero"], [(1000,)])
    assert 300 < int((work.params[0].grad == 0).sum()) < 700


def test_dropout(walked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = run(["dropout"], tmp_path, "--plot", str(tmp_path / "plot.png"))
    assert [r["work"] for r in measured["results"]] == list(cuda.DROPOUTS)
    assert all(len(r["entries"]) == 3 for r in measured["results"])
    assert (tmp_path / "plot.png").stat().st_size > 1000


def run(suites: list[str], folder: Path, *more: str) -> dict[str, Any]:
    written = folder / "run.json"
    arguments = [*suites, "--device", "cuda", "--quick", "--rounds", "1", "--json", str(written)]
    assert main([*arguments, *more]) == 0
    return json.loads(written.read_text())


def test_every_suite_has_cases_and_says_what_it_needs() -> None:
    for name, suite in cuda.SUITES.items():
        for quick in (False, True):
            cases = suite.cases(quick, None)
            assert cases, name
            assert all(0 < suite.needed_bytes(case) < 70e9 for case in cases), name


def test_the_gpu_is_named() -> None:
    machine = {"cpu": "a CPU", "cpus": 2, "torch": "2", "fastopt": "1", "huge_pages": None}
    machine |= {"load_average": [0.5], "gpu": {"name": "NVIDIA X", "driver": "580", "cuda": "13.0"}}
    assert report.machine_line(machine).startswith("NVIDIA X, driver 580, CUDA 13.0; a CPU")


def test_without_a_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda", "--quick"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--device", "cuda", "curve"])
    assert "no suite 'curve'" in capsys.readouterr().err
