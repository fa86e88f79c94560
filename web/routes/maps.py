"""The map: vector tiles, what they show in numbers, and the parcels in them."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field

from db import map_reads
from db.map_reads import Box, ParcelFilter, RegionMap
from monitor.errors import NotFound
from monitor.subscriptions import asked
from monitor.subscriptions.errors import InvalidSubscription
from web.parameters import BIGINT, Chosen, Limit, Text, storable
from web.principals import Asked

router = APIRouter(prefix="/api", tags=["map"])

MEDIA_TYPE: Final = "application/vnd.mapbox-vector-tile"
MOST_CROPS: Final = 100
ZIPPED_FROM: Final = 1400
"""Bytes that one packet holds: compression of less gains nothing."""
Light = Literal["red", "yellow", "suppressed", "not_valid", "green", "not_executed"]


def known_by(
    on: Annotated[date | None, Query(description="as known at the end of this day (UTC), else now")] = None,
) -> datetime | None:
    """Return the time that is asked for; None for now."""
    if on is None or on >= datetime.now(UTC).date():
        return None
    return datetime.combine(on, time.max, UTC)


On = Annotated[datetime | None, Depends(known_by)]
Crop = Annotated[str, Field(max_length=500), AfterValidator(storable)]


class Count(BaseModel):
    """Parcels of a crop; null: none is declared, or none known to be likely."""

    crop: str | None
    parcels: int


class MapRegion(BaseModel):
    """What a map shows of a region."""

    region: str
    parcels: int
    lights: dict[Light, int]
    box: Annotated[Box | None, Field(description="west, south, east, north in degrees")]


class MapOfSeason(BaseModel):
    """What a map shows in numbers. Crops: the 100 that most parcels have."""

    parcels: int
    lights: dict[Light, int]
    declared: list[Count]
    likeliest: list[Count]
    box: Annotated[Box | None, Field(description="west, south, east, north in degrees")]
    regions: list[MapRegion]
    made_at: datetime


class MapParcel(BaseModel):
    """A parcel on the map."""

    parcel_key: int
    source_id: str
    region: str
    light: Light
    declared: str | None
    likeliest: str | None
    probability: Annotated[float | None, Field(description="of the likeliest crop")]
    box: Annotated[Box, Field(description="west, south, east, north in degrees")]


class MapParcels(BaseModel):
    """Parcels by key, and where the next ones are."""

    parcels: list[MapParcel]
    next: str | None


@router.get(
    "/tiles/{collection}/{season}/{z}/{x}/{y}.mvt",
    response_class=Response,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        204: {"description": "no parcel is there"},
        304: {"description": "as in the tile that you have"},
    },
)
def tile(
    request: Request,
    connection: Asked,
    collection: Text,
    season: Text,
    z: Annotated[int, Path(ge=0, le=22)],
    x: Annotated[int, Path(ge=0, le=2**22)],
    y: Annotated[int, Path(ge=0, le=2**22)],
    at: On,
) -> Response:
    """Return a vector tile: to zoom 10 the layer `cells`, which counts parcels by light, then the layer `parcels`."""
    if max(x, y) >= 2**z:
        raise HTTPException(404, f"there is no tile {z}/{x}/{y}: x and y are below {2**z} at zoom {z}")
    version = map_reads.version(connection, collection, season, at)
    if version is None:
        raise _nothing(collection, season)
    tag = f'W/"{hashlib.sha256(f"{version} {z}/{x}/{y}".encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=60", "Vary": "Authorization, Cookie, Accept-Encoding"}
    if tag in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    found = map_reads.tile(connection, collection, season, (z, x, y), at)
    if not found:
        return Response(status_code=204, headers=headers)
    if len(found) > ZIPPED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        found, headers["Content-Encoding"] = gzip.compress(found, 1), "gzip"
    return Response(found, media_type=MEDIA_TYPE, headers=headers)


@router.get("/map/{collection}/{season}")
def map_of_season(connection: Asked, collection: Text, season: Text, at: On) -> MapOfSeason:
    """Return what the map shows in numbers: parcels by light and by crop, in all and by region, and where they lie."""
    rows = map_reads.regions(connection, collection, season, at)
    if not rows:
        raise _nothing(collection, season)
    return MapOfSeason(
        parcels=sum(row.n_parcels for row in rows),
        lights=_summed(row.lights for row in rows),
        declared=_crops(row.declared for row in rows),
        likeliest=_crops(row.likeliest for row in rows),
        box=_around([row.box for row in rows if row.box]),
        regions=[_region(row) for row in rows],
        made_at=min(row.made_at for row in rows),
    )


@router.get("/map/{collection}/{season}/parcels")
def parcels(
    request: Request,
    connection: Asked,
    collection: Text,
    season: Text,
    at: On,
    area: Annotated[str | None, Query(max_length=8000, description="polygon that they touch, GeoJSON or WKT")] = None,
    bbox: Annotated[str | None, Query(max_length=200, description="west,south,east,north in degrees")] = None,
    source_id: Annotated[Chosen | None, Query(description="how the agency's id begins")] = None,
    light: Light | None = None,
    declared: Crop | None = None,
    likeliest: Crop | None = None,
    after: Annotated[int, Query(ge=0, le=BIGINT)] = 0,
    limit: Limit = 100,
) -> MapParcels:
    """Return the parcels that the map shows, by key: in an area, of a light or crop, or by the agency's id."""
    if area is not None and bbox is not None:
        raise HTTPException(422, "an area or a bbox, not both")
    which = ParcelFilter(
        _polygon(area) if area is not None else _of_bbox(bbox) if bbox is not None else None,
        source_id,
        light,
        declared,
        likeliest,
    )
    rows = map_reads.parcels(connection, collection, season, at, which, after, limit + 1)
    shown = rows[:limit]
    following = request.url.include_query_params(after=shown[-1].parcel_key) if len(rows) > limit else None
    return MapParcels(
        parcels=[MapParcel.model_validate(row, from_attributes=True) for row in shown],
        next=None if following is None else f"{quote(following.path)}?{following.query}",
    )


def _nothing(collection: str, season: str) -> NotFound:
    return NotFound(f"no parcels of collection {collection!r} and season {season!r}")


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[Light, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)  # type: ignore[return-value]  # the names are of the type that the database has


def _crops(counts: Iterable[Mapping[str, int]]) -> list[Count]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return [Count(crop=crop or None, parcels=n) for crop, n in total.most_common(MOST_CROPS)]


def _region(row: RegionMap) -> MapRegion:
    return MapRegion(region=row.region, parcels=row.n_parcels, lights=_summed([row.lights]), box=row.box)


def _around(boxes: list[Box]) -> Box | None:
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


def _polygon(text: str) -> str:
    try:
        return asked.area(text)
    except InvalidSubscription as error:
        raise HTTPException(422, str(error)) from error


def _of_bbox(text: str) -> str:
    try:
        west, south, east, north = (float(one) for one in text.split(","))
    except ValueError as error:
        raise HTTPException(422, "a bbox is four numbers: west,south,east,north in degrees") from error
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise HTTPException(422, "a bbox is west,south,east,north in degrees, west before east and south before north")
    ring = ", ".join(f"{x} {y}" for x, y in ((west, south), (east, south), (east, north), (west, north), (west, south)))
    return f"POLYGON(({ring}))"
