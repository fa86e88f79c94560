"""The page of a parcel, the search that leads to it, and the figures it draws."""

from datetime import datetime
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import AwareDatetime

from db import console as reads
from db import crop_progress
from db.access import as_service
from db.connect import Connection
from db.console import SeenParcel
from monitor.errors import NotFound
from web.console.decisions import decisions_of
from web.console.frame import PageRoute, Seen, SignedIn, page
from web.console.parcel_data import band_of, course
from web.principals import Asked

MOST_FOUND: Final = 50
Key = Annotated[int, Path(ge=1, le=2**63 - 1)]

router = APIRouter(route_class=PageRoute, include_in_schema=False)
data_router = APIRouter(include_in_schema=False)
"""Figures and pictures, which scripts ask for: their errors are the API's."""


@router.get("/console/parcels")
def search(
    request: Request, connection: Seen, source_id: Annotated[str, Query(alias="id", max_length=200)] = ""
) -> Response:
    """Lead to the parcel of an id, or list those of several seasons and collections."""
    asked = source_id.replace("\0", "").strip()
    found = reads.parcels_named(connection, asked, MOST_FOUND) if asked else []
    if len(found) == 1:
        return RedirectResponse(f"/console/parcel/{found[0].parcel_key}", 303)
    return page(request, "parcels.html", asked=asked, found=found)


@router.get("/console/parcel/{key}")
def parcel(request: Request, who: SignedIn, connection: Seen, key: Key) -> Response:
    """Show a parcel; its script draws what is known of it."""
    return page(request, "parcel.html", parcel=_visible(connection, key), decisions=decisions_of(who))


@data_router.get("/console/data/parcel/{key}")
def figures(connection: Asked, key: Key, as_known_at: AwareDatetime | None = None) -> dict[str, Any]:
    """Return what is known of a parcel, as known at a time."""
    seen = _visible(connection, key)
    rows = reads.history(connection, key, as_known_at)
    measures = reads.measures(connection, key, as_known_at)
    markers = reads.markers(connection, key, as_known_at)
    events = reads.alert_events(connection, key, as_known_at)
    declared_class = reads.declared_class(connection, key)
    declared = [row.detail["crop_code"] for row in rows if row.kind == "declaration"]
    with as_service(connection):
        pictures = reads.pictures(connection, key, as_known_at)
        band = _band(connection, seen, declared[-1], as_known_at) if declared else None
    return course(seen, rows, events, measures, markers, pictures, band, declared_class)


@data_router.get("/console/data/parcel/{key}/pictures/{chip_key}")
def picture(connection: Asked, key: Key, chip_key: Key) -> Response:
    """Return a picture of a parcel."""
    _visible(connection, key)
    with as_service(connection):
        image = reads.picture(connection, key, chip_key)
    if image is None:
        raise NotFound(f"picture {chip_key} of parcel {key} is not stored")
    return Response(image, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


def _visible(connection: Connection, key: int) -> SeenParcel:
    """Return a parcel that who asks may see; another is no parcel."""
    seen = reads.parcel(connection, key)
    if seen is None:
        raise NotFound(f"parcel {key} is not stored")
    return seen


def _band(
    connection: Connection, seen: SeenParcel, crop_code: str, as_known_at: datetime | None
) -> dict[str, Any] | None:
    """Return how the parcels of a declared crop in the same region stand; None where that is not known."""
    season_key = reads.season_key_of(connection, seen.parcel_key)
    progress = crop_progress.load(connection, season_key, seen.collection, as_known_at)
    row = progress.get((seen.region, crop_code))
    return None if row is None or not np.isfinite(row.band).any() else band_of(row)
