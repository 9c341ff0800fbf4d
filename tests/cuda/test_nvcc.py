"""What the build makes of an nvcc, by the version that it tells: stand-ins, and the one at hand."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from _walk import ROOT

NVCC = shutil.which("nvcc")
AMPERE_AND_HOPPER = "80;90-real"
BLACKWELLS = f"{AMPERE_AND_HOPPER};100-real;120-real"
VERSIONS = {
    "11.8": AMPERE_AND_HOPPER,
    "12.0": AMPERE_AND_HOPPER,
    "12.1": AMPERE_AND_HOPPER,
    "12.7": AMPERE_AND_HOPPER,
    "12.8": BLACKWELLS,
    "13.0": BLACKWELLS,
    "14.10": BLACKWELLS,
}
TOLD = "Cuda compilation tools, release {0}, V{0}.88"
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc is there to compile for the stand-in")


def stand_in(folder: Path, told: str, status: int = 0) -> Path:
    """A compiler that tells this of its version, and is else the nvcc at hand, if there is one."""
    script = folder / "nvcc"
    script.write_text(
        f'#!/bin/sh\nif [ "$*" = --version ]; then echo "{told}"; exit {status}; fi\n'
        f'exec {NVCC or "false"} "$@"\n'
    )
    script.chmod(0o755)
    return script


def ask(folder: Path, compiler: Path) -> list[str]:
    script = folder / "ask.cmake"
    script.write_text(
        f"include({ROOT}/cmake/Nvcc.cmake)\n"
        f'fastopt_ask_nvcc("{compiler}" version architectures)\n'
        'message("${version} ${architectures}")\n'
    )
    done = subprocess.run(["cmake", "-P", script], capture_output=True, text=True, check=True)
    return done.stderr.rstrip("\n").split(" ")


def configure(folder: Path, compiler: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    """CMake's own messages, on a line each."""
    command = ["cmake", "-S", ROOT, "-B", folder / "build", "-G", "Ninja", "-DFASTOPT_BINDINGS=OFF"]
    done = subprocess.run(
        [*command, *options],
        env=os.environ | {"CUDACXX": str(compiler)},
        capture_output=True,
        text=True,
    )
    done.stderr = " ".join(done.stderr.split())
    return done


@pytest.mark.parametrize("version", VERSIONS)
def test_architectures_follow_the_version(version: str, tmp_path: Path) -> None:
    compiler = stand_in(tmp_path, TOLD.format(version))
    assert ask(tmp_path, compiler) == [version, VERSIONS[version]]


def test_what_is_no_nvcc_has_no_version(tmp_path: Path) -> None:
    assert ask(tmp_path, stand_in(tmp_path, "clang version 19.1.7"))[0] == ""
    assert ask(tmp_path, stand_in(tmp_path, TOLD.format("13.0"), status=1))[0] == ""
    assert ask(tmp_path, tmp_path / "missing")[0] == ""


@needs_nvcc
@pytest.mark.parametrize("version", ["11.8", "12.0", "12.1"])
def test_auto_builds_from_12_1_on(version: str, tmp_path: Path) -> None:
    done = configure(tmp_path, compiler := stand_in(tmp_path, TOLD.format(version)))
    assert done.returncode == 0, done.stderr
    plan = (tmp_path / "build" / "build.ninja").read_text()
    if version == "12.1":
        assert f"fastopt: CUDA library for {AMPERE_AND_HOPPER} (nvcc 12.1)" in done.stdout
        assert all(it in plan for it in ("libfastopt_cuda.so", "compute_80", "sm_80", "sm_90"))
        assert "sm_100" not in plan
    else:
        why = f"{compiler} is of CUDA {version}, older than 12.1"
        assert f"fastopt: no CUDA library (FASTOPT_CUDA=AUTO, and {why})" in done.stdout
        assert "libfastopt_cuda.so" not in plan


@needs_nvcc
def test_on_refuses_what_auto_skips(tmp_path: Path) -> None:
    done = configure(tmp_path, stand_in(tmp_path, TOLD.format("12.0")), "-DFASTOPT_CUDA=ON")
    assert done.returncode != 0
    assert "no CUDA library can be built (FASTOPT_CUDA=ON, and" in done.stderr
    assert "is of CUDA 12.0, older than 12.1)" in done.stderr


def test_auto_skips_an_nvcc_that_does_not_work(tmp_path: Path) -> None:
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    done = configure(tmp_path, broken)
    assert done.returncode == 0, done.stderr
    assert "fastopt: no CUDA library (FASTOPT_CUDA=AUTO, and no nvcc that works)" in done.stdout


@needs_nvcc
def test_the_nvcc_at_hand_builds_by_default_and_for_what_is_asked(tmp_path: Path) -> None:
    assert NVCC is not None
    version, architectures = ask(tmp_path, Path(NVCC))
    done = configure(tmp_path, NVCC)
    assert f"fastopt: CUDA library for {architectures} (nvcc {version})" in done.stdout
    shutil.rmtree(tmp_path / "build")
    done = configure(tmp_path, NVCC, "-DCMAKE_CUDA_ARCHITECTURES=75-real")
    assert done.returncode == 0, done.stderr
    plan = (tmp_path / "build" / "build.ninja").read_text()
    assert "sm_75" in plan
    assert "sm_80" not in plan
