"""Findings and alerts: appended when they change, read as open work."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import sqlalchemy as sa

from db import recording
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


def latest_findings(connection: sa.Connection, parcels: Keys) -> dict[tuple[int, str], FindingRow]:
    """Return the newest finding of each parcel and rule."""
    rows = connection.execute(
        sa.text("""select distinct on (parcel_key, rule) parcel_key, rule, outcome, colour, confidence, departed_on, evidence
                   from findings where parcel_key = any(:keys) order by parcel_key, rule, recorded_at desc"""),
        {"keys": parcels.tolist()},
    )
    return {(row.parcel_key, row.rule): FindingRow(**row._mapping) for row in rows}


def save_findings(connection: sa.Connection, rows: Sequence[FindingRow], version: str, now: datetime) -> None:
    """Append findings; one more in the same instant replaces nothing (the first stands)."""
    if rows:
        connection.execute(
            sa.text("""insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, confidence,
                                             departed_on, evidence)
                       values (:parcel_key, :rule, :now, :version, cast(:outcome as outcome), cast(:colour as colour),
                               :confidence, :departed_on, cast(:evidence as jsonb))
                       on conflict (parcel_key, rule, recorded_at) do update set outcome = excluded.outcome,
                           colour = excluded.colour, confidence = excluded.confidence,
                           departed_on = excluded.departed_on, evidence = excluded.evidence"""),
            [
                {**row.__dict__, "evidence": json.dumps(dict(row.evidence)), "version": version, "now": now}
                for row in rows
            ],
        )


def open_alerts(connection: sa.Connection, parcels: Keys) -> dict[tuple[int, str], AlertRow]:
    """Alerts of parcels that are not closed, by parcel and rule."""
    rows = connection.execute(
        sa.text("""select alert_key, parcel_key, rule, state, colour, confirmed_at is not null as is_confirmed from alerts
                   where parcel_key = any(:keys) and closed_at is null"""),
        {"keys": parcels.tolist()},
    )
    return {(row.parcel_key, row.rule): AlertRow(**row._mapping) for row in rows}


def open_alert(connection: sa.Connection, finding: FindingRow, now: datetime) -> int:
    """Return a new alert from the finding that departs."""
    key: int = connection.execute(
        sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                   values (:parcel_key, :rule, 'open', cast(:colour as colour), :confidence, :departed_on, :now)
                   returning alert_key"""),
        {**finding.__dict__, "now": now},
    ).scalar_one()
    return key


def record_event(connection: sa.Connection, alert_key: int, event: str, finding: FindingRow, now: datetime) -> None:
    """Append what happens to an alert because of a finding, with its evidence, and bring the alert to what it says."""
    parameters = {
        "alert_key": alert_key,
        "event": event,
        "colour": finding.colour or "green",
        "confidence": finding.confidence or 0.0,
        "departed_on": finding.departed_on,
        "evidence": json.dumps(dict(finding.evidence)),
        "now": now,
    }
    connection.execute(
        sa.text("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                   values (:alert_key, :now, :event, cast(:colour as colour), :confidence, cast(:evidence as jsonb))
                   on conflict do nothing"""),
        parameters,
    )
    connection.execute(
        sa.text("""update alerts set colour = cast(:colour as colour), confidence = :confidence,
                       departed_on = coalesce(cast(:departed_on as date), departed_on),
                       confirmed_at = case when :event = 'confirmed' then :now
                                           when :event = 'changed' and :colour = 'yellow' then null else confirmed_at end,
                       closed_at = case when :event = 'closed' then :now else closed_at end,
                       state = case :event when 'closed' then 'closed'::alert_state
                                           when 'acknowledged' then 'acknowledged'::alert_state
                                           when 'dismissed' then 'dismissed'::alert_state else state end
                   where alert_key = :alert_key"""),
        parameters,
    )


class NoOpenAlert(Exception):
    """No alert has that key, or it is closed; the caller shows the line, nothing was recorded."""


def decide(
    connection: sa.Connection,
    alert_key: int,
    event: Literal["acknowledged", "dismissed"],
    reason: str | None,
    by: str,
    now: datetime,
) -> None:
    """Record a person's decision on an open alert, with the evidence that it was taken on.

    The last decision counts. It holds until the alert closes: what the monitor finds meanwhile changes no decision.

    Args:
        reason: why, as the person wrote it; None where none was given.
        by: who decided.

    Raises:
        NoOpenAlert: the alert is closed, or there is none.
    """
    # Locked first, read second: the monitor may be writing an event of this alert.
    alert = connection.execute(
        sa.text("select closed_at from alerts where alert_key = :key for no key update"), {"key": alert_key}
    ).one_or_none()
    if alert is None:
        raise NoOpenAlert(f"alert {alert_key} is not stored; `parcelwatch alerts` lists those that are open")
    if alert.closed_at is not None:
        raise NoOpenAlert(
            f"alert {alert_key} was closed on {alert.closed_at:%Y-%m-%d %H:%M} UTC: nothing is left to decide"
        )
    newest = connection.execute(
        sa.text("""select colour, confidence, evidence from alert_events where alert_key = :key
                   order by recorded_at desc, event desc limit 1"""),
        {"key": alert_key},
    ).one()
    recorded_at = recording.begin(connection, now)
    decision = {"by": by} | ({"reason": reason} if reason else {})
    connection.execute(
        sa.text("""with decided as (
                       insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                       values (:key, :now, :event, cast(:colour as colour), :confidence, cast(:evidence as jsonb)))
                   update alerts set state = cast(:event as alert_state) where alert_key = :key"""),
        {
            "key": alert_key,
            "now": recorded_at,
            "event": event,
            "colour": newest.colour,
            "confidence": newest.confidence,
            "evidence": json.dumps({**newest.evidence, "decision": decision}),
        },
    )
