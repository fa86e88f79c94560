"""One batch of pending work: claim parcels, fold what is new, draw NDVI, assess, save; all in one transaction.

The transaction sees one snapshot of the store (repeatable read, db/work.py): what it removes from the pending work is what it
has read. If anything fails it leaves nothing behind, and the parcels are tried again one by one, so that a single poisoned
parcel cannot hold up the others: it alone is postponed, with its error, for an operator to see. Where all fail, nothing more is
tried: that is no poisoned parcel but a broken model, or a full disk.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import psycopg
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from db import beliefs, recording, registry, work
from db.beliefs import NdviRows, PosteriorRow
from db.connect import engine, is_away
from db.parcels import Parcel, Season, load_parcels, previous_season, season_by_key
from db.progress import ProgressRow, with_another_crop_before
from db.progress import load as load_progress
from db.series import s1_series, s2_series
from db.work import Claim
from models.checkpoint import Checkpoint
from models.crop_model import CropModel
from models.gap_model import GapModel
from monitor import curves, posteriors
from monitor.assess import Known, assess
from monitor.errors import NothingWorks
from monitor.features import geometry, split_modalities
from monitor.posteriors import Folded
from monitor.progress import neighbours
from monitor.rules import Posterior
from monitor.seasonality import date_seasons
from monitor.settings import MonitorSettings
from monitor.train import curve_model

log = logging.getLogger(__name__)

_OUTRUN: Final = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
"""Another transaction was faster: nothing was written, and the same again works."""
_TRIES: Final = 20
"""How often a batch that is outrun is tried at once: each time some other worker got on, so few are enough."""


@dataclass(frozen=True)
class Counts:
    """What was done of the pending work."""

    parcels: int = 0
    observations: int = 0
    posteriors: int = 0
    ndvi_days: int = 0
    alert_events: int = 0
    postponed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.__dict__.values(), other.__dict__.values(), strict=True)))


@dataclass
class Worker:
    """Works off pending parcels of every season that a model watches; keeps loaded models between batches."""

    dsn: str
    settings: MonitorSettings
    _classifiers: dict[int, CropModel] = field(default_factory=dict)
    _ndvi: dict[int, GapModel] = field(default_factory=dict)
    _last: datetime | None = None
    _claimed: tuple[int, str] | None = None
    """Season and collection of the batch before."""
    _seen: set[int] = field(default_factory=set)
    """Parcels worked on since `look` began, so that none is counted twice."""

    def look(self, now: datetime, stop: threading.Event | None = None) -> Counts:
        """Work until nothing that can be claimed is left, or until `stop` after the batch in hand.

        Raises:
            NothingWorks: several parcels failed one after the other and none did not.
        """
        total = Counts()
        self._seen.clear()
        while stop is None or not stop.is_set():
            counts = self.batch(now)
            if counts is None:
                break
            total += counts
        return replace(total, parcels=len(self._seen))

    def batch(self, now: datetime) -> Counts | None:
        """Work off one batch; None when there was nothing to claim. Errors as `look`, and those of a database that is away."""
        try:
            return self._tried(now, self.settings.batch)
        except sa.exc.DBAPIError as error:
            if is_away(error):
                raise  # nothing was written, the caller waits
            failure: Exception = error
        except Exception as error:  # noqa: BLE001 - outermost loop of a batch: logged, then tried parcel by parcel
            failure = error
        log.warning(
            "a batch failed, its parcels are tried one by one: %s", _line(failure), exc_info=log.isEnabledFor(10)
        )
        return self._one_by_one(now)

    def _tried(self, now: datetime, limit: int) -> Counts | None:
        """One batch in one transaction, tried again where other workers were faster."""
        for nth in range(_TRIES):
            try:
                with self._transaction() as connection:
                    claim = work.claim(connection, limit, now, self._claimed)
                    if claim is None:
                        return None
                    counts = self._process(connection, claim, now)
                self._did(claim)
                return counts
            except sa.exc.DBAPIError as error:
                if not isinstance(error.orig, _OUTRUN) or nth == _TRIES - 1:
                    raise
            except _OUTRUN:  # from COPY, which goes past SQLAlchemy
                if nth == _TRIES - 1:
                    raise
        return None

    def _one_by_one(self, now: datetime) -> Counts:
        total = Counts()
        failures: list[str] = []
        for _ in range(self.settings.batch):
            counts = self._tried_alone(now, failures)
            if counts is None:
                break
            total += counts
            if total.parcels == 0 and len(failures) >= self.settings.give_up_after:
                raise NothingWorks(
                    f"{len(failures)} parcels of {len(failures)} failed, the last: {failures[-1]}; they are postponed, others wait: "
                    "mend or change the model or the server (parcelwatch status shows what waits)"
                )
        return total

    def _tried_alone(self, now: datetime, failures: list[str]) -> Counts | None:
        """One parcel in one transaction; if it fails, it is postponed and its error is added to `failures`."""
        with self._transaction() as connection:
            claim = work.claim(connection, 1, now, self._claimed)
            if claim is None:
                return None
            try:
                with connection.begin_nested():
                    counts = self._process(connection, claim, now)
            except (sa.exc.DBAPIError, psycopg.Error) as error:
                orig = error.orig if isinstance(error, sa.exc.DBAPIError) else error
                if isinstance(orig, _OUTRUN):
                    return Counts()
                if is_away(error):
                    raise
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - this parcel alone is postponed, the error is kept beside it
                failure = error
            else:
                self._did(claim)
                return counts
            failures.append(_line(failure))
            log.warning(
                "parcel %s is postponed: %s",
                claim.parcel_keys[0],
                failures[-1],
                exc_info=log.isEnabledFor(10) and failure,
            )
            wait = timedelta(seconds=self.settings.retry_s) * 2 ** min(claim.attempts, 10)
            work.postpone(connection, claim, now + wait, failures[-1])
        return Counts(postponed=len(claim.parcel_keys))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with (
            engine(self.dsn).connect().execution_options(isolation_level="REPEATABLE READ") as connection,
            connection.begin(),
        ):
            yield connection

    def _did(self, claim: Claim) -> None:
        self._claimed = (claim.season_key, claim.collection)
        self._seen.update(claim.parcel_keys.tolist())

    def _recorded_at(self, connection: sa.Connection, now: datetime, n: int) -> datetime:
        """When the batch becomes known; in a replay its clock, n microseconds later for each batch since it was moved."""
        moment = now if self._last is None else max(now, self._last + timedelta(microseconds=n))
        self._last = recording.begin(connection, moment, n)
        return self._last

    def _process(self, connection: sa.Connection, claim: Claim, now: datetime) -> Counts:
        season = season_by_key(connection, claim.season_key)
        parcels = load_parcels(connection, season, claim.collection, None, claim.parcel_keys.tolist())
        s2, s1 = s2_series(connection, claim.parcel_keys, None), s1_series(connection, claim.parcel_keys, None)
        shape = geometry(*zip(*((p.perimeter_m, p.area_ha, p.bbox_fill) for p in parcels), strict=True))
        classified = self._classified(connection, claim, season, split_modalities(s2, s1), shape)
        drawn = self._drawn(connection, claim, season, s2, s1)
        # From here on who asks as known later waits for the commit: everything that takes long is done.
        longest = max((len(course) for course in classified.rows.values()), default=1) if classified else 1
        recorded_at = self._recorded_at(connection, now, longest)
        if classified:
            beliefs.save_posteriors(connection, classified.model_key, classified.rows, recorded_at)
        n_days = 0
        if drawn is not None and len(drawn[1].day):
            model_key, rows = drawn
            beliefs.save_ndvi(connection, rows, model_key, recorded_at)
            date_seasons(connection, np.unique(rows.parcel_key), parcels, season, now, recorded_at)
            n_days = len(rows.day)
        n_events = self._assessed(connection, claim, season, parcels, s2, classified, recorded_at)
        work.done(connection, claim)
        n_posteriors = sum(map(len, classified.rows.values())) if classified else 0
        return Counts(len(parcels), classified.folded.n_folded if classified else 0, n_posteriors, n_days, n_events)

    def _classified(
        self, connection: sa.Connection, claim: Claim, season: Season, series: Mapping[str, NDArray[np.void]],
        shape: NDArray[np.float64],
    ) -> "_Classified | None":  # fmt: skip
        row = registry.active(connection, season.season_key, claim.collection, "classifier")
        if row is None:
            return None
        if row.model_key not in self._classifiers:
            checkpoint = Checkpoint(*registry.checkpoint(connection, row.model_key))
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.precision]
            made = CropModel.from_checkpoint(checkpoint).for_inference(self.settings.device, dtype)
            self._classifiers[row.model_key] = made
        model = self._classifiers[row.model_key]
        folded = posteriors.fold(connection, row.model_key, model, claim, series, shape, season.starts_on)
        return _Classified(row.model_key, model, folded, posteriors.changed(connection, row.model_key, folded))

    def _drawn(
        self, connection: sa.Connection, claim: Claim, season: Season, s2: NDArray[np.void], s1: NDArray[np.void]
    ) -> tuple[int, NdviRows] | None:
        row = registry.active(connection, season.season_key, claim.collection, "ndvi")
        if row is None:
            return None
        if row.model_key not in self._ndvi:
            checkpoint = Checkpoint(*registry.checkpoint(connection, row.model_key))
            self._ndvi[row.model_key] = curve_model(checkpoint).to(self.settings.device)
        return row.model_key, curves.draw(connection, row.model_key, self._ndvi[row.model_key], claim, season, s2, s1)

    def _assessed(
        self, connection: sa.Connection, claim: Claim, season: Season, parcels: list[Parcel], s2: NDArray[np.void],
        classified: "_Classified | None", recorded_at: datetime,
    ) -> int:  # fmt: skip
        rules = self.settings.rules
        standing, before = self._progress(connection, season, claim.collection)
        near = {
            p.parcel_key: neighbours(standing, before, p.region, p.crop_code, season.starts_on, rules) for p in parcels
        }
        known = Known(
            courses={} if classified is None else classified.courses(),
            rebuilt=frozenset() if classified is None else classified.folded.rebuilt,
            declared_class=_declared(parcels, classified),
            neighbours=near,
            new_stands=with_another_crop_before(connection, claim.parcel_keys),
            is_classified=classified is not None,
        )
        return assess(connection, parcels, s2, known, rules, recorded_at)

    def _progress(
        self, connection: sa.Connection, season: Season, collection: str
    ) -> tuple[Mapping[tuple[str, str], ProgressRow], Mapping[tuple[str, str], ProgressRow]]:
        """How the crops stand this season, and how they stood in the season before."""
        earlier = previous_season(connection, collection, season)
        before = {} if earlier is None else load_progress(connection, earlier.season_key, collection)
        return load_progress(connection, season.season_key, collection), before


@dataclass(frozen=True)
class _Classified:
    """What the classifier says of a claim."""

    model_key: int
    model: CropModel
    folded: Folded
    rows: Mapping[int, list[PosteriorRow]]
    """Those to be stored."""

    def courses(self) -> dict[int, list[Posterior]]:
        """The posteriors as rules take them."""
        return {
            key: [
                Posterior(
                    self.model.config.classes, np.asarray(row.probabilities, np.float32),
                    sum(row.n_observations.values()), row.observed_to.date(),
                )
                for row in course
            ]
            for key, course in self.folded.courses.items()
        }  # fmt: skip


def _declared(parcels: list[Parcel], classified: _Classified | None) -> dict[int, str | None]:
    """The class of each parcel's declared crop, None where the model has none."""
    if classified is None:
        return {}
    class_of = classified.model.about.get("class_of", {})
    return {p.parcel_key: class_of.get(p.crop_code) for p in parcels}


def _line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"
