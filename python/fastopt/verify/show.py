"""What a run shows: the progress bar, the wrong elements, the table, the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich import box
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastopt import _output
from fastopt._info import __version__

from .cases import RULES
from .compare import Report, Row
from .run import Plan


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over `total` cases; the function that it gives is called before each."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with _output.progress(columns) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def advance(label: str) -> None:
            nonlocal begun
            bar.update(task, description=label, completed=begun)
            begun += 1

        yield advance
        bar.update(task, completed=begun, description="done")


def show(report: Report, plan: Plan, seconds: float, finished: bool, *, long: bool = False) -> None:
    """Print wrong elements, the table and the verdict."""
    console = _output.new_console(highlight=False)
    for example in report.examples:
        console.print("[bold red]WRONG[/]", end=" ")
        console.print(describe(example), markup=False, soft_wrap=True)
    console.print(make_long_table(report) if long else make_table(report))
    threads = ", ".join(map(str, plan.threads))
    console.print(
        f"On {', '.join(plan.targets)}; threads: {threads}; seed {plan.seed}. {CAPTION}", style="dim"
    )
    wrong = report.wrong_bits
    verdict = (
        f"[bold red]FAILED[/]: {wrong:,} wrong bits"
        if wrong
        else "every bit equals fastopt.reference's"
    )
    if not finished:
        verdict += "; [bold yellow]INTERRUPTED[/], not all of it was checked"
    console.print(f"{report.elements:,} elements in {seconds:.1f} s: {verdict}")


TITLE = "fastopt against fastopt.reference, bit for bit"
CAPTION = (
    "Options: combinations checked; wrong: bits; ulp: largest error of a float32 step against "
    "float64, on random well-conditioned inputs."
)
NAMES = {rule.name for rule in RULES}  # of which there are ways of storing, named behind a comma


def make_table(report: Report) -> Table:
    """One row for each rule and way of storing."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows.values():
        rule, _, kind = row.rule.partition(", ")
        if rule not in NAMES:
            rule, kind = row.rule, ""
        stored = f"{row.dtype} {kind}".replace(",", "").replace("random rounding", "random").strip()
        groups.setdefault((rule, stored), []).append(row)
    table, rules, last = new_table("rule", "stored in"), [rule for rule, _ in groups], ""
    for (rule, stored), rows in sorted(groups.items(), key=lambda group: rules.index(group[0][0])):
        wrong = {row.target: row.wrong_bits for row in rows if row.wrong_bits}
        errors = [row.max_ulp for row in rows if row.max_ulp is not None]
        table.add_row(
            "" if rule == last else rule,
            stored,
            str(max(row.options for row in rows)),
            f"{sum(row.elements for row in rows) / 1e6:.1f} M",
            *figures(wrong, errors),
        )
        last = rule
    return table


def make_long_table(report: Report) -> Table:
    """One row for each rule, dtype and target."""
    table = new_table("rule", "dtype", "target")
    for row in report.rows.values():
        wrong = {row.target: row.wrong_bits} if row.wrong_bits else {}
        errors = [] if row.max_ulp is None else [row.max_ulp]
        sizes = str(row.options), f"{row.elements:,}"
        table.add_row(row.rule, row.dtype, row.target, *sizes, *figures(wrong, errors))
    return table


def new_table(*names: str) -> Table:
    table = Table(title=TITLE, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for title in names:
        table.add_column(title)
    for title in ("options", "elements", "wrong", "ulp"):
        table.add_column(title, justify="right")
    return table


def figures(wrong: dict[str, int], errors: list[float]) -> tuple[str, str]:
    """The cells that end a row; wrong bits with the targets on which they are."""
    bits = "\n".join(f"[bold red]{bits:,} {target}[/]" for target, bits in wrong.items())
    return bits or "0", f"{max(errors):.1f}" if errors else ""


def describe(example: dict[str, Any]) -> str:
    """One wrong element on one line."""
    facts = {key: value for key, value in example.items() if key not in ("options", "inputs")}
    lines = [" ".join(f"{key}={value}" for key, value in facts.items())]
    lines += [f"options: {example['options']}"]
    if "inputs" in example:
        lines += ["inputs: " + " ".join(f"{key}={v}" for key, v in example["inputs"].items())]
    return "\n      ".join(lines)


def as_json(report: Report, plan: Plan, seconds: float, finished: bool) -> dict[str, Any]:
    """The report for machines."""
    return {
        "fastopt": __version__,
        "device": "cuda" if "cuda" in plan.targets else "cpu",
        "targets": plan.targets,
        "threads": plan.threads,
        "seed": plan.seed,
        "quick": plan.quick,
        "seconds": seconds,
        "elements": report.elements,
        "wrong_bits": report.wrong_bits,
        "finished": finished,
        "passed": finished and report.wrong_bits == 0,
        "rows": [asdict(row) for row in report.rows.values()],
        "wrong": report.examples,
    }
