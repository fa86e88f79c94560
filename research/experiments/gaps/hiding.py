"""Clear views hidden in artificial gaps: what a method is asked, and what it may use.

    view i is asked with all views |t_j - t_i| <= G / 2 hidden        retrospective
                     and all views  t_j > t_i                          causal

Source: the gaps of docs/LOG.md, so that figures compare; days are whole days.
Shapes: Q queries, one for each clear view of the parcels asked for; M views of a query.
Units:  days; NDVI dimensionless.
"""

from dataclasses import dataclass

import numpy as np

from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints
from research.experiments.gaps.filler import Mode, Views

GAPS_DAYS = (10, 20, 30, 60, 90)
"""The gaps of issue 4."""


@dataclass(frozen=True)
class HiddenViews:
    """Clear views as queries, with the views left to each."""

    parcel: Ints
    """(Q,)"""
    day: Ints
    """(Q,)"""
    ndvi: Floats
    """(Q,) what was hidden."""
    views: Views

    def rows(self, keep: Bools | Ints) -> "HiddenViews":
        """Return the chosen queries."""
        return HiddenViews(self.parcel[keep], self.day[keep], self.ndvi[keep], self.views.rows(keep))


def hide(clear: ClearSeries, gap_days: float, mode: Mode, asked: Bools | Ints | None = None) -> HiddenViews:
    """Return the views of cleaned series as queries, each with all views within half a gap hidden.

    Args:
        clear: of all parcels.
        gap_days: G, 0 hides the view alone.
        mode: causal also takes out all later views.
        asked: rows of `clear` to ask for; all where None.
    """
    rows = np.arange(len(clear.day)) if asked is None else np.arange(len(clear.day))[asked]
    parcel, day = clear.parcel[rows], np.floor(clear.day[rows]).astype(np.int64)
    views = known_views(clear, parcel, day, mode, gap_days)
    return HiddenViews(parcel, day, clear.ndvi[rows], views)


def known_views(clear: ClearSeries, parcel: Ints, day: Ints, mode: Mode, gap_days: float | None = None) -> Views:
    """Return the views of cleaned series that queries (parcel, day) may use, those within half a gap taken out (None: none)."""
    n_parcels = int(max(clear.parcel.max(initial=0), parcel.max(initial=0))) + 1
    all_days, all_ndvi = clear.padded(n_parcels)
    days, ndvi = np.floor(all_days)[parcel], all_ndvi[parcel]
    away = days - day[:, None]
    is_out = np.abs(away) <= gap_days / 2 if gap_days is not None else np.zeros(days.shape, dtype=bool)
    if mode == "causal":
        is_out |= away > 0
    days = np.where(is_out, np.nan, days)
    order = np.argsort(days, axis=1, kind="stable")  # NaN go last
    days, ndvi = np.take_along_axis(days, order, axis=1), np.take_along_axis(ndvi, order, axis=1)
    width = max(1, int(np.isfinite(days).sum(axis=1).max(initial=1)))
    return Views(days[:, :width], np.where(np.isnan(days), np.nan, ndvi)[:, :width])
