"""One batch of pending work in one transaction: claim, classify, reconstruct NDVI, date the season, evaluate markers, move alerts.

The transaction sees one snapshot of the store (repeatable read, db/work.py): what it removes from the pending work is what it
has read. If anything fails it leaves nothing behind, and the parcels are tried again one by one, so that a single poisoned
parcel cannot hold up the others: it alone is postponed, with its error, for an operator to see. Where all fail, nothing more is
tried: that is no poisoned parcel but a broken model, or a full disk.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from db import recording, work
from db.connect import Connection, engine
from db.errors import DATABASE_ERRORS, is_away, is_outrun
from db.work import Claim
from monitor.batch import ActiveModels, BatchContext
from monitor.errors import NothingWorks
from monitor.settings import MonitorSettings
from monitor.stages import alerts, classify, markers, phenology, reconstruct_ndvi

log = logging.getLogger(__name__)

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


@dataclass
class Worker:
    """Works off pending parcels of every season that a model watches; keeps loaded models between batches."""

    dsn: str
    settings: MonitorSettings
    _models: ActiveModels = field(init=False)
    _last: datetime | None = None
    _claimed: tuple[int, str] | None = None
    """Season and collection of the batch before."""
    _seen: set[int] = field(default_factory=set)
    """Parcels worked on since `poll` began, so that none is counted twice."""

    def __post_init__(self) -> None:
        self._models = ActiveModels(self.settings)

    def poll(self, now: datetime, stop: threading.Event | None = None) -> Counts:
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
        """Work off one batch; None when there was nothing to claim. Errors as `poll`, and those of a database that is away."""
        try:
            return self._tried(now, self.settings.batch)
        except Exception as error:
            if is_away(error):
                raise  # nothing was written, the caller waits
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
            except DATABASE_ERRORS as error:
                if not is_outrun(error) or nth == _TRIES - 1:
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
            except Exception as error:
                if is_outrun(error):
                    return Counts()
                if is_away(error):
                    raise
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
    def _transaction(self) -> Iterator[Connection]:
        with (
            engine(self.dsn).connect().execution_options(isolation_level="REPEATABLE READ") as connection,
            connection.begin(),
        ):
            yield connection

    def _did(self, claim: Claim) -> None:
        self._claimed = (claim.season_key, claim.collection)
        self._seen.update(claim.parcel_keys.tolist())

    def _recorded_at(self, connection: Connection, now: datetime, n: int) -> datetime:
        """When the batch becomes known; in a replay its clock, n microseconds later for each batch since it was moved."""
        moment = now if self._last is None else max(now, self._last + timedelta(microseconds=n))
        self._last = recording.begin(connection, moment, n)
        return self._last

    def _process(self, connection: Connection, claim: Claim, now: datetime) -> Counts:
        batch = BatchContext.load(connection, claim, now, self._models)
        classify.classify(batch)
        reconstruct_ndvi.reconstruct(batch)
        # From here on who asks as known later waits for the commit: everything that takes long is done.
        batch.recorded_at = self._recorded_at(connection, now, batch.longest_course)
        classify.save(batch)
        reconstruct_ndvi.save(batch)
        phenology.date_seasons(batch)
        markers.evaluate(batch)
        alerts.move(batch)
        work.done(connection, claim)
        return Counts.of(batch)


def _line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"
