"""A batch of claimed parcels on its way through the stages: what is known of them, the active models, what the stages found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from db import policies, registry, states
from db.alerts import FindingRow
from db.connect import Connection
from db.markers import MarkerRows
from db.parcels import DeclaredParcels, centroids, declared_parcels
from db.phenology import SeasonDates
from db.predictions import DailyCurves, NdviRows, Posteriors
from db.seasons import Season, season_by_key
from db.series import pending_series, s1_series, s2_series
from db.states import OF_NO_MODEL, States
from db.work import Claim
from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from models.classifier.cross_fitted import CrossFitted, classifier_of
from models.ndvi.curve_models import CurveModel, curve_model_of
from models.ndvi.gap_filler import GapModel
from models.ndvi.whittaker import Whittaker
from monitor import simple_curve
from monitor.alerts.rules import Finding
from monitor.crop_progress import KnownGroups, KnownStands
from monitor.policies.policy import Policy
from monitor.season_series import SeasonSeries
from monitor.settings import MonitorSettings

Model = TypeVar("Model")
SERIES: Final = "series"
"""Under which a parcel's compact series is stored beside the states."""


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
    _curve_models: dict[int, CurveModel] = field(default_factory=dict)
    _policies: dict[str, Policy] = field(default_factory=dict)
    """By hash."""

    def classifier(self, connection: Connection, claim: Claim) -> Active[CropModel] | None:
        """Return the classifier of the claim's season, None where there is none."""
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.precision]
        return _active(
            connection,
            claim,
            "classifier",
            self._classifiers,
            lambda checkpoint: classifier_of(checkpoint).for_inference(self.settings.device, dtype),
        )

    def curve_model(self, connection: Connection, claim: Claim, now: datetime) -> Active[CurveModel]:
        """Return the model of the daily curve of the claim's season, the simple smoother where none is active."""

        def load(checkpoint: Checkpoint) -> CurveModel:
            model = curve_model_of(checkpoint)
            return model.to(self.settings.device) if isinstance(model, GapModel) else model

        if (active := _active(connection, claim, "ndvi", self._curve_models, load)) is not None:
            return active
        return Active(simple_curve.registered(connection, now), Whittaker())

    def policy(self, connection: Connection, claim: Claim) -> Policy | None:
        """Return the policy in force, None where there is none."""
        row = policies.in_force(connection, claim.season_key, claim.collection)
        if row is not None and row.hash not in self._policies:
            self._policies[row.hash] = Policy.stored(row.content)
        return None if row is None else self._policies[row.hash]


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

    posteriors: Posteriors
    """By parcel and acquisition; parcels without a new acquisition have none, a rebuilt one has all of its own."""
    rebuilt: NDArray[np.int64]
    """Keys of parcels whose course begins at the season's start."""
    n_observations: int
    """Observations that went through the network."""
    is_changed: NDArray[np.bool_]
    """(G,) posteriors that are to be stored."""


@dataclass
class BatchContext:
    """One transaction's batch. Stages read what is known and what stages before them found, and add what they find."""

    connection: Connection
    claim: Claim
    now: datetime
    """The worker's clock: says whether the season is over, never when something became known."""
    settings: MonitorSettings
    season: Season
    parcels: DeclaredParcels
    """(P) in the order of the claim."""
    is_in_order: NDArray[np.bool_]
    """(P,) parcels of which nothing is pending but observations later than all that their states hold: nothing else of them is read."""
    s2: NDArray[np.void]
    s1: NDArray[np.void]
    """What is pending of parcels in order, all that is known of the others, sorted by parcel and time."""
    series: SeasonSeries
    """The season's clear views and radar of all."""
    carried: SeasonSeries
    """What was carried of all, in order or not."""
    states: dict[tuple[int, str], States]
    """Those stored, by model key and sequence."""
    classifier: Active[CropModel] | None
    curve_model: Active[CurveModel]
    policy: Policy | None
    """In force."""
    fold: NDArray[np.int64] | None = None
    """(P,) which of several models answers each, None where one answers all."""
    new_states: list[States] = field(default_factory=list)
    """States that are to be stored."""
    recorded_at: datetime | None = None
    """When what the batch stores becomes known, None until all that takes long is done.

    From then on who asks as known later waits for the commit."""
    classified: Classified | None = None
    splits: list[tuple[NDArray[np.void], NDArray[np.void]]] = field(default_factory=list)
    """Rows of Sentinel-2 and the splits of their pixel sets, of sets that were read for the classifier."""
    curve: NdviRows | None = None
    """Days of the curves that are to be stored."""
    curves: DailyCurves | None = None
    """The daily curves with these days, of parcels of which there is anything new."""
    season_dates: SeasonDates | None = None
    """Start, peak and end of seasons that are to be stored."""
    low_passes: NDArray[np.void] | None = None
    """Radar passes that are low, or are not any more, which are to be stored (`db.low_passes.PASS`)."""
    marked: list[MarkerRows] = field(default_factory=list)
    """What markers of field work and vigour say that is to be stored."""
    is_restated: NDArray[np.bool_] = field(init=False)
    """(P,) parcels of which the series carries something else though nothing of them was observed."""
    _neighbours: tuple[KnownGroups, NDArray[np.int64]] | None = None
    findings: list[tuple[FindingRow, Finding]] = field(default_factory=list)
    """Findings that changed."""
    n_alert_events: int = 0

    def __post_init__(self) -> None:
        self.is_restated = np.zeros(len(self.claim.parcel_keys), bool)

    @classmethod
    def load(cls, connection: Connection, claim: Claim, now: datetime, models: ActiveModels) -> "BatchContext":
        """Read what the stages need to know of the claimed parcels."""
        season, keys = season_by_key(connection, claim.season_key), claim.parcel_keys
        classifier, curve_model = models.classifier(connection, claim), models.curve_model(connection, claim, now)
        active = [curve_model.key, *([] if classifier is None else [classifier.key])]
        cached = states.load(connection, keys, [*active, OF_NO_MODEL])
        carried, has_series = SeasonSeries.carried(keys, cached.get((OF_NO_MODEL, SERIES)))
        is_in_order = has_series & _is_in_order(claim, carried)
        if classifier is not None:
            is_in_order &= _has_states(classifier, cached, keys, carried)
        new_s2, new_s1 = pending_series(connection, keys[is_in_order], claim.observations)
        s2, s1 = (
            _by_parcel(read(connection, keys[~is_in_order], None), new)
            for read, new in ((s2_series, new_s2), (s1_series, new_s1))
        )
        is_new = claim.is_among(s2, True), claim.is_among(s1, False)
        known = SeasonSeries.of(s2, s1, is_new, keys, season.starts_on)
        return cls(
            connection,
            claim,
            now,
            models.settings,
            season,
            declared_parcels(connection, keys),
            is_in_order,
            s2,
            s1,
            carried.where(is_in_order).joined(known),
            carried,
            cached,
            classifier,
            curve_model,
            models.policy(connection, claim),
            None if classifier is None else _folds(connection, classifier.model, keys),
        )

    def fold_of(self, places: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return which of several classifiers answers the parcels at places of the claim, None where one answers all."""
        return None if self.fold is None else self.fold[places]

    def neighbours(self, known: KnownStands) -> tuple[KnownGroups, NDArray[np.int64]]:
        """Return how the groups of region and crop stand, and (P,) the place of each parcel's, read once a batch."""
        if self._neighbours is None:
            groups = known.of(self.connection, self.season, self.claim.collection, self.settings.rules)
            self._neighbours = groups, groups.of(self.parcels.region, self.parcels.crop_code)
        return self._neighbours

    def carry(self) -> None:
        """Add the season's series of parcels that were observed, or of which something else is said, to the states to store."""
        observed = np.isin(self.claim.parcel_keys, self.claim.observations["parcel_key"])
        some = np.flatnonzero(observed | self.is_restated | ~self.is_in_order)
        n, newest = self.series.n_observations.sum(axis=1)[some], self.series.newest[some]
        keys = self.claim.parcel_keys[some]
        self.new_states.append(States(OF_NO_MODEL, SERIES, keys, n, newest, self.series.stored(some)))

    @property
    def longest_course(self) -> int:
        """Return the most posteriors that are to be stored of one parcel: as many microseconds apart are they recorded."""
        if self.classified is None:
            return 1
        changed = self.classified.posteriors.parcel_key[self.classified.is_changed]
        return int(np.unique(changed, return_counts=True)[1].max(initial=1))


def _folds(connection: Connection, model: CropModel, keys: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the folds of parcels (P,); nothing is read of them where one model answers all."""
    return model.fold_of(*centroids(connection, keys)) if isinstance(model, CrossFitted) else None


def _is_in_order(claim: Claim, carried: SeasonSeries) -> NDArray[np.bool_]:
    """Return (P,) whether only observations are pending, each its pass's first revision and later than all before."""
    pending = claim.observations
    index = np.searchsorted(claim.parcel_keys, pending["parcel_key"])
    is_in_order = ~(claim.is_due("classifier") | claim.is_due("ndvi"))
    is_in_order[index[(pending["revision"] > 0) | (pending["observed_at"] <= carried.newest[index])]] = False
    return is_in_order


def _has_states(
    classifier: Active[CropModel],
    cached: Mapping[tuple[int, str], States],
    keys: NDArray[np.int64],
    carried: SeasonSeries,
) -> NDArray[np.bool_]:
    """Return (P,) whether every state of the classifier holds exactly what the carried series does."""
    has, config = np.ones(len(keys), bool), classifier.model.config
    for name in config.sequences:
        has &= n_held(cached.get((classifier.key, name)), keys, -1) == carried.count(config.members(name))
    return has


def n_held(stored: States | None, keys: NDArray[np.int64], nothing: int) -> NDArray[np.int64]:
    """Return (P,) how many observations each parcel's stored state holds, `nothing` where there is none."""
    held = np.full(len(keys), nothing)
    if stored is not None:
        held[np.searchsorted(keys, stored.parcel_key)] = stored.n_folded
    return held


def _by_parcel(known: NDArray[np.void], new: NDArray[np.void]) -> NDArray[np.void]:
    """Return the rows of different parcels sorted by parcel, in each in their order."""
    if not len(known) or not len(new):
        return new if len(new) else known
    rows = np.concatenate([known, new])
    return rows[np.argsort(rows["parcel_key"], kind="stable")]


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
            parcels=len(batch.claim.parcel_keys),
            observations=classified.n_observations if classified else 0,
            posteriors=int(classified.is_changed.sum()) if classified else 0,
            ndvi_days=len(curve.day) if curve is not None else 0,
            alert_events=batch.n_alert_events,
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.__dict__.values(), other.__dict__.values(), strict=True)))
