"""What the gap network is given: steps of radar, clear views, and the queries between them with their kriging.

    r_i  = v_i - prior(t_i)                                   a view beside the season of all fields
    base = prior(t) + c' K^-1 r,   c_i = e^(-|t - t_i| / tau)     simple kriging between the nearest view of each side
    free = sqrt(1 - c' K^-1 c)                                 0 at a view, 1 far from any

A step holds the days [6 n, 6 n + 5] since the season's start, whatever is asked; the head sees in addition the steps that
end on the query's own day. A query may use the first `n_before` views of its series and those from `first_after` on, so that
views hidden in a gap need no series of their own, and a causal query has no view after its day.
Source: simple kriging, Chiles and Delfiner 2012, ch. 3; step as Zhao et al. 2020, the 6-day repeat of two satellites.
Shapes: S series of M views, NaN after the last; Q queries.
Units:  days since the season's start; NDVI dimensionless.
Errors: none; rows must be cleaned.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.ndvi.inputs import (
    Bools,
    Checksums,
    DailySar,
    Floats,
    Ints,
    OrbitScale,
    SarSeries,
    checksums,
    season_channels,
)
from models.ndvi.network import N_STEP_CHANNELS, GapConfig
from models.ndvi.views import Prior

STEP_DAYS = 6
HISTORY_DAYS = 366
"""Radar read before the season's start, at most (chosen as a crop sown a year ahead): what a parcel is read from never moves."""
TAU_DAYS = 20.0
"""Range of what the season does not say: 10 to 40 days gave the same error within 0.004 on Dutch parcels, 20 the least."""
AGE_SCALES = (10.0, 40.0)
"""Days over which a view's influence fades in the head's features."""
RESIDUAL_SCALE = 3.0
"""Residuals of NDVI, 0.1 to 0.5, times this are of the order of the other inputs."""
LOG_DAYS_SCALE = 5.0
"""log(1 + 148 days): a gap as long as a winter is 1."""
MAX_GAP_DAYS = 200.0
"""Time since the view before, beyond which it is taken for this."""


@dataclass(frozen=True)
class Series:
    """Clear views by series: a parcel's, or those of them that may be used."""

    parcel: Ints
    """(S,) parcel of the radar."""
    day: Floats
    """(S, M) ascending, NaN after the last."""
    ndvi: Floats
    """(S, M)"""

    @cached_property
    def n_views(self) -> Ints:
        """Return (S,) views of each."""
        return np.asarray(np.isfinite(self.day).sum(axis=1))

    def checksums(self, day: Ints) -> Checksums:
        """Return (S,) the checksum of the views up to a day of each."""
        # NaN compares false.
        return np.asarray(np.where(self.day <= day[:, None], checksums(self.day, self.ndvi), np.uint64(0)).sum(axis=1))

    def columns(self, after: Ints, to: Ints | None = None) -> tuple[Ints, Ints]:
        """Columns (S, N) of the views after a day of each, N at least one, and how many there are of them, to another day."""
        # NaN compares false.
        n_before = (self.day <= after[:, None]).sum(axis=1)
        n = (self.n_views if to is None else (self.day <= to[:, None]).sum(axis=1)) - n_before
        columns = n_before[:, None] + np.arange(max(1, int(n.max(initial=0))))
        return np.minimum(columns, self.day.shape[1] - 1), n

    def rows(self, keep: Bools | Ints | slice) -> "Series":
        """Return the chosen series."""
        return Series(self.parcel[keep], self.day[keep], self.ndvi[keep])


@dataclass(frozen=True)
class GapQueries:
    """Days asked for, and which views of their series may be used."""

    series: Ints
    """(Q,)"""
    day: Ints
    """(Q,)"""
    n_before: Ints
    """(Q,) the first ones of the series that may be used: those before the gap."""
    first_after: Ints
    """(Q,) the first one after the gap; at least the series' number of views: none."""

    @classmethod
    def at(cls, series: Series, of: Ints, day: Ints, half_gap: Floats | float = 0.0) -> "GapQueries":
        """Queries on days around which views within `half_gap` days are hidden; with 0 that of the day itself is used."""
        given = series.day[of]
        hidden = np.broadcast_to(half_gap, day.shape)
        before = np.where(hidden > 0, day - hidden, day + 0.5)[:, None]
        # NaN compares false, and lies after the last view.
        n_before, n_to = (given < before).sum(axis=1), (given <= np.maximum(day + hidden, before[:, 0])[:, None]).sum(1)
        return cls(of, day, n_before, n_to)

    def rows(self, keep: Bools | Ints | slice) -> "GapQueries":
        """Return the chosen queries."""
        return GapQueries(self.series[keep], self.day[keep], self.n_before[keep], self.first_after[keep])


@dataclass(frozen=True)
class Steps:
    """Radar by direction: any window of steps is two lookups."""

    daily: DailySar

    @classmethod
    def build(cls, sar: SarSeries, scale: OrbitScale, n_parcels: int) -> "Steps":
        """Return the steps of cleaned rows, less those long before the season."""
        return cls(DailySar.build(sar.rows(sar.day >= -HISTORY_DAYS), scale, n_parcels, by_direction=True))

    @cached_property
    def first_days(self) -> Ints:
        """Return the day of each parcel's first acquisition (P,), `NEVER` where it has none."""
        return self.daily.first_days()

    @property
    def last_day(self) -> int:
        """Return the last day with an acquisition of any parcel; 0 where there is none."""
        return self.daily.last_day if self.daily.checksum.any() else 0

    def ending_on(self, parcel: Ints, end: Ints, n_steps: int) -> Floats:
        """Return (B, n_steps, 6) the steps of which the last ends on `end`, zero where there is nothing."""
        z, has = self.daily.windows_by_side(parcel, end, n_steps, STEP_DAYS)
        # VV of both directions, then VH of both, then presence: as the branches take them.
        return np.concatenate([z[..., 0], z[..., 1], has], axis=2)

    def checksums(self, step: Ints) -> Checksums:
        """Return (P,) the checksum of what each parcel's steps before one (P,) hold."""
        return self.daily.checksums(STEP_DAYS * step)

    def is_near(self, parcel: Ints, first_day: Ints, last_day: Ints) -> Bools:
        """Say whether there is an acquisition from one day to another (Q,)."""
        return self.daily.is_near(parcel, first_day, last_day)

    def near(self, parcel: Ints, day: Ints, config: GapConfig, known: Ints | None = None) -> Floats:
        """Return (Q, steps back + ahead, 6) the steps around days; nothing of those that end after `known`."""
        ahead = config.n_near_steps - config.steps_back
        x = self.ending_on(parcel, day + STEP_DAYS * ahead, config.n_near_steps)
        if known is not None and ahead:
            end = day[:, None] + STEP_DAYS * np.arange(1 - config.steps_back, ahead + 1)
            x[end > known[:, None]] = 0.0
        return x


def next_step(day: Ints) -> Ints:
    """Return the first step that has not ended by the end of a day."""
    return np.asarray((day + 1) // STEP_DAYS)


@dataclass(frozen=True)
class StepGrid:
    """The steps that each parcel is read in, from its own first one, so that no parcel depends on what it is read with."""

    first: Ints
    """(P,) number of the first step since the season's start, negative before it."""
    n: int
    """Steps of the longest."""

    @classmethod
    def over(cls, first_day: Ints, last_day: Ints) -> "StepGrid":
        """Return the steps of parcels that hold the days from one to another (P,); at least one.

        A parcel whose first day is after its last has none: it is not read, whatever the others need.
        """
        last = last_day // STEP_DAYS
        first = np.minimum(first_day // STEP_DAYS, last + 1)
        return cls(first, int((last - first).max(initial=0)) + 1)

    @property
    def ends(self) -> Ints:
        """Return (P, n) last day of each."""
        return np.asarray(STEP_DAYS * (self.first[:, None] + np.arange(self.n) + 1) - 1)

    def complete(self, parcel: Ints, day: Ints | Floats) -> Ints:
        """Steps that have ended by the end of a day, 0 to n."""
        ended = next_step(np.nan_to_num(day).astype(np.int64))
        return np.asarray(np.clip(ended - self.first[parcel], 0, self.n))

    def begun(self, day: Ints) -> Ints:
        """Return (P,) steps that have begun by a day (P,), 0 to n."""
        return np.asarray(np.clip(day // STEP_DAYS + 1 - self.first, 0, self.n))


@dataclass(frozen=True)
class Answers:
    """The kriging of queries, and what the head sees of them."""

    base: Floats
    """(Q,)"""
    free: Floats
    """(Q,)"""
    features: Floats
    """(Q, n_features)"""
    nearest: Floats
    """(Q,) days to the nearest view that may be used, infinite where there is none."""
    n_views: Ints
    """(Q,) views used, of the nearest."""


def step_inputs(x: Floats, grid: StepGrid, config: GapConfig, shift: float = 0.0) -> Tensor:
    """Return (P, T, 6 + season) steps (P, T, 6) with the season; `shift` moves the season by days (augmentation)."""
    return _tensor(np.concatenate([x, season_channels(grid.ends + shift, config.n_harmonics)], axis=2))


def view_inputs(
    series: Series, prior: Prior, config: GapConfig, shift: float = 0.0, column: Ints | None = None
) -> Tensor:
    """Return (S, M, 3 + season) of the views, zero after the last; with `column` (S, N) of those alone."""
    has = np.isfinite(series.day)
    day, ndvi = np.where(has, series.day, 0.0), np.where(has, series.ndvi, 0.0)
    since: Floats = np.diff(day, axis=1, prepend=day[:, :1] - MAX_GAP_DAYS)
    if column is not None:
        has, day, ndvi, since = (np.take_along_axis(one, column, axis=1) for one in (has, day, ndvi, since))
    values = [RESIDUAL_SCALE * (ndvi - prior.at(day + shift)), ndvi, _log_days(np.clip(since, 0, MAX_GAP_DAYS))]
    x = np.concatenate([np.stack(values, axis=2), season_channels(day + shift, config.n_harmonics)], axis=2)
    return _tensor(np.where(has[..., None], x, 0.0))


def answer_inputs(
    series: Series, queries: GapQueries, near: Floats, prior: Prior, config: GapConfig, shift: float = 0.0
) -> Answers:
    """Kriging and features of queries; `near` (Q, steps, 6) is the radar around them."""
    day = queries.day.astype(np.float64)
    expected = prior.at(day + shift)
    sides = [_nearest(series, queries, prior, shift, config.n_nearest, is_past=True)]
    if not config.is_causal:
        sides.append(_nearest(series, queries, prior, shift, config.n_nearest, is_past=False))
    base, free = _krige(expected, [(age[:, 0], residual[:, 0]) for age, residual in sides])
    features = [free[:, None], season_channels(day + shift, config.n_harmonics)]
    for age, residual in sides:
        has = np.isfinite(age)
        known, r = np.where(has, age, 0.0), np.where(has, residual, 0.0)
        fades = [np.exp(-known / scale) for scale in AGE_SCALES]
        values = [*fades, _log_days(known), RESIDUAL_SCALE * r, RESIDUAL_SCALE * (r + (expected - base)[:, None])]
        features += [has.astype(np.float64), *(np.where(has, one, 0.0) for one in values)]
    ages = np.concatenate([age for age, _ in sides], axis=1)
    features.append(near.reshape(len(day), config.n_near_steps * N_STEP_CHANNELS))
    return Answers(
        base,
        free,
        np.concatenate(features, axis=1),
        nearest=np.where(np.isfinite(ages), ages, np.inf).min(axis=1),
        n_views=np.isfinite(ages).sum(axis=1),
    )


def _nearest(
    series: Series, queries: GapQueries, prior: Prior, shift: float, n: int, is_past: bool
) -> tuple[Floats, Floats]:
    """Age and residual (Q, n) of the nearest views on one side, NaN where there are fewer."""
    order = np.arange(n)
    column = queries.n_before[:, None] - 1 - order if is_past else queries.first_after[:, None] + order
    width = series.day.shape[1]
    at = (queries.series[:, None], np.clip(column, 0, width - 1))
    day = np.where((column >= 0) & (column < width), series.day[at], np.nan)
    age: Floats = np.where(is_past, 1.0, -1.0) * (queries.day[:, None] - day)
    return age, np.where(np.isfinite(age), series.ndvi[at] - prior.at(np.nan_to_num(day) + shift), np.nan)


def _krige(expected: Floats, sides: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Base and free share from the nearest view of each side, (age, residual) each; exact at a view."""
    c = [np.where(np.isfinite(age), np.exp(-np.nan_to_num(age) / TAU_DAYS), 0.0) for age, _ in sides]
    r = [np.nan_to_num(residual) for _, residual in sides]
    if len(sides) == 1:
        return expected + c[0] * r[0], np.sqrt(1 - c[0] ** 2)
    k = c[0] * c[1]  # correlation of the two views: they lie age + age apart
    det = np.maximum(1 - k**2, 1e-9)
    w = [(c[0] - k * c[1]) / det, (c[1] - k * c[0]) / det]
    gain = np.clip(w[0] * c[0] + w[1] * c[1], 0.0, 1.0)
    return expected + w[0] * r[0] + w[1] * r[1], np.sqrt(1 - gain)


def _log_days(days: Floats) -> Floats:
    return np.asarray(np.log1p(days) / LOG_DAYS_SCALE)


def _tensor(values: Floats) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
