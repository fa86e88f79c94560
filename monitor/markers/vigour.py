"""Vigour below that of the same crop nearby: the greenest views of dekads in a row that lie below the band of the neighbours.

    low     x < q25 - 1.5 (q75 - q25)  and  x < median - 0.1        x: the parcel's greenest clear view of the dekad
    asked   dekads between the crop's emergence and peak in which its neighbours grow: median at least 0.35, and 0.9 of its highest so far
    value   how many of the dekads asked, up to the newest, are low in a row; 0 of fewer than 3

A dekad in which the parcel, or too few of its neighbours, were seen is passed over. Behind the peak a field that ripens first would look
weak.
Source: the lower fence of Tukey 1977 (Exploratory Data Analysis), below which 0.35 % of a normal group lie; low vigour as in the categories
of Mouret et al. 2021, Remote Sensing 13(5) 956; what is chosen is said beside each constant.
Shapes: P parcels, K dekads of the season.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Floats, Ints
from monitor.dekads import dekad_numbers, dekads_begin
from monitor.markers.bands import Bands
from monitor.markers.crop_calendar import Calendars
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Marked

VERSION: Final = "1"
FENCE: Final = 1.5
"""Interquartile ranges below the lower quartile (Tukey 1977)."""
GAP_NDVI: Final = 0.10
"""Below the median: three times the noise of a view, for groups that are nearly alike."""
DEKADS: Final = 3
"""In a row, and asked at least: a month, so that neither one hidden cloud nor a late week of growth is taken for a weak stand."""
FALLEN_SHARE: Final = 0.9
"""Of the neighbours' highest median so far, below which they ripen or rest: a tenth is three times the noise of a median."""
SURE: Final = (0.9, 0.6)
"""Confidence that vigour is not below: where the newest dekad asked is not low, and where it is."""
SUREST: Final = 0.95
"""Each low dekad halves the doubt that it is below, to no less than this leaves: a late variety looks like it, too."""


def vigour(green: Floats, bands: Bands, group: Ints, n_known: Ints, of: Calendars, is_asked: Bools) -> Marked:
    """Return for how many dekads the vigour of P parcels lies below their neighbours'.

    Args:
        green: (P, K) greenest clear view of each dekad, NaN where there is none.
        bands: of the groups.
        group: (P,) place of each parcel's group, -1 where it has none.
        n_known: (P,) dekads of the season that are over for each parcel (`monitor.markers.bands.n_over`).
        of: the calendars of their declared crops.
        is_asked: (P,) whether a crop is declared.
    """
    lower, median, upper = bands.quartiles[:, group]
    column = np.arange(green.shape[1])
    asked = np.isfinite(green) & _grows(median, bands, of) & (column < n_known[:, None])
    floor = np.fmin(lower - FENCE * (upper - lower), median - np.float32(GAP_NDVI))
    low = asked & (green < floor)
    n_asked = asked.sum(axis=1)
    run = n_behind(asked, asked & ~low)
    is_below = run >= DEKADS
    status = np.where(n_asked >= DEKADS, OK, NOT_VALID)
    status[~is_asked] = NOT_EXECUTED
    is_below &= status == OK
    value = np.where(status == OK, np.where(is_below, run, 0), np.nan)
    in_run = low & (np.cumsum(asked[:, ::-1], axis=1)[:, ::-1] <= run[:, None])
    confidence = np.where(status == OK, np.where(run > 0, SURE[1], SURE[0]), np.nan)
    confidence[is_below] = np.minimum(1 - 0.5 ** run[is_below], SUREST)
    some = np.flatnonzero(is_below)
    events = _events(some, in_run, bands, confidence)

    def evidence(parcel: int) -> Mapping[str, Any]:
        shown = np.flatnonzero(asked[parcel])[-6:]
        begins = dekads_begin(bands.first + shown).tolist()
        columns = (one[parcel, shown].tolist() for one in (green, floor, median))
        return {
            "events": events.of(parcel),
            "dekads": [
                {"begins": str(day), **dict(zip(("ndvi", "floor", "median"), map(_rounded, values), strict=True))}
                for day, *values in zip(begins, *columns, strict=True)
            ],
            "thresholds": {"fence": FENCE, "gap_ndvi": GAP_NDVI, "dekads": DEKADS},
        }

    return Marked("vigour", VERSION, status, value, confidence, events, evidence)


def n_behind(asked: Bools, other: Bools) -> Ints:
    """Return (P,) how many of the dekads asked (P, K) lie behind the last under another mask."""
    columns = asked.shape[1]
    last = np.where(other.any(axis=1), columns - 1 - other[:, ::-1].argmax(axis=1), -1)
    return np.asarray((asked & (np.arange(columns) > last[:, None])).sum(axis=1))


def _grows(median: Floats, bands: Bands, of: Calendars) -> Bools:
    """Return (P, K) in which dekads the declared crop is in its time and the neighbours grow."""
    dekad = bands.first + np.arange(median.shape[1])
    first, last = (dekad_numbers(days)[:, None] for days in (of.emerges_from, of.peaks_until))
    own = np.where((dekad >= first) & (dekad <= last), median, np.float32(np.nan))
    highest = np.fmax.accumulate(own, axis=1)
    return np.asarray((own >= VEGETATION_NDVI) & (own >= FALLEN_SHARE * highest))


def _events(some: Ints, in_run: Bools, bands: Bands, confidence: Floats) -> Events:
    """Return since when the parcels under `some` lie below: from the first day of the first dekad to the last of the last."""
    first = in_run[some].argmax(axis=1)
    last = in_run.shape[1] - 1 - in_run[some][:, ::-1].argmax(axis=1)
    begin, end = (dekads_begin(bands.first + one) for one in (first, last + 1))
    end = end - np.timedelta64(1, "D")
    return Events(some, begin, end, begin, confidence[some], np.full(len(some), OPTICAL))


def _rounded(value: float) -> float:
    return round(value, 3)
