"""What people of the API do and see of alerts, beside the decisions themselves: connections come from `db.access.asking`.

`seen_alerts` and `new_events` ask the contract, as the person; the others are called within `db.access.deciding`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

_REMEMBERED: Final = timedelta(days=1)
"""How long an answered request is known: longer than any client tries again."""


@dataclass(frozen=True)
class MoveRow:
    """The last event of an alert, and the alert's state before it with what that state came from."""

    alert_key: int
    event_nr: int
    event: str
    by: str | None
    """Who decided; None: the monitor."""
    state_before: str | None
    decision_before: Mapping[str, Any] | None


@dataclass(frozen=True)
class DecidedRow:
    """An alert after a decision."""

    alert_key: int
    event_nr: int
    state: str


@dataclass(frozen=True)
class NewEventRow:
    """An event of an alert, with what it is about."""

    event_nr: int
    recorded_at: datetime
    alert_key: int
    event: str
    state: str
    """Of the alert now."""
    colour: str
    confidence: float
    departed_on: Any
    by: str | None
    rule: str
    collection: str
    season: str
    source_id: str
    region: str


def seen_alerts(connection: sa.Connection, alert_keys: Sequence[int]) -> dict[int, int]:
    """Return those of some alerts that may be seen, with the keys of their parcels."""
    rows = connection.execute(
        sa.text("select alert_key, parcel_key from parcelwatch.alerts where alert_key = any(:keys)"),
        {"keys": list(alert_keys)},
    )
    return {row.alert_key: row.parcel_key for row in rows}


def sees_parcel(connection: sa.Connection, parcel_key: int) -> bool:
    """Return whether a parcel may be seen."""
    found = "select exists (select from parcelwatch.parcels where parcel_key = :key)"
    return bool(connection.execute(sa.text(found), {"key": parcel_key}).scalar_one())


def decided(connection: sa.Connection, alert_keys: Sequence[int]) -> list[DecidedRow]:
    """Return the states of alerts and the numbers of their last events, by key."""
    rows = connection.execute(
        sa.text("""select alert_key, last.event_nr, state::text from alerts a cross join lateral (
                       select event_nr from alert_events e where e.alert_key = a.alert_key order by event_nr desc limit 1) last
                   where alert_key = any(:keys) order by alert_key"""),
        {"keys": list(alert_keys)},
    )
    return [DecidedRow(**row._mapping) for row in rows]


def last_moves(connection: sa.Connection, alert_keys: Sequence[int]) -> list[MoveRow]:
    """Return the last event of each alert and the state before it, by key."""
    rows = connection.execute(
        sa.text("""select a.alert_key, last.event_nr, last.event, last.evidence -> 'decision' ->> 'by' as by,
                          state_after(before.event)::text as state_before, before.evidence -> 'decision' as decision_before
                   from alerts a cross join lateral (
                       select * from alert_events e where e.alert_key = a.alert_key order by event_nr desc limit 1) last
                   left join lateral (
                       select * from alert_events e where e.alert_key = a.alert_key and e.event_nr < last.event_nr
                           and state_after(e.event) is not null order by event_nr desc limit 1) before on true
                   where a.alert_key = any(:keys) order by a.alert_key"""),
        {"keys": list(alert_keys)},
    )
    return [MoveRow(**row._mapping) for row in rows]


def alerts_of_events(connection: sa.Connection, event_nrs: Sequence[int]) -> dict[int, int]:
    """Return the alerts that may be seen of events, by the events' numbers."""
    rows = connection.execute(
        sa.text("select event_nr, alert_key from parcelwatch.alert_events where event_nr = any(:nrs)"),
        {"nrs": list(event_nrs)},
    )
    return {row.event_nr: row.alert_key for row in rows}


def newest_event(connection: sa.Connection) -> datetime | None:
    """Return when the newest event of any alert became known, once all that became known by then is committed; None: there is none."""
    found: datetime | None = connection.execute(sa.text("select max(recorded_at) from alert_events")).scalar_one()
    connection.execute(sa.text("select settled(:at)").bindparams(sa.bindparam("at", type_=_TIME)), {"at": found})
    return found


def position_of(connection: sa.Connection, event_nr: int) -> tuple[datetime, int] | None:
    """Return since when an event is known, with its number; None where it is none that may be seen."""
    row = connection.execute(
        sa.text("select recorded_at, event_nr from parcelwatch.alert_events where event_nr = :nr"), {"nr": event_nr}
    ).one_or_none()
    return None if row is None else (row.recorded_at, row.event_nr)


def new_events(
    connection: sa.Connection, after: tuple[datetime, int], until: datetime, limit: int
) -> list[NewEventRow]:
    """Return events that may be seen in the order in which they became known, after a position and by a time that is settled."""
    rows = connection.execute(
        sa.text("""select e.event_nr, e.recorded_at, e.alert_key, e.event, a.state, e.colour, e.confidence, e.departed_on,
                          e.evidence -> 'decision' ->> 'by' as by, a.rule, a.collection, a.season, a.source_id, a.region
                   from parcelwatch.alert_events e join parcelwatch.alerts a using (alert_key)
                   where e.recorded_at >= :since and e.recorded_at <= :until and (e.recorded_at > :since or e.event_nr > :nr)
                   order by e.recorded_at, e.event_nr limit :limit"""),
        {"since": after[0], "nr": after[1], "until": until, "limit": limit},
    )
    return [NewEventRow(**row._mapping) for row in rows]


_TIME: Final = sa.TIMESTAMP(timezone=True)
LAST_NUMBER: Final = 2**63 - 1
"""After every event that became known at a time."""


def answered(connection: sa.Connection, person: str, key: str, asked: bytes, now: datetime) -> tuple[bool, Any]:
    """Begin a request that has a key of its own, or return what was answered to it.

    One with the same key that is under way is waited for.

    Returns:
        Whether it is the same request (by the hash `asked`), and the answer; None: it is new, and `remember` ends it.
    """
    connection.execute(
        sa.text("delete from parcelwatch_access.requests where person = :person and recorded_at < :before"),
        {"person": person, "before": now - _REMEMBERED},
    )
    begun = connection.execute(
        sa.text("""insert into parcelwatch_access.requests values (:person, :key, :asked, 'null', :now)
                   on conflict do nothing returning true"""),
        {"person": person, "key": key, "asked": asked, "now": now},
    ).scalar_one_or_none()
    if begun:
        return True, None
    row = connection.execute(
        sa.text(
            "select asked_sha256 = :asked as same, answer from parcelwatch_access.requests where (person, key) = (:person, :key)"
        ),
        {"person": person, "key": key, "asked": asked},
    ).one()
    return row.same, row.answer


def remember(connection: sa.Connection, person: str, key: str, answer: Any) -> None:
    """Keep what was answered to a request."""
    connection.execute(
        sa.text("update parcelwatch_access.requests set answer = :answer where (person, key) = (:person, :key)"),
        {"person": person, "key": key, "answer": json.dumps(answer)},
    )


def store_photo(connection: sa.Connection, sha256: bytes, media_type: str, image: bytes, now: datetime) -> None:
    """Store a photo; one that is there stays."""
    connection.execute(
        sa.text("insert into answer_photos values (:sha256, :media_type, :image, :now) on conflict do nothing"),
        {"sha256": sha256, "media_type": media_type, "image": image, "now": now},
    )


def photo(connection: sa.Connection, alert_key: int, sha256: bytes) -> tuple[str, bytes] | None:
    """Return media type and content of a photo that the log of an alert names; None where there is none."""
    row = connection.execute(
        sa.text("""select media_type, image from answer_photos where sha256 = :sha256 and exists (
                       select from alert_events where alert_key = :key and evidence -> 'decision' ->> 'sha256' = :hex)"""),
        {"key": alert_key, "sha256": sha256, "hex": sha256.hex()},
    ).one_or_none()
    return None if row is None else (row.media_type, bytes(row.image))
