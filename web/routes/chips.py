"""Pictures of parcels cut from scenes."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Response
from pydantic import BaseModel

from db import access, chips, decisions
from db.chips import ChipRow
from db.connect import Connection
from web.parameters import MOST_LINES, Key, Moment
from web.principals import Asked
from web.routes.alerts import require_alert

router = APIRouter(prefix="/api", tags=["chips"])
Most = Annotated[int, Query(ge=20, le=MOST_LINES, description="at most so many")]
"""Not fewer: those of one time are never parted."""


class Chip(BaseModel):
    """A picture of a parcel, or why there is none."""

    chip: int
    sensor: str
    scene: str
    observed_at: datetime
    relative_orbit: int
    revision: int
    composite: str
    recorded_at: datetime
    missing: str | None
    """Why there is no picture."""
    png: str | None
    """Where it is."""
    sha256: str | None
    crs: str | None
    left_m: float | None
    top_m: float | None
    pixel_m: float | None
    side_pixels: int | None
    bar_m: int | None
    """Length of the bar that is drawn."""
    stretch: str | None


class Chips(BaseModel):
    """Pictures of a parcel, the newest last."""

    chips: list[Chip]
    next: str | None
    """Where those before are."""


@router.get("/parcels/{parcel}/chips")
def chips_of_parcel(connection: Asked, parcel: Key, before: Moment | None = None, limit: Most = 50) -> Chips:
    """List the newest pictures of a parcel, of what was observed before a time."""
    if not decisions.sees_parcel(connection, parcel):
        raise HTTPException(404, f"there is no parcel {parcel}")
    return _listed(connection, parcel, f"/api/parcels/{parcel}/chips", before, limit)


@router.get("/alerts/{alert}/chips")
def chips_of_alert(connection: Asked, alert: Key, before: Moment | None = None, limit: Most = 50) -> Chips:
    """List the newest pictures of an alert's parcel, of what was observed before a time."""
    return _listed(connection, require_alert(connection, alert), f"/api/alerts/{alert}/chips", before, limit)


@router.get(
    "/chips/{chip}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "the picture"}, 304: {"description": "as before"}},
)
def chip(connection: Asked, chip: Key, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return a picture. 410 where its time of keeping was over."""
    with access.deciding(connection):
        row = chips.chip(connection, chip)
    if row is None:  # of another region too: its parcel is not seen
        raise HTTPException(404, f"there is no picture {chip}")
    if row.image is None:
        raise HTTPException(410 if row.missing is None else 404, _missing(row) or "")
    etag = f'"{row.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and etag in [one.strip().removeprefix("W/") for one in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(row.image, media_type="image/png", headers=headers)


def _listed(connection: Connection, parcel: int, path: str, before: datetime | None, limit: int) -> Chips:
    with access.deciding(connection):
        rows = chips.chips_of(connection, parcel, last=before, limit=limit + 1, with_images=False)
    # What was observed at one time is not parted: the page before begins earlier.
    cut = len(rows) > limit
    if cut and any(one.observed_at > rows[0].observed_at for one in rows):
        rows = [one for one in rows if one.observed_at > rows[0].observed_at]
    first = rows[0].observed_at.isoformat().replace("+00:00", "Z") if rows else ""
    return Chips(chips=[_chip(one) for one in rows], next=f"{path}?before={first}&limit={limit}" if cut else None)


def _chip(row: ChipRow) -> Chip:
    same: dict[str, Any] = {
        name: getattr(row, name)
        for name in Chip.model_fields
        if name not in ("chip", "scene", "missing", "png", "side_pixels")
    }
    missing = _missing(row)
    return Chip(
        chip=row.chip_key,
        scene=row.scene_id,
        missing=missing,
        png=f"/api/chips/{row.chip_key}.png" if missing is None else None,
        side_pixels=row.width,
        **same,
    )


def _missing(row: ChipRow) -> str | None:
    """Return why there is no picture."""
    if row.removed_at is not None:
        return f"removed on {row.removed_at:%Y-%m-%d}: its time of keeping was over"
    return row.missing
