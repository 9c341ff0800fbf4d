"""The results as a picture: bars against the limit, and the curve over sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastopt.bench.results import Result, group_by_suite, group_by_title, size_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"fastopt": "tab:red", "limit": "black"}  # others take the cycle's colors
LINEAR_FROM = 0.02  # bars below this would vanish on a linear axis


def labels_of(results: list[Result]) -> list[str]:
    """The contenders of some results, each once, fastopt first."""
    seen = dict.fromkeys(r.label(e) for r in results for e in r.entries)
    return sorted(seen, key=lambda label: not label.startswith("fastopt"))


def colors_of(results: list[Result]) -> dict[str, str]:
    """One color for each contender in the whole picture."""
    palette = [f"C{i}" for i in range(10) if i != 3]  # C3 is fastopt's red
    colors, used = {}, 0
    for label in labels_of(results):
        fixed = COLORS.get(label)
        colors[label] = fixed or palette[used % len(palette)]
        used += fixed is None
    return colors


def draw_bars(axes: Axes, results: list[Result], colors: dict[str, str]) -> None:
    """For each case a group of bars: the limit's time over the contender's."""
    labels = [label for label in labels_of(results) if not label.startswith("limit")]
    width = 0.85 / len(labels)
    heights = []
    for number, label in enumerate(labels):
        bars = [
            (i + (number - (len(labels) - 1) / 2) * width, r.limit_fraction(e))
            for i, r in enumerate(results)
            for e in r.entries
            if r.label(e) == label
        ]
        heights += [fraction.median for _, fraction in bars]
        axes.bar(
            [x for x, _ in bars],
            [f.median for _, f in bars],
            width,
            yerr=(
                [f.median - f.low for _, f in bars],
                [f.high - f.median for _, f in bars],
            ),
            color=colors[label],
            label=label,
            error_kw={"elinewidth": 0.8},
        )
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="limit")
    names = [f"{r.case}\n{r.work}".replace(", ", ",\n") for r in results]
    axes.set_xticks(range(len(results)), names, fontsize=8)
    axes.set_ylabel("fraction of the limit")
    if min(heights) < LINEAR_FROM:
        axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)


def draw_curve(axes: Axes, results: list[Result], colors: dict[str, str]) -> None:
    """Time over size, both logarithmic: proportional to size is a straight line."""
    unit = size_unit(results)
    for label in labels_of(results):
        points = [
            (getattr(r, unit), e.seconds) for r in results for e in r.entries if r.label(e) == label
        ]
        axes.plot(
            [x for x, _ in points],
            [1e6 * s.median for _, s in points],
            color=colors[label],
            linestyle="--" if label.startswith("limit") else "-",
            marker=".",
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlabel=unit, ylabel="time of a step, µs")
    axes.grid(alpha=0.3)


def save(results: list[Result], path: Path) -> None:
    """One row a suite and thread count; the curve's two series share a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = group_by_suite(results)
    colors = colors_of(results)
    figure = Figure(figsize=(11, 3.6 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user has chosen
    rows = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for row, ((suite, threads), members) in zip(rows, groups.items(), strict=True):
        row.suptitle(f"{suite}, {threads} thread{'s' if threads > 1 else ''}")
        if suite != "curve":
            axes = row.subplots()
            draw_bars(axes, members, colors)
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
            continue
        series = group_by_title(members)
        panels = row.subplots(1, len(series), squeeze=False)[0]
        for axes, (title, points) in zip(panels, series.items(), strict=True):
            draw_curve(axes, points, colors)
            axes.set_title(title, fontsize=10)
        panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=130, format="png")
