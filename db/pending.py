"""Marking work for the monitor: rows are only ever added here, so that ingest waits for no worker (see db/work.py)."""

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.connect import driver

_COLUMNS = (
    "season_key",
    "collection",
    "parcel_key",
    "sensor",
    "observed_at",
    "relative_orbit",
    "revision",
    "recorded_at",
)


def mark_new(connection: sa.Connection, rows: pa.Table) -> int:
    """Mark newly stored observations of parcels that can be monitored, in the queues of their seasons; return how many."""
    parcels = rows["parcel_key"].to_numpy()
    groups = driver(connection).execute(
        """select season_key, collection, array_agg(parcel_key order by parcel_key),
                  array_agg(parcel_key) filter (where not_monitorable_reason is not null)
           from parcels where parcel_key = any(%s) group by 1, 2""",
        [np.unique(parcels)],
        binary=True,
    )
    n_marked = 0
    for season_key, collection, members, unfit in groups.fetchall():
        is_due = np.isin(parcels, members)
        if unfit:
            is_due &= ~np.isin(parcels, _still_unfit(connection, np.array(unfit)))
        due = rows if is_due.all() else rows.filter(is_due)
        due = due.drop_columns([name for name in ("season_key", "collection") if name in due.column_names])
        due = due.append_column("season_key", pa.repeat(pa.scalar(season_key, pa.int16()), due.num_rows))
        due = due.append_column("collection", pa.repeat(collection, due.num_rows))
        # Always a row of its own, whatever is pending already: a worker may hold that, with a snapshot from before this row.
        copy_into(connection, "pending_work", _COLUMNS, due)
        n_marked += due.num_rows
    return n_marked


def _still_unfit(connection: sa.Connection, parcels: NDArray[np.int64]) -> list[int]:
    """Return which of the parcels cannot be monitored, and keep them so to the end of the transaction.

    An import that makes such a parcel fit to be monitored waits, and asks for all of it then (db/parcel_import.py). Else a
    row that no worker has read would stay unmarked.
    """
    found = driver(connection).execute(
        """select parcel_key from parcels where parcel_key = any(%s) and not_monitorable_reason is not null
           order by parcel_key for share""",
        [parcels],
    )
    return [key for (key,) in found]
