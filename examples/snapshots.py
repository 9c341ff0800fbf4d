"""Train once, get several networks: snapshot ensembles on handwritten digits.

    python examples/snapshots.py [--quick] [--seeds N] [--plot FILE]

Two runs learn from the same few pictures for the same number of steps. In one the rate falls once,
along half a cosine. In the other it does so in each of several cycles, and where a cycle ends a
snapshot is taken. The mean of the snapshots' predictions is compared with the single network and with
the last snapshot, over several seeds.

Huang et al. 2017, Snapshot ensembles: train 1, get M for free.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import fastopt
from fastopt.demo import Digits, load_digits

PICTURES = 300  # to learn from: with all 1198 too few errors are left to compare
BATCH = 30


@dataclass(frozen=True)
class Score:
    """What probabilities are worth on the test pictures."""

    errors: float  # % of the pictures
    loss: float  # mean of −log p(right class)


def score(probabilities: Tensor, classes: Tensor) -> Score:
    wrong = (probabilities.argmax(-1) != classes).double().mean().item()
    return Score(100 * wrong, nll_loss(probabilities.log(), classes).item())


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), fastopt.nn.Dropout(0.3)),
        *(nn.Linear(128, 128), nn.ReLU(), fastopt.nn.Dropout(0.3), nn.Linear(128, 10)),
    )


def train(data: Digits, cycles: int, epochs: int, seed: int) -> fastopt.averages.SnapshotEnsemble:
    """Snapshots of one run: `cycles` times `epochs` with a rate that starts anew in each cycle."""
    torch.manual_seed(seed)
    model = network()
    optimizer = fastopt.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=epochs * PICTURES // BATCH)
    ensemble = fastopt.averages.SnapshotEnsemble(model)
    for _ in range(cycles * epochs):
        for batch in torch.randperm(PICTURES).split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if schedule.T_cur == 0:
            ensemble.take(model)
    return ensemble


def compare(data: Digits, cycles: int, epochs: int, seed: int) -> dict[str, Score]:
    """The single network and the ensemble, of as many epochs each."""
    single = train(data, 1, cycles * epochs, seed)
    ensemble = train(data, cycles, epochs, seed)
    predictions = {
        "single network": single(data.test_images),
        "last snapshot": ensemble(data.test_images, last=1),
        f"mean of {cycles} snapshots": ensemble(data.test_images),
    }
    return {name: score(it, data.test_labels) for name, it in predictions.items()}


def report(runs: list[dict[str, Score]]) -> None:
    """Mean and standard deviation over the seeds, and how often each beats the single network."""
    print(f"{'':20}{'test errors, %':>18}{'test loss':>20}{'fewer errors than single':>27}")
    single = [run["single network"].errors for run in runs]
    for name in runs[0]:
        cells = []
        for values in ([run[name].errors for run in runs], [run[name].loss for run in runs]):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        better = sum(run[name].errors < other for run, other in zip(runs, single, strict=True))
        equal = sum(run[name].errors == other for run, other in zip(runs, single, strict=True))
        print(f"{name:20}{cells[0]:>18}{cells[1]:>20}{f'{better} of {len(runs)}, {equal} equal':>27}")


def save_plot(runs: list[dict[str, Score]], file: str) -> None:
    """Errors and loss, a line for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2), ("errors", "loss"), strict=True):
        for run in runs:
            axes.plot([*run], [getattr(it, kind) for it in run.values()], "o-", color="C0", alpha=0.4)
        means = [statistics.mean(getattr(run[name], kind) for run in runs) for name in runs[0]]
        axes.plot([*runs[0]], means, "k_", markersize=30, label="mean")
        axes.set(title=f"test {kind}{', %' if kind == 'errors' else ''}")
        axes.legend()
    figure.savefig(file, dpi=75)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Snapshot ensembles on handwritten digits.")
    parser.add_argument("--quick", action="store_true", help="two seeds, short cycles")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--plot", metavar="FILE", help="draw the scores, a PNG")
    arguments = parser.parse_args(argv)
    cycles, epochs = (3, 4) if arguments.quick else (5, 20)
    data = load_digits()
    seeds = range(2 if arguments.quick else arguments.seeds)
    runs = [compare(data, cycles, epochs, seed) for seed in seeds]
    report(runs)
    if arguments.plot:
        save_plot(runs, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
