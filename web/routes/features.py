"""Parcels and alerts for maps: OGC API - Features (17-069r4), with filters in CQL2 (19-079r2, 21-065r2).

Errors of a request are 400, as the standard asks, where the rest of the API says 422.
"""

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, Field

from db.cql import InvalidFilter, Kind, Language, condition
from db.feature_reads import TYPES, BBox, Collection, FeatureQuery, FeatureRow, feature, features
from web.parameters import BIGINT, Link, Parameters, address, as_moment, following, storable
from web.principals import Asked, Who
from web.problems import faults

MOST_FEATURES: Final = 1000
CONFORMS_TO: Final = (
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
    "http://www.opengis.net/spec/ogcapi-features-3/1.0/conf/queryables",
    "http://www.opengis.net/spec/ogcapi-features-3/1.0/conf/filter",
    "http://www.opengis.net/spec/ogcapi-features-3/1.0/conf/features-filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-text",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
    "http://www.opengis.net/spec/cql2/1.0/conf/advanced-comparison-operators",
    "http://www.opengis.net/spec/cql2/1.0/conf/case-insensitive-comparison",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-spatial-functions",
)
CRS84: Final = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
JSON: Final = "application/json"
GEOJSON: Final = "application/geo+json"
SCHEMA: Final = "application/schema+json"
SCHEMAS: Final[dict[Kind, dict[str, str]]] = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "time": {"type": "string", "format": "date-time"},
    "day": {"type": "string", "format": "date"},
    "geometry": {"format": "geometry-multipolygon", "x-ogc-role": "primary-geometry"},
}
"""Of queryables, as OGC 19-079r2 asks."""


class AsTheStandardAsks(APIRoute):
    """Answers 404 to a path that leads nowhere, and 400 to parameters that are wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except RequestValidationError as error:
                wrong = faults(error)
                if any(one["at"].startswith("path.") for one in wrong):
                    raise HTTPException(404, f"there are only the collections {', '.join(TYPES)}") from None
                raise HTTPException(400, "; ".join(f"{one['at']}: {one['what']}" for one in wrong)) from None

        return handle


class GeoJson(JSONResponse):
    """JSON of features."""

    media_type = GEOJSON


class SchemaJson(JSONResponse):
    """JSON that describes JSON."""

    media_type = SCHEMA


def _bbox(text: str) -> str:
    _box_of(text)
    return text


def _box_of(text: str) -> BBox:
    try:
        given = [float(one) for one in text.split(",")]
        west, south, east, north = (
            given if len(given) == 4 else [given[nr] for nr in (0, 1, 3, 4)] if len(given) == 6 else []
        )
    except ValueError:
        raise ValueError("four numbers are needed: west,south,east,north in degrees") from None
    if not (abs(west) <= 180 and abs(east) <= 180 and -90 <= south <= north <= 90):
        raise ValueError("degrees are needed, south before north: west,south,east,north")
    return west, south, east, north


def _times(text: str) -> str:
    _ends_of(text)
    return text


def _ends_of(text: str) -> tuple[datetime | None, datetime | None]:
    ends = text.split("/")
    if len(ends) > 2 or all(end in ("", "..") for end in ends):
        raise ValueError("a time or two are needed: 2025-06-01, 2025-06-01/2025-07-01, ../2025-07-01 or 2025-06-01/..")
    first, last = (None if end in ("", "..") else as_moment(end) for end in (ends[0], ends[-1]))
    if last is not None and re.fullmatch(r"\d{4}-\d\d-\d\d", ends[-1]):  # the whole day
        last += timedelta(days=1, microseconds=-1)
    if first is not None and last is not None and first > last:
        raise ValueError("the first time is after the last")
    return first, last


class Items(Parameters):
    """Which features."""

    bbox: Annotated[str, Field(max_length=200), AfterValidator(_bbox)] | None = Field(
        None, description="west,south,east,north in degrees (CRS 84): features whose outlines meet it"
    )
    datetime: Annotated[str, Field(max_length=100), AfterValidator(_times)] | None = Field(
        None,
        description="time, or first/last with .. for an open end: when alerts were opened; parcels are of any time",
    )
    limit: Annotated[int, Field(ge=1)] = Field(100, description=f"more than {MOST_FEATURES} is {MOST_FEATURES}")
    filter: Annotated[str, Field(min_length=1, max_length=8000), AfterValidator(storable)] | None = Field(
        None, description="a condition on the properties that /queryables lists, in CQL2"
    )
    filter_lang: Language = Field("cql2-text", alias="filter-lang")
    filter_crs: Literal["http://www.opengis.net/def/crs/OGC/1.3/CRS84"] = Field(CRS84, alias="filter-crs")
    after: Annotated[int, Field(ge=0, le=BIGINT - 2**32)] | None = Field(
        None, description="as the link to the next page has it"
    )


class Landing(BaseModel):
    """Where the parts of this interface are."""

    title: str
    description: str
    links: list[Link]


class Conformance(BaseModel):
    """What this interface conforms to."""

    conformsTo: list[str]  # noqa: N815, the standard's name


class CollectionInfo(BaseModel):
    """A collection of features."""

    id: Collection
    title: str
    description: str
    itemType: Literal["feature"] = "feature"  # noqa: N815
    crs: list[str] = [CRS84]
    links: list[Link]


class Collections(BaseModel):
    """The collections of features."""

    collections: list[CollectionInfo]
    links: list[Link]


class Feature(BaseModel):
    """A GeoJSON feature (RFC 7946)."""

    type: Literal["Feature"] = "Feature"
    id: int
    geometry: dict[str, Any] | None
    properties: dict[str, Any]


class FeatureWithLinks(Feature):
    """A feature, and what it belongs to."""

    links: list[Link]


class FeatureCollection(BaseModel):
    """A page of features."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[Feature]
    links: list[Link]
    timeStamp: datetime  # noqa: N815
    numberReturned: int  # noqa: N815


class Queryables(BaseModel):
    """A JSON schema of what filters may ask of."""

    schema_: Literal["https://json-schema.org/draft/2020-12/schema"] = Field(
        "https://json-schema.org/draft/2020-12/schema", alias="$schema"
    )
    id_: str = Field(alias="$id")
    type: Literal["object"] = "object"
    title: str
    properties: dict[str, dict[str, str]]
    additionalProperties: Literal[False] = False  # noqa: N815


router = APIRouter(prefix="/api", tags=["features"], route_class=AsTheStandardAsks)
Of = Annotated[Collection, Path(alias="collection")]


@router.get("")
def landing(request: Request, _: Who) -> Landing:
    """Return where the parts of this interface are."""
    description = "application/vnd.oai.openapi+json;version=3.1"
    links = [
        _link(request, "self", "/api", JSON, "this page"),
        _link(request, "service-desc", "/api/openapi.json", description, "every request and answer"),
        _link(request, "conformance", "/api/conformance", JSON, "what this conforms to"),
        _link(request, "data", "/api/collections", JSON, "parcels and alerts as features"),
    ]
    return Landing(title=request.app.title, description=request.app.description, links=links)


@router.get("/conformance")
def conformance(_: Who) -> Conformance:
    """Return the parts of the standards that this interface conforms to."""
    return Conformance(conformsTo=list(CONFORMS_TO))


@router.get("/collections")
def collections(request: Request, _: Who) -> Collections:
    """Return the collections of features."""
    itself = _link(request, "self", "/api/collections", JSON, "this list")
    return Collections(collections=[_info(request, kind) for kind in TYPES], links=[itself])


@router.get("/collections/{collection}")
def collection(request: Request, _: Who, kind: Of) -> CollectionInfo:
    """Return a collection of features."""
    return _info(request, kind)


@router.get("/collections/{collection}/queryables", response_class=SchemaJson)
def queryables(request: Request, _: Who, kind: Of) -> Queryables:
    """Return the properties that a filter may ask of."""
    its = TYPES[kind]
    properties = {name: SCHEMAS[one] for name, one in its.properties.items()}
    described = {"$id": address(request, request.url.path), "title": its.title, "properties": properties}
    return Queryables.model_validate(described)


@router.get("/collections/{collection}/items", response_class=GeoJson)
def items(request: Request, connection: Asked, kind: Of, asked: Annotated[Items, Query()]) -> FeatureCollection:
    """Return a page of features in the order of their keys; the link `next` leads to the one after it."""
    try:
        where = None if asked.filter is None else condition(asked.filter, asked.filter_lang, TYPES[kind].properties)
    except InvalidFilter as error:
        raise HTTPException(400, f"filter: {error}") from None
    query = FeatureQuery(
        None if asked.bbox is None else _box_of(asked.bbox),
        None if asked.datetime is None else _ends_of(asked.datetime),
        where,
        asked.after,
    )
    limit = min(asked.limit, MOST_FEATURES)
    rows = features(connection, kind, query, limit + 1)
    links = [Link(href=following(request), rel="self", type=GEOJSON, title="this page")]
    if len(rows) > limit:
        rows = rows[:limit]
        next_page = following(request, after=rows[-1].key)
        links.append(Link(href=next_page, rel="next", type=GEOJSON, title="next page"))
    links.append(_link(request, "collection", f"/api/collections/{kind}", JSON, TYPES[kind].title))
    return FeatureCollection(
        features=[Feature(**_feature(row)) for row in rows],
        links=links,
        timeStamp=datetime.now(UTC),
        numberReturned=len(rows),
    )


@router.get("/collections/{collection}/items/{id}", response_class=GeoJson)
def item(request: Request, connection: Asked, kind: Of, id: Annotated[str, Path()]) -> FeatureWithLinks:
    """Return a feature."""
    key = int(id) if re.fullmatch(r"[0-9]{1,19}", id) else 0
    found = feature(connection, kind, key) if 0 < key <= BIGINT else None
    if found is None:
        raise HTTPException(404, f"no feature {id[:40]!r} of {kind} is there for you to see")
    here = f"/api/collections/{kind}"
    links = [
        _link(request, "self", f"{here}/items/{key}", GEOJSON, "this feature"),
        _link(request, "collection", here, JSON, TYPES[kind].title),
    ]
    return FeatureWithLinks(**_feature(found), links=links)


def _feature(row: FeatureRow) -> dict[str, Any]:
    return {"id": row.key, "geometry": row.geometry, "properties": dict(row.properties)}


def _info(request: Request, kind: Collection) -> CollectionInfo:
    its, here = TYPES[kind], f"/api/collections/{kind}"
    queryable = "http://www.opengis.net/def/rel/ogc/1.0/queryables"
    links = [
        _link(request, "self", here, JSON, its.title),
        _link(request, "items", f"{here}/items", GEOJSON, "features"),
        _link(request, queryable, f"{here}/queryables", SCHEMA, "what a filter may ask of"),
    ]
    return CollectionInfo(id=kind, title=its.title, description=its.description, links=links)


def _link(request: Request, rel: str, path: str, kind: str, title: str) -> Link:
    return Link(href=address(request, path), rel=rel, type=kind, title=title)
