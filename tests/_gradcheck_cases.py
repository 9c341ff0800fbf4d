"""Networks with right and with wrong gradients, for the tests of fastopt.gradcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def labels(count: int) -> Tensor:
    return torch.arange(count) % 3


def loss(output: Tensor) -> Tensor:
    return cross_entropy(output, labels(len(output)))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


class Attention(nn.Module):
    """Nothing but torch's own layers, some in places of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(36, 3)),
    )


class Wrong(torch.autograd.Function):
    """tanh, whose derivative is taken for that of its input's cosine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh())  # the square is missing


class WrongTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(x)


class HalfWeight(torch.autograd.Function):
    """A linear layer that forgets half of its weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x / 2


class WrongLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return HalfWeight.apply(x, self.weight)


class Glue(nn.Module):
    """Right layers, joined by a function that is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Wrong.apply(self.first(x)))


class Indices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


class Routed(nn.Module):
    """A module without derivative, one with several outputs, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.index, self.wrong = nn.Linear(5, 6), Indices(), WrongTanh()
        self.table, self.rnn = nn.Embedding(6, 6), nn.LSTM(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.wrong(self.first(x))
        rows = torch.stack([self.wrong(hidden), self.table(self.index(hidden))], 1)
        return self.rnn(rows)[0][:, -1]


def layers(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), *middle, nn.Dropout(0.2), nn.Linear(6, 3))
