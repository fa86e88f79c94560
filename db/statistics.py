"""What a database has done so far, for benchmarks."""

from dataclasses import dataclass

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
