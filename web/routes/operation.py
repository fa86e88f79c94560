"""How the chain does: scenes that were stored, and the state of every part."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from db import parcel_reads as reads
from db import status as store
from db.access import watching
from web.formats import RESPONSES, Formatted, Rows, answer, format_of
from web.parameters import BIGINT, Moment, Past, following, page
from web.principals import Asked, having

router = APIRouter(prefix="/api", tags=["operation"])


class Scenes(Formatted):
    """Which scenes."""

    sensor: Literal["S1", "S2"] | None = None
    first: Moment | None = Field(None, alias="from", description="observed from this time on")
    to: Moment | None = Field(None, description="observed before this time")
    as_known_at: Past | None = Field(None, description="recorded by then")
    after: Annotated[int, Field(ge=0, le=BIGINT)] = Field(0, description="key of the last scene of the page before")
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class StatusLine(BaseModel):
    """A part of the chain, what is said of it, and how it is."""

    part: str
    what: str
    value: str


class Status(BaseModel):
    """The state of the whole chain."""

    lines: list[StatusLine]


@router.get(
    "/scenes",
    response_model=Rows[reads.SceneRow],
    responses=RESPONSES,
    dependencies=[Depends(having("reader", "operator", "admin"))],
)
def scenes(request: Request, connection: Asked, asked: Annotated[Scenes, Query()]) -> Response:
    """Return scenes of which anything was stored, and of how many parcels. Not for inspectors: they count parcels of all regions."""
    form = format_of(request, asked.format)
    span = reads.Span(asked.first, asked.to, asked.as_known_at)
    rows, begins = page(
        reads.scenes(connection, asked.sensor, span, asked.after, asked.limit + 1),
        asked.limit,
        lambda row: row.scene_key,
    )
    after = None if begins is None else following(request, after=rows[-1].scene_key, format=form)
    return answer(form, reads.SceneRow, rows, after)


@router.get("/status", dependencies=[Depends(having("operator", "admin"))])
def status(connection: Asked) -> Status:
    """Return the state of the whole chain, as `parcelwatch status` shows it: processes, what is stored, what waits for what."""
    with watching(connection):
        lines = store.status(connection)
    return Status(lines=[StatusLine(part=part, what=what, value=value) for part, what, value in lines])
