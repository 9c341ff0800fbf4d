"""Two runs side by side: what has become slower or faster beyond the spread of both.

fastopt's figures are compared, not the peers'. Two runs rarely find the machine in the same state,
so a figure is first divided, round by round, by a yardstick that fastopt's code cannot move: the
fastest implementation in torch, if the same version was measured in both runs; failing that, the
times themselves are compared. A change counts when it exceeds the quartile distances of both runs,
taken together as the root of the sum of squares, and FLOOR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastopt.bench.results import Entry, Result
from fastopt.bench.timing import Spread, ratio

if TYPE_CHECKING:
    from rich.table import Table

FLOOR = 0.02  # smaller changes come from where the pages happen to lie

Key = tuple[str, str, str, int, int, int, str | None]


@dataclass(frozen=True)
class Change:
    """fastopt's time in one case, then and now."""

    result: Result
    target: str | None
    yardstick: str | None
    old: Spread  # in units of the yardstick's time, or seconds without one
    new: Spread

    @property
    def relative(self) -> float:
        """How much longer it takes now, as a part of the old time."""
        return self.new.median / self.old.median - 1

    @property
    def tolerance(self) -> float:
        return max(FLOOR, math.hypot(self.old.relative, self.new.relative))

    @property
    def verdict(self) -> str:
        if self.relative > self.tolerance:
            return "slower"
        return "faster" if 1 / (1 + self.relative) - 1 > self.tolerance else "same"


def key(result: Result, entry: Entry) -> Key:
    return (
        result.suite,
        result.case,
        result.optimizer,
        result.threads,
        result.tensors,
        result.elements,
        entry.target,
    )


def ours(results: Sequence[Result]) -> dict[Key, tuple[Result, Entry]]:
    return {key(r, e): (r, e) for r in results for e in r.entries if e.name == "fastopt"}


def yardsticks(result: Result) -> dict[tuple[str, str | None], Entry]:
    """torch's implementations, the fastest first."""
    entries = [e for e in result.entries if e.name.startswith("torch ")]
    return {(e.name, e.version): e for e in sorted(entries, key=lambda e: e.seconds.median)}


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """One for each of fastopt's figures that both runs have."""
    before, found = ours(old), []
    for where, (new_result, new_entry) in ours(new).items():
        if where not in before:
            continue
        old_result, old_entry = before[where]
        theirs_now, theirs_then = yardsticks(new_result), yardsticks(old_result)
        shared = next((name for name in theirs_then if name in theirs_now), None)
        if shared:
            then = ratio(old_entry.samples, theirs_then[shared].samples)
            now = ratio(new_entry.samples, theirs_now[shared].samples)
        else:
            then, now = old_entry.seconds, new_entry.seconds
        name = shared[0] if shared else None
        found.append(Change(new_result, new_entry.target, name, then, now))
    return found


def make_table(found: Sequence[Change]) -> Table:
    """The changes for people."""
    from rich.table import Table

    table = Table(title="fastopt's time, then and now", title_justify="left")
    for title in ("suite", "case", "threads", "target", "compared with"):
        table.add_column(title)
    for title in ("then", "now", "change", "tolerance", ""):
        table.add_column(title, justify="right")
    styles = {"slower": "bold red", "faster": "green", "same": None}
    for c in found:
        table.add_row(
            c.result.suite,
            f"{c.result.title}, {c.result.elements:,}",
            str(c.result.threads),
            c.target or "",
            c.yardstick or "(seconds)",
            f"{c.old.median:.4g}",
            f"{c.new.median:.4g}",
            f"{100 * c.relative:+.1f}%",
            f"{100 * c.tolerance:.1f}%",
            c.verdict,
            style=styles[c.verdict],
        )
    return table
