"""A batch of claimed parcels on its way through the stages: what is known of them, the active models, what the stages found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from db import registry
from db.alerts import FindingRow
from db.connect import Connection
from db.parcels import Parcel, Season, load_parcels, season_by_key
from db.predictions import NdviRows, PosteriorRow
from db.series import s1_series, s2_series
from db.work import Claim
from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from models.ndvi.gap_filler import GapModel
from monitor.alerts.rules import Finding
from monitor.settings import MonitorSettings

Model = TypeVar("Model")


@dataclass(frozen=True)
class Active(Generic[Model]):
    """A model that watches the season, under its key in the registry."""

    key: int
    model: Model


@dataclass
class ActiveModels:
    """Models that are active for collections and seasons, loaded once."""

    settings: MonitorSettings
    _classifiers: dict[int, CropModel] = field(default_factory=dict)
    _curve_models: dict[int, GapModel] = field(default_factory=dict)

    def classifier(self, connection: Connection, claim: Claim) -> Active[CropModel] | None:
        """Return the classifier of the claim's season, None where there is none."""
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.precision]
        return _active(
            connection,
            claim,
            "classifier",
            self._classifiers,
            lambda checkpoint: CropModel.from_checkpoint(checkpoint).for_inference(self.settings.device, dtype),
        )

    def curve_model(self, connection: Connection, claim: Claim) -> Active[GapModel] | None:
        """Return the model of the daily curve of the claim's season, None where there is none."""
        return _active(
            connection,
            claim,
            "ndvi",
            self._curve_models,
            lambda checkpoint: GapModel.from_checkpoint(checkpoint).to(self.settings.device),
        )


def _active(
    connection: Connection,
    claim: Claim,
    task: registry.Task,
    loaded: dict[int, Model],
    load: Callable[[Checkpoint], Model],
) -> Active[Model] | None:
    row = registry.active(connection, claim.season_key, claim.collection, task)
    if row is None:
        return None
    if row.model_key not in loaded:
        loaded[row.model_key] = load(Checkpoint(*registry.checkpoint(connection, row.model_key)))
    return Active(row.model_key, loaded[row.model_key])


@dataclass(frozen=True)
class Classified:
    """The posteriors that the claimed parcels' new acquisitions make."""

    courses: Mapping[int, list[PosteriorRow]]
    """By parcel key, in order of acquisition; parcels without a new acquisition are absent, a rebuilt one has all of its own."""
    rebuilt: frozenset[int]
    """Parcels whose course begins at the season's start."""
    n_observations: int
    """Observations that went through the network."""
    changed: Mapping[int, list[PosteriorRow]]
    """Those of `courses` that are to be stored."""


@dataclass
class BatchContext:
    """One transaction's batch. Stages read what is known and what stages before them found, and add what they find."""

    connection: Connection
    claim: Claim
    now: datetime
    """The worker's clock: says whether the season is over, never when something became known."""
    settings: MonitorSettings
    season: Season
    parcels: Sequence[Parcel]
    """(P) in the order of the claim."""
    s2: NDArray[np.void]
    s1: NDArray[np.void]
    """All that is known of the claimed parcels, sorted by parcel and time."""
    classifier: Active[CropModel] | None
    curve_model: Active[GapModel] | None
    recorded_at: datetime | None = None
    """When what the batch stores becomes known, None until all that takes long is done.

    From then on who asks as known later waits for the commit."""
    classified: Classified | None = None
    curve: NdviRows | None = None
    """Days of the curves that are to be stored."""
    findings: list[tuple[FindingRow, Finding]] = field(default_factory=list)
    """Findings that changed."""
    n_alert_events: int = 0

    @classmethod
    def load(cls, connection: Connection, claim: Claim, now: datetime, models: ActiveModels) -> "BatchContext":
        """Read what is known of the claimed parcels."""
        season = season_by_key(connection, claim.season_key)
        return cls(
            connection,
            claim,
            now,
            models.settings,
            season,
            load_parcels(connection, season, claim.collection, None, claim.parcel_keys.tolist()),
            s2_series(connection, claim.parcel_keys, None),
            s1_series(connection, claim.parcel_keys, None),
            models.classifier(connection, claim),
            models.curve_model(connection, claim),
        )

    @property
    def longest_course(self) -> int:
        """Return the most posteriors that are to be stored of one parcel: as many microseconds apart are they recorded."""
        return max(map(len, self.classified.changed.values()), default=1) if self.classified else 1


@dataclass(frozen=True)
class Counts:
    """How much of the pending work was done."""

    parcels: int = 0
    observations: int = 0
    posteriors: int = 0
    ndvi_days: int = 0
    alert_events: int = 0
    postponed: int = 0

    @classmethod
    def of(cls, batch: BatchContext) -> "Counts":
        """Count what a batch did."""
        classified, curve = batch.classified, batch.curve
        return cls(
            parcels=len(batch.parcels),
            observations=classified.n_observations if classified else 0,
            posteriors=sum(map(len, classified.changed.values())) if classified else 0,
            ndvi_days=len(curve.day) if curve is not None else 0,
            alert_events=batch.n_alert_events,
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.__dict__.values(), other.__dict__.values(), strict=True)))
