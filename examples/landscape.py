"""Why each optimizer exists: seven of them walk three landscapes.

    python examples/landscape.py [--quick] [--plot FILE]

Each rule steps the same two numbers, with fastopt's kernels, from the same start:

ravine    f = (x² + 100 y²) / 2: a hundred times as steep across as along. A rate that is right for one
          direction is wrong for the other.
saddle    f = (x² − y²) / 2 + y⁴ / 4 from nearly above the saddle at 0, where hardly a gradient is left
          to tell the way down to y = ±1.
two pits  f = x⁴ / 4 − x² / 2 − x / 5 + y² / 2, uphill from the lesser of two minima: who stays there?

Each rule has one rate for all three. SGD's is close to 0.02, from which on it diverges in the ravine,
momentum's and Nesterov's close to where the latter does (0.0136). Printed are the steps until f is
within 1e-4 of its minimum, and the overshoot: how far a path goes past that minimum, in percent of the
way from the start.

Sources: Polyak 1964 (momentum), Nesterov 1983, Duchi et al. 2011 (AdaGrad), Tieleman & Hinton 2012
(RMSProp), Kingma & Ba 2015 (Adam); the formulas stand in fastopt.reference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastopt import optim

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Landscape:
    """A function of two numbers, where walks begin, and its lowest point."""

    height: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    minimum: tuple[float, float]
    view: tuple[float, float, float, float]  # xmin, xmax, ymin, ymax of the picture

    def at(self, point: Tensor) -> Tensor:
        return self.height(*point.unbind(-1))


LANDSCAPES = {
    "ravine": Landscape(
        lambda x, y: (x**2 + 100 * y**2) / 2, (-4.0, 0.8), (0.0, 0.0), (-4.5, 2.5, -1.2, 1.2)
    ),
    "saddle": Landscape(
        lambda x, y: (x**2 - y**2) / 2 + y**4 / 4, (-1.5, 1e-4), (0.0, 1.0), (-1.8, 1.0, -0.8, 1.8)
    ),
    "two pits": Landscape(
        lambda x, y: x**4 / 4 - x**2 / 2 - x / 5 + y**2 / 2,
        (-2.1, 1.0),
        (1.08803390, 0.0),
        (-2.3, 2.0, -1.2, 1.3),
    ),
}

Make = Callable[..., torch.optim.Optimizer]
RULES: dict[str, tuple[Make, float]] = {
    "SGD": (optim.SGD, 0.018),
    "momentum": (partial(optim.SGD, momentum=0.9), 0.01),
    "Nesterov": (partial(optim.SGD, momentum=0.9, nesterov=True), 0.01),
    "AdaGrad": (optim.Adagrad, 0.5),
    "RMSProp": (optim.RMSprop, 0.02),
    "Adam": (optim.Adam, 0.1),
    "Adam, uncorrected": (partial(optim.Adam, bias_correction=False), 0.1),
}


@dataclass(frozen=True)
class Walk:
    """The points of a path, the start first, and how high above the minimum each lies."""

    points: Tensor
    heights: Tensor
    overshoot: float

    @property
    def steps(self) -> int | None:
        """Steps until f is within the tolerance of the minimum; None if it never is."""
        near = (self.heights <= TOLERANCE).nonzero()
        return int(near[0]) if len(near) else None


def walk(landscape: Landscape, make: Make, rate: float, steps: int) -> Walk:
    """Let one optimizer go."""
    point = torch.nn.Parameter(torch.tensor(landscape.start, dtype=torch.float64))
    optimizer = make([point], lr=rate)
    points = [point.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        landscape.at(point).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        points.append(point.detach().clone())
    path = torch.stack(points)
    start, minimum = (torch.tensor(it, dtype=path.dtype) for it in (landscape.start, landscape.minimum))
    past = ((path - minimum) / (minimum - start)).max().item()  # 0 at the minimum, −1 at the start
    return Walk(path, landscape.at(path) - landscape.at(minimum), 100 * max(0.0, past))


def report(walks: dict[str, dict[str, Walk]]) -> None:
    """A line for each rule: steps and overshoot in each landscape."""
    print(f"{'':18} {'rate':>6}" + "".join(f"{name:>22}" for name in walks))
    for rule, (_, rate) in RULES.items():
        line = f"{rule:18} {rate:6g}"
        for found in walks.values():
            it = found[rule]
            steps = f"{it.steps} steps" if it.steps is not None else f"{it.heights[-1]:.2g} above"
            line += f"{steps:>14}, {it.overshoot:4.0f} %"
        print(line)


def save_plot(walks: dict[str, dict[str, Walk]], file: str) -> None:
    """The paths over the contours, and below them the heights over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, height_ratios=(3, 2))
    for column, (name, found) in enumerate(walks.items()):
        landscape, (above, below) = LANDSCAPES[name], axes[:, column]
        xmin, xmax, ymin, ymax = landscape.view
        x, y = torch.meshgrid(
            torch.linspace(xmin, xmax, 120), torch.linspace(ymin, ymax, 120), indexing="xy"
        )
        floor = landscape.height(*torch.tensor(landscape.minimum))
        levels = torch.logspace(-2, 2, 9)
        above.contour(x, y, landscape.height(x, y) - floor, levels, colors="lightgray", linewidths=0.8)
        for rule, it in found.items():
            above.plot(*it.points.T, linewidth=1.2, label=rule)
            below.plot(it.heights.clamp(min=1e-12), linewidth=1.2)
        above.plot(*landscape.minimum, "k*")
        above.set(title=name, xlim=(xmin, xmax), ylim=(ymin, ymax))
        below.set(yscale="log", xlabel="step", ylabel="f above its minimum", ylim=(1e-8, None))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    figure.savefig(file, dpi=55)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Seven optimizers in three landscapes.")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--plot", metavar="FILE", help="draw the paths, a PNG")
    arguments = parser.parse_args(argv)
    steps = 60 if arguments.quick else 800
    walks = {
        name: {rule: walk(landscape, make, rate, steps) for rule, (make, rate) in RULES.items()}
        for name, landscape in LANDSCAPES.items()
    }
    report(walks)
    if arguments.plot:
        save_plot(walks, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
