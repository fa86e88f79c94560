"""What the contract says of a parcel, a crop, a region or a scene: as the one who asks may see it, never more rows than a limit.

Connections come from `db.access.asking`. The columns read of a view or function are the fields of the row that is returned.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from db.connect import driver
from db.history import HistoryRow
from db.recording import settle


@dataclass(frozen=True)
class ParcelRow:
    """A parcel with its declaration."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    """The agency's own id."""
    region: str
    area_ha: float | None
    perimeter_m: float | None
    declared_crop_code: str | None
    declared_crop: str | None
    hcat_code: str | None
    not_monitorable_reason: str | None
    recorded_at: datetime


@dataclass(frozen=True)
class S2Row:
    """A Sentinel-2 observation: reflectances from 0 to 1, indices from -1 to 1."""

    observed_at: datetime
    relative_orbit: int
    revision: int
    n_clear: int | None
    clear_fraction: float | None
    ndvi: float | None
    ndvi_sd: float | None
    nbr2: float | None
    bsi: float | None
    s2wi: float | None
    b02: float | None
    b03: float | None
    b04: float | None
    b05: float | None
    b06: float | None
    b07: float | None
    b08: float | None
    b8a: float | None
    b11: float | None
    b12: float | None
    scene_key: int | None
    available_at: datetime
    recorded_at: datetime


@dataclass(frozen=True)
class S1Row:
    """A Sentinel-1 observation: `vv`, `vh` linear power, `vv_db`, `vh_db` decibels."""

    observed_at: datetime
    relative_orbit: int
    revision: int
    direction: str
    radiometry: str
    n_pixels: int | None
    vv_db: float | None
    vh_db: float | None
    vv: float | None
    vh: float | None
    vv_sd: float | None
    vh_sd: float | None
    coherence_vv: float | None
    coherence_vh: float | None
    coherence_with: datetime | None
    scene_key: int | None
    available_at: datetime
    recorded_at: datetime


@dataclass(frozen=True)
class NdviRow:
    """A day of a parcel's curve: NDVI and its standard deviation, observed or reconstructed, causal or retrospective."""

    day: date
    ndvi: float
    ndvi_sd: float
    origin: str
    mode: str
    recorded_at: datetime


@dataclass(frozen=True)
class PosteriorRow:
    """A posterior: probabilities in the order of classes, and how many observations it has seen."""

    observed_to: datetime
    recorded_at: datetime
    n_s2: int
    n_s1: int
    model: str
    classes: list[str]
    probabilities: list[float]


@dataclass(frozen=True)
class MeasureRow:
    """A measure of a parcel's season, with its standard deviation in the same unit."""

    measure: str
    method: str | None
    value: float | None
    sd: float | None
    day: date | None
    unit: str | None
    status: str
    recorded_at: datetime


@dataclass(frozen=True)
class MarkerRow:
    """What a marker says of a parcel, and on what that rests."""

    marker: str
    status: str
    value: float | None
    day: date | None
    confidence: float | None
    evidence: Mapping[str, Any]
    version: str
    recorded_at: datetime


@dataclass(frozen=True)
class BandRow:
    """A day of the parcels of a region that declare one crop: how many, the share that stands, their median NDVI."""

    day: date
    n_parcels: int
    standing_share: float | None
    median_ndvi: float | None
    recorded_at: datetime


@dataclass(frozen=True)
class AreaRow:
    """The expected area of a crop in a region, hectares, with an interval of 95 %; and what is declared."""

    region: str
    crop: str
    n_parcels: int
    area_ha: float
    area_sd_ha: float
    low_ha: float
    high_ha: float
    declared_ha: float


@dataclass(frozen=True)
class SceneRow:
    """A scene, and of how many parcels anything of it was stored."""

    scene_key: int
    scene_id: str
    sensor: str
    platform: str | None
    relative_orbit: int | None
    observed_at: datetime
    available_at: datetime
    recorded_at: datetime
    parcels_stored: int


@dataclass(frozen=True)
class SeasonRow:
    """A season with its first and last day."""

    season: str
    starts_on: date
    ends_on: date


@dataclass(frozen=True)
class Span:
    """A time that rows are asked of: from its first moment until before its last, as known at a third; None: without bound."""

    first: datetime | None = None
    last: datetime | None = None
    as_known_at: datetime | None = None


Row = TypeVar("Row")


def parcel(connection: sa.Connection, key: int, as_known_at: datetime | None = None) -> ParcelRow | None:
    """Return a parcel with the declaration in force, or in force as known at a time; None where there was none then."""
    found = _rows(connection, ParcelRow, "parcelwatch.parcels where parcel_key = :key", {"key": key})
    if not found or as_known_at is None:
        return found[0] if found else None
    statement = sa.text("select * from parcelwatch.declaration_known(:key, :at)")
    declared = connection.execute(statement, {"key": key, "at": as_known_at}).one_or_none()
    if found[0].recorded_at > as_known_at:
        return None
    code, name, hcat = (declared.crop_code, declared.crop_name, declared.hcat_code) if declared else (None, None, None)
    return replace(found[0], declared_crop_code=code, declared_crop=name, hcat_code=hcat)


def find_parcel(connection: sa.Connection, collection: str, season: str, source_id: str) -> int | None:
    """Return the key of a parcel by the agency's own id."""
    statement = sa.text("select parcelwatch.parcel_key_of(:collection, :season, :source_id)")
    key: int | None = connection.execute(
        statement, {"collection": collection, "season": season, "source_id": source_id}
    ).scalar_one()
    return key


def history(connection: sa.Connection, key: int, span: Span, limit: int) -> list[HistoryRow]:
    """Return all that is known of a parcel in order of time."""
    # Declarations come whatever the span is: a page would begin with those of the page before.
    source = """parcelwatch.parcel_history(:key, :first, :last, :at) where at >= :first and at < :last
                order by at, kind, recorded_at, relative_orbit, detail::text limit :limit"""
    return _rows(connection, HistoryRow, source, _spanned(key, span, limit))


def s2(connection: sa.Connection, key: int, span: Span, limit: int) -> list[S2Row]:
    """Return Sentinel-2 observations of a parcel in order of time."""
    source = "parcelwatch.s2_known(:key, :first, :last, :at) order by observed_at, relative_orbit limit :limit"
    return _rows(connection, S2Row, source, _spanned(key, span, limit))


def s1(connection: sa.Connection, key: int, span: Span, limit: int) -> list[S1Row]:
    """Return Sentinel-1 observations of a parcel in order of time."""
    source = "parcelwatch.s1_known(:key, :first, :last, :at) order by observed_at, relative_orbit limit :limit"
    return _rows(
        connection,
        S1Row,
        source,
        _spanned(key, span, limit),
        {"direction": "direction::text", "radiometry": "radiometry::text"},
    )


def ndvi(connection: sa.Connection, key: int, span: Span, limit: int) -> list[NdviRow]:
    """Return the daily curve of a parcel; of a span, the days that begin in it."""
    source = "parcelwatch.ndvi_known(:key, :first, :last, :at) order by day limit :limit"
    days = {"first": _first_day(span.first) or date(1900, 1, 1), "last": _first_day(span.last) or date(2200, 1, 1)}
    return _rows(connection, NdviRow, source, _spanned(key, span, limit) | days)


def posteriors(connection: sa.Connection, key: int, span: Span, limit: int) -> list[PosteriorRow]:
    """Return the posteriors of a parcel by the newest observation that each has seen."""
    settle(connection, span.as_known_at)
    source = """parcelwatch.posteriors where parcel_key = :key and observed_to >= :first and observed_to < :last and recorded_at <= :at
                order by observed_to, recorded_at, model limit :limit"""
    return _rows(connection, PosteriorRow, source, _spanned(key, span, limit))


def phenology(connection: sa.Connection, key: int, as_known_at: datetime | None) -> list[MeasureRow]:
    """Return the measures of a parcel's season."""
    return _rows(
        connection,
        MeasureRow,
        "parcelwatch.phenology_known(:key, :at)",
        _spanned(key, Span(as_known_at=as_known_at), 0),
    )


def markers(connection: sa.Connection, key: int, as_known_at: datetime | None) -> list[MarkerRow]:
    """Return what each marker says of a parcel."""
    source = "parcelwatch.markers_known(:key, :at) order by marker"
    return _rows(connection, MarkerRow, source, _spanned(key, Span(as_known_at=as_known_at), 0))


def crop_band(connection: sa.Connection, collection: str, season: str, region: str, crop_code: str) -> list[BandRow]:
    """Return how the parcels of a region that declare one crop stand, by day."""
    source = """parcelwatch.crop_bands where collection = :collection and season = :season and region = :region and crop_code = :crop
                order by day limit 1000"""
    return _rows(
        connection, BandRow, source, {"collection": collection, "season": season, "region": region, "crop": crop_code}
    )


def crop_areas(
    connection: sa.Connection,
    collection: str,
    season: str,
    after_region: str | None,
    as_known_at: datetime | None,
    limit: int,
) -> list[AreaRow]:
    """Return the expected area of each crop by region, of regions after one in the order of their codes."""
    source = """parcelwatch.crop_areas(:collection, :season, :at) where cast(:after as text) is null or region > :after
                order by region, area_ha desc, crop limit :limit"""
    asked = {
        "collection": collection,
        "season": season,
        "after": after_region,
        "at": as_known_at or _END,
        "limit": limit,
    }
    return _rows(connection, AreaRow, source, asked)


def scenes(connection: sa.Connection, sensor: str | None, span: Span, after: int, limit: int) -> list[SceneRow]:
    """Return scenes in the order of their keys, from after one on."""
    source = """parcelwatch.scenes where scene_key > :key and observed_at >= :first and observed_at < :last and recorded_at <= :at
                and (cast(:sensor as text) is null or sensor = :sensor) order by scene_key limit :limit"""
    return _rows(connection, SceneRow, source, {**_spanned(after, span, limit), "sensor": sensor})


def seasons(connection: sa.Connection, after: str, limit: int) -> list[SeasonRow]:
    """Return seasons by name, from after one on."""
    source = "parcelwatch.seasons where season > :after order by season limit :limit"
    return _rows(connection, SeasonRow, source, {"after": after, "limit": limit})


def regions(connection: sa.Connection, after: str, limit: int) -> list[str]:
    """Return the codes of regions, from after one on."""
    statement = sa.text("select region from parcelwatch.regions where region > :after order by region limit :limit")
    return list(connection.execute(statement, {"after": after, "limit": limit}).scalars())


_START, _END = "-infinity", "infinity"


def _first_day(moment: datetime | None) -> date | None:
    """Return the first day that begins at a moment or later."""
    return None if moment is None else (moment.astimezone(UTC) + timedelta(days=1, microseconds=-1)).date()


def _spanned(key: int, span: Span, limit: int) -> dict[str, Any]:
    return {
        "key": key,
        "first": span.first or _START,
        "last": span.last or _END,
        "at": span.as_known_at or _END,
        "limit": limit,
    }


def _rows(
    connection: sa.Connection,
    kind: type[Row],
    source: str,
    parameters: Mapping[str, Any],
    expressions: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return rows of a view or function; its columns are the fields of their class, or expressions for some of them."""
    names: Sequence[str] = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    columns = ", ".join(f"{(expressions or {}).get(name, name)} as {name}" for name in names)
    # By the driver and by place: what SQLAlchemy learns of each column, and a row as a mapping, take longer than the rows themselves.
    statement = re.sub(r"(?<!:):(\w+)", r"%(\1)s", f"select {columns} from {source}")
    with driver(connection).cursor() as cursor:
        return [kind(*row) for row in cursor.execute(statement.encode(), parameters).fetchall()]
