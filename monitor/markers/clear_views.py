"""Clear views put in order, without those that hidden cloud lowered.

    bound_k = max over later views m of (v_m - r (t_m - t_k))        a view below bound_k - margin is no sward

A sward does not grow faster than r a day: a view that a later one overtakes faster was cloud, haze or shadow that the mask missed.
Shapes: (N,) flat, in order of parcel and day.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.markers.form import Floats

REGROWTH: Final = 0.03
"""NDVI a day that no sward exceeds: regrown after about 20 days (Sinergise's mowing marker, 10,000 events) from a fall of 0.15 to 0.4 is
0.008 to 0.02. Sen4CAP L4B allows 0.05, which lets a dip of 0.2 between views 5 days apart pass."""
LEAK: Final = 0.06
"""NDVI below the bound: twice the noise of a clear view (0.02 to 0.03)."""
NOISE: Final = (0.02, 0.06)
"""Least and largest sd of a clear view: residual geometry and atmosphere of Sentinel-2 NDVI; above it the series is broken, not noisy."""
THIN_DAYS, THIN_VIEWS = 5, 3
"""Days and views from which on views are taken together: Sentinel-2 passes every 5 days, every 2 or 3 where orbits overlap."""
_APART: Final = 1 << 20
"""Days between two parcels on the common axis: more than any series lasts."""


@dataclass(frozen=True)
class OrderedViews:
    """Clear views in order of parcel and day, at most one a day of each."""

    parcel: Ints
    day: Ints
    """(N,) days since 1970."""
    ndvi: Floats
    n_parcels: int

    @property
    def axis(self) -> Ints:
        """Return (N,) ascending places on one axis on which parcels lie far apart."""
        return self.parcel * _APART + self.day

    def at_or_before(self, places: Ints, days: int) -> Ints:
        """Return the place of the last view until so many days after each of some views; that view itself where there is none."""
        return np.searchsorted(self.axis, self.axis[places] + days, side="right") - 1

    def at_or_after(self, places: Ints, days: int) -> Ints:
        """Return the place of the first view from so many days before each of some views on."""
        return np.searchsorted(self.axis, self.axis[places] - days, side="left")

    def only(self, which: Bools) -> "OrderedViews":
        """Return the views under a mask (N,)."""
        return OrderedViews(self.parcel[which], self.day[which], self.ndvi[which], self.n_parcels)


def ordered(parcel: Ints, days: Days, ndvi: Floats, n_parcels: int) -> OrderedViews:
    """Return views in order, the greener one of two on a day, without what is NaN; NDVI in whole ten-thousandths."""
    seen = np.isfinite(ndvi) & (np.abs(ndvi) <= 1) & ~np.isnat(days)
    value = np.rint(ndvi[seen] * 1e4).astype(np.int64) + 10_000
    key = np.sort(parcel[seen] * _APART + days[seen].astype("M8[D]").astype(np.int64) << 15 | value)
    axis = key >> 15
    is_last = np.append(axis[1:] != axis[:-1], True)[: len(axis)]
    axis, value = axis[is_last], (key[is_last] & (1 << 15) - 1) - 10_000
    return OrderedViews(axis // _APART, axis % _APART, value / 1e4, n_parcels)


def thinned(views: OrderedViews) -> OrderedViews:
    """Return views of which three or more within five days of the calendar are one: their median, on the middle one's day.

    Daily views of a small satellite are noisier than a cut is quick: of many pairs some fall by chance.
    """
    group = views.parcel * _APART + views.day // THIN_DAYS
    is_first = np.append(True, group[1:] != group[:-1])[: len(group)]
    first = np.flatnonzero(is_first)
    n = np.diff(np.append(first, len(group)))
    dense = first[n >= THIN_VIEWS]
    if not len(dense):
        return views
    size = n[n >= THIN_VIEWS]
    within = np.arange(THIN_DAYS)
    values = np.where(within < size[:, None], views.ndvi[np.minimum(dense[:, None] + within, len(group) - 1)], np.inf)
    values.sort(axis=1)
    row = np.arange(len(dense))
    ndvi = views.ndvi.copy()
    ndvi[dense + size // 2] = (values[row, (size - 1) // 2] + values[row, size // 2]) / 2
    kept = np.repeat(n < THIN_VIEWS, n)
    kept[dense + size // 2] = True
    return OrderedViews(views.parcel, views.day, ndvi, views.n_parcels).only(kept)


def without_leaks(views: OrderedViews, regrowth: float = REGROWTH) -> OrderedViews:
    """Return the views that a sward can have shown, or another stand that grows by so much NDVI a day."""
    if not len(views.day):
        return views
    # In ten-thousandths, whole numbers: exact, so that a parcel's views do not depend on the others of the batch. A parcel's axis begins
    # 2^20 days behind the one before: no later parcel's view bounds an earlier one's.
    ndvi, slope = np.rint(views.ndvi * 1e4).astype(np.int64), round(regrowth * 1e4)
    bound = np.maximum.accumulate((ndvi - slope * views.axis)[::-1])[::-1] + slope * views.axis
    return views.only(ndvi >= bound - round(LEAK * 1e4))


def noise(views: OrderedViews) -> Floats:
    """Return (P,) the sd of a clear view: from how far views lie off the line between their neighbours of at most 12 days."""
    t, v, parcel = views.day.astype(np.float64), views.ndvi, views.parcel
    near = (parcel[2:] == parcel[:-2]) & (t[2:] - t[:-2] <= 24)
    span = np.where(near, t[2:] - t[:-2], 1)
    share = (t[1:-1] - t[:-2]) / span
    off = v[1:-1] - (1 - share) * v[:-2] - share * v[2:]
    scale = np.sqrt(1 + share**2 + (1 - share) ** 2)
    found = 1.4826 * medians(np.abs(off / scale)[near], parcel[1:-1][near], views.n_parcels, least=5)
    return np.asarray(np.clip(np.nan_to_num(found, nan=NOISE[0]), *NOISE))


def medians(values: Floats, parcel: Ints, n_parcels: int, least: int) -> Floats:
    """Return (P,) the medians of values of 0 to 100, NaN of fewer than `least`.

    Sorted as whole millionths behind the parcel's number: ten times as fast as by two keys.
    """
    key = np.sort(parcel << 27 | np.rint(values * 1e6).astype(np.int64))
    n = np.bincount(parcel, minlength=n_parcels)
    middle = np.append(key, 0)[np.minimum(np.cumsum(n) - n + n // 2, len(key))]
    return np.where(n >= least, (middle & (1 << 27) - 1) / 1e6, np.nan)
