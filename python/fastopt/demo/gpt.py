"""The demo's language model: a small character-level GPT, and the text that it learns.

The text is ``pydoc_data.topics``, the reference that Python's help() shows: it comes with Python, and
its wording differs from one version to the next.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]  # inputs and what the network is to say of them

CONTEXT, BATCH_SIZE = 64, 16
PART = 2048  # characters; every tenth part of the text is for the test


class Block(nn.Module):
    """Attention to what came before, and a network four times as wide, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(self.norm1(x)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project_out(seen.transpose(1, 2).flatten(-2))
        transformed: Tensor = self.network(self.norm2(x))
        return x + transformed


class GPT(nn.Module):
    """Characters [b, t] to the logits of the next ones [b, t, characters]; about 160,000 weights."""

    def __init__(self, characters: int, width: int = 64, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.places = nn.Parameter(torch.empty(CONTEXT, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for table in (self.embedding.weight, self.places):
            nn.init.normal_(table, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text) + self.places[: text.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def build_network(characters: int, seed: int) -> nn.Module:
    """The network, initialised from ``seed``; torch's global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT(characters)


def load_text() -> tuple[Tensor, Tensor, int]:
    """The text to learn and that of the test, as numbers of characters, and how many there are."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    text = "\n".join(topics[name] for name in sorted(topics))
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    parts = torch.split(torch.tensor([numbers[character] for character in text]), PART)
    learned = [part for number, part in enumerate(parts) if number % 10 != 9]
    return torch.cat(learned), torch.cat(parts[9::10]), len(numbers)


def draw_batches(text: Tensor, seed: int, count: int) -> list[Batch]:
    """Batches from random places; the answers are the text one character further on."""
    draws, last = torch.Generator().manual_seed(seed), len(text) - CONTEXT - 1
    batches = []
    for _ in range(count):
        starts = torch.randint(last, (BATCH_SIZE, 1), generator=draws)
        rows = text[starts + torch.arange(CONTEXT + 1)]
        batches.append((rows[:, :-1], rows[:, 1:]))
    return batches
