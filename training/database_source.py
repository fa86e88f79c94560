"""A stored season as a source of labelled parcels: the table [data] with kind = "database"."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from db.connect import engine
from db.parcels import Parcel
from db.seasons import season_by_name
from devstack.addresses import resolve_dsn
from training import season_models, stored_season
from training.folds import blocked_folds
from training.labelled import LabelledParcels
from training.sources import LabelledSource, Progress
from training.stored_season import TrainingData


class DatabaseData(LabelledSource):
    """A stored season, its declared crops as labels, folds blocked in space."""

    kind: Literal["database"] = "database"
    season: str
    collection: str
    min_area_ha: Annotated[float, Field(ge=0)] = 0.0
    min_parcels: Annotated[int, Field(ge=1)] = 12
    """Crops with fewer parcels are left out."""
    scored_on: tuple[date, ...] = ()
    """Dates at whose end scores are taken; without any, shares of the season."""

    def open(self, progress: Progress | None = None) -> LabelledParcels:  # noqa: ARG002 (nothing is cut)
        """Return the labelled parcels; raises NothingToLearn, UnknownSeason."""
        return _labelled(self._load(), self)

    def _load(self) -> TrainingData:
        def label_of(parcel: Parcel) -> str | None:
            return parcel.crop_name if (parcel.area_ha or 0) >= self.min_area_ha else None

        with engine(resolve_dsn()).connect() as connection:
            season = season_by_name(connection, self.season)
            return stored_season.load(
                connection, season, self.collection, datetime.now(UTC), label_of=label_of, min_parcels=self.min_parcels
            )


def _labelled(loaded: TrainingData, data: DatabaseData) -> LabelledParcels:
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
        about=season_models.about(loaded, n_training=len(loaded.labels)),
        parcel_ids=np.array([one.source_id for one in loaded.parcels]),
        starts_on=loaded.season.starts_on,
    )
