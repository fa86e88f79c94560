"""Obligations on the use of grass, from the markers of mowing and grazing.

A cut that was not seen is no breach: `mown` is yellow at most, and only where a sward grew up and died back once.
Source: monitor/markers; docs/events.md says how often cuts are found.
Shapes: P parcels.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, Case, Decisions, unseen
from monitor.markers.form import OK
from monitor.markers.grazing import USES, grassland_use, grazing
from monitor.policies.known import Known, deadline, first_of, lies, may_lie, named, still_open, window
from monitor.policies.policy import Obligation

SURE_CUT: Final = 0.9
"""Confidence at which a cut is red: no single sensor's fall alone, or one that the next views confirm (chosen)."""


def mown(obligation: Obligation, known: Known, applies: Bools) -> Decisions:
    """Decide whether grass was used in the window or its days of grace."""
    views = known.views
    cuts = known.cuts
    grazed = grazing(views, cuts=cuts, applies=applies)
    begin, last = np.datetime64(obligation.begin), deadline(obligation)
    n_cuts, n_grazed = (may_lie(one.events, begin, last, views.n_parcels) for one in (cuts, grazed))
    inside = np.asarray((views.days >= begin) & (views.days <= last))
    is_unused = grassland_use(views, cuts, grazed) == USES.index("unmanaged")

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
        Case(~(known.today > last), NOT_VALID, still_open(obligation)),
        Case(is_unused, YELLOW, evidence, certainty),
        Case(n_cuts >= 0, NOT_VALID, unseen("neither use nor the lack of it was seen for certain")),
    ]
    return Decisions(obligation.name, cases, np.full(views.n_parcels, np.datetime64(obligation.until)))


def not_mown(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether grass was cut in the window."""
    views, cuts = known.views, known.cuts
    events, in_window = cuts.events, window(obligation, views)
    first, confidence = first_of(events, lies(obligation, events), views.n_parcels)

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
