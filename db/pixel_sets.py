"""Stored pixel sets of observations, as they came."""

from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import EPOCH
from db.connect import driver
from db.series import Keys

_SET_KEY: Final = ["parcel_key", "observed_at", "relative_orbit", "revision"]
_SET_HEAD: Final = np.dtype(
    [("parcel_key", ">i8"), ("observed_at", ">i8"), ("relative_orbit", ">i2"), ("revision", ">i2"), ("size", ">i4")]
)


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
