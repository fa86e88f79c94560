"""A parcel's season as one figure: NDVI, backscatter, posteriors, alerts over the same days."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from rich.cells import cell_len, set_cell_size

from db.history import HistoryRow
from monitor.alerts.evidence import as_of
from monitor.alerts.lifecycle import TRANSITIONS
from terminal.output import printable

COLOUR: Final = {"green": "#3a7d44", "yellow": "#d9a400", "red": "#b3261e"}
NDVI_COLOUR: Final = "#2e7d32"
SHOWN_CLASSES: Final = 5
"""Classes shown by lines of their own; more lines than these cannot be distinguished by eye."""
LONGEST_LABEL: Final = 32
"""Width of a name in characters (an ideogram has two); longer ones would leave no room for the curves."""
EMPTY: Final[Mapping[str, str]] = {
    "ndvi": "no clear view and no daily NDVI",
    "backscatter": "no radar observation",
    "posterior": "no posterior",
}
STYLE: Final[Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.parse_math": False,  # a dollar sign in an id or a crop's name is no formula
}


@dataclass(frozen=True)
class Setting:
    """Hold what a figure shows beside the rows of a parcel's history."""

    season: tuple[date, date] | None = None
    """First and last day of the axis; None: as far as the rows reach."""
    subtitle: str = ""
    """What stands below the title."""
    empty: Mapping[str, str] = field(default_factory=dict)
    """Why a frame (ndvi, backscatter, posterior) is empty, where more can be said than that it is."""
    is_blind: bool = False
    """Show observations and the daily curve alone: a reviewer must not see what was found of the parcel."""


def season_figure(rows: Sequence[HistoryRow], title: str, setting: Setting | None = None) -> Figure:
    """Return the figure of a parcel's history; a frame without data says so."""
    setting = setting or Setting()
    frames = {"ndvi": _ndvi, "backscatter": _backscatter} | ({} if setting.is_blind else {"posterior": _posteriors})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.5 + 2 * len(frames)), layout="constrained")
        axes = figure.subplots(len(frames), 1, sharex=True, height_ratios=(3, 2, 2)[: len(frames)])
        has_data = {name: draw(axis, rows) for axis, (name, draw) in zip(axes, frames.items(), strict=True)}
        for axis, (name, is_filled) in zip(axes, has_data.items(), strict=True):
            if not is_filled:
                why = short(setting.empty.get(name, EMPTY[name]), 120)
                axis.text(
                    0.5, 0.5, why, transform=axis.transAxes, ha="center", va="center", color="#666666", in_layout=False
                )
        if setting.season:
            axes[0].set_xlim(*(_number(datetime(d.year, d.month, d.day, tzinfo=UTC)) for d in setting.season))
        if not setting.is_blind:
            _alerts(axes, rows, is_bounded=setting.season is not None)
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        figure.suptitle("\n".join(short(line, 120) for line in (title, setting.subtitle) if line), fontsize=12)
    return figure


def save(rows: Sequence[HistoryRow], title: str, path: Path | BinaryIO, setting: Setting | None = None) -> None:
    """Write the figure as PNG."""
    figure = season_figure(rows, title, setting)
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in scripts that the font lacks become boxes
        figure.savefig(path, dpi=110, format="png")


def short(text: str, longest: int = LONGEST_LABEL) -> str:
    """Return text from outside for a figure: one line without control characters, shortened if it is long."""
    clean = printable(text)
    return clean if cell_len(clean) <= longest else f"{set_cell_size(clean, longest - 1).rstrip()}…"


def _alerts(axes: Sequence[Axes], rows: Sequence[HistoryRow], *, is_bounded: bool) -> None:
    """Draw a line where the evidence of an alert's event ends, whenever that was worked on; one label for each day."""
    first, last = axes[0].get_xlim() if is_bounded else (-np.inf, np.inf)
    events: dict[float, list[HistoryRow]] = {}
    for row in rows:
        if (
            row.kind == "alert"
            and "decision" not in row.detail
            and ("monitor", row.detail["event"]) in TRANSITIONS
            and row.detail["event"] != "escalated"
        ):  # those follow from no observation
            day = as_of(row.detail)
            at = _number(row.at if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC))
            events.setdefault(min(max(at, first), last), []).append(row)
    for at, of_day in events.items():
        colour = COLOUR[of_day[-1].detail["colour"]]
        for axis in axes:
            axis.axvline(at, color=colour, linewidth=1, linestyle="--")
        rules = {
            row.detail["rule"]: [one.detail["event"] for one in of_day if one.detail["rule"] == row.detail["rule"]]
            for row in of_day
        }
        label = "; ".join(f"{rule} {', '.join(dict.fromkeys(happened))}" for rule, happened in rules.items())
        axes[0].annotate(
            label,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=8,
            color=colour,
        )
    if is_bounded:
        axes[0].set_xlim(first, last)


def _ndvi(axis: Axes, rows: Sequence[HistoryRow]) -> bool:
    axis.set_ylabel("NDVI")
    curve = [row for row in rows if row.kind == "ndvi"]
    if curve:
        days = _times(curve)
        ndvi, sd = _array(curve, "ndvi"), _array(curve, "ndvi_sd")
        axis.fill_between(
            days, ndvi - 1.96 * sd, ndvi + 1.96 * sd, color=NDVI_COLOUR, alpha=0.15, linewidth=0, label="95 % interval"
        )
        axis.plot(days, ndvi, color=NDVI_COLOUR, linewidth=1.5, label="daily NDVI")
    views = [row for row in rows if row.kind == "s2" and row.ndvi is not None]
    # Water is below the usual axis: a view that an alert rests on is never outside of it.
    axis.set_ylim(min([-0.1, *(row.ndvi - 0.05 for row in views if row.ndvi is not None)]), 1.0)
    if views:
        axis.plot(_times(views), _array(views, "ndvi"), "o", markersize=4, color="black", label="clear view")
    if curve or views:
        _legend(axis)
    return bool(curve or views)


def _backscatter(axis: Axes, rows: Sequence[HistoryRow]) -> bool:
    axis.set_ylabel("backscatter, dB")
    radar = [row for row in rows if row.kind == "s1"]
    orbits = sorted({row.relative_orbit or 0 for row in radar})
    for orbit, shade in zip(orbits, np.linspace(0.35, 0.9, max(len(orbits), 1)), strict=False):
        own = [row for row in radar if (row.relative_orbit or 0) == orbit]
        days = _times(own)
        for name, column, colours in (("VV", "vv_db", "Blues"), ("VH", "vh_db", "Oranges")):
            axis.plot(
                days,
                _array(own, column),
                color=mpl.colormaps[colours](shade),
                linewidth=1,
                label=f"{name} orbit {orbit}",
            )
    if radar:
        _legend(axis)
    return bool(radar)


def _posteriors(axis: Axes, rows: Sequence[HistoryRow]) -> bool:
    axis.set_ylabel("posterior probability")
    axis.set_ylim(0, 1.02)
    recorded = sorted((row for row in rows if row.kind == "posterior"), key=lambda row: row.recorded_at)
    if not recorded:
        return False
    classes: Sequence[str] = recorded[-1].detail["classes"]
    # An older model may know other classes; of what was computed again for an acquisition the newest counts; of one that was
    # withdrawn since, the posterior stays on record and is no longer part of the course.
    observed = {row.at for row in rows if row.kind in ("s1", "s2")}
    of_pass = {row.at: row for row in recorded if row.detail["classes"] == classes and row.at in observed}
    if not of_pass:
        return False
    lines = [of_pass[at] for at in sorted(of_pass)]
    days, values = _times(lines), np.array([row.detail["probabilities"] for row in lines])
    declared = next((row.crop for row in reversed(rows) if row.kind == "declaration"), None)
    shown = list(np.argsort(-values[-1])[:SHOWN_CLASSES])
    if declared in classes and classes.index(declared) not in shown:
        shown.append(classes.index(declared))
    for index in shown:
        is_declared = classes[index] == declared
        axis.step(
            days,
            values[:, index],
            where="post",
            linewidth=2.5 if is_declared else 1.5,
            marker=".",
            markersize=3,
            label=f" {short(classes[index])}{' (declared)' if is_declared else ''}",  # a first "_" would hide it
        )
    if declared is not None and declared not in classes:
        axis.plot([], [], " ", label=f" {short(declared)} (declared):\n not a crop of this model")
    _legend(axis)
    return True


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
