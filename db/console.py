"""Reads of the console beside the contract's own: by whoever asks (`db.access.asking`).

`open_counts`, `season_key_of`, `pictures` and `picture` read tables, within `db.access.deciding`; the last two after `parcel` found that
the parcel may be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db.history import HistoryRow


@dataclass(frozen=True)
class SeenParcel:
    """A parcel that may be seen, as declared now, with its season."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    declared_crop: str | None
    declared_crop_code: str | None
    not_monitorable_reason: str | None
    starts_on: date
    ends_on: date


@dataclass(frozen=True)
class Measure:
    """A measure of a parcel's season."""

    measure: str
    value: float | None
    sd: float | None
    day: date | None
    unit: str
    status: str


@dataclass(frozen=True)
class MarkerKnown:
    """What a marker says of a parcel."""

    marker: str
    status: str
    value: float | None
    day: date | None
    confidence: float | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class EventSeen:
    """An entry of the log of one of a parcel's alerts."""

    alert_key: int
    rule: str
    recorded_at: datetime
    event: str
    colour: str
    confidence: float
    departed_on: date | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class OpenCount:
    """How many alerts that are not closed are alike."""

    region: str
    rule: str
    colour: str
    state: str
    n: int


@dataclass(frozen=True)
class Standing:
    """What people agreed on an alert."""

    alert_key: int
    deadline: datetime | None
    """Of the last request for information."""
    assigned_to: str | None


@dataclass(frozen=True)
class PictureRow:
    """A picture of a parcel, or why there is none, without the picture."""

    chip_key: int
    observed_at: datetime
    sensor: str
    composite: str
    missing: str | None
    bar_m: int | None
    width: int | None


_PARCELS = """
    select parcel_key, collection, season, source_id, region, area_ha, declared_crop, declared_crop_code, not_monitorable_reason,
           starts_on, ends_on
    from parcelwatch.parcels join parcelwatch.seasons using (season)"""


def parcel(connection: sa.Connection, parcel_key: int) -> SeenParcel | None:
    """Return a parcel; None where there is none that may be seen."""
    row = connection.execute(sa.text(f"{_PARCELS} where parcel_key = :key"), {"key": parcel_key}).one_or_none()
    return None if row is None else SeenParcel(**row._mapping)


def parcels_named(connection: sa.Connection, source_id: str, limit: int) -> list[SeenParcel]:
    """Return the parcels of an agency's id, those of the newest season first."""
    rows = connection.execute(
        sa.text(f"{_PARCELS} where source_id = :id order by starts_on desc, collection limit :limit"),
        {"id": source_id, "limit": limit},
    )
    return [SeenParcel(**row._mapping) for row in rows]


def history(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[HistoryRow]:
    """Return all that is known of a parcel that may be seen, in order of time (columns of `parcel_history`)."""
    rows = connection.execute(
        _at("select * from parcelwatch.parcel_history(:key, as_known_at => coalesce(:at, 'infinity'::timestamptz))"),
        {"key": parcel_key, "at": as_known_at},
    )
    return [HistoryRow(**row._mapping) for row in rows]


def measures(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[Measure]:
    """Return the measures of a parcel's season."""
    rows = connection.execute(
        _at("""select measure, value, sd, day, unit, status
               from parcelwatch.phenology_known(:key, coalesce(:at, 'infinity'::timestamptz))"""),
        {"key": parcel_key, "at": as_known_at},
    )
    return [Measure(**row._mapping) for row in rows]


def markers(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[MarkerKnown]:
    """Return what each marker says of a parcel."""
    rows = connection.execute(
        _at("""select marker, status, value, day, confidence, evidence
               from parcelwatch.markers_known(:key, coalesce(:at, 'infinity'::timestamptz)) order by marker"""),
        {"key": parcel_key, "at": as_known_at},
    )
    return [MarkerKnown(**row._mapping) for row in rows]


def alert_events(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[EventSeen]:
    """Return the logs of a parcel's alerts by a time that is settled, in order."""
    rows = connection.execute(
        _at("""select alert_key, a.rule, e.recorded_at, e.event, e.colour, e.confidence, e.departed_on, e.evidence
               from parcelwatch.alerts a join parcelwatch.alert_events e using (alert_key)
               where a.parcel_key = :key and e.recorded_at <= coalesce(:at, 'infinity'::timestamptz) order by event_nr"""),
        {"key": parcel_key, "at": as_known_at},
    )
    return [EventSeen(**row._mapping) for row in rows]


def open_counts(connection: sa.Connection) -> list[OpenCount]:
    """Return how many alerts there are of each region, rule, colour and state, of those not closed that may be seen."""
    rows = connection.execute(
        sa.text("""select code as region, rule, colour::text, state::text, n
                   from (select parcel_region_key as region_key, rule, colour, state, count(*) as n from alerts
                         where closed_at is null group by parcel_region_key, rule, colour, state) counted
                   join regions using (region_key)""")
    )
    return [OpenCount(**row._mapping) for row in rows]


def standing(connection: sa.Connection, alert_keys: Sequence[int]) -> dict[int, Standing]:
    """Return of alerts that may be seen the deadline of the last request and who the last assignment is to."""
    rows = connection.execute(
        sa.text("""
            select alert_key, max(said ->> 'deadline') filter (where event = 'requested') as deadline,
                   max(said ->> 'to') filter (where event = 'assigned') as assigned_to
            from (select distinct on (alert_key, event) alert_key, event, evidence -> 'decision' as said
                  from parcelwatch.alert_events where alert_key = any(:keys) and event in ('requested', 'assigned')
                  order by alert_key, event, event_nr desc) newest
            group by alert_key"""),
        {"keys": list(alert_keys)},
    )
    return {
        row.alert_key: Standing(
            row.alert_key, None if row.deadline is None else datetime.fromisoformat(row.deadline), row.assigned_to
        )
        for row in rows
    }


def declared_class(connection: sa.Connection, parcel_key: int) -> str | None:
    """Return the class that the newest model has for what is declared; None where it has none, or nothing was classified."""
    found = "select declared_class from parcelwatch.latest_posteriors where parcel_key = :key"
    name: str | None = connection.execute(sa.text(found), {"key": parcel_key}).scalar_one_or_none()
    return name


def season_key_of(connection: sa.Connection, parcel_key: int) -> int:
    """Return the season of a parcel."""
    return int(
        connection.execute(
            sa.text("select season_key from parcels where parcel_key = :key"), {"key": parcel_key}
        ).scalar_one()
    )


def pictures(
    connection: sa.Connection, parcel_key: int, as_known_at: datetime | None, limit: int = 1000
) -> list[PictureRow]:
    """Return the pictures of a parcel that were cut by a time, of each scene and composite the newest."""
    rows = connection.execute(
        _at("""select distinct on (c.observed_at, s.sensor, c.scene_key, composite)
                      chip_key, c.observed_at, s.sensor::text, composite, bar_m, width,
                      coalesce(missing, 'removed on ' || to_char(removed_at, 'YYYY-MM-DD') || ', its time of keeping was over') as missing
               from chips c join scenes s using (scene_key)
               where parcel_key = :key and c.recorded_at <= coalesce(:at, 'infinity'::timestamptz)
               order by c.observed_at, s.sensor, c.scene_key, composite, missing is null desc, chip_key desc limit :limit"""),
        {"key": parcel_key, "at": as_known_at, "limit": limit},
    )
    return [PictureRow(**row._mapping) for row in rows]


def picture(connection: sa.Connection, parcel_key: int, chip_key: int) -> bytes | None:
    """Return a picture of a parcel as PNG, None where there is none."""
    image = connection.execute(
        sa.text("select image from chips where (parcel_key, chip_key) = (:parcel, :chip)"),
        {"parcel": parcel_key, "chip": chip_key},
    ).scalar_one_or_none()
    return None if image is None else bytes(image)


def _at(text: str) -> sa.TextClause:
    return sa.text(text).bindparams(sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True)))
