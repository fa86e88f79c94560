"""A parcel's season as one picture: NDVI, backscatter, posteriors, alerts over the same days."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from db.history import HistoryRow

COLOUR: Final = {"green": "#3a7d44", "yellow": "#d9a400", "red": "#b3261e"}
NDVI_COLOUR: Final = "#2e7d32"
SHOWN_CLASSES: Final = 5
"""Classes drawn apart; more lines than these cannot be told apart by eye."""


def season_figure(rows: Sequence[HistoryRow], title: str) -> Figure:
    """The picture of a parcel's history; parts without data stay empty axes with their names."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}):
        figure = Figure(figsize=(11, 8.5), layout="constrained")
        axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        _ndvi(axes[0], rows)
        _backscatter(axes[1], rows)
        _posteriors(axes[2], rows)
        for row in rows:
            if row.kind == "alert":
                for axis in axes:
                    axis.axvline(_number(row.at), color=COLOUR[row.detail["colour"]], linewidth=1, linestyle="--")
                axes[0].annotate(
                    f"{row.detail['rule']} {row.detail['event']}", (_number(row.at), 1.0), xycoords=("data", "axes fraction"),
                    rotation=90, va="top", ha="right", fontsize=8, color=COLOUR[row.detail["colour"]],
                )  # fmt: skip
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes[2].xaxis.set_major_locator(locator)
        axes[2].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        figure.suptitle(title, fontsize=12)
    return figure


def save(rows: Sequence[HistoryRow], title: str, path: Path) -> None:
    """Writes the picture as PNG."""
    season_figure(rows, title).savefig(path, dpi=110)


def _ndvi(axis: Axes, rows: Sequence[HistoryRow]) -> None:
    axis.set_ylabel("NDVI")
    axis.set_ylim(-0.1, 1.0)
    curve = [row for row in rows if row.kind == "ndvi"]
    if curve:
        days = _times(curve)
        ndvi, sd = _array(curve, "ndvi"), _array(curve, "ndvi_sd")
        axis.fill_between(days, ndvi - 1.96 * sd, ndvi + 1.96 * sd, color=NDVI_COLOUR, alpha=0.15, linewidth=0,
                          label="95 % interval")  # fmt: skip
        axis.plot(days, ndvi, color=NDVI_COLOUR, linewidth=1.5, label="daily NDVI")
    views = [row for row in rows if row.kind == "s2" and row.ndvi is not None]
    if views:
        axis.plot(_times(views), _array(views, "ndvi"), "o", markersize=4, color="black", label="clear view")
    if curve or views:
        _legend(axis)


def _backscatter(axis: Axes, rows: Sequence[HistoryRow]) -> None:
    axis.set_ylabel("backscatter, dB")
    radar = [row for row in rows if row.kind == "s1"]
    orbits = sorted({row.relative_orbit or 0 for row in radar})
    for orbit, shade in zip(orbits, np.linspace(0.35, 0.9, max(len(orbits), 1)), strict=False):
        own = [row for row in radar if (row.relative_orbit or 0) == orbit]
        days = _times(own)
        axis.plot(
            days, _array(own, "vv_db"), color=mpl.colormaps["Blues"](shade), linewidth=1, label=f"VV orbit {orbit}"
        )
        axis.plot(
            days, _array(own, "vh_db"), color=mpl.colormaps["Oranges"](shade), linewidth=1, label=f"VH orbit {orbit}"
        )
    if radar:
        _legend(axis)


def _posteriors(axis: Axes, rows: Sequence[HistoryRow]) -> None:
    axis.set_ylabel("posterior")
    axis.set_ylim(0, 1.02)
    beliefs = [row for row in rows if row.kind == "posterior"]
    if not beliefs:
        return
    days = _times(beliefs)
    classes = beliefs[-1].detail["classes"]
    known = [row for row in beliefs if row.detail["classes"] == classes]  # an older model may know other classes
    values = np.array([row.detail["probabilities"] for row in known])
    for index in np.argsort(-values[-1])[:SHOWN_CLASSES]:
        axis.step(
            days[-len(known) :],
            values[:, index],
            where="post",
            linewidth=1.5,
            marker=".",
            markersize=3,
            label=classes[index],
        )
    _legend(axis)


def _legend(axis: Axes) -> None:
    """Beside the axes, where it hides nothing."""
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _array(rows: Sequence[HistoryRow], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if (value := getattr(row, name)) is None else value for row in rows])


def _times(rows: Sequence[HistoryRow]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Days of matplotlib's calendar."""
    return np.array([_number(row.at) for row in rows])


def _number(time: datetime) -> float:
    return float(date2num(time))  # type: ignore[no-untyped-call]
