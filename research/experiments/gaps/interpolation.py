"""Baselines that see nothing but the parcel's own clear views: straight lines, Savitzky-Golay, Whittaker.

    linear      between the views around the day; beyond the last one and in causal mode the nearest value
    savgol      Savitzky-Golay filter of the daily straight lines; causal: its one-sided form, which ends on the day
    whittaker   min sum_i (v_i - z(t_i))^2 + lambda sum (D^d z)^2 over the days around, those without a view weigh nothing

Window, order and lambda are chosen on the training parcels' hidden views, for each mode by its own squared error. Without
any view the season's mean and standard deviation answer; else that is of residual quantiles (research.experiments.gaps.residual_sd).
Sources: Savitzky and Golay 1964 by scipy; Whittaker 1923, Eilers 2003 by whittaker-eilers (Rust, takes weights; the
        other packages on PyPI are bound to rasters or fit spectral baselines). Its form for uneven days is not used: it
        divides differences by the days between but does not weigh them, and did worse than straight lines.
Shapes: queries (Q,), views (Q, M).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from scipy.signal import savgol_coeffs
from whittaker_eilers import WhittakerSmoother

from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.views import Prior
from research.experiments.gaps.filler import MODES, Mode, Views
from research.experiments.gaps.hiding import GAPS_DAYS, hide
from research.experiments.gaps.residual_sd import ResidualSd

LEARNED_VIEWS = 2_000
"""Hidden views of training parcels, per gap, that settings and standard deviations are chosen on."""
REACH_DAYS = 120
"""Views farther from a day say nothing of it to a smoother (as the curve of models.ndvi.views)."""
Choice = TypeVar("Choice")


class ViewsOnly(ABC, Generic[Choice]):
    """A filler that interpolates views, with one setting a mode chosen by its error on hidden views."""

    name: str
    choices: Sequence[Choice]

    @abstractmethod
    def interpolate(self, views: Views, day: Ints, mode: Mode, choice: Choice) -> Floats:
        """Return NDVI (Q,) of queries that all have at least one view."""

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:  # noqa: ARG002
        """Choose the settings, learn the season's mean and the standard deviations."""
        self.prior = Prior.fit(clear)
        self.chosen: dict[Mode, Choice] = {}
        self.sd: dict[Mode, ResidualSd] = {}
        rng = np.random.default_rng(seed)
        asked = np.sort(rng.permutation(len(clear.day))[:LEARNED_VIEWS])
        for mode in MODES:
            hidden = [hide(clear, gap, mode, asked) for gap in GAPS_DAYS]
            y = np.concatenate([one.ndvi for one in hidden])
            nearest = np.concatenate([one.views.nearest_days(one.day) for one in hidden])
            residual = {
                nr: np.concatenate([self._answer(one.views, one.day, mode, choice) for one in hidden]) - y
                for nr, choice in enumerate(self.choices)
            }
            best = min(residual, key=lambda nr: float(np.mean(residual[nr] ** 2)))
            self.chosen[mode] = self.choices[best]
            self.sd[mode] = ResidualSd.fit(nearest, residual[best])

    def fill(
        self,
        sar: SarSeries,  # noqa: ARG002
        views: Views,
        parcel: Ints,  # noqa: ARG002
        day: Ints,
        mode: Mode,
    ) -> tuple[Floats, Floats]:
        """Return NDVI and standard deviation of queries; SAR is not used."""
        nearest = views.nearest_days(day)
        sd = np.where(np.isinf(nearest), self.prior.sd_at(day.astype(np.float64)), self.sd[mode].at(nearest))
        return self._answer(views, day, mode, self.chosen[mode]), sd

    def _answer(self, views: Views, day: Ints, mode: Mode, choice: Choice) -> Floats:
        out = self.prior.at(day.astype(np.float64))
        has = np.isfinite(views.day[:, 0])
        out[has] = np.clip(self.interpolate(views.rows(has), day[has], mode, choice), -1.0, 1.0)
        return out


class Linear(ViewsOnly[None]):
    """Straight lines between views; causal: the last value."""

    name = "linear"
    choices = (None,)

    def interpolate(self, views: Views, day: Ints, mode: Mode, choice: None) -> Floats:  # noqa: ARG002
        """Interpolate between the views around the day, or the nearest one's value where they are on one side."""
        return lines_at(views, day[:, None].astype(np.float64))[:, 0]


class SavitzkyGolay(ViewsOnly[tuple[int, int]]):
    """A Savitzky-Golay filter of the daily straight lines; a choice is (days of its window, order of its polynomial)."""

    name = "savgol"
    choices = ((7, 1), (7, 2), (15, 1), (15, 2), (15, 3), (31, 1), (31, 2), (31, 3), (61, 2), (61, 3), (91, 3))

    def interpolate(self, views: Views, day: Ints, mode: Mode, choice: tuple[int, int]) -> Floats:
        """Return the filter's value on the day: its centre, or its end where the future is not known."""
        window, order = choice
        position = window - 1 if mode == "causal" else window // 2
        weights = savgol_coeffs(window, order, pos=position, use="dot")
        offsets = np.arange(window) - position
        return np.asarray(lines_at(views, (day[:, None] + offsets).astype(np.float64)) @ weights)


class Whittaker(ViewsOnly[tuple[float, int]]):
    """A Whittaker smoother of daily values, days without a view weigh nothing; a choice is (lambda, order of differences)."""

    name = "whittaker"
    choices = tuple((lmbda, 1) for lmbda in (0.1, 1.0, 10.0, 100.0)) + tuple(
        (lmbda, 2) for lmbda in (1.0, 100.0, 1e4, 1e6)
    )

    def interpolate(self, views: Views, day: Ints, mode: Mode, choice: tuple[float, int]) -> Floats:  # noqa: ARG002
        """Return the smoothed value on the day, from the views within reach; with fewer than three the straight line."""
        lmbda, order = choice
        out = lines_at(views, day[:, None].astype(np.float64))[:, 0]
        for row, at in enumerate(day.tolist()):
            near = np.abs(views.day[row] - at) <= REACH_DAYS  # NaN compares false
            if near.sum() > order:
                days = views.day[row][near].astype(np.int64)
                first = min(int(days[0]), at)
                y, weights = np.zeros((2, max(int(days[-1]), at) - first + 1))
                y[days - first], weights[days - first] = views.ndvi[row][near], 1.0
                smoother = WhittakerSmoother(lmbda, order, len(y), weights=weights.tolist())
                out[row] = smoother.smooth(y.tolist())[at - first]
        return out


def lines_at(views: Views, days: Floats) -> Floats:
    """Return straight lines through each query's views (Q, M) on its own days (Q, K); the first and last values are held.

    Every query needs a view.
    """
    counts = np.isfinite(views.day).sum(axis=1)
    far = 4.0 * (1 + float(np.nanmax(np.abs(views.day), initial=1.0)) + float(np.abs(days).max(initial=1.0)))
    row = np.arange(len(counts))[:, None]
    is_view = np.isfinite(views.day)
    flat_day = (views.day + row * far)[is_view]  # ascending over all queries, so that one search serves all
    flat_ndvi = views.ndvi[is_view]
    first = (np.cumsum(counts) - counts)[:, None]
    right = np.searchsorted(flat_day, days + row * far, side="right")
    left = np.clip(right - 1, first, first + counts[:, None] - 1)
    right = np.clip(right, first, first + counts[:, None] - 1)
    span = flat_day[right] - flat_day[left]
    share = np.where(span > 0, (days + row * far - flat_day[left]) / np.where(span > 0, span, 1.0), 0.0)
    return np.asarray(flat_ndvi[left] + np.clip(share, 0.0, 1.0) * (flat_ndvi[right] - flat_ndvi[left]))
