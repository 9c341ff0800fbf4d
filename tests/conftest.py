"""What every test may use: CPU targets, CUDA's kernels without a GPU, threads, other processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

# Threads that wait sleep, since pytest's workers share the processors: those that spin take the time
# of the ones that work. The OpenMP runtime reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from _optimizers import RECORDS
from _ranks import Job
from _walk import Walk
from fastopt import _C

# A step's time depends on what else the machine does, so no test has a deadline. The fixtures of
# this file hold for all examples of a test alike. In CI every run tries the same examples.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
PROFILE = "ci" if os.environ.get("CI") else "default"
settings.load_profile(PROFILE)


def pytest_collectstart() -> None:
    """Before a module is imported: torch's own testing module, which some import, loads another."""
    settings.load_profile(PROFILE)


def pytest_collection_finish() -> None:
    settings.load_profile(PROFILE)


TARGETS = [name for name, about in _C.cpu_targets().items() if about["supported"]]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each CPU target that this machine supports, in use for the length of the test."""
    before = _C.cpu_target()
    _C.set_cpu_target(request.param)
    yield request.param
    _C.set_cpu_target(before)


@pytest.fixture(scope="session")
def walk() -> Walk:
    return Walk()


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def cuda_walk(walk: Walk) -> Iterator[Walk]:
    """CUDA's kernels on CPU tensors, for the length of the test."""
    with walk.in_use():
        yield walk


# Rules with norms, of which devices take not every storage (test_lamb.py): class and function.
CPU_ONLY = [name for it in RECORDS.values() if it.facts.norms for name in (it.name, it.function)]


def takes(backend: str, name: str) -> bool:
    """Whether a backend has kernels for a rule or optimizer."""
    return backend != "cuda walk" or name not in CPU_ONLY


@pytest.fixture(params=[*TARGETS, "cuda walk"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each CPU target that this machine supports, and the walk through CUDA's kernels."""
    if request.param == "cuda walk":
        tried = getattr(request.node, "callspec", None)
        if tried and not takes(request.param, tried.params.get("name")):
            pytest.skip("devices take not every storage of a rule with norms")
        request.getfixturevalue("cuda_walk")
        yield request.param
    else:
        before = _C.cpu_target()
        _C.set_cpu_target(request.param)
        yield request.param
        _C.set_cpu_target(before)


@pytest.fixture
def restored_layout() -> Iterator[None]:
    """Tensors are read where torch keeps them, once more."""
    yield
    _C.use_tensor_layout(True)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def switching() -> Iterator[Callable[[float], None]]:
    """sys.setswitchinterval, undone after the test."""
    before = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(before)


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """Two processes of one torch.distributed job. They stay, and sleep between tests."""
    with Job(tmp_path_factory.mktemp("job")) as it:
        yield it


RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_python() -> RunPython:
    """Run ``python *arguments`` with no settings of threads or targets but those of ``env``."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        settled = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "FASTOPT_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(settled)}
        return subprocess.run(
            [sys.executable, *arguments],
            env=clean | env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
