"""Steps in a radar series: the mean of the days after against the days before, orbit by orbit.

    step_o(d) = mean x_o in [d, d + after) - mean x_o in [d - before, d)
    step = sum_o w_o step_o / sum_o w_o        w_o = n_after n_before / (n_after + n_before)
    z    = step sqrt(sum_o w_o) / s            s: noise, from differences of neighbouring passes of an orbit

An orbit is compared with itself alone: levels of two orbits differ by their incidence angle, steps do not.
Shapes: (P, D) days from a first one.
"""

from dataclasses import dataclass

import numpy as np

from monitor.alerts.neighbours import Ints
from monitor.markers.form import Floats


@dataclass(frozen=True)
class Series:
    """Values of P parcels by orbit, in order of parcel, orbit and day, none of them NaN."""

    parcel: Ints
    day: Ints
    """(N,) columns of the grid."""
    slot: Ints
    """(N,) the orbit, counted 0, 1, ... within each parcel."""
    value: Floats


@dataclass(frozen=True)
class Steps:
    """Steps at each day."""

    size: Floats
    """(P, D) NaN where one side is not seen."""
    z: Floats
    """(P, D) size in sd of what noise alone gives, 0 where one side is not seen."""


def series(parcel: Ints, day: Ints, orbit: Ints, value: Floats) -> Series:
    """Return values in order, without what is NaN; of two values of an orbit on a day the mean's place is taken by the later row's."""
    seen = np.isfinite(value)
    parcel, day, orbit, value = parcel[seen], day[seen], orbit[seen], value[seen].astype(np.float64)
    order = np.lexsort((value, day, orbit, parcel))
    parcel, day, orbit, value = parcel[order], day[order], orbit[order], value[order]
    is_new_parcel = np.append(True, parcel[1:] != parcel[:-1])[: len(parcel)]
    is_new = is_new_parcel | np.append(True, orbit[1:] != orbit[:-1])[: len(parcel)]
    run = np.cumsum(is_new) - 1
    slot = run - np.maximum.accumulate(np.where(is_new_parcel, run, 0)) if len(run) else run
    return Series(parcel, day, slot, value)


def steps(of: Series, shape: tuple[int, int], before: int, after: int, floor: float) -> Steps:
    """Return the steps of P parcels on D days; noise is at least `floor`."""
    n_parcels, n_days = shape
    total, weight = np.zeros(shape), np.zeros(shape)
    for slot in range(int(of.slot.max(initial=-1)) + 1):
        mine = of.slot == slot
        cell = of.parcel[mine] * n_days + of.day[mine]
        n = np.bincount(cell, minlength=n_parcels * n_days).reshape(shape)
        x = np.bincount(cell, weights=of.value[mine], minlength=n_parcels * n_days).reshape(shape)
        n_before, n_after = _window(n, -before, 0), _window(n, 0, after)
        w = n_before * n_after / np.maximum(n_before + n_after, 1)
        step = _window(x, 0, after) / np.maximum(n_after, 1) - _window(x, -before, 0) / np.maximum(n_before, 1)
        total += w * step
        weight += w
    size = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    sd = np.maximum(_noise(of, n_parcels), floor)
    return Steps(size, np.nan_to_num(size) * np.sqrt(weight) / sd[:, None])


def _window(of: Floats | Ints, first: int, end: int) -> Floats:
    """Return (P, D) the sums of the columns d + first to d + end - 1."""
    n_days = of.shape[1]
    sums = np.zeros((len(of), n_days + 1))
    np.cumsum(of, axis=1, out=sums[:, 1:])
    low, high = (np.clip(np.arange(n_days) + edge, 0, n_days) for edge in (first, end))
    return sums[:, high] - sums[:, low]


def _noise(of: Series, n_parcels: int) -> Floats:
    """Return (P,) the sd of a value, from the median difference of neighbouring passes; 0 where there are too few."""
    same = (of.parcel[1:] == of.parcel[:-1]) & (of.slot[1:] == of.slot[:-1])
    off, parcel = np.abs(np.diff(of.value))[same], of.parcel[1:][same]
    order = np.lexsort((off, parcel))
    n = np.bincount(parcel, minlength=n_parcels)
    middle = np.cumsum(n) - n + n // 2
    found = np.append(off[order], 0.0)[np.minimum(middle, len(off))]
    return np.asarray(np.where(n >= 5, 1.4826 / np.sqrt(2) * found, 0.0))
