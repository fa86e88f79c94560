"""Field work: emergence, harvest and tillage of the claimed parcels, once a dekad of what is observed.

    known to   a parcel's first clear view of the newest dekad in which it has one: no marker says anything without views
    due        parcels whose new clear views begin such a dekad, and those of which anything came late, was revised or is new
    stored     where status, value, day or confidence differ from what the series carries as said before

So all other observations cost nothing, and what is said is a function of what is known, however observations come together in polls.

Reads the batch's series and parcels. Adds `marked` to the batch and what is said to the series that it carries; leaves the rows to `save`.
"""

import json
from collections.abc import Mapping
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import markers as store
from db.markers import MarkerRows
from monitor.alerts.neighbours import Days as Dates
from monitor.alerts.neighbours import Ints
from monitor.batch import BatchContext
from monitor.dekads import dekads_of
from monitor.markers.field_work import NOT_ARABLE, field_work
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, STATUSES, Marked
from monitor.policies.known import Known
from monitor.season_series import MARKERS, NO_DAY, SAID, SeasonSeries

Days = NDArray[np.float64]
"""Since the season began, with the time of the day."""
_DAY: Final = np.timedelta64(1, "D")
REASONS: Final[Mapping[str, str]] = {
    "emergence": "bare soil and what rises above it were not seen on three clear views",
    "harvest": "no stand of the declared crop was seen yet",
    "tillage": "soil without a crop was not seen by radar or on clear views",
}
"""Why a marker is not valid."""


def mark(batch: BatchContext) -> None:
    """Find what the markers say of parcels on which that may have changed, and what of it is to be stored."""
    due, known_to = _due(batch)
    if not len(due):
        return
    season, first = batch.season, np.datetime64(batch.season.starts_on)
    known = Known.of(batch.series.until(due, known_to), season)
    found = field_work(
        known.views,
        known.radar,
        [batch.parcels.hcat_code[nr] for nr in due.tolist()],
        season.harvest_year,
        _dates(known_to, season.starts_on),
    )
    marked = [found.emergence, found.harvest, found.tillage]
    said, before = _said(marked, first), _before(batch, due)
    batch.series.said[due] = said
    batch.marked = _rows(batch, due, marked, said, said != before)


def save(batch: BatchContext) -> None:
    """Store what changed."""
    if batch.marked is not None and batch.recorded_at is not None:
        store.save(batch.connection, batch.marked, batch.recorded_at)


def _due(batch: BatchContext) -> tuple[Ints, Days]:
    """Return places of parcels that are due, and the time up to which each is known; -inf where nothing is."""
    series, is_due = batch.series, ~batch.is_in_order
    new = series.view_parcel[np.flatnonzero(series.is_new_view)]
    is_sown = (series.said["status"] != NOT_EXECUTED + 1).any(axis=1)  # not what was said to be no arable land
    n_new = np.bincount(new, minlength=len(is_due))
    some = np.flatnonzero(is_due | is_sown & (n_new > 0))
    begin, end = (np.searchsorted(series.view_parcel, some, side=side) for side in ("left", "right"))
    newest, before = (_time(series, begin, to) for to in (end, end - n_new[some]))
    dekad = _dekads(newest, batch.season.starts_on)
    is_due = is_due[some] | (before < dekad)
    some, begin, end, dekad = some[is_due], begin[is_due], end[is_due], dekad[is_due]
    while (is_earlier := _time(series, begin, end - 1) >= dekad).any():  # back through the few views of the dekad
        end = end - is_earlier
    return some, _time(series, begin, end)


def _time(series: SeasonSeries, begin: Ints, end: Ints) -> Days:
    """Return the time of the last clear view before place `end`, -inf where that would be before `begin`."""
    has = end > begin
    time = np.full(len(end), -np.inf)
    time[has] = series.views["day"][end[has] - 1]
    return time


def _dekads(times: Days, starts_on: date) -> Days:
    """Return on which day the dekads of times begin; inf of none."""
    begins = (dekads_of(_dates(times, starts_on)) - np.datetime64(starts_on)) / _DAY
    return np.where(np.isfinite(times), begins, np.inf)


def _dates(times: Days, starts_on: date) -> Dates:
    """Return the dates of times, NaT of none."""
    is_seen = np.isfinite(times)
    days = np.floor(np.where(is_seen, times, 0)).astype("m8[D]")
    return np.where(is_seen, np.datetime64(starts_on) + days, np.datetime64("NaT"))


def _said(marked: list[Marked], first: np.datetime64) -> NDArray[np.void]:
    """Return (P, K) what markers say."""
    said = np.zeros((len(marked[0].status), len(marked)), SAID)
    said["day"] = NO_DAY
    for nr, one in enumerate(marked):
        said["status"][:, nr] = one.status + 1
        for name in ("value", "confidence"):
            said[name][:, nr] = np.nan_to_num(getattr(one, name), nan=-1)
        # The newest event's: of equal indices the last assignment stays.
        said["day"][one.events.parcel, nr] = (one.events.best.astype("M8[D]") - first) / _DAY
        said["day"][one.status != OK, nr] = NO_DAY
    return said


def _before(batch: BatchContext, due: Ints) -> NDArray[np.void]:
    """Return (P, K) what was said before; read where it is not carried."""
    before = batch.series.said[due]
    unknown = np.flatnonzero((before["status"] == 0).any(axis=1))
    if len(unknown):
        keys, first = batch.claim.parcel_keys[due[unknown]], np.datetime64(batch.season.starts_on)
        rows = store.latest(batch.connection, keys, MARKERS, STATUSES)
        place = unknown[np.searchsorted(keys, rows["parcel_key"])], rows["marker_nr"]
        is_dated, days = ~np.isnat(rows["day"]), (rows["day"] - first).astype(np.int64)
        before["status"][place], before["day"][place] = rows["status_nr"] + 1, np.where(is_dated, days, NO_DAY)
        for name in ("value", "confidence"):
            before[name][place] = np.nan_to_num(rows[name], nan=-1)
    return before


def _rows(
    batch: BatchContext, due: Ints, marked: list[Marked], said: NDArray[np.void], is_other: NDArray[np.bool_]
) -> MarkerRows:
    """Return what differs from what was said before."""
    parcel, nr = np.nonzero(is_other)
    rows = said[parcel, nr]
    first = np.datetime64(batch.season.starts_on)
    value, confidence = (np.where(rows[name] < 0, np.nan, rows[name]) for name in ("value", "confidence"))
    return MarkerRows(
        batch.claim.parcel_keys[due[parcel]],
        [MARKERS[one] for one in nr.tolist()],
        [marked[one].version for one in nr.tolist()],
        [STATUSES[one - 1] for one in rows["status"].tolist()],
        value,
        np.where(rows["day"] == NO_DAY, np.datetime64("NaT"), first + rows["day"].astype(np.int64) * _DAY),
        confidence,
        [_evidence(marked[one], place) for place, one in zip(parcel.tolist(), nr.tolist(), strict=True)],
    )


def _evidence(marked: Marked, parcel: int) -> str:
    """Return on what a marker rests, as JSON; where nothing happened, views and passes show nothing that could be named."""
    if marked.status[parcel] != OK:
        return _WHY[marked.marker, int(marked.status[parcel])]
    return json.dumps(marked.evidence(parcel)) if marked.value[parcel] > 0 else _NO_EVENT


_NO_EVENT: Final = json.dumps({"events": []})
_WHY: Final = {
    (marker, status): json.dumps({"reason": reason if status == NOT_VALID else NOT_ARABLE})
    for marker, reason in REASONS.items()
    for status in (NOT_EXECUTED, NOT_VALID)
}
