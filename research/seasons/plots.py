"""The plots of a season's report, as inline SVG that takes its ink from the page: readable in light and in dark.

Everything black in a figure becomes the page's `currentColor`; grounds are transparent; text stays text.
"""

import io
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import geopandas as gpd
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from shapely.affinity import translate

from db.history import HistoryRow
from monitor.inspection.figure import season_figure
from training.metrics import Bin, ClassScores

LIGHT_COLOURS: Final = {
    "green": "#4f9d5b",
    "yellow": "#e0b021",
    "red": "#c8372d",
    "not assessed": "#8fa3b0",
    "not monitorable": "#c9ced2",
}
CROP_COLOURS: Final = {
    "permanent grassland": "#2f7d4f",
    "temporary grassland": "#86c07f",
    "alfalfa": "#3f9c9c",
    "winter wheat": "#d6ad3f",
    "winter barley": "#a57c26",
    "spring barley": "#eed489",
    "winter rapeseed": "#f2e13a",
    "silage maize": "#e2873a",
    "sugar beet": "#a8417a",
    "potato": "#8b76b8",
    "seed onion": "#e3a3b8",
    "sunflower": "#b8472f",
    "wine grapes": "#56306e",
}
INK: Final = "#000000"  # what the page replaces by its own
TRUTH_COLOUR: Final = "#7b3fa0"
BASELINE_COLOUR: Final = "#c8772d"
MAIN_COLOUR: Final = "#2f7d4f"
BLOCK_GAP_M: Final = 25.0
"""Fields nearer than twice this belong to one block: tracks and ditches are narrower, blocks lie further apart."""
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "parcelwatch",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def crop_colours(crops: Sequence[str]) -> dict[str, str]:
    """Return a colour for each crop: swards green, cereals straw, roots violet and red; others from a palette."""
    others = iter(mpl.colormaps["tab20b"].colors * 3)  # type: ignore[attr-defined]
    return {crop: CROP_COLOURS.get(crop) or to_hex(next(others)) for crop in crops}


def field_map(parcels: gpd.GeoDataFrame, colours: Sequence[str]) -> str:
    """Return the fields of one region, a colour for each row; the country between the blocks of fields is cut out."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, 5), layout="constrained")
        axis = figure.subplots()
        moved_together(parcels.to_crs(parcels.estimate_utm_crs()).geometry).plot(
            ax=axis, color=list(colours), edgecolor=INK, linewidth=0.3
        )
        axis.set_axis_off()
        _scale_bar(axis)
        return svg(figure)


def moved_together(fields: gpd.GeoSeries) -> gpd.GeoSeries:
    """Return fields in metres, each block of touching fields moved onto a grid in rows from north to south, west to east."""
    blocks = gpd.GeoSeries([fields.buffer(BLOCK_GAP_M).union_all()], crs=fields.crs).explode(ignore_index=True)
    block_of = gpd.GeoDataFrame(geometry=fields.representative_point()).sjoin(gpd.GeoDataFrame(geometry=blocks))[
        "index_right"
    ]
    bounds = blocks.bounds
    side = float(max((bounds["maxx"] - bounds["minx"]).max(), (bounds["maxy"] - bounds["miny"]).max())) + BLOCK_GAP_M
    n_columns = int(np.ceil(np.sqrt(len(blocks) * 1.2)))  # a little wider than high, as a page is
    centre = blocks.centroid
    shift = {}
    for nr, own in enumerate(
        np.array_split(np.argsort(-centre.y.to_numpy()), range(n_columns, len(blocks), n_columns))
    ):
        for column, block in enumerate(own[np.argsort(centre.x.to_numpy()[own])]):
            shift[int(block)] = (column * side - centre.x[block], -nr * side - centre.y[block])
    return gpd.GeoSeries(
        [translate(field, *shift[int(block_of.loc[i])]) for i, field in fields.items()],
        index=fields.index,
        crs=fields.crs,
    )


def accuracy_over_season(
    days: Mapping[date, ClassScores], dates: Sequence[date], forest: Mapping[date, ClassScores], declared: float
) -> str:
    """Return accuracy as known on each day, with the dates of the table, the forest and the declaration beside it."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axis = figure.subplots()
        at: Any = list(days)
        axis.plot(at, [one.accuracy for one in days.values()], color=MAIN_COLOUR, label="network, accuracy")
        axis.plot(
            at, [one.macro_f1 for one in days.values()], color=MAIN_COLOUR, linestyle=":", label="network, macro-F1"
        )
        marked: Any = [day for day in dates if day in days]
        axis.plot(marked, [days[day].accuracy for day in marked], "o", color=MAIN_COLOUR)
        for day in marked:
            axis.annotate(
                f"{days[day].accuracy:.0%}",
                (day, days[day].accuracy),
                xytext=(0, 8),
                ha="center",
                textcoords="offset points",
                fontsize=9,
            )
        if forest:
            baselines: Any = sorted(forest)
            axis.plot(
                baselines,
                [forest[day].accuracy for day in baselines],
                "D",
                color=BASELINE_COLOUR,
                markersize=5,
                label="random forest, accuracy",
            )
        axis.axhline(declared, color=INK, linewidth=1, linestyle="--", alpha=0.6, label="declaration as given")
        axis.set_ylim(0, 1.08)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        _dates(axis)
        axis.legend(loc="lower right", fontsize=9)
        return svg(figure)


def reliability_plot(bins: Mapping[str, Sequence[Bin]]) -> str:
    """Return accuracy against confidence; on the diagonal a posterior means what it says."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", alpha=0.5)
        for (name, own), colour in zip(bins.items(), (MAIN_COLOUR, BASELINE_COLOUR), strict=False):
            at, right, n = (np.array([getattr(one, what) for one in own]) for what in ("confidence", "accuracy", "n"))
            axis.plot(at, right, color=colour, linewidth=1, alpha=0.6)
            axis.scatter(at, right, s=8 + 160 * n / max(n.max(), 1), color=colour, alpha=0.75, label=name, linewidths=0)
        axis.set(
            xlim=(0, 1.03), ylim=(0, 1.05), xlabel="highest posterior", ylabel="share that is right", aspect="equal"
        )
        axis.legend(loc="upper left", fontsize=9, markerscale=0.6)
        return svg(figure)


def parcel_plot(
    rows: Sequence[HistoryRow],
    days: NDArray[np.datetime64],
    truth: NDArray[np.float32],
    events: Sequence[tuple[date, str]],
) -> str:
    """Return a parcel's season as the monitor shows it, with the true NDVI and the true events on top."""
    with mpl.rc_context(_STYLE):
        figure = season_figure(rows, "")
        figure.set_size_inches(9, 6.8)
        for text in figure.axes[0].texts:
            text.set_fontsize(7.5)
        axis = figure.axes[0]
        axis.plot(days, truth, color=TRUTH_COLOUR, linewidth=1.2, linestyle="--", label="truth")
        for day, kind in events:
            at: Any = day
            if kind == "mowing":
                axis.plot([at], [-0.06], "^", color=TRUTH_COLOUR, markersize=5)
                continue
            axis.axvline(at, color=TRUTH_COLOUR, linewidth=1.2, linestyle=":")
            axis.annotate(
                f"{kind} (truth)",
                (at, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="bottom",
                ha="right",
                fontsize=7.5,
                color=TRUTH_COLOUR,
            )
        for each in [one for one in figure.axes if one.get_legend_handles_labels()[0]]:  # above the lines, not on them
            each.legend(
                loc="lower left", bbox_to_anchor=(0, 0.98), fontsize=8, ncols=5, borderaxespad=0, columnspacing=1.2
            )
        axis.set_xlim(days[0], days[-1])
        return svg(figure)


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element that scales with its container and takes the page's ink."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    return text.replace("#000000", "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)


def _dates(axis: Axes) -> None:
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _scale_bar(axis: Axes, length_m: float = 500.0) -> None:
    """Half a kilometre in the lower left corner."""
    x0, y0 = axis.get_xlim()[0], axis.get_ylim()[0] - 60
    axis.plot([x0, x0 + length_m], [y0, y0], color=INK, linewidth=2, solid_capstyle="butt")
    axis.annotate(
        f"{length_m:.0f} m", (x0 + length_m / 2, y0), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9
    )
