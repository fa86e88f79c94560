"""Steps in a radar series: the mean over some days against that over others, orbit by orbit.

    step_o(d) = mean x_o in the days of one span from d - mean x_o in those of another
    step = sum_o w_o step_o / sum_o w_o        w_o = n_one n_other / (n_one + n_other)
    z    = step sqrt(sum_o w_o) / s            s: noise, from differences of neighbouring passes of an orbit

An orbit is compared with itself alone: levels of two orbits differ by their incidence angle, steps do not.
Shapes: (P, D) bins of some days from a first one; what is a day here is a bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.alerts.neighbours import Ints
from monitor.markers.form import Floats

Span = tuple[int, int]
"""First day from d on, and the one behind the last."""


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


def steps(of: Series, shape: tuple[int, int], one: Span, others: Sequence[Span], floor: float) -> list[Steps]:
    """Return the steps of P parcels on D days from each of other spans to one; noise is at least `floor`."""
    total, weight = np.zeros((2, len(others), *shape))
    cell = of.parcel * shape[1] + of.day
    for slot in range(int(of.slot.max(initial=-1)) + 1):
        mine = of.slot == slot
        n = _sums(np.bincount(cell[mine], minlength=shape[0] * shape[1]).reshape(shape))
        x = _sums(np.bincount(cell[mine], weights=of.value[mine], minlength=shape[0] * shape[1]).reshape(shape))
        n_one = _over(n, one)
        mean_one = _over(x, one) / np.maximum(n_one, 1)
        for nr, other in enumerate(others):
            n_other = _over(n, other)
            w = n_other * n_one / np.maximum(n_other + n_one, 1)
            total[nr] += w * (mean_one - _over(x, other) / np.maximum(n_other, 1))
            weight[nr] += w
    sd = np.maximum(_noise(of, shape[0]), floor)[:, None]
    size = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    z = total / np.sqrt(np.where(weight > 0, weight, 1)) / sd
    return [Steps(*both) for both in zip(size, z, strict=True)]


def _sums(of: Floats | Ints) -> Floats:
    """Return (P, D + 1) the sums of all columns before each."""
    sums = np.zeros((len(of), of.shape[1] + 1))
    np.cumsum(of, axis=1, out=sums[:, 1:])
    return sums


def _over(sums: Floats, span: Span) -> Floats:
    """Return (P, D) the sums of the columns d + first to d + end - 1 of a span."""
    return _moved(sums, span[1]) - _moved(sums, span[0])


def _moved(sums: Floats, by: int) -> Floats:
    """Return (P, D) the sums up to each column moved by some, the first or last one beyond the edge."""
    n_days = sums.shape[1] - 1
    out = np.empty((len(sums), n_days))
    by = max(-n_days, min(by, n_days))
    if by >= 0:
        out[:, : n_days - by], out[:, n_days - by :] = sums[:, by:n_days], sums[:, -1:]
    else:
        out[:, -by:], out[:, :-by] = sums[:, : n_days + by], sums[:, :1]
    return out


def _noise(of: Series, n_parcels: int) -> Floats:
    """Return (P,) the sd of a value, from the median difference of neighbouring passes; 0 where there are too few."""
    same = (of.parcel[1:] == of.parcel[:-1]) & (of.slot[1:] == of.slot[:-1])
    off, parcel = np.abs(np.diff(of.value))[same], of.parcel[1:][same]
    order = np.lexsort((off, parcel))
    n = np.bincount(parcel, minlength=n_parcels)
    middle = np.cumsum(n) - n + n // 2
    found = np.append(off[order], 0.0)[np.minimum(middle, len(off))]
    return np.asarray(np.where(n >= 5, 1.4826 / np.sqrt(2) * found, 0.0))
