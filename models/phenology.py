"""Start, peak and end of a season from a daily NDVI curve.

    up(t)   first day the curve, rising to its peak, passes  low_before + share_up (peak - low_before)
    down(t) first day after the peak it falls below          low_after + (1 - share_down) (peak - low_after)

SOS at 25 % of the amplitude up; EOS at 75 % of it down for crops, 25 % for grass. The lows are each side's own, so that
a winter crop that starts green has a small but real rise. A date is known to within the band that the curve's sd allows:
the days on which the curve lies within one sd of the level.
Source: FAO ASIS thresholds; lows on each side as in TIMESAT (Jonsson and Eklundh 2004).
Shapes: one parcel at a time, days (D,), NDVI and sd (D,).
Units:  season days; NDVI dimensionless.
Errors: none; a season that shows no course is NOT_VALID with its reason.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from models.ndvi.inputs import Bools, Floats, Ints


class PhenologyReason(StrEnum):
    """Why a season has no dates."""

    NO_CURVE = "fewer than 30 valid days"
    FEW_VIEWS = "too few clear views"
    SMALL_AMPLITUDE = "NDVI rises and falls too little"
    UNCERTAIN = "the curve's uncertainty is as large as its amplitude"


@dataclass(frozen=True)
class PhenologyConfig:
    """Thresholds of the dates; `GRASS` has its own."""

    share_up: float = 0.25
    """Share of the amplitude gained at SOS (FAO ASIS)."""
    share_down: float = 0.75
    """Share of the amplitude lost at EOS (FAO ASIS: 75 % for crops, 25 % for grass)."""
    min_amplitude: float = 0.15
    """NDVI between low and peak (chosen because bare soil varies by 0.1 with moisture and residue)."""
    min_views: int = 5
    """Clear views of the season (chosen because three dates and two lows need one each)."""
    min_days: int = 30
    """Days of curve below which there is no season."""


CROP = PhenologyConfig()
GRASS = PhenologyConfig(share_down=0.25)


@dataclass(frozen=True)
class PhenologyDate:
    """One date of a season, with the days it may lie between (the curve within one sd of the level)."""

    day: int
    earliest: int
    latest: int


@dataclass(frozen=True)
class Phenology:
    """The dates of a season; one that has not happened yet, or that the curve does not show, is None."""

    sos: PhenologyDate | None
    pos: PhenologyDate | None
    eos: PhenologyDate | None
    peak: float
    amplitude: float
    """Peak above the higher of the two lows' mean, NDVI; NaN where there is no curve."""
    reason: PhenologyReason | None
    """Why there are no dates; None where there are."""


def phenology(
    days: Ints, ndvi: Floats, sd: Floats, is_observed: Bools, config: PhenologyConfig = CROP, is_complete: bool = True
) -> Phenology:
    """Return the dates of one parcel's season.

    Args:
        days: (D,) consecutive whole days, increasing.
        ndvi: (D,) daily NDVI, NaN where not valid (rows of origin "prior").
        sd: (D,) its standard deviation.
        is_observed: (D,) days with a clear view.
        config: thresholds, `CROP` or `GRASS` or others.
        is_complete: false while the season runs: then an end is given only after the fall has happened, and a peak
            on the last day is not one yet.
    """
    keep = np.isfinite(ndvi) & np.isfinite(sd)
    if keep.sum() < config.min_days:
        return _not_valid(PhenologyReason.NO_CURVE)
    days, ndvi, sd = days[keep], ndvi[keep], sd[keep]
    if int(is_observed[keep].sum()) < config.min_views:
        return _not_valid(PhenologyReason.FEW_VIEWS)
    top = int(np.argmax(ndvi))
    peak = float(ndvi[top])
    low_before = float(ndvi[: top + 1].min())
    low_after = float(ndvi[top:].min())
    rise, fall = peak - low_before, peak - low_after
    amplitude = max(rise, fall)
    if amplitude < config.min_amplitude:
        return _not_valid(PhenologyReason.SMALL_AMPLITUDE, peak, amplitude)
    # 1.96: a rise that one sd of its own peak could feign is none.
    if amplitude < 1.96 * float(np.median(sd)):
        return _not_valid(PhenologyReason.UNCERTAIN, peak, amplitude)
    sos = eos = None
    if rise >= config.min_amplitude:
        sos = _last_crossing_up(days, ndvi, sd, top, low_before + config.share_up * rise)
    if fall >= config.min_amplitude:
        eos = _first_crossing_down(days, ndvi, sd, top, peak - config.share_down * fall)
    pos = _peak_date(days, ndvi, sd, top) if is_complete or top < len(days) - 1 else None
    return Phenology(sos, pos, eos, peak, amplitude, None)


def _not_valid(reason: PhenologyReason, peak: float = float("nan"), amplitude: float = float("nan")) -> Phenology:
    return Phenology(None, None, None, peak, amplitude, reason)


def _last_crossing_up(days: Ints, ndvi: Floats, sd: Floats, top: int, level: float) -> PhenologyDate | None:
    """Return the first day of the rise that ends in the peak; None where the curve never was below the level before."""
    below = np.flatnonzero(ndvi[: top + 1] < level)
    if len(below) == 0:
        return None
    at = int(below[-1]) + 1
    surely_below = np.flatnonzero((ndvi + sd)[:at] < level)
    maybe_above = np.flatnonzero((ndvi - sd)[at : top + 1] >= level)
    earliest = int(surely_below[-1]) + 1 if len(surely_below) else 0
    latest = at + int(maybe_above[0]) if len(maybe_above) else top
    return PhenologyDate(int(days[at]), int(days[earliest]), int(days[latest]))


def _first_crossing_down(days: Ints, ndvi: Floats, sd: Floats, top: int, level: float) -> PhenologyDate | None:
    """Return the first day after the peak below the level: the mirror of the last crossing up."""
    mirrored = _last_crossing_up(-days[::-1], ndvi[::-1], sd[::-1], len(days) - 1 - top, level)
    if mirrored is None:
        return None
    # The mirror's crossing is the last day still above; the season ends on the day after it.
    return PhenologyDate(-mirrored.day + 1, -mirrored.latest + 1, -mirrored.earliest + 1)


def _peak_date(days: Ints, ndvi: Floats, sd: Floats, top: int) -> PhenologyDate:
    """Return the day of the highest value, and the days around it within one sd of it."""
    is_as_high = ndvi + sd >= ndvi[top]
    lower = np.flatnonzero(~is_as_high)
    left, right = lower[lower < top], lower[lower > top]
    first = int(left[-1]) + 1 if len(left) else 0
    last = int(right[0]) - 1 if len(right) else len(days) - 1
    return PhenologyDate(int(days[top]), int(days[first]), int(days[last]))
