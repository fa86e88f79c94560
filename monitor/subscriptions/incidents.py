"""Events of regional incidents: told in one message, and what follows is folded into it.

    waiting event ── by the monitor, of an alert of an incident? ── incident ── told in a message that is not dead? ── told_in
                     └─ once a pass, for all subscriptions ─────┘   └─ of each subscription ─────────────────────┘

An incident is found anew each pass, so that it may grow, shrink, and be named by another alert. It counts as told where a message told
of any of its alerts as part of one of the same week, and keeps the name that it had then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from db import deliveries as store
from db.connect import Connection
from db.deliveries import WaitingEvent
from db.incidents import IncidentRow, incidents
from monitor.alerts.incidents import INCIDENT


@dataclass(frozen=True)
class Seen:
    """Events that waited at one time for any of some subscriptions, and the incidents that they are of."""

    events: frozenset[int]
    incident_of: Mapping[int, IncidentRow]
    """By event."""


def seen(connection: Connection, waiting: Iterable[WaitingEvent]) -> Seen:
    """Return the incidents of events that wait, found once for all subscriptions."""
    of = {one.event_nr: one for one in waiting}
    told = store.found_by_monitor(connection, list(of.values()), INCIDENT.rules)
    alerts = sorted({one.alert_key for one in told})
    rows = incidents(connection, INCIDENT, alert_keys=alerts) if alerts else []
    by_alert = {key: row for row in rows for key in row.alert_keys}
    return Seen(frozenset(of), {one.event_nr: by_alert[one.alert_key] for one in told if one.alert_key in by_alert})


def marked(connection: Connection, key: int, waiting: Sequence[WaitingEvent], known: Seen) -> list[WaitingEvent]:
    """Return the waiting events of a subscription, those of incidents with the incident and the delivery that told of it."""
    rows = {row.alert_keys[0]: row for one in waiting if (row := known.incident_of.get(one.event_nr)) is not None}
    told = {name: store.told(connection, key, row.alert_keys, row.week) or (name, None) for name, row in rows.items()}
    return [
        one if (row := known.incident_of.get(one.event_nr)) is None else _with(one, *told[row.alert_keys[0]])
        for one in waiting
    ]


def _with(one: WaitingEvent, incident: int, told_in: int | None) -> WaitingEvent:
    return replace(one, incident=incident, told_in=told_in)
