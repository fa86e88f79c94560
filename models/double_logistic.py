"""A double logistic fitted to the daily curves of many seasons at once, by Levenberg-Marquardt.

    f(t) = before + (peak - before) / (1 + e^(-(t - up) / r)) - (peak - after) / (1 + e^(-(t - down) / q))
    (J'WJ + l diag J'WJ) d = J'W (y - f)     l a tenth where the step lowers the sum of squares, else ten times and no step

The sd of a parameter is by the covariance (J'WJ)^-1 J'W C W J (J'WJ)^-1, C_ij = s_i s_j e^(-|t_i - t_j| / 20): days whose errors are
correlated count for less than as many that are not.
Source: Beck et al. 2006 (double logistic of NDVI); Marquardt 1963.
Shapes: P parcels on D days, NDVI and sd (P, D); L = 7 parameters (P, L).
Units:  days of season; NDVI dimensionless.
Errors: none; a season whose fit is none is NaN.
"""

from typing import Final

import numpy as np

from models.ndvi.inputs import Bools, Floats
from models.season_metrics import RANGE_DAYS

PARAMETERS: Final = (
    "base_before",
    "base_after",
    "peak",
    "greening_day",
    "greening_days",
    "senescence_day",
    "senescence_days",
)
STEP: Final = 4
"""Days between those that are fitted (chosen as a fifth of the range of the errors: those between say little more)."""
N_STEPS: Final = 30
"""At most; nearly all have settled in 12."""
MAX_RMSE: Final = 0.1
"""NDVI: a fit that misses by more is of another shape, as of two crops (chosen as two thirds of the least amplitude)."""
_RATES: Final = (1.0, 60.0)


def fit(ndvi: Floats, sd: Floats, sos: Floats, eos: Floats) -> tuple[Floats, Floats]:
    """Return the parameters of P seasons and their sd, both (P, L), NaN where no double logistic describes the curve.

    Args:
        ndvi: (P, D) of the days 0 to D - 1, NaN where not valid.
        sd: (P, D) its standard deviation.
        sos: (P,) from where the rise is sought; NaN for seasons that are not to be fitted.
        eos: (P,) from where the fall is.
    """
    value, deviation = np.full((2, len(ndvi), len(PARAMETERS)), np.nan)
    some = np.flatnonzero(np.isfinite(sos) & np.isfinite(eos))
    day = np.arange(0, ndvi.shape[1], STEP, dtype=np.float64)
    y, s = ndvi[some, ::STEP], np.maximum(sd[some, ::STEP], 1e-3)
    is_valid = np.isfinite(y) & np.isfinite(s)
    y, weight = np.where(is_valid, y, 0), np.where(is_valid, 1 / s**2, 0)
    s = np.where(is_valid, s, 0)
    if not len(some):
        return value, deviation
    found = _minimised(_start(y, is_valid, sos[some], eos[some]), day, y, weight)
    curve, slope = _curve(found, day)
    rmse = np.sqrt((is_valid * (y - curve) ** 2).sum(axis=1) / np.maximum(is_valid.sum(axis=1), 1))
    errors = _deviations(slope, weight, s, day)
    is_fit = (rmse <= MAX_RMSE) & np.isfinite(errors).all(axis=1) & (found[:, 3] < found[:, 5]) & _is_inside(found, day)
    value[some], deviation[some] = np.where(is_fit[:, None], found, np.nan), np.where(is_fit[:, None], errors, np.nan)
    return value, deviation


def _start(y: Floats, is_valid: Bools, sos: Floats, eos: Floats) -> Floats:
    """Return (P, L) parameters near enough for the search."""
    low, high = np.where(is_valid, y, np.inf).min(axis=1), np.where(is_valid, y, -np.inf).max(axis=1)
    ten = np.full(len(y), 10.0)
    return np.stack([low, low, high, sos + 10, ten, eos - 10, ten], axis=1)


def _is_inside(found: Floats, day: Floats) -> Bools:
    """Return (P,) whether rise and fall lie within the days, and no rate at a bound."""
    days, rates = found[:, [3, 5]], found[:, [4, 6]]
    is_within = (days > day[0]) & (days < day[-1]) & (rates > _RATES[0]) & (rates < _RATES[1])
    return np.asarray(is_within.all(axis=1))


def _curve(parameters: Floats, day: Floats) -> tuple[Floats, Floats]:
    """Return the double logistics (P, D) and their derivatives by the parameters (P, D, L)."""
    before, after, peak, up, r, down, q = (one[:, None] for one in parameters.T)
    rise, fall = ((1 + np.tanh((day - at) / (2 * rate))) / 2 for at, rate in ((up, r), (down, q)))
    d_rise, d_fall = (peak - before) * rise * (1 - rise) / r, (peak - after) * fall * (1 - fall) / q
    slopes = (1 - rise, fall, rise - fall, -d_rise, -d_rise * (day - up) / r, d_fall, d_fall * (day - down) / q)
    return before + (peak - before) * rise - (peak - after) * fall, np.stack(slopes, axis=2)


def _minimised(parameters: Floats, day: Floats, y: Floats, weight: Floats) -> Floats:
    """Return (P, L) the parameters of the least sum of weighted squares, from a start."""
    n, diagonal = parameters.shape[1], np.arange(parameters.shape[1])
    damping = np.full(len(parameters), 1e-2)
    curve, slope = _curve(parameters, day)
    least = (weight * (y - curve) ** 2).sum(axis=1)
    for _ in range(N_STEPS):
        weighted = slope.transpose(0, 2, 1) * weight[:, None]
        normal, right = weighted @ slope, np.einsum("pld,pd->pl", weighted, y - curve)
        normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * (1 + damping[:, None]) + 1e-9
        tried = parameters + np.linalg.solve(normal, right[:, :, None]).reshape(-1, n)
        tried[:, [4, 6]] = np.clip(tried[:, [4, 6]], *_RATES)
        new_curve, new_slope = _curve(tried, day)
        squares = (weight * (y - new_curve) ** 2).sum(axis=1)
        is_better = squares < least
        gain = 1 - squares / np.maximum(least, 1e-12)
        parameters, least = np.where(is_better[:, None], tried, parameters), np.where(is_better, squares, least)
        curve, slope = (
            np.where(is_better[:, None], new_curve, curve),
            np.where(is_better[:, None, None], new_slope, slope),
        )
        # Settled: a step that gained nothing to speak of, or none though it was short.
        if (np.where(is_better, gain < 1e-7, damping > 1e3)).all():
            break
        damping = np.clip(np.where(is_better, damping / 10, damping * 10), 1e-9, 1e9)
    return parameters


def _deviations(slope: Floats, weight: Floats, sd: Floats, day: Floats) -> Floats:
    """Return (P, L) the sd of parameters by the covariance of the days' errors; NaN where days do not determine them."""
    weighted = slope.transpose(0, 2, 1) * weight[:, None]
    normal = weighted @ slope
    scale = np.sqrt(np.maximum(np.einsum("pll->pl", normal), 1e-12))
    scaled = normal / (scale[:, :, None] * scale[:, None]) + 1e-12 * np.eye(slope.shape[2])
    gain = np.linalg.solve(scaled, weighted / scale[:, :, None]) / scale[:, :, None] * sd[:, None]
    correlation = np.exp(-np.abs(day[:, None] - day) / RANGE_DAYS)
    return np.asarray(np.sqrt(np.maximum(np.einsum("pld,pld->pl", gain @ correlation, gain), 0)))
