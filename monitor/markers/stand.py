"""The stand of the declared crop in a season's clear views: where it rose from bare soil, was greenest and lost its green.

    peak    greenest view in the crop's time        rise   last view before it below base + 0.08 (bare soil), and the one behind it
    base    lowest view before the peak             fall   first of two views in a row behind it below max(0.35, base + (peak - base) / 4)

A rise counts where the base is bare soil; until the crop's time has come, the newest view stands for the peak.
Source: vegetation above NDVI 0.35 (Sen4CAP L4C); 25 % of the amplitude (FAO ASIS); the rest ours, as said beside each constant.
Shapes: P parcels, K views of the parcel that has most.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Days, Ints
from monitor.alerts.rules import LOSS_NDVI, ClearViews
from monitor.markers.clear_views import ordered, thinned, without_leaks
from monitor.markers.crop_calendar import Calendars
from monitor.markers.form import Floats

GREEN_NDVI: Final = 0.5
"""A crop's stand reaches it: above half cover (as `RuleSettings.loss_from_ndvi`)."""
GROWTH: Final = 0.05
"""NDVI a day that no crop exceeds (Sen4CAP L4B); a view that a later one overtakes faster was hidden cloud."""
RISE_NDVI: Final = 0.08
"""Above bare soil: three times the noise of a view (0.025)."""
FALLEN_SHARE: Final = 0.25
"""Share of the amplitude that is left when the season ends (FAO ASIS)."""
NONE: Final = -1
_FAR: Final = 1 << 30


@dataclass(frozen=True)
class Course:
    """Clear views of P parcels as a table, leaks left out and dense ones thinned."""

    day: Ints
    """(P, K) days since 1970, far in the future where there is no view."""
    ndvi: Floats
    """(P, K) NaN where there is none."""
    n: Ints
    """(P,)"""

    @classmethod
    def of(cls, views: ClearViews) -> "Course":
        """Return the views as a table."""
        seen = without_leaks(thinned(ordered(views.parcel, views.days, views.ndvi, views.n_parcels)), GROWTH)
        n = np.bincount(seen.parcel, minlength=views.n_parcels)
        shape = views.n_parcels, int(n.max(initial=0)) + 2  # so that there is a next one of each, and NONE is no view
        column = np.arange(len(seen.parcel)) - (np.cumsum(n) - n)[seen.parcel]
        day, ndvi = np.full(shape, _FAR), np.full(shape, np.nan)
        day[seen.parcel, column], ndvi[seen.parcel, column] = seen.day, seen.ndvi
        return cls(day, ndvi, n)

    @cached_property
    def newest(self) -> Ints:
        """Return (P,) the day of the newest view, far in the past where there is none."""
        return np.where(self.n > 0, self.days_at(self.n - 1), -_FAR)

    def days_at(self, column: Ints) -> Ints:
        """Return (P,) days of views; those of no view (`NONE`) are far in the future."""
        return np.asarray(self.day[np.arange(len(self.n)), column])

    def ndvi_at(self, column: Ints) -> Floats:
        """Return (P,) NDVI of views, NaN for no view."""
        return np.asarray(self.ndvi[np.arange(len(self.n)), column])

    def shown(self, parcel: int, first: int, last: int) -> list[list[object]]:
        """Return a parcel's views from one column to another as evidence shows them: at most six, from the last back."""
        some = parcel, slice(max(first, last - 5, 0), min(last + 1, int(self.n[parcel])))
        days, ndvi = self.day[some].astype("M8[D]").tolist(), self.ndvi[some].tolist()
        return [[str(day), round(one, 3)] for day, one in zip(days, ndvi, strict=True)]


@dataclass(frozen=True)
class Stands:
    """The crops' stands, columns of a `Course` (P,), `NONE` where there is none."""

    peak: Ints
    """Greenest view of a stand in its time."""
    base: Floats
    """NDVI of the lowest view before it rose."""
    bare: Ints
    """Last view of bare soil before it rose."""
    risen: Ints
    """First view above it, from which on all views up to the peak are."""
    fallen: Ints
    """First view behind the peak that has lost the green; the one before it is the last that has it."""
    is_confirmed: Bools
    """(P,) whether the next view says the same of the fall."""
    level: Floats
    """(P,) NDVI below which the green is lost."""


def stands(course: Course, of: Calendars) -> Stands:
    """Return the stands of P parcels' declared crops."""
    column = np.arange(course.day.shape[1])
    first, last = (np.asarray(days, "M8[D]").astype(np.int64)[:, None] for days in (of.peaks_from, of.peaks_until))
    is_in_time = (course.day >= first) & (course.day <= last) & (course.ndvi >= GREEN_NDVI)
    peak = np.where(is_in_time, course.ndvi, -1).argmax(axis=1)
    peak[~is_in_time.any(axis=1)] = NONE
    # While the season runs the newest view stands for the peak.
    top = np.where((peak == NONE) & (course.newest <= last[:, 0]), course.n - 1, peak)
    since = course.day >= np.asarray(of.emerges_from, "M8[D]").astype(np.int64)[:, None]
    before = since & (column <= top[:, None])
    base = np.fmin.reduce(np.where(before, course.ndvi, np.inf), axis=1)
    is_bare = before & (course.ndvi < (base + RISE_NDVI)[:, None])
    bare = np.where(is_bare.any(axis=1), len(column) - 1 - is_bare[:, ::-1].argmax(axis=1), NONE)
    bare = np.where(base < LOSS_NDVI, bare, NONE)
    risen = np.where((bare != NONE) & (bare < top), bare + 1, NONE)
    top_ndvi = np.where(peak == NONE, np.nan, course.ndvi_at(peak))
    low = np.where(np.isfinite(base), np.minimum(base, LOSS_NDVI), LOSS_NDVI)
    level = np.fmax(VEGETATION_NDVI, low + FALLEN_SHARE * (top_ndvi - low))
    fallen, is_confirmed = _fall(course, peak, level)
    return Stands(peak, base, bare, risen, fallen, is_confirmed, level)


def _fall(course: Course, peak: Ints, level: Floats) -> tuple[Ints, Bools]:
    """Return (P,) the first of two views in a row behind the peak that lie below a level, else the newest view if that does."""
    column = np.arange(course.day.shape[1])
    is_low = (course.ndvi < level[:, None]) & (column > peak[:, None]) & (peak != NONE)[:, None]
    twice = is_low.copy()
    twice[:, :-1] &= is_low[:, 1:]
    twice[:, -1] = False
    once = is_low & (column == (course.n - 1)[:, None])
    both = twice | once
    fallen = np.where(both.any(axis=1), both.argmax(axis=1), NONE)
    return fallen, np.asarray(twice[np.arange(len(peak)), fallen] & (fallen != NONE))


def crossing(course: Course, before: Ints, level: Floats) -> Floats:
    """Return (P,) days on which NDVI crosses a level between a view and the next, on the line between both."""
    day, later = course.days_at(before).astype(np.float64), course.days_at(before + 1).astype(np.float64)
    one, other = course.ndvi_at(before), course.ndvi_at(before + 1)
    step = other - one
    share = np.clip((level - one) / np.where(step == 0, 1, step), 0, 1)
    return np.asarray(day + share * (later - day))


def dates(days: Ints) -> Days:
    """Return days since 1970 as dates."""
    return np.asarray(np.asarray(days).astype(np.int64).astype("M8[D]"))
