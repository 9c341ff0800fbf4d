"""Train with parameters and states stored in fewer bits, and see what that does to the loss.

    python -m fastopt demo --precision [--seeds N] [--threads N] [--quick] [--json FILE] [--plot FILE]

Two networks learn with fastopt's AdamW: the demo's convolutional network the handwritten digits, and
a small character-level GPT (gpt.py) the reference texts that come with Python. Each trains once
for every entry of STORAGES and every seed; a seed fixes initial weights and batches for all entries
alike, and the draws of random rounding.

The networks compute in float32 whatever the weights are stored in, so that the runs differ in storage
and rounding alone: bfloat16 weights are widened for the forward pass, and their gradients come back
rounded to bfloat16. Rates rise over the first steps and then fall to 0 along half a cosine. Late
steps thus fall below half a unit in the last place of a bfloat16 weight, where plain rounding loses
them.

The exit status is 0, and 2 when a package of the extra ``fastopt[demo]`` is missing.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import fastopt
from fastopt import _output
from fastopt._arguments import writable
from fastopt.bench.lowbit import total_state_bytes

from . import gpt
from .digits import build_network, load_digits, make_batches, report_missing_packages

if TYPE_CHECKING:
    from rich.table import Table

BASELINE = "float32"

# What the weights are stored in, and the optimizer's options.
STORAGES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    BASELINE: (torch.float32, {}),
    "bf16, nearest": (torch.bfloat16, {}),
    "bf16, stochastic": (torch.bfloat16, {"stochastic_rounding": True}),
    "bf16, master weights": (torch.bfloat16, {"master_weights": True}),
    "float32, bf16 state": (torch.float32, {"state_dtype": torch.bfloat16}),
    "float32, int8 state": (torch.float32, {"state_dtype": "int8"}),
}

POINTS = 40  # of a loss curve
WARM_UP = 20  # steps over which the rate rises


@dataclass(frozen=True)
class Task:
    """Something to learn."""

    name: str
    build: Callable[[int], nn.Module]  # from the seed
    batches: Callable[[int], list[gpt.Batch]]  # one for each step
    train: list[gpt.Batch]  # over which the final losses are taken
    test: list[gpt.Batch]
    options: dict[str, Any]  # of AdamW


def digits_task(quick: bool) -> Task:
    data, epochs = load_digits(), 1 if quick else 15

    def batches(seed: int) -> list[gpt.Batch]:
        rows = make_batches(data, epochs, seed)
        return [(data.train_images[r], data.train_labels[r]) for r in rows]

    return Task(
        "digits",
        build_network,
        batches,
        [(data.train_images, data.train_labels)],
        [(data.test_images, data.test_labels)],
        {"lr": 1e-3, "weight_decay": 0.1},
    )


def gpt_task(quick: bool) -> Task:
    learned, unseen, characters = gpt.load_text()
    steps, measured = (4, 1) if quick else (600, 32)
    return Task(
        "character GPT",
        lambda seed: gpt.build_network(characters, seed),
        lambda seed: gpt.draw_batches(learned, seed, steps),
        gpt.draw_batches(learned, 1_000_000, measured),
        gpt.draw_batches(unseen, 1_000_001, measured),
        {"lr": 1e-3, "weight_decay": 0.1},
    )


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    task: str
    storage: str
    seed: int
    train_loss: float  # after the last step
    test_loss: float
    test_accuracy: float  # % of the images or of the next characters
    weight_bytes: float  # for each weight
    state_bytes: float
    curve: list[float]  # loss of the batches, the means over POINTS equal parts of the training


class Stored:
    """A network whose weights are stored in ``dtype``, computing in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.network = network
        self.weights = {
            name: nn.Parameter(weight.detach().to(dtype)) for name, weight in network.named_parameters()
        }

    def __call__(self, inputs: Tensor) -> Tensor:
        weights = {name: weight.float() for name, weight in self.weights.items()}
        found: Tensor = functional_call(self.network, weights, (inputs,))
        return found

    @torch.no_grad()
    def evaluate(self, batches: Sequence[gpt.Batch]) -> tuple[float, float]:
        """Mean loss, and how many percent of the answers are right."""
        self.network.eval()
        losses, right = [], []
        for inputs, answers in batches:
            logits = self(inputs)
            losses.append(loss_of(logits, answers).item())
            right.append((logits.argmax(-1) == answers).double().mean().item())
        return statistics.fmean(losses), 100 * statistics.fmean(right)


def loss_of(logits: Tensor, answers: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), answers.flatten())


def rate(step: int, steps: int) -> float:
    """The part of the learning rate that is in effect."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(task: Task, storage: str, seed: int, advance: Callable[[], object]) -> Outcome:
    """One run; ``advance`` is called after every step."""
    dtype, options = STORAGES[storage]
    stored, batches = Stored(task.build(seed), dtype), task.batches(seed)
    weights = list(stored.weights.values())
    losses = []
    optimizer = fastopt.optim.AdamW(weights, rounding_seed=seed, **task.options, **options)
    schedule = LambdaLR(optimizer, lambda step: rate(step, len(batches)))
    for inputs, answers in batches:
        optimizer.zero_grad()
        loss = loss_of(stored(inputs), answers)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        advance()
    count = sum(weight.numel() for weight in weights)
    train_loss, _ = stored.evaluate(task.train)
    test_loss, accuracy = stored.evaluate(task.test)
    curve = [part.mean().item() for part in torch.tensor(losses).tensor_split(POINTS) if len(part)]
    states = total_state_bytes(optimizer) / count
    sizes = (dtype.itemsize, states)
    return Outcome(task.name, storage, seed, train_loss, test_loss, accuracy, *sizes, curve)


def train_all(
    tasks: Sequence[Task], seeds: int, found: list[Outcome], save: Callable[[], None]
) -> None:
    """Find the outcome of every run, under a progress bar."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    text, share = TextColumn("{task.description:<42}"), TextColumn("{task.percentage:3.0f}%")
    # A step of the GPT takes several times as long as one of the digits; the bar counts steps.
    total = seeds * len(STORAGES) * sum(len(task.batches(0)) for task in tasks)
    with _output.progress((text, BarColumn(), share, TimeElapsedColumn())) as progress:
        bar = progress.add_task("", total=total)
        for task in tasks:
            for seed in range(seeds):
                for storage in STORAGES:
                    progress.update(bar, description=f"{task.name}, {storage}")
                    found.append(train(task, storage, seed, lambda: progress.advance(bar)))
                    save()


@dataclass(frozen=True)
class Figure:
    """A figure over the seeds."""

    mean: float
    deviation: float  # standard, of the sample; 0 for one seed

    @classmethod
    def of(cls, figures: Sequence[float]) -> Figure:
        return cls(statistics.fmean(figures), statistics.stdev(figures) if len(figures) > 1 else 0.0)


@dataclass(frozen=True)
class Summary:
    """One storage's runs of one task."""

    task: str
    storage: str
    train_loss: Figure
    excess: Figure  # of train_loss over the float32 run of the same seed
    test_loss: Figure
    test_accuracy: Figure
    weight_bytes: float
    state_bytes: float


def summarize(outcomes: Sequence[Outcome]) -> Iterator[Summary]:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.task, outcome.storage), []).append(outcome)
    for (task, storage), runs in groups.items():
        pairs = zip(runs, groups[task, BASELINE], strict=False)  # float32 is the first of a seed
        yield Summary(
            task,
            storage,
            Figure.of([run.train_loss for run in runs]),
            Figure.of([run.train_loss - base.train_loss for run, base in pairs]),
            Figure.of([run.test_loss for run in runs]),
            Figure.of([run.test_accuracy for run in runs]),
            runs[0].weight_bytes,
            runs[0].state_bytes,
        )


def explanation(seeds: int) -> str:
    return (
        f"Mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}, after the last step. "
        "Against float32: the training loss less that of the float32 run of the same seed. Accuracy: "
        "of the images, or of the next characters. Bytes: of weight + states, for each weight."
    )


def make_tables(summaries: Sequence[Summary]) -> Iterator[Table]:
    """One for each task."""
    from rich.table import Table

    titles = ("training\nloss", "against\nfloat32", "test\nloss", "test\naccuracy", "bytes")
    for name in dict.fromkeys(summary.task for summary in summaries):
        table = Table("stored in", title=f"AdamW in fewer bits: {name}", show_lines=True)
        for title in titles:
            table.add_column(title, justify="right", min_width=len("training"))
        for s in (summary for summary in summaries if summary.task == name):
            against = f"{s.excess.mean:+.4f}\n±{s.excess.deviation:.4f}"
            table.add_row(
                s.storage,
                f"{s.train_loss.mean:.4f}\n±{s.train_loss.deviation:.4f}",
                "" if s.storage == BASELINE else against,
                f"{s.test_loss.mean:.4f}\n±{s.test_loss.deviation:.4f}",
                f"{s.test_accuracy.mean:.2f}%\n±{s.test_accuracy.deviation:.2f}",
                f"{s.weight_bytes:.0f}\n+{s.state_bytes:.2f}",
            )
        yield table


def save_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """A panel for each task: the mean curves, and between float32's least and greatest a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    tasks = list(dict.fromkeys(outcome.task for outcome in outcomes))
    picture = Picture(figsize=(6.5 * len(tasks), 5), layout="constrained")
    FigureCanvasAgg(picture)  # draws without a display, whatever backend the user has chosen
    for axes, task in zip(picture.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for storage in STORAGES:
            curves = [o.curve for o in outcomes if (o.task, o.storage) == (task, storage)]
            if not curves:  # interrupted before
                continue
            points = torch.tensor(curves)
            trained = [100 * (i + 0.5) / points.shape[1] for i in range(points.shape[1])]
            if storage == BASELINE:
                low, high = points.amin(0).tolist(), points.amax(0).tolist()
                axes.fill_between(trained, low, high, color="black", alpha=0.15, linewidth=0)
            style: dict[str, Any] = {"color": "black"} if storage == BASELINE else {}
            axes.plot(trained, points.mean(0).tolist(), label=storage, linewidth=1.2, **style)
        axes.set(title=task, xlabel="% of the training", ylabel="loss of the batches", yscale="log")
    axes.legend(title="mean over the seeds; band: float32")
    picture.savefig(path, dpi=130, format="png")


def as_json(
    outcomes: Sequence[Outcome], tasks: Sequence[Task], finished: bool, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The outcomes for machines, if there are some."""
    if not outcomes:
        return None
    return {
        "finished": finished,
        "info": fastopt.info(),
        "python": platform.python_version(),  # whose texts the GPT has learned
        **{name: getattr(options, name) for name in ("seeds", "threads", "quick")},
        "arguments": {task.name: task.options for task in tasks},
        "steps": {task.name: len(task.batches(0)) for task in tasks},
        "summaries": [asdict(summary) for summary in summarize(outcomes)],
        "runs": [asdict(outcome) for outcome in outcomes],
    }


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    what = "Train with parameters and states stored in fewer bits, beside float32."
    parser = argparse.ArgumentParser(prog="python -m fastopt demo --precision", description=what)
    add, default = parser.add_argument, "default: %(default)s"
    add("--seeds", type=int, default=3, metavar="N", help=default)
    add("--threads", type=int, default=1, metavar="N", help=default)
    add("--quick", action="store_true", help="a few steps: to try it out")
    add("--json", type=writable, metavar="FILE", help="write the results as JSON")
    plot = "fastopt-demo-precision.png"
    add("--plot", type=writable, metavar="FILE", default=plot, help=default)
    options = parser.parse_args(argv)
    for name in ("seeds", "threads"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name} {value} is less than 1")
    return options


def main(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    options = parse_options(argv)
    if report_missing_packages():
        return 2
    threads, finished = torch.get_num_threads(), False
    tasks = [digits_task(options.quick), gpt_task(options.quick)]
    outcomes: list[Outcome] = []
    torch.set_num_threads(options.threads)
    try:
        with _output.saved(options.json, lambda: as_json(outcomes, tasks, finished, options)) as save:
            train_all(tasks, options.seeds, outcomes, save)
            finished = True
    except KeyboardInterrupt:
        pass
    finally:
        torch.set_num_threads(threads)
    with _output.printing():
        console = _output.new_console(highlight=False)
        for table in make_tables(list(summarize(outcomes))):
            console.print(table)
        console.print(explanation(options.seeds), style="dim")
        if not finished:
            console.print("interrupted: not every network has trained", style="bold yellow")
    if outcomes:
        save_plot(outcomes, options.plot)
        with _output.printing():
            console.print(f"loss curves: {options.plot}", markup=False)
    return 0 if finished else _output.FAILED
