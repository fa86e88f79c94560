"""Recovering: a departure does not end with the first view that contradicts it, but with the second in a row.

    departs     the last run of departing views, that no clear view as declared follows
    recovering  one view as declared follows it: yellow, whatever it was before
    over        two views as declared follow each other, of two acquisitions

What a view shows is found from the dated views that are known, never from an earlier verdict: how observations are shared out
among polls makes no difference. Views that show neither, as weeds between bare and green, are left out. A departure that comes
back after one contrary view begins anew: its date and its confirmation rest on its own views, so that a leaked cloud in June
and the soil after harvest are never one.
Source: ours; two views, because a single one is as often an error of the mask or of a field's edge as a loss of one view is.
Shapes: P parcels, N views, sorted by parcel and day, at most one a day of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.alerts.runs import Runs

RECOVERING: Final = "recovering"
"""In a departure's evidence: since when it recovers, and what ends it."""


@dataclass(frozen=True)
class Departures(Runs):
    """The last run of departing views of each of P parcels that is not over, arrays (P,)."""

    begin: Ints
    """Place of its first view among the N, -1 where there is none."""
    recovering_on: Days
    """The day of the view as declared that follows it, NaT where none does."""
    ended: Ints
    """Place of the last second view in a row as declared, -1 where there is none."""

    @property
    def is_recovering(self) -> Bools:
        """Return (P,) whether it recovers."""
        return ~np.isnat(self.recovering_on)

    def where(self, which: Bools, other: "Departures") -> "Departures":
        """Return these departures, those of others under a mask (P,)."""
        names = (one.name for one in fields(self))
        return Departures(**{name: np.where(which, getattr(other, name), getattr(self, name)) for name in names})

    def evidence(self, parcel: int) -> Mapping[str, Any]:
        """Return what the evidence of a parcel that recovers says of it."""
        return {RECOVERING: {"since": str(self.recovering_on[parcel]), "views_needed": 1}}


def departures(
    parcel: Ints, days: Days, departs: Bools, as_declared: Bools, n_parcels: int, at_least: int = 1
) -> Departures:
    """Return the departures that are not over.

    Args:
        parcel: (N,) place of the parcel, ascending.
        days: (N,) ascending in each parcel.
        departs: (N,) views that depart.
        as_declared: (N,) views that show a parcel as declared, none of them departing.
        n_parcels: P.
        at_least: departing views without a view as declared between them, fewer are no departure.
    """
    first, last, recovering_on = np.full((3, n_parcels), np.datetime64("NaT", "D"))
    begin, ended, n = np.full(n_parcels, -1), np.full(n_parcels, -1), np.zeros(n_parcels, np.int64)
    found = Departures(first, last, n, begin, recovering_on, ended)
    # Of most parcels no view departs, and nothing is looked for.
    may_depart = np.bincount(parcel[departs], minlength=n_parcels) > 0
    views = np.flatnonzero((departs | as_declared) & may_depart[parcel])
    if not len(views):
        return found
    of, is_declared = parcel[views], as_declared[views]
    is_first = np.r_[True, np.diff(of) != 0]
    second = np.flatnonzero(is_declared[1:] & is_declared[:-1] & ~is_first[1:]) + 1
    ended[of[second]] = views[second]  # of equal indices the last assignment stays, here and below
    starts = np.flatnonzero(is_first | np.r_[True, np.diff(is_declared.astype(np.int8)) != 0])
    ends = np.r_[starts[1:], len(views)] - 1
    counts = ~is_declared[starts] & (ends - starts + 1 >= at_least) & (views[starts] > ended[of[starts]])
    starts, ends = starts[counts], ends[counts]
    its = of[starts]
    begin[its], first[its], last[its] = views[starts], days[views[starts]], days[views[ends]]
    n[its] = ends - starts + 1
    follows = np.minimum(ends + 1, len(views) - 1)
    is_followed = is_declared[follows] & (of[follows] == its)
    recovering_on[its] = np.where(is_followed, days[views[follows]], np.datetime64("NaT"))
    return found
