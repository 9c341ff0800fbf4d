"""The worked example of docs/adding_an_optimizer.md is built as the page says, and gives equal bits.

For scalar and one vector unit, beside few other rules, since all of them for all targets are minutes of
the compiler's work; for the targets that FASTOPT_CPU_TARGETS names, if it is set (scripts/scheduled.sh:
for all).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHECK = """
import sys

# An editable install of fastopt would win over PYTHONPATH.
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]

import numpy as np
import torch

import fastopt
from fastopt import _C
from fastopt.optim.signsgd import SignSGD
from fastopt.reference.signsgd import signsgd

assert "worked_example" in _C.__file__, _C.__file__
rng = np.random.default_rng(0)
options = {"lr": 0.1, "weight_decay": 0.01}
targets = [name for name, target in _C.cpu_targets().items() if target["supported"]]
for dtype in (np.float32, np.float64):
    param, grad = rng.standard_normal((2, 1003)).astype(dtype)
    grad[:4] = [0.0, -0.0, np.inf, np.nan]
    (expected,) = signsgd(param, grad, **options)
    for target in targets:
        _C.set_cpu_target(target)
        got = param.copy()
        _C.apply("signsgd", [[got], [grad]], [1], options, False, 2)
        np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))
        tensor = torch.nn.Parameter(torch.from_numpy(param.copy()))
        tensor.grad = torch.from_numpy(grad)
        SignSGD([tensor], **options).step()
        np.testing.assert_array_equal(tensor.detach().numpy().view(np.uint8), expected.view(np.uint8))
print("equal on", *targets)
"""


def run(*command: str, **keywords: object) -> str:
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=900, **keywords)  # type: ignore[call-overload]
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}\n{outcome.stderr}"
    return str(outcome.stdout)


@pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file() or shutil.which("c++") is None,
    reason="needs fastopt's source tree and a C++ compiler",
)
def test_the_worked_example_builds_and_equals_its_reference(tmp_path: Path) -> None:
    tree = tmp_path / "worked_example"
    for name in ("csrc", "cmake", "python", "CMakeLists.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        tree.mkdir(exist_ok=True)
        copy(ROOT / name, tree / name)

    page = (ROOT / "docs" / "adding_an_optimizer.md").read_text()
    blocks = re.findall(r"```\w+\n(?:#|//) file: (\S+)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for name, text in blocks:
        (tree / name).write_text(text)
    rules = tree / "csrc" / "rules" / "list.h"
    few = r"\1 X(SGD) X(Ema) X(Limit) X(SignSGD)\n\n"
    text, lists = re.subn(
        r"(#define FASTOPT_RULES\(X\)).*?\n\n", few, rules.read_text(), flags=re.DOTALL
    )
    assert lists == 1
    rules.write_text(
        text.replace('#include "rules/sgd.h"', '#include "rules/sgd.h"\n#include "rules/signsgd.h"')
    )

    cmake_dir = run(sys.executable, "-m", "pybind11", "--cmakedir").strip()
    build = str(tree / "build")
    run(
        *("cmake", "-S", str(tree), "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug"),
        *("-DFASTOPT_CUDA=OFF", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"),
        f"-DFASTOPT_CPU_TARGETS={os.environ.get('FASTOPT_CPU_TARGETS', 'avx2;neon')}",
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={cmake_dir}"),
    )
    run("cmake", "--build", build)
    for library in Path(build).glob("_C.*.so"):
        shutil.copy(library, tree / "python" / "fastopt")
    environment = {"PYTHONPATH": str(tree / "python"), "PATH": "/usr/bin:/bin"}
    assert "equal on" in run(sys.executable, "-c", CHECK, env=environment)
