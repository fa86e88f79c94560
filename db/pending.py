"""Marking work for the monitor: rows are only ever added here, so that ingest waits for no worker (see db/work.py)."""

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from db.binary_copy import copy_into

_COLUMNS = ("parcel_key", "sensor", "observed_at", "relative_orbit", "revision", "recorded_at")


def mark_new(connection: sa.Connection, rows: pa.Table) -> int:
    """Mark newly stored observations of parcels that can be monitored; return how many."""
    # An import that makes such a parcel monitorable asks for all of it anew (db/parcel_import.py).
    parcels = np.unique(rows["parcel_key"].to_numpy())
    # Locked to the commit: an import that makes such a parcel fit to be monitored waits, and asks for all of it then. Else
    # a row that no worker has read would stay unmarked.
    unfit = connection.execute(
        sa.text("""select parcel_key from parcels where parcel_key = any(:keys) and not_monitorable_reason is not null
                   order by parcel_key for share"""),
        {"keys": parcels.tolist()},
    )
    if keys := unfit.scalars().all():
        rows = rows.filter(~np.isin(rows["parcel_key"].to_numpy(), keys))
    # Always a row of its own, whatever is pending already: a worker may hold that, with a snapshot from before this row.
    copy_into(connection, "pending_work", _COLUMNS, rows)
    return int(rows.num_rows)
