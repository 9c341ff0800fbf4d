"""How exact codes of 8 bits are on the moments of a real training.

    python bench/code_error.py [--steps N]

An MLP learns scikit-learn's digits with Adam in float32; after N steps its moments are coded and
decoded by each code, in blocks of 256 of a row where the code is fastopt's and in blocks of 256
where it is not. For each: the root mean square of (decoded - exact) over that of exact, once and for
the mean of what 64 steps decode (a dither differs from step to step); the median of the elements'
relative errors; and the shares of elements that are off by over a tenth and that decode to 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import fastopt
from fastopt.demo import BATCH_SIZE, load_digits
from fastopt.reference.codes import decode_blocks, encode_blocks
from fastopt.reference.dither import BLOCK

Single = npt.NDArray[np.float32]
STEPS = 64


def dynamic_map(signed: bool) -> Single:
    """A dynamic map in the style of bitsandbytes: seven decades, the fuller the larger.

    The decade from 10**-(7 - i) has 2**i values (twice that without a sign): the middles of as many
    equal parts of [0.1, 1] times the decade. 0 and 1 are added.
    """
    values = [0.0, 1.0]
    for i in range(7):
        count = 2 ** (i if signed else i + 1)
        bounds = np.linspace(0.1, 1, count + 1)
        middles = (bounds[:-1] + bounds[1:]) / 2 * 10.0 ** (i - 6)
        values += [*middles, *(-middles if signed else [])]
    return np.sort(np.array(values, np.float32))


def in_blocks(x: Single, code: Callable[[Single], Single]) -> Single:
    """Each block of 256 of the flat array, divided by its largest magnitude, through a code."""
    padded = np.zeros(-(-x.size // BLOCK) * BLOCK, np.float32)
    padded[: x.size] = x.reshape(-1)
    blocks = padded.reshape(-1, BLOCK)
    top = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), np.float32(1e-38))
    return np.asarray(code(blocks / top) * top).reshape(-1)[: x.size].reshape(x.shape)


def nearest(values: Single) -> Callable[[Single], Single]:
    bounds = (values[:-1] + values[1:]) / 2
    return lambda y: values[np.searchsorted(bounds, y)]


def linear(levels: int) -> Callable[[Single], Single]:
    return lambda y: np.asarray(np.rint(y * levels) / np.float32(levels), np.float32)


def companded(levels: int) -> Callable[[Single], Single]:
    """Equal steps of z = 2y / (1 + |y|)."""

    def code(y: Single) -> Single:
        z = np.rint(2 * y / (1 + np.abs(y)) * levels) / np.float32(levels)
        return np.asarray(z / (2 - np.abs(z)))

    return code


def codes(square: bool) -> dict[str, Callable[[Single, int], Single]]:
    """Every code as a function of an array and the number of the step."""
    levels, name = (255, "root8") if square else (127, "signed8")
    dynamic, equal = nearest(dynamic_map(signed=not square)), linear(levels)
    return {
        name: lambda x, step: decode_blocks(*encode_blocks(x, name, step=step)),
        "dynamic map": lambda x, _: in_blocks(x, dynamic),
        "companded": lambda x, _: in_blocks(x, companded(levels)),
        "linear": lambda x, _: in_blocks(x, equal),
    }


def moments(steps: int) -> dict[str, list[Single]]:
    """Adam's moments of every matrix of the network."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = load_digits()
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    optimizer = fastopt.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = torch.randint(len(data.train_labels), (BATCH_SIZE,))
        optimizer.zero_grad()
        output = network(data.train_images[batch])
        nn.functional.cross_entropy(output, data.train_labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weights = [param for param in network.parameters() if param.ndim == 2]
    found: dict[str, list[Single]] = {}
    for key in ("exp_avg", "exp_avg_sq"):
        found[key] = [optimizer.state[param][key].numpy() for param in weights]
    return found


def errors(arrays: list[Single], code: Callable[[Single, int], Single]) -> list[float]:
    """The columns of the table."""
    exact = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)

    def decoded(step: int) -> npt.NDArray[np.float64]:
        return np.concatenate([code(array, step).reshape(-1) for array in arrays]).astype(np.float64)

    def distance(x: npt.NDArray[np.float64]) -> float:
        return float(np.sqrt(((x - exact) ** 2).mean() / (exact**2).mean()))

    once, some = decoded(1), exact != 0
    mean = np.mean([decoded(step) for step in range(1, STEPS + 1)], axis=0)
    relative = np.abs(once[some] / exact[some] - 1)
    shares = [float((relative > 0.1).mean()), float((once[some] == 0).mean())]
    return [distance(once), distance(mean), float(np.median(relative)), *shares]


def main() -> None:
    parser = argparse.ArgumentParser(description="How exact codes of 8 bits are on real moments.")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    print(f"| state | code | RMS | RMS of {STEPS} steps' mean | median | over 10% | decodes to 0 |")
    print("|---|---|---|---|---|---|---|")
    for key, arrays in moments(options.steps).items():
        for name, code in codes(square=key == "exp_avg_sq").items():
            numbers = " | ".join(f"{100 * it:.3g}%" for it in errors(arrays, code))
            print(f"| `{key}` | {name} | {numbers} |")


if __name__ == "__main__":
    main()
