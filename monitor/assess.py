"""From posteriors and clear views to alerts: loads what the rules need, decides with `rules` and `alerts`, saves what changed."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
    nothing_observed,
)


@dataclass(frozen=True)
class Known:
    """What the rules look at besides clear views; by parcel key."""

    courses: Mapping[int, Sequence[Posterior]]
    """Posteriors since the last finding in order of acquisition, or the whole season's; absent: nothing new."""
    rebuilt: Collection[int]
    """Parcels whose course is the whole season's."""
    declared_class: Mapping[int, str | None]
    neighbours: Mapping[int, Neighbours | None]
    new_stands: Collection[int]
    """Parcels that bore another crop last season."""
    is_classified: bool
    """Whether a classifier watches the season."""


def assess(
    connection: sa.Connection, parcels: Sequence[Parcel], s2: NDArray[np.void], known: Known, settings: RuleSettings,
    recorded_at: datetime,
) -> int:  # fmt: skip
    """Run every rule on parcels, store findings that changed and move their alerts; return the number of alert events.

    Args:
        s2: all that is known of the parcels, sorted by parcel and time.
    """
    keys = np.array([parcel.parcel_key for parcel in parcels], np.int64)
    previous = store.latest_findings(connection, keys)
    alerts = store.open_alerts(connection, keys)
    changed: list[FindingRow] = []
    n_events = 0
    for parcel in parcels:
        key = parcel.parcel_key
        near = known.neighbours.get(key)
        views = clear_views(s2[slice(*np.searchsorted(s2["parcel_key"], [key, key + 1]))], near)
        before = {rule: _finding(previous.get((key, rule))) for rule in RULES}
        found = [no_emergence(views, near, settings), early_loss(views, near, key in known.new_stands, settings)]
        if key in known.courses or key in known.rebuilt or not known.is_classified:
            found.insert(0, _mismatch(key, known, before["crop_mismatch"], settings))
        for finding in found:
            old, row = before[finding.rule], _row(key, finding)
            if _is_same(old, finding):
                continue
            changed.append(row)
            n_events += _move(connection, alerts, row, finding, recorded_at)
    store.save_findings(connection, changed, VERSION, recorded_at)
    return n_events


def _mismatch(key: int, known: Known, before: Finding | None, settings: RuleSettings) -> Finding:
    """The rule along the course of posteriors, so that it finds the same after a pause as acquisition by acquisition."""
    declared = known.declared_class.get(key)
    if not known.is_classified:
        return crop_mismatch(declared, None, before, settings)
    finding = None if key in known.rebuilt else before
    course = known.courses.get(key, ())
    for posterior in course:
        finding = crop_mismatch(declared, posterior, finding, settings)
    # Rebuilt and without a course: all that was observed has been withdrawn.
    return finding if course and finding is not None else nothing_observed(declared, settings)


def clear_views(rows: NDArray[np.void], neighbours: Neighbours | None) -> ClearViews:
    """Return the clear views of one parcel; two passes on a day count as one, the greener one: cloud only lowers NDVI.

    Views later than what is known of the neighbours wait until they are known (then the leader asks for the rules again).
    """
    rows = rows[np.isfinite(rows["ndvi"])]
    if neighbours is not None:
        until = np.datetime64(neighbours.first_day) + len(neighbours.standing_share)
        rows = rows[rows["observed_at"] < until]
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
    if not happened and alert is not None and finding.departed_on is not None:
        happened = ("changed",)  # the same colour resting on something else: the alert shows what it rests on now
    if not happened:
        return 0
    alert_key = alert.alert_key if alert is not None else store.open_alert(connection, row, now)
    for event in happened:
        store.record_event(connection, alert_key, event, row, now)
    return len(happened)


def _is_same(old: Finding | None, new: Finding) -> bool:
    """Findings are appended when outcome, colour or first departure change, of a departure also when its evidence does."""
    if old is None or (old.outcome, old.colour, old.departed_on) != (new.outcome, new.colour, new.departed_on):
        return False
    return new.departed_on is None or old.evidence == json.loads(json.dumps(dict(new.evidence)))


def _finding(row: FindingRow | None) -> Finding | None:
    return None if row is None else Finding(**{k: v for k, v in row.__dict__.items() if k != "parcel_key"})


def _row(parcel_key: int, finding: Finding) -> FindingRow:
    return FindingRow(parcel_key, **finding.__dict__)
