"""Train on real data with every optimizer of fastopt, next to torch.optim's of the same name.

    python -m fastopt demo [--epochs N] [--seed N] [--threads N] [--optimizers NAME ...]
                           [--json FILE] [--plot FILE]

A small convolutional network learns the digits (digits.py). For each optimizer, two copies of one
freshly initialised network see the same batches in the same order: one is stepped by fastopt.optim,
the other by torch.optim with the same arguments. They take turns batch by batch, so whatever else the
machine does disturbs both timings alike. Only ``optimizer.step()`` is timed, as training meets it:
with caches full of the backward pass, so slower than step after step would be.

The exit status is 0 when every run reaches MIN_ACCURACY and each pair lies within MAX_GAP, and 2 when
one falls short, the demo is interrupted, or a package of the extra ``fastopt[demo]`` is missing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import fastopt
from fastopt import _output
from fastopt._arguments import writable

from .digits import Digits, build_network, load_digits, make_batches, report_missing_packages

if TYPE_CHECKING:
    from rich.table import Table

MIN_ACCURACY = 97.0  # % of the test set that every run must get right
MAX_GAP = 0.5  # points of accuracy that may lie between fastopt and torch

# The rates fall to 0 along half a cosine: small last steps leave two runs that differ in nothing
# but rounding at the same accuracy.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adagrad": {"lr": 0.03},
    "RMSprop": {"lr": 0.002},
    "Adam": {"lr": 0.004},
    "AdamW": {"lr": 0.004, "weight_decay": 0.3},
}


@dataclass(frozen=True)
class Outcome:
    """The measurements of one finished run."""

    loss: float  # mean over the training set after the last step
    accuracy: float  # % of the test set
    step_us: float  # median time of a step
    curve: list[float]  # mean batch loss of each epoch


class Run:
    """The network of a seed in training, by ``library``'s optimizer ``name``."""

    def __init__(self, library: Any, name: str, seed: int, steps: int) -> None:
        self.network = build_network(seed)
        optimizer = getattr(library, name)
        self.optimizer = optimizer(self.network.parameters(), **OPTIMIZERS[name])
        self.schedule = CosineAnnealingLR(self.optimizer, T_max=steps)
        self.losses: list[float] = []  # of every batch
        self.step_us: list[float] = []  # time of every optimizer.step()

    def train(self, images: Tensor, labels: Tensor) -> None:
        """One step, on one batch."""
        self.optimizer.zero_grad()
        loss = cross_entropy(self.network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        begin = time.perf_counter_ns()
        self.optimizer.step()
        self.step_us.append((time.perf_counter_ns() - begin) / 1000)
        self.schedule.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def outcome(self, data: Digits, epochs: int) -> Outcome:
        """What the training has come to."""
        self.network.eval()
        loss = cross_entropy(self.network(data.train_images), data.train_labels).item()
        right = self.network(data.test_images).argmax(1) == data.test_labels
        curve = torch.tensor(self.losses).reshape(epochs, -1).mean(1).tolist()
        accuracy = 100 * right.double().mean().item()
        return Outcome(loss, accuracy, statistics.median(self.step_us), curve)


@dataclass(frozen=True)
class Comparison:
    """The two runs of one optimizer."""

    name: str
    fastopt: Outcome
    torch: Outcome
    max_param_difference: float

    @property
    def speedup(self) -> float:
        return self.torch.step_us / self.fastopt.step_us

    def shortfalls(self) -> list[str]:
        """What the pair falls short of, one clause each."""
        found = [
            f"{library}'s {self.name}: {run.accuracy:.2f}% accuracy, less than {MIN_ACCURACY:g}%"
            for library, run in (("fastopt", self.fastopt), ("torch", self.torch))
            if run.accuracy < MIN_ACCURACY
        ]
        if (gap := abs(self.fastopt.accuracy - self.torch.accuracy)) > MAX_GAP:
            found.append(f"{self.name}: {gap:.2f} points between the two, more than {MAX_GAP:g}")
        return found


def compare(
    name: str, data: Digits, epochs: int, seed: int, advance: Callable[[], object]
) -> Comparison:
    """Train with both libraries' optimizer ``name``; ``advance`` is called after every batch."""
    batches = make_batches(data, epochs, seed)
    ours, theirs = (Run(of, name, seed, len(batches)) for of in (fastopt.optim, torch.optim))
    for number, rows in enumerate(batches):
        # Each goes first on half of the batches, as the second finds the images in the cache.
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            run.train(data.train_images[rows], data.train_labels[rows])
        advance()
    pairs = zip(ours.network.parameters(), theirs.network.parameters(), strict=True)
    difference = max((p - q).abs().max().item() for p, q in pairs)
    outcomes = [run.outcome(data, epochs) for run in (ours, theirs)]
    return Comparison(name, outcomes[0], outcomes[1], difference)


def compare_all(
    options: argparse.Namespace, data: Digits, found: list[Comparison], save: Callable[[], None]
) -> None:
    """Find one comparison for each optimizer asked for, under a progress bar."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    names, setting = dict.fromkeys(options.optimizers), (data, options.epochs, options.seed)
    text, share = TextColumn("{task.description:<16}"), TextColumn("{task.percentage:3.0f}%")
    with _output.progress((text, BarColumn(), share, TimeElapsedColumn())) as progress:
        task = progress.add_task("", total=len(names) * len(make_batches(*setting)))
        for name in names:
            progress.update(task, description=f"training {name}")
            found.append(compare(name, *setting, partial(progress.advance, task)))
            save()


def make_table(comparisons: list[Comparison], data: Digits) -> Table:
    """The comparisons for people, two lines an optimizer: fastopt's and torch's."""
    from rich.table import Table

    table = Table(
        *("optimizer", "of"),
        title="fastopt and torch.optim on scikit-learn's handwritten digits",
        caption=f"Loss over the {len(data.train_labels)} training images, accuracy on the "
        f"{len(data.test_labels)} test images and the largest difference of a parameter, all after "
        "the last step. A step's time is the median of optimizer.step() alone. torch.optim runs "
        "with its default settings: on the CPU, its default is the for-loop over the parameters.",
    )
    for title in ("final\nloss", "test\naccuracy", "step\nµs", "speed-up", "largest\ndifference"):
        table.add_column(title, justify="right")
    for c in comparisons:
        speedup, difference = f"{c.speedup:.1f}x", f"{c.max_param_difference:.1e}"
        for of, run, *last in (("fastopt", c.fastopt, speedup, difference), ("torch", c.torch)):
            cells = (f"{run.loss:.6f}", f"{run.accuracy:.2f}%", f"{run.step_us:.1f}")
            table.add_row(c.name if last else "", of, *cells, *last, end_section=not last)
    return table


def save_plot(comparisons: list[Comparison], path: Path) -> None:
    """The loss curves: fastopt's broad and solid, torch's dashed on top, so that both are seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user has chosen
    axes = figure.add_subplot()
    dashed: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": "--"}
    for c in comparisons:
        epochs = range(1, len(c.torch.curve) + 1)
        axes.plot(epochs, c.fastopt.curve, linewidth=5, alpha=0.5, label=f"fastopt {c.name}")
        axes.plot(epochs, c.torch.curve, **dashed)
    axes.plot([], [], **dashed, label="torch.optim's")
    axes.set(xlabel="epoch", ylabel="training loss, mean of the batches", yscale="log")
    axes.set_title("Handwritten digits: fastopt (solid) and torch.optim (dashed)")
    axes.legend()
    figure.savefig(path, dpi=130, format="png")


def as_json(
    found: list[Comparison], finished: bool, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The comparisons for machines, if there are some."""
    if not found:
        return None
    shortfalls = [line for c in found for line in c.shortfalls()]
    results = [{**asdict(c), "speedup": c.speedup, "arguments": OPTIMIZERS[c.name]} for c in found]
    setting = {"epochs": options.epochs, "seed": options.seed, "threads": options.threads}
    verdict = {"finished": finished, "passed": finished and not shortfalls, "shortfalls": shortfalls}
    return {"info": fastopt.info(), **setting, **verdict, "results": results}


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options; a wrong one ends the program now, rather than after the training."""
    what = "Train on real digits with every optimizer, beside torch.optim's."
    parser = argparse.ArgumentParser(prog="python -m fastopt demo", description=what)
    add, default, names = parser.add_argument, "default: %(default)s", list(OPTIMIZERS)
    add("--epochs", type=int, default=12, metavar="N", help=default)
    add("--seed", type=int, default=0, metavar="N", help=default)
    add("--threads", type=int, default=1, metavar="N", help=f"{default}, as the network is small")
    add("--optimizers", nargs="+", choices=names, default=names, help="default: all")
    add("--json", type=writable, metavar="FILE", help="write the results as JSON")
    add("--plot", type=writable, metavar="FILE", default="fastopt-demo.png", help=default)
    precision = "instead: AdamW with weights and states in fewer bits; has options of its own"
    add("--precision", action="store_true", help=precision)
    options = parser.parse_args(argv)
    for name, least in (("epochs", 1), ("seed", 0), ("threads", 1)):
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name} {value} is less than {least}")
    return options


def main(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    options = parse_options(argv)
    if report_missing_packages():
        return 2
    data, threads, finished = load_digits(), torch.get_num_threads(), False
    comparisons: list[Comparison] = []
    torch.set_num_threads(options.threads)
    try:
        with _output.saved(options.json, lambda: as_json(comparisons, finished, options)) as save:
            compare_all(options, data, comparisons, save)
            finished = True
    except KeyboardInterrupt:
        pass
    finally:
        torch.set_num_threads(threads)
    return show(comparisons, data, finished, options)


def show(
    comparisons: list[Comparison], data: Digits, finished: bool, options: argparse.Namespace
) -> int:
    """Draw and print what there is; the exit status."""
    shortfalls = [line for c in comparisons for line in c.shortfalls()]
    with _output.printing():
        console = _output.new_console(highlight=False)
        if comparisons:
            console.print(make_table(comparisons, data))
        for line in shortfalls:
            console.print(f"FAILED: {line}", style="bold red")
        if not finished:
            console.print("interrupted: not every optimizer has trained", style="bold yellow")
        elif not shortfalls:
            reached = f"every run reached {MIN_ACCURACY:g}% test accuracy, and fastopt lies within "
            console.print(f"{reached}{MAX_GAP:g} points of torch")
    if comparisons:
        save_plot(comparisons, options.plot)
        with _output.printing():
            console.print(f"loss curves: {options.plot}", markup=False)
    return 0 if finished and not shortfalls else _output.FAILED
