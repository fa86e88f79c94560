"""What a day knows: its reconstruction from SAR, the clear views it may use, the dips among them.

    dip_j   = v_j < min(v_(j-1), v_(j+1)) - 0.12  and  r_j < mean(r_(j-1), r_(j+1)) - 0.10
              and the neighbours lie within 25 days;   r = v - f

A causal day knows SAR and views up to itself, so a dip shows only once the recovery is seen. A retrospective day knows
everything there is, of SAR no more than 90 days ahead. Views farther than 120 days say nothing.
Source: dips, Chen et al. 2004 (a sudden fall of NDVI that recovers is cloud); depths as in DESIGN section 8.
Shapes: Q queries (parcel, day); M views of a parcel, padded with NaN, sorted by day.
Units:  days since the season's start; NDVI dimensionless.
Errors: none.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.ndvi_correction import NEAR_STEP_DAYS, NEAR_STEPS_AHEAD, NEAR_STEPS_BACK, Queries
from models.ndvi_inputs import Bools, ClearSeries, DailySar, Floats, Ints
from models.ndvi_reconstruction import SMOOTHING_DAYS, SarToNdvi, interpolate_steps, window_position

Mode = Literal["causal", "retrospective"]

SAR_REACH_DAYS = 18
"""SAR farther from a day than this says nothing of it (chosen as 1.5 repeats of one satellite)."""
VIEW_REACH_DAYS = 120
"""Views farther from a day than this say nothing of it (chosen as six ranges of what SAR misses)."""
DIP_DEPTH = 0.12
"""NDVI a dip lies below both neighbours (the drop that Sen4CAP takes for a mowing, DESIGN section 8)."""
DIP_BELOW_SAR = 0.10
"""NDVI a dip lies further below SAR than its neighbours do: one error of a good reconstruction."""
DIP_RECOVERY_DAYS = 25
"""Days between a dip's neighbours at most: regrowth after a cut takes longer (Sen4CAP: at most 30)."""


@dataclass(frozen=True)
class Prior:
    """Mean and sd of NDVI over all fields of the training season by day: what is known of a field never seen."""

    day: Floats
    mean: Floats
    sd: Floats

    @classmethod
    def fit(cls, clear: ClearSeries) -> "Prior":
        """Kernel means (sd 10 days) every 10 days; 0.5 +- 0.3, any land at any time, where there is no view."""
        if len(clear.day) == 0:
            return cls(np.zeros(1), np.full(1, 0.5), np.full(1, 0.3))
        knots = np.arange(clear.day.min(), clear.day.max() + 10, 10.0)
        total, mean, square = (np.zeros(len(knots)) for _ in range(3))
        for k, knot in enumerate(knots):
            w = np.exp(-0.5 * ((knot - clear.day) / 10.0) ** 2) + 1e-9  # 1e-9: the season's mean far from all views
            total[k], mean[k], square[k] = w.sum(), w @ clear.ndvi, w @ clear.ndvi**2
        mean = mean / total
        return cls(knots, mean, np.sqrt(np.maximum(square / total - mean**2, 0.1**2)))  # never narrower than 0.1

    def at(self, day: Floats) -> Floats:
        """The mean on days."""
        return np.interp(day, self.day, self.mean)

    def sd_at(self, day: Floats) -> Floats:
        """The sd on days."""
        return np.interp(day, self.day, self.sd)


def build_queries(
    sar_to_ndvi: SarToNdvi,
    prior: Prior,
    daily: DailySar,
    views: tuple[Floats, Floats],
    parcel: Ints,
    day: Ints,
    end: Ints | None,
) -> Queries:
    """The queries (parcel, day), dips already taken out of their views.

    Args:
        sar_to_ndvi: the trained network.
        prior: what stands in for f where there is no SAR near.
        daily: the SAR there is.
        views: days and NDVI of the clear views there are, (P, M) padded with NaN and sorted.
        parcel: (Q,) row of `daily` and `views`.
        day: (Q,) whole days.
        end: (Q,) the last day each query knows of, not before the day itself: f is of the window that ends there; the
            day itself in causal mode. None: each query knows everything, f is the mean of several windows.
    """
    view_day, view_ndvi = np.floor(views[0][parcel]), views[1][parcel]
    near_sar, _ = daily.windows(
        parcel, day + NEAR_STEP_DAYS * NEAR_STEPS_AHEAD, NEAR_STEPS_BACK + NEAR_STEPS_AHEAD, NEAR_STEP_DAYS
    )
    ahead = day + SAR_REACH_DAYS - 1
    if end is None:
        f, view_f = _smoothed_f(sar_to_ndvi, daily, parcel, day, view_day)
    else:
        f, view_f = _windowed_f(sar_to_ndvi, daily, parcel, day, view_day, end)
        view_day = np.where(view_day <= end[:, None], view_day, np.nan)
        step_end = day[:, None] + NEAR_STEP_DAYS * np.arange(1 - NEAR_STEPS_BACK, NEAR_STEPS_AHEAD + 1)
        near_sar = np.where((step_end <= end[:, None])[..., None], near_sar, 0.0)
        ahead = np.minimum(ahead, end)
    has_sar = daily.is_near(parcel, day - SAR_REACH_DAYS + 1, ahead) & np.isfinite(f)
    f = np.where(has_sar, f, prior.at(day.astype(np.float64)))
    # Without SAR the prior stands in on the views' days too, so that residuals compare like with like.
    view_f = np.where(has_sar[:, None], view_f, prior.at(np.nan_to_num(view_day)))
    is_known = (np.abs(view_day - day[:, None]) <= VIEW_REACH_DAYS + DIP_RECOVERY_DAYS) & np.isfinite(view_f)
    view_day = np.where(is_known, view_day, np.nan)
    is_used = ~find_dips(view_day, view_ndvi, view_f) & (np.abs(view_day - day[:, None]) <= VIEW_REACH_DAYS)
    view_day = np.where(is_used, view_day, np.nan)
    return Queries(day.astype(np.float64), f, has_sar, view_day, view_ndvi, view_f, near_sar)


def _windowed_f(
    sar_to_ndvi: SarToNdvi, daily: DailySar, parcel: Ints, day: Ints, view_day: Floats, end: Ints
) -> tuple[Floats, Floats]:
    """f of the queries (Q,) and of their views (Q, M) from the windows ending on `end`, each computed once."""
    (parcels, ends), row = np.unique(np.stack([parcel, end]), axis=1, return_inverse=True)
    out = sar_to_ndvi.windows(daily, parcels, ends)
    ndvi = np.where(out.is_valid[:, None], out.ndvi, np.nan)[row.reshape(-1)]
    at = window_position(sar_to_ndvi.config, day, end)
    f = np.where(at >= 0, interpolate_steps(ndvi, at[:, None])[:, 0], np.nan)
    position = window_position(sar_to_ndvi.config, view_day, end[:, None])
    return f, np.where(position >= 0, interpolate_steps(ndvi, np.nan_to_num(position)), np.nan)


def _smoothed_f(
    sar_to_ndvi: SarToNdvi, daily: DailySar, parcel: Ints, day: Ints, view_day: Floats
) -> tuple[Floats, Floats]:
    """f of the queries (Q,) and of their views (Q, M), each parcel and day reconstructed once."""
    reach = VIEW_REACH_DAYS + DIP_RECOVERY_DAYS
    first, last = int(day.min()) - reach, int(day.max()) + reach
    in_reach = view_day[(view_day >= first) & (view_day <= last)]
    first = int(min(day.min(), in_reach.min(initial=np.inf)))
    last = int(max(day.max(), in_reach.max(initial=-np.inf)))
    parcels, row = np.unique(parcel, return_inverse=True)
    all_f = sar_to_ndvi.retrospective(daily, parcels, np.arange(first, last + 1))
    is_inside = (view_day >= first) & (view_day <= last)
    column = np.where(is_inside, view_day - first, 0).astype(np.int64)
    return all_f[row, day - first], np.where(is_inside, all_f[row[:, None], column], np.nan)


def find_dips(view_day: Floats, view_ndvi: Floats, view_f: Floats) -> Bools:
    """True at views (Q, M) that are residual cloud; sorted by day, NaN days are no views and lie at the ends."""
    is_dip = np.zeros(view_day.shape, dtype=bool)
    if view_day.shape[1] < 3:
        return is_dip
    before, at, after = slice(None, -2), slice(1, -1), slice(2, None)
    residual = view_ndvi - view_f
    neighbours = np.minimum(view_ndvi[:, before], view_ndvi[:, after])
    expected = (residual[:, before] + residual[:, after]) / 2
    is_dip[:, at] = (
        (view_day[:, after] - view_day[:, before] <= DIP_RECOVERY_DAYS)
        & np.isfinite(view_day[:, at])
        & (view_ndvi[:, at] < neighbours - DIP_DEPTH)
        & (residual[:, at] < expected - DIP_BELOW_SAR)
    )
    return is_dip


def informed_days(
    clear_days: Ints, new_day: int, sensor: Literal["s1", "s2"], mode: Mode, last_day: int
) -> tuple[int, int]:
    """The first and last day whose rows a new acquisition of one parcel can change.

    Args:
        clear_days: the parcel's days with a clear view, in any order, with or without the new one.
        new_day: the acquisition's day.
        sensor: a clear view of S2, or SAR.
        mode: of the rows.
        last_day: the last day there are rows of (today).

    A causal row knows the past only: an acquisition in time changes no earlier row, a late one changes those since. A
    retrospective row depends on the two views on each side of it, and on a dip among them, which the third may show.
    """
    if mode == "causal":
        reach = VIEW_REACH_DAYS + DIP_RECOVERY_DAYS if sensor == "s2" else 10**6
        later = [int(d) for d in np.unique(clear_days) if d > new_day][3:4] if sensor == "s2" else []
        return new_day, min([last_day, new_day + reach, *later])
    days, reach = np.unique(clear_days), VIEW_REACH_DAYS + DIP_RECOVERY_DAYS
    if sensor == "s1":
        # f changes back to here, and with it what the views since then say of the days before.
        turn = new_day - SMOOTHING_DAYS
        before = days[days < turn]
        return (int(before[-4]) if len(before) >= 4 else turn - reach), last_day
    before, after = days[days < new_day], days[days > new_day]
    first = int(before[-4]) if len(before) >= 4 else new_day - reach
    last = int(after[3]) if len(after) >= 4 else new_day + reach
    return max(first, new_day - reach), min(last, new_day + reach, last_day)
