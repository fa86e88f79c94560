"""What people ask for at the command line, checked: names that are stored, times, text that can be stored."""

import getpass
import math
import os
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from db.connect import Connection
from db.history import find_parcel
from db.parcels import first_stored
from db.policies import stored_rules
from db.seasons import Season, season_by_name
from db.status import Group, season_groups
from monitor.alerts.lifecycle import ALIVE
from monitor.alerts.rules import RULES
from monitor.errors import NotFound
from terminal.times import moment, shown

LONGEST_NOTE = 2000
"""Characters of a note; chosen because a page is enough to say why."""


def storable(text: str | None) -> str | None:
    """Return text as UTF-8 can hold it: what a terminal gave in another encoding becomes question marks."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def require_rule(connection: Connection, name: str | None) -> None:
    """Raise BadParameter for the name of no rule and of no obligation that was ever in force."""
    if name is not None and name not in RULES and name not in (asked := stored_rules(connection)):
        raise typer.BadParameter(f"{name!r} is no rule; known: {', '.join([*RULES, *asked])}")


def note(text: str | None) -> str | None:
    """Return a note as it is stored; raises BadParameter where nothing is said or too much."""
    clean = None if text is None else (storable(text) or "").strip()
    if clean is not None and not 0 < len(clean) <= LONGEST_NOTE:
        raise typer.BadParameter(f"1 to {LONGEST_NOTE} characters are needed, {len(clean)} are given")
    return clean


def state(name: str | None) -> str | None:
    """Return the state of an alert; raises BadParameter for one that there is not."""
    known = (*ALIVE, "closed")
    if name is not None and name not in known:
        raise typer.BadParameter(f"{storable(name)!r} is no state; known: {', '.join(known)}")
    return name


def position(text: str | None) -> str | None:
    """Return a longitude and a latitude in degrees; raises BadParameter for what is no place on Earth."""
    if text is None:
        return None
    try:
        longitude, latitude = (float(one) for one in text.split(","))
    except ValueError:
        longitude = latitude = math.nan
    if not (abs(longitude) <= 180 and abs(latitude) <= 90):
        raise typer.BadParameter(
            f"{storable(text)!r} is no position: write longitude,latitude in degrees, as 5.12,52.08"
        )
    return f"{longitude},{latitude}"


def alert_or_incident(text: str) -> tuple[int, bool]:
    """Return the number of an alert, as 12, or of an incident, as I12, and which of them it is; raises BadParameter."""
    found = re.fullmatch(r"(I?)0*([1-9]\d{0,18})", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None or int(found[2]) >= 2**63:
        raise typer.BadParameter(f"{storable(text)!r} is no alert: a number, as 12, or I12 for an incident")
    return int(found[2]), bool(found[1])


def operator() -> str:
    """Return who runs this command, as the operating system knows them."""
    try:
        return storable(getpass.getuser()) or "unknown"
    except (KeyError, OSError):  # a number without an account, as in containers
        return f"user {os.geteuid()}"


def groups(connection: Connection, season: str | None, collection: str | None) -> Sequence[Group]:
    """Return the stored collections by season that are asked for.

    Raises:
        UnknownSeason: no such season.
        NotFound: the collection has no parcels, or none in that season.
    """
    if season is not None:
        season_by_name(connection, season)
    found = season_groups(connection)
    asked = [one for one in found if season in (None, one.season) and collection in (None, one.collection)]
    if not asked and (season is not None or collection is not None):
        stored = ", ".join(f"{one.collection} in {one.season}" for one in found) or "none"
        whose = "no collection has parcels" if collection is None else f"collection {collection!r} has no parcels"
        raise NotFound(f"{whose}{f' in season {season}' if season else ''}; stored: {stored}")
    return asked


def the_collection(connection: Connection, season: str, collection: str | None) -> str:
    """Return the one collection that is meant in a season; raises UnknownSeason and NotFound."""
    found = [one.collection for one in groups(connection, season, collection)]
    if len(found) > 1:
        raise NotFound(f"season {season} has collections {', '.join(found)}: name one with --collection")
    return found[0]


def nothing_by(connection: Connection, season: Season, collection: str, at: datetime) -> NotFound:
    """Return the error of a time by which no parcel of a collection was stored: it says from when on there are any."""
    first = first_stored(connection, season.season_key, collection)
    since = f"; the first was at {shown(first)}: name a later time, or none for now" if first else ""
    return NotFound(f"no parcel of {collection} in {season.name} was stored by {shown(at)}{since}")


def the_parcel(connection: Connection, parcel: str, collection: str | None, season: str | None) -> tuple[int, str, str]:
    """Return key, collection and season of the one parcel that is meant; raises NotFound."""
    stored_groups = groups(connection, season, collection)
    found = find_parcel(connection, parcel, collection, season)
    if not found:
        stored = ", ".join(f"{one.collection} in {one.season}" for one in stored_groups) or "no parcels"
        raise NotFound(f"no parcel {parcel!r} is stored; stored: {stored}")
    same_season = [one for one in found if one[2] == found[0][2]]
    if len(same_season) > 1:
        raise NotFound(
            f"{parcel!r} is in collections {', '.join(c for _, c, _ in same_season)}: name one with --collection"
        )
    return found[0]


SeasonOption = Annotated[str | None, typer.Option(help="only this season", callback=storable)]
CollectionOption = Annotated[str | None, typer.Option(help="only this collection", callback=storable)]
RuleOption = Annotated[
    str | None, typer.Option(help=f"{', '.join(RULES)}, or an obligation of a policy", callback=storable)
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line")]
TimeOption = Annotated[
    datetime | None,
    typer.Option(
        parser=moment, metavar="TIME", help="as it was recorded by then; ISO 8601, UTC unless it says otherwise"
    ),
]
