"""What an audit shows: the progress bar, the table, the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastopt import _output
from fastopt._info import __version__

from .run import Answer, Report, iterate
from .subject import Subject, nameof

MARKS = {"passed": "[green]passed[/]", "failed": "[bold red]FAILED[/]", "n/a": "[dim]n/a[/]"}


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over `total` questions; the function that it gives is called before each."""
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=24),
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


def show(title: str, report: Report, subject: Subject, seconds: float, finished: bool) -> None:
    """Print the table and the verdict."""
    console = _output.new_console(highlight=False)
    console.print(escape(title), style="bold")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    family = ""
    for name, status, answers in iterate(report):
        if answers[0].family != family:
            family = answers[0].family
            table.add_row(f"[bold cyan]{family}[/]", "", "")
        table.add_row(f" {name}", MARKS[status], escape(told(status, answers)))
    console.print(table)
    counts = {it: sum(1 for _, status, _ in iterate(report) if status == it) for it in MARKS}
    dtypes = ", ".join(nameof(it) for it in subject.dtypes)
    for dtype, why in subject.refused.items():
        console.print(f"Not in {nameof(dtype)}: {why}", style="dim", markup=False)
    console.print(f"In {dtypes} on {subject.device}; {seconds:.0f} s.", style="dim")
    verdict = "[bold red]FAILED[/]" if counts["failed"] else "passed"
    verdict = verdict if finished or counts["failed"] else "[bold]INTERRUPTED[/]"
    console.print(
        f"{verdict}: {counts['failed']} failed, {counts['passed']} passed, {counts['n/a']} n/a"
    )


def told(status: str, answers: list[Answer]) -> str:
    """What a check found, over its dtypes: the failures, else what was measured, else the reason."""
    found: dict[str, list[str]] = {}
    for it in answers:
        if it.status == status and it.detail:
            found.setdefault(it.detail, []).append(it.dtype)
    lines = []
    for detail, dtypes in found.items():
        # Where a check says the same of every dtype, or does not depend on it, none is named.
        every = len(dtypes) == len(answers)
        lines.append(detail if every else f"{', '.join(dtypes)}: {detail}")
    return "\n".join(lines)


def as_json(
    title: str, report: Report, subject: Subject, seconds: float, finished: bool
) -> dict[str, Any]:
    """The report for machines."""
    return {
        "fastopt": __version__,
        "torch": torch.__version__,
        "optimizer": title,
        "device": subject.device,
        "dtypes": [nameof(it) for it in subject.dtypes],
        "refused": {nameof(it): why for it, why in subject.refused.items()},
        "quick": subject.quick,
        "seconds": round(seconds, 1),
        "finished": finished,
        "passed": finished and report.passed,
        "failed": report.failed,
        "answers": [asdict(it) for it in report.answers],
    }
