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
FOLDERS = ("csrc", "python", "tests", "docs", "examples", "cmake")  # not what audits the whole field
SUFFIXES = {".h", ".cpp", ".cu", ".py", ".pyi", ".md", ".txt", ".sh", ".cmake"}

CHECK = """
import sys

# An editable install of fastopt would win over PYTHONPATH.
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]

import numpy as np
import torch

import fastopt
from fastopt import _C, reference
from fastopt.optim.signsgd import SignSGD
from fastopt.reference.signsgd import signsgd
from fastopt.reference.storage import split_float32

assert "worked_example" in _C.__file__, _C.__file__
rng = np.random.default_rng(0)
options = {"lr": 0.1, "weight_decay": 0.01}
around = {"max_grad_norm": 1.0, "ema_decay": 0.5, "state_dtype": torch.bfloat16}
targets = [name for name, target in _C.cpu_targets().items() if target["supported"]]
assert list(_C.rule("signsgd")["options"]) == ["lr", "weight_decay", "maximize"]


def check(got, expected):
    np.testing.assert_array_equal(got.view(np.uint8), np.asarray(expected).view(np.uint8))


for dtype in (np.float32, np.float64):
    param, grad = rng.standard_normal((2, 1003)).astype(dtype)
    norm = reference.grad_norm([grad])
    factor = dtype(reference.clip_factor(norm, 1.0))
    (clipped,) = signsgd(param, factor * grad, **options)
    special = grad.copy()
    special[:4] = [0.0, -0.0, np.inf, np.nan]
    (expected,) = signsgd(param, special, **options)
    for target in targets:
        _C.set_cpu_target(target)
        got = param.copy()
        _C.apply("signsgd", [[got], [special]], [1], options, False, 2)
        check(got, expected)
        tensor = torch.nn.Parameter(torch.from_numpy(param.copy()))
        tensor.grad = torch.from_numpy(special)
        SignSGD([tensor], **options).step()
        check(tensor.detach().numpy(), expected)
        tensor = torch.nn.Parameter(torch.from_numpy(param.copy()))
        tensor.grad = torch.from_numpy(grad)
        optimizer = SignSGD([tensor], **options, **around)
        optimizer.step()
        check(tensor.detach().numpy(), clipped)
        check(optimizer.state[tensor]["ema"].numpy(), reference.ema(param, clipped, decay=0.5))
        assert optimizer.grad_norm == norm
        if dtype == np.float32:  # the halves of a master
            tensor = torch.nn.Parameter(torch.from_numpy(param).bfloat16())
            tensor.grad = torch.from_numpy(grad).bfloat16()
            start, wide = (it.float().detach().numpy() for it in (tensor, tensor.grad))
            (result,) = signsgd(start, wide, **options)
            optimizer = SignSGD([tensor], master_weights=True, **options)
            optimizer.step()
            high, low = split_float32(result)
            check(tensor.detach().view(torch.uint16).numpy(), high)
            check(optimizer.state[tensor]["param_low"].numpy(), low)
wrong = {"lr": -1.0, "weight_decay": float("nan"), "max_grad_norm": -1.0, "state_dtype": 8}
for name, value in wrong.items():
    try:
        SignSGD([torch.nn.Parameter(torch.ones(3))], **{name: value})
    except ValueError as error:
        assert "Invalid" in str(error)
    else:
        raise AssertionError(name)
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
@pytest.mark.slow
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


def test_the_page_counts_the_files_of_a_rule() -> None:
    """Every file that names the rule which the page takes for its count, and no other."""
    page = (ROOT / "docs" / "adding_an_optimizer.md").read_text()
    found = re.search(r"\*\*(\w+)\*\* stands in (\d+) files.*?:\n(.*?)\n\n[^|]", page, re.DOTALL)
    assert found is not None
    name, count, table = found.groups()
    listed = {path: int(lines or 0) for path, lines in re.findall(r"\| `([^`]+)` \| (\d*)", table)}
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    sources = [it for it in sources if it.name != "audit.md"]  # which tells of all packages
    sources += ROOT.glob("*.md")
    naming = {
        str(path.relative_to(ROOT))
        for path in sources
        if path.suffix in SUFFIXES and name.lower() in path.read_text().lower()
    }
    assert naming == listed.keys()
    assert len(listed) == int(count) <= 14
    for path in listed:
        if Path(path).stem == name.lower():
            assert len((ROOT / path).read_text().splitlines()) == listed[path], path
