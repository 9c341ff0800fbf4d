"""PyTorch's own optimizer tests, run with fastopt's classes in the place of torch.optim's.

    git clone --depth 1 --branch v2.13.0 https://github.com/pytorch/pytorch  # any version near torch's
    pip install expecttest
    python scripts/torch_tests.py pytorch/test [arguments for pytest]

The tests are read where they are; nothing of them is kept here. Each file runs in a process of its
own, restricted to what concerns our five classes. Tests that torch's own classes fail, too (``--torch``
runs them so) come from the difference between the sources' version and the installed one's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import fastopt

NAMES = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
OURS = {name: getattr(fastopt.optim, name) for name in NAMES}

# What to run of each file, by pytest's -k; test_optim.py imports the tests of the folder optim.
ABOUT_OURS = " or ".join(f"_{name}_" for name in OURS)
FILES = {
    "test_optim.py": f"not TestOptimRenewed or {ABOUT_OURS}",
    "test_torch.py": f"grad_scal and (not autocast or {ABOUT_OURS})",
    "test_autograd.py": "post_accumulate_grad_hook",  # optimizer in backward
    "dynamo/test_optimizers.py": "",
    "distributed/optim/test_apply_optimizer_in_backward.py": "",
}

# What no longer is in the installed torch, though older sources test it.
REMOVED = "verbose_deprecation"

# Tests that ask for what fastopt does otherwise, on purpose.
EXCEPTIONS = {
    "test_grad_scaling_autocast_foreach2_fused_True_SGD_cpu_float32": "fused=True under a GradScaler "
    "unscales within the step's pass and leaves .grad as it was; torch's fused step writes it back",
    "test_optimizing_over_tensor_with_requires_grad": "counts the graphs of a compiled training "
    "function, where fastopt's step is a graph break and no graph",
}


def put_ours_in_torchs_place() -> None:
    """Where tests find the classes: as attributes of torch.optim, before any helper is imported that
    takes one as a default argument, and in torch's table of optimizers."""
    for name, ours in OURS.items():
        setattr(torch.optim, name, ours)
    table = importlib.import_module("torch.testing._internal.common_optimizers")
    swapped = {info.optim_cls for info in table.optim_db} & set(OURS.values())
    if len(swapped) != len(OURS):
        raise RuntimeError("torch's table of optimizers was imported before its classes were swapped")


class Tally:
    """Counts outcomes, with the reasons of what did not pass and the names of what failed."""

    def __init__(self, marks_exceptions: bool) -> None:
        self.marks_exceptions = marks_exceptions
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items if self.marks_exceptions else []:
            if item.name in EXCEPTIONS:
                item.add_marker(pytest.mark.xfail(reason=EXCEPTIONS[item.name], strict=True))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = "exceptions" if hasattr(report, "wasxfail") else report.outcome
        self.outcomes[outcome] += 1
        if outcome == "failed":
            self.failed.append(report.nodeid)
        elif outcome == "exceptions":
            self.reasons[f"{report.nodeid.rpartition('::')[2]}: {report.wasxfail}"] += 1
        elif outcome == "skipped":
            self.reasons[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("tally")
        for reason, count in self.reasons.most_common():
            terminalreporter.line(f"not passed {count:4}  {reason}")
        for test in self.failed:
            terminalreporter.line(f"failed           {test}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        terminalreporter.line(counts or "nothing was run")


def run_one(file: Path, selection: str, ours: bool, rest: list[str]) -> int:
    """The tests of one file, in this process."""
    if ours:
        put_ours_in_torchs_place()
    expression = f"({selection}) and not {REMOVED}" if selection else f"not {REMOVED}"
    os.chdir(file.parent)
    quiet = ["-q", "--tb=short", "--show-capture=no", "--disable-warnings", "-pno:cacheprovider"]
    return int(pytest.main([file.name, *quiet, "-k", expression, *rest], plugins=[Tally(ours)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tests", type=Path, help="the folder test/ of PyTorch's sources")
    parser.add_argument("--file", choices=FILES, action="append", help="only this one; may be repeated")
    parser.add_argument("--torch", action="store_true", help="torch's own classes, for comparison")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    options, rest = parser.parse_known_args()
    if options.here:
        (name,) = options.file
        return run_one(options.tests / name, FILES[name], not options.torch, rest)

    root = options.tests.resolve()
    present = [name for name in options.file or FILES if (root / name).is_file()]
    if not present:
        parser.error(f"{root}: none of {', '.join(FILES)} is there")
    status = 0
    for name in present:
        print(f"\n==== {name}", flush=True)
        command = [sys.executable, __file__, str(root), "--here", "--file", name]
        command += ["--torch"] * options.torch + rest
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        status |= subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
