"""What a database has done so far, for benchmarks."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa


@dataclass(frozen=True)
class Activity:
    """Totals since the database was made."""

    rows_read: float
    rows_written: float
    wal_bytes: float
    """Of the whole server."""


def activity(connection: sa.Connection) -> Activity:
    """Return the totals, those of this connection included."""
    connection.execute(sa.text("select pg_stat_force_next_flush()"))
    row = connection.execute(
        sa.text("""select tup_fetched, tup_inserted + tup_updated + tup_deleted, pg_current_wal_lsn() - '0/0'
                   from pg_stat_database where datname = current_database()""")
    ).one()
    return Activity(*map(float, row))


def stored_and_pending(connection: sa.Connection, collection: str) -> tuple[int, int]:
    """Return how many observations the ledger of scenes says are stored, and whether work of a collection is pending (1 or 0)."""
    stored, pending = connection.execute(
        sa.text("""select (select coalesce(sum(parcels), 0) from scene_ledger where outcome = 'stored'),
                          (select count(*) from (select from pending_work where collection = :collection limit 1) one)"""),
        {"collection": collection},
    ).one()
    return int(stored), int(pending)


def recorded_posteriors(connection: sa.Connection, since: datetime) -> list[tuple[datetime, datetime, int]]:
    """Return the posteriors recorded since a time, counted by newest observation and time of recording."""
    rows = connection.execute(
        sa.text("""select observed_to, recorded_at, count(*) from posteriors where recorded_at >= :since
                   group by observed_to, recorded_at"""),
        {"since": since},
    )
    return [(to, at, n) for to, at, n in rows]
