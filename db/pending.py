"""Marking work for the monitor: rows are only ever added here, so that ingest waits for no worker (see db/work.py)."""

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.connect import driver
from db.keys import seasons_named

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
    """Mark newly stored observations of parcels that can be monitored, in the queues of their seasons; return how many.

    Args:
        connection: the transaction that stored them.
        rows: columns of pending work, with the season's name in `season` in place of its key.
    """
    parcels = rows["parcel_key"].to_numpy()
    is_due = ~np.isin(parcels, _unfit(connection, np.unique(parcels)))
    due = rows.select([name if name != "season_key" else "season" for name in _COLUMNS]).filter(is_due)
    names = due["season"].combine_chunks().dictionary_encode()
    seasons = seasons_named(connection, names.dictionary.to_pylist())
    keys = pa.array([seasons[name].season_key for name in names.dictionary.to_pylist()], pa.int16())
    # Always a row of its own, whatever is pending already: a worker may hold that, with a snapshot from before this row.
    copy_into(connection, "pending_work", _COLUMNS, due.append_column("season_key", keys.take(names.indices)))
    return int(due.num_rows)


def _unfit(connection: sa.Connection, parcels: NDArray[np.int64]) -> list[int]:
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
