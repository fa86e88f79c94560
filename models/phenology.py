"""Start, peak and end of a season from a daily NDVI curve.

    up(t)   first day the curve, rising to its peak, passes  low_before + share_up (peak - low_before)
    down(t) first day after the peak it falls below          low_after + (1 - share_down) (peak - low_after)

SOS at 25 % of the amplitude up; EOS at 75 % of it down for crops, 25 % for grass. The lows are each side's own, so that
a winter crop that starts green has a small but real rise. A date is known to within the band that the curve's sd allows:
the days on which the curve lies within one sd of the level.
Source: FAO ASIS thresholds; lows on each side as in TIMESAT (Jonsson and Eklundh 2004).
Shapes: P parcels on D days, NDVI and sd (P, D); `phenology` takes one parcel, (D,).
Units:  season days; NDVI dimensionless.
Errors: none; a season that shows no course is NOT_VALID with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

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


REASONS: Final = tuple(PhenologyReason)
"""In the order by which `Phenologies.reason` names them."""
OK: Final = -1
"""The reason of a season that has dates."""
NONE: Final = -1
"""A date that has not happened, or that the curve does not show; a season's days count from 0."""


AT_ONCE: Final = 512
"""Parcels that are worked on together: their curves stay in the processor's cache (2,048: 10 us a parcel, 512: 6)."""
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


@dataclass(frozen=True)
class Dates:
    """One date of P seasons, with the days it may lie between; `NONE` where there is none."""

    day: Ints
    earliest: Ints
    latest: Ints

    def where(self, keep: Bools) -> "Dates":
        """Return the dates of the parcels to keep (P,), `NONE` of the others."""
        return Dates(*(np.where(keep, days, NONE) for days in (self.day, self.earliest, self.latest)))

    @classmethod
    def joined(cls, parts: Sequence["Dates"]) -> "Dates":
        """Return the dates of all parts in their order."""
        columns = ([one.day for one in parts], [one.earliest for one in parts], [one.latest for one in parts])
        return cls(*map(np.concatenate, columns))

    def some(self, of: Ints) -> "Dates":
        """Return the dates of some parcels."""
        return Dates(self.day[of], self.earliest[of], self.latest[of])

    def one(self, nr: int) -> PhenologyDate | None:
        """Return one parcel's date."""
        day = int(self.day[nr])
        return None if day == NONE else PhenologyDate(day, int(self.earliest[nr]), int(self.latest[nr]))


@dataclass(frozen=True)
class Phenologies:
    """The dates of P seasons."""

    sos: Dates
    pos: Dates
    eos: Dates
    peak: Floats
    """(P,) NaN where there is no curve."""
    amplitude: Floats
    """(P,) NaN likewise."""
    reason: Ints
    """(P,) place in `REASONS` of why there are no dates; `OK` where there are."""

    def some(self, of: Ints) -> "Phenologies":
        """Return those of some parcels."""
        sos, pos, eos = self.sos.some(of), self.pos.some(of), self.eos.some(of)
        return Phenologies(sos, pos, eos, self.peak[of], self.amplitude[of], self.reason[of])


@dataclass(frozen=True)
class _Curves:
    """P curves; NaN, with which every comparison is false, on days that are not valid."""

    days: Ints
    """(D,)"""
    is_valid: Bools
    """(P, D)"""
    ndvi: Floats
    """(P, D)"""
    low: Floats
    """(P, D) one sd below."""
    high: Floats
    """(P, D) one sd above."""

    @property
    def mirror(self) -> "_Curves":
        """Return the curves backwards; their days count from 0, too."""
        return _Curves(
            self.days[-1] - self.days[::-1],
            self.is_valid[:, ::-1],
            self.ndvi[:, ::-1],
            self.low[:, ::-1],
            self.high[:, ::-1],
        )

    def after(self, place: Ints) -> Ints:
        """Return (P,) the first valid place behind a place."""
        return _first(self.is_valid & (_places(self.ndvi) > place[:, None].astype(np.int16)), place)

    def before(self, place: Ints) -> Ints:
        """Return (P,) the last valid place in front of a place."""
        return _last(self.is_valid & (_places(self.ndvi) < place[:, None].astype(np.int16)))


def phenology(
    days: Ints, ndvi: Floats, sd: Floats, is_observed: Bools, config: PhenologyConfig = CROP, is_complete: bool = True
) -> Phenology:
    """Return the dates of one parcel's season.

    Args:
        days: (D,) consecutive whole days, increasing, from 0 or later.
        ndvi: (D,) daily NDVI, NaN where not valid (rows of origin "prior").
        sd: (D,) its standard deviation.
        is_observed: (D,) days with a clear view.
        config: thresholds, `CROP` or `GRASS` or others.
        is_complete: false while the season runs: then an end is given only after the fall has happened, and a peak
            on the last day is not one yet.
    """
    found = phenologies(days, ndvi[None], sd[None], is_observed[None], [config], is_complete)
    reason = int(found.reason[0])
    return Phenology(
        found.sos.one(0),
        found.pos.one(0),
        found.eos.one(0),
        float(found.peak[0]),
        float(found.amplitude[0]),
        None if reason == OK else REASONS[reason],
    )


def phenologies(
    days: Ints,
    ndvi: Floats,
    sd: Floats,
    is_observed: Bools,
    configs: Sequence[PhenologyConfig],
    is_complete: bool = True,
) -> Phenologies:
    """Return the dates of P parcels' seasons: `phenology` of each, from (P, D) and P configurations."""
    parts = [slice(begin, begin + AT_ONCE) for begin in range(0, max(len(ndvi), 1), AT_ONCE)]
    found = [_phenologies(days, ndvi[one], sd[one], is_observed[one], configs[one], is_complete) for one in parts]
    return Phenologies(
        Dates.joined([one.sos for one in found]),
        Dates.joined([one.pos for one in found]),
        Dates.joined([one.eos for one in found]),
        np.concatenate([one.peak for one in found]),
        np.concatenate([one.amplitude for one in found]),
        np.concatenate([one.reason for one in found]),
    )


def _phenologies(  # as `phenologies`, of some parcels
    days: Ints, ndvi: Floats, sd: Floats, is_observed: Bools, configs: Sequence[PhenologyConfig], is_complete: bool
) -> Phenologies:
    is_valid = np.isfinite(ndvi) & np.isfinite(sd)
    share_up, share_down, least, min_views, min_days = (
        np.array([getattr(config, name) for config in configs])
        for name in ("share_up", "share_down", "min_amplitude", "min_views", "min_days")
    )
    n_parcels, n_valid = len(ndvi), is_valid.sum(axis=1)
    reason = np.full(n_parcels, OK)
    reason[(is_observed & is_valid).sum(axis=1) < min_views] = REASONS.index(PhenologyReason.FEW_VIEWS)
    reason[n_valid < np.maximum(min_days, 1)] = REASONS.index(PhenologyReason.NO_CURVE)
    peak, amplitude = np.full(n_parcels, np.nan), np.full(n_parcels, np.nan)
    some = np.flatnonzero(reason == OK)
    until = slice(
        1 + int(np.flatnonzero(is_valid.any(axis=0)).max(initial=0))
    )  # of a season that runs, no more than there is
    valid, sd = is_valid[some, until], np.where(is_valid, sd, np.nan)[some, until]
    seen = np.where(valid, ndvi[some, until], np.nan)
    curves = _Curves(days[until], valid, seen, seen - sd, seen + sd)
    top = np.where(valid, seen, -np.inf).argmax(axis=1)
    high = seen[np.arange(len(some)), top].astype(np.float64)
    is_past, filled = _places(seen) <= top[:, None].astype(np.int16), np.where(valid, seen, np.inf)
    low_before = np.where(is_past, filled, np.inf).min(axis=1, initial=np.inf)
    low_after = np.minimum(np.where(is_past, np.inf, filled).min(axis=1, initial=np.inf), high)
    rise, fall = high - low_before, high - low_after
    peak[some], amplitude[some] = high, np.maximum(rise, fall)
    reason[some[_is_uncertain(sd, n_valid[some], amplitude[some])]] = REASONS.index(PhenologyReason.UNCERTAIN)
    reason[some[amplitude[some] < least[some]]] = REASONS.index(PhenologyReason.SMALL_AMPLITUDE)
    is_dated, last = reason[some] == OK, curves.before(np.full(len(some), seen.shape[1]))
    sos = _last_crossing_up(curves, top, low_before + share_up[some] * rise)
    eos = _first_crossing_down(curves, top, high - share_down[some] * fall)
    return Phenologies(
        _placed(sos.where(is_dated & (rise >= least[some])), some, n_parcels),
        _placed(_peak_date(curves, top).where(is_dated & (is_complete | (top < last))), some, n_parcels),
        _placed(eos.where(is_dated & (fall >= least[some])), some, n_parcels),
        peak,
        amplitude,
        reason,
    )


def _places(of: Floats) -> NDArray[np.int16]:
    """Return (D,) places of days; a season has far fewer than 32,768."""
    return np.arange(of.shape[1], dtype=np.int16)


def _placed(dates: Dates, some: Ints, n_parcels: int) -> Dates:
    """Return the dates of some of P parcels as dates of all."""
    placed = np.full((3, n_parcels), NONE)
    placed[:, some] = dates.day, dates.earliest, dates.latest
    return Dates(*placed)


def _is_uncertain(sd: Floats, n_valid: Ints, amplitude: Floats) -> Bools:
    """Return (P,) whether the amplitude is less than 1.96 of the median sd: what one sd of its own peak could feign is none."""
    n_above = (1.96 * sd > amplitude[:, None]).sum(axis=1)
    # The median is above where more than half are; where exactly half are, it is the mean of two that differ.
    is_uncertain: Bools = 2 * n_above > n_valid
    for half in np.flatnonzero(2 * n_above == n_valid):
        is_uncertain[half] = amplitude[half] < 1.96 * float(np.nanmedian(sd[half]))
    return is_uncertain


def _first(mask: Bools, otherwise: Ints) -> Ints:
    """Return (P,) the first place under a mask (P, D)."""
    return np.where(mask.any(axis=1), mask.argmax(axis=1), otherwise)


def _last(mask: Bools) -> Ints:
    """Return (P,) the last place under a mask (P, D), -1 where there is none."""
    return np.where(mask.any(axis=1), mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1), -1)


def _last_crossing_up(curves: _Curves, top: Ints, level: Floats) -> Dates:
    """Return the first day of the rise that ends in the peak; none where the curve never was below the level before."""
    place, top_, level = _places(curves.ndvi), top[:, None].astype(np.int16), level[:, None]
    is_before = place <= top_
    below = _last(is_before & (curves.ndvi < level))
    at = np.minimum(curves.after(below), top)
    is_rising = place >= at[:, None].astype(np.int16)
    earliest = curves.after(_last(~is_rising & (curves.high < level)))
    latest = _first(is_rising & is_before & (curves.low >= level), top)
    return Dates(*(curves.days[one] for one in (at, earliest, latest))).where(below >= 0)


def _first_crossing_down(curves: _Curves, top: Ints, level: Floats) -> Dates:
    """Return the first day after the peak below the level: the mirror of the last crossing up."""
    found = _last_crossing_up(curves.mirror, curves.ndvi.shape[1] - 1 - top, level)
    # The mirror's crossing is the last day still above; the season ends on the day after it.
    days = (curves.days[-1] + 1 - days for days in (found.day, found.latest, found.earliest))
    return Dates(*days).where(found.day != NONE)


def _peak_date(curves: _Curves, top: Ints) -> Dates:
    """Return the day of the highest value, and the days around it within one sd of it."""
    is_lower, place = curves.high < curves.ndvi[np.arange(len(top)), top][:, None], _places(curves.ndvi)
    first = curves.after(_last(is_lower & (place < top[:, None].astype(np.int16))))
    end = _first(is_lower & (place > top[:, None].astype(np.int16)), np.full(len(top), len(place)))
    return Dates(*(curves.days[one] for one in (top, first, curves.before(end))))
