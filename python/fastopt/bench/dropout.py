"""The dropout suite's work: dropout of one array, and the networks that it stands in.

One array: `F.dropout` of torch and of fastopt without autograd, as a new array and in place. The limit
copies the array, or adds 0 to it as integers.

Networks: forward and backward with `nn.Dropout` of either. The limit is the same network without
dropout, so what is missing to 1 in "of limit" is dropout's part. "The network's dropout" is that part
alone, on activations of the same sizes; its limit copies them forwards and backwards. What autograd
keeps for backward, parameters and inputs aside, is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastopt.nn
from fastopt import _C
from fastopt.bench.shapes import Shape
from fastopt.bench.timing import Contender

P = 0.1
LAYERS = 4  # of the MLP
HEADS = 8  # of the transformer layer

Shapes = tuple[Shape, ...]
Workers = Callable[[Shapes, Sequence[str]], list[Contender]]  # shapes and targets


def entered(
    targets: Sequence[str],
    moved_bytes: int,
    runs: Sequence[Callable[[], object]],
    kept: Sequence[int | None] = (None, None, None),
) -> list[Contender]:
    """The limit and fastopt on every target, and torch: their runs, and what they keep."""
    limit, ours, torchs = runs

    def all_of_them() -> Iterator[Contender]:
        for target in targets:
            prepare = partial(_C.set_cpu_target, target)
            common: dict[str, Any] = {"target": target, "prepare": prepare}
            yield Contender("limit", limit, moved_bytes, kept_bytes=kept[0], **common)
            version = fastopt.__version__
            yield Contender("fastopt", ours, moved_bytes, version=version, kept_bytes=kept[1], **common)
        version = torch.__version__.split("+")[0]
        yield Contender("torch dropout", torchs, moved_bytes, version=version, kept_bytes=kept[2])

    return list(all_of_them())


# ---- one array ------------------------------------------------------------------------------------


def array(dtype: torch.dtype, inplace: bool, shapes: Shapes, targets: Sequence[str]) -> list[Contender]:
    """In place its elements soon are all zeros, which takes no more and no less time."""
    x = torch.randn(shapes[0]).to(dtype)
    # Of as many bytes, and no numbers that could be slow to add.
    words = x.view(-1).view(torch.int16 if x.nbytes % 4 else torch.int32)
    return entered(
        targets,
        2 * x.nbytes,
        [
            partial(words.add_, 0) if inplace else x.clone,
            partial(fastopt.nn.functional.dropout, x, P, True, inplace),
            partial(F.dropout, x, P, True, inplace),
        ],
    )


# ---- networks -------------------------------------------------------------------------------------


def mlp(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(width, width), nn.ReLU(), nn.Dropout(P)]
    return nn.Sequential(*layers)


def transformer(width: int) -> nn.Module:
    """A layer whose attention, which calls torch's dropout itself, has none."""
    layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, P, batch_first=True)
    layer.self_attn.dropout = 0.0
    return layer


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def network(
    make: Callable[[int], nn.Module], shapes: Shapes, targets: Sequence[str]
) -> list[Contender]:
    (shape,) = shapes
    x = torch.randn(shape, requires_grad=True)
    ones = torch.ones(shape)
    plain = without_dropout(make(shape[-1]))
    ours = fastopt.nn.convert_dropout(make(shape[-1]))
    models = [plain, ours, make(shape[-1])]

    def step(model: nn.Module) -> None:
        torch.autograd.grad(model(x), [x, *model.parameters()], ones)

    weights = sum(it.nbytes for it in plain.parameters())
    return entered(
        targets,
        3 * weights,  # forward, backward to the inputs and to the weights; the least of it
        [partial(step, model) for model in models],
        [kept_bytes(model, x) for model in models],
    )


def alone(shapes: Shapes, targets: Sequence[str]) -> list[Contender]:
    """The dropout of a network's activations."""
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    grads = [torch.ones(shape) for shape in shapes]

    def copy() -> None:
        for x, grad in zip(inputs, grads, strict=True):
            x.detach().clone()
            grad.clone()

    def drop(module: nn.Module) -> None:
        for x, grad in zip(inputs, grads, strict=True):
            torch.autograd.grad(module(x), x, grad)

    modules = [fastopt.nn.Dropout(P), nn.Dropout(P)]
    kept = [sum(kept_bytes(module, x) for x in inputs) for module in modules]
    return entered(
        targets,
        4 * sum(x.nbytes for x in inputs),
        [copy, *(partial(drop, module) for module in modules)],
        [None, *kept],
    )


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """What autograd keeps of a forward pass, parameters and input aside."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    for known in (x, *model.parameters()):
        kept.pop(known.untyped_storage().data_ptr(), None)
    del y
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


WORKS: dict[str, Workers] = {
    "float32": partial(array, torch.float32, False),
    "float32 in place": partial(array, torch.float32, True),
    "bfloat16": partial(array, torch.bfloat16, False),
    "bfloat16 in place": partial(array, torch.bfloat16, True),
    "transformer layer": partial(network, transformer),
    "MLP": partial(network, mlp),
    "the MLP's dropout": alone,
}


def needed_bytes(work: str, shapes: Shapes) -> int:
    """Array, output, and torch's mask as numbers; or a network's activations, twice."""
    elements = sum(map(prod, shapes))
    width = shapes[0][-1]
    return 4 * 4 * elements if work in list(WORKS)[:4] else 4 * (40 * elements + 60 * width**2)
