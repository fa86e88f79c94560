"""Findings and alerts: appended when they change, read as open work."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, Literal

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


def latest_findings(
    connection: sa.Connection, parcels: Keys, rules: Sequence[str], verdicts: Sequence[tuple[str, str | None]]
) -> NDArray[np.void]:
    """Return the newest finding of each parcel and rule that has one: parcel_key, rule_nr, verdict_nr, departed_on.

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
               select parcel_key, outcome, colour, departed_on from findings
               where (findings.parcel_key, findings.rule) = (key, name) order by recorded_at desc limit 1) newest""",
        [said, parcels, list(rules)],
        {"parcel_key": "bigint", "rule_nr": "int", "verdict_nr": "int", "departed_on": "date"},
    )
    rows["departed_on"][rows["departed_on"] < np.datetime64("0001-01-01")] = np.datetime64("NaT")
    return rows


def latest_evidence(connection: sa.Connection, parcels: Sequence[int], rule: str) -> dict[int, Mapping[str, Any]]:
    """Return the evidence of the newest finding of a rule on parcels, by parcel key."""
    rows = connection.execute(
        sa.text("""select key, evidence from unnest(cast(:keys as bigint[])) key cross join lateral (
                       select evidence from findings where (parcel_key, rule) = (key, :rule)
                       order by recorded_at desc limit 1) newest"""),
        {"keys": list(parcels), "rule": rule},
    )
    return {row.key: row.evidence for row in rows}


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
