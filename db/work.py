"""Pending work: what is new of parcels, or to be made anew, claimed by one worker at a time.

Ingest only ever inserts into `pending_work`. A worker's transaction sees one snapshot of the store (repeatable read): it locks
rows of `parcels` (never updated by ingest) with SKIP LOCKED, reads what is pending for them and, in the same snapshot, their
observations. An observation and its pending row are inserted together, so the snapshot has both or neither: what a worker
removes is what it has folded, and what is committed later stays pending. A worker that dies lets go of its locks.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import fetch_columns
from db.series import Keys

Task = Literal["classifier", "ndvi", "rules"]
"""What is made anew of a parcel: states and posteriors, the curve, or only the findings (its neighbours changed)."""
TASKS: Final[tuple[Task, ...]] = ("classifier", "ndvi", "rules")
NEW_OBSERVATION: Final = 0
"""`task_nr` of a pending observation; tasks count from 1."""


@dataclass(frozen=True)
class Claim:
    """Parcels locked by this transaction, with what is pending for them."""

    season_key: int
    collection: str
    parcel_keys: NDArray[np.int64]
    """(P,) ascending."""
    pending: NDArray[np.void]
    """Fields pending_key, parcel_key, task_nr, is_s2, observed_at, relative_orbit, revision, attempts."""
    head: int = 0
    """The lowest pending key of its queue that was due."""

    @property
    def attempts(self) -> int:
        """Return how often this work was tried before."""
        return int(self.pending["attempts"].max(initial=0))

    @property
    def observations(self) -> NDArray[np.void]:
        """Return the pending observations."""
        observations: NDArray[np.void] = self.pending[self.pending["task_nr"] == NEW_OBSERVATION]
        return observations

    def is_due(self, task: Task) -> NDArray[np.bool_]:
        """Return (P,) whether the task was asked for, whatever was observed."""
        asked = self.pending["parcel_key"][self.pending["task_nr"] == TASKS.index(task) + 1]
        is_due: NDArray[np.bool_] = np.isin(self.parcel_keys, asked)
        return is_due

    def is_among(self, rows: NDArray[np.void], is_s2: bool) -> NDArray[np.bool_]:
        """Return (N,) whether observation rows of one sensor are pending."""
        pending = self.observations[self.observations["is_s2"] == is_s2]
        key = ["parcel_key", "observed_at", "relative_orbit", "revision"]
        kind = np.dtype([(name, self.pending.dtype[name]) for name in key])
        wanted, given = np.empty(len(pending), kind), np.empty(len(rows), kind)
        for name in key:
            wanted[name], given[name] = pending[name], rows[name]
        is_among: NDArray[np.bool_] = np.isin(given.view(f"V{kind.itemsize}"), wanted.view(f"V{kind.itemsize}"))
        return is_among


Queue = tuple[int, str]
"""Season and collection."""


def claim(
    connection: sa.Connection,
    limit: int,
    now: datetime,
    after: Queue | None = None,
    heads: Mapping[Queue, int] | None = None,
) -> Claim | None:
    """Lock up to `limit` parcels of one collection and season that have pending work, oldest first; None when there are none.

    Only seasons with an active model or a policy in force are asked: work of others waits, and `status` says so.

    Args:
        connection: in repeatable read; a serialisation failure means that another worker was faster: begin again.
        now: what was postponed to a later time waits.
        after: season and collection of the claim before: the others have their turn first, so that none starves.
        heads: of queues, from which pending key on they are read, as the claim before began; where that gives nothing, and in
            a queue that is not named, from the first. Else a claim reads all that was removed and not vacuumed before it.
    """
    for begin in (heads, {}) if heads else ({},):
        for queue in _in_turn(connection, after):
            parcel_keys, oldest, head = _lock(connection, queue, limit, now, begin.get(queue, 0))
            if len(parcel_keys):
                return _claimed(connection, queue, parcel_keys, oldest, head)
    return None


def _lock(connection: sa.Connection, queue: Queue, limit: int, now: datetime, begin: int) -> tuple[Keys, Keys, int]:
    """Lock up to `limit` parcels, oldest work first; return their keys, the oldest pending key of each, and that of the queue.

    Reads the queue page by page until there are enough, or some after `_PAGES` pages: the first may all be in the hands of
    other workers, and any work comes before none.
    """
    locked, oldest, seen, after, first_due = [_NONE], [_NONE], _NONE, begin - 1, begin
    for nr in itertools.count():
        n_free = limit - sum(map(len, locked))
        if n_free == 0 or (nr >= _PAGES and n_free < limit):
            break
        head = _page(connection, queue, after, max(4 * limit, _SMALLEST_PAGE), now)
        if len(head) == 0:
            break
        first_due = int(head["pending_key"][0]) if nr == 0 else first_due
        parcels, first = np.unique(head["parcel_key"], return_index=True)
        is_other = ~np.isin(parcels, seen)
        order = np.argsort(first[is_other])
        parcels, first = parcels[is_other][order], first[is_other][order]
        taken = _skip_locked(connection, parcels, limit, n_free)
        locked.append(parcels[taken])
        oldest.append(head["pending_key"][first[taken]])
        seen, after = np.concatenate([seen, parcels]), int(head["pending_key"][-1])
    return np.concatenate(locked), np.concatenate(oldest), first_due


_NONE: Final[Keys] = np.empty(0, np.int64)
_PAGES: Final = 10
_SMALLEST_PAGE: Final = 1000


def _page(connection: sa.Connection, queue: Queue, after: int, n_rows: int, now: datetime) -> NDArray[np.void]:
    """Return pending_key and parcel_key of the next rows of a queue that are due."""
    return fetch_columns(
        connection,
        """select pending_key, parcel_key from pending_work
           where (season_key, collection) = (%s, %s) and pending_key > %s and (not_before is null or not_before <= %s)
           order by season_key, collection, pending_key limit %s""",
        [*queue, after, now, n_rows],
        {"pending_key": "bigint", "parcel_key": "bigint"},
    )


def _skip_locked(connection: sa.Connection, parcels: Keys, at_once: int, n: int) -> NDArray[np.intp]:
    """Lock the first n parcels that nobody has locked, asking for some at once; return their places, ascending."""
    taken: list[int] = []
    for start in range(0, len(parcels), at_once):
        # The lock is on `parcels`, which ingest never updates: a claim never waits for ingest, nor ingest for a claim. "No
        # key update" leaves foreign keys of new observations free to check the row. Skip locked: workers take different
        # parcels, none waits.
        rows = connection.exec_driver_sql(
            """select nr from unnest(%s) with ordinality as due (parcel_key, nr) join parcels using (parcel_key)
               order by nr limit %s for no key update of parcels skip locked""",
            (parcels[start : start + at_once], n - len(taken)),
        )
        taken += [start + nr - 1 for nr in rows.scalars()]
        if len(taken) == n:
            break
    return np.array(taken, np.intp)


_WATCHED: Final = (
    """select season_key, collection from model_activations union select season_key, collection from policies"""
)


def _in_turn(connection: sa.Connection, after: Queue | None) -> Iterator[Queue]:
    """Yield watched seasons and collections, beginning with the one that follows `after`."""
    rows = connection.execute(sa.text(f"{_WATCHED} order by 1, 2"))
    watched = [(row.season_key, row.collection) for row in rows]
    first = sum(one <= after for one in watched) if after else 0
    yield from watched[first:]
    yield from watched[:first]


def _claimed(connection: sa.Connection, queue: Queue, parcel_keys: Keys, oldest: Keys, head: int) -> Claim:
    # A parcel that another worker has let go of since this transaction's snapshot: what the snapshot shows as pending is
    # done. Its oldest pending row is gone then, and locking that row fails at once in place of the whole batch at its end.
    connection.exec_driver_sql(f"select from pending_work where {_OWN} for update", (*queue, oldest))
    parcel_keys = np.sort(parcel_keys)
    pending = fetch_columns(
        connection,
        """select pending_key, parcel_key, coalesce(array_position(%s, task), 0) as task_nr,
                  coalesce(sensor = 'S2', false) as is_s2, coalesce(observed_at, 'epoch') as observed_at,
                  coalesce(relative_orbit, 0) as relative_orbit, coalesce(revision, 0) as revision, attempts
           from unnest(%s) wanted (key)
           cross join lateral (select * from pending_work where parcel_key = key offset 0) pending  -- by index, whatever the backlog
           order by pending_key""",
        [list(TASKS), parcel_keys],
        {
            "pending_key": "bigint",
            "parcel_key": "bigint",
            "task_nr": "smallint",
            "is_s2": "bool",
            "observed_at": "time",
            "relative_orbit": "smallint",
            "revision": "smallint",
            "attempts": "smallint",
        },
    )
    return Claim(*queue, parcel_keys, pending, head)


_OWN: Final = "(season_key, collection) = (%s, %s) and pending_key = any(%s)"


def done(connection: sa.Connection, work: Claim) -> None:
    """Remove what the claim covered; what was committed since its snapshot stays pending."""
    # By pending key, never by parcel: a row that the snapshot did not show has not been folded.
    connection.exec_driver_sql(
        f"delete from pending_work where {_OWN}", (work.season_key, work.collection, work.pending["pending_key"])
    )


def postpone(connection: sa.Connection, work: Claim, not_before: datetime, error: str) -> None:
    """Keep the claim's work for later with the error that stopped it (nothing is lost, `status` shows it)."""
    connection.exec_driver_sql(
        f"""update pending_work set attempts = least(attempts + 1, 32767), not_before = %s, last_error = %s where {_OWN}""",
        (not_before, error[:500], work.season_key, work.collection, work.pending["pending_key"]),
    )


def watched_seasons(connection: sa.Connection, now: datetime) -> list[tuple[str, str]]:
    """Return names of seasons that have begun, and collections, that are watched; one that is over may get late products."""
    rows = connection.execute(
        sa.text(f"""select s.name, watched.collection from ({_WATCHED}) watched join seasons s using (season_key)
                    where s.starts_on <= :today order by 1, 2"""),
        {"today": now.date()},
    )
    return [(row.name, row.collection) for row in rows]


def mark(connection: sa.Connection, parcel_keys: Sequence[int], task: Task, now: datetime) -> int:
    """Ask for a task to be done anew of parcels that can be monitored; returns how many.

    A mark that is pending already is no reason to leave one out: a worker may hold it, with a snapshot from before.
    """
    return connection.execute(
        sa.text("""insert into pending_work (season_key, collection, parcel_key, recorded_at, task)
                   select season_key, collection, parcel_key, :now, :task from parcels
                   where parcel_key = any(:keys) and not_monitorable_reason is null"""),
        {"keys": list(parcel_keys), "now": now, "task": task},
    ).rowcount


def mark_season(connection: sa.Connection, season_key: int, collection: str, task: Task, now: datetime) -> int:
    """Ask for a task to be done anew of every observed parcel of a season (a new model was activated); returns how many."""
    return connection.execute(
        sa.text("""insert into pending_work (season_key, collection, parcel_key, recorded_at, task)
                   select season_key, collection, parcel_key, :now, :task from parcels
                   where (season_key, collection) = (:season_key, :collection) and not_monitorable_reason is null
                     and (exists (select from s2_observations o where o.parcel_key = parcels.parcel_key)
                          or exists (select from s1_observations o where o.parcel_key = parcels.parcel_key))"""),
        {"season_key": season_key, "collection": collection, "now": now, "task": task},
    ).rowcount
