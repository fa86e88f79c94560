"""Field work: emergence, harvest and tillage of the claimed parcels, once a dekad of what is observed.

    known to   a parcel's first clear view of the newest dekad in which it has one: no marker says anything without views
    due        parcels whose new clear views begin such a dekad, and those of which anything came late, was revised or is new
    stored     where status, value, day or confidence differ from what the series carries as said before

So all other observations cost nothing, and what is said is a function of what is known, however observations come together in polls.

Reads the batch's series and parcels. Adds to the batch's `marked` and to what the series carries; leaves the rows to `said.save`.
"""

from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Days as Dates
from monitor.alerts.neighbours import Ints
from monitor.batch import BatchContext
from monitor.dekads import dekads_of
from monitor.markers.field_work import NOT_ARABLE, field_work
from monitor.markers.form import NOT_EXECUTED
from monitor.policies.known import Known
from monitor.season_series import MARKERS, SeasonSeries
from monitor.stages.said import DAY, because, restate

Days = NDArray[np.float64]
"""Since the season began, with the time of the day."""
_LACKING: Final = {
    "emergence": "bare soil and what rises above it were not seen on three clear views",
    "harvest": "no stand of the declared crop was seen yet",
    "tillage": "soil without a crop was not seen by radar or on clear views",
}
REASONS: Final = because(dict.fromkeys(_LACKING, NOT_ARABLE), _LACKING)
"""Why a marker is not executed or not valid."""


def mark(batch: BatchContext) -> None:
    """Find what the markers say of parcels on which that may have changed, and what of it is to be stored."""
    due, known_to = _due(batch)
    if not len(due):
        return
    season = batch.season
    known = Known.of(batch.series.until(due, known_to), season)
    found = field_work(
        known.views,
        known.radar,
        [batch.parcels.hcat_code[nr] for nr in due.tolist()],
        season.harvest_year,
        _dates(known_to, season.starts_on),
    )
    restate(batch, due, [found.emergence, found.harvest, found.tillage], REASONS)


def _due(batch: BatchContext) -> tuple[Ints, Days]:
    """Return places of parcels that are due, and the time up to which each is known; -inf where nothing is."""
    series, is_due = batch.series, ~batch.is_in_order
    new = series.view_parcel[np.flatnonzero(series.is_new_view)]
    is_sown = (
        series.said["status"][:, MARKERS.index("harvest")] != NOT_EXECUTED + 1
    )  # not what was said to be no arable land
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
    begins = (dekads_of(_dates(times, starts_on)) - np.datetime64(starts_on)) / DAY
    return np.where(np.isfinite(times), begins, np.inf)


def _dates(times: Days, starts_on: date) -> Dates:
    """Return the dates of times, NaT of none."""
    is_seen = np.isfinite(times)
    days = np.floor(np.where(is_seen, times, 0)).astype("m8[D]")
    return np.where(is_seen, np.datetime64(starts_on) + days, np.datetime64("NaT"))
