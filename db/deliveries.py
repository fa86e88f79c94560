"""The outbox and its deliveries: events that wait, messages made of them, who sends which, what became of it.

    alert_events ──trigger──► outbox ──form──► deliveries: pending ──► sent
                                │                 ▲   │
                                │                 │   └──► dead    tried too often, or refused; `retry` makes it pending again,
                                │                 │                `discard` discarded
                                │                 └── a lease that ended: its sender died
                                └──────fold──► deliveries: folded  an earlier message told of the incident: nobody receives it

A delivery and its events are joined in one transaction and never parted, so a message is the same under its key however often
it is tried. A sender holds a delivery by a lease and not by a lock: sending may take longer than a transaction should.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import sqlalchemy as sa


@dataclass(frozen=True)
class WaitingEvent:
    """An event in the outbox that no message has yet."""

    event_nr: int
    alert_key: int
    recorded_at: datetime
    incident: int | None = None
    """The regional incident that it is part of, by the alert that names it."""
    told_in: int | None = None
    """The delivery that told of that incident."""


@dataclass(frozen=True)
class Held:
    """A delivery that a sender holds until its lease ends."""

    delivery_key: int
    idempotency_key: uuid.UUID
    subscription_key: int
    formed_at: datetime
    attempts: int
    """This one counts."""


@dataclass(frozen=True)
class SentEvent:
    """An event as a message shows it, with the alert and the parcel that it is about."""

    event_nr: int
    alert_key: int
    recorded_at: datetime
    event: str
    colour: str
    confidence: float
    departed_on: date | None
    evidence: Mapping[str, Any]
    rule: str
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    declared_crop: str | None
    incident: int | None = None
    """The regional incident as part of which it is told, by the alert that named it then."""


@dataclass(frozen=True)
class Deadline:
    """A request for information of an alert."""

    alert_key: int
    event_nr: int
    recorded_at: datetime
    deadline: datetime
    is_over: bool
    """Something happened since that changed the alert's state: an answer, a decision."""
    source_id: str
    collection: str
    season: str
    rule: str
    reason: str | None


@dataclass(frozen=True)
class DeliveryRow:
    """A delivery as people see it."""

    idempotency_key: uuid.UUID
    subscription: str
    channel: str
    state: str
    """pending, sent, dead, discarded, folded; or suspended: it waits until its subscription is changed."""
    events: int
    formed_at: datetime
    attempts: int
    next_try_at: datetime
    ended_at: datetime | None
    last_error: str | None
    folded_into: uuid.UUID | None
    """Of a folded one: the message that told of its incident."""


def waiting(connection: sa.Connection) -> list[tuple[int, WaitingEvent]]:
    """Return the subscriptions for which events wait, each with the oldest; those that are suspended wait themselves."""
    rows = connection.execute(sa.text(_WAITING))
    return [(row.subscription_key, WaitingEvent(row.event_nr, row.alert_key, row.recorded_at)) for row in rows]


# A subscription at a time: from the index of what waits, whose head is the oldest, never from what was delivered.
_WAITING: Final = """
    select s.subscription_key, oldest.event_nr, oldest.alert_key, oldest.recorded_at
    from subscriptions s cross join lateral (
        select event_nr, alert_key, recorded_at from outbox o
        where o.subscription_key = s.subscription_key and o.delivery_key is null order by o.event_nr limit 1) oldest
    where s.ended_at is null and s.suspended_at is null order by oldest.event_nr"""


def lock_subscription(connection: sa.Connection, key: int, wait: bool = False) -> bool:
    """Lock a subscription, so that no other sender forms its messages; False where one does, or it is suspended or ended.

    The monitor's references to a subscription wait for no such lock, nor fail: nothing of it is updated.
    """
    row = connection.execute(
        sa.text(f"""select from subscriptions where subscription_key = :key and ended_at is null and suspended_at is null
                    for no key update {"" if wait else "skip locked"}"""),
        {"key": key},
    )
    return row.first() is not None


def waiting_of(connection: sa.Connection, key: int, limit: int) -> list[WaitingEvent]:
    """Return the oldest events that wait for a subscription."""
    rows = connection.execute(sa.text(_WAITING_OF), {"key": key, "limit": limit})
    return [WaitingEvent(*row) for row in rows]


_WAITING_OF: Final = """
    select event_nr, alert_key, recorded_at from outbox
    where subscription_key = :key and delivery_key is null order by event_nr limit :limit"""


def last_formed(connection: sa.Connection, key: int) -> datetime | None:
    """Return when the last message of a subscription was formed."""
    last: datetime | None = connection.execute(sa.text(_LAST_FORMED), {"key": key}).scalar_one()
    return last


_LAST_FORMED: Final = "select max(formed_at) from deliveries where subscription_key = :key and state <> 'folded'"


def found_by_monitor(
    connection: sa.Connection, waiting: Sequence[WaitingEvent], rules: Sequence[str]
) -> list[WaitingEvent]:
    """Return those of the events by which the monitor says that something departs, of some rules."""
    found = connection.execute(
        sa.text("""select e.event_nr from unnest(cast(:alerts as bigint[]), cast(:events as bigint[])) as of (alert_key, event_nr)
                   join alert_events e using (alert_key, event_nr) join alerts a using (alert_key)
                   where a.rule = any(:rules) and e.event in ('opened', 'confirmed', 'reopened', 'changed')
                     and not e.evidence ? 'decision'"""),
        {
            "rules": list(rules),
            "alerts": [one.alert_key for one in waiting],
            "events": [one.event_nr for one in waiting],
        },
    )
    numbers = set(found.scalars())
    return [one for one in waiting if one.event_nr in numbers]


def told(connection: sa.Connection, key: int, alerts: Sequence[int], week: date) -> tuple[int, int] | None:
    """Return the incident and the delivery of the first message that told of any of the alerts as part of one; None: none did.

    Args:
        week: Monday of the incident: what a message told of an alert that departed in another week was another incident.

    One that is dead told nobody. Until the transaction ends this one cannot die.
    """
    row = connection.execute(sa.text(_TOLD), {"key": key, "alerts": list(alerts), "week": week}).one_or_none()
    return None if row is None else (row.incident, row.delivery_key)


_TOLD: Final = """
    select o.incident, message.delivery_key
    from outbox o join deliveries d using (delivery_key) join alert_events e using (alert_key, event_nr)
    join deliveries message on message.delivery_key = coalesce(d.folded_into, d.delivery_key)
    where o.subscription_key = :key and o.incident is not null and o.alert_key = any(:alerts)
      and date_trunc('week', e.departed_on)::date = :week and message.state in ('pending', 'sent')
    order by message.delivery_key, o.event_nr limit 1 for share of message"""


def fold(connection: sa.Connection, key: int, waiting: Sequence[WaitingEvent], now: datetime) -> int:
    """Make a folded delivery of the events for each message that told of their incident; return how many."""
    into = sorted({one.told_in for one in waiting if one.told_in is not None})
    connection.execute(
        sa.text("""with made as (
                       insert into deliveries (idempotency_key, subscription_key, state, folded_into, formed_at, next_try_at, ended_at)
                       select idempotency_key, :key, 'folded', told_in, :now, :now, :now
                       from unnest(cast(:ids as uuid[]), cast(:into as bigint[])) as of (idempotency_key, told_in)
                       returning delivery_key, folded_into)
                   update outbox set delivery_key = made.delivery_key, incident = part.incident
                   from made join unnest(cast(:events as bigint[]), cast(:told_in as bigint[]), cast(:incidents as bigint[]))
                       as part (event_nr, told_in, incident) on part.told_in = made.folded_into
                   where outbox.subscription_key = :key and outbox.event_nr = part.event_nr"""),
        {
            "key": key,
            "now": now,
            "ids": [uuid.uuid4() for _ in into],
            "into": into,
            "events": [one.event_nr for one in waiting],
            "told_in": [one.told_in for one in waiting],
            "incidents": [one.incident for one in waiting],
        },
    )
    return len(into)


def form(connection: sa.Connection, key: int, groups: Sequence[Sequence[WaitingEvent]], now: datetime) -> None:
    """Make a delivery of each group of events of a subscription that is locked."""
    numbers = [(nr, event) for nr, group in enumerate(groups, 1) for event in group]
    connection.execute(
        sa.text("""with made as (
                       insert into deliveries (idempotency_key, subscription_key, formed_at, next_try_at)
                       select idempotency_key, :key, :now, :now from unnest(cast(:ids as uuid[])) idempotency_key
                       returning delivery_key, idempotency_key)
                   update outbox set delivery_key = made.delivery_key, incident = part.incident
                   from made
                   join unnest(cast(:ids as uuid[])) with ordinality as id (idempotency_key, nr) using (idempotency_key)
                   join unnest(cast(:groups as int[]), cast(:events as bigint[]), cast(:incidents as bigint[]))
                       as part (nr, event_nr, incident) using (nr)
                   where outbox.subscription_key = :key and outbox.event_nr = part.event_nr"""),
        {
            "key": key,
            "now": now,
            "ids": [uuid.uuid4() for _ in groups],
            "groups": [nr for nr, _ in numbers],
            "events": [event.event_nr for _, event in numbers],
            "incidents": [event.incident for _, event in numbers],
        },
    )


def due(connection: sa.Connection, now: datetime) -> list[int]:
    """Return the subscriptions of which a message is due and that are neither suspended nor held back, longest due first."""
    return list(connection.execute(sa.text(_DUE), {"now": now}).scalars())


# A subscription at a time, from the index of what is pending: neither what was delivered nor what is held back is read.
_DUE: Final = """
    select s.subscription_key
    from subscriptions s cross join lateral (
        select next_try_at from deliveries d
        where d.subscription_key = s.subscription_key and d.state = 'pending' and d.next_try_at <= :now
        order by d.next_try_at limit 1) oldest
    where s.ended_at is null and s.suspended_at is null and (s.not_before is null or s.not_before <= :now)
    order by oldest.next_try_at, s.subscription_key"""


def claim(connection: sa.Connection, key: int, lease_until: datetime, now: datetime) -> Held | None:
    """Take the message of a subscription that is due longest, until a lease ends; None where none is due, or another took it."""
    row = connection.execute(sa.text(_CLAIM), {"key": key, "now": now, "lease_until": lease_until}).one_or_none()
    return None if row is None else Held(**row._mapping)


# skip locked: senders that claim at the same moment take different messages instead of waiting for each other.
_CLAIM: Final = """
    update deliveries set attempts = least(attempts + 1, 32767), next_try_at = :lease_until
    where delivery_key = (
        select delivery_key from deliveries d
        where d.subscription_key = :key and d.state = 'pending' and d.next_try_at <= :now
        order by d.next_try_at, d.delivery_key limit 1 for no key update skip locked)
    returning delivery_key, idempotency_key, subscription_key, formed_at, attempts"""


def sent(connection: sa.Connection, held: Held, now: datetime) -> None:
    """Record that a delivery arrived; also where its lease ended meanwhile, since nothing can undo that."""
    connection.execute(
        sa.text("""update deliveries set state = 'sent', ended_at = :now, last_error = null
                   where delivery_key = :key and state <> 'sent'"""),
        {"key": held.delivery_key, "now": now},
    )


def failed(connection: sa.Connection, held: Held, error: str, next_try_at: datetime | None, now: datetime) -> None:
    """Record why a delivery did not arrive: it is tried again at a time, or, with None, it is dead.

    What was folded into one that is dead waits again: nobody was told of its incident.
    """
    # An attempt is a claim: one whose lease ended says nothing of a delivery that another sender has claimed since.
    connection.execute(
        sa.text("""update deliveries set last_error = :error, next_try_at = coalesce(:next, next_try_at),
                       state = case when :is_dead then 'dead' else state end, ended_at = case when :is_dead then :now end
                   where delivery_key = :key and attempts = :attempts and state = 'pending'""").bindparams(
            *(sa.bindparam(name, type_=sa.TIMESTAMP(timezone=True)) for name in ("next", "now"))
        ),
        {
            "key": held.delivery_key,
            "attempts": held.attempts,
            "error": error[:500],
            "next": next_try_at,
            "is_dead": next_try_at is None,
            "now": now,
        },
    )
    if next_try_at is None:  # a statement of its own: it sees what was folded while the one above waited
        connection.execute(sa.text(_UNFOLD), {"key": held.delivery_key})


_UNFOLD: Final = """
    with folded as materialized (
        select f.delivery_key from deliveries f join deliveries message on message.delivery_key = f.folded_into
        where f.folded_into = :key and message.state = 'dead'),
    waiting as (
        update outbox set delivery_key = null, incident = null where delivery_key in (select delivery_key from folded))
    delete from deliveries where delivery_key in (select delivery_key from folded)"""


_EVENTS: Final = """
    select e.event_nr, e.alert_key, e.recorded_at, e.event, e.colour::text, e.confidence, e.departed_on, e.evidence, a.rule,
           p.collection, s.name as season, p.source_id, r.code as region, p.area_ha, declared.crop_name as declared_crop, o.incident
    from chosen o join alert_events e using (alert_key, event_nr)
    join alerts a using (alert_key) join parcels p using (parcel_key) join seasons s using (season_key)
    join regions r using (region_key)
    left join lateral (select d.crop_name from declarations d where d.parcel_key = p.parcel_key and d.recorded_at <= e.recorded_at
                       order by d.recorded_at desc limit 1) declared on true
    order by e.event_nr"""


def events_of(connection: sa.Connection, delivery_key: int) -> list[SentEvent]:
    """Return the events of a delivery in their order, as they were recorded: the same whenever they are read."""
    rows = connection.execute(sa.text(_EVENTS_OF), {"key": delivery_key})
    return [SentEvent(**row._mapping) for row in rows]


_EVENTS_OF: Final = (
    f"with chosen as (select alert_key, event_nr, incident from outbox where delivery_key = :key) {_EVENTS}"
)


def newest_events(connection: sa.Connection, key: int, limit: int, with_waiting: bool = False) -> list[SentEvent]:
    """Return the newest events of a subscription that are in messages, and with `with_waiting` those that wait, in order."""
    rows = connection.execute(
        sa.text(f"""with chosen as (select alert_key, event_nr, incident from outbox where subscription_key = :key
                                        and (delivery_key is not null or :with_waiting) order by event_nr desc limit :limit)
                    {_EVENTS}"""),
        {"key": key, "limit": limit, "with_waiting": with_waiting},
    )
    return [SentEvent(**row._mapping) for row in rows]


def waiting_events(connection: sa.Connection, key: int, limit: int) -> list[SentEvent]:
    """Return the oldest events that wait for a subscription, in order, as a message shows them."""
    rows = connection.execute(
        sa.text(f"""with chosen as (select alert_key, event_nr, incident from outbox where subscription_key = :key
                                        and delivery_key is null order by event_nr limit :limit) {_EVENTS}"""),
        {"key": key, "limit": limit},
    )
    return [SentEvent(**row._mapping) for row in rows]


def deadlines(connection: sa.Connection, key: int, limit: int) -> list[Deadline]:
    """Return the newest requests for information of alerts that a subscription received events of, in order.

    What was recorded as a deadline and is no time is left out.
    """
    rows = connection.execute(
        sa.text("""select e.alert_key, e.event_nr, e.recorded_at, e.evidence -> 'decision' ->> 'deadline' as deadline,
                          exists (select from alert_events later where later.alert_key = e.alert_key
                                      and later.event_nr > e.event_nr and state_after(later.event) is not null) as is_over,
                          p.source_id, p.collection, s.name as season, a.rule, e.evidence -> 'decision' ->> 'reason' as reason
                   from alert_events e join alerts a using (alert_key) join parcels p using (parcel_key)
                   join seasons s using (season_key)
                   where e.event = 'requested' and e.evidence -> 'decision' ? 'deadline'
                     and e.alert_key in (select alert_key from outbox where subscription_key = :key)
                   order by e.event_nr desc limit :limit"""),
        {"key": key, "limit": limit},
    )
    found = []
    for row in reversed(rows.all()):
        try:
            deadline = datetime.fromisoformat(row.deadline)
        except ValueError:
            continue
        if deadline.tzinfo is not None:
            found.append(Deadline(**{**row._mapping, "deadline": deadline}))
    return found


def listed(connection: sa.Connection, state: str | None, subscription: str | None, limit: int) -> list[DeliveryRow]:
    """Return deliveries, newest first, of one state and of the subscriptions of one name where these are given."""
    rows = connection.execute(
        sa.text("""select idempotency_key, s.name as subscription, s.channel,
                          case when state = 'pending' and s.suspended_at is not null then 'suspended' else state end as state,
                          (select count(*) from outbox o where o.delivery_key = d.delivery_key) as events,
                          formed_at, attempts, next_try_at, d.ended_at, last_error,
                          (select message.idempotency_key from deliveries message where message.delivery_key = d.folded_into) as folded_into
                   from deliveries d join subscriptions s using (subscription_key)
                   where (cast(:state as text) is null
                          or case when state = 'pending' and s.suspended_at is not null then 'suspended' else state end = :state)
                     and (cast(:subscription as text) is null or s.name = :subscription)
                   order by delivery_key desc limit :limit"""),
        {"state": state, "subscription": subscription, "limit": limit},
    )
    return [DeliveryRow(**row._mapping) for row in rows]


def retry(connection: sa.Connection, ids: Sequence[uuid.UUID] | None, subscription: str | None, now: datetime) -> int:
    """Make dead deliveries pending again under their keys, those of some ids or all; return how many."""
    return _change_dead(
        connection,
        "state = 'pending', attempts = 0, next_try_at = :now, ended_at = null",
        ids,
        subscription,
        {"now": now},
    )


def discard(
    connection: sa.Connection, ids: Sequence[uuid.UUID] | None, subscription: str | None, by: str, now: datetime
) -> int:
    """Give up dead deliveries for good, those of some ids or all; return how many."""
    what = "state = 'discarded', ended_at = :now, last_error = left('discarded by ' || :by || ': ' || last_error, 500)"
    return _change_dead(connection, what, ids, subscription, {"now": now, "by": by})


def _change_dead(
    connection: sa.Connection,
    what: str,
    ids: Sequence[uuid.UUID] | None,
    subscription: str | None,
    values: Mapping[str, Any],
) -> int:
    return connection.execute(
        sa.text(f"""update deliveries d set {what}
                    from subscriptions s
                    where s.subscription_key = d.subscription_key and s.ended_at is null and d.state = 'dead'
                      and (cast(:ids as uuid[]) is null or idempotency_key = any(cast(:ids as uuid[])))
                      and (cast(:subscription as text) is null or s.name = :subscription)"""),
        {"ids": None if ids is None else list(ids), "subscription": subscription} | dict(values),
    ).rowcount


def remove_finished(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Remove deliveries that ended before a time, the oldest first, with their rows of the outbox; return how many.

    Neither what is pending nor what is dead, of which a person decides. The log of alerts keeps what happened.
    """
    return connection.execute(sa.text(_REMOVE_FINISHED), {"before": before, "limit": limit}).rowcount


# skip locked: several senders remove different ones. References are checked as the statement ends, when both are gone.
_REMOVE_FINISHED: Final = """
    with old as materialized (
        select delivery_key from deliveries where state in ('sent', 'folded', 'discarded') and ended_at < :before
        order by ended_at limit :limit for update skip locked),
    emptied as (delete from outbox where delivery_key in (select delivery_key from old))
    delete from deliveries where delivery_key in (select delivery_key from old)"""
