"""Random cases from seeds, in a process of their own, which may crash or hang.

A fuzzer is a file of tests that is a program, too:

    export PYTHONPATH=tests
    python tests/kernels/test_fuzz_kernels.py 17        # case 17 alone, and what it does
    python tests/kernels/test_fuzz_kernels.py 0 100000  # that many cases
    FASTOPT_FUZZ_CALLS=100000 python -m pytest tests/kernels/test_fuzz_kernels.py

A case is a seed and a list of parts, each a name with a seed of its own, so that any of them can be
left out: a failure is shown with the parts that it needs, and what they did. What a process was at
when it died stands in a file.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

FOLDER = str(Path(__file__).parent)  # where the fuzzers' helpers lie
CALLS = int(os.environ.get("FASTOPT_FUZZ_CALLS", "1000"))
BLOCK = 5000  # cases that one process tries
SECONDS = 120  # after which a case hangs, even under sanitizers
MOST_FAILURES = 5  # of a block, after which it is given up

Part = tuple[str, int]
Log = Callable[[str], None]


class Fuzzer(NamedTuple):
    draw: Callable[[Random], list[Part]]
    attempt: Callable[[int, list[Part], Log], str]
    """Try a case, telling what is done. Returns a word for what came of it; raises if that is wrong."""


# ---- in the process of the cases ------------------------------------------------------------------


class Notes:
    """What the case at hand has done so far, in a file that outlives the process."""

    def __init__(self, path: str | None) -> None:
        self.file = None if path is None else Path(path).open("w")  # noqa: SIM115  for good
        self.lines: list[str] = []

    def begin(self, seed: int) -> None:
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()
        self.lines = []
        self(str(seed))

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.file is not None:
            print(line, file=self.file, flush=True)


def parts_needed(fuzzer: Fuzzer, seed: int, parts: list[Part], notes: Notes) -> list[Part]:
    """Those without which the case does not fail."""
    for place in reversed(range(len(parts))):
        fewer = parts[:place] + parts[place + 1 :]
        notes.begin(seed)
        try:
            fuzzer.attempt(seed, fewer, notes)
        except Exception:
            parts = fewer
    return parts


def explained(fuzzer: Fuzzer, seed: int, parts: list[Part], notes: Notes) -> str:
    """A failing case, as small as it gets."""
    parts = parts_needed(fuzzer, seed, parts, notes)
    notes.begin(seed)
    try:
        fuzzer.attempt(seed, parts, notes)
        error = "AssertionError: it fails now and then only\n"
    except Exception as failure:
        error = "".join(traceback.format_exception(failure, limit=-2, chain=False))
    return "\n  ".join([f"case {seed}:", *notes.lines[1:], *error.splitlines()])


def main(fuzzer: Fuzzer, arguments: list[str]) -> None:
    """FIRST, [END, [FILE FOR NOTES]]: print failures, then how often each outcome came."""
    first = int(arguments[0])
    end = int(arguments[1]) if len(arguments) > 1 else first + 1
    notes = Notes(arguments[2] if len(arguments) > 2 else None)
    outcomes: Counter[str] = Counter()
    warnings.simplefilter("ignore")
    for seed in range(first, end):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        notes.begin(seed)
        parts = fuzzer.draw(Random(seed))
        try:
            outcomes[fuzzer.attempt(seed, parts, notes)] += 1
        except Exception:
            outcomes["wrong"] += 1
            print(explained(fuzzer, seed, parts, notes), flush=True)
            if outcomes["wrong"] == MOST_FAILURES:
                break
        if end == first + 1:
            print("\n".join(notes.lines))
    faulthandler.cancel_dump_traceback_later()
    print("done", json.dumps(outcomes), flush=True)


# ---- in the process of the tests ------------------------------------------------------------------


def run(file: str, first: int, end: int) -> tuple[Counter[str], str]:
    """How often each outcome came in these cases of a fuzzer, and the failures.

    A process that dies costs the case that it was at; another goes on behind it.
    """
    outcomes: Counter[str] = Counter()
    failures = ""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        while first < end and outcomes["wrong"] < MOST_FAILURES:
            done = subprocess.run(
                [sys.executable, file, str(first), str(end), str(notes)],
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([FOLDER, *sys.path])},
            )
            lines = done.stdout.splitlines()
            if lines and lines[-1].startswith("done"):
                outcomes.update(json.loads(lines.pop().removeprefix("done")))
                return outcomes, failures + "\n".join(lines)
            seed, *program = notes.read_text().splitlines() or [str(first)]
            outcomes["wrong"] += 1 + sum(line.startswith("case ") for line in lines)
            told = "\n  ".join([f"case {seed} ended the process ({done.returncode}):", *program])
            failures += "\n".join([*lines, told, done.stderr[-3000:]])
            first = int(seed) + 1
    return outcomes, failures


def check(file: str, first: int, least: dict[str, float]) -> None:
    """A block of cases has no failure, and of each of these outcomes at least this fraction."""
    end = min(first + BLOCK, CALLS)
    outcomes, failures = run(file, first, end)
    repeat = f"python {Path(file).name} CASE"
    assert not failures, f"{failures}\n{repeat} repeats one; {dict(outcomes)}"
    for outcome, fraction in least.items():
        assert outcomes[outcome] >= fraction * (end - first), f"{outcome}: {dict(outcomes)}"
