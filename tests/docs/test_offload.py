"""The recipes of docs/offload.md: each script runs, and finds the bits of a plain loop."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "offload"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the repository's examples")

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A script's output, in a process of its own; one that finds a wrong bit fails."""

    def run(name: str, *arguments: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, FOLDER / name, *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("name", ["fsdp2", "megatron_hybrid", "overlap", "prime_rl"])
def test_without_a_package(run: Run, name: str) -> None:
    assert re.search(r": 0 (of \d+ parameters|masters) differ", run(f"{name}.py"))


@pytest.mark.skipif(not find_spec("torchao"), reason="needs torchao: pip install fastopt[offload]")
def test_torchao(run: Run) -> None:
    assert run("torchao_offload.py").count(": 0 of ") == 2


@pytest.mark.skipif(not find_spec("deepspeed"), reason="needs DeepSpeed: pip install fastopt[offload]")
@pytest.mark.parametrize("way", ["deepspeed", "accelerate"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed(run: Run, stage: int, way: str) -> None:
    if way == "accelerate" and not (find_spec("accelerate") and find_spec("transformers")):
        pytest.skip("needs Accelerate and transformers: pip install fastopt[frameworks]")
    options = ["--accelerate"] if way == "accelerate" else []
    env = {"DS_ACCELERATOR": "cpu", "DS_SKIP_CUDA_CHECK": "1"}
    assert ": 0 of " in run("deepspeed_zero.py", "--stage", str(stage), *options, **env)


def test_a_wrong_bit_fails(run: Run, tmp_path: Path) -> None:
    """A recipe with another rate than the plain loop's."""
    script = (FOLDER / "megatron_hybrid.py").read_text()
    (tmp_path / "wrong.py").write_text(script.replace("**OPTIONS)", "**{**OPTIONS, 'lr': 0.02})"))
    done = subprocess.run(
        [sys.executable, tmp_path / "wrong.py"],
        env={**os.environ, "PYTHONPATH": f"{FOLDER}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "parameters differ from a plain loop's" in done.stdout


# ---- what the page says ---------------------------------------------------------------------------


def test_host_memory_is_what_the_page_says() -> None:
    """As counted; what the process grows by is the machine's."""
    script = runpy.run_path(str(FOLDER / "host_memory.py"))
    rows = [f"{script['measure'](way, 256)[0]:.2f}" for way in script["WAYS"]]
    page = (ROOT / "docs" / "offload.md").read_text().split("## Bytes of host memory")[1]
    table = re.findall(r"^\| ([a-z].+?) \| ([\d.]+) \| ([\d. +]+) \|", page, re.M)
    assert len(table) == len(rows)
    assert sorted(figure for _, figure, _ in table) == sorted(rows)
    for _, figure, parts in table:
        assert sum(map(float, parts.split("+"))) == pytest.approx(float(figure), abs=0.001)


def test_every_script_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "offload.md").read_text()
    scripts = {it.name for it in FOLDER.glob("*.py")} - {"task.py"}
    assert scripts == set(re.findall(r"\b(\w+\.py)\b", page)) & scripts
