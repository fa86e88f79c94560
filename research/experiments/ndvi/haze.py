"""Dates on which the views of nearly all parcels are too low: haze or thin cloud that the mask let through.

    d_t = median over parcels of y_t - (line between the parcel's nearest views before and after t)

The date with the lowest d is taken out if it is below -0.05, and the others are checked again without it, until none is; so
two hazy dates in a row do not hide each other. Views alone decide: no network is asked, so no network's failures are excused.
Source: the despiking of series by their neighbours as in the BISE filter (Viovy et al. 1992), of whole dates in place of views.
Units:  days, NDVI.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.ndvi.inputs import ClearSeries, Floats, Ints

HAZE = -0.05
"""Median departure below which a date is called hazy (chosen because a median of a hundred crops on one line stays within 0.03)."""
REACH_DAYS = 30
"""Views farther away say nothing of a date: crops emerge and ripen in less."""
MIN_PARCELS = 20
"""Parcels with views on both sides that a date needs to be checked."""


def hazy_days(clear: ClearSeries) -> dict[int, float]:
    """Return each hazy day and its departure d, in the order in which they were found."""
    parcels, row = np.unique(clear.parcel, return_inverse=True)
    days, column = np.unique(np.floor(clear.day).astype(np.int64), return_inverse=True)
    ndvi = np.full((len(parcels), len(days)), np.nan)
    ndvi[row, column] = clear.ndvi
    found: dict[int, float] = {}
    while len(days):
        departure = departures(ndvi, days)
        worst = int(np.argmin(np.nan_to_num(departure, nan=np.inf)))
        if not departure[worst] < HAZE:
            break
        found[int(days[worst])] = float(departure[worst])
        ndvi, days = np.delete(ndvi, worst, axis=1), np.delete(days, worst)
    return found


def departures(ndvi: Floats, days: Ints) -> Floats:
    """Return (D,) d of each day of views (P, D), NaN where too few parcels were seen before and after."""
    before, after = _neighbour(ndvi), len(days) - 1 - _neighbour(ndvi[:, ::-1])[:, ::-1]
    has_both = np.isfinite(ndvi) & (before >= 0) & (after < len(days))
    first, last = np.clip(before, 0, None), np.clip(after, None, len(days) - 1)
    has_both &= (days - days[first] <= REACH_DAYS) & (days[last] - days <= REACH_DAYS)
    share = (days - days[first]) / np.maximum(days[last] - days[first], 1)
    y0, y1 = np.take_along_axis(ndvi, first, axis=1), np.take_along_axis(ndvi, last, axis=1)
    gap = np.where(has_both, ndvi - ((1 - share) * y0 + share * y1), np.nan)
    return np.array([np.median(own[ok]) if (ok := np.isfinite(own)).sum() >= MIN_PARCELS else np.nan for own in gap.T])


def _neighbour(ndvi: Floats) -> NDArray[np.int64]:
    """Return (P, D) the column of the last view before each, -1 where none."""
    column = np.where(np.isfinite(ndvi), np.arange(ndvi.shape[1]), -1)
    last = np.maximum.accumulate(column, axis=1)
    return np.concatenate([np.full((len(ndvi), 1), -1), last[:, :-1]], axis=1)
