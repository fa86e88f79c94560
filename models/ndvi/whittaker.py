"""The simple curve of parcels that no trained model watches: a Whittaker smoother of the clear views, with its standard deviation.

    min  sum_i (v_i - z(t_i))^2  +  lambda sum_t (z_t - m - phi (z_{t-1} - m))^2        over the days t of a season

    phi = e^(-1 / memory),  lambda = view_sd^2 / (sd^2 (1 - phi^2))

First differences, each drawn a little to the level m of any land, so that the band of a gap widens to that of any land and no
farther. It is the mean of a Markov process of that memory given the views; filter and smoother over the views give its
variance too, and between two views both are closed forms of the days to them. The sum of the variance and of a view's own
is the square of the predictive sd. Rows, dips and doubt are those of the trained model's curve (models.ndvi.daily_curve);
radar says nothing here.
Source: Whittaker 1923; Eilers 2003; Rauch, Tung and Striebel 1965 for the variance. Constants chosen on one fifth of the Dutch
        parcels by the likelihood of hidden views (docs/LOG.md).
Shapes: S series of M views, Q queries; P parcels, R rows.
Units:  days since the season's start; NDVI dimensionless.
Errors: none for bad series.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np

from models.checkpoint import Checkpoint, pack
from models.ndvi.daily_curve import (
    VIEW_REACH_DAYS,
    Z_95,
    CurveRows,
    days_of,
    fading,
    fell,
    known_series,
    origins,
    suspects,
    without,
)
from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints
from models.ndvi.queries import Series

KIND: Final = "whittaker"
"""What the description of a checkpoint of this model says that it is, and the name under which people activate it."""
REMEMBERED: Final = 10
"""Views before and after the days asked for: with views a day apart the one before them still counts for 1e-6."""
_DAYS: Final = 2**24
"""More days than any series spans."""


@dataclass(frozen=True)
class Whittaker:
    """The smoother with its constants."""

    level: float = 0.5
    """Of any land at any time, to which a gap returns."""
    sd: float = 0.26
    """Of any land about it."""
    memory_days: float = 50.0
    view_sd: float = 0.04
    """Sd of one clear view: between the robust and the full noise of views that are 2 or 3 days apart (docs/LOG.md)."""

    def reconstruct(self, clear: ClearSeries, first_day: Ints, known_day: Ints) -> CurveRows:
        """Return the rows from `first_day` to `known_day` of each parcel (P,), as known on `known_day`: see `reconstruct_curve`."""
        series = known_series(clear, known_day)
        series = without(series, suspects(series))
        parcel, days = days_of(first_day, known_day)
        value, sd, nearest = self.fill(series, parcel, days)
        sd = np.hypot(sd, self._doubt(series, parcel, days) / Z_95)
        is_prior = nearest > VIEW_REACH_DAYS
        value = np.where(is_prior, self.level, value)
        return CurveRows(parcel, days, value, sd, origins(is_prior, nearest), days == known_day[parcel], {})

    def _doubt(self, series: Series, parcel: Ints, days: Ints) -> Floats:
        """Return (R,) how far an unconfirmed newest view fell below what was expected before it, fading; else 0."""
        row = np.flatnonzero(fell(series))
        last = series.n_views[row] - 1
        since, below = np.zeros((2, len(series.parcel)))
        since[row] = series.day[row, last]
        before = series.rows(row)
        before.day[np.arange(len(row)), last] = np.nan
        expected, _, _ = self.fill(before, np.arange(len(row)), since[row].astype(np.int64))
        below[row] = expected - series.ndvi[row, last]
        return fading(below[parcel], days - since[parcel])

    def checkpoint(self) -> Checkpoint:
        """Return what the registry keeps of it: constants, no weights."""
        config = {"kind": KIND, **asdict(self)}
        return pack({}, {"kind": KIND, "config": config, "scores": {}, "about": {}})

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Whittaker":
        """Return the smoother that `checkpoint` described."""
        return cls(**{field.name: description["config"][field.name] for field in fields(cls)})

    def fill(self, series: Series, of: Ints, day: Ints) -> tuple[Floats, Floats, Floats]:
        """Return NDVI, sd of a clear view and days to the nearest view (Q,) on days of series; sorted by neither.

        A day with a view of its own has that view's value.
        """
        left = _views_to(series, of, day) - 1
        column, n = _needed(series, of, left)  # without them it is the work of the whole season
        days, ndvi = (np.take_along_axis(one, column, axis=1) for one in (series.day, series.ndvi))
        is_view = np.arange(column.shape[1]) < n[:, None]
        mean, variance, next_gain = self._smoothed(days, ndvi, is_view)
        at = left - column[of, 0]
        has_left, has_right = at >= 0, at + 1 < n[of]
        one, other = (of, np.maximum(at, 0)), (of, np.minimum(at + 1, column.shape[1] - 1))
        before = np.where(has_left, day - days[one], np.inf)
        after = np.where(has_right, days[other] - day, np.inf)
        # Of the process given its values at both views; without one of them its weight is 0.
        f, b = np.exp(-before / self.memory_days), np.exp(-after / self.memory_days)
        free = np.maximum(1 - (f * b) ** 2, 1e-12)
        of_left, of_right = f * (1 - b**2) / free, b * (1 - f**2) / free
        value = of_left * mean[one] + of_right * mean[other]
        spread = of_left**2 * variance[one] + of_right**2 * variance[other]
        spread += 2 * of_left * of_right * next_gain[one] * variance[other]
        spread += self.sd**2 * (1 - f**2) * (1 - b**2) / free
        is_own = before == 0
        value = np.where(is_own, ndvi[one], np.clip(self.level + value, -1.0, 1.0))
        return value, np.sqrt(self.view_sd**2 + np.where(is_own, 0.0, spread)), np.minimum(before, after)

    def _smoothed(self, days: Floats, ndvi: Floats, is_view: Bools) -> tuple[Floats, Floats, Floats]:
        """Return mean less the level, variance, and the covariance with the next view over that one's variance (S, M)."""
        y = np.where(is_view, ndvi - self.level, 0.0).T.copy()
        apart = np.where(is_view[:, 1:], np.diff(days, axis=1), 0.0).T
        phi = np.exp(-apart / self.memory_days)
        noise = np.where(is_view, self.view_sd**2, np.inf).T
        mean, variance, expected = (np.zeros(y.shape) for _ in range(3))
        a, p = np.zeros(y.shape[1]), np.full(y.shape[1], self.sd**2)
        for k in range(len(y)):
            if k:
                a, p = phi[k - 1] * a, phi[k - 1] ** 2 * (p - self.sd**2) + self.sd**2
            expected[k] = p
            gain = p / (p + noise[k])
            mean[k] = a = a + gain * (y[k] - a)
            variance[k] = p = p * (1 - gain)
        gains = np.zeros(y.shape)
        gains[:-1] = variance[:-1] * phi / expected[1:]
        for k in range(len(y) - 2, -1, -1):
            mean[k] += gains[k] * (mean[k + 1] - phi[k] * mean[k])
            variance[k] += gains[k] ** 2 * (variance[k + 1] - expected[k + 1])
        return mean.T, variance.T, gains.T


def _views_to(series: Series, of: Ints, day: Ints) -> Ints:
    """Return (Q,) how many views of its series are not after each day."""
    is_view = np.isfinite(series.day)
    begin = np.cumsum(series.n_views) - series.n_views
    key = (np.nonzero(is_view)[0] * _DAYS + series.day[is_view]).astype(np.int64)  # ascending over all series
    return np.asarray(np.searchsorted(key, of * _DAYS + day, side="right") - begin[of])


def _needed(series: Series, of: Ints, left: Ints) -> tuple[Ints, Ints]:
    """Return the columns (S, K) of the views that count for queries, consecutive, and how many they are (S,)."""
    n, most = series.n_views, series.day.shape[1]
    first, last = np.full(len(n), most), np.full(len(n), -1)
    np.minimum.at(first, of, left)
    np.maximum.at(last, of, left)
    first = np.clip(first - REMEMBERED, 0, np.maximum(n - 1, 0))
    n_needed = np.clip(np.minimum(last + 1 + REMEMBERED, n - 1) - first + 1, 0, n)
    column = first[:, None] + np.arange(max(1, int(n_needed.max(initial=1))))
    return np.minimum(column, most - 1), n_needed
