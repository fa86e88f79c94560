"""A radar value before and after an event, orbit by orbit: one event a parcel.

    step = sum_o w_o (mean x_o after - mean x_o before) / sum_o w_o     w_o = n_before n_after / (n_before + n_after)
    z    = step sqrt(sum_o w_o) / s                                     s: sd of what neighbouring passes of an orbit differ by, over sqrt 2

As `radar_steps`, but only where something is known to have happened: the whole season need not be laid out by day.
Shapes: N passes, P parcels, E events.
"""

import numpy as np

from monitor.alerts.neighbours import Ints
from monitor.markers.clear_views import medians
from monitor.markers.form import Floats, RadarViews

_FEW: int = 3
"""Passes on each side with fewer of which nothing is compared."""


def changed(
    radar: RadarViews, value: Floats, parcels: Ints, between: tuple[Ints, Ints], n_parcels: int, days: int
) -> Floats:
    """Return (E,) by how many sd a value moves from the days before `between` to those after it; 0 where too little is seen.

    Args:
        radar: of P parcels.
        value: (N,) of the passes, NaN where there is none.
        parcels: (E,) parcels with an event, one each.
        between: (E,) and (E,) first and last day, since 1970, on which it may have happened.
        n_parcels: P.
        days: before and after.
    """
    place = np.full(n_parcels, -1)
    place[parcels] = np.arange(len(parcels))
    event, day = place[radar.parcel], radar.days.astype("M8[D]").astype(np.int64)
    first, last = (np.append(one, 0)[event] for one in between)
    some = np.flatnonzero((event >= 0) & np.isfinite(value) & (day > first - days) & (day < last + days))
    if not len(some):
        return np.zeros(len(parcels))
    event, day, x = event[some], day[some], value[some]
    first, last = first[some], last[some]
    orbits, orbit = np.unique(radar.orbit[some], return_inverse=True)
    cell = event * len(orbits) + orbit.astype(np.int64)
    n_cells = len(parcels) * len(orbits)
    n, mean = np.zeros((2, 2, n_cells))
    for nr, side in enumerate((day <= first, day >= last)):
        n[nr] = np.bincount(cell[side], minlength=n_cells)
        mean[nr] = np.bincount(cell[side], weights=x[side], minlength=n_cells) / np.maximum(n[nr], 1)
    weight = n[0] * n[1] / np.maximum(n[0] + n[1], 1)
    shape = len(parcels), len(orbits)
    total, weights = ((weight * (mean[1] - mean[0])).reshape(shape).sum(axis=1), weight.reshape(shape).sum(axis=1))
    z = total / np.sqrt(np.where(weights > 0, weights, 1)) / _noise(event, cell, day, x, len(parcels))
    seen = n.reshape(2, *shape).sum(axis=2).min(axis=0)
    return np.where(seen >= _FEW, z, 0.0)


def _noise(event: Ints, cell: Ints, day: Ints, x: Floats, n_events: int) -> Floats:
    """Return (E,) the sd of a value."""
    order = np.lexsort((day, cell))
    same = np.diff(cell[order]) == 0
    off = np.minimum(np.abs(np.diff(x[order]))[same], 50)
    sd = 1.4826 / np.sqrt(2) * medians(off, event[order][1:][same], n_events, least=5)
    return np.asarray(np.where(sd > 0, sd, np.inf))
