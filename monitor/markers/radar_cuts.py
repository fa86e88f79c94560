"""Cuts as radar shows them: coherence that rises and falls back, and VH that falls against VV.

A stand moves in the wind, stubble does not: two passes that both follow a cut see the same scatterers. The rise is dated by the later of
the two, 6 or 12 days after the cut. Backscatter changes with rain as much as with a cut (De Vroey et al. 2021): it only supports.
Shapes: (P, D) days; inside, bins of some days by the calendar, so that no bin depends on the batch.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from monitor.alerts.neighbours import Bools, Ints
from monitor.markers.form import Floats, RadarViews
from monitor.markers.radar_steps import Series, series, steps

RADAR_MOST: Final = 0.5
"""Confidence of radar alone, at most (Sen4CAP L4B)."""
BACKSCATTER_MOST: Final = 0.2
"""Of backscatter: rain changes it as much as a cut does (De Vroey et al. 2021); it supports and is never enough."""
COHERENCE_RISE: Final = 0.05
"""Least rise of coherence (Sen4CAP L4C)."""
STEP_Z: Final = (1.0, 3.5)
"""Steps in sd at which radar begins to count and says all that it can: at 3.5 noise alone gives 2 in 10,000."""
PAIR_DAYS: Final = 12
"""Days between the passes of a pair, at most."""
RADAR_BIN: Final = 3
"""Days in which radar is taken together: half of the time between two passes of an orbit."""
COHERENCE_SPANS: Final = ((0, 6), (-8, 0), (8, 16))
"""Bins from the first pair on, and those before and after with which they are compared: coherence stays higher for 24 to 36 days, most in
the first pairs (Tamm et al. 2016), then falls as grass grows back. What stays high is autumn, or soil."""
BACKSCATTER_SPANS: Final = ((0, 4), (-6, 0))
COHERENCE_NOISE, BACKSCATTER_NOISE_DB = 0.03, 0.3
"""Least sd of a parcel's mean coherence, and of VH - VV in dB: speckle of a field of about a hectare."""


@dataclass(frozen=True)
class RadarCuts:
    """What radar says of P parcels on D days."""

    coherence: Floats
    """(P, D) confidence that grass was cut on a day."""
    rise: Floats
    """(P, D) the rise in sd: of days on which coherence says all that it can, the highest is the event's."""
    is_watched: Bools
    """(P, D) whether coherence watches the day."""
    backscatter: Floats
    """(P, D) confidence, `BACKSCATTER_MOST` at most."""


def nothing(shape: tuple[int, int]) -> RadarCuts:
    """Return what is known without radar."""
    return RadarCuts(np.zeros(shape), np.zeros(shape), np.zeros(shape, bool), np.zeros(shape))


def radar_cuts(radar: RadarViews, first: int, shape: tuple[int, int]) -> RadarCuts:
    """Return what radar says, from a first day since 1970 on."""
    bins = radar.days.astype("M8[D]").astype(np.int64) // RADAR_BIN - first // RADAR_BIN
    binned = (shape[0], (first + shape[1] - 1) // RADAR_BIN - first // RADAR_BIN + 1)
    offset = first % RADAR_BIN
    rise, is_watched, backscatter = (
        np.repeat(one, RADAR_BIN, axis=1)[:, offset : offset + shape[1]]
        for one in (*_rise(radar, bins, binned), _ratio(radar, bins, binned))
    )
    return RadarCuts(RADAR_MOST * _counts(rise), rise, is_watched > 0, backscatter)


def _rise(radar: RadarViews, bins: Ints, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return (P, D) the rise of coherence that a cut on a day would cause, in sd, and 1 where coherence watches the day."""
    channels = np.stack([radar.coherence_vv, radar.coherence_vh])
    seen = np.isfinite(channels)
    mean = np.where(seen, channels, 0).sum(axis=0) / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)
    # Both polarisations see the same scatterers, at levels of their own: a mean of two is not compared with one alone.
    of = series(radar.parcel, bins, 4 * radar.orbit + 2 * seen[0] + seen[1], mean)
    one, before, after = COHERENCE_SPANS
    step, fall = steps(of, shape, one, [before, after], COHERENCE_NOISE)
    z = np.where(fall.size < 0, 0, step.z)
    days = _pair_bins(of, shape[0])
    return _earlier(z * (step.size >= COHERENCE_RISE), days), _earlier(np.isfinite(step.size) * 1.0, days)


def _pair_bins(of: Series, n_parcels: int) -> Ints:
    """Return (P,) bins between the passes of a pair: of 12 days where no orbit is seen more often, else of 6."""
    same = (of.parcel[1:] == of.parcel[:-1]) & (of.slot[1:] == of.slot[:-1]) & (of.day[1:] > of.day[:-1])
    spacing = np.full(n_parcels, 10**6)
    np.minimum.at(spacing, of.parcel[1:][same], np.diff(of.day)[same])
    return np.where(spacing == PAIR_DAYS // RADAR_BIN, PAIR_DAYS, 6) // RADAR_BIN


def _earlier(of: Floats, bins: Ints) -> Floats:
    """Return (P, D) moved to earlier bins: the first pair whose two passes follow a cut is dated so many after it."""
    moved = np.zeros_like(of)
    for n in np.unique(bins):
        moved[bins == n, :-n] = of[bins == n, n:]
    return moved


def _ratio(radar: RadarViews, bins: Ints, shape: tuple[int, int]) -> Floats:
    """Return (P, D) the confidence of a cut by the fall of VH against VV."""
    of = series(radar.parcel, bins, radar.orbit, radar.vh_db - radar.vv_db)
    one, before = BACKSCATTER_SPANS
    (step,) = steps(of, shape, one, [before], BACKSCATTER_NOISE_DB)
    return BACKSCATTER_MOST * _counts(-step.z)


def _counts(z: Floats) -> Floats:
    low, full = STEP_Z
    return np.asarray(np.clip((z - low) / (full - low), 0, 1))
