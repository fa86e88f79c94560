"""Regions, seasons, how crops stand in them, and how much of each there is."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from db import parcel_reads as reads
from web.formats import RESPONSES, Formatted, Rows, answer, format_of
from web.parameters import MOST_ROWS, Link, Parameters, Past, Text, following, page
from web.principals import Asked

router = APIRouter(prefix="/api", tags=["regions"])


class Listed(Parameters):
    """A page of names."""

    after: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="the last one of the page before")
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


class ListedRows(Listed, Formatted):
    """A page of rows by name."""


class Regions(BaseModel):
    """Codes of regions, and where the next page of them is."""

    regions: list[str]
    links: list[Link]


class OfCrop(Formatted):
    """A crop in a region."""

    collection: Text
    season: Text
    region: Text
    crop_code: Text = Field(description="the agency's own code, as declared")


class OfSeason(Formatted):
    """A collection in a season."""

    collection: Text
    season: Text
    as_known_at: Past | None = Field(None, description="as it was recorded by then; now if left out")
    after: Text | None = Field(None, description="the last region of the page before")
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 2000


@router.get("/regions")
def regions(request: Request, connection: Asked, asked: Annotated[Listed, Query()]) -> Regions:
    """Return the regions that you see."""
    found, begins = page(reads.regions(connection, asked.after, asked.limit + 1), asked.limit, lambda code: code)
    links = (
        []
        if begins is None
        else [Link(href=following(request, after=found[-1]), rel="next", type="application/json", title="next page")]
    )
    return Regions(regions=found, links=links)


@router.get("/seasons", response_model=Rows[reads.SeasonRow], responses=RESPONSES)
def seasons(request: Request, connection: Asked, asked: Annotated[ListedRows, Query()]) -> Response:
    """Return the seasons with their first and last day."""
    form = format_of(request, asked.format)
    rows, begins = page(reads.seasons(connection, asked.after, asked.limit + 1), asked.limit, lambda row: row.season)
    return answer(
        form, reads.SeasonRow, rows, None if begins is None else following(request, after=rows[-1].season, format=form)
    )


@router.get("/crop-bands", response_model=Rows[reads.BandRow], responses=RESPONSES)
def crop_bands(request: Request, connection: Asked, asked: Annotated[OfCrop, Query()]) -> Response:
    """Return how the parcels of a region that declare one crop stand, by day: the newest that was recorded."""
    form = format_of(request, asked.format)
    rows = reads.crop_band(connection, asked.collection, asked.season, asked.region, asked.crop_code)
    return answer(form, reads.BandRow, rows)


@router.get("/crop-areas", response_model=Rows[reads.AreaRow], responses=RESPONSES)
def crop_areas(request: Request, connection: Asked, asked: Annotated[OfSeason, Query()]) -> Response:
    """Return the expected area of each crop by region, with an interval of 95 %, beside what is declared."""
    form = format_of(request, asked.format)
    found = reads.crop_areas(
        connection, asked.collection, asked.season, asked.after, asked.as_known_at, asked.limit + 1
    )
    rows, begins = page(found, asked.limit, lambda row: row.region)
    after = None if begins is None else following(request, after=rows[-1].region, format=form)
    return answer(form, reads.AreaRow, rows, after)
