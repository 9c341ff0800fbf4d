"""scripts/gpu_check.sh without a GPU: that it runs every step, and that one that fails is told."""

import os
import subprocess
from pathlib import Path

import pytest

from _walk import ROOT

STEPS = ["machine", "build", "tests", "verify", "memcheck", "racecheck", "bench"]


def check(folder: Path, fails: str = "nothing", *steps: str) -> tuple[int, list[str], str]:
    """The exit status, the summary, and the commands, with tools that do nothing but fail for one."""
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("python", "nvidia-smi", "nvcc", "compute-sanitizer"):
        script = tools / tool
        script.write_text(
            f'#!/bin/sh\necho "{tool} $*" >>"{folder}/commands"\n'
            f'case "{tool} $*" in *{fails}*) exit 3 ;; esac\necho "NVIDIA H100"\n'
        )
        script.chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python"}
    command = [ROOT / "scripts" / "gpu_check.sh", folder / "out", *steps]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    summary = (folder / "out" / "summary.txt").read_text().splitlines()
    return done.returncode, summary, (folder / "commands").read_text()


def test_every_step_runs(tmp_path: Path) -> None:
    status, summary, commands = check(tmp_path)
    assert status == 0
    assert [line.split()[0] for line in summary] == STEPS
    assert all(line.endswith("passed") for line in summary)
    assert "FASTOPT_CUDA=ON" in commands
    assert "bench --device cuda" in commands
    assert "nvidia-h100.json" in commands
    log = (tmp_path / "out" / "log.txt").read_text()
    assert [line.removeprefix("== ") for line in log.splitlines() if line.startswith("==")] == STEPS


def test_some_steps_run(tmp_path: Path) -> None:
    status, summary, _ = check(tmp_path, "nothing", "verify", "bench")
    assert status == 0
    assert [line.split()[0] for line in summary] == ["machine", "build", "verify", "bench"]


@pytest.mark.parametrize("fails", ["verify", "memcheck", "bench"])
def test_a_step_that_fails_stops_no_other(fails: str, tmp_path: Path) -> None:
    status, summary, _ = check(tmp_path, fails)
    assert status == 1
    assert [line.split()[0] for line in summary] == STEPS
    assert [line.split()[0] for line in summary if "FAILED: exit status 3" in line] == [fails]
