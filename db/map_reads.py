"""Reads of the map: tiles, what they show in numbers, and the parcels in them (docs/decisions/0016-map.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""


@dataclass(frozen=True)
class MappedSeason:
    """A collection and season of which parcels may be seen."""

    collection: str
    season: str
    starts_on: date
    ends_on: date


@dataclass(frozen=True)
class RegionMap:
    """What a map shows of a region: parcels by light and by crop ("" where there is none), and where they lie."""

    region: str
    n_parcels: int
    lights: Mapping[str, int]
    declared: Mapping[str, int]
    likeliest: Mapping[str, int]
    box: Box | None
    made_at: datetime


@dataclass(frozen=True)
class ShownParcel:
    """A parcel as a map shows it."""

    parcel_key: int
    source_id: str
    region: str
    light: str
    declared: str | None
    likeliest: str | None
    probability: float | None
    box: Box


@dataclass(frozen=True)
class ParcelFilter:
    """Which parcels are asked for: None for all.

    Attributes:
        area: WKT in degrees that they touch.
        source_id: how the agency's id begins.
    """

    area: str | None = None
    source_id: str | None = None
    light: str | None = None
    declared: str | None = None
    likeliest: str | None = None


def seasons(connection: sa.Connection) -> list[MappedSeason]:
    """Return collections and seasons of which parcels may be seen, newest first."""
    rows = connection.execute(sa.text("select * from parcelwatch.map_collections()"))
    return [MappedSeason(**row._mapping) for row in rows]


def version(connection: sa.Connection, collection: str, season: str, as_known_at: datetime | None) -> str | None:
    """Return what tiles are made from, as one word; None where there is nothing of the collection and season."""
    found: str | None = _asked(connection, "map_version(:collection, :season, :at)", collection, season, as_known_at)
    return found


def tile(
    connection: sa.Connection, collection: str, season: str, zxy: tuple[int, int, int], as_known_at: datetime | None
) -> bytes | None:
    """Return a vector tile, empty where there are no parcels; None where there is no such tile."""
    z, x, y = zxy
    found: bytes | None = _asked(
        connection, "map_tile(:collection, :season, :z, :x, :y, :at)", collection, season, as_known_at, z=z, x=x, y=y
    )
    return found


def regions(connection: sa.Connection, collection: str, season: str, as_known_at: datetime | None) -> list[RegionMap]:
    """Return what a map shows of each region."""
    rows = connection.execute(
        sa.text("select * from parcelwatch.map_state(:collection, :season, :at)"),
        _given(collection, season, as_known_at),
    )
    return [
        RegionMap(row.region, row.n_parcels, row.lights, row.declared, row.likeliest, _box(row), row.made_at)
        for row in rows
    ]


def parcels(
    connection: sa.Connection,
    collection: str,
    season: str,
    as_known_at: datetime | None,
    which: ParcelFilter,
    after: int,
    limit: int,
) -> list[ShownParcel]:
    """Return up to `limit` parcels by key, from after one on."""
    rows = connection.execute(
        sa.text("""select * from parcelwatch.map_parcels(:collection, :season, :at, ST_GeomFromText(:area, 4326), :source_id, :light,
                                                         :declared, :likeliest, :after, :limit)"""),
        _given(collection, season, as_known_at) | which.__dict__ | {"after": after, "limit": limit},
    )
    return [
        ShownParcel(
            row.parcel_key,
            row.source_id,
            row.region,
            row.light,
            row.declared,
            row.likeliest,
            row.probability,
            (row.west, row.south, row.east, row.north),
        )
        for row in rows
    ]


def _asked(
    connection: sa.Connection, call: str, collection: str, season: str, as_known_at: datetime | None, **more: int
) -> Any:
    return connection.execute(
        sa.text(f"select parcelwatch.{call}"), _given(collection, season, as_known_at) | more
    ).scalar_one()


def _given(collection: str, season: str, as_known_at: datetime | None) -> dict[str, Any]:
    return {"collection": collection, "season": season, "at": "infinity" if as_known_at is None else as_known_at}


def _box(row: Any) -> Box | None:
    return None if row.west is None else (row.west, row.south, row.east, row.north)
