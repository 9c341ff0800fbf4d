"""The handwritten digits that scikit-learn ships, and the network that learns them.

1797 images of 8 x 8 pixels: Alpaydin & Kaynak 1998, UCI Machine Learning Repository.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

BATCH_SIZE = 64


class Digits(NamedTuple):
    """Images, float32 [n, 1, 8, 8] in [0, 1], and labels, int64 [n]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The data, split once and for all: one stratified third is the test set, whatever the seed."""
    # scikit-learn carries no type annotations; import_module keeps the type checker out of it.
    load = importlib.import_module("sklearn.datasets").load_digits
    split = importlib.import_module("sklearn.model_selection").train_test_split
    images, labels = load(return_X_y=True)
    train, test = split(range(len(labels)), test_size=1 / 3, stratify=labels, random_state=0)
    images = torch.tensor(images, dtype=torch.float32).div_(16).reshape(-1, 1, 8, 8)
    labels = torch.tensor(labels, dtype=torch.int64)
    return Digits(images[train], labels[train], images[test], labels[test])


def build_network(seed: int) -> nn.Module:
    """The network, initialised from ``seed``; torch's global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A bias before batch normalisation has no effect: its gradient is nothing but rounding.
        first = nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False)
        second = nn.Conv2d(16, 32, kernel_size=3, padding=1, bias=False)
        return nn.Sequential(
            *(first, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(second, nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
            nn.Linear(32 * 4 * 4, 10),
        )


def make_batches(data: Digits, epochs: int, seed: int) -> list[Tensor]:
    """The batches of all epochs, each the numbers of its images."""
    draw, count = torch.Generator().manual_seed(seed), len(data.train_labels)
    orders = [torch.randperm(count, generator=draw) for _ in range(epochs)]
    return [rows for order in orders for rows in torch.split(order, BATCH_SIZE)]


def report_missing_packages() -> bool:
    """Whether packages that the demo needs are not installed; if so, it has said which."""
    needed = {"rich": "rich", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
    if missing := [package for module, package in needed.items() if find_spec(module) is None]:
        absent = f"the demo needs {', '.join(missing)}, not installed here"
        print(f'{absent}: pip install "fastopt[demo]"', file=sys.stderr)
    return bool(missing)
