"""Findings and alerts: appended when they change, read as open work."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import recording
from db.columns import fetch_columns
from db.series import Keys


@dataclass(frozen=True)
class FindingRow:
    """What a rule said of a parcel."""

    parcel_key: int
    rule: str
    outcome: str
    colour: str | None
    confidence: float | None
    departed_on: date | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class AlertRow:
    """An alert that is not closed."""

    alert_key: int
    parcel_key: int
    rule: str
    state: str
    colour: str
    is_confirmed: bool
    is_verified: bool


@dataclass(frozen=True)
class ClosedRow:
    """The newest closed alert of a parcel and rule."""

    alert_key: int
    parcel_key: int
    rule: str
    departed_on: date
    is_confirmed: bool
    evidence: Mapping[str, Any]
    """Of its last event."""
    is_silent: bool
    """Its state was last changed by a person, or a person had dismissed it when the monitor closed it."""


@dataclass(frozen=True)
class EventRow:
    """What happens to an alert, and the alert's state after it."""

    alert_key: int
    event: str
    state: str
    colour: str
    confidence: float
    departed_on: date | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class LogRow:
    """An entry of an alert's log."""

    recorded_at: datetime
    event: str
    colour: str
    confidence: float
    departed_on: date | None
    evidence: Mapping[str, Any]


def latest_findings(
    connection: sa.Connection, parcels: Keys, rules: Sequence[str], verdicts: Sequence[tuple[str, str | None]]
) -> NDArray[np.void]:
    """Return what each rule last found of each parcel of which it found anything: parcel_key, rule_nr, verdict_nr, departed_on.

    It is the rule's own verdict: of a departure that the policy holds at yellow, red.

    `rule_nr` and `verdict_nr` are places in `rules` and `verdicts`, which are outcomes with colours; `departed_on` is NaT where
    nothing departs.
    """
    said = [f"{outcome} {colour or ''}" for outcome, colour in verdicts]
    rows = fetch_columns(
        connection,
        """select parcel_key, nr - 1 as rule_nr, array_position(%s, concat(outcome, ' ', colour)) - 1 as verdict_nr,
                  coalesce(departed_on, '-infinity') as departed_on
           from unnest(%s::bigint[]) key cross join unnest(%s::text[]) with ordinality as r (name, nr)
           cross join lateral (
               select parcel_key, outcome, departed_on,
                      case when colour = 'yellow' and evidence ? 'held_at_yellow' then 'red' else colour end as colour
               from findings
               where (findings.parcel_key, findings.rule) = (key, name) order by recorded_at desc limit 1) newest""",
        [said, parcels, list(rules)],
        {"parcel_key": "bigint", "rule_nr": "int", "verdict_nr": "int", "departed_on": "date"},
    )
    rows["departed_on"][rows["departed_on"] < np.datetime64("0001-01-01")] = np.datetime64("NaT")
    return rows


def every_finding(
    connection: sa.Connection, parcels: Keys, rules: Sequence[str], verdicts: Sequence[tuple[str, str | None]]
) -> NDArray[np.void]:
    """Return all findings of rules on parcels in the order in which they were recorded: as `latest_findings`, with recorded_at."""
    return fetch_columns(
        connection,
        """select parcel_key, array_position(%s, rule) - 1 as rule_nr, recorded_at,
                  array_position(%s, concat(outcome, ' ', colour)) - 1 as verdict_nr
           from findings where parcel_key = any(%s) and rule = any(%s) order by recorded_at""",
        [list(rules), [f"{outcome} {colour or ''}" for outcome, colour in verdicts], parcels, list(rules)],
        {"parcel_key": "bigint", "rule_nr": "int", "recorded_at": "time", "verdict_nr": "int"},
    )


@dataclass(frozen=True)
class RaisedRow:
    """That an alert was opened, opened again or confirmed."""

    recorded_at: datetime
    parcel_key: int
    rule: str
    colour: str
    departed_on: date


def raised(connection: sa.Connection, parcels: Keys) -> list[RaisedRow]:
    """Return when alerts of parcels were opened, opened again or confirmed by the monitor, in that order."""
    rows = connection.execute(
        sa.text("""select e.recorded_at, parcel_key, rule, e.colour::text, e.departed_on
                   from alerts join alert_events e using (alert_key)
                   where parcel_key = any(:keys) and e.departed_on is not null
                     and event in ('opened', 'reopened', 'confirmed') and not e.evidence ? 'decision'
                   order by event_nr"""),
        {"keys": parcels.tolist()},
    )
    return [RaisedRow(*row) for row in rows]


def latest_departures(connection: sa.Connection, parcels: Sequence[int], rule: str) -> dict[int, FindingRow]:
    """Return the newest finding of a rule on parcels that depart, by parcel key."""
    rows = connection.execute(
        sa.text("""select key as parcel_key, newest.* from unnest(cast(:keys as bigint[])) key cross join lateral (
                       select rule, outcome::text, colour::text, confidence, departed_on, evidence from findings
                       where (parcel_key, rule) = (key, :rule) order by recorded_at desc limit 1) newest"""),
        {"keys": list(parcels), "rule": rule},
    )
    return {row.parcel_key: FindingRow(**row._mapping) for row in rows}


def save_findings(connection: sa.Connection, rows: Sequence[FindingRow], version: str, now: datetime) -> None:
    """Append findings, one of each parcel and rule; one more in the same instant replaces the one before."""
    if not rows:
        return
    names = [field.name for field in fields(FindingRow) if field.name != "evidence"]
    connection.execute(
        sa.text("""insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, confidence,
                                         departed_on, evidence)
                   select parcel_key, rule, :now, :version, outcome, colour, confidence, departed_on, evidence
                   from unnest(cast(:parcel_key as bigint[]), cast(:rule as text[]), cast(:outcome as outcome[]),
                               cast(:colour as colour[]), cast(:confidence as real[]), cast(:departed_on as date[]),
                               cast(:evidence as jsonb[]))
                       as found (parcel_key, rule, outcome, colour, confidence, departed_on, evidence)
                   on conflict (parcel_key, rule, recorded_at) do update set outcome = excluded.outcome,
                       colour = excluded.colour, confidence = excluded.confidence,
                       departed_on = excluded.departed_on, evidence = excluded.evidence"""),
        {
            **{name: [getattr(row, name) for row in rows] for name in names},
            "evidence": [json.dumps(dict(row.evidence)) for row in rows],
            "version": version,
            "now": now,
        },
    )


def open_alerts(connection: sa.Connection, parcels: Keys) -> dict[tuple[int, str], AlertRow]:
    """Return the alerts of parcels that are not closed, by parcel and rule, locked: nobody decides on them meanwhile."""
    rows = connection.execute(
        sa.text("""select alert_key, parcel_key, rule, state, colour, confirmed_at is not null as is_confirmed,
                          verified_at is not null as is_verified
                   from alerts where parcel_key = any(:keys) and closed_at is null order by alert_key for no key update"""),
        {"keys": parcels.tolist()},
    )
    return {(row.parcel_key, row.rule): AlertRow(**row._mapping) for row in rows}


def closed_alerts(connection: sa.Connection, parcels: Sequence[int]) -> dict[tuple[int, str], ClosedRow]:
    """Return the newest closed alert of each parcel and rule that has one."""
    rows = connection.execute(
        sa.text("""select distinct on (parcel_key, rule) alert_key, parcel_key, rule, departed_on,
                          confirmed_at is not null as is_confirmed, coalesce(last.evidence, '{}') as evidence,
                          coalesce(last.evidence ? 'decision' or before.event = 'dismissed', false) as is_silent
                   from alerts
                   left join lateral (select evidence, event_nr from alert_events e
                       where e.alert_key = alerts.alert_key and event = 'closed'
                       order by event_nr desc limit 1) last on true
                   left join lateral (select event from alert_events e
                       where e.alert_key = alerts.alert_key and event_nr < last.event_nr and state_after(event) is not null
                       order by event_nr desc limit 1) before on true
                   where parcel_key = any(:keys) and closed_at is not null
                   order by parcel_key, rule, closed_at desc, alert_key desc"""),
        {"keys": list(parcels)},
    )
    return {(row.parcel_key, row.rule): ClosedRow(**row._mapping) for row in rows}


def new_alerts(connection: sa.Connection, found: Sequence[FindingRow], now: datetime) -> list[int]:
    """Return the keys of new alerts, one for each finding that departs, in their order."""
    rows = connection.execute(
        sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                   select parcel_key, rule, 'open', colour, confidence, departed_on, :now
                   from unnest(cast(:parcel_key as bigint[]), cast(:rule as text[]), cast(:colour as colour[]),
                               cast(:confidence as real[]), cast(:departed_on as date[]))
                       as found (parcel_key, rule, colour, confidence, departed_on)
                   returning parcel_key, rule, alert_key"""),
        {
            name: [getattr(row, name) for row in found]
            for name in ("parcel_key", "rule", "colour", "confidence", "departed_on")
        }
        | {"now": now},
    )
    key_of = {(row.parcel_key, row.rule): row.alert_key for row in rows}
    return [key_of[row.parcel_key, row.rule] for row in found]


def record_events(connection: sa.Connection, rows: Sequence[EventRow], now: datetime) -> None:
    """Append events to the logs of different alerts, at most one of each, and bring each alert to what its log says."""
    if not rows:
        return
    parameters = {field.name: [getattr(row, field.name) for row in rows] for field in fields(EventRow)}
    connection.execute(
        sa.text("""with happened as materialized (
                       select * from unnest(cast(:alert_key as bigint[]), cast(:event as text[]), cast(:state as alert_state[]),
                                            cast(:colour as colour[]), cast(:confidence as real[]), cast(:departed_on as date[]),
                                            cast(:evidence as jsonb[]))
                           as e (alert_key, event, state, colour, confidence, departed_on, evidence)),
                   logged as (
                       insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
                       select alert_key, :now, event, colour, confidence, departed_on, evidence from happened)
                   update alerts set colour = e.colour, confidence = e.confidence, state = e.state,
                       departed_on = coalesce(e.departed_on, alerts.departed_on),
                       confirmed_at = case when event = 'confirmed' then :now
                                           when event in ('changed', 'reopened') and e.colour = 'yellow' then null
                                           else confirmed_at end,
                       verified_at = case when event = 'verified' then :now
                                          when event not in ('reopened', 'dismissed') then verified_at end,
                       closed_at = case when e.state = 'closed' then coalesce(closed_at, :now) end
                   from happened e where alerts.alert_key = e.alert_key"""),
        {**parameters, "evidence": [json.dumps(dict(row.evidence)) for row in rows], "now": now},
    )


@dataclass(frozen=True)
class WaitingRow:
    """An alert on which something is left to decide, and that was not escalated since its state last changed."""

    alert_key: int
    state: str
    since: datetime
    """When its state last changed."""
    deadline: str | None
    """When an answer is due, as a person wrote it."""
    colour: str
    confidence: float
    departed_on: date | None
    evidence: Mapping[str, Any]
    """Of its last event."""


def waiting_alerts(
    connection: sa.Connection, states: Sequence[str], unmoved_since: datetime | None
) -> list[WaitingRow]:
    """Return alerts whose holder was asked, and those that nobody moved on since a time (None: not those), locked.

    Alerts that somebody else holds are left out: they are being moved on, or come again.
    """
    asked = {"states": list(states), "unmoved_since": unmoved_since}
    # Locked first and read second: a decision that was waited for counts.
    locked = connection.execute(
        sa.text("""select alert_key from alerts a where state::text = any(:states) and closed_at is null
                     and (state = 'information_requested' or opened_at <= :unmoved_since)
                     and not exists (select from alert_events e where e.alert_key = a.alert_key and e.event = 'escalated'
                         and e.event_nr > (select max(m.event_nr) from alert_events m
                                           where m.alert_key = a.alert_key and state_after(m.event) is not null))
                   order by alert_key for no key update skip locked""").bindparams(
            sa.bindparam("unmoved_since", type_=sa.TIMESTAMP(timezone=True))
        ),
        asked,
    ).scalars()
    rows = connection.execute(
        sa.text("""select a.alert_key, a.state::text, moved.recorded_at as since,
                          case when moved.event = 'requested' then moved.evidence -> 'decision' ->> 'deadline' end as deadline,
                          last.colour, last.confidence, last.departed_on, last.evidence
                   from alerts a
                   cross join lateral (select * from alert_events e where e.alert_key = a.alert_key
                                       order by event_nr desc limit 1) last
                   cross join lateral (select * from alert_events e where e.alert_key = a.alert_key and state_after(event) is not null
                                       order by event_nr desc limit 1) moved
                   where a.alert_key = any(:keys) and a.state::text = any(:states)
                     and (a.state = 'information_requested' or moved.recorded_at <= :unmoved_since)
                     and not exists (select from alert_events e where e.alert_key = a.alert_key and e.event = 'escalated'
                                       and e.event_nr > moved.event_nr)
                   order by a.alert_key""").bindparams(
            sa.bindparam("unmoved_since", type_=sa.TIMESTAMP(timezone=True))
        ),
        asked | {"keys": list(locked)},
    )
    return [WaitingRow(**row._mapping) for row in rows]


class NoOpenAlert(Exception):
    """An alert is not stored, or not as it has to be for a decision; the caller shows the line, nothing was recorded."""


def states_of(connection: sa.Connection, alert_keys: Sequence[int]) -> dict[int, str]:
    """Return the states of alerts by key, without those that are not stored."""
    rows = connection.execute(
        sa.text("select alert_key, state::text from alerts where alert_key = any(:keys)"), {"keys": list(alert_keys)}
    )
    return {row.alert_key: row.state for row in rows}


@dataclass(frozen=True)
class LockedAlert:
    """An alert that nobody else changes before the transaction ends."""

    alert_key: int
    state: str
    closed_at: datetime | None
    other_key: int | None
    """The alert of the same parcel and rule that is open beside it."""
    last: LogRow


def lock_alerts(connection: sa.Connection, alert_keys: Sequence[int]) -> list[LockedAlert]:
    """Return alerts and their last events by key, locked first and read second: the monitor may be writing an event of one.

    Raises:
        NoOpenAlert: there is none with one of the keys.
    """
    # In the order in which the monitor locks them: neither waits for the other in a circle.
    found = connection.execute(
        sa.text("select alert_key from alerts where alert_key = any(:keys) order by alert_key for no key update"),
        {"keys": list(alert_keys)},
    ).scalars()
    if missing := sorted({*alert_keys}.difference(found)):
        raise NoOpenAlert(f"alert {missing[0]} is not stored; `parcelwatch alerts` lists those that are open")
    rows = connection.execute(
        sa.text("""select a.alert_key, a.state::text, a.closed_at, (
                       select o.alert_key from alerts o where (o.parcel_key, o.rule) = (a.parcel_key, a.rule)
                         and o.alert_key <> a.alert_key and o.closed_at is null) as other_key,
                          last.recorded_at, last.event, last.colour, last.confidence, last.departed_on, last.evidence
                   from alerts a cross join lateral (
                       select * from alert_events e where e.alert_key = a.alert_key order by event_nr desc limit 1) last
                   where a.alert_key = any(:keys) order by a.alert_key"""),
        {"keys": list(alert_keys)},
    )
    return [LockedAlert(row.alert_key, row.state, row.closed_at, row.other_key, LogRow(*row[4:])) for row in rows]


def alert_log(connection: sa.Connection, alert_key: int, as_known_at: datetime | None = None) -> list[LogRow]:
    """Return the log of an alert as known at a time (None: now), in order; empty where nothing was recorded by then."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text("""select recorded_at, event, colour, confidence, departed_on, evidence from alert_events
                   where alert_key = :key and recorded_at <= coalesce(:at, timestamptz 'infinity')
                   order by event_nr""").bindparams(sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))),
        {"key": alert_key, "at": as_known_at},
    )
    return [LogRow(**row._mapping) for row in rows]


def record_decisions(connection: sa.Connection, rows: Sequence[EventRow], now: datetime) -> None:
    """Append a person's decisions on alerts that are locked; they become known together."""
    record_events(connection, rows, recording.begin(connection, now))
