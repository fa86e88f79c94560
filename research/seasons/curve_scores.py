"""Daily NDVI against the truth, on days without a clear view of the parcel.

Each way of knowing stands beside a baseline that has the same clear views, on exactly the same days:

    as known on the day    the causal row                      last clear view
    as known at the end    the newest row of the day           straight line between the clear views around it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from research.seasons.evaluate import Watched
from training.metrics import score_ndvi

Floats = NDArray[np.float64]
Z_95: Final = 1.96  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class CurveScores:
    """How well NDVI was known on days without a clear view."""

    method: str
    n: int
    rmse: float
    bias: float
    """Mean of predicted less true."""
    r2: float
    inside_95: float | None
    """Share of true values inside the 95 % interval; None for a method that gives none."""


def curves(
    watched: Watched, days: NDArray[np.datetime64], truth: Mapping[str, NDArray[np.float32]]
) -> tuple[CurveScores, ...]:
    """Return NDVI on days without a clear view, each way of knowing it beside a baseline on the same days.

    Args:
        days: (T,) the season's days.
        truth: true NDVI (T,) by source id.
    """
    parcels = [one for one in watched.parcels if one.is_monitorable and one.source_id in truth]
    keys = np.array([one.parcel_key for one in parcels], np.int64)
    true = np.stack([truth[one.source_id] for one in parcels]).astype(np.float64)
    seen = _grid(
        watched.views["parcel_key"], watched.views["observed_at"].astype("M8[D]"), watched.views["ndvi"], keys, days
    )
    last, line = last_values(seen), straight_lines(seen)
    scores: list[CurveScores] = []
    for rows, name, baseline, baseline_name in (
        (watched.causal, "as known on the day", last, "last clear view"),
        (watched.final, "as known at the end", line, "line between clear views"),
    ):
        ndvi, sd = (_grid(rows["parcel_key"], rows["day"], rows[what], keys, days) for what in ("ndvi", "ndvi_sd"))
        asked = np.isnan(seen) & np.isfinite(ndvi) & np.isfinite(baseline)
        if asked.any():
            scores.append(_curve_scores(name, true[asked], ndvi[asked], sd[asked]))
            scores.append(_curve_scores(baseline_name, true[asked], baseline[asked], None))
    return tuple(scores)


def last_values(seen: Floats) -> Floats:
    """Return (P, T) the newest value of each row up to each day; NaN before the first."""
    at = np.maximum.accumulate(np.where(np.isfinite(seen), np.arange(seen.shape[1]), -1), axis=1)
    return np.where(at >= 0, np.take_along_axis(seen, np.maximum(at, 0), axis=1), np.nan)


def straight_lines(seen: Floats) -> Floats:
    """Return (P, T) straight lines between the values of each row; NaN outside of them."""
    day = np.arange(seen.shape[1])
    out = np.full(seen.shape, np.nan)
    for row, values in zip(out, seen, strict=True):
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            row[:] = np.interp(day, known, values[known], left=np.nan, right=np.nan)
    return out


def _grid(
    parcel: NDArray[np.int64],
    day: NDArray[np.datetime64],
    value: NDArray[np.float32],
    keys: NDArray[np.int64],
    days: NDArray[np.datetime64],
) -> Floats:
    """Return (P, T) values by parcel and day, the largest where a day has several (cloud only lowers NDVI); NaN elsewhere."""
    out = np.full((len(keys), len(days)), np.nan)
    row = np.searchsorted(keys, parcel)
    column = (day.astype("M8[D]") - days[0].astype("M8[D]")).astype(int)
    inside = (column >= 0) & (column < len(days)) & (row < len(keys))
    inside[inside] &= keys[row[inside]] == parcel[inside]
    np.fmax.at(out, (row[inside], column[inside]), value[inside].astype(np.float64))
    return out


def _curve_scores(method: str, true: Floats, ndvi: Floats, sd: Floats | None) -> CurveScores:
    whole = score_ndvi(true, ndvi, [date.min] * len(true))
    inside = None if sd is None else float((np.abs(true - ndvi) <= Z_95 * sd).mean())
    return CurveScores(method, whole.n, whole.rmse, float((ndvi - true).mean()), whole.r2, inside)
