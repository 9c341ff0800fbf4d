"""The results as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastopt.bench.results import Entry, Result, group_by_title, size_unit
from fastopt.bench.timing import Spread

if TYPE_CHECKING:
    from rich.table import Table

COLD_BYTES = 1 << 28  # moved by a step that no cache holds
STYLES = {"limit": "dim", "fastopt": "bold"}  # of the two that are always there

EXPLANATION = """\
time      of one step, median over the rounds
spread    half the distance between the quartiles
limit     a loop that reads and writes the same bytes and adds once in between
of limit  limit's time / time, the median of the ratios within each round
GB/s      every array counted once for each read and once for each write
speed-up  this time / fastopt's time, the median of the ratios within each round
keeps     what autograd keeps for backward, parameters and input aside
state B   bytes that the states take in memory for each element (suite lowbit)"""


def digits(value: float) -> str:
    """Three digits, or more before the point."""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    if seconds >= 1:
        return f"{digits(seconds)} s"
    return f"{digits(1e3 * seconds)} ms" if seconds >= 1e-3 else f"{digits(1e6 * seconds)} µs"


def size(number: int | None) -> str:
    """Bytes, as three digits and a unit; nothing for None."""
    if not number:
        return "" if number is None else "0"
    return f"{digits(number / 1e6)} MB" if number >= 1e6 else f"{digits(number / 1e3)} kB"


def half_spread(spread: Spread) -> str:
    """Half the distance between the quartiles, in percent of the median."""
    half = 50 * spread.relative
    return f"±{half:.{1 if half < 10 else 0}f}%"


def speedup(result: Result, entry: Entry) -> str:
    return "" if entry.name in STYLES else f"{digits(result.speedup(entry).median)}x"


def state_bytes(entry: Entry) -> str:
    return "" if entry.state_bytes is None else f"{entry.state_bytes:.2f}"


def name_and_version(result: Result, entry: Entry) -> str:
    version = (entry.version or "").partition("+")[0]  # without the build
    return f"{result.label(entry)} [dim]{version}[/]" if version else result.label(entry)


def bare_table(title: str, columns: list[tuple[str, int]]) -> Table:
    """A table without a frame; the first column is left-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="italic",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for number, (header, width) in enumerate(columns):
        table.add_column(header, justify="right" if number else "left", min_width=width)
    return table


def make_case_table(result: Result) -> Table:
    """One case: a line for each contender, the fastest first."""
    number = f"{result.tensors:,} tensor{'s' if result.tensors > 1 else ''}"
    keeps = any(entry.kept_bytes is not None for entry in result.entries)
    with_states = any(entry.state_bytes is not None for entry in result.entries)
    memory = [("keeps", 7)] if keeps else [("state B", 7)] if with_states else []
    columns = [("", 25 if memory else 27), ("time", 8), ("spread", 6), ("of limit", 8), ("GB/s", 5)]
    table = bare_table(
        f"{result.title} ({number}, {result.elements:,} elements)",
        [*columns, *memory, ("speed-up", 8)],
    )
    for entry in sorted(result.entries, key=lambda e: e.seconds.median):
        kept = size(entry.kept_bytes) if keeps else state_bytes(entry)
        table.add_row(
            name_and_version(result, entry),
            duration(entry.seconds.median),
            half_spread(entry.seconds),
            digits(result.limit_fraction(entry).median),
            digits(entry.gigabytes_per_second),
            *([kept] if memory else []),
            speedup(result, entry),
            style=STYLES.get(entry.name),
        )
    return table


def make_threads_table(results: Sequence[Result]) -> Table | None:
    """What more threads bring from memory: a line for each case and number of them, with the limit's
    bandwidth and fastopt's; None where there is no such case or one number was measured."""
    table = bare_table(
        "bandwidth from memory by threads",
        [("", 32), ("threads", 7), ("limit GB/s", 10), ("fastopt GB/s", 12), ("of limit", 8)],
    )
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        if result.entries[0].moved_bytes >= COLD_BYTES:
            groups.setdefault((result.suite, result.title, result.elements), []).append(result)
    for members in (group for group in groups.values() if len(group) > 1):
        for result in sorted(members, key=lambda it: it.threads):
            for entry in (entry for entry in result.entries if entry.name == "fastopt"):
                table.add_row(
                    result.label(entry).replace("fastopt", result.title, 1),
                    str(result.threads),
                    digits(result.matching("limit", entry).gigabytes_per_second),
                    digits(entry.gigabytes_per_second),
                    digits(result.limit_fraction(entry).median),
                )
    return table if table.row_count else None


def make_series_table(results: list[Result]) -> Table:
    """Cases that differ only in size: a line for each size, and for each contender its time with the
    fraction of the limit or the speed-up of fastopt."""
    first = results[0]
    unit = size_unit(results)
    columns = [(unit, 11)]
    for entry in first.entries:
        columns.append((name_and_version(first, entry), 8))
        if entry.name != "limit":
            columns.append(("of limit" if entry.name == "fastopt" else "speed-up", 8))
    table = bare_table(first.title, columns)
    for r in results:
        cells = [f"{getattr(r, unit):,}"]
        for entry in r.entries:
            cells.append(duration(entry.seconds.median))
            if entry.name == "fastopt":
                cells.append(digits(r.limit_fraction(entry).median))
            elif entry.name != "limit":
                cells.append(speedup(r, entry))
        table.add_row(*cells)
    return table


def tables(results: list[Result]) -> Iterator[Table]:
    """The tables of one suite at one thread count; cases of one title make a series."""
    for members in group_by_title(results).values():
        yield make_case_table(members[0]) if len(members) == 1 else make_series_table(members)


def gpu_of(machine: dict[str, Any]) -> str:
    """The GPU, where one was measured."""
    gpu = machine.get("gpu")
    return f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}; " if gpu else ""


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    load = " to ".join("unknown" if x is None else f"{x:.1f}" for x in machine["load_average"])
    return (
        f"{gpu_of(machine)}{machine['cpu']}, {machine['cpus']} CPUs; torch {machine['torch']}, "
        f"fastopt {machine['fastopt']}; huge pages: {machine['huge_pages']}; load average: {load}"
    )
