"""The command line of ``python -m fastopt bench``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastopt import _C
from fastopt._arguments import writable
from fastopt.bench import cuda, suites
from fastopt.bench.machine import cpu_count, thread_counts
from fastopt.bench.results import Report
from fastopt.bench.rules import WORKS
from fastopt.bench.suites import Suite
from fastopt.bench.workload import SETTINGS


def suites_of(device: str) -> dict[str, Suite]:
    return cuda.SUITES if device == "cuda" else suites.SUITES


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def earlier_report(text: str) -> Report:
    try:
        return Report.from_json(json.loads(Path(text).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastopt bench",
        description="Measure fastopt beside the memory limit and other packages.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="suites:\n" + "\n".join(f"  {n:8}{s.description}" for n, s in suites.SUITES.items()),
    )
    add = parser.add_argument
    threads = thread_counts(cpu_count())
    targets = [name for name, target in _C.cpu_targets().items() if target["supported"]]
    own = "default: each suite has its own"
    some = f"default: 1, 2, 4, ... and all, here {' '.join(map(str, threads))}"
    kernels = f"CPU targets of fastopt's kernels; default: {_C.cpu_target()}"
    add("suites", nargs="*", metavar="SUITE", help="default: all")
    add("--threads", type=positive, nargs="+", metavar="N", default=threads, help=some)
    add("--target", nargs="+", choices=targets, default=[_C.cpu_target()], help=kernels)
    add("--optimizers", nargs="+", choices=list({**SETTINGS, **WORKS}), help=own)
    add("--rounds", type=positive, metavar="N", help=own)
    add("--quick", action="store_true", help="tensors that fit in caches, few rounds: a trial")
    add("--compile", action="store_true", help="also what needs torch.compile; takes minutes")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add("--json", type=writable, metavar="FILE", help="write everything measured as JSON")
    add("--plot", type=writable, metavar="FILE", help="draw the results, a PNG")
    changes = "show the changes; exit 1 if fastopt has become slower"
    add("--compare", type=earlier_report, metavar="OLD.json", help=changes)
    return parser


def parse_options(argv: list[str]) -> argparse.Namespace:
    """The options; a wrong one ends the program with status 2."""
    parser = make_parser()
    options = parser.parse_args(argv)
    known = suites_of(options.device)
    if unknown := [name for name in options.suites if name not in known]:
        parser.error(f"no suite {unknown[0]!r}; there are {', '.join(known)}")
    options.suites = list(dict.fromkeys(options.suites)) or list(known)
    if options.device == "cuda":
        options.threads, options.target = [1], [cuda.gpu.name]
    options.threads = list(dict.fromkeys(options.threads))
    options.target = list(dict.fromkeys(options.target))
    return options
