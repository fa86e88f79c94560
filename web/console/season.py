"""The page of the season: how far it is seen, what stands where, and how many parcels have each light."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from db import contract, map_reads, parcel_reads
from db.map_reads import MappedSeason
from db.parcel_reads import AreaRow
from monitor.errors import NotFound
from monitor.rounds.differences import SEVERITY
from web.console.frame import PageRoute, Seen, page
from web.parameters import Chosen
from web.parameters import page as cut
from web.routes.maps import known_by

LATELY_DAYS: Final = 14
"""Days within which a parcel counts as seen lately: two to five passes of each satellite."""
MOST_AREAS: Final = 500
LIGHTS: Final = SEVERITY[::-1]
LEAST_HA: Final = 0.05
"""Areas that would be shown as 0.0 ha are left out."""
BAR_WIDTH: Final = 100

router = APIRouter(route_class=PageRoute, include_in_schema=False)


def choose(seasons: Sequence[MappedSeason], collection: str, season: str) -> MappedSeason | None:
    """Return the newest collection and season of those that are asked for ("": any); raises NotFound where none is as asked."""
    found = (one for one in seasons if collection in ("", one.collection) and season in ("", one.season))
    chosen = next(found, None)
    if chosen is None and seasons:
        raise NotFound(f"no parcels of collection {collection!r} and season {season!r}")
    return chosen


@router.get("/console/season")
def shown(
    request: Request,
    connection: Seen,
    collection: Chosen = "",
    season: Chosen = "",
    on: Annotated[Literal[""] | date, Query()] = "",
    after: Chosen = "",
) -> Response:
    """Show a season as known at the end of a day, else now."""
    seasons = map_reads.seasons(connection)
    chosen = choose(seasons, collection, season)
    if chosen is None:
        return page(request, "season.html", chosen=None)
    today = datetime.now(UTC).date()
    at = known_by(on or None)
    last = min(on or today, today, chosen.ends_on)
    names = (chosen.collection, chosen.season)
    found, begins = cut(
        parcel_reads.crop_areas(connection, *names, after or None, at, MOST_AREAS + 1),
        MOST_AREAS,
        lambda row: row.region,
    )
    first = last - min(timedelta(days=LATELY_DAYS - 1), last - chosen.starts_on)
    seen = contract.seen_between(connection, *names, first, last, at) if first <= last else {}
    asked = {"collection": chosen.collection, "season": chosen.season} | ({"on": on} if on else {})
    return page(
        request,
        "season.html",
        chosen=chosen,
        seasons=seasons,
        on=on,
        today=today,
        first=first,
        last=last,
        lights=LIGHTS,
        regions=[
            (row, row.n_parcels - row.likeliest.get("", 0), seen.get(row.region, 0))
            for row in map_reads.regions(connection, *names, at)
        ],
        areas=_areas(found),
        more=None if begins is None else f"?{urlencode(asked | {'after': found[-1].region})}",
    )


def _areas(rows: Iterable[AreaRow]) -> list[tuple[str, list[tuple[AreaRow, dict[str, Any]]]]]:
    """Return by region its crops, each with its bar: the region's largest area is as wide as all bars."""
    by_region = groupby((row for row in rows if max(row.high_ha, row.declared_ha) >= LEAST_HA), lambda row: row.region)
    found = []
    for region, of_region in by_region:
        crops = list(of_region)
        scale = BAR_WIDTH / max(max(row.high_ha, row.declared_ha) for row in crops)
        places = ("low_ha", "area_ha", "high_ha", "declared_ha")
        found.append(
            (region, [(row, {name: round(getattr(row, name) * scale, 2) for name in places}) for row in crops])
        )
    return found
