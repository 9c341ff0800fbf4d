"""Measure fastopt beside the memory limit, torch.optim and whatever other package is installed.

    python -m fastopt bench [SUITE ...] [--threads N ...] [--target NAME ...] [--optimizers NAME ...]
                            [--rounds N] [--quick] [--compile] [--device cpu|cuda]
                            [--json FILE] [--plot FILE] [--compare OLD.json]

Contenders take turns in rounds (timing.py), on the same arrays (workload.py). What is measured is
`step()` of the optimizer, hooks and all, as a training loop calls it, on float32; in the suites lowbit
and rules, on what lowbit.py and rules.py list; in the suite lbfgs, an iteration of LBFGS; in the suite
dropout, what dropout.py says. The limit is a loop over the same arrays that reads and writes what the
step must and adds once in between. Beside each time stand the fraction of the limit that it reaches,
the bandwidth (in lowbit, the memory of the states; in dropout, of what backward keeps), and how many
times as fast fastopt is; ratios are taken within a round.
suites.py says which cases are warm or cold; cuda.py, what is measured on a GPU.

The exit status is 0, 1 with --compare if fastopt has become slower than in OLD.json beyond the spread
(compare.py), and 2 if an argument or a package is missing or wrong, or the run is interrupted; what it
has measured by then is shown and saved, and a note says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastopt import _output
from fastopt.bench import compare, cuda, peers, report
from fastopt.bench.options import parse_options, suites_of
from fastopt.bench.results import Report, group_by_suite
from fastopt.bench.run import Run

if TYPE_CHECKING:
    from rich.console import Console


BUSY = 0.5  # processes running before the run; each shares a CPU or the memory with it


def missing_packages(plot: bool) -> list[str]:
    """What the output needs and is not installed."""
    return [name for name in ("rich", *["matplotlib"] * plot) if find_spec(name) is None]


def measure_with_progress(run: Run, save: Callable[[], None]) -> None:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<30}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
    )
    with _output.progress((*columns, TimeElapsedColumn())) as progress:
        task = progress.add_task("", total=run.total_rounds)

        def show(text: str) -> None:
            progress.update(task, description=text)
            save()

        run.show = show
        run.advance = lambda rounds: progress.advance(task, rounds)
        run.measure()


def print_report(measured: Report, console: Console, device: str) -> None:
    suites = suites_of(device)
    console.print(report.machine_line(measured.machine), highlight=False)
    for (suite, threads), results in group_by_suite(measured.results).items():
        number = f"{threads} thread{'s' if threads > 1 else ''}"
        console.rule(f"[bold]{suite}[/]: {suites[suite].description}; {number}", align="left")
        for table in report.tables(results):
            console.print(table)
            console.print()
    if threads_table := report.make_threads_table(measured.results):
        console.print(threads_table)
        console.print()
    console.print(report.EXPLANATION, style="dim", highlight=False)
    if absent := peers.absent():
        console.print(f"not installed: {', '.join(absent)}", style="dim", highlight=False)
    if (load := measured.machine["load_average"][0] or 0) > BUSY:
        busy = f"the machine was busy before the run (load average {load:.1f}): figures are rough"
        console.print(f"{busy}, above all with several threads", style="yellow", highlight=False)
    for note in measured.notes:
        console.print(f"left out: {note}", style="yellow", highlight=False, markup=False)


def print_changes(old: Report, new: Report, console: Console) -> int:
    """The exit status: 1 for a regression, 2 if there is nothing to compare."""
    found = compare.changes(old.results, new.results)
    if not found:
        console.print("the two runs have no case in common", style="bold red")
        return 2
    if old.machine["cpu"] != new.machine["cpu"]:
        console.print(f"another machine then: {old.machine['cpu']}", style="yellow", markup=False)
    slower = sum(change.verdict == "slower" for change in found)
    with _output.printing():
        for table in compare.make_tables(found):
            console.print(table)
            console.print()
        console.print(f"{slower} of {len(found)} figures slower beyond the spread")
    return 1 if slower else 0


def main(argv: list[str] | None = None) -> int:
    """Run the bench; its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse_options(argv)
    if missing := missing_packages(bool(options.plot)):
        print(
            f'the bench needs {", ".join(missing)}, not installed here: pip install "fastopt[demo]"',
            file=sys.stderr,
        )
        return 2
    if options.device == "cuda" and (trouble := cuda.trouble()):
        print(f"bench --device cuda: {trouble}", file=sys.stderr)
        return 2
    run, finished = Run(options, argv), False
    measured = run.report

    def facts() -> dict[str, Any] | None:
        return measured.to_json() if measured.results or finished else None

    try:
        with _output.saved(options.json, facts) as save:
            measure_with_progress(run, save)
            finished = True
    except KeyboardInterrupt:
        pass
    console, status = _output.new_console(), 0 if finished else _output.FAILED
    with _output.printing():
        if measured.results or finished:
            print_report(measured, console, options.device)
    if options.plot and measured.results:
        from fastopt.bench import plot

        plot.save(measured.results, options.plot)
        with _output.printing():
            console.print(f"plot: {options.plot}")
    if not finished:
        print("interrupted", file=sys.stderr)
    elif options.compare:
        status = print_changes(options.compare, measured, console)
    return status
