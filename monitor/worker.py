"""A worker: claims pending work batch by batch and takes each batch through the stages, in one transaction.

    poll     batches until nothing that can be claimed is left
    batch    claim -> load -> classify -> parts -> reconstruct NDVI -> phenology -> field work -> vigour -> low passes
             -> record -> markers -> alerts -> done

A batch's transaction sees one snapshot of the store (repeatable read, db/work.py): the pending rows that it removes are of the
observations that it has read. If a stage fails, the transaction leaves nothing behind, and monitor/retry.py tries again.
"""

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from db import recording, states, work
from db.connect import Connection, engine
from db.errors import is_away, is_outrun
from db.work import Claim
from monitor import retry
from monitor.batch import ActiveModels, BatchContext, Counts
from monitor.crop_progress import KnownStands
from monitor.season_views import LeaderMemory
from monitor.settings import MonitorSettings
from monitor.stages import (
    alerts,
    classify,
    field_work,
    low_passes,
    markers,
    parts,
    phenology,
    reconstruct_ndvi,
    said,
    vigour,
)

log = logging.getLogger(__name__)

FROM_THE_FIRST_EVERY: Final = 100
"""Batches after which queues are read from their first row again, for what was postponed, or committed late: a minute or so."""


@dataclass
class Worker:
    """Works off pending parcels of every season that a model watches; keeps loaded models between batches."""

    dsn: str
    settings: MonitorSettings
    memory: LeaderMemory = field(default_factory=LeaderMemory)
    """For who leads in this process, too."""
    _models: ActiveModels = field(init=False)
    _stands: KnownStands = field(default_factory=KnownStands)
    _recorded_to: datetime | None = None
    """When the batch before became known."""
    _claimed: tuple[int, str] | None = None
    """Season and collection of the batch before."""
    _heads: dict[work.Queue, int] = field(default_factory=dict)
    """Where the last claim of each queue began."""
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
        for nr in itertools.count():
            if stop is not None and stop.is_set():
                break
            if nr % FROM_THE_FIRST_EVERY == 0:
                self._heads.clear()
            counts = self.batch(now)
            if counts is None:
                break
            total += counts
        return replace(total, parcels=len(self._seen))

    def batch(self, now: datetime) -> Counts | None:
        """Work off one batch; None when there was nothing to claim. Errors as `poll`, and those of a database that is away."""
        try:
            return retry.while_outrun(lambda: self._whole(now))
        except Exception as error:
            if is_away(error):
                raise  # nothing was written, the caller waits
            log.warning(
                "a batch failed, its parcels are tried one by one: %s",
                retry.one_line(error),
                exc_info=retry.traceback_of(error),
            )
        return retry.one_by_one(lambda: self._single(now), self.settings)

    def _whole(self, now: datetime) -> Counts | None:
        """Claim and process a whole batch in one transaction."""
        with self._transaction() as connection:
            claim = work.claim(connection, self.settings.batch, now, self._claimed, self._heads)
            if claim is None:
                return None
            counts = self._process(connection, claim, now)
        self._remember(claim)  # once it is committed
        return counts

    def _single(self, now: datetime) -> retry.Single | None:
        """Claim and process one parcel; if it fails, it is postponed in the same transaction, while it is locked."""
        with self._transaction() as connection:
            claim = work.claim(connection, 1, now, self._claimed, self._heads)
            if claim is None:
                return None
            try:
                with connection.begin_nested():
                    counts = self._process(connection, claim, now)
            except Exception as error:
                if is_outrun(error):
                    return retry.Single(Counts())
                if is_away(error):
                    raise
                return retry.postpone(connection, claim, error, now, self.settings)
            self._remember(claim)
            return retry.Single(counts)

    def _process(self, connection: Connection, claim: Claim, now: datetime) -> Counts:
        """Take a claim through the stages."""
        batch = BatchContext.load(connection, claim, now, self._models)
        classify.classify(batch)
        parts.split_views(batch)
        reconstruct_ndvi.reconstruct(batch)
        phenology.date_seasons(batch)
        field_work.mark(batch)
        vigour.mark(batch, self._stands)
        low_passes.find(batch)
        batch.carry()
        # States before anything is recorded: nobody asks them as known at a time, and they roll back with the batch.
        states.save(connection, batch.new_states)
        # Nothing that takes long may come after this line: a query for an earlier state of knowledge waits from here to the
        # commit, because rows recorded at this time are not yet visible to it.
        batch.recorded_at = self._record(connection, now, batch.longest_course)
        classify.save(batch)
        reconstruct_ndvi.save(batch)
        phenology.save(batch)
        said.save(batch)
        low_passes.save(batch)
        markers.evaluate(batch, self._stands)
        alerts.move(batch)
        work.done(connection, claim)
        return Counts.of(batch)

    def _record(self, connection: Connection, now: datetime, n: int) -> datetime:
        """Return when the batch becomes known; in a replay its clock, n microseconds later for each batch since it was moved."""
        moment = now if self._recorded_to is None else max(now, self._recorded_to + timedelta(microseconds=n))
        self._recorded_to = recording.begin(connection, moment, n)
        return self._recorded_to

    def _remember(self, claim: Claim) -> None:
        self._claimed = (claim.season_key, claim.collection)
        self._heads[self._claimed] = claim.head
        self._seen.update(claim.parcel_keys.tolist())

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Open a transaction with one snapshot: a claim, its observations and its pending rows are of one moment."""
        with (
            engine(self.dsn).connect().execution_options(isolation_level="REPEATABLE READ") as connection,
            connection.begin(),
        ):
            yield connection
