"""Clear views correct the reconstruction from SAR: a value and its standard deviation at any day.

    r_i   = v_i - f(t_i)                                  what SAR missed at the clear view i
    base  = f(t) + c' K^-1 r,   c_i = e^(-|t - t_i| / tau)    kriging of r between the nearest views on each side
    free  = sqrt(1 - c' K^-1 c)                            0 at a view, 1 far from any
    value = base + free m(x),   sd^2 = view_sd^2 + free^2 e^(2 s(x))

m and s are a small network's answers to the two nearest views on each side (their age, value and f), the SAR of the
weeks around and the season. It is trained by Gaussian likelihood on clear views hidden in gaps; sd is then scaled so
that 1.96 sd hold 95 % of the hidden views of parcels that no part of the model saw. Causal: earlier views and SAR only.
Source: simple kriging, Chiles and Delfiner 2012, ch. 3; the learned part is ours (bench in docs/LOG.md).
Shapes: Q queries, M views of a query's parcel (NaN where none), K nearest views (previous, next).
Units:  days; NDVI dimensionless.
Errors: none; a query without views and without SAR is answered by the caller's prior.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.ndvi_inputs import DAYS_OF_YEAR, Bools, Floats, Ints

N_SIDE = 2
"""Views used on each side (chosen because the second tells a trend from a lone value)."""
TAU_DAYS = 20.0
"""Range of what SAR missed: 10 to 40 days gave the same error within 0.004 on Dutch parcels, 20 the least."""
N_FEATURES_OF_VIEW = 6
SCALE_DAYS = (4.0, 10.0, 20.0, 40.0)
"""Distances to the nearest view at which sd is calibrated, linear between (the gaps it is judged by end 5 to 45 days off)."""
MIN_CALIBRATION = 100
"""Hidden views a distance needs for a scale of its own (5 of them then lie beyond 1.96 sd)."""
DROP = 0.12
"""NDVI a view falls below the one before, and below SAR, to be doubted (the depth of a dip in models.ndvi_views)."""
NEAR_STEPS_BACK, NEAR_STEPS_AHEAD = 8, 4
"""Steps of SAR around a day that the correction sees itself (MCNN-Seq alone: causal error at 30 days 0.124, not 0.112)."""
NEAR_STEP_DAYS = 6
HIDDEN = 96
FIT_UPDATES = 4000
FIT_BATCH = 512
FIT_RATE = 3e-3
WEIGHT_DECAY = 1e-3
"""Chosen by trial: 64 units, 2500 updates and one harmonic had 0.099 at 30 days, not 0.092; see docs/LOG.md."""


@dataclass(frozen=True)
class Queries:
    """Days asked for, each with the reconstruction there and the clear views that may be used."""

    day: Floats
    """(Q,)"""
    f: Floats
    """(Q,) NDVI from SAR on the day, or the seasonal prior."""
    has_sar: Bools
    """(Q,) whether f is from SAR."""
    view_day: Floats
    """(Q, M) days of clear views, NaN where none; in any order."""
    view_ndvi: Floats
    """(Q, M)"""
    view_f: Floats
    """(Q, M) f on the views' days, of the same window or prior."""
    near_sar: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """(Q, steps, 2) standardised SAR from 8 steps back to 4 ahead, zero where there is none; empty: none at all."""

    def __post_init__(self) -> None:
        """Give queries without SAR around them the shape the correction takes."""
        if self.near_sar.size == 0:
            object.__setattr__(self, "near_sar", np.zeros((len(self.day), NEAR_STEPS_BACK + NEAR_STEPS_AHEAD, 2)))

    def rows(self, keep: Bools | Ints) -> "Queries":
        """The chosen queries."""
        return Queries(*(values[keep] for values in vars(self).values()))


@dataclass(frozen=True)
class Inputs:
    """What the correction sees of queries."""

    base: Floats
    free: Floats
    """(Q,) share of the sd that the views leave free."""
    x: Floats
    """(Q, n_features)"""
    n_views: Floats
    """(Q,) views found among the nearest."""
    nearest: Floats
    """(Q,) days to the nearest view, infinite where none."""
    unconfirmed_drop: Floats
    """(Q,) how far the newest view fell below what SAR explains, where no later view has confirmed it; else 0."""

    def rows(self, keep: Bools) -> "Inputs":
        """The inputs of the chosen queries."""
        return Inputs(*(values[keep] for values in vars(self).values()))


class Correction(nn.Module):
    """The small network of m(x) and s(x), with the scale that calibrates its sd."""

    x_mean: Tensor
    x_sd: Tensor
    sd_scale: Tensor

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        n_features = n_inputs(is_causal)
        self.layers = nn.Sequential(
            nn.Linear(n_features, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 2)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        with torch.no_grad():
            self.layers[-1].bias.copy_(torch.tensor([0.0, -2.3]))  # type: ignore[operator]  # sd 0.1 at first
        self.register_buffer("x_mean", torch.zeros(n_features))
        self.register_buffer("x_sd", torch.ones(n_features))
        self.register_buffer("sd_scale", torch.ones(len(SCALE_DAYS)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m(x) and s(x), (Q,) each; s kept where an NDVI can have it (0.007 to 1)."""
        # 6 sd: no series, however odd, takes the network where it never learned.
        out = self.layers(((x - self.x_mean) / self.x_sd).clamp(-6.0, 6.0))
        return out[:, 0], out[:, 1].clamp(-5.0, 0.0)

    def correct(self, inputs: Inputs, view_sd: float) -> tuple[Floats, Floats]:
        """Value and sd of queries."""
        with torch.inference_mode():
            m, s = self(torch.as_tensor(inputs.x, dtype=torch.float32))
        value = np.clip(inputs.base + inputs.free * m.double().numpy(), -1.0, 1.0)
        scale = np.interp(inputs.nearest, SCALE_DAYS, self.sd_scale.double().numpy())
        return value, np.hypot(view_sd, inputs.free * np.exp(s.double().numpy()) * scale)

    def calibrate(self, inputs: Inputs, target: Floats, view_sd: float) -> None:
        """Sets the scale of sd by the distance to the nearest view, so that 1.96 sd hold 95 % of the targets."""
        self.sd_scale.fill_(1.0)
        value, sd = self.correct(inputs, view_sd)
        # The scale that each target would need for 1.96 sd to reach it; the view's own part of sd stays as it is.
        needed = np.sqrt(np.maximum(((target - value) / 1.96) ** 2 - view_sd**2, 0.0) / (sd**2 - view_sd**2 + 1e-12))
        edges = np.r_[-1.0, (np.array(SCALE_DAYS[1:]) + SCALE_DAYS[:-1]) / 2, np.inf]
        for i in range(len(SCALE_DAYS)):
            inside = (inputs.nearest > edges[i]) & (inputs.nearest <= edges[i + 1])
            part = needed[inside] if inside.sum() >= MIN_CALIBRATION else needed
            # 0.5: a handful of views must not make the curve twice as sure as the likelihood has it.
            self.sd_scale[i] = max(float(np.quantile(part, 0.95)), 0.5)


def n_inputs(is_causal: bool) -> int:
    """Features the correction takes."""
    near = 2 * (NEAR_STEPS_BACK + (0 if is_causal else NEAR_STEPS_AHEAD))
    return 7 + near + N_FEATURES_OF_VIEW * N_SIDE * (1 if is_causal else 2)


def correction_inputs(queries: Queries, is_causal: bool) -> Inputs:
    """Base, free share and features of queries; a causal one uses no view after its day."""
    sides = [_nearest(queries, is_past=True)]
    if not is_causal:
        sides.append(_nearest(queries, is_past=False))
    base, free = _krige(queries.f, [(side[0][:, 0], side[1][:, 0] - side[2][:, 0]) for side in sides])
    # Two harmonics of the year: what f is worth changes with the season.
    angles = 2 * np.pi * queries.day / DAYS_OF_YEAR
    season = [wave(k * angles) for k in (1, 2) for wave in (np.sin, np.cos)]
    features = [queries.f, queries.has_sar.astype(np.float64), free, *season]
    near_sar = queries.near_sar[:, : NEAR_STEPS_BACK if is_causal else None]
    features += list(near_sar.reshape(len(queries.day), -1).T)
    for age, ndvi, f in sides:
        for i in range(N_SIDE):
            has = np.isfinite(age[:, i])
            near, far = (np.where(has, np.exp(-age[:, i] / tau), 0.0) for tau in (TAU_DAYS, 4 * TAU_DAYS))
            rest = [ndvi[:, i] - base, f[:, i] - queries.f, ndvi[:, i] - f[:, i]]
            features += [has.astype(np.float64), near, far, *(np.where(has, part, 0.0) for part in rest)]
    ages = np.concatenate([side[0] for side in sides], axis=1)
    return Inputs(
        base,
        free,
        x=np.stack(features, axis=1),
        n_views=np.isfinite(ages).sum(axis=1).astype(np.float64),
        nearest=np.where(np.isfinite(ages), ages, np.inf).min(axis=1),
        unconfirmed_drop=_unconfirmed_drop(sides),
    )


def _unconfirmed_drop(sides: list[tuple[Floats, Floats, Floats]]) -> Floats:
    """A fall of the newest view that may be cloud as well as harvest; it fades with the view's influence."""
    age, ndvi, f = sides[0]
    residual = ndvi - f
    drop = residual[:, 1] - residual[:, 0]
    is_suspect = (drop > DROP) & (ndvi[:, 1] - ndvi[:, 0] > DROP)  # NaN compares false
    if len(sides) > 1:
        is_suspect &= ~np.isfinite(sides[1][0][:, 0])
    return np.where(is_suspect, drop * np.exp(-np.nan_to_num(age[:, 0]) / TAU_DAYS), 0.0)


def _nearest(queries: Queries, is_past: bool) -> tuple[Floats, Floats, Floats]:
    """Age, NDVI and f (Q, N_SIDE) of the nearest views on one side, NaN where there are fewer."""
    age = queries.day[:, None] - queries.view_day if is_past else queries.view_day - queries.day[:, None]
    # A view of the day itself belongs to the past side, so that no view is on both.
    usable = (age >= 0) if is_past else (age > 0)
    far = np.where(usable, age, np.inf)  # NaN compares false
    if far.shape[1] < N_SIDE:
        far = np.pad(far, ((0, 0), (0, N_SIDE - far.shape[1])), constant_values=np.inf)
    order = np.argpartition(far, N_SIDE - 1, axis=1)[:, :N_SIDE] if far.shape[1] > N_SIDE else np.argsort(far, axis=1)
    order = np.take_along_axis(order, np.argsort(np.take_along_axis(far, order, axis=1), axis=1), axis=1)
    picked = np.take_along_axis(far, order, axis=1)
    column = np.minimum(order, queries.view_day.shape[1] - 1)
    has = np.isfinite(picked)
    ndvi, f = (np.take_along_axis(values, column, axis=1) for values in (queries.view_ndvi, queries.view_f))
    return np.where(has, picked, np.nan), np.where(has, ndvi, np.nan), np.where(has, f, np.nan)


def _krige(f: Floats, sides: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Base and free share from the nearest view of each side, (age, residual) each; exact at a view."""
    c = [np.where(np.isfinite(age), np.exp(-np.nan_to_num(age) / TAU_DAYS), 0.0) for age, _ in sides]
    r = [np.nan_to_num(residual) for _, residual in sides]
    if len(sides) == 1:
        return f + c[0] * r[0], np.sqrt(1 - c[0] ** 2)
    k = c[0] * c[1]  # correlation of the two views: they lie age + age apart
    det = np.maximum(1 - k**2, 1e-9)
    w = [(c[0] - k * c[1]) / det, (c[1] - k * c[0]) / det]
    gain = np.clip(w[0] * c[0] + w[1] * c[1], 0.0, 1.0)
    return f + w[0] * r[0] + w[1] * r[1], np.sqrt(1 - gain)


def fit_correction(
    inputs: Inputs,
    target: Floats,
    is_calibration: Bools,
    is_causal: bool,
    view_sd: float,
    seed: int,
    n_updates: int = FIT_UPDATES,
) -> Correction:
    """The correction learned from hidden views, its sd calibrated on those that are set aside for it.

    Args:
        inputs: of hidden views.
        target: (Q,) their NDVI.
        is_calibration: (Q,) views of parcels that no part of the model learns from; none: the sd is calibrated on all.
        is_causal: which correction.
        view_sd: sd of one view.
        seed: of weights and batches.
        n_updates: of the fit.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Correction(is_causal)
    learn = np.full_like(is_calibration, True) if is_calibration.all() else ~is_calibration
    x, base, free, y = (
        torch.as_tensor(part[learn], dtype=torch.float32) for part in (inputs.x, inputs.base, inputs.free, target)
    )
    model.x_mean.copy_(x.mean(dim=0))
    model.x_sd.copy_(x.std(dim=0).nan_to_num(0.0) + 1e-3)  # 1e-3: a feature that never varies
    optimiser = torch.optim.AdamW(model.parameters(), lr=FIT_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_updates)
    for _ in range(n_updates):
        rows = torch.as_tensor(rng.integers(0, len(y), FIT_BATCH))
        m, s = model(x[rows])
        variance = view_sd**2 + (free[rows] * s.exp()) ** 2
        z = (base[rows] + free[rows] * m - y[rows]) / variance.sqrt()
        # Beyond 3 sd an error counts linearly: a dip missed by the screening must not widen every gap.
        loss = (torch.where(z.abs() < 3, z**2, 6 * z.abs() - 9) + variance.log()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()
    held = is_calibration if is_calibration.any() else learn
    model.calibrate(inputs.rows(held), target[held], view_sd)
    return model
