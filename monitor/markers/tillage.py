"""Tillage of arable land while no crop stands: after the harvest, or before the declared crop comes up.

    radar     x = VH - VV / 2 (dB) rises by 0.5 from the 18 days before to the 18 after, orbit by orbit, over soil that is seen bare
    optical   a green cover (volunteers, weeds, a catch crop) is lost to bare soil on two clear views
    c         = 1 - (1 - c_radar) (1 - c_optical)

A rough surface scatters more, most of it across polarisations. Rain moves VV and VH together, VH by about 0.7 of VV: half of VV taken
off leaves little of it. Neither sensor is enough alone: frost and herbicides take covers, too, and the harvest of the season before takes
what stood; rain on dry soil leaves a rest. A seedbed that is rolled fine is smooth: it is not found. Grass that is ploughed is the policy's
`not_ploughed`.
Source: cross-polarised ratio and roughness, Oh et al. 1992; markers of bare soil and backscatter, Sen4CAP L4C; the half and the levels
chosen on simulated seasons other than those that are scored.
Shapes: P parcels, D bins of six days, E events.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Ints
from monitor.alerts.rules import LOSS_NDVI
from monitor.markers.crop_calendar import Calendars
from monitor.markers.form import BACKSCATTER, NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Floats, Marked, RadarViews
from monitor.markers.radar_steps import series, step_sizes
from monitor.markers.stand import NONE, Course, Stands, dates

VERSION: Final = "1"
BIN: Final = 6
"""Days of a bin: one pass of each orbit."""
SIDE: Final = 3
"""Bins before and after."""
STEP_DB: Final = 0.5
"""Step at which radar says as much as it can alone; from 0.35 on it says half of that."""
VV_SHARE: Final = 0.5
RADAR_ALONE: Final = 0.6
OPTICAL_ALONE: Final = 0.5
"""Confidences (chosen; docs/LOG.md has how often each is true)."""
APART_BINS: Final = 5
"""Bins that one event clears: a field is tilled again after a month."""
MOST: Final = 4
"""Events of a season and parcel by radar."""
TOGETHER_DAYS: Final = 24
"""Days between the loss of cover and the radar's step that are one event: a cover wilts, and views and passes leave gaps."""


def tillage(course: Course, of: Calendars, stands: Stands, left_on: Ints, radar: RadarViews) -> Marked:
    """Return when arable land of P parcels was tilled; the value is how often.

    Args:
        course: clear views.
        of: the crops' calendars.
        stands: of `course`.
        left_on: (P,) day since 1970 on which the crop had left the field, far in the future where it has not.
        radar: passes.
    """
    n_parcels = len(course.n)
    until = np.where(
        stands.risen != NONE, course.days_at(stands.risen), np.where(stands.peak == NONE, course.newest + 1, 0)
    )
    may = of.is_arable & ((until > 0) | (left_on < _FAR))
    since = np.int64(of.winter_from.astype(np.int64))
    radar_events = _by_radar(course, may, radar, (since, until, left_on))
    optical_events = _by_views(course, of.is_arable, (since, until, left_on))
    events = _fused(radar_events, optical_events)
    watched = np.bincount(radar.parcel, minlength=n_parcels) > 0
    status = np.where(
        may & (course.n > 2) & (watched | (np.bincount(events.parcel, minlength=n_parcels) > 0)), OK, NOT_VALID
    )
    status[~of.is_arable] = NOT_EXECUTED
    number = np.bincount(events.parcel, minlength=n_parcels).astype(np.float64)
    best = np.zeros(n_parcels)
    np.maximum.at(best, events.parcel, events.confidence)
    value, confidence = (
        np.where(status == OK, one, np.nan) for one in (number, np.where(number > 0, best, RADAR_ALONE))
    )

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            "events": events.of(parcel),
            "clear_views": course.shown(parcel, 0, int(course.n[parcel]) - 1),
            "thresholds": {"bare_ndvi": LOSS_NDVI, "step_db": STEP_DB},
        }

    return Marked("tillage", VERSION, status, value, confidence, events, evidence)


_FAR: Final = 1 << 30


_Free = tuple[np.int64, Ints, Ints]
"""When no crop stands: from when the last season's is harvested (one day for all) to the rise (P,), and from when it has left (P,)."""


def _is_free(day: Ints, parcel: Ints, free: _Free, margin: int = 0) -> Bools:
    """Return whether no crop of these parcels stands on days, give or take some."""
    since, until, left_on = free
    return np.asarray((day >= since - margin) & (day < until[parcel] + margin) | (day >= left_on[parcel] - margin))


def _by_radar(course: Course, may: Bools, radar: RadarViews, free: _Free) -> Events:
    """Return the steps over bare soil of parcels where no crop stood at some time."""
    day = radar.days.astype("M8[D]").astype(np.int64)
    near = np.flatnonzero(may[radar.parcel] & _is_free(day, radar.parcel, free, SIDE * BIN))
    if not len(near):
        return _nothing()
    parcel, bins = radar.parcel[near], day[near] // BIN  # the same bins whatever else is in the batch
    first, last = int(bins.min()), int(bins.max())
    some = np.flatnonzero(np.bincount(parcel, minlength=len(course.n)))
    is_bare = _is_bare(course, some, (first, last + 1), free)
    is_any = is_bare.any(axis=1)
    some, is_bare = some[is_any], is_bare[is_any]
    place = np.full(len(course.n), -1)
    place[some] = np.arange(len(some))
    kept = place[parcel] >= 0
    near = near[kept]
    value = radar.vh_db[near] - VV_SHARE * radar.vv_db[near]
    of = series(place[parcel[kept]], bins[kept] - first, radar.orbit[near], value)
    size = step_sizes(of, is_bare.shape, (0, SIDE), (-SIDE, 0))
    size[~(is_bare & (size > 0))] = 0  # NaN, too
    rows, at, best = _highest(size)
    begin = (first + at) * BIN
    confidence = RADAR_ALONE * np.where(best >= STEP_DB, 1, 0.5)
    seen_by = np.full(len(rows), BACKSCATTER)
    return Events(some[rows], dates(begin - BIN), dates(begin + BIN), dates(begin), confidence, seen_by)


def _highest(size: Floats) -> tuple[Ints, Ints, Floats]:
    """Return parcel, bin and size of the highest steps of sizes (P, D), each apart from those before."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    rows, column = np.flatnonzero(size.max(axis=1, initial=0) >= _HALF_DB), np.arange(size.shape[1])
    for _ in range(MOST):
        if not len(rows):
            break
        at = size[rows].argmax(axis=1)
        best = size[rows, at]
        rows, at, best = (one[best >= _HALF_DB] for one in (rows, at, best))
        found.append((rows, at, best))
        size[rows] = np.where(np.abs(column - at[:, None]) < APART_BINS, 0, size[rows])
    parcel, at, best = (np.concatenate(one) for one in zip(*found, strict=True))
    return parcel, at, best


_HALF_DB: Final = 0.35


def _is_bare(course: Course, some: Ints, bins: tuple[int, int], free: _Free) -> Bools:
    """Return of some parcels in which bins the soil lies bare from `SIDE` bins before to as many behind, and no crop stands."""
    shape, ndvi, day = (len(some), bins[1] - bins[0]), course.ndvi[some], course.day[some]
    parcel, column = np.nonzero(np.isfinite(ndvi))
    at = day[parcel, column] // BIN - bins[0]
    inside = (at >= 0) & (at < shape[1])
    parcel, column, at = parcel[inside], column[inside], at[inside]
    is_green = ndvi[parcel, column] >= VEGETATION_NDVI
    green, seen = np.zeros((2, *shape), bool)
    green[parcel[is_green], at[is_green]], seen[parcel, at] = True, True
    is_free = _is_free(np.arange(*bins) * BIN, some[:, None], free)
    return np.asarray(is_free & ~_widened(green) & _widened(seen))


def _widened(one: Bools) -> Bools:
    """Return (P, D) whether anything is true within `SIDE` bins."""
    sums = np.zeros((one.shape[0], one.shape[1] + 2 * SIDE + 1), np.int16)
    np.cumsum(one, axis=1, out=sums[:, SIDE + 1 : SIDE + 1 + one.shape[1]], dtype=np.int16)
    sums[:, SIDE + 1 + one.shape[1] :] = sums[:, SIDE + one.shape[1], None]
    return np.asarray(sums[:, 2 * SIDE + 1 :] > sums[:, : one.shape[1]])


def _by_views(course: Course, is_arable: Bools, free: _Free) -> Events:
    """Return where a green cover is lost to bare soil."""
    v, day = course.ndvi, course.day
    lost = (v[:, :-2] >= VEGETATION_NDVI) & (v[:, 1:-1] < LOSS_NDVI) & (v[:, 2:] < LOSS_NDVI)
    parcel, column = np.nonzero(lost & is_arable[:, None])
    begin, end = day[parcel, column], day[parcel, column + 1]
    kept = _is_free(begin, parcel, free) & _is_free(end, parcel, free)
    parcel, begin, end = parcel[kept], begin[kept], end[kept]
    confidence = np.full(len(parcel), OPTICAL_ALONE)
    return Events(
        parcel, dates(begin), dates(end), dates((begin + end) // 2), confidence, np.full(len(parcel), OPTICAL)
    )


def _fused(radar: Events, optical: Events) -> Events:
    """Return events of both, one where both see the same."""
    days = [one.best.astype(np.int64) for one in (radar, optical)]
    apart = 1 << 20
    axis = optical.parcel * apart + days[1]
    order = np.argsort(axis, kind="stable")
    axis = np.append(axis[order], 1 << 62)
    mine = radar.parcel * apart + days[0]
    behind = np.searchsorted(axis, mine)
    before = np.maximum(behind - 1, 0)
    nearest = np.where(np.abs(axis[before] - mine) <= np.abs(axis[behind] - mine), before, behind)
    is_both = np.abs(axis[nearest] - mine) <= TOGETHER_DAYS if len(order) else np.zeros(len(mine), bool)
    pair = order[nearest[is_both]] if len(order) else np.zeros(0, np.int64)
    begin, end, best, confidence, seen_by = (
        getattr(radar, name).copy() for name in ("begin", "end", "best", "confidence", "seen_by")
    )
    confidence[is_both] = 1 - (1 - confidence[is_both]) * (1 - optical.confidence[pair])
    seen_by[is_both] |= OPTICAL
    alone = np.setdiff1d(np.arange(len(optical.parcel)), pair)
    rest = optical.only(alone)
    every = Events(
        *(
            np.concatenate([one, getattr(rest, name)])
            for name, one in (
                ("parcel", radar.parcel),
                ("begin", begin),
                ("end", end),
                ("best", best),
                ("confidence", confidence),
                ("seen_by", seen_by),
            )
        )
    )
    every = every.only(every.confidence >= OPTICAL_ALONE)
    return every.only(np.lexsort((every.best, every.parcel)))


def _nothing() -> Events:
    whole, day = np.zeros(0, np.int64), np.zeros(0, "M8[D]")
    return Events(whole, day, day, day, np.zeros(0), whole)
