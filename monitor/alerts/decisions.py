"""Decisions of people on alerts: checked by the lifecycle, recorded with the evidence that they were taken on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import alerts as store
from db.alerts import LockedAlert
from db.connect import Connection
from monitor.alerts.incidents import incident_of
from monitor.alerts.lifecycle import Event, Refused, after, named, named_decision


def decide_together(
    connection: Connection,
    alert_keys: Sequence[int],
    event: Event,
    reason: str | None,
    by: str,
    now: datetime,
    *,
    expected: str | Mapping[int, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record a person's decision on alerts, on all or none. It holds until the next one, or until an alert closes.

    Args:
        reason: why, as the person wrote it; None where none was given.
        by: who decided.
        now: the caller's clock; it counts only in a replay.
        expected: the state that the person saw, of all or by alert; None for the ones that are stored as this begins.
        details: what else belongs to the decision: a deadline, an answer, an assignee.

    Raises:
        NoOpenAlert: an alert is not stored, its state is another than expected or allows no such decision.
    """
    decide_each(connection, dict.fromkeys(alert_keys, Decision(event, reason, details or {})), by, now, expected)


@dataclass(frozen=True)
class Decision:
    """What a person decides on an alert, why, and what else belongs to it."""

    event: Event
    reason: str | None
    details: Mapping[str, Any]


def decide_each(
    connection: Connection,
    decisions: Mapping[int, Decision],
    by: str,
    now: datetime,
    expected: str | Mapping[int, str] | None = None,
) -> None:
    """Record a person's decisions, one on each of some alerts, on all or none; the rest is as of `decide_together`."""
    seen = store.states_of(connection, list(decisions))
    seen |= expected if isinstance(expected, Mapping) else dict.fromkeys(seen, expected) if expected else {}
    entries = []
    for alert in store.lock_alerts(connection, list(decisions)):
        given, last = decisions[alert.alert_key], alert.last
        state = _state_after(alert, given.event, seen[alert.alert_key])
        decision = {"by": by} | ({"reason": given.reason} if given.reason else {}) | dict(given.details)
        evidence = {**last.evidence, "decision": decision}
        entries.append(
            store.EventRow(
                alert.alert_key, given.event, state, last.colour, last.confidence, last.departed_on, evidence
            )
        )
    store.record_decisions(connection, entries, now)


def decide(connection: Connection, alert_key: int, event: Event, *given: Any, **more: Any) -> None:
    """Record a person's decision on an alert; what is given is that of `decide_together`."""
    decide_together(connection, [alert_key], event, *given, **more)


def decide_incident(connection: Connection, alert_key: int, event: Event, *given: Any, **more: Any) -> Sequence[int]:
    """Record a person's decision on all alerts of a regional incident, or on none; return them.

    Args:
        alert_key: one of its alerts.
        given: what `decide_together` takes after the event.
        more: what it takes by name.

    Raises:
        NoOpenAlert: the alert is of no incident, or one of the incident's cannot be decided on so.
    """
    if (incident := incident_of(connection, alert_key)) is None:
        raise store.NoOpenAlert(
            f"there is no incident I{alert_key} now; `parcelwatch alerts incidents` lists those there are, "
            "and alerts that were dismissed or closed are decided on by their numbers"
        )
    try:
        decide_together(connection, incident.alert_keys, event, *given, **more)
    except store.NoOpenAlert as error:
        raise store.NoOpenAlert(
            f"none of the {incident.n_alerts} alerts of {incident.name} is {named_decision(event)}: {error}; "
            f"decide on the others by their numbers (`alerts show {incident.name}`)"
        ) from error
    return incident.alert_keys


def _state_after(alert: LockedAlert, event: Event, seen: str) -> str:
    """Return the state of a locked alert after a decision of a person who saw it in a state. Raises NoOpenAlert."""
    key = alert.alert_key
    if alert.state != seen:
        decided_by = alert.last.evidence.get("decision", {}).get("by")
        whose = f" by {decided_by}" if decided_by else ""
        raise store.NoOpenAlert(
            f"alert {key} is {named(alert.state)}{whose} meanwhile, not {named(seen)}; see `alerts show {key}`"
        )
    try:
        state = after(alert.state, "person", event)  # type: ignore[arg-type]
    except Refused as error:
        if alert.closed_at is not None:
            closed = f"{alert.closed_at:%Y-%m-%d %H:%M}"
            raise store.NoOpenAlert(f"alert {key} was closed on {closed} UTC: nothing is left to decide") from error
        raise store.NoOpenAlert(f"alert {key} {error}") from error
    if event == "reopened" and alert.other_key is not None:
        raise store.NoOpenAlert(f"alert {key} stays closed: alert {alert.other_key} is open for its parcel and rule")
    return state
