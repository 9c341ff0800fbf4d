"""scripts/gpu_check.sh without a GPU: its steps and their order, one that fails and one that hangs."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from _scripts import script
from _walk import ROOT

AT_ONCE = ["families", "racecheck", "tests", "verify"]  # which end in any order
STEPS = ["machine", "build", *AT_ONCE, "numbers", "counters", "bench"]


def in_order(summary: list[str]) -> list[str]:
    """The lines of a summary, those of what runs at once by their names."""
    begin = next(i for i, line in enumerate(summary) if line.split()[0] in AT_ONCE)
    end = begin + len(AT_ONCE)
    return [*summary[:begin], *sorted(summary[begin:end]), *summary[end:]]


def check(
    folder: Path,
    fails: str = "nothing",
    *steps: str,
    hangs: str = "nothing",
    seconds: int = 570,
    **more: str,
) -> tuple[int, list[str], str]:
    """The exit status, the summary, and the commands, with tools that do nothing but fail or hang for
    one."""
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("python", "nvidia-smi", "nvcc", "compute-sanitizer", "ncu"):
        script = tools / tool
        script.write_text(
            f'#!/bin/sh\necho "{tool} $* path=$PYTHONPATH" >>"{folder}/commands"\necho "NVIDIA H100"\n'
            f'case "{tool} $*" in *"{fails}"*) exit 3 ;; *"{hangs}"*) exec sleep 60 ;; esac\n'
        )
        script.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": "python",
        "PYTHONPATH": "/of/the/user",
        "FASTOPT_GPU_SECONDS": str(seconds),
        **more,
    }
    command = [ROOT / "scripts" / "gpu_check.sh", folder / "out", *steps]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    summary = (folder / "out" / "summary.txt").read_text().splitlines()
    return done.returncode, summary, (folder / "commands").read_text()


def test_every_step_runs(tmp_path: Path) -> None:
    status, summary, commands = check(tmp_path)
    assert status == 0
    assert [line.split()[0] for line in in_order(summary)] == STEPS
    assert all(line.endswith("passed") for line in summary)
    assert "FASTOPT_CUDA=ON" in commands
    assert "--kernel-name kernel_substring=fastopt" in commands
    assert "bench --device cuda" in commands
    assert "nvidia-h100.json" in commands
    assert all(line.endswith("site:/of/the/user") for line in commands.splitlines())
    for step in STEPS:
        assert "NVIDIA H100" in (tmp_path / "out" / f"{step}.log").read_text()


def test_some_steps_run(tmp_path: Path) -> None:
    status, summary, _ = check(tmp_path, "nothing", "verify", "bench")
    assert status == 0
    assert [line.split()[0] for line in summary] == ["machine", "build", "verify", "bench"]


def test_what_was_built_elsewhere_is_not_built(tmp_path: Path) -> None:
    status, summary, commands = check(tmp_path, "nothing", "verify", FASTOPT_GPU_SITE="/built")
    assert status == 0
    assert [line.split()[0] for line in summary] == ["machine", "verify"]
    assert all(line.endswith("path=/built:/of/the/user") for line in commands.splitlines())


@pytest.mark.parametrize("fails", ["verify", "memcheck", "racecheck"])
def test_a_step_that_fails_stops_no_other(fails: str, tmp_path: Path) -> None:
    status, summary, _ = check(tmp_path, fails)
    assert status == 1
    assert [line.split()[0] for line in in_order(summary)] == STEPS
    failed = [line.split()[0] for line in summary if "FAILED: exit status 3" in line]
    assert failed == ["families" if fails == "memcheck" else fails]


def test_what_hangs_is_cut_and_its_output_kept(tmp_path: Path) -> None:
    """The rest has no time left, and says so."""
    status, summary, _ = check(tmp_path, hangs="large lowbit", seconds=4)
    assert status == 1
    summary = in_order(summary)
    assert [line.split()[0] for line in summary] == STEPS
    at = STEPS.index("numbers")
    assert all(line.endswith("passed") for line in summary[:at])
    assert all("FAILED: not done after" in line for line in summary[at:])
    assert (tmp_path / "out" / "numbers.log").read_text() == "NVIDIA H100\n"


def test_the_profilers_kernels(
    cuda_walk: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight, each one step before the profiler starts and one while it runs."""
    module = script("gpu_kernels")
    calls: list[str] = []
    monkeypatch.setattr(module, "SHAPE", (2, 300))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for name in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, name, lambda name=name: calls.append(name))
    module.main("cpu")
    assert calls == ["start", "stop"] * 8
    assert len(set(capsys.readouterr().out.splitlines())) == 8
