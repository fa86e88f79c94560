"""The recorded Flemish patch as a season of images with known fields, and a picture of what was drawn on it.

A known field is a connected area of one declared crop, so that neighbours of one crop are one field: the data hold no finer outlines.
Shapes: T dates, C bands, (H, W) pixels.
Units:  reflectance 0 to 1.
Errors: SeasonDataError, as research.experiments.ndvi.patches has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch
from numpy.typing import NDArray

from db.sensors import S2_BANDS
from ingest.delineation.season import FINE
from models.segmentation.delineation_scores import Fit
from research.experiments.ndvi.patches import CLEAR_CLASSES, fields, folders, only, variable

YEAR: Final = timedelta(days=365)
RGB: Final = tuple(S2_BANDS.index(name) for name in ("B04", "B03", "B02"))
BRIGHTEST: Final = 0.25
"""Reflectance that is white in the picture."""
SUMMER: Final = range(5, 8)
"""Months whose clearest date is shown."""
MATCHED: Final = 0.5
"""IoU above which a drawn field is a known one."""
GOOD, BAD = "#7fd6a4", "#e0563b"


@dataclass(frozen=True)
class RecordedPatch:
    """The last year of the patch."""

    images: NDArray[np.float32]
    """(T, 10, H, W), clouds too."""
    is_clear: NDArray[np.bool_]
    """(T, H, W)."""
    dates: tuple[datetime, ...]
    crops: NDArray[np.int64]
    """(H, W) declared, 0: none."""

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """(H, W) known fields, 0 where there is none."""
        return fields(self.crops)

    @property
    def clear_images(self) -> NDArray[np.float32]:
        """Return the images, NaN where it is not clear."""
        return np.where(self.is_clear[:, None], self.images, np.float32(np.nan))


def read(folder: Path) -> RecordedPatch:
    """Return the patch of a folder, the first of several.

    Raises:
        SeasonDataError: a file or variable is missing.
    """
    place = folders(folder)[0]
    fine, coarse = only(place, "S2_L2A_10m"), only(place, "S2_L2A_20m")
    crops = variable(only(place, "OUTPUT"), "CT")[0][0].astype(np.int64)

    def band(name: str) -> NDArray[Any]:
        """Return a band (T, H, W), one of 20 m repeated."""
        values, _ = variable(fine if name in FINE else coarse, name)
        step = len(crops) // values.shape[-2]
        return values.repeat(step, -2).repeat(step, -1)

    images = np.stack([band(name) for name in S2_BANDS], 1).astype(np.float32) * np.float32(1e-4)
    is_clear, dates = np.isin(band("SCL"), list(CLEAR_CLASSES)), variable(fine, FINE[0])[1]
    kept = [nr for nr, one in enumerate(dates) if one > dates[-1] - YEAR]
    return RecordedPatch(images[kept], is_clear[kept], tuple(dates[nr] for nr in kept), crops)


def picture(patch: RecordedPatch, drawn: Mapping[str, tuple[NDArray[np.integer[Any]], Fit]]) -> Figure:
    """Return the patch on its clearest summer day, the declared crops, and by name the fields (H, W) that were drawn, with scores."""
    clear = [one.mean() if date.month in SUMMER else -1 for one, date in zip(patch.is_clear, patch.dates, strict=True)]
    day = int(np.argmax(clear))
    shown = np.clip(patch.images[day, RGB].transpose(1, 2, 0) / BRIGHTEST, 0, 1)
    figure = Figure(figsize=(3.6 * (2 + len(drawn)), 5.0), layout="constrained")
    axes = figure.subplots(1, 2 + len(drawn), squeeze=False)[0]
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.imshow(shown)
    axes[0].set_title(f"Sentinel-2, {patch.dates[day]:%-d %B %Y}", fontsize=10)
    codes = np.unique(patch.crops[patch.crops > 0])
    colours = ListedColormap([f"C{nr}" for nr in range(len(codes))])
    of_code = np.ma.masked_equal(np.searchsorted(codes, patch.crops) + (patch.crops > 0), 0)
    axes[1].imshow(of_code, cmap=colours, vmin=1, vmax=len(codes), interpolation="nearest")
    _outlines(axes[1], patch.known, "black")
    axes[1].set_title(f"declared, {patch.known.max()} areas of one crop", fontsize=10)
    swatches = [Swatch(color=colours(nr), label=f"crop code {code}") for nr, code in enumerate(codes)]
    for axis, (name, (labels, fit)) in zip(axes[2:], drawn.items(), strict=True):
        is_found = _found(labels, patch.known)
        fill = np.ma.masked_equal(np.where(labels > 0, 1 + is_found[labels], 0), 0)
        axis.imshow(fill, cmap=ListedColormap([BAD, GOOD]), vmin=1, vmax=2, alpha=0.45, interpolation="nearest")
        _outlines(axis, labels, "black")
        title = f"{name}, {fit.drawn} fields on declared land\nF1 {fit.f1:.2f}, boundary IoU {fit.boundary_iou:.2f}, GTC {fit.gtc:.2f}"
        axis.set_title(title, fontsize=10)
    swatches += [
        Swatch(color=GOOD, label=f"drawn as declared (IoU above {MATCHED})"),
        Swatch(color=BAD, label="drawn, declared otherwise or not at all"),
    ]
    figure.legend(handles=swatches, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def _found(fields: NDArray[np.integer[Any]], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N + 1,) 1 of the fields whose IoU with a known one is above `MATCHED`; pixels without a known one are not looked at."""
    shared = np.zeros((int(fields.max()) + 1, int(known.max()) + 1), np.int64)
    np.add.at(shared, (fields[known > 0], known[known > 0]), 1)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    is_found: NDArray[np.bool_] = (shared[:, 1:] > MATCHED * union[:, 1:]).any(1)
    is_found[0] = False
    return is_found.astype(np.int64)


def _outlines(axis: Any, fields: NDArray[np.integer[Any]], colour: str) -> None:
    """Draw the edges between pixels of different fields."""
    for row, column in zip(*np.nonzero(np.diff(fields, axis=0)), strict=True):
        axis.plot([column - 0.5, column + 0.5], [row + 0.5] * 2, color=colour, linewidth=0.9)
    for row, column in zip(*np.nonzero(np.diff(fields, axis=1)), strict=True):
        axis.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], color=colour, linewidth=0.9)
