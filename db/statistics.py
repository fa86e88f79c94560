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


def stored(connection: sa.Connection) -> int:
    """Return how many observations the ledger of scenes says are stored."""
    query = sa.text("select coalesce(sum(parcels), 0) from scene_ledger where outcome = 'stored'")
    return int(connection.execute(query).scalar_one())


def is_pending(connection: sa.Connection, collection: str) -> bool:
    """Say whether work of a collection is pending."""
    query = sa.text("select exists (select from pending_work where collection = :collection)")
    return bool(connection.execute(query, {"collection": collection}).scalar_one())


def recorded_posteriors(connection: sa.Connection, since: datetime) -> list[tuple[datetime, datetime, int]]:
    """Return the posteriors recorded since a time, counted by newest observation and time of recording."""
    rows = connection.execute(
        sa.text("""select observed_to, recorded_at, count(*) from posteriors where recorded_at >= :since
                   group by observed_to, recorded_at"""),
        {"since": since},
    )
    return [(to, at, n) for to, at, n in rows]
