"""The kinds of labelled parcels that `research` adds to a run's table [data]: PASTIS-R, recorded folders, the simulator.

`training.sources.LABELLED` names them; this module is imported when a file does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from research.experiments import pastis, pastis_pixelset, season_source
from research.experiments.ndvi.sources import MIN_PARCELS
from research.experiments.pastis_store import Options
from research.places import data_folder
from research.seasons.recorded import open_season
from research.simulator import SimulatorConfig, simulate_season
from training.labelled import LabelledParcels
from training.sources import LabelledSource, Progress


class PastisData(LabelledSource):
    """A PASTIS-R folder with its official folds, as patches or as pixel sets."""

    kind: Literal["pastis", "pastis-pixelset"]
    path: Path
    pixels: Annotated[int, Field(ge=1)] = 64
    """Pixels of a set, at most."""
    skip_broken: bool = False
    """Patches that cannot be read are left out, counted and reported, as in a part of a download; else they are an error."""
    cache: Path | None = None
    """Where the packed parcels lie; without it in the folder, or in the user's cache where that is read-only."""

    def open(self, progress: Progress | None = None) -> LabelledParcels:
        """Return the parcels, cut and packed the first time; raises PastisError."""
        reader = {"pastis": pastis.read, "pastis-pixelset": pastis_pixelset.read}[self.kind]
        options = Options(pixels=self.pixels, skip_broken=self.skip_broken)
        return reader(data_folder(self.kind, self.path), cache=self.cache, options=options, progress=progress)


class RecordedData(LabelledSource):
    """A recorded folder of the Dutch or the French form, labels and folds as the data's page says."""

    kind: Literal["nl", "fr"]
    path: Path | None = None
    """The folder, or its name in PARCELWATCH_DATA; without it the kind's own there."""

    def require(self) -> None:
        """Raise ExperimentError where the folder is not there."""
        data_folder(self.kind, self.path)

    def open(self, progress: Progress | None = None) -> LabelledParcels:  # noqa: ARG002 (nothing is cut)
        """Return the parcels; raises SeasonDataError."""
        return season_source.recorded(open_season(self.kind, data_folder(self.kind, self.path)))


class SimulatorData(LabelledSource):
    """A simulated season in memory, labelled with the crops that truly grew; defaults as in the demonstration."""

    kind: Literal["simulator"] = "simulator"
    parcels: Annotated[int, Field(ge=MIN_PARCELS)] = 360
    seed: int = 1
    year: int = 2025
    pixels: Annotated[int, Field(ge=1)] = 16
    """Pixels of a set, at most."""
    s1_every_d: int = 12
    s1_orbits: int = 1
    min_parcels: Annotated[int, Field(ge=1)] = 8
    """Crops that fewer parcels grow are left out."""

    def open(self, progress: Progress | None = None) -> LabelledParcels:  # noqa: ARG002 (nothing is cut)
        """Return the parcels of a season simulated now."""
        config = SimulatorConfig(
            year=self.year,
            seed=self.seed,
            n_parcels=self.parcels,
            n_pixels=self.pixels,
            s1_every_d=self.s1_every_d,
            s1_orbits=self.s1_orbits,
        )
        return season_source.simulated(simulate_season(config), self.min_parcels)
