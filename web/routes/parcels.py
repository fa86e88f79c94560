"""One parcel: its declaration, what was observed of it, what is believed, and how its neighbours stand."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, Field

from db import parcel_reads as reads
from db.connect import Connection
from db.history import HistoryRow
from db.parcel_reads import Span
from web.formats import RESPONSES, Formatted, Rows, answer, format_of
from web.parameters import MOST_ROWS, Key, Link, Moment, Parameters, Past, Text, address, following, page
from web.principals import Asked

router = APIRouter(prefix="/api/parcels", tags=["parcels"])
SERIES = ("history", "s2", "s1", "ndvi", "posteriors", "phenology", "markers", "crop-band")
ParcelKey = Annotated[Key, Path(alias="key", description="the parcel's number here, as the lookup gives it")]


class AsKnown(Parameters):
    """As it was known at a time."""

    as_known_at: Past | None = Field(None, description="as it was recorded by then; now if left out")


class OfOne(AsKnown, Formatted):
    """Rows as known at a time."""


class Series(OfOne):
    """Rows of a time, as known at another."""

    first: Moment | None = Field(
        None, alias="from", description="from this time on; ISO 8601, UTC unless it says otherwise"
    )
    to: Moment | None = Field(None, description="until before this time")
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 2000

    @property
    def span(self) -> Span:
        """Return the times asked for."""
        return Span(self.first, self.to, self.as_known_at)


class Named(AsKnown):
    """An agency's own name of a parcel."""

    collection: Text
    season: Text
    source_id: Text = Field(description="the agency's own id")


class Parcel(BaseModel):
    """A parcel with its declaration, and where its series are."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    perimeter_m: float | None
    declared_crop_code: str | None
    declared_crop: str | None
    hcat_code: str | None
    not_monitorable_reason: str | None
    recorded_at: datetime
    links: list[Link]


@router.get("")
def find(request: Request, connection: Asked, asked: Annotated[Named, Query()]) -> Parcel:
    """Return the parcel that an agency calls so."""
    key = reads.find_parcel(connection, asked.collection, asked.season, asked.source_id)
    found = None if key is None else reads.parcel(connection, key, asked.as_known_at)
    if found is None:
        raise HTTPException(
            404, f"no parcel {asked.source_id!r} of {asked.collection!r} in {asked.season!r} is there for you to see"
        )
    return _shown(request, found)


@router.get("/{key}")
def parcel(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[AsKnown, Query()]) -> Parcel:
    """Return a parcel with its declaration."""
    return _shown(request, _seen(connection, key, asked.as_known_at))


@router.get("/{key}/history", response_model=Rows[HistoryRow], responses=RESPONSES)
def history(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Series, Query()]) -> Response:
    """Return all that is known of a parcel in order of time; `kind` is s1, s2, ndvi, posterior, declaration or alert."""
    return _series(request, connection, key, asked, HistoryRow, reads.history, lambda row: row.at)


@router.get("/{key}/s2", response_model=Rows[reads.S2Row], responses=RESPONSES)
def s2(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Series, Query()]) -> Response:
    """Return Sentinel-2 observations: of each pass the newest revision known, without withdrawn ones."""
    return _series(request, connection, key, asked, reads.S2Row, reads.s2, lambda row: row.observed_at)


@router.get("/{key}/s1", response_model=Rows[reads.S1Row], responses=RESPONSES)
def s1(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Series, Query()]) -> Response:
    """Return Sentinel-1 observations likewise: `vv`, `vh` are linear power, `vv_db`, `vh_db` decibels."""
    return _series(request, connection, key, asked, reads.S1Row, reads.s1, lambda row: row.observed_at)


@router.get("/{key}/ndvi", response_model=Rows[reads.NdviRow], responses=RESPONSES)
def ndvi(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Series, Query()]) -> Response:
    """Return the daily curve: NDVI, its standard deviation, and whether the day was observed or reconstructed."""
    return _series(request, connection, key, asked, reads.NdviRow, reads.ndvi, lambda row: row.day)


@router.get("/{key}/posteriors", response_model=Rows[reads.PosteriorRow], responses=RESPONSES)
def posteriors(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Series, Query()]) -> Response:
    """Return crop posteriors after each acquisition: probabilities in the order of classes."""
    return _series(request, connection, key, asked, reads.PosteriorRow, reads.posteriors, lambda row: row.observed_to)


@router.get("/{key}/phenology", response_model=Rows[reads.MeasureRow], responses=RESPONSES)
def phenology(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[OfOne, Query()]) -> Response:
    """Return the measures of the parcel's season: its start, peak and end, how green it was; each with its standard deviation."""
    form = format_of(request, asked.format)
    return answer(
        form, reads.MeasureRow, _of_seen(connection, key, reads.phenology(connection, key, asked.as_known_at))
    )


@router.get("/{key}/markers", response_model=Rows[reads.MarkerRow], responses=RESPONSES)
def markers(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[OfOne, Query()]) -> Response:
    """Return what each marker says, as harvest or tillage: status, value, day, confidence, evidence."""
    form = format_of(request, asked.format)
    return answer(form, reads.MarkerRow, _of_seen(connection, key, reads.markers(connection, key, asked.as_known_at)))


@router.get("/{key}/crop-band", response_model=Rows[reads.BandRow], responses=RESPONSES)
def crop_band(request: Request, connection: Asked, key: ParcelKey, asked: Annotated[Formatted, Query()]) -> Response:
    """Return how the parcels of the same region and declared crop stand, by day: the newest that was recorded."""
    form = format_of(request, asked.format)
    its = _seen(connection, key)
    code = its.declared_crop_code
    rows = [] if code is None else reads.crop_band(connection, its.collection, its.season, its.region, code)
    return answer(form, reads.BandRow, rows)


def _seen(connection: Connection, key: int, as_known_at: datetime | None = None) -> reads.ParcelRow:
    """Return a parcel; raises 404 alike for one that does not exist and one that is not to be seen."""
    found = reads.parcel(connection, key, as_known_at)
    if found is None:
        raise HTTPException(404, f"no parcel {key} is there for you to see")
    return found


def _of_seen(connection: Connection, key: int, rows: Sequence[Any]) -> Sequence[Any]:
    """Return rows of a parcel; raises 404 as `_seen`. The contract gives rows of parcels that may be seen alone."""
    if not rows:
        _seen(connection, key)
    return rows


def _shown(request: Request, row: reads.ParcelRow) -> Parcel:
    here = f"/api/parcels/{row.parcel_key}"
    outline = f"/api/collections/parcels/items/{row.parcel_key}"
    json = "application/json"
    links = [
        Link(href=address(request, here), rel="self", type=json, title="this parcel"),
        Link(href=address(request, outline), rel="alternate", type="application/geo+json", title="with its outline"),
        *(Link(href=address(request, f"{here}/{name}"), rel="related", type=json, title=name) for name in SERIES),
    ]
    return Parcel(**row.__dict__, links=links)


def _series(
    request: Request,
    connection: Connection,
    key: int,
    asked: Series,
    kind: type[Any],
    read: Callable[[Connection, int, Span, int], Sequence[Any]],
    place: Callable[[Any], Any],
) -> Response:
    """Return a page of rows in order of time; the next begins at the time of the first row that is not on this one."""
    form = format_of(request, asked.format)
    found = _of_seen(connection, key, read(connection, key, asked.span, asked.limit + 1))
    rows, begins = page(found, asked.limit, place)
    if begins is None:
        return answer(form, kind, rows)
    at = begins if isinstance(begins, datetime) else datetime.combine(begins, time(), UTC)
    return answer(form, kind, rows, following(request, **{"from": at.isoformat(), "format": form}))
