"""What is wrong with a rule, and in which line of it."""

from __future__ import annotations

import linecache
import sys
from types import FrameType

MACHINERY = frozenset(
    f"fastopt.rules.{name}"
    for name in (
        "_errors",
        "_functions",
        "_numbers",
        "_optimizer",
        "_program",
        "_rule",
        "_symbols",
        "_trace",
    )
)


class RuleError(TypeError):
    """A function that cannot be a rule; the message names the line."""


def wrong(reason: str) -> RuleError:
    """The error for what the line that is being run has done."""
    return RuleError(f"{line_of_rule()}{reason}")


def line_of_rule() -> str:
    """Where the innermost frame is that is not of this machinery, and what stands there."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_machinery(frame):
        frame = frame.f_back
    if frame is None:
        return ""
    file, number = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, number, frame.f_globals).strip()
    where = f"{file}, line {number}, in {frame.f_code.co_name}"
    return f"{where}: {source}\n  " if source else f"{where}: "


def _is_machinery(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__"))
    return name in MACHINERY or name.split(".")[0] in ("numpy", "torch", "functools", "contextlib")
