"""Parcels as known at a time, with what is declared of them: frozen rows out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.connect import driver
from db.seasons import Season
from db.series import Keys


@dataclass(frozen=True, slots=True)
class Parcel:
    """A declared parcel as known at a time: centroid in degrees, crop fields None where nothing is declared."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    perimeter_m: float | None
    bbox_fill: float | None
    lon: float | None
    lat: float | None
    not_monitorable_reason: str | None
    crop_code: str | None
    crop_name: str | None
    hcat_code: str | None

    @property
    def is_monitorable(self) -> bool:
        """Return whether the parcel can be observed from space."""
        return self.not_monitorable_reason is None


@dataclass(frozen=True)
class DeclaredParcels:
    """P parcels as columns: what is declared of them now (None where nothing is), and their shape (NaN where it is unknown)."""

    region: Sequence[str]
    crop_code: Sequence[str | None]
    hcat_code: Sequence[str | None]
    perimeter_m: NDArray[np.float64]
    """(P,)"""
    area_ha: NDArray[np.float64]
    """(P,)"""
    bbox_fill: NDArray[np.float64]
    """(P,)"""


@dataclass(frozen=True, slots=True)
class ParcelCount:
    """How many parcels share a collection, region, declared crop and reason not to be monitorable, and their area."""

    collection: str
    region: str
    crop_name: str | None
    not_monitorable_reason: str | None
    parcels: int
    area_ha: float


def load_parcels(
    connection: sa.Connection,
    season: str | Season,
    collection: str | None = None,
    as_known_at: datetime | None = None,
    keys: Sequence[int] | None = None,
) -> list[Parcel]:
    """Return parcels of a season in key order, each with the declaration recorded last by `as_known_at` (None: ever)."""
    # Some thousand keys are looked up one by one: as a condition beside those on the season they would filter all its parcels.
    source = (
        "parcels"
        if keys is None
        else "unnest(cast(:keys as bigint[])) wanted (parcel_key) join parcels using (parcel_key)"
    )
    rows = connection.execute(
        sa.text(f"""
            select parcel_key, collection, seasons.name, source_id, regions.code, area_ha, perimeter_m, bbox_fill,
                   ST_X(ST_Centroid(geom)), ST_Y(ST_Centroid(geom)), not_monitorable_reason,
                   declared.crop_code, declared.crop_name, declared.hcat_code
            from {source} join seasons using (season_key) join regions using (region_key)
            left join lateral (
                select crop_code, crop_name, hcat_code from declarations
                where declarations.parcel_key = parcels.parcel_key
                  and recorded_at <= coalesce(:as_known_at, 'infinity'::timestamptz)
                order by recorded_at desc limit 1
            ) declared on true
            where seasons.name = :season
              and (cast(:collection as text) is null or collection = :collection)
            order by parcel_key"""),
        {
            "season": season if isinstance(season, str) else season.name,
            "collection": collection,
            "as_known_at": as_known_at,
            **({} if keys is None else {"keys": list(keys)}),
        },
    )
    return [Parcel(*row) for row in rows]


def declared_parcels(connection: sa.Connection, parcels: Keys) -> DeclaredParcels:
    """Return parcels, in the order of their keys (P,), which must be stored, with the declaration recorded last."""
    # Reals as they are printed, which is how `load_parcels` gives them to training: the same input to the bit.
    row = (
        driver(connection)
        .execute(
            """select array_agg(code order by nr), array_agg(crop_code order by nr), array_agg(hcat_code order by nr),
                      array_agg(perimeter_m::text::float8 order by nr), array_agg(area_ha::text::float8 order by nr),
                      array_agg(bbox_fill::text::float8 order by nr)
               from unnest(%s) with ordinality wanted (parcel_key, nr)
               join parcels using (parcel_key) join regions using (region_key)
               left join lateral declaration_known(parcel_key) declared on true""",
            [parcels],
            prepare=False,
            binary=True,
        )
        .fetchone()
    )
    assert row is not None
    region, crop, hcat, *shape = (column or () for column in row)
    return DeclaredParcels(region, crop, hcat, *(np.array(column, np.float64) for column in shape))


def monitorable_keys(connection: sa.Connection, season_key: int, collection: str) -> Keys:
    """Return the keys of a collection's parcels in a season that can be observed, ascending."""
    rows = connection.execute(
        sa.text("""select parcel_key from parcels where (season_key, collection) = (:season_key, :collection)
                   and not_monitorable_reason is null order by 1"""),
        {"season_key": season_key, "collection": collection},
    )
    return np.array(rows.scalars().all(), np.int64)


def source_ids(connection: sa.Connection, parcels: Keys) -> list[str]:
    """Return the agency's own ids of parcels, in the order of their keys (P,), which must be stored."""
    rows = connection.exec_driver_sql(
        "select source_id from unnest(%s) with ordinality wanted (parcel_key, nr) join parcels using (parcel_key) order by nr",
        (parcels,),
    )
    return list(rows.scalars())


def centroids(connection: sa.Connection, parcels: Keys) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude (P,) of parcels in the order of their keys, as `load_parcels` has them; 0 where unknown."""
    row = (
        driver(connection)
        .execute(
            """select array_agg(coalesce(ST_X(ST_Centroid(geom)), 0) order by nr),
                      array_agg(coalesce(ST_Y(ST_Centroid(geom)), 0) order by nr)
               from unnest(%s) with ordinality wanted (parcel_key, nr) join parcels using (parcel_key)""",
            [parcels],
            prepare=False,
            binary=True,
        )
        .fetchone()
    )
    assert row is not None
    lon, lat = (np.array(column or (), np.float64) for column in row)
    return lon, lat


def geometry(connection: sa.Connection, keys: Sequence[int]) -> dict[int, bytes]:
    """Return WKB in EPSG:4326 of the parcels that have a geometry, by key."""
    rows = connection.execute(
        sa.text("select parcel_key, ST_AsBinary(geom) from parcels where parcel_key = any(:keys) and geom is not null"),
        {"keys": list(keys)},
    )
    return {key: bytes(wkb) for key, wkb in rows}


@dataclass(frozen=True)
class Outlines:
    """Parcels of a collection in some place."""

    parcel_key: Keys
    """(P,) ascending."""
    source_id: Sequence[str]
    wkb: Sequence[bytes]
    """In EPSG:4326."""
    is_monitorable: NDArray[np.bool_]
    """(P,)"""


def outlines_within(
    connection: sa.Connection, season: Season, collection: str, bounds: tuple[float, float, float, float]
) -> Outlines:
    """Return the parcels whose bounding boxes meet west, south, east and north, in degrees."""
    rows = connection.execute(
        sa.text("""
            select parcel_key, source_id, ST_AsBinary(geom), not_monitorable_reason is null from parcels
            where geom && ST_MakeEnvelope(:west, :south, :east, :north, 4326)
              and (season_key, collection) = (:season_key, :collection) order by 1"""),
        {
            **dict(zip(("west", "south", "east", "north"), bounds, strict=True)),
            "season_key": season.season_key,
            "collection": collection,
        },
    ).all()
    keys, ids, wkb, is_monitorable = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Outlines(np.array(keys, np.int64), ids, [bytes(one) for one in wkb], np.array(is_monitorable, bool))


def amended_since(connection: sa.Connection, parcels: Keys, times: Sequence[datetime]) -> NDArray[np.bool_]:
    """Return (P,) which parcels were imported anew, other than before, after their times (P,)."""
    rows = connection.exec_driver_sql(
        """select recorded_at > at from unnest(%s::bigint[], %s::timestamptz[]) with ordinality wanted (parcel_key, at, nr)
           join parcels using (parcel_key) order by nr""",
        (parcels, list(times)),
    )
    return np.array(rows.scalars().all(), bool)


def count_parcels(connection: sa.Connection, season: Season, collection: str | None = None) -> list[ParcelCount]:
    """Return parcels of a season counted by collection, region, declared crop and reason not to be monitorable."""
    rows = connection.execute(
        sa.text("""
            select collection, regions.code, declared.crop_name, not_monitorable_reason, count(*),
                   coalesce(sum(area_ha), 0)
            from parcels join regions using (region_key)
            left join lateral declaration_known(parcels.parcel_key) declared on true
            where season_key = :season_key and (cast(:collection as text) is null or collection = :collection)
            group by 1, 2, 3, 4 order by 1, 2, 3, 4"""),
        {"season_key": season.season_key, "collection": collection},
    )
    return [ParcelCount(*row) for row in rows]


def first_stored(connection: sa.Connection, season_key: int, collection: str) -> datetime | None:
    """Return when the first parcel of a collection in a season was recorded; None where there is none."""
    at: datetime | None = connection.execute(
        sa.text("select min(recorded_at) from parcels where (season_key, collection) = (:season, :collection)"),
        {"season": season_key, "collection": collection},
    ).scalar_one()
    return at
