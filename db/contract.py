"""Reads of the SQL contract, as the one who asks may see it: connections come from `db.access.asking`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa


@dataclass(frozen=True)
class NewestScene:
    """The scene of a sensor that was observed last, of those of which anything is stored."""

    sensor: str
    scene_id: str
    observed_at: datetime
    available_at: datetime
    recorded_at: datetime


@dataclass(frozen=True)
class PublishedRound:
    """A round of a collection and season; its name is the only one there."""

    name: str
    published_at: datetime


@dataclass(frozen=True)
class LightChange:
    """A light that differs between two rounds; None where a round does not have the parcel."""

    parcel_key: int
    source_id: str
    region: str
    rule: str
    before: str | None
    after: str | None
    state: str | None
    """Of the newest alert, in the later round."""


@dataclass(frozen=True)
class Changes:
    """What differs between two rounds: how many lights, how many of them were green, and the first ones."""

    n: int
    n_turned: int
    first: Sequence[LightChange]


def regions(connection: sa.Connection) -> list[str]:
    """Return the codes of the regions that may be seen."""
    return list(connection.execute(sa.text("select region from parcelwatch.regions order by region")).scalars())


def seen_between(
    connection: sa.Connection, collection: str, season: str, first: date, last: date, as_known_at: datetime | None
) -> dict[str, int]:
    """Return of how many parcels of each region an acquisition of these days (UTC) was classified, as known at a time."""
    rows = connection.execute(
        # An acquisition is classified after it was made: the bound of `recorded_at` is for the chunks read.
        sa.text("""select region, count(distinct parcel_key) as n
                   from parcelwatch.parcels join (
                       select parcel_key from parcelwatch.posteriors
                       where observed_to >= cast(:first as date)::timestamp at time zone 'UTC'
                         and observed_to < (cast(:last as date) + 1)::timestamp at time zone 'UTC'
                         and recorded_at >= cast(:first as date)::timestamp at time zone 'UTC'
                         and recorded_at <= cast(:at as timestamptz)) o using (parcel_key)
                   where collection = :collection and season = :season group by region"""),
        {
            "collection": collection,
            "season": season,
            "first": first,
            "last": last,
            "at": "infinity" if as_known_at is None else as_known_at,
        },
    )
    return {row.region: row.n for row in rows}


def newest_scenes(connection: sa.Connection) -> list[NewestScene]:
    """Return the newest scene of each sensor."""
    rows = connection.execute(
        sa.text("""select distinct on (sensor) sensor, scene_id, observed_at, available_at, recorded_at
                   from parcelwatch.scenes order by sensor, observed_at desc""")
    )
    return [NewestScene(**row._mapping) for row in rows]


_OF_SEASON = "parcelwatch.published_lights where collection = :collection and season = :season"


def rounds(
    connection: sa.Connection, collection: str, season: str, before: datetime | None, limit: int
) -> list[tuple[PublishedRound, Mapping[str, int]]]:
    """Return rounds with a parcel that may be seen, newest first, of those published before a time: each with its parcels by light."""
    rows = connection.execute(
        # A parcel has a row for each rule of its round: those of one rule are counted.
        sa.text(f"""with counted as (
                        select round, published_at, rule, parcel_light, count(*) as n
                        from {_OF_SEASON} and published_at < cast(:before as timestamptz) group by round, published_at, rule, parcel_light),
                    ranked as (select *, min(rule) over (partition by round) as one_rule from counted)
                    select round as name, published_at, jsonb_object_agg(parcel_light, n) as lights from ranked where rule = one_rule
                    group by round, published_at order by published_at desc limit :limit"""),
        {"collection": collection, "season": season, "before": before or "infinity", "limit": limit},
    )
    return [(PublishedRound(row.name, row.published_at), row.lights) for row in rows]


def round_named(connection: sa.Connection, collection: str, season: str, name: str) -> PublishedRound | None:
    """Return a round; None where there is none with a parcel that may be seen."""
    row = connection.execute(
        sa.text(f"select round as name, published_at from {_OF_SEASON} and round = :name limit 1"),
        {"collection": collection, "season": season, "name": name},
    ).one_or_none()
    return None if row is None else PublishedRound(**row._mapping)


def round_changes(
    connection: sa.Connection, collection: str, season: str, names: tuple[str, str], severity: Sequence[str], limit: int
) -> Changes:
    """Return the lights that differ between two rounds, of parcels that may be seen.

    Args:
        names: of the earlier and the later round.
        severity: lights, the gravest last: green lights that turned come first, then by the later light, the gravest first.
        limit: changes returned at most.
    """
    rows = connection.execute(
        sa.text("""
            select parcel_key, source_id, region, rule, light_before as before, light_after as after, alert_state as state,
                   count(*) over () as n, count(*) filter (where light_before = 'green') over () as n_turned
            from parcelwatch.round_changes(:collection, :season, :earlier, :later)
            order by coalesce(light_before = 'green' and parcel_light_before = 'green'
                              and parcel_light_after is distinct from 'green', false) desc,
                     coalesce(light_before = 'green', false) desc,
                     array_position(cast(:severity as text[]), light_after) desc nulls last,
                     source_id collate "C", rule
            limit :limit"""),
        {
            "collection": collection,
            "season": season,
            "earlier": names[0],
            "later": names[1],
            "severity": list(severity),
            "limit": limit,
        },
    ).all()
    if not rows:
        return Changes(0, 0, [])
    return Changes(
        rows[0].n,
        rows[0].n_turned,
        [
            LightChange(row.parcel_key, row.source_id, row.region, row.rule, row.before, row.after, row.state)
            for row in rows
        ],
    )
