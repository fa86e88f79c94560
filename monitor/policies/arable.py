"""Obligations on the harvest and the tillage of arable land, from the markers of field work.

    harvested    red: radar shows it before the window, too; or the crop is seen standing after the deadline, `confirm_days` apart
    tilled       yellow at most: green throughout the window; tillage is missed too
    not_tilled   red: both sensors saw it, in the window for certain

What may lie in the window counts as in it. A field that is green after the deadline can bear another crop, sown where clouds hid the
harvest: it is the declared one's stand for certain only where views follow each other closely, all green, since it was greenest.
Source: monitor/markers; docs/field-work.md says how often they are right.
Shapes: P parcels, K views of the parcel that has most.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.evidence import NOT_ASKED
from monitor.alerts.neighbours import VEGETATION_NDVI, Bools
from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, RED, YELLOW, Case, Decisions, agreeing, unseen
from monitor.alerts.runs import Runs, longest_runs
from monitor.markers import harvest, tillage
from monitor.markers.field_work import NOT_ARABLE, FieldWork
from monitor.markers.form import NOT_EXECUTED as DOES_NOT_APPLY
from monitor.markers.form import OK, Marked
from monitor.markers.stand import NONE, Course, dates
from monitor.policies.known import Known, deadline, first_of, lies, may_lie, named, still_open, window
from monitor.policies.policy import Obligation

SURE_HARVEST: Final = harvest.CONFIDENT[1]
"""Confidence at which a harvest is red: radar confirms what clear views show."""
SURE_TILLAGE: Final = 1 - (1 - tillage.RADAR_ALONE) * (1 - tillage.OPTICAL_ALONE) - 1e-6
"""Confidence at which tillage is red: both sensors saw it, radar the whole step."""
CLOSE_DAYS: Final = 20
"""Views no farther apart are of one stand: sown after a harvest nothing is green again so soon (chosen: mustard takes four weeks)."""


def harvested(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether the crop left the field in the window."""
    views, work, last = known.views, known.field_work, deadline(obligation)
    begin, events = np.datetime64(obligation.begin), work.harvest.events
    early, confidence = first_of(events, np.asarray(events.end < begin), views.n_parcels)
    _, confidence_late = first_of(events, np.asarray(events.begin > last), views.n_parcels)
    late, of_one_stand = _standing_after(work, last)
    is_sure = (confidence_late >= SURE_HARVEST) & (of_one_stand.n == late.n) & (late.n > 0)
    is_sure |= of_one_stand.days > obligation.confirm_days
    seen = np.asarray(views.days >= begin)

    def evidence(parcel: int) -> Mapping[str, Any]:
        thresholds = {
            "green_lost_below": round(float(work.stands.level[parcel]), 3),
            "grace_days": obligation.grace_days,
        }
        return {
            **named(obligation),
            "events": events.of(parcel),
            "clear_views": views.shown(parcel, seen),
            "thresholds": thresholds,
        }

    def of_early(parcel: int) -> float:
        return float(confidence[parcel])

    cases = [
        _not_arable(work.harvest),
        Case(may_lie(events, begin, last, views.n_parcels) > 0, GREEN, evidence),
        Case(confidence >= SURE_HARVEST, RED, evidence, of_early),
        Case(confidence > 0, YELLOW, evidence, of_early),
        Case(~(known.today > last), NOT_VALID, still_open(obligation)),
        Case(is_sure, RED, evidence, agreeing(of_one_stand.n)),
        Case(late.n > 0, YELLOW, evidence, agreeing(late.n)),
        Case(late.n >= 0, NOT_VALID, unseen(f"neither the harvest nor the crop standing after {last} was seen")),
    ]
    return Decisions(obligation.name, cases, np.where(confidence > 0, early, late.first))


def _standing_after(work: FieldWork, last: np.datetime64) -> tuple[Runs, Runs]:
    """Return green views after a day of stands from before it, and those that no gap and no low view parts from the stand.

    A stand lasts from the last view without vegetation before its peak to its fall, so that a crop that still grows keeps its first day.
    """
    course, stands = work.course, work.stands
    column, peak, day = np.arange(course.day.shape[1]), stands.peak[:, None], course.day
    is_low = (course.ndvi < VEGETATION_NDVI) & (column < peak)
    begin = np.where(is_low.any(axis=1), len(column) - is_low[:, ::-1].argmax(axis=1), 0)[:, None]
    end = np.where(stands.fallen == NONE, course.n, stands.fallen)[:, None]
    stood = (peak != NONE) & (column >= begin) & (column < end)
    is_before = stood & (day <= last.astype("M8[D]").astype(np.int64))
    is_green = course.ndvi >= stands.level[:, None]
    after = stood & is_green & ~is_before & is_before.any(axis=1)[:, None]
    greenest = np.where(is_before, course.ndvi, -1).argmax(axis=1)[:, None]
    is_parted = ~is_green  # one view is no harvest, yet it can be all that was seen of one
    is_parted[:, 1:] |= np.diff(day, axis=1) > CLOSE_DAYS
    is_parted &= column > greenest
    return _run(course, after), _run(course, after & ~np.logical_or.accumulate(is_parted, axis=1))


def _run(course: Course, which: Bools) -> Runs:
    """Return from when to when views under a mask (P, K) were, and how many."""
    n, first, last = which.sum(axis=1), which.argmax(axis=1), which.shape[1] - 1 - which[:, ::-1].argmax(axis=1)
    days = (dates(np.where(n > 0, course.days_at(one), 0)) for one in (first, last))
    since, until = (np.where(n > 0, one, np.datetime64("NaT", "D")) for one in days)
    return Runs(since, until, n)


def tilled(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether the soil was tilled in the window."""
    views, marked, last = known.views, known.field_work.tillage, deadline(obligation)
    begin, close = np.datetime64(obligation.begin), np.timedelta64(CLOSE_DAYS, "D")
    inside = np.asarray((views.days >= begin) & (views.days <= last))
    green = views.ndvi[inside] >= VEGETATION_NDVI
    cover = longest_runs(views.parcel[inside], views.days[inside], green, views.n_parcels, CLOSE_DAYS)
    is_throughout = (cover.n == views.count(inside)) & (cover.first <= begin + close) & (cover.last >= last - close)
    evidence = _of_tillage(obligation, known)
    cases = [
        _not_arable(marked),
        Case(may_lie(marked.events, begin, last, views.n_parcels) > 0, GREEN, evidence),
        Case(~(known.today > last), NOT_VALID, still_open(obligation)),
        Case(is_throughout, YELLOW, evidence, agreeing(cover.n)),
        Case(cover.n >= 0, NOT_VALID, unseen("neither tillage nor a cover that lasted through the window was seen")),
    ]
    return Decisions(obligation.name, cases, np.full(views.n_parcels, np.datetime64(obligation.until)))


def not_tilled(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether the soil was tilled in the window in which it must not be."""
    views, marked = known.views, known.field_work.tillage
    first, confidence = first_of(marked.events, lies(obligation, marked.events), views.n_parcels)
    is_seen, evidence = views.count(window(obligation, views)) > 0, _of_tillage(obligation, known)

    def certainty(parcel: int) -> float:
        return float(confidence[parcel])

    cases = [
        _not_arable(marked),
        Case(confidence >= SURE_TILLAGE, RED, evidence, certainty),
        Case(confidence > 0, YELLOW, evidence, certainty),
        Case(~is_seen, NOT_VALID, unseen(f"no clear view since {obligation.begin}")),
        Case(marked.status != OK, NOT_VALID, unseen("too little is seen to say whether it was tilled")),
        Case(confidence == 0, GREEN, evidence),
    ]
    return Decisions(obligation.name, cases, first)


def _of_tillage(obligation: Obligation, known: Known) -> Callable[[int], Mapping[str, Any]]:
    """Return the evidence of a parcel, given its place."""
    views, events, inside = known.views, known.field_work.tillage.events, window(obligation, known.views)
    return lambda parcel: {**named(obligation), "events": events.of(parcel), "clear_views": views.shown(parcel, inside)}


def _not_arable(marked: Marked) -> Case:
    return Case(marked.status == DOES_NOT_APPLY, NOT_EXECUTED, lambda _: {"reason": NOT_ARABLE, **NOT_ASKED})
