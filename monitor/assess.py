"""From beliefs to alerts: loads what the rules need, decides with `rules` and `alerts`, saves what changed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import alerts as store
from db.alerts import FindingRow
from db.parcels import Parcel
from monitor.alerts import OpenAlert, events
from monitor.rules import (
    RULES,
    VERSION,
    ClearViews,
    Finding,
    Neighbours,
    Posterior,
    RuleSettings,
    crop_mismatch,
    early_loss,
    no_emergence,
)


def assess(
    connection: sa.Connection,
    parcels: Sequence[Parcel],
    s2: NDArray[np.void],
    posteriors: Mapping[int, Posterior],
    declared_class: Mapping[int, str | None],
    neighbours: Mapping[int, Neighbours | None],
    new_stands: Collection[int],
    settings: RuleSettings,
    now: datetime,
) -> int:
    """Runs every rule on parcels, stores findings that changed and moves their alerts; returns the alert events.

    Args:
        s2: clear views of the parcels, sorted by parcel and time.
        posteriors, declared_class, neighbours: by parcel key; a parcel without one is absent or None.
        new_stands: keys of parcels that bore another crop last season.
    """
    keys = np.array([parcel.parcel_key for parcel in parcels], np.int64)
    previous = store.latest_findings(connection, keys)
    alerts = store.open_alerts(connection, keys)
    changed: list[FindingRow] = []
    n_events = 0
    for parcel in parcels:
        key = parcel.parcel_key
        views = clear_views(s2[slice(*np.searchsorted(s2["parcel_key"], [key, key + 1]))])
        before = {rule: _finding(previous.get((key, rule))) for rule in RULES}
        found = (
            crop_mismatch(declared_class.get(key), posteriors.get(key), before["crop_mismatch"], settings),
            no_emergence(views, neighbours.get(key), settings),
            early_loss(views, neighbours.get(key), key in new_stands, settings),
        )
        for finding in found:
            old, row = before[finding.rule], _row(key, finding)
            if _says_the_same(old, finding):
                continue
            changed.append(row)
            n_events += _move(connection, alerts, row, finding, now)
    store.save_findings(connection, changed, VERSION, now)
    return n_events


def clear_views(rows: NDArray[np.void]) -> ClearViews:
    """The clear views of one parcel; two passes on a day count as one, the greener one: cloud only lowers NDVI."""
    rows = rows[np.isfinite(rows["ndvi"])]
    days, first = np.unique(rows["observed_at"].astype("M8[D]"), return_index=True)
    return ClearViews(days, np.maximum.reduceat(rows["ndvi"], first) if len(first) else rows["ndvi"])


def _move(
    connection: sa.Connection, alerts: Mapping[tuple[int, str], store.AlertRow], row: FindingRow, finding: Finding,
    now: datetime,
) -> int:  # fmt: skip
    """Moves the alert of a parcel and rule; returns the number of events."""
    alert = alerts.get((row.parcel_key, row.rule))
    is_open = None if alert is None else OpenAlert(alert.alert_key, alert.colour, alert.is_confirmed)  # type: ignore[arg-type]
    happened = events(is_open, finding)
    if not happened:
        return 0
    alert_key = alert.alert_key if alert is not None else store.open_alert(connection, row, now)
    for event in happened:
        store.record_event(
            connection, alert_key, event, row.colour or "green", row.confidence or 0.0, row.evidence, now
        )
    return len(happened)


def _says_the_same(old: Finding | None, new: Finding) -> bool:
    """Findings are appended when outcome, colour or first departure change; the evidence of green days is not news."""
    return old is not None and (old.outcome, old.colour, old.departed_on) == (new.outcome, new.colour, new.departed_on)


def _finding(row: FindingRow | None) -> Finding | None:
    return None if row is None else Finding(**{k: v for k, v in row.__dict__.items() if k != "parcel_key"})


def _row(parcel_key: int, finding: Finding) -> FindingRow:
    return FindingRow(parcel_key, **finding.__dict__)
