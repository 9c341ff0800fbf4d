"""Check every kernel against its NumPy reference, bit for bit.

    python -m fastopt verify [--quick] [--rule NAME ...] [--target NAME ...] [--seed N]
                             [--device cpu|cuda] [--table] [--json FILE]

Every rule, with every combination of its options, in float32 and float64, and in fewer trials in
bfloat16, in float16 and in mixes of these with float32, on every CPU target that this machine
supports: the functions of fastopt.kernels and the optimizers of fastopt.optim take the same steps as
fastopt.reference, on random, extreme, denormal, zero, infinite and NaN numbers, in arrays of every
size around an edge, at odd starts, on several threads. Dropout's mask and every form of it likewise,
in bfloat16 and float16, too, and so are masters, random rounding and 8-bit states of each rule (of
all, --rule packed).
The iterates of L-BFGS likewise (--rule lbfgs), in float32 and float64 on the CPU, and the programs of
rules in Python: those of fastopt.rules.library (--rule programs) and anybody's
(--rule mypackage.mymodule:adopt).
With --device cuda the same trials run on the current CUDA device instead. One wrong bit in any
result, or in memory that is not a result, and the exit status is 1; NaNs only have to be NaN. It is 2
if that cannot be told: the run was interrupted, say, whose results so far are shown and saved.

Shown is a row for each rule and way of storing, over all targets and thread counts; --table and the
JSON have a row for each target. If a bit is wrong, the smallest arrays in which one is come first.

Which rules and options there are stands in cases.py, the numbers that go in in pools.py, what they
are stored in in storage.py, sizes and alignments in memory.py, what a trial does in trial.py
(dropout's in dropout.py, that of masters and codes in packed.py, L-BFGS's in lbfgs.py), where it
runs in device.py, which trials are run in run.py. The column "max ulp" is explained in accuracy.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from typing import Any

from fastopt import _C, _output
from fastopt._arguments import writable

from . import device, programs
from .cases import RULES
from .compare import Report
from .dropout import FORMS
from .lbfgs import OPTIONS
from .run import Plan, supported_targets, verify


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fastopt verify",
        description="Check every kernel against its NumPy reference, bit for bit.",
    )

    def seed(text: str) -> int:
        if (value := int(text)) < 0:
            raise ValueError
        return value

    seed.__name__ = "whole number >= 0"  # argparse's messages name the type

    def rule(text: str) -> str:
        if ":" in text:
            try:
                programs.find(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error
        elif text not in rules:
            raise argparse.ArgumentTypeError(
                f"invalid choice: {text!r} (choose from {', '.join(rules)})"
            )
        return text

    rules = [*(rule.name for rule in RULES), "dropout", "packed", "lbfgs", "programs"]
    targets = list(supported_targets())
    parser.add_argument(
        "--rule",
        nargs="+",
        type=rule,
        default=rules,
        metavar="NAME",
        help=f"only these of {', '.join(rules)}; or a rule in Python, as package.module:name",
    )
    parser.add_argument("--quick", action="store_true", help="fewer trials: seconds, not minutes")
    parser.add_argument(
        "--target",
        nargs="+",
        choices=targets,
        default=targets,
        metavar="NAME",
        help=f"only these of {', '.join(targets)}",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the inputs (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--table", action="store_true", help="show a row for each target, too")
    parser.add_argument("--json", type=writable, metavar="FILE", help="also write it as JSON")
    return parser.parse_args(argv)


def in_python(names: list[str]) -> tuple[Any, ...]:
    """The rules in Python among what the command line names."""
    found = programs.library() if "programs" in names else ()
    return (*found, *(programs.find(name) for name in names if ":" in name))


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if every bit is right, 1 if one is wrong, 2 if it cannot be told."""
    options = parse_options(argv)
    if options.device == "cuda" and (trouble := device.trouble() or _C.cuda_trouble()):
        print(f"verify --device cuda: {trouble}", file=sys.stderr)
        return 2
    if find_spec("rich") is None:
        print('verify needs rich, not installed here: pip install "fastopt[demo]"', file=sys.stderr)
        return 2
    from . import show

    targets = [name for name in supported_targets() if name in options.target]
    there = [rule for rule in RULES if not (rule.norms and options.device == "cuda")]
    rules = tuple(rule for rule in there if rule.name in options.rule)
    plan = Plan(
        rules=rules,
        targets=(device.CUDA,) if options.device == "cuda" else tuple(targets),
        seed=options.seed,
        quick=options.quick,
        dropouts=FORMS if "dropout" in options.rule else (),
        packed_rules=tuple(there) if "packed" in options.rule else rules,
        lbfgs=OPTIONS if "lbfgs" in options.rule and options.device == "cpu" else (),
        programs=in_python(options.rule),
    )
    if not len(plan):
        print("verify: lamb and lbfgs are checked on the CPU only", file=sys.stderr)
        return 2
    report, begin, finished = Report(), time.perf_counter(), False

    def facts() -> dict[str, Any] | None:
        seconds = time.perf_counter() - begin
        return show.as_json(report, plan, seconds, finished) if report.rows else None

    try:
        with _output.saved(options.json, facts) as save, show.progress(len(plan)) as advance:

            def hear(label: str) -> None:
                advance(label)
                save()

            verify(plan, hear, report)
            finished = True
    except KeyboardInterrupt:
        pass
    with _output.printing():
        show.show(report, plan, time.perf_counter() - begin, finished, long=options.table)
    return 1 if report.wrong_bits else 0 if finished else _output.FAILED
