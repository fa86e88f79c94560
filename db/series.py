"""Season-long series of parcels as numpy columns, newest revision first, withdrawn ones left out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import Kind, fetch_columns
from db.connect import driver

Keys = NDArray[np.int64]

S2_BANDS: Final = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
POLARISATIONS: Final = ("VV", "VH")
"""The rows of a stored pixel set, in their order."""
INVALID_PIXEL: Final = -32768
"""What a stored pixel set holds where a pixel was not seen."""

_AT_ONCE: Final = 4096
"""Parcels of which series are read at once: some 100 MB at a season's end."""

_KEY: Final[Mapping[str, Kind]] = {
    "parcel_key": "bigint",
    "observed_at": "time",
    "relative_orbit": "smallint",
    "revision": "smallint",
    "is_withdrawn": "bool",
    "recorded_at": "time",
}
S2_COLUMNS: Final[Mapping[str, Kind]] = {
    **_KEY,
    "n_clear": "int",
    "clear_fraction": "real",
    **dict.fromkeys(("ndvi", "ndvi_sd", "nbr2", "bsi", "s2wi"), "real"),
    **dict.fromkeys((band.lower() for band in S2_BANDS), "real"),
}
S1_COLUMNS: Final[Mapping[str, Kind]] = {
    **_KEY,
    "n_pixels": "int",
    "direction_nr": "smallint",
    "vv": "real",
    "vh": "real",
    "vv_sd": "real",
    "vh_sd": "real",
}
DIRECTIONS: Final = ("ascending", "descending", "mixed")
"""Directions in the order of the type `orbit_direction`; `direction_nr` counts from 1."""


def s2_series(connection: sa.Connection, parcels: Keys, as_known_at: datetime | None) -> NDArray[np.void]:
    """Return Sentinel-2 observations of `parcels` known at a time that is settled (None: now), ordered by parcel, pass time and orbit."""
    return _newest(connection, "s2_observations", "*", parcels, as_known_at, S2_COLUMNS)


def s1_series(connection: sa.Connection, parcels: Keys, as_known_at: datetime | None) -> NDArray[np.void]:
    """Return Sentinel-1 observations of `parcels` known at a time that is settled (None: now); VV and VH linear."""
    nr = "array_position(enum_range(null::orbit_direction), direction) as direction_nr"
    return _newest(connection, "s1_observations", f"*, {nr}", parcels, as_known_at, S1_COLUMNS)


def _newest(
    connection: sa.Connection,
    table: str,
    what: str,
    parcels: Keys,
    as_known_at: datetime | None,
    columns: Mapping[str, Kind],
) -> NDArray[np.void]:
    query = f"""
        select distinct on (parcel_key, observed_at, relative_orbit) {what} from {table}
        where parcel_key = any(%s) and recorded_at <= coalesce(%s, 'infinity'::timestamptz)
        order by parcel_key, observed_at, relative_orbit, revision desc"""
    some = [parcels[first : first + _AT_ONCE] for first in range(0, max(len(parcels), 1), _AT_ONCE)]
    rows = np.concatenate([fetch_columns(connection, query, [keys.tolist(), as_known_at], columns) for keys in some])
    # Withdrawn rows go after the newest revision is chosen, not in the query: else the revision that they withdraw
    # would come back.
    current: NDArray[np.void] = rows[~rows["is_withdrawn"]]
    return current


def pending_series(
    connection: sa.Connection, parcels: Keys, pending: NDArray[np.void]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 rows of pending observations (fields of `db.work.Claim.pending`) of `parcels`, sorted as `s2_series`."""
    nr = "array_position(enum_range(null::orbit_direction), direction) as direction_nr"
    own = pending[np.isin(pending["parcel_key"], parcels)]
    return (
        _observed(connection, "s2_observations", "o.*", own[own["is_s2"]], S2_COLUMNS),
        _observed(connection, "s1_observations", f"o.*, {nr}", own[~own["is_s2"]], S1_COLUMNS),
    )


def _observed(
    connection: sa.Connection, table: str, what: str, keys: NDArray[np.void], columns: Mapping[str, Kind]
) -> NDArray[np.void]:
    """Return the rows of a table under keys of observations."""
    if len(keys) == 0:
        return fetch_columns(connection, f"select {what} from {table} o limit 0", [], columns)
    times = [f"{time}Z" for time in keys["observed_at"].astype(str)]
    query = f"""
        select {what} from unnest(%s::bigint[], %s::timestamptz[], %s::smallint[], %s::smallint[])
            as wanted (parcel_key, observed_at, relative_orbit, revision)
        join {table} o using (parcel_key, observed_at, relative_orbit, revision)
        where o.observed_at between %s::timestamptz and %s::timestamptz  -- leaves out the other chunks
        order by parcel_key, observed_at, relative_orbit"""
    parameters = [
        keys["parcel_key"].tolist(),
        times,
        keys["relative_orbit"].tolist(),
        keys["revision"].tolist(),
        min(times),
        max(times),
    ]
    return fetch_columns(connection, query, parameters, columns)


def pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> list[bytes | None]:
    """Return the pixel set of each observation row (None where it has none), as it came: int16, bands x pixels."""
    if len(rows) == 0:
        return []
    times = [f"{time}Z" for time in rows["observed_at"].astype(str)]
    with driver(connection).cursor(binary=True) as cursor:
        cursor.execute(
            """
            select stored.pixels from unnest(%s::bigint[], %s::timestamptz[], %s::smallint[], %s::smallint[])
                with ordinality as wanted (parcel_key, observed_at, relative_orbit, revision, nr)
            left join pixel_sets stored on stored.parcel_key = wanted.parcel_key
                and stored.observed_at = wanted.observed_at and stored.relative_orbit = wanted.relative_orbit
                and stored.revision = wanted.revision and stored.sensor = %s
                and stored.observed_at between %s::timestamptz and %s::timestamptz  -- leaves out the other chunks
            order by wanted.nr""",
            [
                rows["parcel_key"].tolist(),
                times,
                rows["relative_orbit"].tolist(),
                rows["revision"].tolist(),
                sensor,
                min(times),
                max(times),
            ],
        )
        return [None if pixels is None else bytes(pixels) for (pixels,) in cursor]


def has_pixel_sets(connection: sa.Connection, sensor: str, rows: NDArray[np.void]) -> bool:
    """Return whether the first of the rows have pixel sets stored."""
    return any(one is not None for one in pixel_sets(connection, sensor, rows[:20]))


def available_series(
    connection: sa.Connection, parcels: Keys, as_available_at: datetime
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the S2 and S1 observations of parcels whose products could be had by a time, whenever they were stored."""
    nr = "array_position(enum_range(null::orbit_direction), direction) as direction_nr"
    tables: Mapping[str, tuple[str, Mapping[str, Kind]]] = {
        "s2_observations": ("*", S2_COLUMNS),
        "s1_observations": (f"*, {nr}", S1_COLUMNS),
    }
    found = []
    for table, (what, columns) in tables.items():
        query = f"""
            select distinct on (parcel_key, observed_at, relative_orbit) {what} from {table}
            where parcel_key = any(%s) and available_at <= %s
            order by parcel_key, observed_at, relative_orbit, revision desc"""
        rows = fetch_columns(connection, query, [parcels.tolist(), as_available_at], columns)
        found.append(rows[~rows["is_withdrawn"]])
    return found[0], found[1]
