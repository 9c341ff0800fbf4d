"""The CPU targets: which are there, how one is chosen, and what a wrong choice says."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

import fastopt
from conftest import TARGETS, RunPython
from fastopt import _C

ALL = _C.cpu_targets()
FOREIGN = "neon" if platform.machine() in ("x86_64", "AMD64") else "avx2"


def test_scalar_is_the_last_resort() -> None:
    assert list(ALL)[-1] == "scalar"
    assert ALL["scalar"]["supported"]
    assert all(about["description"] for about in ALL.values())


def test_each_supported_target_can_be_set(target: str) -> None:
    assert _C.cpu_target() == fastopt.info()["cpu_target"] == target


@pytest.mark.parametrize("wrong", ["sse9", FOREIGN, "", "AVX2 "])
def test_an_unknown_name_is_refused_and_changes_nothing(wrong: str) -> None:
    before = _C.cpu_target()
    built = ", ".join(ALL)
    with pytest.raises(ValueError, match=f"unknown CPU target '{wrong}'; this build has {built}$"):
        _C.set_cpu_target(wrong)
    assert _C.cpu_target() == before


def test_a_target_that_this_machine_lacks_is_refused(run_python: RunPython) -> None:
    lacking = [name for name, about in ALL.items() if not about["supported"]]
    if not lacking:
        pytest.skip("this machine supports every target of this build")
    message = f"does not support the CPU target '{lacking[0]}'; it supports {', '.join(TARGETS)}"
    with pytest.raises(ValueError, match=message):
        _C.set_cpu_target(lacking[0])
    result = run_python("-c", "import fastopt", FASTOPT_CPU_TARGET=lacking[0])
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


# A process that imports only the extension starts ten times as fast as one that imports torch, too.
LOAD_EXTENSION = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("fastopt._C", {_C.__file__!r})
_C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_C)
print(_C.cpu_target())
"""


@pytest.mark.parametrize("name", ["", *TARGETS])
def test_the_environment_chooses(name: str, run_python: RunPython) -> None:
    """An empty variable counts as none: the first target that the machine supports."""
    result = run_python("-c", LOAD_EXTENSION, FASTOPT_CPU_TARGET=name)
    assert result.stdout.split() == [name or TARGETS[0]], result.stderr


def test_without_the_environment_the_best_is_chosen(run_python: RunPython) -> None:
    assert run_python("-c", LOAD_EXTENSION).stdout.split() == [TARGETS[0]]


def test_an_unknown_name_in_the_environment_fails_the_import(run_python: RunPython) -> None:
    result = run_python("-c", "import fastopt", FASTOPT_CPU_TARGET="sse9")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: FASTOPT_CPU_TARGET: unknown CPU target 'sse9'; this build has {', '.join(ALL)}"
    )


def test_the_import_can_be_repeated_with_another_name(run_python: RunPython) -> None:
    script = """
import os
try:
    import fastopt
except ImportError as error:
    assert "sse9" in str(error)
os.environ["FASTOPT_CPU_TARGET"] = "scalar"
import fastopt, torch
param = torch.nn.Parameter(torch.ones(4))
param.grad = torch.ones(4)
fastopt.optim.SGD([param], lr=0.5).step()
print(fastopt.info()["cpu_target"], *param.tolist())
"""
    result = run_python("-c", script, FASTOPT_CPU_TARGET="sse9")
    assert result.stdout.split() == ["scalar", *["0.5"] * 4], result.stderr


def test_the_command_line_fails_with_its_own_status(run_python: RunPython) -> None:
    result = run_python("-m", "fastopt", "info", FASTOPT_CPU_TARGET="sse9")
    assert result.returncode == 2
    assert result.stderr.startswith(
        "fastopt cannot be imported: FASTOPT_CPU_TARGET: unknown CPU target"
    )


def test_the_info_command(run_python: RunPython, tmp_path: Path) -> None:
    file = tmp_path / "info.json"
    result = run_python("-m", "fastopt", "info", "--json", str(file), FASTOPT_CPU_TARGET="scalar")
    assert result.returncode == 0, result.stderr
    facts = json.loads(file.read_text())
    assert facts["fastopt"] == fastopt.__version__
    assert facts["cpu_target"] == "scalar"
    assert facts["cpu_targets"] == ALL
    if facts["openmp_threads"]:  # else built without OpenMP
        assert facts["threads"] == facts["openmp_threads"] >= 1
        assert Path(facts["openmp_library"]).is_file()
    for name, about in ALL.items():
        (line,) = [it for it in result.stdout.splitlines() if it.startswith(f"target {name}:")]
        assert line.endswith("supported, in use") == (name == "scalar")
        assert ("not supported" in line) != about["supported"]
    for word in (facts["torch"], np.__version__, facts["openmp_library"] or "openmp", "cuda"):
        assert word in result.stdout


def test_every_target_gives_the_same_bits() -> None:
    """Directly, not by way of the reference, and with states of every kind of content."""
    random, before, results = np.random.default_rng(1), _C.cpu_target(), set()
    arrays = [np.frombuffer(random.bytes(4 * 1001), np.float32) for _ in range(5)]
    for name in TARGETS:
        _C.set_cpu_target(name)
        copies = [np.array(array) for array in arrays]
        fastopt.kernels.adam_(*copies, amsgrad=True, weight_decay=0.1, step=5)
        results.add(b"".join(np.where(np.isnan(it), np.float32(0), it).tobytes() for it in copies))
    _C.set_cpu_target(before)
    assert len(results) == 1
