"""What markers say beside what they said before: the series carries it, rows are stored where status, value, day or confidence differ."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import markers as store
from db.markers import MarkerRows
from monitor.alerts.neighbours import Ints
from monitor.batch import BatchContext
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, STATUSES, Marked
from monitor.season_series import MARKERS, NO_DAY, SAID

Reasons = Mapping[tuple[str, int], str]
"""Why a marker is not executed or not valid, by its name and status."""
DAY: Final = np.timedelta64(1, "D")
_NO_EVENT: Final = json.dumps({"events": []})


def restate(batch: BatchContext, parcels: Ints, marked: Sequence[Marked], reasons: Reasons) -> None:
    """Let the series carry what markers say of some of the parcels, and let what differs from before be stored."""
    nr = np.array([MARKERS.index(one.marker) for one in marked])
    said, before = _said(marked, np.datetime64(batch.season.starts_on)), _before(batch, parcels)[:, nr]
    batch.series.said[parcels[:, None], nr] = said
    batch.marked.append(_rows(batch, parcels, marked, said, said != before, reasons))


def save(batch: BatchContext) -> None:
    """Store what changed."""
    if batch.recorded_at is not None:
        for rows in batch.marked:
            store.save(batch.connection, rows, batch.recorded_at)


def _said(marked: Sequence[Marked], first: np.datetime64) -> NDArray[np.void]:
    """Return (P, K) what markers say."""
    said = np.zeros((len(marked[0].status), len(marked)), SAID)
    said["day"] = NO_DAY
    for nr, one in enumerate(marked):
        said["status"][:, nr] = one.status + 1
        for name in ("value", "confidence"):
            said[name][:, nr] = np.nan_to_num(getattr(one, name), nan=-1)
        # The newest event's: of equal indices the last assignment stays.
        said["day"][one.events.parcel, nr] = (one.events.best.astype("M8[D]") - first) / DAY
        said["day"][one.status != OK, nr] = NO_DAY
    return said


def _before(batch: BatchContext, parcels: Ints) -> NDArray[np.void]:
    """Return (P, K) what all markers said before; read where it is not carried."""
    before = batch.series.said[parcels]
    unknown = np.flatnonzero((before["status"] == 0).any(axis=1))
    if len(unknown):
        keys, first = batch.claim.parcel_keys[parcels[unknown]], np.datetime64(batch.season.starts_on)
        rows = store.latest(batch.connection, keys, MARKERS, STATUSES)
        place = unknown[np.searchsorted(keys, rows["parcel_key"])], rows["marker_nr"]
        is_dated, days = ~np.isnat(rows["day"]), (rows["day"] - first).astype(np.int64)
        before["status"][place], before["day"][place] = rows["status_nr"] + 1, np.where(is_dated, days, NO_DAY)
        for name in ("value", "confidence"):
            before[name][place] = np.nan_to_num(rows[name], nan=-1)
    return before


def _rows(
    batch: BatchContext,
    parcels: Ints,
    marked: Sequence[Marked],
    said: NDArray[np.void],
    is_other: NDArray[np.bool_],
    reasons: Reasons,
) -> MarkerRows:
    """Return what differs from what was said before."""
    parcel, nr = np.nonzero(is_other)
    rows = said[parcel, nr]
    first = np.datetime64(batch.season.starts_on)
    value, confidence = (np.where(rows[name] < 0, np.nan, rows[name]) for name in ("value", "confidence"))
    return MarkerRows(
        batch.claim.parcel_keys[parcels[parcel]],
        [marked[one].marker for one in nr.tolist()],
        [marked[one].version for one in nr.tolist()],
        [STATUSES[one - 1] for one in rows["status"].tolist()],
        value,
        np.where(rows["day"] == NO_DAY, np.datetime64("NaT"), first + rows["day"].astype(np.int64) * DAY),
        confidence,
        [_evidence(marked[one], place, reasons) for place, one in zip(parcel.tolist(), nr.tolist(), strict=True)],
    )


def _evidence(marked: Marked, parcel: int, reasons: Reasons) -> str:
    """Return on what a marker rests, as JSON; where nothing happened, views and passes show nothing that could be named."""
    if marked.status[parcel] != OK:
        return reasons[marked.marker, int(marked.status[parcel])]
    return json.dumps(marked.evidence(parcel)) if marked.value[parcel] > 0 else _NO_EVENT


def because(not_executed: Mapping[str, str], not_valid: Mapping[str, str]) -> Reasons:
    """Return the evidence of markers by name that are not executed or not valid."""
    both = ((NOT_EXECUTED, not_executed), (NOT_VALID, not_valid))
    return {
        (marker, status): json.dumps({"reason": reason})
        for status, reasons in both
        for marker, reason in reasons.items()
    }
