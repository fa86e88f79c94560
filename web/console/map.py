"""The page of the map: parcels by light and crop, as known on a day."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from db import map_reads
from monitor.errors import NotFound
from web.console.frame import PageRoute, Seen, page
from web.console.subscriptions import rules

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/console/map")
def shown(
    request: Request,
    connection: Seen,
    collection: Annotated[str | None, Query(max_length=200)] = None,
    season: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Show the map of a collection and season, else of the newest; its script draws it."""
    seasons = map_reads.seasons(connection)
    chosen = next(
        (
            one
            for one in seasons
            if (collection is None or one.collection == collection) and (season is None or one.season == season)
        ),
        None,
    )
    if chosen is None and seasons:
        raise NotFound(f"no parcels of collection {collection!r} and season {season!r}")
    last = min(chosen.ends_on, datetime.now(UTC).date()) if chosen else None
    return page(request, "map.html", seasons=seasons, chosen=chosen, last=last, rules=rules(connection))
