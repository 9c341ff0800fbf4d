"""Train on real data with every optimizer of fastopt, next to torch.optim's of the same name.

    python -m fastopt demo [--epochs N] [--seed N] [--threads N] [--optimizers NAME ...]
                           [--json FILE] [--plot FILE]

A small convolutional network learns the handwritten digits that scikit-learn ships (1797 images of
8 x 8 pixels, Alpaydin & Kaynak 1998, UCI Machine Learning Repository). For each optimizer two copies
of one freshly initialised network see the same batches in the same order: one is stepped by
fastopt.optim, the other by torch.optim with the same arguments. The two take turns batch by batch,
so that whatever else the machine does disturbs both timings alike; only `optimizer.step()` is timed.

Reported are the loss on the training set and the accuracy on the test set after the last epoch, the
median time of a step, and how far apart the two networks have ended. The exit status is 0 when every
run reaches MIN_ACCURACY and each pair lies within MAX_GAP, 1 when one falls short, and 2 when the
packages of the extra `fastopt[demo]` are missing.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

import fastopt.optim

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MIN_ACCURACY = 97.0  # % of the test set that every run must get right
MAX_GAP = 0.5  # points of accuracy that may lie between fastopt and torch
BATCH_SIZE = 64
TEST_SHARE = 1 / 3

# Rates at the start; each falls to 0 along half a cosine, so the last steps are small and two runs
# that differ only in rounding end at the same accuracy.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adagrad": {"lr": 0.02},
    "RMSprop": {"lr": 0.002},
    "Adam": {"lr": 0.004},
    "AdamW": {"lr": 0.004, "weight_decay": 0.01},
}


class Digits(NamedTuple):
    """The data: images float32 [n, 1, 8, 8] in [0, 1], labels int64 [n]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The digits, split once and for all: the same stratified third is the test set for any seed."""
    # scikit-learn carries no type annotations; import_module keeps the type checker out of it.
    datasets: Any = importlib.import_module("sklearn.datasets")
    model_selection: Any = importlib.import_module("sklearn.model_selection")
    images, labels = datasets.load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images, labels, test_size=TEST_SHARE, stratify=labels, random_state=0
    )

    def pixels(rows: Any) -> Tensor:
        return torch.tensor(rows, dtype=torch.float32).div_(16).reshape(-1, 1, 8, 8)

    return Digits(
        pixels(train_x),
        torch.tensor(train_y, dtype=torch.int64),
        pixels(test_x),
        torch.tensor(test_y, dtype=torch.int64),
    )


def build_network(seed: int) -> nn.Sequential:
    """The network, initialised from `seed`; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


@dataclass
class Run:
    """One network on its way through training, stepped by one optimizer."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: CosineAnnealingLR
    losses: list[float] = field(default_factory=list)  # of every batch
    step_us: list[float] = field(default_factory=list)  # time of every optimizer.step()

    @classmethod
    def start(cls, library: Any, name: str, network: nn.Module, steps: int) -> Run:
        """A run of `steps` steps with the optimizer `name` of fastopt.optim or torch.optim."""
        network = copy.deepcopy(network)
        optimizer = getattr(library, name)(network.parameters(), **OPTIMIZERS[name])
        return cls(network, optimizer, CosineAnnealingLR(optimizer, T_max=steps))

    def train(self, images: Tensor, labels: Tensor) -> None:
        """One step on one batch."""
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        begin = time.perf_counter_ns()
        self.optimizer.step()
        self.step_us.append((time.perf_counter_ns() - begin) / 1000)
        self.schedule.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def outcome(self, data: Digits, epochs: int) -> Outcome:
        """What the run has come to."""
        loss = functional.cross_entropy(self.network(data.train_images), data.train_labels)
        hits = (self.network(data.test_images).argmax(1) == data.test_labels).sum()
        batches = len(self.losses) // epochs
        return Outcome(
            loss=loss.item(),
            accuracy=100 * hits.item() / len(data.test_labels),
            step_us=statistics.median(self.step_us),
            curve=[
                statistics.fmean(self.losses[i : i + batches])
                for i in range(0, len(self.losses), batches)
            ],
        )


@dataclass(frozen=True)
class Outcome:
    """The measurements of one finished run."""

    loss: float  # mean over the training set after the last step
    accuracy: float  # % of the test set
    step_us: float  # median time of a step
    curve: list[float]  # mean batch loss of each epoch


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
        """What the pair falls short of, one sentence each."""
        found = [
            f"{library}'s {self.name} reached {run.accuracy:.2f}% test accuracy, "
            f"below {MIN_ACCURACY:g}%"
            for library, run in (("fastopt", self.fastopt), ("torch", self.torch))
            if run.accuracy < MIN_ACCURACY
        ]
        gap = abs(self.fastopt.accuracy - self.torch.accuracy)
        if gap > MAX_GAP + 1e-9:
            found.append(
                f"{self.name}: {gap:.2f} points lie between fastopt and torch, more than {MAX_GAP:g}"
            )
        return found


def batches(data: Digits, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all epochs, each epoch in an order of its own."""
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_labels), generator=order).split(BATCH_SIZE):
            yield data.train_images[rows], data.train_labels[rows]


def compare(
    name: str, data: Digits, epochs: int, seed: int, advance: Callable[[], object]
) -> Comparison:
    """Train with both libraries' optimizer `name`; `advance` is called after every batch."""
    network = build_network(seed)
    steps = epochs * math.ceil(len(data.train_labels) / BATCH_SIZE)
    ours = Run.start(fastopt.optim, name, network, steps)
    theirs = Run.start(torch.optim, name, network, steps)
    for number, (images, labels) in enumerate(batches(data, epochs, seed)):
        # Each goes first half of the time: the second finds the batch in the cache.
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            run.train(images, labels)
        advance()
    pairs = zip(ours.network.parameters(), theirs.network.parameters(), strict=True)
    difference = max((p - q).abs().max().item() for p, q in pairs)
    return Comparison(name, ours.outcome(data, epochs), theirs.outcome(data, epochs), difference)


def train_all(
    names: list[str], data: Digits, epochs: int, seed: int, console: Console
) -> list[Comparison]:
    """One comparison for each optimizer, under a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    steps = epochs * math.ceil(len(data.train_labels) / BATCH_SIZE)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=steps * len(names))
        comparisons = []
        for name in names:
            progress.update(task, description=f"training, {name}")
            comparisons.append(compare(name, data, epochs, seed, lambda: progress.advance(task)))
    return comparisons


def make_table(comparisons: list[Comparison], data: Digits) -> Table:
    """The comparisons as a table for people."""
    from rich.table import Table

    table = Table(
        title="fastopt and torch.optim on scikit-learn's handwritten digits",
        caption=(
            f"{len(data.train_labels)} training and {len(data.test_labels)} test images; loss is "
            "the training set's after the last epoch; a step is the median of optimizer.step() "
            "alone. torch runs with its default settings; its default on the CPU is the for-loop "
            "over parameters."
        ),
    )
    table.add_column("optimizer")
    for title in ("loss", "accuracy %", "step µs"):
        for library in ("fastopt", "torch"):
            table.add_column(f"{title}\n{library}", justify="right")
    table.add_column("speed-up", justify="right")
    table.add_column("largest param\ndifference", justify="right")
    for c in comparisons:
        sides = (c.fastopt, c.torch)
        table.add_row(
            c.name,
            *(f"{side.loss:.2e}" for side in sides),
            *(f"{side.accuracy:.2f}" for side in sides),
            *(f"{side.step_us:.1f}" for side in sides),
            f"{c.speedup:.1f}x",
            f"{c.max_param_difference:.1e}",
        )
    return table


def save_plot(comparisons: list[Comparison], path: Path) -> None:
    """The loss curves: fastopt broad and solid, torch dashed on top, so that both can be seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user has chosen
    axes = figure.add_subplot()
    for number, c in enumerate(comparisons):
        epochs = range(1, len(c.fastopt.curve) + 1)
        axes.plot(epochs, c.fastopt.curve, color=f"C{number}", linewidth=4, alpha=0.5, label=c.name)
        axes.plot(epochs, c.torch.curve, color="black", linewidth=1, linestyle="--")
    axes.plot([], [], color="black", linewidth=1, linestyle="--", label="torch.optim")
    axes.set(
        xlabel="epoch",
        ylabel="training loss (mean of the epoch's batches)",
        yscale="log",
        title="Handwritten digits: fastopt (solid) and torch.optim (dashed)",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150, format="png")


def save_json(
    comparisons: list[Comparison], shortfalls: list[str], options: argparse.Namespace
) -> None:
    """The comparisons for machines."""
    report = {
        "fastopt": fastopt.__version__,
        "torch": torch.__version__,
        "epochs": options.epochs,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "optimizers": [
            {**asdict(c), "arguments": OPTIMIZERS[c.name], "speedup": c.speedup} for c in comparisons
        ],
        "shortfalls": shortfalls,
        "passed": not shortfalls,
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fastopt demo",
        description="Train on scikit-learn's handwritten digits with fastopt and with torch.optim.",
    )

    def positive(text: str) -> int:
        if (value := int(text)) < 1:
            raise ValueError
        return value

    def writable(text: str) -> Path:
        # Found out now rather than after the training.
        if not (path := Path(text)).parent.is_dir() or path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is not a file in an existing folder")
        return path

    positive.__name__ = "positive integer"  # argparse's messages name the type
    parser.add_argument("--epochs", type=positive, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, help="default: torch.get_num_threads()")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--json", type=writable, metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--plot",
        type=writable,
        metavar="FILE",
        default="fastopt-demo.png",
        help="where the loss curves go, a PNG (default: %(default)s)",
    )
    return parser.parse_args(argv)


def missing_packages() -> list[str]:
    """The packages of the extra `demo` that are not installed."""
    needed = {"rich": "rich", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
    return [package for module, package in needed.items() if find_spec(module) is None]


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    if missing := missing_packages():
        print(
            f'the demo needs {", ".join(missing)}, not installed here: pip install "fastopt[demo]"',
            file=sys.stderr,
        )
        return 2
    from rich.console import Console

    console = Console()
    threads_before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        data = load_digits()
        comparisons = train_all(options.optimizers, data, options.epochs, options.seed, console)
        shortfalls = [line for c in comparisons for line in c.shortfalls()]
        console.print(make_table(comparisons, data))
        save_plot(comparisons, options.plot)
        console.print(f"loss curves: {options.plot}")
        if options.json:
            save_json(comparisons, shortfalls, options)
    finally:
        torch.set_num_threads(threads_before)
    for line in shortfalls:
        console.print(f"[bold red]FAILED[/] {line}")
    if not shortfalls:
        console.print(
            f"every run reached {MIN_ACCURACY:g}% test accuracy, and fastopt lies within "
            f"{MAX_GAP:g} points of torch"
        )
    return 1 if shortfalls else 0


if __name__ == "__main__":
    sys.exit(main())
