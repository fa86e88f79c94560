"""Events of regional incidents: told in one message, and what follows is folded into it.

    waiting event ── by the monitor, of an alert of an incident? ── incident ── told in a message that is not dead? ── told_in

An incident is found anew each time, so that it may grow, shrink, and be named by another alert. It counts as told where a message told
of any of its alerts as part of one of the same week, and keeps the name that it had then.
"""

from collections.abc import Sequence
from dataclasses import replace

from db import deliveries as store
from db.connect import Connection
from db.deliveries import WaitingEvent
from db.incidents import incidents
from monitor.alerts.incidents import INCIDENT


def marked(connection: Connection, key: int, waiting: Sequence[WaitingEvent]) -> list[WaitingEvent]:
    """Return the waiting events of a subscription, those of incidents with the incident and the delivery that told of it."""
    found = store.found_by_monitor(connection, waiting, INCIDENT.rules)
    alerts = {one.alert_key for one in found}
    named = dict[int, tuple[int, int | None]]()
    for incident in incidents(connection, INCIDENT, alert_keys=sorted(alerts)) if alerts else ():
        if alerts.isdisjoint(incident.alert_keys):
            continue  # another one of the same week
        told = store.told(connection, key, incident.alert_keys, incident.week) or (incident.alert_keys[0], None)
        named |= dict.fromkeys(alerts.intersection(incident.alert_keys), told)
    of_event = {one.event_nr: named[one.alert_key] for one in found if one.alert_key in named}
    return [_with(one, *of_event[one.event_nr]) if one.event_nr in of_event else one for one in waiting]


def _with(one: WaitingEvent, incident: int, told_in: int | None) -> WaitingEvent:
    return replace(one, incident=incident, told_in=told_in)
