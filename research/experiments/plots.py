"""The plots of the experiments: one colour a scheme everywhere, lines with a band over seeds, dots, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.experiments.tables import Cell, Measurement, Row, cells, label
from training.metrics import Bin

COLOURS: Final[Mapping[str, str]] = {
    "S2": "#2f7d4f",
    "S1": "#2c4d7a",
    "S1A": "#7f9cc0",
    "S1D": "#4a6a96",
    "radar": "#2c4d7a",
    "early": "#d6ad3f",
    "mid": "#e2873a",
    "late": "#a8417a",
    "decision": "#56306e",
    "forest": "#777777",
}
"""Optical green, radar blue, fusion from straw to violet, the baseline grey."""
DASHES: Final[Mapping[str, Any]] = {
    "none": (0, (1, 1.5)),
    "auxiliary": (0, (4, 1.5)),
    "temporal dropout": (0, (6, 1.5, 1, 1.5)),
}
"""Line styles of enhancements; anything else is solid."""
KEY_OF_BANDS: Final = "mean and 1 sd over seeds"
_STYLE: Final[Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 110,
    "savefig.dpi": 150,
}


def lines(
    path: Path,
    measurements: Sequence[Measurement],
    metrics: Sequence[str],
    *,
    x_label: str,
    is_falling: bool = False,
    marks: Mapping[float, str] | None = None,
) -> None:
    """A panel a metric: value against x, a line a row, a band of one standard deviation over seeds.

    Args:
        is_falling: x runs from large to small, as a share that is taken away.
        marks: x and name of the places that are marked by a thin line.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4 * len(metrics), 4.3), layout="constrained")
        for axis, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
            _lines(axis, [one for one in measurements if one.metric == metric])
            axis.set(xlabel=x_label, ylabel=metric)
            if is_falling:
                axis.invert_xaxis()
            for x, name in (marks or {}).items():
                axis.axvline(x, color="black", linewidth=0.6, alpha=0.4)
                axis.annotate(
                    name,
                    (x, 0.01),
                    xycoords=("data", "axes fraction"),
                    rotation=90,
                    va="bottom",
                    ha="right",
                    fontsize=7.5,
                    alpha=0.7,
                )
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", title=KEY_OF_BANDS)
        figure.savefig(path)


def dots(path: Path, measurements: Sequence[Measurement], panels: Sequence[tuple[str, str]]) -> None:
    """A panel a (metric, place): a dot a row with its standard deviation over seeds, and each seed; "" is any place."""
    with mpl.rc_context(_STYLE):
        rows = list(dict.fromkeys(_row(one) for one in measurements))
        figure = Figure(figsize=(2.4 * len(panels) + 1.8, 0.3 * len(rows) + 1.0), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axis, (metric, at) in zip(axes, panels, strict=True):
            for y, row in enumerate(rows):
                own = [o.value for o in measurements if (o.metric, _row(o)) == (metric, row) and at in ("", o.at)]
                if not own:
                    continue
                cell, colour = Cell.of(own), _colour(row[0])
                axis.plot(own, [y] * len(own), "|", color=colour, alpha=0.6, markersize=9)
                axis.errorbar(cell.mean, y, xerr=None if cell.n < 2 else cell.sd, fmt="o", color=colour, capsize=3)
            axis.set_title(f"{metric}, {at}" if at else metric, fontsize=10)
            axis.locator_params(axis="x", nbins=4)
        axes[0].set_yticks(range(len(rows)), [label(row) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)  # whole dots, the first row on top
        figure.supxlabel("dot: mean, bar: 1 sd over seeds, tick: a seed", fontsize=8)
        figure.savefig(path)


def reliability(path: Path, bins: Mapping[str, Sequence[Bin]]) -> None:
    """Share that is right against confidence, a dot a bin as large as its count; on the diagonal a posterior is honest."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 4.6), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", alpha=0.5)
        for name, own in bins.items():
            confidence, right, n = np.array([(one.confidence, one.accuracy, one.n) for one in own]).T
            colour = _colour(name)
            axis.plot(confidence, right, color=colour, linewidth=1, alpha=0.6)
            axis.scatter(
                confidence,
                right,
                s=8 + 150 * n / n.max(),
                alpha=0.7,
                linewidths=0,
                color=colour,
                label=f"{name}: {int(n.sum()):,} answers, {int(n.min()):,} to {int(n.max()):,} a dot",
            )
        axis.set(
            xlim=(0, 1.03), ylim=(0, 1.05), xlabel="highest posterior", ylabel="share that is right", aspect="equal"
        )
        axis.legend(loc="upper left", markerscale=0.5, title="area: answers of a dot", title_fontsize=8)
        figure.savefig(path)


def _lines(axis: Axes, measurements: Sequence[Measurement]) -> None:
    x_of = {one.at: one.x for one in measurements}
    by_row: dict[Row, list[tuple[float, Cell]]] = {}
    for (row, at), cell in cells(measurements, measurements[0].metric if measurements else "").items():
        by_row.setdefault(row, []).append((x_of[at], cell))
    for row, own in by_row.items():
        own.sort(key=lambda one: one[0])
        x, mean = np.array([one[0] for one in own]), np.array([one[1].mean for one in own])
        sd = np.array([0.0 if one[1].n < 2 else one[1].sd for one in own])
        colour, style = _colour(row[0]), DASHES.get(row[1], "--" if row[0] == "forest" else "-")
        axis.plot(x, mean, color=colour, linestyle=style, marker=".", markersize=4, label=label(row))
        axis.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)


def _colour(name: str) -> str:
    """Return the colour of a scheme; a part of one ("late: s2") has that of its modality."""
    last = name.split(": ")[-1].split(",")[0]
    return COLOURS.get(last, COLOURS.get(last.upper(), "black"))


def _row(one: Measurement) -> Row:
    return one.scheme, one.enhancement
