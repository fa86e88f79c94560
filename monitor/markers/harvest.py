"""Harvest of the declared crop: its green is lost behind the peak, on two clear views, not before the crop's earliest date.

    cut green (maize, beets)     begin: last view with green, end: first without it
    ripe before (cereals, rape)  green is lost first; the harvest follows after the crop's lag: begin: last view with green,
                                 end: first view without it and the longest lag; best: loss of green and the usual lag

Radar confirms: VH against VV moves by more than its noise, or coherence rises, between the passes before and after. It makes no event.
A loss before the crop's earliest date is none (`early_loss` says that), nor is one that a single view shows.
Source: markers of Sen4CAP L4C (loss of vegetation, backscatter, coherence; earliest harvest date per crop); lags: crop_calendar.
Shapes: P parcels; E events.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.markers.crop_calendar import Calendars
from monitor.markers.form import (
    BACKSCATTER,
    COHERENCE,
    NOT_EXECUTED,
    NOT_VALID,
    OK,
    OPTICAL,
    Events,
    Floats,
    Marked,
    RadarViews,
)
from monitor.markers.stand import NONE, Course, Stands, crossing, dates
from monitor.markers.two_sides import changed

VERSION: Final = "1"
SHARP_DAYS: Final = 12
"""A crop whose lag is not known was cut green where it loses its green within so many days: two revisits."""
SHARP_SHARE: Final = 0.6
"""From this share of its amplitude."""
CONFIDENT: Final = (0.7, 0.85, 0.95)
"""Confidence of a harvest that clear views show, that backscatter confirms, that coherence confirms (chosen)."""
RADAR_DAYS: Final = 18
"""Days before and after whose passes are compared: three of an orbit."""
LEAST_VIEWS: Final = 3


def harvest(course: Course, of: Calendars, stands: Stands, today: Ints, radar: RadarViews | None = None) -> Marked:
    """Return when the declared crop left the field on P parcels; the value is 1 where it has, 0 where it stands.

    Args:
        course: clear views.
        of: the crops' calendars.
        stands: of `course`.
        today: (P,) days since 1970 until which each parcel is known.
        radar: None where there is none.
    """
    fallen = stands.fallen
    loss = np.where(fallen == NONE, -1.0, crossing(course, np.maximum(fallen - 1, 0), stands.level))
    lag = np.where((of.is_known | _is_sharp(course, stands))[:, None], of.lag, np.array(_UNKNOWN_LAG))
    earliest = np.asarray(of.leaves_from, "M8[D]").astype(np.int64)
    best = np.rint(loss).astype(np.int64) + lag[:, 1]
    is_harvest = (fallen != NONE) & stands.is_confirmed & (best >= earliest) & (today >= best)
    status = np.where((course.n >= LEAST_VIEWS) & (stands.peak != NONE), OK, NOT_VALID)
    status[~of.is_arable] = NOT_EXECUTED
    some = np.flatnonzero(is_harvest & (status == OK))
    last_green, first_low = course.days_at(np.maximum(fallen - 1, 0))[some], course.days_at(fallen)[some]
    end = first_low + lag[some, 2]
    # Cut green it happened between two views, of which neither is more likely than the other.
    middle = np.where(lag[some, 1] == 0, (last_green + first_low + 1) // 2, best[some])
    seen_by, confidence_of = _seen_by(radar, some, last_green, end, len(course.n))
    events = Events(some, dates(last_green), dates(end), dates(middle), confidence_of, seen_by)
    confidence = np.where(status == OK, 0.9, np.nan)
    confidence[(fallen != NONE) & (status == OK)] = 0.5
    confidence[some] = confidence_of
    value = np.where(status == OK, is_harvest.astype(np.float64), np.nan)

    def evidence(parcel: int) -> Mapping[str, Any]:
        at = int(fallen[parcel]) if fallen[parcel] != NONE else int(course.n[parcel]) - 1
        return {
            "clear_views": course.shown(parcel, at - 2, at + 2),
            "events": events.of(parcel),
            "thresholds": {"green_lost_below": round(float(stands.level[parcel]), 3), "lag_days": lag[parcel].tolist()},
        }

    return Marked("harvest", VERSION, status, value, confidence, events, evidence)


_UNKNOWN_LAG: Final = (1, 8, 21)
"""As of cereals, where a crop that is not known loses its green slowly."""


def _is_sharp(course: Course, stands: Stands) -> Bools:
    """Return (P,) whether green is lost within two revisits."""
    high = stands.base + SHARP_SHARE * (course.ndvi_at(stands.peak) - stands.base)
    column = np.arange(course.day.shape[1])
    is_high = (course.ndvi >= high[:, None]) & (column < stands.fallen[:, None])
    last = np.where(is_high.any(axis=1), len(column) - 1 - is_high[:, ::-1].argmax(axis=1), NONE)
    return np.asarray((last != NONE) & (course.days_at(stands.fallen) - course.days_at(last) <= SHARP_DAYS))


def _seen_by(radar: RadarViews | None, some: Ints, begin: Ints, end: Ints, n_parcels: int) -> tuple[Ints, Floats]:
    """Return (E,) the sensors that saw each harvest, and its confidence."""
    if radar is None or not len(radar.parcel) or not len(some):
        return np.full(len(some), OPTICAL), np.full(len(some), CONFIDENT[0])
    ratio = np.abs(changed(radar, radar.vh_db - radar.vv_db, some, (begin, end), n_parcels, RADAR_DAYS)) >= _Z
    rises = changed(radar, radar.coherence_vv, some, (begin, end), n_parcels, RADAR_DAYS) >= _Z
    confidence = np.select([rises, ratio], [CONFIDENT[2], CONFIDENT[1]], CONFIDENT[0])
    return OPTICAL + BACKSCATTER * ratio + COHERENCE * rises, confidence


_Z: Final = 2.0
"""Sd of its noise by which a mean of passes moves: one in twenty by chance."""


def expected_harvest(harvested_on: Days, group: Ints, n_groups: int, least: int = 8) -> tuple[Days, Ints]:
    """Return of G groups the day by which half of the parcels were harvested, and the days left to it of the later half: (G,) and (G,).

    Serves whoever must come before the harvest: of neighbours that are harvested, those behind follow within the spread.

    Args:
        harvested_on: (P,) most likely days of harvest; NaT where a crop still stands.
        group: (P,) place of the group (region and crop) of each.
        n_groups: G.
        least: parcels of a group that must be harvested; NaT and 0 with fewer.
    """
    day = np.where(np.isnat(harvested_on), np.iinfo(np.int64).max, harvested_on.astype("M8[D]").astype(np.int64))
    order = np.lexsort((day, group))
    n = np.bincount(group, minlength=n_groups)
    n_harvested = np.bincount(group[~np.isnat(harvested_on)], minlength=n_groups)
    begins = np.cumsum(n) - n
    sorted_day = np.append(day[order], np.iinfo(np.int64).max)

    def at(share: float) -> Ints:
        place = begins + np.rint(share * np.maximum(n - 1, 0)).astype(np.int64)
        return np.asarray(sorted_day[np.minimum(place, len(day))])

    is_known = (n_harvested >= least) & (2 * n_harvested > n)
    half, late = at(0.5), at(0.9)
    spread = np.where(is_known & (late < np.iinfo(np.int64).max), late - half, 0)
    return np.where(is_known, dates(np.where(is_known, half, 0)), np.datetime64("NaT", "D")), spread
