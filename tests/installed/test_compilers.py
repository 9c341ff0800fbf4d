"""The build asks a compiler only for what it knows: stand-ins for two GCCs, and those at hand."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVEL = "--param=max-unswitch-level="  # its name in GCC 12
DEPTH = "--param=max-unswitch-depth="  # and in 14
INSNS = "--param=max-unswitch-insns="

pytestmark = pytest.mark.skipif(
    not shutil.which("cmake") or not shutil.which("ninja") or not (ROOT / "cmake").is_dir(),
    reason="needs cmake, ninja and the sources",
)


def flags(folder: Path, compiler: Path | str) -> dict[str, list[str]]:
    """What each way of scalar's kernels is compiled with, all of which the compiler takes."""
    build = folder / "build"
    options = ["FASTOPT_BINDINGS=OFF", "FASTOPT_CUDA=OFF", "FASTOPT_OPENMP=OFF"]
    options += [f"CMAKE_CXX_COMPILER={compiler}", "CMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *(f"-D{it}" for it in options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    empty = folder / "empty.cpp"
    empty.touch()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        if "-DFASTOPT_TARGET=scalar" in words and entry["file"].endswith("/way.cpp"):
            (way,) = (it.partition("=")[2] for it in words if it.startswith("-DFASTOPT_WAY="))
            found[way] = [it for it in words if it.startswith(("-O", "-f", "-W", "-std", "--param"))]
            subprocess.run([compiler, *found[way], "-fsyntax-only", empty], check=True, timeout=60)
    assert len(found) == 9  # csrc/cpu/kernel.h has the list
    return found


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize(("known", "unknown"), [(LEVEL, DEPTH), (DEPTH, LEVEL)], ids=["level", "depth"])
def test_gcc_moves_branches_out_of_loops_under_either_name(
    known: str, unknown: str, tmp_path: Path
) -> None:
    """A stand-in that knows one name; it leaves out what the GCC at hand may not know."""
    script = tmp_path / "g++"
    script.write_text(
        "#!/bin/bash\nkept=()\n"
        f'for it; do case $it in {unknown}*) exit 1 ;; {known}*) ;; *) kept+=("$it") ;; esac; done\n'
        f'exec {shutil.which("g++")} "${{kept[@]}}"\n'
    )
    script.chmod(0o755)
    found = flags(tmp_path, script)
    moved = {way for way, words in found.items() if any(it.startswith(INSNS) for it in words)}
    assert moved == {"float32", "float64", "coded", "bfloat16_coded"}
    for way, words in found.items():
        asked = [it for it in words if it.startswith((LEVEL, DEPTH))]
        assert asked == ([known + "3"] if way in moved else [])


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_compiler_at_hand_takes_every_flag(compiler: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    moved = [
        any(it.startswith("--param") for it in words) for words in flags(tmp_path, compiler).values()
    ]
    assert sum(moved) == (4 if compiler == "g++" else 0)
