"""What a run shows: the progress bar, the table, the wrong elements, the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastopt._info import __version__

from .compare import Report
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
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def advance(label: str) -> None:
            nonlocal begun
            bar.update(task, description=label, completed=begun)
            begun += 1

        yield advance
        bar.update(task, completed=begun, description="done")


def show(report: Report, plan: Plan, seconds: float) -> None:
    """Print the table, the first wrong elements and the verdict."""
    console = Console()
    console.print(make_table(report, plan))
    for example in report.examples:
        console.print("[bold red]WRONG[/]", end=" ")
        console.print(describe(example), markup=False, highlight=False, soft_wrap=True)
    wrong = report.wrong_bits
    verdict = (
        f"[bold red]FAILED[/]: {wrong:,} wrong bits"
        if wrong
        else "every bit equals fastopt.reference's"
    )
    console.print(f"{report.elements:,} elements in {seconds:.1f} s: {verdict}", highlight=False)


def make_table(report: Report, plan: Plan) -> Table:
    """One row for each rule, dtype and target."""
    table = Table(
        title="fastopt against fastopt.reference, bit for bit",
        caption=(
            f"options: combinations checked; threads: {', '.join(map(str, plan.threads))}; "
            f"seed {plan.seed}; max ulp: largest error of a float32 step against float64, on "
            "random well-conditioned inputs"
        ),
    )
    for title in ("rule", "dtype", "target"):
        table.add_column(title)
    for title in ("options", "elements", "wrong bits", "max ulp"):
        table.add_column(title, justify="right")
    for row in report.rows.values():
        table.add_row(
            row.rule,
            row.dtype,
            row.target,
            str(row.options),
            f"{row.elements:,}",
            f"[bold red]{row.wrong_bits:,}[/]" if row.wrong_bits else "0",
            "" if row.max_ulp is None else f"{row.max_ulp:.1f}",
        )
    return table


def describe(example: dict[str, Any]) -> str:
    """One wrong element on one line."""
    facts = {key: value for key, value in example.items() if key not in ("options", "inputs")}
    lines = [" ".join(f"{key}={value}" for key, value in facts.items())]
    lines += [f"options: {example['options']}"]
    if "inputs" in example:
        lines += ["inputs: " + " ".join(f"{key}={v}" for key, v in example["inputs"].items())]
    return "\n      ".join(lines)


def as_json(report: Report, plan: Plan, seconds: float) -> dict[str, Any]:
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
        "passed": report.wrong_bits == 0,
        "rows": [asdict(row) for row in report.rows.values()],
        "wrong": report.examples,
    }
