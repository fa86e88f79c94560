"""The page of the rounds: lights as they were published, and what changed between two of them."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from db import contract, map_reads
from db.connect import Connection
from db.contract import PublishedRound
from db.map_reads import MappedSeason
from monitor.errors import NotFound
from monitor.rounds.differences import SEVERITY
from web.console.frame import PageRoute, Seen, page
from web.console.season import LIGHTS, choose
from web.parameters import Chosen, Moment

MOST_ROUNDS: Final = 12
MOST_CHANGES: Final = 100

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/console/rounds")
def shown(
    request: Request,
    connection: Seen,
    collection: Chosen = "",
    season: Chosen = "",
    published_before: Annotated[Moment | None, Query()] = None,
    earlier: Chosen = "",
    later: Chosen = "",
) -> Response:
    """Show the rounds of a season, newest first, and what changed between two where they are named."""
    seasons = map_reads.seasons(connection)
    chosen = choose(seasons, collection, season)
    if chosen is None:
        return page(request, "rounds.html", chosen=None)
    found = contract.rounds(connection, chosen.collection, chosen.season, published_before, MOST_ROUNDS + 1)
    pair = _pair(connection, chosen, earlier, later) if earlier and later else None
    return page(
        request,
        "rounds.html",
        chosen=chosen,
        seasons=seasons,
        lights=LIGHTS,
        rounds=found[:MOST_ROUNDS],
        older=found[MOST_ROUNDS - 1][0].published_at if len(found) > MOST_ROUNDS else None,
        published_before=published_before,
        pair=pair,
        changes=None
        if pair is None
        else contract.round_changes(
            connection, chosen.collection, chosen.season, (pair[0].name, pair[1].name), SEVERITY, MOST_CHANGES
        ),
    )


def _pair(
    connection: Connection, chosen: MappedSeason, earlier: str, later: str
) -> tuple[PublishedRound, PublishedRound]:
    """Return two rounds, the one that was published earlier first; raises NotFound where one is not there."""
    found = []
    for name in (earlier, later):
        one = contract.round_named(connection, chosen.collection, chosen.season, name)
        if one is None:
            raise NotFound(f"no round {name!r} of collection {chosen.collection!r} and season {chosen.season!r}")
        found.append(one)
    first, second = sorted(found, key=lambda one: one.published_at)
    return first, second
