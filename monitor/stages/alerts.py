"""Alerts: each finding that changed moves the alert of its parcel and rule.

Reads `findings` and open alerts. Adds `n_alert_events` to the batch.
"""

import numpy as np

from db import alerts as store
from monitor.alerts.lifecycle import OpenAlert, events
from monitor.alerts.rules import Finding
from monitor.batch import BatchContext


def move(batch: BatchContext) -> None:
    """Open, confirm, change or close the alerts of the findings that changed, and store what happened to them."""
    if batch.recorded_at is None or not batch.findings:
        return
    keys = np.unique([row.parcel_key for row, _ in batch.findings])
    opened = store.open_alerts(batch.connection, keys)
    for row, finding in batch.findings:
        alert = opened.get((row.parcel_key, row.rule))
        happened = _happened(alert, finding)
        if happened:
            key = alert.alert_key if alert is not None else store.open_alert(batch.connection, row, batch.recorded_at)
            for event in happened:
                store.record_event(batch.connection, key, event, row, batch.recorded_at)
        batch.n_alert_events += len(happened)


def _happened(alert: store.AlertRow | None, finding: Finding) -> tuple[str, ...]:
    """Return the events that a finding makes of an alert that is open or not there yet."""
    is_open = None if alert is None else OpenAlert(alert.alert_key, alert.colour, alert.is_confirmed)  # type: ignore[arg-type]
    happened = events(is_open, finding)
    if not happened and alert is not None and finding.departed_on is not None:
        return ("changed",)  # the same colour resting on something else: the alert shows what it rests on now
    return happened
