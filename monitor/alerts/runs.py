"""Runs: stretches of consecutive observations of a parcel that show the same."""

from dataclasses import dataclass

import numpy as np

from monitor.alerts.neighbours import Bools, Days, Ints


@dataclass(frozen=True)
class Runs:
    """One run of each of P parcels, arrays (P,): first and last day (NaT where there is none), observations."""

    first: Days
    last: Days
    n: Ints

    @property
    def days(self) -> Ints:
        """Return from the first to the last observation, both counted; 0 where there is none."""
        return np.where(self.n > 0, (self.last - self.first).astype(np.int64) + 1, 0)


def longest_runs(parcel: Ints, days: Days, which: Bools, n_parcels: int, longest_gap: int | None = None) -> Runs:
    """Return each parcel's longest run of observations under a mask; of equal ones the first.

    Args:
        parcel: (N,) place of the parcel, ascending.
        days: (N,) ascending in each parcel.
        which: (N,) one that is not under the mask ends a run.
        n_parcels: P.
        longest_gap: days; those farther apart are of different runs.
    """
    (first, last), n = np.full((2, n_parcels), np.datetime64("NaT", "D")), np.zeros(n_parcels, np.int64)
    if not len(parcel):
        return Runs(first, last, n)
    is_new = np.r_[True, (np.diff(parcel) != 0) | (np.diff(which.astype(np.int8)) != 0)]
    if longest_gap is not None:
        is_new[1:] |= np.diff(days) > np.timedelta64(longest_gap, "D")
    begin = np.flatnonzero(is_new)
    end = np.r_[begin[1:], len(parcel)] - 1
    kept = which[begin]
    begin, end = begin[kept], end[kept]
    # The longest is assigned last; of equal ones the first.
    order = np.lexsort((-begin, days[end] - days[begin]))
    begin, end = begin[order], end[order]
    of = parcel[begin]
    first[of], last[of], n[of] = days[begin], days[end], end - begin + 1
    return Runs(first, last, n)
