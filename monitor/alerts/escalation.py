"""Escalation: alerts that wait too long for a person, or whose information was due, are put on record once for each wait.

A wait begins with each change of an alert's state. So an alert is escalated again only after somebody moved it on.
"""

from datetime import datetime, timedelta

from db import alerts as store
from db import recording
from db.connect import Connection
from monitor.alerts.lifecycle import PENDING, State, after, named


def overdue(state: State, since: datetime, deadline: str | None, now: datetime, after_days: int | None) -> str | None:
    """Return why an alert is overdue, in words; None where it is not.

    Args:
        state: of the alert.
        since: when its state last changed.
        deadline: when an answer is due, in ISO 8601; only of the state information_requested.
        after_days: days after which an alert is overdue that nobody moved on; None: never.
    """
    if state == "information_requested" and deadline is not None:
        try:
            due = datetime.fromisoformat(deadline)
        except ValueError:
            due = None
        if due is not None and due.tzinfo is not None:
            return f"no answer by {due:%Y-%m-%d %H:%M %Z}" if due <= now else None
    if after_days is not None and now - since >= timedelta(days=after_days):
        return f"{named(state)} since {since:%Y-%m-%d}, {after_days} days are the limit"
    return None


def escalate(connection: Connection, after_days: int | None, now: datetime) -> int:
    """Record the escalation of every alert that is overdue; return their number. The caller commits."""
    limit = None if after_days is None else now - timedelta(days=after_days)
    entries = []
    for row in store.waiting_alerts(connection, PENDING, limit):
        state: State = row.state  # type: ignore[assignment]
        if because := overdue(state, row.since, row.deadline, now, after_days):
            rests_on = {name: value for name, value in row.evidence.items() if name != "decision"}
            entries.append(
                store.EventRow(
                    row.alert_key,
                    "escalated",
                    after(state, "monitor", "escalated"),
                    row.colour,
                    row.confidence,
                    row.departed_on,
                    {**rests_on, "because": because},
                )
            )
    if entries:
        store.record_events(connection, entries, recording.begin(connection, now))
    return len(entries)
