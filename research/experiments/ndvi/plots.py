"""The plots of the experiments: one colour a model everywhere; R2 and RMSE by date, R2 under cloud, mean curves of crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from research.experiments.ndvi.scores import AIM_R2, Score, over_seeds

if TYPE_CHECKING:
    from research.experiments.ndvi.crops import CurvePoint

COLOURS: Final[Mapping[str, str]] = {"mcnn-seq": "#a8417a", "rnn": "#2c4d7a", "cnn": "#d6ad3f"}
FURTHER: Final = ("#2f7d4f", "#e2873a", "#56306e", "#7f9cc0", "#777777")
"""Rows of a file beyond the three networks."""
LOWEST_R2 = -0.5
"""Where the axis of R2 ends (chosen because the table has what lies below); such points are arrows on the edge, with their value."""
LONGEST_LINE_D = 42
"""Dates farther apart are not joined by a line: nothing was scored between them."""
STYLE: Final[Any] = {
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


def dates(path: Path, scores: Sequence[Score], hazy: Mapping[int, float], on: Callable[[int], date]) -> None:
    """R2 above RMSE by date, a column for each kind of parcels; hazy dates are shaded."""
    kinds = list(dict.fromkeys(one.parcels for one in scores))
    r2, rmse = over_seeds(scores, "r2"), over_seeds(scores, "rmse")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2 * len(kinds), 6.0), layout="constrained")
        axes = figure.subplots(2, len(kinds), squeeze=False, sharex=True)
        for column, kind in enumerate(kinds):
            for axis, table, name in ((axes[0, column], r2, "R2"), (axes[1, column], rmse, "RMSE")):
                for model in _models(scores):
                    own = sorted(
                        {(one.day, one.at, one.split) for one in scores if (one.model, one.parcels) == (model, kind)}
                    )
                    y = np.array([table[split, kind, at, model][0] for _, at, split in own])
                    x = [on(int(day)) for day, _, _ in own]
                    is_cut = y < LOWEST_R2 if name == "R2" else np.zeros(len(y), bool)
                    axis.plot(
                        *_broken(x, np.where(is_cut, LOWEST_R2, y)),
                        color=colour(model, scores),
                        marker=".",
                        linewidth=1.2,
                        label=model,
                    )
                    _mark_cut(axis, [x[nr] for nr in np.flatnonzero(is_cut)], y[is_cut], colour(model, scores))
                for nr, day in enumerate(hazy):
                    key = {"label": "hazy date"} if nr == 0 else {}
                    axis.axvspan(on(day - 1), on(day + 1), color="black", alpha=0.12, linewidth=0, **key)
                axis.set_ylabel(name)
            axes[0, column].axhline(
                AIM_R2, color="black", linewidth=0.8, linestyle="--", alpha=0.6, label=f"R2 of {AIM_R2:g}, the aim"
            )
            axes[0, column].set(title=kind, ylim=(LOWEST_R2 - 0.03, 1.0))
            axes[1, column].set_ylim(bottom=0)
            _months(axes[1, column])
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        figure.savefig(path)


def _broken(x: Sequence[date], y: NDArray[np.float64]) -> tuple[list[date], list[float]]:
    """Return points with NaN where the line between two of them would bridge more than `LONGEST_LINE_D`."""
    days, values = list[date](), list[float]()
    for day, value in zip(x, y.tolist(), strict=True):
        if days and (day - days[-1]).days > LONGEST_LINE_D:
            days.append(days[-1] + timedelta(days=1))
            values.append(np.nan)
        days.append(day)
        values.append(value)
    return days, values


def _mark_cut(axis: Axes, x: Sequence[date], y: NDArray[np.float64], shade: str) -> None:
    """Draw arrows with their values on the lower edge for points that lie below it."""
    for day, value in zip(x, y.tolist(), strict=True):
        axis.plot(np.array([day], "M8[D]"), [LOWEST_R2], marker="v", markersize=7, color=shade, clip_on=False)
        axis.annotate(
            f"{value:.1f}", (day, LOWEST_R2), (0, 7), textcoords="offset points", fontsize=7, ha="center", color=shade
        )


def clouds(path: Path, scores: Sequence[Score]) -> None:
    """R2 of the season against the share held back, a panel for each split and kind of parcels; dashes: views lost."""
    panels = list(dict.fromkeys((one.parcels, one.split) for one in scores))
    table = over_seeds(scores, "r2")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(panels) + 1.2, 3.6), layout="constrained")
        for axis, (kind, split) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            for reading, line in (("series", "-"), ("views", "--")):
                for model in _models(scores):
                    own = sorted(
                        (_share(at), *value)
                        for (s, k, at, m), value in table.items()
                        if (s, k, m) == (split, kind, model) and at.startswith(reading)
                    )
                    if not own:
                        continue
                    x, y, sd = np.array(own).T
                    axis.errorbar(
                        x,
                        y,
                        yerr=np.nan_to_num(sd),
                        color=colour(model, scores),
                        linestyle=line,
                        marker="o",
                        capsize=2,
                        label=f"{model}, {reading}",
                    )
            axis.set(title=f"{kind}, {split}", xlabel="held back, %", ylabel="R2")
            axis.set_xticks(sorted({_share(one.at) for one in scores}))
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center")
        figure.savefig(path)


def crops(path: Path, points: Sequence[CurvePoint], title: str) -> None:
    """A panel a crop: mean and two standard deviations of the views (grey) and of the reconstruction at them."""
    names = list(dict.fromkeys(one.crop for one in points))
    columns = min(3, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axis, name in zip(axes, names, strict=False):
            own = sorted((one for one in points if one.crop == name), key=lambda one: one.day)
            x = [date.fromisoformat(one.date) for one in own]
            y, y_sd = np.array([(one.observed, one.observed_sd) for one in own]).T
            f, f_sd = np.array([(one.reconstructed, one.reconstructed_sd) for one in own]).T
            axis.errorbar(
                x,
                y,
                yerr=2 * y_sd,
                fmt="o",
                color="#555555",
                markersize=3,
                elinewidth=0.8,
                alpha=0.7,
                label="observed, 2 sd",
            )
            shade = COLOURS.get(own[0].model, FURTHER[0])
            axis.plot(x, f, color=shade, linewidth=1.6, label="reconstructed")
            axis.fill_between(x, f - 2 * f_sd, f + 2 * f_sd, color=shade, alpha=0.2, linewidth=0, label="its 2 sd")
            axis.set_title(name, fontsize=10)
            _months(axis)
        for nr, axis in enumerate(axes):
            axis.set_visible(nr < len(names))
            axis.tick_params(labelbottom=nr + columns >= len(names))  # the lowest that is shown of each column
        axes[0].set_ylim(-0.1, 1.05)
        figure.supylabel("NDVI")
        figure.suptitle(title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.savefig(path)


def colour(model: str, scores: Sequence[Score]) -> str:
    """Return the colour of a model: its own, or the next of those for further rows."""
    further = [one for one in _models(scores) if one not in COLOURS]
    return COLOURS.get(model) or FURTHER[further.index(model) % len(FURTHER)]


def _months(axis: Axes) -> None:
    """Few, short dates below an axis."""
    locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _models(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(one.model for one in scores))


def _share(at: str) -> float:
    """Return the share of "series 50 %"."""
    return float(at.split()[1])
