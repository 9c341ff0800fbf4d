"""Hyperparameter search the way that works: random, on logarithmic scales, from coarse to fine.

    python examples/search.py [--quick] [--trials N] [--jobs N] [--plot FILE]

Optuna draws α, 1 − β₁ and 1 − β₂ of AdamW and its decay at random, each so that a decade is as likely
as the next, and a small network learns handwritten digits with them. A trial that lags behind the
median of the others is pruned. The second study draws from the box around the best tenth of the first.
Trials run side by side in threads; for processes or machines give `create_study` a storage.

Bergstra & Bengio 2012, Random search for hyper-parameter optimization: of few parameters that matter, a
grid of n trials tries the n-th root of n values each, a random search n.

Needs Optuna: pip install "fastopt[search]".
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable

import optuna
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastopt
from fastopt.demo import Digits, load_digits

Ranges = dict[str, tuple[float, float]]
WIDE: Ranges = {
    "alpha": (1e-5, 1.0),
    "1 - beta1": (1e-3, 1.0),
    "1 - beta2": (1e-4, 1.0),
    "weight decay": (1e-4, 10.0),
}
VALIDATION = 300  # pictures held back from the training set to choose by; the test set stays unseen
BATCH = 64


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def make_objective(
    data: Digits, network: nn.Module, ranges: Ranges, epochs: int
) -> Callable[[optuna.Trial], float]:
    """The loss on the validation pictures after a few epochs, as a function of what a trial draws."""
    train, train_labels = data.train_images[VALIDATION:], data.train_labels[VALIDATION:]
    held_back, held_labels = data.train_images[:VALIDATION], data.train_labels[:VALIDATION]

    def objective(trial: optuna.Trial) -> float:
        drawn = {name: trial.suggest_float(name, *it, log=True) for name, it in ranges.items()}
        # Threads share torch's generator, so nothing here draws from it.
        model, order = copy.deepcopy(network), torch.Generator().manual_seed(0)
        optimizer = fastopt.optim.AdamW(
            model.parameters(),
            lr=drawn["alpha"],
            betas=(1 - drawn["1 - beta1"], 1 - drawn["1 - beta2"]),
            weight_decay=drawn["weight decay"],
        )
        loss = math.inf
        for epoch in range(epochs):
            for batch in torch.randperm(len(train), generator=order).split(BATCH):
                optimizer.zero_grad()
                cross_entropy(model(train[batch]), train_labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                loss = cross_entropy(model(held_back), held_labels).item()
            if not math.isfinite(loss):
                raise optuna.TrialPruned("diverged")
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    return objective


def study(
    objective: Callable[[optuna.Trial], float], trials: int, jobs: int, seed: int
) -> optuna.Study:
    """Random trials, those worse than the median of their epoch cut short."""
    made = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )
    made.optimize(objective, n_trials=trials, n_jobs=jobs)
    return made


def completed(found: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that ran to their end, best first."""
    trials = found.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return sorted(trials, key=lambda trial: trial.value or math.inf)


def around_the_best(found: optuna.Study) -> Ranges:
    """The box that holds the best tenth of the trials, at least three."""
    best = completed(found)[: max(3, len(found.trials) // 10)]
    return {
        name: (min(it.params[name] for it in best), max(it.params[name] for it in best))
        for name in WIDE
    }


def report(title: str, found: optuna.Study, ranges: Ranges) -> None:
    pruned = len(found.trials) - len(completed(found))
    print(f"{title}: {len(found.trials)} trials, {pruned} pruned, best loss {found.best_value:.4f}")
    for name, (low, high) in ranges.items():
        print(f"  {name:13} from {low:8.2g} to {high:8.2g}, best {found.best_params[name]:.2g}")


def save_plot(coarse: optuna.Study, fine: optuna.Study, box: Ranges, file: str) -> None:
    """Each trial's loss over each hyperparameter; what was pruned as a cross."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(WIDE), sharey=True), WIDE, strict=True):
        for found, color in ((coarse, "C0"), (fine, "C1")):
            for trial in found.trials:
                reached = [*trial.intermediate_values.values()]
                if reached:
                    ended = trial.state == optuna.trial.TrialState.COMPLETE
                    axes.plot(trial.params[name], reached[-1], "." if ended else "x", color=color, ms=5)
        axes.axvspan(*box[name], color="C1", alpha=0.12)
        axes.set(xscale="log", yscale="log", xlabel=name)
    figure.axes[0].set_ylabel("validation loss")
    figure.suptitle("coarse (blue) and fine (orange) trials; crosses were pruned", fontsize=10)
    figure.savefig(file, dpi=75)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Random search, coarse to fine.")
    parser.add_argument("--quick", action="store_true", help="few trials of two epochs")
    parser.add_argument("--trials", type=int, default=60, help="in each of the two studies")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--plot", metavar="FILE", help="draw the trials, a PNG")
    arguments = parser.parse_args(argv)
    trials, epochs = (8, 2) if arguments.quick else (arguments.trials, 10)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data, network = load_digits(), make_network()
    coarse = study(make_objective(data, network, WIDE, epochs), trials, arguments.jobs, seed=0)
    report("coarse", coarse, WIDE)
    box = around_the_best(coarse)
    fine = study(make_objective(data, network, box, epochs), trials, arguments.jobs, seed=1)
    report("fine", fine, box)
    if arguments.plot:
        save_plot(coarse, fine, box, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
