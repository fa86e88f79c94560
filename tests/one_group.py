"""How the parcels of one region and crop stand, from their clear views at once: what the leader's computation is held to."""

from datetime import date

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Neighbours, by_day, n_days, stands_by_day
from monitor.alerts.settings import RuleSettings


def neighbours_of(
    parcel: NDArray[np.int64],
    days: NDArray[np.datetime64],
    ndvi: NDArray[np.float32],
    first: date,
    last: date,
    settings: RuleSettings,
) -> Neighbours:
    """Return how parcels stand day by day, from clear views (N,) in any order."""
    keys, index = np.unique(parcel, return_inverse=True)
    views = by_day(
        index, (days - np.datetime64(first)).astype("m8[D]").astype(np.int64), ndvi, len(keys), n_days(first, last)
    )
    of_one_group, n = np.zeros(len(keys), np.int64), np.array([len(keys)])
    share, median = stands_by_day(views, of_one_group, n, 0, settings)
    return Neighbours(len(keys), first, share[0], median[0])
