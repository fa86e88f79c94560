"""Marking work for the monitor: rows are only ever added here, so that ingest waits for no worker (see db/work.py)."""

from datetime import datetime

import sqlalchemy as sa


def mark_newly_stored(connection: sa.Connection, sensor: str, recorded_at: datetime) -> int:
    """Marks the observations of this transaction's `newly_stored` whose parcels can be monitored; returns how many."""
    return connection.execute(
        sa.text("""insert into pending_work (parcel_key, sensor, observed_at, relative_orbit, revision, recorded_at)
                   select parcel_key, cast(:sensor as sensor), observed_at, relative_orbit, revision, :recorded_at
                   from newly_stored join parcels using (parcel_key)
                   where not_monitorable_reason is null"""),
        {"sensor": sensor, "recorded_at": recorded_at},
    ).rowcount
