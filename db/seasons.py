"""Seasons: the days in which declarations of one harvest year hold."""

from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa

from terminal.errors import UserError


class UnknownSeason(UserError):
    """No season of that name is stored; the caller names another or stores it first."""


class SeasonDiffers(UserError):
    """The season is stored with other dates; the caller leaves the dates out or names another season."""


@dataclass(frozen=True, slots=True)
class Season:
    """A growing season from its first to its last day; model time counts days from the first."""

    season_key: int
    name: str
    starts_on: date
    ends_on: date

    @property
    def harvest_year(self) -> int:
        """Return the year of its middle: seasons begin and end in neighbouring years."""
        return (self.starts_on + (self.ends_on - self.starts_on) // 2).year


def last_anniversary(starts_on: date, first: date) -> date:
    """Return the last anniversary of a season's first day that is not after a date; 28 February of the 29th."""
    day = min(starts_on.day, 28 if starts_on.month == 2 else 31)
    this_year = date(first.year, starts_on.month, day)
    return this_year if this_year <= first else this_year.replace(year=first.year - 1)


def season_by_name(connection: sa.Connection, name: str) -> Season:
    """Return the stored season of that name; raises UnknownSeason."""
    row = connection.execute(
        sa.text("select season_key, name, starts_on, ends_on from seasons where name = :name"), {"name": name}
    ).one_or_none()
    if row is None:
        known = connection.execute(sa.text("select name from seasons order by starts_on")).scalars().all()
        raise UnknownSeason(f"season {name!r} is not stored; stored: {', '.join(known) or 'none'}")
    return Season(*row)


def season_by_key(connection: sa.Connection, season_key: int) -> Season:
    """Return the stored season of a key."""
    row = connection.execute(
        sa.text("select season_key, name, starts_on, ends_on from seasons where season_key = :key"), {"key": season_key}
    ).one()
    return Season(*row)


def ensure_season(connection: sa.Connection, name: str, starts_on: date, ends_on: date) -> Season:
    """Return the season of that name, stored if it was not; raises SeasonDiffers if it is stored with other dates."""
    connection.execute(
        sa.text("""
            insert into seasons (name, starts_on, ends_on) values (:name, :starts_on, :ends_on)
            on conflict (name) do nothing"""),
        {"name": name, "starts_on": starts_on, "ends_on": ends_on},
    )
    season = season_by_name(connection, name)
    if (season.starts_on, season.ends_on) != (starts_on, ends_on):
        stored = f"{season.starts_on} to {season.ends_on}"
        raise SeasonDiffers(
            f"season {name!r} is stored as {stored}, not {starts_on} to {ends_on}; leave the dates out, name another season, "
            f"or widen it for all collections: parcelwatch parcels season {name} --starts-on ... --ends-on ..."
        )
    return season


def widen_season(connection: sa.Connection, name: str, starts_on: date | None, ends_on: date | None) -> Season:
    """Move a season's first day earlier or its last day later, for all its collections; None leaves a day as it is.

    Raises UnknownSeason, and SeasonDiffers where the season would be narrower, or would begin on another day than the one
    that a model which watches it counts from.
    """
    season = season_by_name(connection, name)
    first, last = starts_on or season.starts_on, ends_on or season.ends_on
    if first > season.starts_on or last < season.ends_on:
        raise SeasonDiffers(
            f"season {name!r} is {season.starts_on} to {season.ends_on}: it can be widened, but not to {first} to {last}, "
            "because observations may be stored of every day of it"
        )
    is_watched = "select exists (select from model_activations where season_key = :season_key)"
    if (
        first < season.starts_on
        and connection.execute(sa.text(is_watched), {"season_key": season.season_key}).scalar_one()
    ):
        raise SeasonDiffers(
            f"season {name!r} is watched by a model that counts days from {season.starts_on}, so it cannot begin earlier; "
            "import the collection under a season of another name"
        )
    widened = Season(season.season_key, name, first, last)
    connection.execute(
        sa.text("update seasons set starts_on = :first, ends_on = :last where season_key = :season_key"),
        {"first": first, "last": last, "season_key": season.season_key},
    )
    return widened


def previous_season(connection: sa.Connection, collection: str, season: Season) -> Season | None:
    """Return the newest earlier season in which the collection has parcels."""
    row = connection.execute(
        sa.text("""
            select season_key, name, starts_on, ends_on from seasons
            where starts_on < :starts_on and exists (
                select from parcels where parcels.season_key = seasons.season_key and collection = :collection)
            order by starts_on desc limit 1"""),
        {"starts_on": season.starts_on, "collection": collection},
    ).one_or_none()
    return None if row is None else Season(*row)
