"""Obligations on the use of grass, from the markers of mowing and grazing.

A cut that was not seen is no breach: `mown` is yellow at most, and only where a sward grew up and died back once.
Source: monitor/markers; docs/events.md says how often cuts are found.
Shapes: P parcels.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, Case, Decisions, unseen
from monitor.markers.form import OK, Events
from monitor.markers.grazing import USES, grassland_use, grazing
from monitor.policies.known import Known, named, still_open, window
from monitor.policies.policy import Obligation

SURE_CUT: Final = 0.9
"""Confidence at which a cut is red: no single sensor's fall alone, or one that the next views confirm (chosen)."""


def mown(obligation: Obligation, known: Known, applies: Bools) -> Decisions:
    """Decide whether grass was used in the window."""
    views, until = known.views, np.datetime64(obligation.until) + np.timedelta64(obligation.grace_days, "D")
    cuts = known.cuts
    grazed = grazing(views, cuts=cuts, applies=applies)
    n_cuts, n_grazed = (_within(obligation, one.events, views.n_parcels) for one in (cuts, grazed))
    inside, is_unused = window(obligation, views), grassland_use(views, cuts, grazed) == USES.index("unmanaged")

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            **named(obligation),
            "cuts": cuts.events.of(parcel),
            "grazing": grazed.events.of(parcel),
            "clear_views": views.shown(parcel, inside),
        }

    def certainty(parcel: int) -> float:
        return float(np.nan_to_num(cuts.confidence[parcel]))

    cases = [
        Case(n_cuts + n_grazed > 0, GREEN, evidence, certainty),
        Case(~(known.today > until), NOT_VALID, still_open(obligation)),
        Case(is_unused, YELLOW, evidence, certainty),
        Case(n_cuts >= 0, NOT_VALID, unseen("neither use nor the lack of it was seen for certain")),
    ]
    return Decisions(obligation.name, cases, np.full(views.n_parcels, np.datetime64(obligation.until)))


def not_mown(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether grass was cut in the window."""
    views, cuts = known.views, known.cuts
    events, confidence = cuts.events, np.zeros(views.n_parcels)
    in_window, inside = window(obligation, views), _inside(obligation, events)
    first = np.full(views.n_parcels, np.datetime64("NaT", "D"))
    first[events.parcel[inside][::-1]] = events.end[inside][::-1]  # of equal indices the last assignment stays
    np.maximum.at(confidence, events.parcel[inside], events.confidence[inside])

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {**named(obligation), "cuts": events.of(parcel), "clear_views": views.shown(parcel, in_window)}

    def certainty(parcel: int) -> float:
        return float(confidence[parcel])

    cases = [
        Case(confidence >= SURE_CUT, RED, evidence, certainty),
        Case(confidence > 0, YELLOW, evidence, certainty),
        Case(cuts.status != OK, NOT_VALID, unseen("too few views to say whether it was cut")),
        Case(confidence == 0, GREEN, evidence),
    ]
    return Decisions(obligation.name, cases, first)


def _within(obligation: Obligation, events: Events, n_parcels: int) -> Ints:
    """Return (P,) events that may lie in the window."""
    may = (events.end >= np.datetime64(obligation.begin)) & (events.begin <= np.datetime64(obligation.until))
    return np.bincount(events.parcel[may], minlength=n_parcels)


def _inside(obligation: Obligation, events: Events) -> Bools:
    """Return (E,) which events lie in the window for certain."""
    return np.asarray(
        (events.begin >= np.datetime64(obligation.begin)) & (events.end <= np.datetime64(obligation.until))
    )
