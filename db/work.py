"""Pending work: which parcels have news, claimed by one worker at a time.

Ingest only ever inserts into `pending_work`. A worker locks rows of `parcels` (never updated by ingest) with SKIP LOCKED
and then reads what is pending for them: work committed later stays pending, so no news is lost, and neither side waits
for the other. A worker that dies lets go of its locks with its connection.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import fetch_columns


@dataclass(frozen=True)
class Claim:
    """Parcels locked by this transaction, with what is pending for them."""

    season_key: int
    collection: str
    parcel_keys: NDArray[np.int64]
    """(P,) ascending."""
    pending: NDArray[np.void]
    """Fields pending_key, parcel_key, is_rebuild, is_s2, observed_at, relative_orbit, revision, attempts."""

    @property
    def attempts(self) -> int:
        """How often this work was tried before."""
        return int(self.pending["attempts"].max(initial=0))


def claim(connection: sa.Connection, limit: int, now: datetime) -> Claim | None:
    """Locks up to `limit` parcels of one collection and season that have news, oldest news first; None when there are none.

    Only seasons with an active model are looked at: news of others waits, and `status` says so.
    """
    head = connection.execute(
        sa.text("""
            select p.season_key, p.collection from pending_work w join parcels p using (parcel_key)
            where (not_before is null or not_before <= :now)
              and exists (select from model_activations a where (a.season_key, a.collection) = (p.season_key, p.collection))
            order by pending_key limit 1"""),
        {"now": now},
    ).first()
    if head is None:
        return None
    keys = connection.execute(
        sa.text("""
            with news as materialized (
                select parcel_key, min(pending_key) as oldest from (
                    select w.parcel_key, w.pending_key from pending_work w join parcels p using (parcel_key)
                    where (p.season_key, p.collection) = (:season_key, :collection)
                      and (not_before is null or not_before <= :now)
                    order by w.pending_key limit :window
                ) head group by parcel_key)
            select parcel_key from parcels join news using (parcel_key)
            order by oldest limit :limit for no key update of parcels skip locked"""),
        # A window much longer than a batch: a parcel may have many news, and other workers hold some of the first.
        {
            "season_key": head.season_key,
            "collection": head.collection,
            "now": now,
            "limit": limit,
            "window": 50 * limit,
        },
    ).scalars()
    parcel_keys = np.sort(np.fromiter(keys, np.int64))
    pending = fetch_columns(
        connection,
        """select pending_key, parcel_key, sensor is null as is_rebuild, coalesce(sensor = 'S2', false) as is_s2,
                  coalesce(observed_at, 'epoch') as observed_at, coalesce(relative_orbit, 0) as relative_orbit,
                  coalesce(revision, 0) as revision, attempts
           from pending_work where parcel_key = any(%s) order by pending_key""",
        [parcel_keys.tolist()],
        {"pending_key": "bigint", "parcel_key": "bigint", "is_rebuild": "bool", "is_s2": "bool", "observed_at": "time",
         "relative_orbit": "smallint", "revision": "smallint", "attempts": "smallint"},
    )  # fmt: skip
    return Claim(head.season_key, head.collection, parcel_keys, pending)


def done(connection: sa.Connection, work: Claim) -> None:
    """Removes what the claim covered; news that came since stays pending."""
    connection.execute(
        sa.text("delete from pending_work where pending_key = any(:keys)"),
        {"keys": work.pending["pending_key"].tolist()},
    )


def postpone(connection: sa.Connection, work: Claim, not_before: datetime, error: str) -> None:
    """Keeps the claim's work for later with the error that stopped it (nothing is lost, `status` shows it)."""
    connection.execute(
        sa.text("""update pending_work set attempts = attempts + 1, not_before = :not_before, last_error = :error
                   where pending_key = any(:keys)"""),
        {"keys": work.pending["pending_key"].tolist(), "not_before": not_before, "error": error[:500]},
    )


def watched_seasons(connection: sa.Connection, now: datetime) -> list[tuple[str, str]]:
    """Season names and collections that a model watches and that have not ended 60 days ago (late products come in)."""
    rows = connection.execute(
        sa.text("""select distinct s.name, a.collection from model_activations a join seasons s using (season_key)
                   where s.starts_on <= :today and s.ends_on + 60 >= :today order by 1, 2"""),
        {"today": now.date()},
    )
    return [(row.name, row.collection) for row in rows]


def mark_rebuild(connection: sa.Connection, season_key: int, collection: str, now: datetime) -> int:
    """Marks every monitorable parcel of a season for a rebuild from its observations (a new model was activated)."""
    return connection.execute(
        sa.text("""insert into pending_work (parcel_key, recorded_at)
                   select parcel_key, :now from parcels
                   where (season_key, collection) = (:season_key, :collection) and not_monitorable_reason is null
                     and (exists (select from s2_observations o where o.parcel_key = parcels.parcel_key)
                          or exists (select from s1_observations o where o.parcel_key = parcels.parcel_key))"""),
        {"season_key": season_key, "collection": collection, "now": now},
    ).rowcount
