"""Alerts: each finding that changed moves the alert of its parcel and rule.

Reads `findings`, open alerts and, for departures without one, closed alerts. Adds `n_alert_events` to the batch.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from db import alerts as store
from monitor.alerts import evidence
from monitor.alerts.lifecycle import Episode, Event, OpenAlert, State, after, events, why_over
from monitor.alerts.rules import RULES, Finding
from monitor.batch import BatchContext
from monitor.policies.policy import Policy

Moved = tuple[store.FindingRow, Finding, store.AlertRow | store.ClosedRow | None, Sequence[Event]]
"""A finding, the alert that it moves (None: one that is not there yet), and what happens to it, in order."""


def move(batch: BatchContext) -> None:
    """Open, confirm, change or close the alerts of the findings that changed, and store what happened to them."""
    if batch.recorded_at is None or not batch.findings:
        return
    moved = [one for one in _moved(batch) if one[-1]]
    connection, now = batch.connection, batch.recorded_at
    fresh = [row for row, _, alert, _ in moved if alert is None]
    new_keys = iter(store.new_alerts(connection, fresh, now) if fresh else ())
    logs = [_entries(next(new_keys) if one[2] is None else one[2].alert_key, one, batch.policy) for one in moved]
    for entries in zip_longest(*logs):  # first events, then those that follow them: one statement for each
        store.record_events(connection, [entry for entry in entries if entry is not None], now)
    batch.n_alert_events += sum(map(len, logs))


def _moved(batch: BatchContext) -> list[Moved]:
    """Return what the findings of the batch do to alerts."""
    opened = store.open_alerts(batch.connection, np.unique([row.parcel_key for row, _ in batch.findings]))
    departing = [row for row, _ in batch.findings if row.departed_on and (row.parcel_key, row.rule) not in opened]
    closed = store.closed_alerts(batch.connection, [row.parcel_key for row in departing]) if departing else {}
    moved: list[Moved] = []
    for row, finding in batch.findings:
        of = row.parcel_key, row.rule
        alert, before = opened.get(of), closed.get(of)
        happened = _happened(alert, finding, before)
        moved.append((row, finding, before if happened[:1] == ("reopened",) else alert, happened))
    return moved


def _happened(alert: store.AlertRow | None, finding: Finding, before: store.ClosedRow | None) -> tuple[Event, ...]:
    """Return the events that a finding makes of an alert that is open or not there yet."""
    is_open = None if alert is None else _open(alert)
    happened = events(is_open, finding, None if before is None else _episode(before))
    if not happened and alert is not None and finding.departed_on is not None:
        return ("changed",)  # the same colour resting on something else: the alert shows what it rests on now
    return happened


def _open(alert: store.AlertRow) -> OpenAlert:
    return OpenAlert(
        alert.alert_key,
        alert.colour,  # type: ignore[arg-type]
        alert.is_confirmed,
        alert.is_verified,
        alert.state,  # type: ignore[arg-type]
    )


def _episode(closed: store.ClosedRow) -> Episode:
    """Return the episode of a closed alert: its departure lasted at least until the last observation it was closed with."""
    seen = evidence.as_of(closed.evidence)
    return Episode(max(closed.departed_on, seen or closed.departed_on), closed.is_silent)


def _entries(alert_key: int, moved: Moved, policy: Policy | None) -> list[store.EventRow]:
    """Return the entries of an alert's log that a finding makes."""
    row, finding, alert, happened = moved
    state: State = "candidate" if alert is None else "closed"
    if isinstance(alert, store.AlertRow):
        state = alert.state  # type: ignore[assignment]
    rests_on = {**row.evidence, **_because(finding, happened, policy)}
    entries = []
    for event in happened:
        state = after(state, "monitor", event)
        colour, confidence = row.colour or "green", row.confidence or 0.0
        entries.append(store.EventRow(alert_key, event, state, colour, confidence, row.departed_on, rests_on))
    return entries


def _because(finding: Finding, happened: Sequence[Event], policy: Policy | None) -> Mapping[str, Any]:
    """Return why the monitor ends an alert or asks a person to review it, as its log says: of an obligation under which policy."""
    if happened[0] not in ("closed", "flagged"):
        return {}
    because = why_over(finding)
    if policy is None or finding.rule in RULES:
        return {"because": because}
    if finding.outcome == "NOT_EXECUTED":
        because = f"{because}: {policy.name} version {policy.version}, SHA-256 {policy.hash}"
    return {**policy.cited, "because": because}
