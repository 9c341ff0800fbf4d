"""The parameter shapes of well-known networks, in the order of their modules.

Only shapes: what an optimizer's step costs depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import prod

Shape = tuple[int, ...]


def resnet50() -> Iterator[Shape]:
    """He et al. 2016, table 1, the 50-layer network: 161 tensors, 25,557,032 elements."""

    def convolution(inputs: int, outputs: int, kernel: int) -> Iterator[Shape]:
        yield outputs, inputs, kernel, kernel
        yield from ((outputs,), (outputs,))  # batch normalization

    yield from convolution(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(inputs, width, 1)
            yield from convolution(width, width, 3)
            yield from convolution(width, 4 * width, 1)
            if block == 0:  # the shortcut's projection
                yield from convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    yield from linear(inputs, 1000)


def vit_b16() -> Iterator[Shape]:
    """Dosovitskiy et al. 2021, ViT-Base on 16 x 16 patches of 224 x 224 images: 152 tensors,
    86,567,656 elements."""
    width, patches = 768, (224 // 16) ** 2
    yield 1, 1, width  # the class token
    yield width, 3, 16, 16
    yield (width,)
    yield 1, patches + 1, width
    for _ in range(12):
        yield from transformer_block(width)
    yield from norm(width)
    yield from linear(width, 1000)


def gpt2_small() -> Iterator[Shape]:
    """Radford et al. 2019, the smallest model, output tied to the embedding: 148 tensors,
    124,439,808 elements."""
    width = 768
    yield 50257, width
    yield 1024, width
    for _ in range(12):
        yield from transformer_block(width)
    yield from norm(width)


def norm(width: int) -> Iterator[Shape]:
    yield from ((width,), (width,))


def linear(inputs: int, outputs: int) -> Iterator[Shape]:
    yield from ((outputs, inputs), (outputs,))


def transformer_block(width: int) -> Iterator[Shape]:
    """Attention with one projection for query, key and value, and a network four times as wide."""
    yield from chain(norm(width), linear(width, 3 * width), linear(width, width))
    yield from chain(norm(width), linear(width, 4 * width), linear(4 * width, width))


MODELS = {"ResNet-50": resnet50, "ViT-B/16": vit_b16, "GPT-2 small": gpt2_small}


def shrink(shapes: Iterator[Shape], factor: int) -> Iterator[Shape]:
    """As many tensors, each extent a ``factor``-th where it allows."""
    for shape in shapes:
        yield tuple(max(1, extent // factor) for extent in shape)


def count(shapes: tuple[Shape, ...]) -> int:
    """The number of elements."""
    return sum(map(prod, shapes))
