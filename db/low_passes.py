"""Low radar passes of parcels, and how many of their neighbours were low at the same passes: appended, the newest row of each counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.columns import Kind, fetch_columns
from db.series import Keys

_COUNTED: Final[dict[str, Kind]] = {
    "parcel_key": "bigint",
    "day": "date",
    "relative_orbit": "smallint",
    "n_seen": "smallint",
    "n_low": "smallint",
    "n_crops": "smallint",
    "usual_share": "real",
}
PASS: Final = np.dtype([("parcel_key", "i8"), ("day", "M8[D]"), ("relative_orbit", "i2"), ("is_low", "?")])
"""A pass of a parcel and whether it is low."""


@dataclass(frozen=True, order=True)
class Pass:
    """A pass of Sentinel-1 over a region: all that it saw on a day from an orbit."""

    day: date
    relative_orbit: int


@dataclass(frozen=True)
class LowParcel:
    """A parcel that was low at a pass; place of its centroid in degrees."""

    parcel_key: int
    region_key: int
    crop_code: str | None
    lon: float
    lat: float


def stored(connection: sa.Connection, parcels: Keys) -> NDArray[np.void]:
    """Return the low passes of parcels, as `PASS`, sorted by parcel, day and orbit."""
    rows = fetch_columns(
        connection,
        """select * from (
               select distinct on (parcel_key, day, relative_orbit) parcel_key, day, relative_orbit, is_low from low_passes
               where parcel_key = any(%s) order by parcel_key, day, relative_orbit, recorded_at desc) newest
           where is_low""",
        [parcels],
        {"parcel_key": "bigint", "day": "date", "relative_orbit": "smallint", "is_low": "bool"},
    )
    return rows.astype(PASS)


def save(connection: sa.Connection, passes: NDArray[np.void], now: datetime) -> None:
    """Append which passes (N,), as `PASS`, are low, or are not any more."""
    if len(passes):
        columns = {
            "parcel_key": pa.array(passes["parcel_key"]),
            "day": pa.array(passes["day"], pa.date32()),
            "relative_orbit": pa.array(passes["relative_orbit"]),
            "recorded_at": pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), len(passes)),
            "is_low": pa.array(passes["is_low"]),
        }
        copy_into(connection, "low_passes", list(columns), pa.table(columns))


def move(connection: sa.Connection, season_key: int, collection: str, passes: Sequence[Pass]) -> None:
    """Ask for the low neighbours at passes to be counted anew."""
    connection.exec_driver_sql(
        "insert into moved_passes select %s, %s, * from unnest(%s::date[], %s::smallint[])",
        (season_key, collection, [one.day for one in passes], [one.relative_orbit for one in passes]),
    )


def take_moved(connection: sa.Connection, season_key: int, collection: str) -> list[Pass]:
    """Return the passes at which low neighbours are to be counted anew, ascending; they are asked for no more."""
    # What a worker commits after this statement stays, and is asked for the next time.
    rows = connection.execute(
        sa.text("""delete from moved_passes where (season_key, collection) = (:season_key, :collection)
                   returning day, relative_orbit"""),
        {"season_key": season_key, "collection": collection},
    )
    return sorted({Pass(row.day, row.relative_orbit) for row in rows})


def low_parcels(connection: sa.Connection, season_key: int, collection: str, at: Pass) -> list[LowParcel]:
    """Return the parcels that can be monitored, have a geometry and were low at a pass, by key."""
    rows = connection.execute(
        sa.text("""
            select parcels.parcel_key, region_key, declared.crop_code, ST_X(ST_Centroid(geom)) as lon, ST_Y(ST_Centroid(geom)) as lat
            from (select distinct on (parcel_key) parcel_key, is_low from low_passes
                  where (day, relative_orbit) = (:day, :relative_orbit) order by parcel_key, recorded_at desc) newest
            join parcels using (parcel_key) left join lateral declaration_known(parcel_key) declared on true
            where is_low and (season_key, collection) = (:season_key, :collection)
              and not_monitorable_reason is null and geom is not null
            order by 1"""),
        {"season_key": season_key, "collection": collection, **at.__dict__},
    )
    return [LowParcel(**row._mapping) for row in rows]


def seen(connection: sa.Connection, parcels: Keys, at: Pass) -> Keys:
    """Return those of some parcels that were seen at a pass, in both polarisations."""
    rows = fetch_columns(
        connection,
        """select key as parcel_key from unnest(%s::bigint[]) key cross join lateral (
               select is_withdrawn, vv, vh from s1_observations
               where parcel_key = key and observed_at >= %s::timestamptz and observed_at < %s::timestamptz and relative_orbit = %s
               order by observed_at desc, revision desc limit 1) newest
           where not is_withdrawn and vv > 0 and vh > 0""",
        [parcels, f"{at.day}Z", f"{at.day + timedelta(days=1)}Z", at.relative_orbit],
        {"parcel_key": "bigint"},
    )
    return np.asarray(rows["parcel_key"], np.int64)


def nearest(connection: sa.Connection, parcels: Keys, n: int, within_m: float) -> NDArray[np.void]:
    """Return up to n parcels of the same season and collection nearest to each, by their centroids.

    Fields: place of the parcel among those asked for, parcel_key of the one near it.
    """
    # The box of degrees is asked by index and holds the circle. So near the earth is flat.
    return fetch_columns(
        connection,
        """select wanted.nr - 1 as place, near.parcel_key
           from unnest(%s::bigint[]) with ordinality wanted (key, nr) join parcels own on own.parcel_key = wanted.key
           cross join lateral (select ST_Centroid(own.geom) as centre offset 0) at
           cross join lateral (select ST_X(centre) as lon, ST_Y(centre) as lat, 111320 * cos(radians(ST_Y(centre))) as degree_m offset 0) m
           cross join lateral (
               select parcel_key, sqrt(((ST_X(there) - lon) * degree_m) ^ 2 + ((ST_Y(there) - lat) * 110574) ^ 2) as distance_m
               from (select other.parcel_key, ST_Centroid(other.geom) as there from parcels other
                     where other.geom && ST_Expand(centre, %s / degree_m, %s / 110574.0)
                       and (other.season_key, other.collection) = (own.season_key, own.collection)
                       and other.parcel_key <> own.parcel_key and other.not_monitorable_reason is null offset 0) others
               order by 2, 1 limit %s) near
           where distance_m <= %s order by wanted.nr, distance_m""",
        [parcels, within_m, within_m, n, within_m],
        {"place": "bigint", "parcel_key": "bigint"},
    )


def counted(connection: sa.Connection, parcels: Keys) -> NDArray[np.void]:
    """Return what was counted last of the low neighbours of parcels, by parcel and pass."""
    return fetch_columns(
        connection,
        """select distinct on (parcel_key, day, relative_orbit) parcel_key, day, relative_orbit, n_seen, n_low, n_crops, usual_share
           from low_neighbours where parcel_key = any(%s) order by parcel_key, day, relative_orbit, recorded_at desc""",
        [parcels],
        _COUNTED,
    )


def counted_at(connection: sa.Connection, season_key: int, collection: str, at: Pass) -> NDArray[np.void]:
    """Return what was counted last at a pass, by parcel."""
    return fetch_columns(
        connection,
        """select distinct on (parcel_key) parcel_key, day, relative_orbit, n_seen, n_low, n_crops, usual_share
           from low_neighbours join parcels using (parcel_key)
           where (day, relative_orbit) = (%s::date, %s) and (season_key, collection) = (%s, %s)
           order by parcel_key, low_neighbours.recorded_at desc""",
        [at.day, at.relative_orbit, season_key, collection],
        _COUNTED,
    )


def every_count(connection: sa.Connection, parcels: Keys) -> NDArray[np.void]:
    """Return all that was ever counted of the low neighbours of parcels, with recorded_at, in the order in which it became known."""
    return fetch_columns(
        connection,
        """select parcel_key, day, relative_orbit, n_seen, n_low, n_crops, usual_share, recorded_at
           from low_neighbours where parcel_key = any(%s) order by recorded_at""",
        [parcels],
        {**_COUNTED, "recorded_at": "time"},
    )


def save_counted(connection: sa.Connection, rows: NDArray[np.void], now: datetime) -> None:
    """Append what was counted (N,), with the fields of `counted`."""
    columns = [rows[name].tolist() for name in _COUNTED]
    # In a replay, whose clock may stand still, the last of an instant stays.
    connection.exec_driver_sql(
        f"""insert into low_neighbours ({", ".join(_COUNTED)}, recorded_at)
            select *, %s::timestamptz
            from unnest(%s::bigint[], %s::date[], %s::smallint[], %s::smallint[], %s::smallint[], %s::smallint[], %s::real[])
            on conflict (parcel_key, day, relative_orbit, recorded_at) do update set
                (n_seen, n_low, n_crops, usual_share) = (excluded.n_seen, excluded.n_low, excluded.n_crops, excluded.usual_share)""",
        (now, *columns),
    )
