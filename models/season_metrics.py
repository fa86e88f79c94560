"""Measures of a season with their standard deviations, from a daily NDVI curve and its dates.

    base_before, base_after   mean of the days of the trough on each side: around its lowest day, within 20 % of the amplitude
    amplitude                 peak (mean of 21 days around the highest) - (base_before + base_after) / 2
    SOS, EOS                  days on which the curve passes base + share (peak - base) of its side
    rate                      0.6 (peak - base) / (days between 20 and 80 % of it), of the rise and of the fall
    integrals                 sum of the days SOS to EOS; the small one above the mean of the bases
    var(m) = g' C g           C_ij = s_i s_j e^(-|t_i - t_j| / 20)

Each measure is linearised in the curve's errors e at M days: a crossing of level l moves by (e_l - e_t) / slope, and what rests
on it with it. Troughs and peak are means because the lowest of many uncertain days is too low. The errors of two days are
correlated as the kriging between the views is (range 20 days).
Source: Jonsson and Eklundh 2004 (measures, 20 and 80 %); GUM (JCGM 100:2008), eq. 13 (propagation with correlated errors).
Shapes: P parcels on D days, NDVI and sd (P, D); K measures (P, K); M places of errors.
Units:  days of season; NDVI dimensionless; integrals NDVI days; rates NDVI a day.
Errors: none; a measure that the curve does not show is NaN.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.growing_cycles import growing_cycles
from models.ndvi.inputs import Bools, Floats, Ints
from models.phenology import NONE, OK, Phenologies

METRICS: Final = (
    "sos",
    "pos",
    "eos",
    "length",
    "amplitude",
    "base_before",
    "base_after",
    "base",
    "large_integral",
    "small_integral",
    "greening_rate",
    "senescence_rate",
    "n_cycles",
)
RANGE_DAYS: Final = 20.0
"""Days over which the curve's errors are correlated: the range of the kriging (models/ndvi/queries.py)."""
TROUGH_SHARE: Final = 0.2
"""Of the amplitude: days so near the lowest are its trough (the 20 % at which a rise begins, as for the rates)."""
STEADY_SHARE: Final = 0.1
"""Of the amplitude: a curve that falls by less in `PEAK_DAYS` has come down (chosen as half of the trough's share)."""
PEAK_DAYS: Final = 10
"""Days on each side of the highest whose mean is the peak (chosen as half the range: farther days would flatten it)."""
_SLOPE_DAYS: Final = 7
_PEAK_STEP: Final = 2
_CHERNOFF: Final = 0.296
"""By which the variance is less, so that the sd of the weighted days is 0.513 / 0.770 of what it would be on a parabola: the sd of
Chernoff's distribution (Groeneboom and Wellner 2001) over that of exp(-|t|^3 / 2); the width grows by the variance's third root."""
_TROUGH, _PEAK, _SEASON = 3, 3, 8
"""Places that stand for the days of a trough and of a season."""


@dataclass(frozen=True)
class SeasonMetrics:
    """Measures of P seasons in the order of `METRICS`."""

    value: Floats
    """(P, K) NaN where the curve does not show it, or not yet."""
    sd: Floats
    """(P, K) standard deviation, NaN likewise."""


@dataclass(frozen=True)
class _Side:
    """The rise of P curves that ends in the peak, or the fall backwards; places, values and what they depend on."""

    base: Floats
    trough: Floats
    """(P, _TROUGH) places whose mean error is the base's."""
    crossings: Floats
    """(P, 3) places of the share, 20 % and 80 % of the amplitude."""
    slopes: Floats
    """(P, 3) NDVI a day there, upwards."""
    shares: Floats
    """(P, 3)"""
    rise: Floats


def season_metrics(
    ndvi: Floats, sd: Floats, found: Phenologies, share_up: Floats, share_down: Floats, is_complete: bool = True
) -> SeasonMetrics:
    """Return the measures of P seasons.

    Args:
        ndvi: (P, D) of the days 0 to D - 1, NaN where not valid.
        sd: (P, D) its standard deviation.
        found: the dates of the same curves; seasons without any have no measures.
        share_up: (P,) share of the amplitude gained at SOS.
        share_down: (P,) share of it lost at EOS.
        is_complete: false while the season runs: then the peak is one when the curve has fallen from it by more than its
            uncertainty, and the fall has an end when the curve falls no more (10 % of the amplitude in 10 days).
    """
    value, deviation = np.full((2, len(ndvi), len(METRICS)), np.nan)
    some = np.flatnonzero(found.reason == OK)
    if not len(some):
        return SeasonMetrics(value, deviation)
    ndvi, sd = _filled(ndvi[some]), _filled(sd[some])
    top, last, sums = ndvi.argmax(axis=1), ndvi.shape[1] - 1, _sums(ndvi)
    peak, peak_places = _window_mean(sums, top)
    up = _side(ndvi, sums, top, peak, share_up[some])
    down = _mirrored(_side(ndvi[:, ::-1], sums[:, -1:] - sums[:, ::-1], last - top, peak, 1 - share_down[some]), last)
    is_rise, is_fall = found.sos.day[some] != NONE, found.eos.day[some] != NONE
    is_certain, median_sd = np.ones(len(top), bool), np.median(sd, axis=1)
    if not is_complete:
        highest, newest = ndvi[np.arange(len(top)), top], ndvi[:, -1]
        is_certain = highest - newest > 1.96 * np.sqrt(2) * median_sd
        # A fall that goes on has no end and no trough yet.
        is_fall &= is_certain & (ndvi[:, -1 - min(PEAK_DAYS, last)] - newest < STEADY_SHARE * up.rise)
    values, gradients, places = _linearised(ndvi, sums, peak, peak_places, up, down)
    errors = _deviations(sd, places, gradients)
    values[:, 1], errors[:, 1] = top, _peak_sd(ndvi, sd, top)
    values[:, -1], errors[:, -1] = growing_cycles(ndvi, median_sd)
    shown = _shown(is_rise, is_fall, is_certain)
    value[some], deviation[some] = np.where(shown, values, np.nan), np.where(shown, errors, np.nan)
    return SeasonMetrics(value, deviation)


def _shown(is_rise: Bools, is_fall: Bools, is_certain: Bools) -> Bools:
    """Return (P, K) whether the curve shows each measure: what rests on a side needs its rise or fall."""
    both, always = is_rise & is_fall, np.ones(len(is_rise), bool)
    rests_on = (
        is_rise,
        is_certain,
        is_fall,
        both,
        is_certain & is_fall,
        is_rise,
        is_fall,
        both,
        both,
        both,
        is_rise & is_certain,
        is_fall,
        always,
    )
    return np.stack(rests_on, axis=1)


def _filled(of: Floats) -> Floats:
    """Return (P, D) with the value of the nearest valid day before, or else behind, where a day is not valid."""
    is_valid = np.isfinite(of)
    if is_valid.all():
        return of
    nearest = np.maximum.accumulate(np.where(is_valid, np.arange(of.shape[1]), -1), axis=1)
    nearest = np.where(nearest < 0, is_valid.argmax(axis=1)[:, None], nearest)
    return np.take_along_axis(of, nearest, axis=1)


def _sums(of: Floats) -> Floats:
    """Return (P, D + 1) the sums of all days before each."""
    return np.concatenate([np.zeros((len(of), 1)), np.cumsum(of, axis=1)], axis=1)


def _mean(sums: Floats, first: Ints, last: Ints) -> Floats:
    """Return (P,) the means of the days from a first to a last."""
    row = np.arange(len(sums))
    return np.asarray((sums[row, last + 1] - sums[row, first]) / (last + 1 - first))


def _window_mean(sums: Floats, top: Ints) -> tuple[Floats, Floats]:
    """Return (P,) the mean of the days around the peak, and (P, 3) the places that stand for them."""
    first, last = np.maximum(top - PEAK_DAYS, 0), np.minimum(top + PEAK_DAYS, sums.shape[1] - 2)
    return _mean(sums, first, last), _spread(first, last, _PEAK)


def _peak_sd(ndvi: Floats, sd: Floats, top: Ints) -> Floats:
    """Return (P,) the sd of the highest day in days.

    The errors of near days differ as a random walk does, by a variance of 2 s^2 (1 - e^(-h / 20)): the place of the highest of a walk
    on a parabola is distributed as Chernoff found, narrower than the days on which it may be that high.
    """
    row, day = np.arange(len(ndvi)), np.arange(0, ndvi.shape[1], _PEAK_STEP, dtype=np.float32)
    apart = np.abs(day - top[:, None].astype(np.float32))
    below = (ndvi[row, top, None] - ndvi[:, ::_PEAK_STEP]).astype(np.float32)
    variance = 1 - np.exp(np.maximum(apart, 1) / np.float32(-RANGE_DAYS))
    variance *= (2 * _CHERNOFF * np.maximum(sd[row, top], 1e-6)[:, None] ** 2).astype(np.float32)
    weight = np.exp(-(below**2) / (2 * variance))
    squares = np.einsum("pd,pd,pd->p", weight, apart, apart) / np.maximum(weight.sum(axis=1), 1)
    return np.asarray(np.sqrt(squares + 1 / 12), np.float64)  # a day is not split


def _spread(first: Floats | Ints, last: Floats | Ints, n: int) -> Floats:
    """Return (P, n) places in the middles of n equal parts of a span: their mean stands for that of the span."""
    return np.asarray(first[:, None] + (last + 1 - first)[:, None] * (np.arange(n) + 0.5) / n - 0.5)


def _side(ndvi: Floats, sums: Floats, top: Ints, peak: Floats, share: Floats) -> _Side:
    """Return the rise to the peak: its trough, and where it passes shares of the amplitude for the last time."""
    day, row = np.arange(ndvi.shape[1], dtype=np.int16), np.arange(len(ndvi))
    before = day <= top[:, None]
    lowest = np.where(before, ndvi, np.inf).argmin(axis=1)
    edge = ndvi[row, lowest] + TROUGH_SHARE * (peak - ndvi[row, lowest])
    is_above = ndvi > edge[:, None]
    behind = is_above & (day > lowest[:, None])
    last = np.where(behind.any(axis=1), behind.argmax(axis=1) - 1, top)
    ahead = (is_above & (day < lowest[:, None]))[:, ::-1]
    first = np.where(ahead.any(axis=1), ndvi.shape[1] - ahead.argmax(axis=1), 0)
    base = _mean(sums, first, last)
    rise, shares = peak - base, np.stack([share, np.full(len(ndvi), 0.2), np.full(len(ndvi), 0.8)], axis=1)
    found = [_crossing(ndvi, before, base + one * rise) for one in shares.T]
    crossings, slopes = (np.stack(many, axis=1) for many in zip(*found, strict=True))
    return _Side(base, _spread(first, last, _TROUGH), crossings, slopes, shares, rise)


def _crossing(ndvi: Floats, before: Bools, level: Floats) -> tuple[Floats, Floats]:
    """Return (P,) where the curve passes a level upwards for the last time before its peak, and its slope there."""
    row, last = np.arange(len(ndvi)), ndvi.shape[1] - 1
    is_below = before & (ndvi < level[:, None])
    place = np.where(is_below.any(axis=1), last - is_below[:, ::-1].argmax(axis=1), 0)
    behind = np.minimum(place + 1, last)
    step = np.maximum(ndvi[row, behind] - ndvi[row, place], 1e-6)
    first, end = np.maximum(place - _SLOPE_DAYS + 1, 0), np.minimum(place + _SLOPE_DAYS, last)
    slope = (ndvi[row, end] - ndvi[row, first]) / np.maximum(end - first, 1)
    return place + np.clip((level - ndvi[row, place]) / step, 0, 1), np.maximum(slope, 1e-3)


def _mirrored(side: _Side, last: int) -> _Side:
    """Return a side of the curve backwards as places of the curve; slopes stay upwards of the curve backwards."""
    return _Side(side.base, last - side.trough, last - side.crossings, side.slopes, side.shares, side.rise)


def _linearised(
    ndvi: Floats, sums: Floats, peak: Floats, peak_places: Floats, up: _Side, down: _Side
) -> tuple[Floats, Floats, Floats]:
    """Return the measures (P, K), their gradients by the errors (P, K, M), and the errors' places (P, M).

    The errors are of places in each trough, of the peak, the three crossings of each side, and of the season, in this order.
    """
    season = _spread(up.crossings[:, 0], down.crossings[:, 0], _SEASON)
    places = np.concatenate([up.trough, down.trough, peak_places, up.crossings, down.crossings, season], axis=1)
    n_parcels, n_places = places.shape
    unit = np.eye(n_places)[None]
    first_of_peak = 2 * _TROUGH
    first_up = first_of_peak + _PEAK
    first_down = first_up + 3
    base_up, base_down = unit[:, :_TROUGH].mean(axis=1), unit[:, _TROUGH:first_of_peak].mean(axis=1)
    top, whole = unit[:, first_of_peak:first_up].mean(axis=1), unit[:, first_down + 3 :].mean(axis=1)

    def moved(side: _Side, base: Floats, first: int, nr: int, sign: int) -> Floats:
        share = side.shares[:, nr, None]
        return np.asarray(sign * ((1 - share) * base + share * top - unit[:, first + nr]) / side.slopes[:, nr, None])

    sos, eos = moved(up, base_up, first_up, 0, 1), moved(down, base_down, first_down, 0, -1)
    start, end = up.crossings[:, 0], down.crossings[:, 0]
    length, base = end - start, (up.base + down.base) / 2
    mean = _season_mean(sums, start, end)
    row, last = np.arange(n_parcels), ndvi.shape[1] - 1
    at_start, at_end = (ndvi[row, np.clip(np.rint(day).astype(int), 0, last)] for day in (start, end))
    both = np.broadcast_to((base_up + base_down) / 2, (n_parcels, n_places))
    d_large = length[:, None] * whole + at_end[:, None] * eos - at_start[:, None] * sos
    d_small = d_large - length[:, None] * both - base[:, None] * (eos - sos)
    rates, d_rates = [], []
    for side, own, first, sign in ((up, base_up, first_up, 1), (down, base_down, first_down, -1)):
        span = np.maximum(sign * (side.crossings[:, 2] - side.crossings[:, 1]), 1.0)
        d_span = sign * (moved(side, own, first, 2, sign) - moved(side, own, first, 1, sign))
        rates.append(0.6 * side.rise / span)
        rise = np.where(side.rise > 0, side.rise, np.nan)[:, None]  # a curve that does not rise has no rate
        d_rates.append(rates[-1][:, None] * ((top - own) / rise - d_span / span[:, None]))
    nothing = np.zeros(n_parcels)
    values = (start, nothing, end, length, peak - base, up.base, down.base, base, mean * length, (mean - base) * length)
    gradients = (sos, 0 * both, eos, eos - sos, top - both, base_up, base_down, both, d_large, d_small)
    shape = (n_parcels, n_places)
    return (
        np.stack([*values, *rates, nothing], axis=1),
        np.stack([np.broadcast_to(one, shape) for one in (*gradients, *d_rates, 0 * both)], axis=1),
        places,
    )


def _season_mean(sums: Floats, start: Floats, end: Floats) -> Floats:
    """Return (P,) the mean of the days from a start to an end."""
    last = sums.shape[1] - 2
    first = np.clip(np.ceil(start).astype(int), 0, last)
    return _mean(sums, first, np.clip(np.floor(end).astype(int), first, last))


def _deviations(sd: Floats, places: Floats, gradients: Floats) -> Floats:
    """Return (P, K) the sd of what has these gradients by the errors at M places."""
    days = np.clip(np.rint(places).astype(int), 0, sd.shape[1] - 1)
    at = np.take_along_axis(sd, days, axis=1).astype(np.float32)
    apart = np.abs(places[:, :, None] - places[:, None]).astype(np.float32)
    scaled = gradients.astype(np.float32) * at[:, None]
    variance = np.einsum("pkm,pkm->pk", scaled @ np.exp(apart / np.float32(-RANGE_DAYS)), scaled)
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float64)
