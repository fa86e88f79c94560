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
from monitor.markers.clear_views import medians
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
    value: Ints
    """(N,) in ten-thousandths: whole, so that sums are exact in any order."""


@dataclass(frozen=True)
class Steps:
    """Steps at each day."""

    size: Floats
    """(P, D) NaN where one side is not seen."""
    z: Floats
    """(P, D) size in sd of what noise alone gives, 0 where one side is not seen."""


def series(parcel: Ints, day: Ints, orbit: Ints, value: Floats) -> Series:
    """Return values of -100 to 100 in order, without what is NaN."""
    seen = np.abs(value) <= 100
    if len(orbit) and (orbit.min() < 0 or orbit.max() >= 1 << 10):
        orbit = np.unique(orbit, return_inverse=True)[1]
    whole = np.rint(value[seen] * 1e4).astype(np.int64) + 1_000_000
    key = np.sort((parcel[seen] << 10 | orbit[seen]) << 15 + 21 | day[seen] << 21 | whole)
    parcel, day, whole = key >> 46, key >> 21 & (1 << 15) - 1, (key & (1 << 21) - 1) - 1_000_000
    is_new_parcel = np.append(True, parcel[1:] != parcel[:-1])[: len(parcel)]
    run = np.cumsum(np.append(True, np.diff(key >> 36) != 0)[: len(parcel)]) - 1
    return Series(parcel, day, run - np.maximum.accumulate(np.where(is_new_parcel, run, 0)), whole)


def steps(of: Series, shape: tuple[int, int], one: Span, others: Sequence[Span], floor: float) -> list[Steps]:
    """Return the steps of P parcels on D days from each of other spans to one; noise is at least `floor`."""
    total, weight = _weighed(of, shape, one, others)
    sd = np.maximum(_noise(of, shape[0]), floor)[:, None]
    z = total / np.sqrt(np.where(weight > 0, weight, 1)) / sd
    return [Steps(*both) for both in zip(_mean(total, weight), z, strict=True)]


def step_sizes(of: Series, shape: tuple[int, int], one: Span, other: Span) -> Floats:
    """Return the sizes alone (P, D) of the steps from another span to one."""
    (size,) = _mean(*_weighed(of, shape, one, [other]))
    return size


def _mean(total: Floats, weight: Floats) -> list[Floats]:
    return list(np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan))


def _weighed(of: Series, shape: tuple[int, int], one: Span, others: Sequence[Span]) -> tuple[Floats, Floats]:
    """Return sum_o w_o step_o and sum_o w_o from each of other spans to one, (S, P, D)."""
    n_slots = int(of.slot.max(initial=-1)) + 1
    cell = (of.slot * shape[0] + of.parcel) * shape[1] + of.day
    n, x = (
        _sums(np.bincount(cell, weights=weights, minlength=n_slots * shape[0] * shape[1]).reshape(n_slots, *shape))
        for weights in (None, of.value)
    )
    total, weight = np.zeros((2, len(others), *shape))
    n_one, x_one = _over(n, one), _over(x, one)
    for nr, other in enumerate(others):
        n_other, x_other = _over(n, other), _over(x, other)
        share = 1 / np.maximum(n_one + n_other, 1)
        total[nr] = ((x_one * n_other - x_other * n_one) * share).sum(axis=0)
        weight[nr] = (n_one * n_other * share).sum(axis=0)
    return total / 1e4, weight


def _sums(of: Floats | Ints) -> Floats:
    """Return (S, P, D + 1) the sums of all columns before each."""
    sums = np.zeros((*of.shape[:-1], of.shape[-1] + 1))
    np.cumsum(of, axis=-1, out=sums[..., 1:])
    return sums


def _over(sums: Floats, span: Span) -> Floats:
    """Return (S, P, D) the sums of the columns d + first to d + end - 1 of a span."""
    return _moved(sums, span[1]) - _moved(sums, span[0])


def _moved(sums: Floats, by: int) -> Floats:
    """Return (S, P, D) the sums up to each column moved by some, the first or last one beyond the edge."""
    n_days = sums.shape[-1] - 1
    out = np.empty((*sums.shape[:-1], n_days))
    by = max(-n_days, min(by, n_days))
    if by >= 0:
        out[..., : n_days - by], out[..., n_days - by :] = sums[..., by:n_days], sums[..., -1:]
    else:
        out[..., -by:], out[..., :-by] = sums[..., : n_days + by], sums[..., :1]
    return out


def _noise(of: Series, n_parcels: int) -> Floats:
    """Return (P,) the sd of a value, from the median difference of neighbouring passes; 0 where there are too few."""
    same = (of.parcel[1:] == of.parcel[:-1]) & (of.slot[1:] == of.slot[:-1])
    off = np.minimum(np.abs(np.diff(of.value))[same] / 1e4, 100)
    return np.asarray(np.nan_to_num(1.4826 / np.sqrt(2) * medians(off, of.parcel[1:][same], n_parcels, least=5)))
