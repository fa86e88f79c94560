"""Stored pixel sets of observations, as they came."""

from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import EPOCH
from db.connect import driver
from db.series import Keys, numbered

_SET_KEY: Final = ["parcel_key", "observed_at", "relative_orbit", "revision"]
_LARGEST_VALUE: Final = 2**30 - 2**10
"""Bytes of the server's largest value."""
_MOST_HASHED: Final = 2**14
"""Keys that the server surely looks up in a hash: of very many it would compare each with each."""
_SET_HEAD: Final = np.dtype(
    [("parcel_key", ">i8"), ("observed_at", ">i8"), ("relative_orbit", ">i2"), ("revision", ">i2"), ("size", ">i4")]
)


def pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> pa.BinaryArray:
    """Return the pixel set of each observation row (null where it has none), as it came: int16, bands x pixels."""
    _, sets = pixel_sets_within(connection, sensor, rows, _LARGEST_VALUE)
    if sets is None:
        raise ValueError(
            f"the pixel sets of {len(rows)} observations are more than {_LARGEST_VALUE} bytes: ask for fewer"
        )
    return sets


def pixel_sets_within(
    connection: sa.Connection, sensor: str, rows: NDArray[np.void], most_bytes: int
) -> tuple[NDArray[np.int64], pa.BinaryArray | None]:
    """Return the bytes (N,) of each observation row's pixel set, 0 where it has none, and the sets as `pixel_sets` does.

    Where all of them together are more than `most_bytes`, they are not read (None): a caller asks for some at a time.
    """
    if len(rows) == 0:
        return np.zeros(0, np.int64), pa.array([], pa.binary())
    parcels, times = np.unique(rows["parcel_key"]), np.unique(rows["observed_at"])
    stored, pixels = _read(connection, sensor, rows, (parcels, times), most_bytes)
    keys = np.empty(len(stored), rows[_SET_KEY].dtype)
    for name in ("parcel_key", "relative_orbit", "revision"):
        keys[name] = stored[name]
    keys["observed_at"] = EPOCH + stored["observed_at"].astype(np.int64).astype("m8[us]")
    known = numbered(keys[_SET_KEY], parcels, times)  # ascending, as they were read
    wanted = numbered(rows, parcels, times)
    place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    is_there = known[place] == wanted if len(known) else np.zeros(len(rows), bool)
    sizes = np.zeros(len(rows), np.int64)
    sizes[is_there] = stored["size"][place[is_there]]
    if pixels is None:
        return sizes, None
    bounds = pa.py_buffer(np.r_[0, np.cumsum(stored["size"])].astype(np.int32))
    sets = pa.Array.from_buffers(pa.binary(), len(stored), [None, bounds, pa.py_buffer(pixels)])
    return sizes, sets.take(pa.array(place, mask=~is_there))


def _read(
    connection: sa.Connection,
    sensor: str,
    rows: NDArray[np.void],
    different: tuple[Keys, NDArray[np.datetime64]],
    most_bytes: int,
) -> tuple[NDArray[np.void], bytes | None]:
    """Return the heads of the pixel sets of rows, whose different parcels and times are given, by their key, and the sets, joined.

    With them come some of the same parcels and times. The sets are None where they are more than `most_bytes`.
    """
    parcels, times = different
    # By parcel and span of time, which the index serves in any number; a join with the rows' keys would be planned as loops over
    # all. `is true` keeps filters from becoming such loops: of parcels that were observed at different times, the exact keys.
    is_own = "(observed_at = any(%s::timestamptz[])) is true"
    exact: list[object] = [[f"{time}Z" for time in times.astype(str)]]
    if len(rows) <= _MOST_HASHED and 2 * len(rows) < len(parcels) * len(times):
        is_own = """((parcel_key, observed_at) in (
            select key, 'epoch'::timestamptz + us * interval '1 us' from unnest(%s, %s) as own (key, us))) is true"""
        exact = [rows["parcel_key"], rows["observed_at"].astype(np.int64)]
    found = (
        driver(connection)
        .execute(
            f"""with own as materialized (
                    select * from pixel_sets where parcel_key = any(%s) and sensor = %s
                        and observed_at between %s::timestamptz and %s::timestamptz and {is_own}
                    order by parcel_key, observed_at, relative_orbit, revision)
                select (select string_agg(int8send(parcel_key) || timestamptz_send(observed_at) || int2send(relative_orbit)
                                          || int2send(revision) || int4send(octet_length(pixels)), ''::bytea) from own),
                       case when (select coalesce(sum(octet_length(pixels)), 0) from own) <= %s  -- found without reading them
                            then (select coalesce(string_agg(pixels, ''::bytea), '') from own) end""".encode(),
            [parcels, sensor, f"{times[0]}Z", f"{times[-1]}Z", *exact, most_bytes],
            prepare=False,
            binary=True,
        )
        .fetchone()
    )
    assert found is not None
    heads, pixels = found
    return np.frombuffer(heads or b"", _SET_HEAD), pixels


def has_pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> bool:
    """Return whether the first of the rows have pixel sets stored."""
    sets = pixel_sets(connection, sensor, rows[:20])
    return bool(sets.null_count < len(sets))
