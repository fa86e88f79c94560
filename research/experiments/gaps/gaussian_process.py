"""Baselines that are Gaussian processes: one per parcel on its clear views, and one on NDVI, VV and VH together.

    z(t) = (v - mean(t)) / sd(t)                                   the season's mean and sd over the training parcels
    gp      k(d) = a^2 Matern_3/2(d / l) + b^2 Matern_3/2(d / m) + noise
    mogpr   k((t, i), (s, j)) = sum_q B_q[i, j] Matern_3/2(|t - s| / l_q) + noise_i,   B_q = W_q W_q' + diag(d_q)
            tasks i: NDVI and the two standardised polarisations, means over steps of 6 days

Hyperparameters are shared by all parcels: they maximise the sum of the training parcels' log marginal likelihoods. The
posterior of each query is exact, given the views it may use and (mogpr) the SAR around; causal: no SAR after the day.
Sources: Rasmussen and Williams 2006, ch. 2 and 5, by scikit-learn; MOGPR: Pipia et al. 2019, by gpytorch (its Hadamard
        multi-task form, as NDVI and SAR are not observed on the same days).
Shapes: Q queries, M views, T steps of SAR; training parcels (B, N) padded.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from models.ndvi.inputs import Bools, ClearSeries, DailySar, Floats, Ints, OrbitScale, SarSeries
from models.ndvi.views import Prior
from research.experiments.gaps.coregionalisation import fit_coregionalisation
from research.experiments.gaps.filler import Mode, Views

LEARNED_PARCELS = 60
"""Training parcels whose likelihood is maximised; 120 move the hyperparameters by less than their own spread."""
REACH_DAYS = 120
"""Views farther from a query say nothing of it (as the curve of models.ndvi.views)."""
MAX_DAYS = 800
"""Longest difference of days in the table of a kernel."""
CHUNK = 1024
"""Queries solved at once."""


@dataclass(frozen=True)
class Standard:
    """The season's mean and standard deviation by day, which make NDVI stationary."""

    prior: Prior

    def forward(self, day: Floats, ndvi: Floats) -> Floats:
        """Return NDVI to z."""
        day = np.nan_to_num(day)
        return (ndvi - self.prior.at(day)) / self.prior.sd_at(day)

    def back(self, day: Ints, z: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """Return z and its variance to NDVI and its standard deviation."""
        at = day.astype(np.float64)
        sd = self.prior.sd_at(at)
        value = np.clip(self.prior.at(at) + sd * z, -1.0, 1.0)
        return value, sd * np.sqrt(np.maximum(variance, 1e-6))


class GaussianProcess:
    """A Gaussian process of a parcel's clear views alone."""

    name = "gp"

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:  # noqa: ARG002
        """Season's mean and sd, and the kernel of largest likelihood."""
        self.standard = Standard(Prior.fit(clear))
        z = self.standard.forward(clear.day, clear.ndvi)
        chosen = _some_parcels(clear, seed)
        kernel = (
            ConstantKernel(0.7) * Matern(60.0, nu=1.5) + ConstantKernel(0.2) * Matern(10.0, nu=1.5) + WhiteKernel(0.05)
        )
        processes = [
            GaussianProcessRegressor(kernel, optimizer=None).fit(clear.day[rows, None], z[rows]) for rows in chosen
        ]

        def loss(theta: Floats) -> tuple[float, Floats]:
            value, slope = 0.0, np.zeros(len(theta))
            for process in processes:
                one, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
                value, slope = value - one, slope - gradient
            return value, slope

        found = minimize(loss, kernel.theta, jac=True, method="L-BFGS-B", bounds=kernel.bounds, options={"maxiter": 40})
        fitted: Kernel = kernel.clone_with_theta(found.x)
        self.noise = float(fitted.k2.noise_level)
        self.table = np.asarray(fitted.k1(np.zeros((1, 1)), np.arange(MAX_DAYS + 1.0)[:, None]))[0]

    def fill(
        self,
        sar: SarSeries,  # noqa: ARG002
        views: Views,
        parcel: Ints,  # noqa: ARG002
        day: Ints,
        mode: Mode,  # noqa: ARG002
    ) -> tuple[Floats, Floats]:
        """Return the posterior of a clear view on each day."""
        views = _within_reach(views, day)
        z, variance = np.zeros(len(day)), np.zeros(len(day))
        for start in range(0, len(day), CHUNK):
            rows = slice(start, start + CHUNK)
            some = views.rows(rows)
            known = np.isfinite(some.day)
            days = np.nan_to_num(some.day)
            k = self._k(days[:, :, None] - days[:, None, :])
            k_day = self._k(days - day[rows, None])
            y = self.standard.forward(some.day, np.nan_to_num(some.ndvi))
            z[rows], variance[rows] = posterior(k, k_day, y, known, np.full(known.shape, self.noise))
        return self.standard.back(day, z, self.table[0] + self.noise - variance)

    def _k(self, days: Floats) -> Floats:
        return np.asarray(self.table[np.minimum(np.abs(days), MAX_DAYS).astype(np.int64)])


STEP_DAYS, STEPS_BACK, STEPS_AHEAD = 6, 20, 10
"""SAR that a query sees: as far back as views, and 60 days ahead."""
MIDDLE_DAYS = (STEP_DAYS - 1) / 2
"""From the middle of a step's days to its last."""
N_STEPS_OF_FIT = 300
"""80 steps of three latent processes were as good, of four worse."""


class Mogpr:
    """A multi-output Gaussian process of clear views and SAR (Pipia et al. 2019)."""

    name = "mogpr"

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        """Season's means, and the coregionalised kernel of largest likelihood over training parcels."""
        self.standard, self.scale = Standard(Prior.fit(clear)), OrbitScale.fit(sar)
        daily = DailySar.build(sar, self.scale, n_parcels)
        self.sar_mean, self.first_day = _sar_season(daily, n_parcels), daily.first_day
        z = self.standard.forward(clear.day, clear.ndvi)
        series = []
        for rows in _some_parcels(clear, seed):
            number = clear.parcel[rows][:1]
            days = np.arange(daily.first_day + STEP_DAYS, daily.last_day, STEP_DAYS)
            steps, present = self._sar(daily, np.repeat(number, len(days)), days, 1, 0)
            day = np.r_[clear.day[rows], np.tile(days - MIDDLE_DAYS, 2)]
            task = np.r_[np.zeros(len(rows)), np.ones(len(days)), np.full(len(days), 2.0)]
            y = np.r_[z[rows], steps[:, 0, 0], steps[:, 0, 1]]
            keep = np.r_[np.ones(len(rows), bool), present[:, 0], present[:, 0]]
            series.append((day[keep], task[keep], y[keep]))
        self.kernel = fit_coregionalisation(series, seed, N_STEPS_OF_FIT)

    def fill(self, sar: SarSeries, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:
        """Return the posterior of a clear view on each day."""
        views = _within_reach(views, day)
        daily = DailySar.build(sar, self.scale, int(max(sar.parcel.max(initial=0), parcel.max(initial=0))) + 1)
        ahead = 0 if mode == "causal" else STEPS_AHEAD
        z, variance = np.zeros(len(day)), np.zeros(len(day))
        offsets = STEP_DAYS * np.arange(-STEPS_BACK + 1, ahead + 1) - MIDDLE_DAYS
        for start in range(0, len(day), CHUNK):
            rows = slice(start, start + CHUNK)
            some, n = views.rows(rows), len(day[rows])
            steps, present = self._sar(daily, parcel[rows], day[rows], STEPS_BACK, ahead)
            days = np.concatenate([np.nan_to_num(some.day) - day[rows, None], np.tile(offsets, (n, 2))], axis=1)
            task = np.repeat([0, 1, 2], [some.day.shape[1], len(offsets), len(offsets)])
            y = np.concatenate(
                [self.standard.forward(some.day, np.nan_to_num(some.ndvi)), steps[..., 0], steps[..., 1]], axis=1
            )
            known = np.concatenate([np.isfinite(some.day), present, present], axis=1)
            k = self.kernel.at(days[:, :, None] - days[:, None, :], task[:, None], task[None, :])
            k_day = self.kernel.at(days, task, np.zeros_like(task))
            z[rows], variance[rows] = posterior(k, k_day, y, known, np.tile(self.kernel.noise[task], (n, 1)))
        return self.standard.back(day, z, self.kernel.table[0, 0, 0] + self.kernel.noise[0] - variance)

    def _sar(self, daily: DailySar, parcel: Ints, day: Ints, back: int, ahead: int) -> tuple[Floats, Bools]:
        """Return steps of anomalies of SAR from the season's mean (Q, T, 2), zero where there is none, and where there is some."""
        z, present = daily.windows(parcel, day + STEP_DAYS * ahead, back + ahead, STEP_DAYS)
        middle = day[:, None] + STEP_DAYS * np.arange(-back + 1, ahead + 1) - MIDDLE_DAYS
        at = np.clip(middle.astype(np.int64) - self.first_day, 0, len(self.sar_mean) - 1)
        return np.where(present[..., None], z - self.sar_mean[at], 0.0), present


def posterior(k: Floats, k_day: Floats, y: Floats, known: Bools, noise: Floats) -> tuple[Floats, Floats]:
    """Return mean of the process on queries' days (Q,), and by how much the observations lower its variance (Q,).

    Args:
        k: (Q, N, N) covariance of the observations without noise.
        k_day: (Q, N) with the query.
        y: (Q, N)
        known: (Q, N) which observations there are.
        noise: (Q, N) variances.
    """
    k = np.where(known[:, :, None] & known[:, None, :], k, 0.0)
    k[:, np.arange(k.shape[1]), np.arange(k.shape[1])] += np.where(known, noise + 1e-6, 1.0)
    k_day, y = np.where(known, k_day, 0.0), np.where(known, y, 0.0)
    solved = torch.linalg.solve_ex(torch.from_numpy(k), torch.from_numpy(k_day)[..., None])[0][..., 0].numpy()
    return (solved * y).sum(axis=1), (solved * k_day).sum(axis=1)


def _within_reach(views: Views, day: Ints) -> Views:
    """Return the views near the queries, in fewer columns."""
    days = np.where(np.abs(views.day - day[:, None]) <= REACH_DAYS, views.day, np.nan)
    order = np.argsort(days, axis=1, kind="stable")[:, : max(1, int(np.isfinite(days).sum(axis=1).max(initial=1)))]
    return Views(np.take_along_axis(days, order, axis=1), np.take_along_axis(views.ndvi, order, axis=1))


def _some_parcels(clear: ClearSeries, seed: int) -> list[Ints]:
    """Return the rows of clear views of some parcels, at least three each."""
    rng = np.random.default_rng(seed)
    parcels, n_views = np.unique(clear.parcel, return_counts=True)
    chosen = rng.permutation(parcels[n_views >= 3])[:LEARNED_PARCELS]
    return [np.flatnonzero(clear.parcel == parcel) for parcel in chosen]


def _sar_season(daily: DailySar, n_parcels: int) -> Floats:
    """Return mean standardised SAR of all training parcels by day (D, 2), over 31 days."""
    n_days = daily.last_day - daily.first_day + 1
    edges = np.arange(n_days)
    low, high = np.maximum(edges - 15, 0), np.minimum(edges + 16, n_days)
    sums = daily.sums[:n_parcels, :, 0].sum(axis=0)
    window = sums[daily.before[high]] - sums[daily.before[low]]
    return np.asarray(window[:, :2] / np.maximum(window[:, 2:], 1))
