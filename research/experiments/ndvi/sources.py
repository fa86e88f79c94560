"""What the experiments reconstruct: a recorded or simulated season's parcels, or the pixels of raster patches.

Errors: SeasonDataError for a folder that holds no such thing, ExperimentError for one that is too small to split.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from models.ndvi.inputs import Bools
from research.experiments.gaps.series import GapSeries, calendar_year, dutch, is_grass, simulated
from research.experiments.ndvi.patches import pixels
from research.experiments.schemes import ExperimentError
from research.places import data_folder
from research.seasons.nl import NEEDED
from research.seasons.tabular import existing, read_parquet

Kind = Literal["nl", "simulator", "patches"]
MIN_PARCELS = 40
"""Of the simulator: twenty for each of its two regions."""
PIXELS_OF_A_SET = 4
"""Pixels simulated of a set: only its mean is used (chosen because four average speckle enough and are quick)."""


@dataclass(frozen=True)
class Source:
    """Where series come from."""

    kind: Kind
    folder: Path | None = None
    """Of nl and patches: a folder, or its name in PARCELWATCH_DATA; without it the kind's own there."""
    parcels: int = 360
    """Fields of the simulator (chosen as its demonstration has them)."""
    pixels: int | None = 1000
    """Pixels drawn of patches; None: all with a crop code."""
    year: int = 2025
    """Of the simulator."""
    seed: int = 1
    """Of the simulated landscape and of the draw of pixels."""

    def open(self) -> ScoredSeries:
        """Return the series; see `open_series`."""
        return open_series(self)


@dataclass(frozen=True)
class ScoredSeries:
    """Series with what their pages say: whose season it is, which are arable."""

    series: GapSeries
    starts_on: date
    """Day 0."""
    unit: Literal["parcels", "pixels"]

    @property
    def is_arable(self) -> Bools:
        """Return (P,) scored and not grass."""
        return self.series.is_scored & ~is_grass(self.series.group)

    @property
    def is_grass(self) -> Bools:
        """Return (P,) scored and grass."""
        return self.series.is_scored & is_grass(self.series.group)

    @property
    def kinds(self) -> dict[str, Bools]:
        """Return the parcels that are reported apart, those that there are."""
        return {name: who for name, who in (("arable", self.is_arable), ("grass", self.is_grass)) if who.any()}

    def on(self, day: int) -> date:
        """Return the calendar day of a day of the season."""
        return self.starts_on + timedelta(days=int(day))


def open_series(source: Source) -> ScoredSeries:
    """Return the series of a source.

    Raises:
        SeasonDataError: its folder does not hold what it should.
        ExperimentError: it names no folder, or has too few scored parcels to be split.
    """
    if source.kind == "simulator":
        if source.parcels < MIN_PARCELS:
            raise ExperimentError(f"{source.parcels} parcels of the simulator; at least {MIN_PARCELS} are needed")
        config = calendar_year(source.year, source.seed, source.parcels, PIXELS_OF_A_SET)
        return _splittable(ScoredSeries(simulated(config), date(source.year, 1, 1), "parcels"))
    folder = data_folder(source.kind, source.folder)
    if source.kind == "patches":
        series, starts_on = pixels(folder, source.pixels, source.seed)
        return _splittable(ScoredSeries(series, starts_on, "pixels"))
    dates = [
        read_parquet(existing(folder, name, NEEDED), [], dates=["date"])["date"].min()
        for name in ("s1_backscatter.parquet", "s2_indices.parquet")
    ]
    return _splittable(ScoredSeries(dutch(folder), date(min(dates).year, 1, 1), "parcels"))


def _splittable(found: ScoredSeries) -> ScoredSeries:
    """Return the series, if each of five folds can have a scored parcel."""
    n = int(np.isin(np.flatnonzero(found.series.is_scored), found.series.clear.parcel).sum())
    if n < 5 or len(np.unique(found.series.block[found.series.is_scored])) < 5:
        raise ExperimentError(f"{found.series.name}: {n} scored {found.unit} in too few blocks for five folds")
    return found
