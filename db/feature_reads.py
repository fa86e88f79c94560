"""Parcels and alerts as features: what OGC API - Features lists, page by page in the order of their keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa

from db.cql import Condition, Kind

Collection = Literal["parcels", "alerts"]
BBox = tuple[float, float, float, float]
"""West, south, east and north in degrees; west is greater than east across the antimeridian."""


@dataclass(frozen=True)
class FeatureType:
    """A view of the contract whose rows are features."""

    title: str
    description: str
    key: str
    properties: Mapping[str, Kind]
    """What filters may ask of, and what features show but for the outline."""
    time: str | None = None
    """The property that a time is asked of; without one, all features are of any time."""
    shown: Sequence[str] = ()
    """Properties that are shown and cannot be asked of."""


@dataclass(frozen=True)
class FeatureRow:
    """A feature: outline as GeoJSON in degrees (WGS 84, longitude first)."""

    key: int
    geometry: Mapping[str, Any] | None
    properties: Mapping[str, Any]


@dataclass(frozen=True)
class FeatureQuery:
    """Which features are asked for: all of these conditions; None where one does not matter."""

    bbox: BBox | None = None
    opened: tuple[datetime | None, datetime | None] | None = None
    """First and last time, both included."""
    where: Condition | None = field(default=None, compare=False)
    after: int | None = None
    """Key of the last feature of the page before."""


_FIRST_RANGE: Final = 2
"""Keys looked at first, for each feature asked for: chosen because half of the keys may be of other regions."""
_LONGEST_RANGE: Final = 1_000_000
_IDENTITY: Final[dict[str, Kind]] = {"collection": "text", "season": "text", "source_id": "text", "region": "text"}
TYPES: Final[Mapping[Collection, FeatureType]] = {
    "parcels": FeatureType(
        "Parcels",
        "Declared parcels with the declaration in force.",
        "parcel_key",
        {
            "parcel_key": "number",
            **_IDENTITY,
            "area_ha": "number",
            "perimeter_m": "number",
            "declared_crop_code": "text",
            "declared_crop": "text",
            "hcat_code": "text",
            "not_monitorable_reason": "text",
            "recorded_at": "time",
            "geom": "geometry",
        },
    ),
    "alerts": FeatureType(
        "Alerts",
        "Alerts as they stand now, closed ones too, with the outlines of their parcels.",
        "alert_key",
        {
            "alert_key": "number",
            "parcel_key": "number",
            **_IDENTITY,
            "declared_crop": "text",
            "rule": "text",
            "state": "text",
            "colour": "text",
            "confidence": "number",
            "departed_on": "day",
            "opened_at": "time",
            "confirmed_at": "time",
            "closed_at": "time",
            "area_ha": "number",
            "geom": "geometry",
        },
        time="opened_at",
        shown=("evidence",),
    ),
}


def features(connection: sa.Connection, kind: Collection, query: FeatureQuery, limit: int) -> list[FeatureRow]:
    """Return the first features by key that a query asks for, at most so many."""
    its, near = TYPES[kind], None
    key: sa.ColumnClause[int] = sa.column(its.key)
    asked = _conditions(its, query)
    if query.bbox is not None:
        near = _parcels_in(connection, query.bbox)
        if near is None:
            asked.append(_in_bbox(query.bbox))
    found: list[FeatureRow] = []
    for within in _parts(key, query.after or 0, _FIRST_RANGE * limit, near):
        rows = connection.execute(_select(its).where(*asked, *within).order_by(key).limit(limit - len(found)))
        found += [_row(its, row) for row in rows]
        if len(found) == limit:
            break
    return found


def _parts(key: sa.ColumnClause[int], after: int, length: int, near: Sequence[int] | None) -> Iterator[list[Condition]]:
    """Yield conditions on a key by which features are read part by part, each four times as long as the one before.

    A view with a security barrier is read whole before it is sorted.

    Args:
        key: of the features.
        after: the key after which they begin.
        length: of the first part, in keys.
        near: keys of the only parcels that may be meant, in order; None: all.
    """
    if near is not None and key.name == "parcel_key":
        left = [one for one in near if one > after]
        while left:
            yield [_is_one_of(key, left[:length])]
            left, length = left[length:], 4 * length
        return
    if near is not None:
        yield [key > after, _is_one_of(sa.column("parcel_key"), near)]
        return
    while length <= _LONGEST_RANGE:
        yield [key > after, key <= after + length]
        after, length = after + length, 4 * length
    yield [key > after]


def _is_one_of(key: sa.ColumnElement[int], keys: Sequence[int]) -> Condition:
    return key == sa.any_(sa.literal(list(keys), sa.ARRAY(sa.BigInteger)))


def _parcels_in(connection: sa.Connection, bbox: BBox) -> list[int] | None:
    """Return the keys of the parcels in a box, in order; None where they are too many, or there is no index of the place."""
    if bbox[0] > bbox[2]:
        return None
    keys: list[int] | None = connection.execute(sa.select(sa.func.parcelwatch.parcels_in(_box(*bbox)))).scalar_one()
    return keys


def feature(connection: sa.Connection, kind: Collection, key: int) -> FeatureRow | None:
    """Return a feature by its key."""
    its = TYPES[kind]
    found = connection.execute(_select(its).where(sa.column(its.key) == key)).one_or_none()
    return None if found is None else _row(its, found)


def _conditions(its: FeatureType, query: FeatureQuery) -> list[Condition]:
    asked: list[Condition] = [] if query.where is None else [query.where]
    if query.opened is not None and its.time is not None:
        first, last = query.opened
        asked += [] if first is None else [sa.column(its.time) >= first]
        asked += [] if last is None else [sa.column(its.time) <= last]
    return asked


def _select(its: FeatureType) -> sa.Select[*tuple[Any, ...]]:
    names = [name for name, kind in its.properties.items() if kind != "geometry"]
    view = sa.table(its.title.lower(), schema="parcelwatch")
    outline = sa.func.ST_AsGeoJSON(sa.column("geom"), 7).cast(sa.JSON).label("outline")  # 7 digits: a centimetre
    return sa.select(*map(sa.column, [*names, *its.shown]), outline).select_from(view)


def _row(its: FeatureType, row: sa.Row[Any]) -> FeatureRow:
    found = dict(row._mapping)
    return FeatureRow(found[its.key], found.pop("outline"), found)


def _in_bbox(bbox: BBox) -> Condition:
    west, south, east, north = bbox
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    return sa.or_(*(sa.func.ST_Intersects(sa.column("geom"), _box(low, south, high, north)) for low, high in spans))


def _box(west: float, south: float, east: float, north: float) -> sa.ColumnElement[Any]:
    return sa.func.ST_MakeEnvelope(west, south, east, north, 4326)
