"""Obligations on vegetation and bare soil, from clear views.

A run is a stretch of consecutive clear views that show the same. A departure is yellow at its first view and red once a view
`confirm_days` later is of the same run; one contrary view between them ends the run, so that a single leaked cloud makes none red.
What is yellow recovers with one contrary view and is over with a second (`monitor.alerts.recovery`).
What was once red stays so where growing again does not undo it (ploughed, late, left bare).
Source: Sen4CAP L4C (vegetation above NDVI 0.35, loss below 0.30, catch crop: 56 days above 0.325).
Shapes: P parcels with N clear views (`monitor.alerts.rules.ClearViews`).
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools
from monitor.alerts.recovery import departures
from monitor.alerts.rules import (
    GREEN,
    LOSS_NDVI,
    NOT_VALID,
    RED,
    YELLOW,
    Case,
    ClearViews,
    Decisions,
    agreeing,
    recovering,
    unseen,
)
from monitor.alerts.runs import Runs, longest_runs
from monitor.policies.known import Known, named, still_open, window
from monitor.policies.policy import Kind, Obligation

LEVEL: Final[Mapping[Kind, float]] = {
    "covered": LOSS_NDVI,
    "cover_days": 0.325,
    "established_by": VEGETATION_NDVI,
    "not_ploughed": LOSS_NDVI,
}
"""NDVI that an obligation goes by where it names none (Sen4CAP L4C)."""
GREEN_STAND_NDVI: Final = 0.50
"""A stand must have been this green before it can be lost: above half cover (as `RuleSettings.loss_from_ndvi`)."""
LONGEST_GAP_DAYS: Final = 40
"""Views farther apart are no one stretch of cover: a crop can be sown and lost between (chosen as a fast catch crop's time)."""
_DAY: Final = np.timedelta64(1, "D")


def _runs(views: ClearViews, which: Bools, inside: Bools, longest_gap: int | None = None) -> Runs:
    """Return each parcel's longest run of consecutive views `inside` (N,) that are under a mask (N,)."""
    return longest_runs(views.parcel[inside], views.days[inside], which[inside], views.n_parcels, longest_gap)


def _level(obligation: Obligation) -> float:
    return LEVEL[obligation.kind] if obligation.ndvi is None else obligation.ndvi


def covered(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether the soil was left bare in the window."""
    views = known.views
    inside = window(obligation, views)
    bare = inside & (views.ndvi < _level(obligation))
    return _of_bare_runs(obligation, views, inside, bare)


def not_ploughed(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether a stand that was green before was lost in the window."""
    views = known.views
    inside = window(obligation, views)
    is_green = views.ndvi >= GREEN_STAND_NDVI
    since = obligation.green_from or date.min
    is_since = is_green & (views.days >= np.datetime64(since))
    # Two green views before: one can be a neighbouring field's edge.
    was_green = (views.before(is_green) >= 2) & (views.before(is_since) >= 1)
    bare = inside & was_green & (views.ndvi < _level(obligation))
    decided = _of_bare_runs(obligation, views, inside, bare)
    has_been_green = (views.count(is_green) >= 2) & (views.count(is_since) >= 1)
    on = "on two days" if obligation.green_from is None else f"on two days, one of them since {since}"
    not_green = Case(~has_been_green, NOT_VALID, unseen(f"not yet seen green (NDVI {GREEN_STAND_NDVI} {on})"))
    return Decisions(obligation.name, [not_green, *decided.cases], decided.departed_on)


def _of_bare_runs(obligation: Obligation, views: ClearViews, inside: Bools, bare: Bools) -> Decisions:
    runs = _runs(views, bare, inside)
    departed = departures(views.parcel, views.days, bare, inside & ~bare, views.n_parcels)
    evidence, is_red = _evidence(obligation, views, inside), runs.days > obligation.confirm_days
    return Decisions(
        obligation.name,
        [
            Case(views.count(inside) == 0, NOT_VALID, unseen(f"no clear view since {obligation.begin}")),
            Case(is_red, RED, evidence, agreeing(runs.n)),
            recovering(departed, evidence),
            Case(departed.n > 0, YELLOW, evidence, agreeing(departed.n)),
            Case(runs.n >= 0, GREEN, evidence),
        ],
        np.where(is_red, runs.first, departed.first),
    )


def cover_days(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether a stretch of cover was seen, can still come, or cannot be any more."""
    views, today = known.views, known.today
    inside, needed = window(obligation, views), obligation.days
    begin, until = np.datetime64(obligation.begin), np.datetime64(obligation.until)
    vegetated = inside & (views.ndvi >= _level(obligation))
    seen = _runs(views, vegetated, inside, LONGEST_GAP_DAYS)
    bare = np.flatnonzero(inside & ~vegetated)
    # Days without a bare view: from one bare view to the next, from the window's begin, and to its end.
    parcel = np.r_[np.arange(views.n_parcels), views.parcel[bare], np.arange(views.n_parcels)]
    day = np.r_[np.full(views.n_parcels, begin - _DAY), views.days[bare], np.full(views.n_parcels, until + _DAY)]
    order = np.lexsort((day, parcel))
    parcel, day = parcel[order], day[order]
    free = (np.diff(day).astype(np.int64) - 1) * (np.diff(parcel) == 0)
    possible = np.zeros(views.n_parcels, np.int64)
    np.maximum.at(possible, parcel[1:], free)
    cannot, is_over = possible < needed, today > until
    # What makes it impossible: the first and the last bare view since a whole stretch would have had to begin.
    after = inside & ~vegetated & (views.days >= until - np.timedelta64(needed - 1, "D"))
    late = _runs(views, after, inside)
    departed_on = np.where(np.isnat(late.first), views.day(views.last(inside & ~vegetated)), late.first)
    evidence = _evidence(obligation, views, inside)

    def of_days(parcel: int) -> Mapping[str, Any]:
        return {
            **evidence(parcel),
            "days_needed": needed,
            "days_seen": int(seen.days[parcel]),
            "days_possible": int(possible[parcel]),
        }

    def open_yet(parcel: int) -> Mapping[str, Any]:
        return {**of_days(parcel), **still_open(obligation)(parcel)}

    def between(parcel: int) -> Mapping[str, Any]:
        said = f"{seen.days[parcel]} days of cover seen, up to {possible[parcel]} possible, {needed} asked"
        return {**of_days(parcel), **unseen(said)(parcel)}

    confirmed = cannot & (late.days > obligation.confirm_days)
    return Decisions(
        obligation.name,
        [
            Case(seen.days >= needed, GREEN, of_days),
            Case(confirmed, RED, of_days, agreeing(late.n)),
            Case(cannot, YELLOW, of_days, agreeing(late.n)),
            Case(~is_over, NOT_VALID, open_yet),
            Case(possible >= 0, NOT_VALID, between),
        ],
        departed_on,
    )


def established_by(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether vegetation came up by the deadline with its grace."""
    views, today = known.views, known.today
    deadline = np.datetime64(obligation.until) + np.timedelta64(obligation.grace_days, "D")
    since = np.asarray(views.days >= np.datetime64(obligation.begin))
    vegetated = since & (views.ndvi >= _level(obligation))
    first = views.day(views.first(vegetated))
    # Later views say nothing of when the crop came up: after its harvest the soil is bare again.
    telling = since & (views.before(vegetated) == 0)
    bare_later = telling & ~vegetated & (views.days > deadline)
    late = _runs(views, bare_later, telling)
    evidence = _evidence(obligation, views, telling)

    def unknown_since(parcel: int) -> Mapping[str, Any]:
        said = f"vegetation first seen on {first[parcel]}, no clear view between {deadline} and then: it may have come up in time"
        return unseen(said)(parcel)

    return Decisions(
        obligation.name,
        [
            Case(first <= deadline, GREEN, evidence),
            Case(~(today > deadline), NOT_VALID, still_open(obligation)),
            Case((late.n == 0) & ~np.isnat(first), NOT_VALID, unknown_since),
            Case(late.n == 0, NOT_VALID, unseen(f"no clear view of bare soil or of a crop around {deadline}")),
            Case(late.days > obligation.confirm_days, RED, evidence, agreeing(late.n)),
            Case(late.n >= 0, YELLOW, evidence, agreeing(late.n)),
        ],
        late.first,
    )


def _evidence(obligation: Obligation, views: ClearViews, inside: Bools) -> Callable[[int], Mapping[str, Any]]:
    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            **named(obligation),
            "clear_views": views.shown(parcel, inside),
            "threshold_ndvi": _level(obligation),
            "thresholds": {"confirm_days": obligation.confirm_days, "grace_days": obligation.grace_days},
        }

    return evidence
