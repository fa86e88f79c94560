"""Opening a source: what the table [data] of a run's configuration names, as labelled parcels."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from db.connect import engine
from db.parcels import Parcel, season_by_name
from devstack.addresses import resolve_dsn
from research.experiments import pastis, pastis_pixelset, playable
from research.experiments.pastis_store import Options, Progress
from research.seasons.recorded import open_season
from research.simulator import SimulatorConfig, simulate_season
from training import season_models, stored_season
from training.config import DatabaseData, DataConfig, PastisData, RecordedData, SimulatorData
from training.folds import blocked_folds
from training.labelled import LabelledParcels
from training.stored_season import TrainingData


def open_source(data: DataConfig, progress: Progress | None = None) -> LabelledParcels:
    """The labelled parcels that a configuration names.

    Args:
        progress: called after each patch of PASTIS-R that is cut: a first reading of all takes minutes.

    Raises:
        RunConfigError: a setting that only the data can tell to be wrong.
        NothingToLearn, SeasonDataError, PastisError, UnknownSeason: the source holds too little, or is not there.
    """
    match data:
        case DatabaseData():
            return of_training_data(load_stored(data), data)
        case PastisData():
            return pastis_r(data, progress)
        case RecordedData():
            return playable.recorded(open_season(data.kind, data.path))
        case SimulatorData():
            return playable.simulated(simulate_season(simulator_config(data)), data.min_parcels)


def simulator_config(data: SimulatorData) -> SimulatorConfig:
    """The simulator's own settings."""
    return SimulatorConfig(
        year=data.year,
        seed=data.seed,
        n_parcels=data.parcels,
        n_pixels=data.pixels,
        s1_every_d=data.s1_every_d,
        s1_orbits=data.s1_orbits,
    )


def load_stored(data: DatabaseData) -> TrainingData:
    """A stored season with its declared crops as labels."""

    def label_of(parcel: Parcel) -> str | None:
        return parcel.crop_name if (parcel.area_ha or 0) >= data.min_area_ha else None

    with engine(resolve_dsn()).connect() as connection:
        season = season_by_name(connection, data.season)
        return stored_season.load(
            connection, season, data.collection, datetime.now(UTC), label_of=label_of, min_parcels=data.min_parcels
        )


def of_training_data(loaded: TrainingData, data: DatabaseData) -> LabelledParcels:
    """What was loaded of a stored season, with folds blocked in space."""
    folds = blocked_folds(loaded.blocks.astype(str).tolist(), [loaded.classes[one] for one in loaded.labels])
    days = season_models.evaluation_days(loaded.season, data.scored_on)
    return LabelledParcels(
        name=f"{data.collection}-{loaded.season.name}",
        observations=loaded.observations,
        geometry=loaded.geometry,
        labels=loaded.labels,
        classes=loaded.classes,
        modalities=loaded.modalities,
        fold=np.array(folds, np.int64) + 1,
        block=loaded.blocks,
        scored_on=days,
        day_names=tuple(f"{day:%-d %b}" for day in sorted(data.scored_on)) or tuple(f"day {day:.0f}" for day in days),
    )


def pastis_r(data: PastisData, progress: Progress | None = None) -> LabelledParcels:
    """A PASTIS-R folder in either of its forms, cut and packed the first time."""
    reader = {"pastis": pastis.read, "pastis-pixelset": pastis_pixelset.read}[data.kind]
    options = Options(pixels=data.pixels, skip_broken=data.skip_broken)
    return reader(data.path, cache=data.cache, options=options, progress=progress)
