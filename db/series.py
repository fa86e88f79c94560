"""Season-long series of parcels as numpy columns, newest revision first, withdrawn ones left out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import Kind, fetch_columns, no_rows
from db.sensors import SENSORS, Sensor

Keys = NDArray[np.int64]

INVALID_PIXEL: Final = -32768
"""What a stored pixel set holds where a pixel was not seen."""

_AT_ONCE: Final = 4096
"""Parcels of which series are read at once: some 100 MB at a season's end."""

DIRECTIONS: Final = ("ascending", "descending", "mixed")
"""Directions in the order of the type `orbit_direction`; `direction_nr` counts from 1."""


def s2_series(connection: sa.Connection, parcels: Keys, as_known_at: datetime | None) -> NDArray[np.void]:
    """Return Sentinel-2 observations of `parcels` known at a time that is settled (None: now), ordered by parcel, pass time and orbit."""
    return _newest(connection, "S2", parcels, "recorded_at", as_known_at)


def s1_series(connection: sa.Connection, parcels: Keys, as_known_at: datetime | None) -> NDArray[np.void]:
    """Return Sentinel-1 observations of `parcels` known at a time that is settled (None: now); VV and VH linear."""
    return _newest(connection, "S1", parcels, "recorded_at", as_known_at)


def _newest(
    connection: sa.Connection, sensor: Sensor, parcels: Keys, column: str, until: datetime | None
) -> NDArray[np.void]:
    """Return the newest revisions of those whose `column` is a time until then (None: all)."""
    stored = SENSORS[sensor]
    query = f"""
        select distinct on (parcel_key, observed_at, relative_orbit) {stored.selected} from {stored.table} o
        where parcel_key = any(%s) and {column} <= coalesce(%s, 'infinity'::timestamptz)
        order by parcel_key, observed_at, relative_orbit, revision desc"""
    some = [parcels[first : first + _AT_ONCE] for first in range(0, len(parcels), _AT_ONCE)]
    parts = [fetch_columns(connection, query, [keys, until], stored.series) for keys in some]
    rows = np.concatenate([no_rows(stored.series), *parts])
    # Withdrawn rows go after the newest revision is chosen, not in the query: else the revision that they withdraw
    # would come back.
    current: NDArray[np.void] = rows[~rows["is_withdrawn"]]
    return current


def pending_series(
    connection: sa.Connection, parcels: Keys, pending: NDArray[np.void]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 rows of pending observations (fields of `db.work.Claim.pending`) of `parcels`, sorted as `s2_series`.

    Withdrawn ones are left out.
    """
    own = pending[np.isin(pending["parcel_key"], parcels)]
    s2, s1 = _observed(connection, "S2", own[own["is_s2"]]), _observed(connection, "S1", own[~own["is_s2"]])
    # A first revision may be withdrawn too: its sender took back what never came here.
    return s2[~s2["is_withdrawn"]], s1[~s1["is_withdrawn"]]


def pass_series(connection: sa.Connection, pending: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 rows of the passes of pending observations, all revisions, sorted by parcel, pass and revision."""
    return (
        _observed(connection, "S2", pending[pending["is_s2"]], every_revision=True),
        _observed(connection, "S1", pending[~pending["is_s2"]], every_revision=True),
    )


def _observed(
    connection: sa.Connection, sensor: Sensor, keys: NDArray[np.void], *, every_revision: bool = False
) -> NDArray[np.void]:
    """Return a sensor's rows under keys of observations, or all revisions of their passes."""
    stored = SENSORS[sensor]
    if len(keys) == 0:
        return no_rows(stored.series)
    parcels, times = np.unique(keys["parcel_key"]), np.unique(keys["observed_at"])
    # Not a join with the keys: in a chunk so new that the server has no statistics of it, it is planned as a comparison of each
    # with each (0.3 to 1.2 s for some hundred keys). `is true` keeps the times a filter.
    query = f"""
        select {stored.selected} from {stored.table} o
        where parcel_key = any(%s) and observed_at between %s::timestamptz and %s::timestamptz
            and (observed_at = any(%s::timestamptz[])) is true
        order by parcel_key, observed_at, relative_orbit, revision"""
    parameters = [parcels, f"{times[0]}Z", f"{times[-1]}Z", [f"{time}Z" for time in times.astype(str)]]
    rows = fetch_columns(connection, query, parameters, stored.series)
    found, wanted = (numbered(some, parcels, times, is_pass=every_revision) for some in (rows, keys))
    return rows[np.isin(found, wanted)]


def numbered(
    rows: NDArray[np.void], parcels: Keys, times: NDArray[np.datetime64], *, is_pass: bool = False
) -> NDArray[np.int64]:
    """Return the keys of observations as numbers in the order of parcel, time, orbit and revision, the last two below 2^15.

    `parcels` and `times` are those that occur, ascending; a pass has no revision.
    """
    number = np.searchsorted(parcels, rows["parcel_key"]) * len(times) + np.searchsorted(times, rows["observed_at"])
    orbit = rows["relative_orbit"].astype(np.int64)
    revision = 0 if is_pass else rows["revision"].astype(np.int64)
    return np.asarray((number.astype(np.int64) << 30) + (orbit << 15) + revision)


def available_series(
    connection: sa.Connection, parcels: Keys, as_available_at: datetime
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 observations of parcels whose products could be had by a time, whenever they were stored."""
    s2 = _newest(connection, "S2", parcels, "available_at", as_available_at)
    return s2, _newest(connection, "S1", parcels, "available_at", as_available_at)


def every_revision(connection: sa.Connection, sensor: Sensor, parcels: Keys) -> NDArray[np.void]:
    """Return all revisions of a sensor's observations of parcels with `available_at`, sorted as a series and by revision."""
    stored = SENSORS[sensor]
    query = f"""select {stored.selected} from {stored.table} o where parcel_key = any(%s)
                order by parcel_key, observed_at, relative_orbit, revision"""
    fields: Mapping[str, Kind] = {**stored.series, "available_at": "time"}
    some = [parcels[first : first + _AT_ONCE] for first in range(0, len(parcels), _AT_ONCE)]
    return np.concatenate([no_rows(fields), *(fetch_columns(connection, query, [keys], fields) for keys in some)])
