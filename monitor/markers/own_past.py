"""Departure of grassland and permanent crops from their own past seasons: robust z-scores by dekad.

    norm    median m and s = 1.4826 median |x - m| of the greenest views x of a dekad and its two neighbours, of three past seasons or more
    z       (x - m) / max(s, 0.05)        x: the parcel's greenest clear view of the dekad
    value   how many of the dekads asked, up to the newest, have z beyond 3.5 on one side in a row; 0 of fewer than 3

Asked are dekads with vegetation in the norm. Arable land rotates: another crop is no departure, and nothing is asked of it.
Source: the modified z-score and its 3.5, Iglewicz and Hoaglin 1993 (How to Detect and Handle Outliers); the rest as said beside it.
Shapes: P parcels, K dekads of the season, Y past seasons.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Floats, Ints
from monitor.dekads import dekads_begin
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Marked
from monitor.markers.vigour import DEKADS, SUREST, n_behind

VERSION: Final = "1"
GROUPS: Final = ("3302", "3303")
"""HCAT groups that stay on their ground: permanent grassland, permanent crops."""
LEAST_SEASONS: Final = 3
"""Past seasons with fewer of which a median of years says nothing of the ordinary year."""
MOST_SEASONS: Final = 5
"""Past seasons that are read: what stood longer ago may have been another stand."""
FAR: Final = 3.5
"""Robust standard deviations (Iglewicz and Hoaglin 1993)."""
LEAST_SD: Final = 0.05
"""Of NDVI: the noise of a view (0.03) on either side; with few values a spread can be small by chance."""
_TO_SD: Final = 1.4826
"""Standard deviations in a median absolute deviation of normal values."""


def crop_group(hcat_code: str | None) -> str | None:
    """Return the group of a crop that stays on its ground, None of others."""
    return next((group for group in GROUPS if (hcat_code or "").startswith(group)), None)


def norms(past: Floats) -> tuple[Floats, Floats]:
    """Return (P, K) median and robust standard deviation of past seasons, NaN where too few of them saw a dekad or one beside it.

    Args:
        past: (Y, P, K) greenest view of each past season and dekad, NaN where there is none.
    """
    beside = np.pad(past, ((0, 0), (0, 0), (1, 1)), constant_values=np.nan)
    pooled = np.stack([beside[:, :, nr : nr + past.shape[2]] for nr in range(3)])  # (3, Y, P, K)
    seen = np.isfinite(pooled)
    is_known = seen.any(axis=0).sum(axis=0) >= LEAST_SEASONS
    values = np.where(is_known, pooled, np.nan).reshape(-1, *past.shape[1:])
    middle = _median(values)
    return middle, _TO_SD * _median(np.abs(values - middle))


def own_past(
    green: Floats, middle: Floats, sd: Floats, n_known: Ints, first: int, groups: Sequence[str | None]
) -> Marked:
    """Return for how many dekads P parcels have departed from their own past seasons.

    Args:
        green: (P, K) greenest clear view of each dekad, NaN where there is none.
        middle: (P, K) the norm's median, NaN where it has none.
        sd: (P, K) its standard deviation.
        n_known: (P,) dekads of the season that are over for each parcel.
        first: number of the season's first dekad.
        groups: (P,) `crop_group` of the declared crops.
    """
    column = np.arange(green.shape[1])
    asked = np.isfinite(green) & (middle >= VEGETATION_NDVI) & (column < n_known[:, None])
    z = np.where(asked, (green - middle) / np.fmax(sd, np.float32(LEAST_SD)), 0)
    is_below, is_above = asked & (z <= -FAR), asked & (z >= FAR)
    runs = [n_behind(asked, asked & ~far) for far in (is_below, is_above)]
    run = np.maximum(*runs)
    status = np.where(asked.sum(axis=1) >= DEKADS, OK, NOT_VALID)
    status[[group is None for group in groups]] = NOT_EXECUTED
    departs = (run >= DEKADS) & (status == OK)
    value = np.where(status == OK, np.where(departs, run, 0), np.nan)
    confidence = np.where(status == OK, np.where(departs, np.minimum(1 - 0.5**run, SUREST), 0.9), np.nan)
    some = np.flatnonzero(departs)
    events = _events(some, asked, run, first, confidence)

    def evidence(parcel: int) -> Mapping[str, Any]:
        shown = np.flatnonzero(asked[parcel])[-6:]
        begins = dekads_begin(first + shown).tolist()
        columns = (np.round(one[parcel, shown].astype(np.float64), 3).tolist() for one in (green, middle, sd, z))
        return {
            "events": events.of(parcel),
            "side": "below" if runs[0][parcel] else "above",
            "dekads": [
                {"begins": str(day), **dict(zip(("ndvi", "median", "sd", "z"), values, strict=True))}
                for day, *values in zip(begins, *columns, strict=True)
            ],
            "thresholds": {"z": FAR, "least_sd": LEAST_SD, "dekads": DEKADS, "seasons": LEAST_SEASONS},
        }

    return Marked("own_past", VERSION, status, value, confidence, events, evidence)


def _median(values: Floats) -> Floats:
    """Return the median along the first axis without what is NaN, NaN of nothing."""
    ascending = np.sort(values, axis=0)  # NaN last
    n = np.isfinite(values).sum(axis=0)
    low, high = (
        np.take_along_axis(ascending, np.maximum(place, 0)[None], axis=0)[0] for place in ((n - 1) // 2, n // 2)
    )
    return np.asarray(np.where(n > 0, (low + high) / 2, np.nan), np.float32)


def _events(some: Ints, asked: Bools, run: Ints, first: int, confidence: Floats) -> Events:
    """Return since when the parcels under `some` depart: from the first day of the first dekad to the last of the last."""
    behind = np.cumsum(asked[some, ::-1], axis=1)[:, ::-1]  # dekads asked from each on
    in_run = asked[some] & (behind <= run[some, None])
    last = in_run.shape[1] - 1 - in_run[:, ::-1].argmax(axis=1)
    begin, end = dekads_begin(first + in_run.argmax(axis=1)), dekads_begin(first + last + 1) - np.timedelta64(1, "D")
    return Events(some, begin, end, begin, confidence[some], np.full(len(some), OPTICAL))
