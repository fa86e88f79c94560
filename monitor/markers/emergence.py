"""Emergence of the declared crop: its first rise above bare soil that is sustained up to the peak.

    begin   ten days before the last view of bare soil          end   first view 0.08 above it, from which on all are
    best    the line through the first views of the rise, down to bare soil

Volunteers and weeds that grow on are taken for the crop; what the plough or the seedbed takes before the crop comes up is not. Crops that
are sown before the season's first view, and grass, are not asked.
Source: ours, after the within-season emergence of Gao et al. 2020 (first sustained rise above bare soil, a few days behind the date in
the field).
Shapes: P parcels.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Ints
from monitor.alerts.rules import LOSS_NDVI
from monitor.markers.crop_calendar import Calendars
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Marked
from monitor.markers.stand import NONE, RISE_NDVI, Course, Stands, dates

VERSION: Final = "1"
LEAST_VIEWS: Final = 3
"""Clear views with fewer of which nothing is said."""
SURE_RISE: Final = 0.15
"""Above bare soil: a rise is said once the newest view shows so much, six times the noise of a view."""
HIDDEN_DAYS: Final = 10
"""Days from the first leaves to 0.08 of NDVI: 3 (rape) to 14 (onions) in the tuning seasons; Gao et al. 2020 find 5 to 10."""
SURE_DAYS: Final = (5, 30)
"""Days between the views around it at which the date is sure, and at which it is half as sure: one revisit, a month."""


def emergence(course: Course, of: Calendars, stands: Stands) -> Marked:
    """Return when the declared crop came up on P parcels; the value is 1 where it has, 0 where the soil is still bare."""
    bare, risen = stands.bare, stands.risen
    following = np.minimum(risen + 1, course.n - 1)
    is_sustained = (risen != NONE) & ((stands.peak != NONE) | (following > risen))
    is_sustained &= (stands.peak != NONE) | (course.ndvi_at(course.n - 1) >= stands.base + SURE_RISE)
    still_bare = (bare != NONE) & (stands.peak == NONE) & ~is_sustained
    status = np.where((course.n >= LEAST_VIEWS) & (is_sustained | still_bare), OK, NOT_VALID)
    status[~of.is_arable] = NOT_EXECUTED
    some = np.flatnonzero(is_sustained & (status == OK))
    begin, end = course.days_at(bare)[some], course.days_at(risen)[some]
    best = _start(course, stands)[some]
    gap = np.clip((end - begin - SURE_DAYS[0]) / (SURE_DAYS[1] - SURE_DAYS[0]), 0, None)
    confidence = np.full(len(course.n), np.nan)
    confidence[status == OK] = 0.9
    confidence[some] = np.maximum(0.9 - 0.4 * gap, 0.2) * np.where(stands.peak[some] == NONE, 0.8, 1)
    optical = np.full(len(some), OPTICAL)
    events = Events(some, dates(begin - HIDDEN_DAYS), dates(end), dates(best), confidence[some], optical)
    value = np.where(status == OK, is_sustained.astype(np.float64), np.nan)

    def evidence(parcel: int) -> Mapping[str, Any]:
        at = int(risen[parcel]) if is_sustained[parcel] else int(course.n[parcel]) - 1
        return {
            "clear_views": course.shown(parcel, at - 2, at + 2),
            "events": events.of(parcel),
            "thresholds": {"bare_ndvi": LOSS_NDVI, "rise_ndvi": RISE_NDVI},
        }

    return Marked("emergence", VERSION, status, value, confidence, events, evidence)


def _start(course: Course, stands: Stands) -> Ints:
    """Return (P,) days on which the line of the rise leaves bare soil, between the views around it."""
    begin, end = course.days_at(stands.bare), course.days_at(stands.risen)
    up = np.minimum(stands.risen + 1, course.n - 1)
    span = np.maximum(course.days_at(up) - begin, 1)
    slope = (course.ndvi_at(up) - course.ndvi_at(stands.bare)) / span
    height = course.ndvi_at(stands.risen) - stands.base
    back = np.where(slope > 0, height / np.where(slope > 0, slope, 1), 0)
    best = np.clip(np.nan_to_num(end - back), begin, end)
    return np.asarray(np.rint(best)).astype(np.int64)
