"""From the digits 0 to 4 to the digits 5 to 9 with a few pictures of each: transfer learning.

    python examples/transfer.py [--quick] [--seeds N]

A small convolutional network with batch normalisation learns 0 to 4 from all pictures there are. Then
its last layer is replaced and it learns 5 to 9 from a few:

from scratch   a new network
last layer     everything that was learnt is frozen, only the new layer is trained
fine-tuned     the first block is frozen, the second follows at a third of the last layer's rate

Frozen is what has `requires_grad=False`: it gets no gradient, and the step passes it by. A frozen batch
normalisation is also put into evaluation mode, or its running means would follow the new pictures.
Groups have rates of their own. The pictures are shifted and turned a little in each epoch, by plain
torch. Epochs are short: a few pictures are one batch.

Yosinski et al. 2014, How transferable are features in deep neural networks?
Ioffe & Szegedy 2015, Batch normalization.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

import fastopt
from fastopt.demo import build_network, load_digits

LEARNING_RATE = 3e-3
LEARN_EPOCHS = 20  # of the digits 0 to 4
WAYS = ("last layer", "fine-tuned")
FIRST, SECOND = slice(0, 4), slice(4, 8)  # the network's blocks; the last layer comes after them


@dataclass(frozen=True)
class Task:
    """Pictures of five digits, and which of the five each shows."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def task(first: int, per_class: int | None = None) -> Task:
    """The digits `first` to `first` + 4; of each, `per_class` to learn from, or all."""
    data = load_digits()
    parts = []
    for images, labels in (data[:2], data[2:]):
        mine = (labels >= first) & (labels < first + 5)
        parts += [images[mine], labels[mine] - first]
    train, train_labels, test, test_labels = parts
    if per_class is not None:
        few = [(train_labels == digit).nonzero()[:per_class, 0] for digit in range(5)]
        chosen = torch.cat(few)
        train, train_labels = train[chosen], train_labels[chosen]
    return Task(train, train_labels, test, test_labels)


def augment(images: Tensor) -> Tensor:
    """Each picture turned by up to 10 degrees and shifted by up to a pixel, at random."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * torch.pi / 18
    shift = (torch.rand(count, 2, 1) * 2 - 1) * 2 / images.shape[-1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2)
    grid = affine_grid(torch.cat([turn, shift], 2), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def new_network(seed: int) -> nn.Sequential:
    """The demo's network, for five classes."""
    network = build_network(seed)
    assert isinstance(network, nn.Sequential)
    network[-1] = nn.Linear(32 * 4 * 4, 5)
    return network


def freeze(part: nn.Module) -> None:
    part.requires_grad_(False).eval()


def train(
    network: nn.Sequential, groups: list[dict[str, object]], data: Task, epochs: int
) -> fastopt.optim.AdamW:
    """Some epochs over augmented pictures; what is in evaluation mode stays there."""
    optimizer = fastopt.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train)).split(32):
            optimizer.zero_grad()
            loss = cross_entropy(network(augment(data.train[batch])), data.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return optimizer


@torch.no_grad()
def accuracy(network: nn.Module, data: Task) -> float:
    """% of the test pictures."""
    network.eval()
    return 100 * (network(data.test).argmax(1) == data.test_labels).double().mean().item()


def adapt(learnt: nn.Sequential, way: str, data: Task, epochs: int, seed: int) -> nn.Sequential:
    """Go on from a network that knows other digits."""
    network = new_network(seed)
    network[:-1].load_state_dict(learnt[:-1].state_dict())
    head: dict[str, object] = {"params": network[-1].parameters()}
    if way == "last layer":
        freeze(network[:-1])
        train(network, [head], data, epochs)
        return network
    freeze(network[FIRST])
    slow: dict[str, object] = {"params": network[SECOND].parameters(), "lr": LEARNING_RATE / 3}
    train(network, [slow, head], data, epochs)
    return network


def compare(seed: int, per_class: int, epochs: int) -> dict[str, float]:
    """Accuracies on the digits 5 to 9, after this many epochs of each way."""
    torch.manual_seed(seed)
    before, after = task(0), task(5, per_class)
    learnt = new_network(seed)
    train(learnt, [{"params": learnt.parameters()}], before, LEARN_EPOCHS)
    scratch = new_network(seed + 1)
    train(scratch, [{"params": scratch.parameters()}], after, epochs)
    adapted = {way: adapt(learnt, way, after, epochs, seed + 1) for way in WAYS}
    return {way: accuracy(it, after) for way, it in {"from scratch": scratch, **adapted}.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Transfer learning between handwritten digits.")
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=5, help="of each digit from 5 to 9")
    arguments = parser.parse_args(argv)
    seeds, lengths = (1, (2, 4)) if arguments.quick else (arguments.seeds, (12, 60))
    for epochs in lengths:
        print(f"after {epochs} epochs of {arguments.pictures} pictures of each digit, % right:")
        runs = [compare(seed, arguments.pictures, epochs) for seed in range(seeds)]
        for way in runs[0]:
            values = [run[way] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            print(f"  {way:14}{statistics.mean(values):.1f}{spread}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
