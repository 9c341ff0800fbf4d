"""Two runs side by side: what has become slower or faster beyond the spread of both.

fastopt's figures are compared, not the peers'. Two runs rarely find the machine in the same state,
so a figure is first divided, round by round, by a yardstick that fastopt's code cannot move: the
fastest implementation in torch, if the same version was measured in both runs; failing that, the
times themselves are compared. A change counts when it exceeds FLOOR and the quartile distances of
both runs, taken together as the root of the sum of squares, and the quartiles do not overlap. Runs of
few rounds on a busy machine know too little of their spread: compare full ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastopt.bench.report import bare_table
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
        if self.relative > self.tolerance and self.new.low > self.old.high:
            return "slower"
        gain = self.old.median / self.new.median - 1
        return "faster" if gain > self.tolerance and self.new.high < self.old.low else "same"


def key(result: Result, entry: Entry) -> Key:
    return (
        result.suite,
        result.case,
        result.work,
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


def label(change: Change, all_changes: Sequence[Change]) -> str:
    """The case, with its size and target where it takes them to tell it from others."""
    same = [c for c in all_changes if c.result.title == change.result.title]
    text = change.result.title
    if len({c.result.elements for c in same}) > 1:
        text += f", {change.result.elements:,}"
    return text + (f", {change.target}" if len({c.target for c in same}) > 1 else "")


def make_tables(found: Sequence[Change]) -> Iterator[Table]:
    """The changes for people: a table for each suite and thread count."""
    styles = {"slower": "bold red", "faster": "green", "same": None}
    columns = [("", 20), ("", 6), ("over", 11), ("then", 5), ("now", 5), ("change", 6), ("spread", 6)]
    groups: dict[tuple[str, int], list[Change]] = {}
    for change in found:
        groups.setdefault((change.result.suite, change.result.threads), []).append(change)
    for (suite, threads), members in groups.items():
        number = f"{threads} thread{'s' if threads > 1 else ''}"
        table = bare_table(f"fastopt's time then and now: {suite}, {number}", columns)
        for c in members:
            table.add_row(
                label(c, members),
                c.verdict,
                c.yardstick or "(seconds)",
                f"{c.old.median:.3g}",
                f"{c.new.median:.3g}",
                f"{100 * c.relative:+.1f}%",
                f"{100 * c.tolerance:.1f}%",
                style=styles[c.verdict],
            )
        yield table
