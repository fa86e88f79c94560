"""Decisions of people on alerts: checked by the lifecycle, recorded with the evidence that they were taken on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from db import alerts as store
from db.connect import Connection
from monitor.alerts.lifecycle import Event, Refused, after, named


def decide(
    connection: Connection,
    alert_key: int,
    event: Event,
    reason: str | None,
    by: str,
    now: datetime,
    *,
    expected: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record a person's decision on an alert. It holds until the next one, or until the alert closes.

    Args:
        reason: why, as the person wrote it; None where none was given.
        by: who decided.
        now: the caller's clock; it counts only in a replay.
        expected: the state that the person saw; None for the one that is stored as this begins.
        details: what else belongs to the decision: a deadline, an answer, an assignee.

    Raises:
        NoOpenAlert: the alert is not stored, its state is another than expected or allows no such decision.
    """
    seen = expected or store.state_of(connection, alert_key)
    alert = store.lock_alert(connection, alert_key)
    if alert.state != seen:
        decided_by = alert.last.evidence.get("decision", {}).get("by")
        whose = f" by {decided_by}" if decided_by else ""
        raise store.NoOpenAlert(
            f"alert {alert_key} is {named(alert.state)}{whose} meanwhile, not {named(seen or '')}; see `alerts show {alert_key}`"
        )
    try:
        state = after(alert.state, "person", event)  # type: ignore[arg-type]
    except Refused as error:
        if alert.closed_at is not None:
            closed = f"{alert.closed_at:%Y-%m-%d %H:%M}"
            raise store.NoOpenAlert(
                f"alert {alert_key} was closed on {closed} UTC: nothing is left to decide"
            ) from error
        raise store.NoOpenAlert(f"alert {alert_key} {error}") from error
    if event == "reopened" and alert.other_key is not None:
        raise store.NoOpenAlert(
            f"alert {alert_key} stays closed: alert {alert.other_key} is open for its parcel and rule"
        )
    decision = {"by": by} | ({"reason": reason} if reason else {}) | dict(details or {})
    last = alert.last
    evidence = {**last.evidence, "decision": decision}
    entry = store.EventRow(alert_key, event, state, last.colour, last.confidence, last.departed_on, evidence)
    store.record_decision(connection, entry, now)
