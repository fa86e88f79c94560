"""Season-long series of parcels as numpy columns, newest revision first, withdrawn ones left out."""

from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import EPOCH, fetch_columns
from db.connect import driver
from db.sensors import SENSORS, Sensor

Keys = NDArray[np.int64]

_SET_KEY: Final = ["parcel_key", "observed_at", "relative_orbit", "revision"]
_SET_HEAD: Final = np.dtype(
    [("parcel_key", ">i8"), ("observed_at", ">i8"), ("relative_orbit", ">i2"), ("revision", ">i2"), ("size", ">i4")]
)
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
    some = [parcels[first : first + _AT_ONCE] for first in range(0, max(len(parcels), 1), _AT_ONCE)]
    rows = np.concatenate([fetch_columns(connection, query, [keys.tolist(), until], stored.series) for keys in some])
    # Withdrawn rows go after the newest revision is chosen, not in the query: else the revision that they withdraw
    # would come back.
    current: NDArray[np.void] = rows[~rows["is_withdrawn"]]
    return current


def pending_series(
    connection: sa.Connection, parcels: Keys, pending: NDArray[np.void]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 rows of pending observations (fields of `db.work.Claim.pending`) of `parcels`, sorted as `s2_series`."""
    own = pending[np.isin(pending["parcel_key"], parcels)]
    return _observed(connection, "S2", own[own["is_s2"]]), _observed(connection, "S1", own[~own["is_s2"]])


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
        return fetch_columns(connection, f"select {stored.selected} from {stored.table} o limit 0", [], stored.series)
    names = ["parcel_key", "observed_at", "relative_orbit", *([] if every_revision else ["revision"])]
    keys = np.unique(keys[names])
    times = [f"{time}Z" for time in keys["observed_at"].astype(str)]
    kinds = ", ".join(f"%s::{kind}[]" for kind in ("bigint", "timestamptz", "smallint", "smallint")[: len(names)])
    query = f"""
        select {stored.selected} from unnest({kinds}) as wanted ({", ".join(names)})
        join {stored.table} o using ({", ".join(names)})
        where o.observed_at between %s::timestamptz and %s::timestamptz  -- leaves out the other chunks
        order by parcel_key, observed_at, relative_orbit, revision"""
    parameters = [times if name == "observed_at" else keys[name].tolist() for name in names] + [min(times), max(times)]
    return fetch_columns(connection, query, parameters, stored.series)


def pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> pa.BinaryArray:
    """Return the pixel set of each observation row (null where it has none), as it came: int16, bands x pixels."""
    if len(rows) == 0:
        return pa.array([], pa.binary())
    parcels, times = np.unique(rows["parcel_key"]), np.unique(rows["observed_at"])
    # By parcel and span of time, which the index serves in any number; a join with the rows' keys would be planned as loops over all.
    found = (
        driver(connection)
        .execute(
            """select string_agg(int8send(parcel_key) || timestamptz_send(observed_at) || int2send(relative_orbit)
                             || int2send(revision) || int4send(octet_length(pixels)), ''::bytea),
                  string_agg(pixels, ''::bytea)
           from (select * from pixel_sets where parcel_key = any(%s) and sensor = %s
                     and observed_at between %s::timestamptz and %s::timestamptz
                 order by parcel_key, observed_at, relative_orbit, revision) one""",
            [parcels, sensor, f"{times[0]}Z", f"{times[-1]}Z"],
            prepare=False,
            binary=True,
        )
        .fetchone()
    )
    assert found is not None
    stored, pixels = np.frombuffer(found[0] or b"", _SET_HEAD), found[1] or b""
    keys = np.empty(len(stored), rows[_SET_KEY].dtype)
    for name in ("parcel_key", "relative_orbit", "revision"):
        keys[name] = stored[name]
    keys["observed_at"] = EPOCH + stored["observed_at"].astype(np.int64).astype("m8[us]")
    keys, is_wanted = keys[_SET_KEY], np.isin(keys["observed_at"], times)
    sets = pa.Array.from_buffers(
        pa.binary(),
        len(stored),
        [None, pa.py_buffer(np.r_[0, np.cumsum(stored["size"])].astype(np.int32)), pa.py_buffer(pixels)],
    )
    known = _numbered(keys[is_wanted], parcels, times)  # ascending, as they were read
    wanted = _numbered(rows, parcels, times)
    place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    is_there = known[place] == wanted if len(known) else np.zeros(len(rows), bool)
    return sets.take(pa.array(np.flatnonzero(is_wanted)[place] if len(known) else place, mask=~is_there))


def _numbered(rows: NDArray[np.void], parcels: Keys, times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the keys of rows as numbers in the order of parcel, time, orbit and revision, all below 2^15 but the first two."""
    number = np.searchsorted(parcels, rows["parcel_key"]) * len(times) + np.searchsorted(times, rows["observed_at"])
    orbit, revision = rows["relative_orbit"].astype(np.int64), rows["revision"].astype(np.int64)
    return np.asarray((number.astype(np.int64) << 30) + (orbit << 15) + revision)


def has_pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> bool:
    """Return whether the first of the rows have pixel sets stored."""
    sets = pixel_sets(connection, sensor, rows[:20])
    return bool(sets.null_count < len(sets))


def available_series(
    connection: sa.Connection, parcels: Keys, as_available_at: datetime
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 observations of parcels whose products could be had by a time, whenever they were stored."""
    s2 = _newest(connection, "S2", parcels, "available_at", as_available_at)
    return s2, _newest(connection, "S1", parcels, "available_at", as_available_at)
