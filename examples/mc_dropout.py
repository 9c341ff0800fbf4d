"""How sure is a network? Monte Carlo dropout on scikit-learn's handwritten digits.

    python examples/mc_dropout.py [--epochs N] [--samples N] [--plot FILE]

A network learns with dropout. Then dropout stays on while it predicts, many times for each picture: the
mean of the predictions is a better one than any of them, and their spread is larger where it is wrong.
Takes seconds on the CPU.

Gal & Ghahramani 2016, Dropout as a Bayesian approximation: representing model uncertainty in deep
learning.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

import fastopt


@dataclass
class Digits:
    """Pictures with their classes, half of them to learn from."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load() -> Digits:
    pictures, classes = load_digits(return_X_y=True)
    parts = train_test_split(pictures / 16, classes, test_size=0.5, random_state=0, stratify=classes)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_y, test_y = (torch.tensor(part) for part in parts[2:])
    return Digits(train_x, train_y, test_x, test_y)


def train(epochs: int, seed: int) -> torch.nn.Module:
    """A network of two hidden layers with dropout behind each."""
    torch.manual_seed(seed)
    digits = load()
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128),
        torch.nn.ReLU(),
        fastopt.nn.Dropout(0.3),
        torch.nn.Linear(128, 128),
        torch.nn.ReLU(),
        fastopt.nn.Dropout(0.3),
        torch.nn.Linear(128, 10),
    )
    optimizer = fastopt.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train_x)).split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                model(digits.train_x[batch]), digits.train_y[batch]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


@dataclass
class Predictions:
    """What the network says of pictures that it has not seen."""

    samples: Tensor  # probabilities: (samples, pictures, classes)
    classes: Tensor
    without: Tensor  # probabilities without dropout

    @property
    def right(self) -> Tensor:
        """Where the mean's class is the picture's."""
        return self.samples.mean(0).argmax(-1) == self.classes

    @property
    def spread(self) -> Tensor:
        """The standard deviation of the probability of the mean's class, for each picture."""
        chosen = self.samples.mean(0).argmax(-1)
        index = chosen.expand(len(self.samples), -1).unsqueeze(-1)
        return self.samples.gather(-1, index).squeeze(-1).std(0)

    @property
    def accuracy(self) -> float:
        return self.right.float().mean().item()

    def summary(self) -> list[tuple[str, float]]:
        each = (self.samples.argmax(-1) == self.classes).float().mean(1)
        idle = (self.without.argmax(-1) == self.classes).float().mean().item()
        rows = [
            ("accuracy of one prediction with dropout", each.mean().item()),
            (f"accuracy of the mean of {len(self.samples)} predictions", self.accuracy),
            ("accuracy without dropout", idle),
            ("spread where it is right", self.spread[self.right].mean().item()),
        ]
        if not self.right.all():
            rows.append(("spread where it is wrong", self.spread[~self.right].mean().item()))
        return rows


@torch.no_grad()
def measure(model: torch.nn.Module, samples: int) -> Predictions:
    """Predict many times with dropout, and once without."""
    digits = load()
    torch.manual_seed(1)
    with fastopt.nn.mc_dropout(model):
        drawn = torch.stack([model(digits.test_x).softmax(-1) for _ in range(samples)])
    model.eval()
    return Predictions(drawn, digits.test_y, model(digits.test_x).softmax(-1))


def save_plot(predictions: Predictions, file: str) -> None:
    """How the spread is distributed over right and wrong predictions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for where, label in ((predictions.right, "right"), (~predictions.right, "wrong")):
        values = predictions.spread[where].numpy()
        axes.hist(values, bins=30, range=(0, 0.5), density=True, alpha=0.6, label=label)
    axes.set(xlabel="spread of the predicted probability", ylabel="density")
    axes.legend()
    figure.savefig(file, dpi=130)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Monte Carlo dropout on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--samples", type=int, default=50, help="predictions of each picture")
    parser.add_argument("--plot", metavar="FILE", help="draw the spreads, a PNG")
    arguments = parser.parse_args(argv)
    predictions = measure(train(arguments.epochs, seed=0), arguments.samples)
    for name, value in predictions.summary():
        print(f"{name:45}{value:.4f}")
    if arguments.plot:
        save_plot(predictions, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
