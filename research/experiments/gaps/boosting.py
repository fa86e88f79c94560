"""The strongest baseline: gradient boosting on the neighbouring clear values and the SAR around, causal and retrospective.

    target   y - base,   base = the season's mean + straight line between the anomalies of the views around, causal: the last
    views    age, value of the three nearest on each side; slopes; straight line between values
    SAR      VV, VH and VH - VV, each orbit standardised: 8 steps of 6 days before and 4 after; the nearest days in steps
             of 3; means of 30 and 90 days; the change since the nearest views
    season   day

Inner folds, blocked in space: the answer is the mean of their models, and each model's errors on the parcels it did not
see give the residual quantiles and the training of a second model, of the error's size.
Source: neighbouring clear values and radar around them; HistGradientBoosting of scikit-learn after Ke et al. 2017 (LightGBM).
Shapes: queries (Q,), features (Q, F), NaN where there is none.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from models.ndvi.inputs import ClearSeries, DailySar, Floats, Ints, OrbitScale, SarSeries
from models.ndvi.views import Prior
from research.experiments.gaps.filler import MODES, Mode, Views
from research.experiments.gaps.hiding import GAPS_DAYS, hide
from research.experiments.gaps.interpolation import lines_at
from research.experiments.gaps.residual_sd import ResidualSd

N_NEIGHBOURS = 3
STEP_DAYS, STEPS_BACK, STEPS_AHEAD = 6, 8, 4
FINE_DAYS, FINE_BACK, FINE_AHEAD = 3, 4, 2
MEAN_DAYS = (30, 90)
NEAR_VIEW_DAYS = 6
"""SAR of so many days stands for a view's day."""


@dataclass(frozen=True)
class BoostingConfig:
    """Settings of the models, chosen on inner folds of Dutch training parcels."""

    n_inner: int = 3
    n_iterations: int = 1000
    """300 iterations of 31 leaves: 0.087 retrospective at 30 days on the inner folds; 1500 of 31 or 1000 of 63: 0.080."""
    learning_rate: float = 0.06
    max_leaves: int = 63
    min_leaf: int = 40
    l2: float = 1.0
    feature_share: float = 0.3
    loss: str = "squared_error"
    n_iterations_of_size: int = 80


def features(daily: DailySar, prior: Prior, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:
    """Return what the models see of queries (Q, F), and the base (Q,) that they correct."""
    sides = ("before",) if mode == "causal" else ("before", "after")
    has = np.isfinite(views.day[:, 0])
    season = prior.at(day.astype(np.float64))
    anomalies = Views(views.day, views.ndvi - prior.at(np.nan_to_num(views.day)))
    line, base = season.copy(), season.copy()
    line[has] = lines_at(views.rows(has), day[has, None].astype(np.float64))[:, 0]
    base[has] += lines_at(anomalies.rows(has), day[has, None].astype(np.float64))[:, 0]
    n_views = np.isfinite(views.day).sum(axis=1)
    columns: list[Floats] = [day.astype(np.float64), line, base, base - season, base - line, n_views.astype(np.float64)]
    ahead = 0 if mode == "causal" else STEPS_AHEAD
    steps = _sar(daily, parcel, day + STEP_DAYS * ahead, STEPS_BACK + ahead, STEP_DAYS)
    columns += list(steps.reshape(len(day), -1).T)
    fine = FINE_AHEAD if ahead else 0
    columns += list(_sar(daily, parcel, day + FINE_DAYS * fine, FINE_BACK + fine, FINE_DAYS).reshape(len(day), -1).T)
    now = _sar(daily, parcel, day, 1, 2 * STEP_DAYS)[:, 0]
    for days in MEAN_DAYS:
        columns += list(_sar(daily, parcel, day, 1, days)[:, 0].T)
    if mode == "retrospective":
        columns += list(_sar(daily, parcel, day + MEAN_DAYS[0], 1, MEAN_DAYS[0])[:, 0].T)
        now = _sar(daily, parcel, day + STEP_DAYS, 1, 2 * STEP_DAYS)[:, 0]
    for side in sides:
        age, ndvi = nearest(views, day, side)
        columns += [*age.T, *ndvi.T]
        columns += [(ndvi[:, 0] - ndvi[:, 1]) / np.maximum(age[:, 1] - age[:, 0], 1.0), ndvi[:, 0] - line]
        at = np.where(np.isfinite(age[:, 0]), np.nan_to_num(age[:, 0]), 0).astype(np.int64)
        view_day = day - at if side == "before" else day + at
        end = view_day if mode == "causal" else view_day + NEAR_VIEW_DAYS // 2
        then = _sar(daily, parcel, end, 1, NEAR_VIEW_DAYS if mode == "retrospective" else 2 * NEAR_VIEW_DAYS)[:, 0]
        columns += list(np.where(np.isfinite(age[:, :1]), now - then, np.nan).T)
    return np.column_stack(columns), base


def nearest(views: Views, day: Ints, side: str) -> tuple[Floats, Floats]:
    """Return age in days and NDVI of the nearest views on one side, (Q, 3) each, nearest first, NaN where there is none."""
    counts = (views.day <= day[:, None]).sum(axis=1)  # NaN compares false
    k = np.arange(N_NEIGHBOURS)
    column = counts[:, None] - 1 - k if side == "before" else counts[:, None] + k
    inside = (column >= 0) & (column < views.day.shape[1])
    column = np.where(inside, column, 0)
    age = np.abs(np.take_along_axis(views.day, column, axis=1) - day[:, None])
    return np.where(inside, age, np.nan), np.where(inside, np.take_along_axis(views.ndvi, column, axis=1), np.nan)


def _sar(daily: DailySar, parcel: Ints, end: Ints, n_steps: int, step_days: int) -> Floats:
    """Return VV, VH and VH - VV of steps (Q, T, 3), NaN where there is no acquisition."""
    z, is_present = daily.windows(parcel, end, n_steps, step_days)
    z = np.where(is_present[..., None], z, np.nan)
    return np.concatenate([z, z[..., 1:] - z[..., :1]], axis=2)


class Boosting:
    """HistGradientBoosting with SAR, or without it."""

    def __init__(self, config: BoostingConfig | None = None) -> None:
        self.name = "boosting"
        self.config = config or BoostingConfig()

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        """Both modes, each on all views hidden in all gaps."""
        self.prior, self.scale = Prior.fit(clear), OrbitScale.fit(sar)
        daily = DailySar.build(sar, self.scale, n_parcels)
        self.models = {mode: self._fit(daily, clear, n_parcels, mode, seed) for mode in MODES}

    def fill(self, sar: SarSeries, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:
        """Return NDVI and standard deviation of queries."""
        daily = DailySar.build(sar, self.scale, int(max(sar.parcel.max(initial=0), parcel.max(initial=0))) + 1)
        x, base = features(daily, self.prior, views, parcel, day, mode)
        value, sd = self.models[mode].answer(x, base, views.nearest_days(day))
        # Neither a view nor SAR: no such query is learned from, the season answers.
        far = np.full(len(day), daily.first_day)
        is_blind = np.isnan(views.day[:, 0]) & ~daily.is_near(parcel, far, np.maximum(day, far))
        season = day.astype(np.float64)
        return np.where(is_blind, self.prior.at(season), value), np.where(is_blind, self.prior.sd_at(season), sd)

    def _fit(self, daily: DailySar, clear: ClearSeries, n_parcels: int, mode: Mode, seed: int) -> "Ensemble":
        hidden = [hide(clear, gap, mode) for gap in GAPS_DAYS]
        pairs = [features(daily, self.prior, one.views, one.parcel, one.day, mode) for one in hidden]
        x, base = (np.concatenate([pair[i] for pair in pairs]) for i in range(2))
        y = np.concatenate([one.ndvi for one in hidden])
        nearest_days = np.concatenate([one.views.nearest_days(one.day) for one in hidden])
        inner = inner_fold(n_parcels, self.config.n_inner)[np.concatenate([one.parcel for one in hidden])]
        return Ensemble.fit(x, base, y, nearest_days, inner, self.config, seed)


@dataclass(frozen=True)
class Ensemble:
    """The models of the inner folds, and the size of their error."""

    models: list[HistGradientBoostingRegressor]
    size: HistGradientBoostingRegressor
    ratio: ResidualSd
    """Residual over predicted size, by distance."""

    @classmethod
    def fit(
        cls, x: Floats, base: Floats, y: Floats, nearest_days: Floats, inner: Ints, config: BoostingConfig, seed: int
    ) -> "Ensemble":
        """Return one model for each inner fold, on the others; then the size of the errors on the fold left out."""
        models, error = [], np.zeros(len(y))
        for fold in np.unique(inner):
            held = inner == fold
            model = _regressor(config, config.loss, config.n_iterations, seed + int(fold)).fit(
                x[~held], (y - base)[~held]
            )
            error[held] = y[held] - base[held] - model.predict(x[held])
            models.append(model)
        size = _regressor(config, "absolute_error", config.n_iterations_of_size, seed).fit(x, np.abs(error))
        return cls(models, size, ResidualSd.fit(nearest_days, error / _size(size, x)))

    def answer(self, x: Floats, base: Floats, nearest_days: Floats) -> tuple[Floats, Floats]:
        """Return NDVI and standard deviation of queries."""
        value = base + np.mean([model.predict(x) for model in self.models], axis=0)
        return np.clip(value, -1.0, 1.0), self.ratio.at(nearest_days) * _size(self.size, x)


def inner_fold(n_parcels: int, n_inner: int) -> Ints:
    """Return the inner fold (P,) of training parcels, which are numbered along the map."""
    return np.arange(n_parcels) * n_inner // max(n_parcels, 1)


def _size(model: HistGradientBoostingRegressor, x: Floats) -> Floats:
    return np.asarray(np.maximum(model.predict(x), 0.005))


def _regressor(config: BoostingConfig, loss: str, n_iterations: int, seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        loss=loss,
        max_iter=n_iterations,
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.max_leaves,
        min_samples_leaf=config.min_leaf,
        l2_regularization=config.l2,
        max_features=config.feature_share,
        early_stopping=False,
        random_state=seed,
    )
