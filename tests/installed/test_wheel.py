"""The wheel that others install: what it holds and needs, and whose OpenMP runtime its threads are.

Some of it holds of any installation and is tested on this one. The rest builds a wheel as it is
released, with scripts/build_wheel.sh, and installs that where there is no compiler (marked slow).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_threads import FASTOPT_THEN_TORCH, ONE_POOL, TORCH_THEN_FASTOPT, WORK

from fastopt import _C

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests/docs/surface/whole_surface.py"
GLOBAL_DEPS = Path(torch.__file__).parent / "lib/libtorch_global_deps.so"
OPENMP = re.compile(r"lib(gomp|iomp|omp)")

# What every Linux with torch has: the C and C++ runtimes, and torch's OpenMP runtime.
SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|libgcc_s|libstdc\+\+|libgomp|ld-linux.*)\.so\.\d")

Run = Callable[
    ..., subprocess.CompletedProcess[str]
]  # arguments of Python, settings of its environment

needs_readelf = pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf, of binutils")
needs_linker = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None,
    reason="reads the messages of glibc's dynamic linker",
)
needs_sources = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the repository")


def dynamic_section(file: Path) -> list[tuple[str, str]]:
    """(tag, value) of the entries that name a library or a folder."""
    listed = subprocess.run(
        ["readelf", "--dynamic", "--wide", file], check=True, capture_output=True, text=True
    )
    return re.findall(r"\((\w+)\).*\[(.*)\]", listed.stdout)


def needed(file: Path) -> set[str]:
    return {value for tag, value in dynamic_section(file) if tag == "NEEDED"}


# ---- what the extension needs ---------------------------------------------------------------------


def assert_needs_only_the_system(extension: Path) -> None:
    """No library of torch's, whose ABI changes with every release, and no folder of its own."""
    assert [name for name in needed(extension) if not SYSTEM.fullmatch(name)] == []
    assert not {"RPATH", "RUNPATH"} & {tag for tag, _ in dynamic_section(extension)}


@needs_readelf
def test_the_extension_needs_only_the_system() -> None:
    assert_needs_only_the_system(Path(_C.__file__))


@needs_readelf
@pytest.mark.skipif(not GLOBAL_DEPS.is_file(), reason="this torch is built in another way")
def test_the_extension_asks_for_openmp_by_the_name_that_torch_does() -> None:
    """A library that is loaded under the name is the one that the dynamic linker takes."""
    ours, torchs = (
        {n for n in needed(it) if OPENMP.match(n)} for it in (Path(_C.__file__), GLOBAL_DEPS)
    )
    assert ours == torchs


@needs_sources
def test_both_ways_to_repair_a_wheel_are_one() -> None:
    configured = (ROOT / "pyproject.toml").read_text(), (ROOT / "scripts/build_wheel.sh").read_text()
    for text in configured:
        (repair,) = re.findall(r"^\S*(?: = \")?auditwheel repair (--exclude \S+) ", text, re.M)
        assert repair == "--exclude libgomp.so.1"


# ---- whose threads --------------------------------------------------------------------------------

RUNTIMES = """
fastopt_work(), torch_work()
with open("/proc/self/maps") as maps:
    files = {line.split()[-1] for line in maps if "/" in line}
pools = [it["filepath"] for it in threadpoolctl.threadpool_info() if it["user_api"] == "openmp"]
print(json.dumps({"mapped": sorted(files), "pools": pools}))
"""


def run_json(run: Run, *script: str, **env: str) -> dict[str, Any]:
    result = run("-c", "\n".join(script), **env)
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def openmp_runtimes(run: Run, imports: str = "") -> set[str]:
    """The OpenMP runtimes in a process in which torch and fastopt have worked, by their files."""
    facts = run_json(run, imports, WORK, RUNTIMES)
    mapped = {os.path.realpath(file) for file in facts["mapped"] if OPENMP.match(Path(file).name)}
    assert {os.path.realpath(file) for file in facts["pools"]} == mapped, "threadpoolctl finds others"
    return mapped


def searches_for_openmp(run: Run, log: Path) -> list[str]:
    """The OpenMP runtimes that the dynamic linker has looked for among the files, in order."""
    log.mkdir()
    run_json(run, WORK, RUNTIMES, LD_DEBUG="libs", LD_DEBUG_OUTPUT=str(log / "linker"))
    messages = "".join(file.read_text() for file in sorted(log.iterdir()))
    searches = re.findall(r"find library=(\S+)", messages)
    assert searches, "no messages from the dynamic linker"
    return [name for name in searches if OPENMP.match(name)]


def assert_one_pool(run: Run, order: str) -> None:
    """Threads are counted under /proc/self/task: who works second starts none."""
    facts = run_json(run, WORK, order, ONE_POOL)
    start, first, second = facts["counts"]
    assert (first, second) == (start + 2, start + 2)
    assert facts["followed"] == [1, 2, 4, 3]
    assert facts["ours"] == [3]


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="reads /proc")


@needs_proc
def test_one_openmp_runtime_is_loaded(run_python: Run) -> None:
    assert len(openmp_runtimes(run_python)) == 1


@needs_proc
def test_a_second_openmp_runtime_would_be_found(run_python: Run) -> None:
    """scikit-learn's wheel brings one of its own."""
    pytest.importorskip("sklearn.utils._openmp_helpers")
    if not list((Path(torch.__file__).parents[1] / "scikit_learn.libs").glob("libgomp*")):
        pytest.skip("this scikit-learn shares the system's")
    assert len(openmp_runtimes(run_python, "import sklearn.utils._openmp_helpers")) == 2


@needs_linker
@needs_proc
def test_the_linker_looks_for_openmp_once(run_python: Run, tmp_path: Path) -> None:
    """For torch: so no runtime of the system's is needed where torch brings one."""
    assert len(searches_for_openmp(run_python, tmp_path / "log")) == 1


# ---- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources here by scripts/build_wheel.sh."""
    if not (ROOT / "scripts").is_dir() or not (shutil.which("c++") or os.environ.get("CXX")):
        pytest.skip("needs a C++ compiler and the sources")
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [ROOT / "scripts/build_wheel.sh", folder],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def run_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``python *arguments`` in an environment with the wheel, whose PATH has no compiler.

    What the wheel depends on, and pip, come from the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("environment")
    here, there = folder / "venv", Path(torch.__file__).parents[1]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", here], check=True)
    (site,) = here.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{there}\n")
    path = str(here / "bin")
    assert not any(
        shutil.which(name, path=path) for name in ("cc", "c++", "gcc", "g++", "clang", "cmake")
    )

    def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [here / "bin/python", *arguments],
            cwd=folder,
            env={"PATH": path, "HOME": str(folder), **env},
            capture_output=True,
            text=True,
            timeout=900,
        )

    install = ["install", "--no-index", "--no-deps", "--ignore-installed", "--no-build-isolation"]
    installed = run("-m", "pip", *install, wheel)
    assert installed.returncode == 0, installed.stderr
    facts = run_json(run, "import fastopt, json; print(json.dumps({'file': fastopt.__file__}))")
    assert Path(facts["file"]).is_relative_to(site)
    return run


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert re.search(r"-manylinux_2_\d+_(x86_64|aarch64)\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"fastopt", f"fastopt-{version(wheel)}.dist-info"}
    assert {"fastopt/py.typed", "fastopt/_C.pyi"} <= set(names)
    libraries = {Path(name).name.split(".")[0] for name in names if ".so" in name}
    assert libraries - {"libfastopt_cuda"} == {"_C"}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".cpp", ".h", ".txt"))]
    modules = {str(it.relative_to(ROOT / "python")) for it in (ROOT / "python").rglob("*.py")}
    assert modules <= set(names)
    assert wheel.stat().st_size < (2**24 if "libfastopt_cuda" in libraries else 2**22)


def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


@pytest.mark.slow
@needs_readelf
def test_the_wheels_extension_needs_only_the_system(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if "/_C." in name and ".so" in name)
        extension = Path(archive.extract(name, tmp_path))
    assert_needs_only_the_system(extension)
    assert "libgomp.so.1" in needed(extension)


@pytest.mark.slow
def test_the_wheel_verifies(run_wheel: Run) -> None:
    result = run_wheel("-m", "fastopt", "verify", "--quick")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "every bit equals" in result.stdout


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("order", [TORCH_THEN_FASTOPT, FASTOPT_THEN_TORCH], ids=["torch", "fastopt"])
def test_the_wheel_shares_torchs_pool(order: str, run_wheel: Run) -> None:
    assert_one_pool(run_wheel, order)


@pytest.mark.slow
@needs_proc
@needs_linker
def test_the_wheel_brings_no_openmp_runtime(run_wheel: Run, tmp_path: Path) -> None:
    assert len(openmp_runtimes(run_wheel)) == 1
    assert len(searches_for_openmp(run_wheel, tmp_path / "log")) == 1


@pytest.mark.slow
def test_the_wheel_runs_the_example(run_wheel: Run) -> None:
    result = run_wheel(EXAMPLE)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("mypy"), reason="needs mypy, of fastopt[dev]")
def test_the_wheel_is_typed(run_wheel: Run) -> None:
    result = run_wheel("-m", "mypy", "--strict", EXAMPLE)
    assert result.returncode == 0, result.stdout + result.stderr


# ---- the sdist ------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_sources
@pytest.mark.skipif(not find_spec("scikit_build_core"), reason="needs scikit-build-core")
def test_an_sdist_is_made_and_built_without_git(tmp_path: Path) -> None:
    """Of a folder that is no repository, with leftovers of builds in it; for one CPU target."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs the repository")
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    source, tools = tmp_path / "source", tmp_path / "bin"
    for name in (*names, "build/leftover.o", "python/fastopt/_C.leftover.so"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes() if name in names else b"")
    tools.mkdir()
    for tool in ("c++", "g++", "gcc", "cc", "as", "ld", "ar", "ranlib", "cmake", "ninja", "ccache"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{tools}"}
    assert not shutil.which("git", path=env["PATH"])

    make = "from scikit_build_core.build import build_sdist; build_sdist({!r})"
    subprocess.run([sys.executable, "-c", make.format(str(tmp_path))], cwd=source, env=env, check=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    left_out = {name for name in names if name.startswith((".ci/", ".github/", "bench/results/"))}
    assert held - {"PKG-INFO"} == set(names) - left_out

    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist]
    options = ["cmake.define.FASTOPT_CPU_TARGETS=scalar", "cmake.define.FASTOPT_CUDA=OFF"]
    settings = [f"--config-settings={it}" for it in (*options, f"build-dir={tmp_path / 'build'}")]
    subprocess.run([sys.executable, "-m", "pip", *build, *settings], env=env, check=True)
    assert len([*tmp_path.glob("fastopt-*.whl")]) == 1
