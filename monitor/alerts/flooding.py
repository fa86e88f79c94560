"""Flooding: fields under open water, seen by both sensors.

    low(pass)    VV and VH fell at once by `DROP_DB` below the lowest of the last passes of the same orbit, to what water returns
    water(view)  a clear view has NDVI below `WATER_NDVI`
    yellow       a low pass and a view of water within `TOGETHER_DAYS`
    red          a third observation of another day that says the same, within `FLOOD_DAYS` of these

Neither sensor is enough alone: of 1,107 Dutch parcels in a year without a flood, radar alone found 35 to 76 (a seedbed rolled fine falls
by as much as water, and what is green before may be one), both together none; 21 of 41 simulated floods (docs/LOG.md). A calm surface
reflects away from the radar, so both polarisations fall between one pass and the next in all orbits; a crop that shadows its soil (VV
of wheat falls by 6 to 8 dB in six weeks) falls by less from pass to pass.
Source: ours; constants chosen on the Dutch parcels and seasons of the simulator other than those that are scored.
Shapes: P parcels, N passes, M views.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, Case, ClearViews, Decisions, agreeing, unseen
from monitor.markers.form import RadarViews

DROP_DB: Final = (3.5, 3.0)
"""By which VV and VH fall at once, at least."""
WATER_DB: Final = (-13.5, -20.5)
"""VV and VH of open water, at most; wind roughens it."""
WATER_NDVI: Final = 0.05
"""Below it is water: at 0.1 bare soil is as often below as a flood."""
TOGETHER_DAYS: Final = 6
FLOOD_DAYS: Final = 15
REFERENCE_PASSES: Final = 3
"""Passes of an orbit whose lowest is the reference."""
LONGEST_DAYS: Final = 60
"""What stays low for longer is no flood but another surface."""


def flooding(views: ClearViews, radar: RadarViews) -> Decisions:
    """Decide whether P parcels stood under water."""
    n_parcels, is_water, is_candidate = views.n_parcels, views.ndvi < WATER_NDVI, may_be_water(views)
    radar = radar.only(is_candidate[radar.parcel])
    low = low_passes(radar)
    parcel = np.concatenate([views.parcel[is_water], radar.parcel[low]])
    days = np.concatenate([views.days[is_water], radar.days[low]])
    is_view = np.arange(len(parcel)) < is_water.sum()
    order = np.lexsort((days, parcel))
    parcel, days, is_view = parcel[order], days[order], is_view[order]
    begun, n = np.full(n_parcels, np.datetime64("NaT", "D")), np.zeros(n_parcels, np.int64)
    for nr in np.flatnonzero(is_candidate).tolist():
        begun[nr], n[nr] = _flood(days[parcel == nr], is_view[parcel == nr])

    def evidence(nr: int) -> Mapping[str, Any]:
        own = np.flatnonzero(low & (radar.parcel == nr))[-6:]
        db = zip(radar.vv_db[own], radar.vh_db[own], strict=True)
        return {
            "clear_views": views.shown(nr, is_water),
            "low_passes": [
                [str(radar.days[i]), int(radar.orbit[i]), round(float(vv), 1), round(float(vh), 1)]
                for i, (vv, vh) in zip(own, db, strict=True)
            ],
            "thresholds": {"water_ndvi": WATER_NDVI, "water_db": list(WATER_DB), "drop_db": list(DROP_DB)},
        }

    cases = [
        Case(views.count(views.ndvi < np.inf) == 0, NOT_VALID, unseen("no clear view yet")),
        Case(n > 2, RED, evidence, agreeing(n)),
        Case(n > 0, YELLOW, evidence, agreeing(n)),
        Case(n == 0, GREEN, lambda _: {}),
    ]
    return Decisions("flooding", cases, begun)


def may_be_water(views: ClearViews) -> Bools:
    """Return (P,) the few parcels of which a view shows water: radar is read of these alone."""
    return np.asarray(views.count(views.ndvi < WATER_NDVI) > 0)


def _flood(days: NDArray[np.datetime64], is_view: Bools) -> tuple[np.datetime64, int]:
    """Return the first day of a parcel's longest flood and how many days show it; NaT and 0 where the sensors never agree."""
    best = np.datetime64("NaT", "D"), 0
    for view in days[is_view]:
        apart = abs((days - view).astype(np.int64))
        if not (~is_view & (apart <= TOGETHER_DAYS)).any():
            continue
        shown = np.unique(days[apart <= FLOOD_DAYS])
        if len(shown) > best[1]:
            best = shown[0], max(len(shown), 2)  # both on one day are two sensors
    return best


def low_passes(radar: RadarViews) -> Bools:
    """Return (N,) which passes are low."""
    db = np.stack([radar.vv_db, radar.vh_db], axis=1).astype(np.float64)
    days, is_low = radar.days.astype(np.int64), np.zeros(len(db), bool)
    rows = np.lexsort((days, radar.orbit, radar.parcel))
    rows = rows[np.isfinite(db[rows]).all(axis=1)]
    if not len(rows):
        return is_low
    is_first = (np.diff(radar.parcel[rows]) != 0) | (np.diff(radar.orbit[rows]) != 0)
    begins = np.flatnonzero(np.r_[True, is_first])
    lengths = np.diff(np.r_[begins, len(rows)])
    reference = np.full((len(begins), REFERENCE_PASSES, 2), np.nan)
    low_since = np.full(len(begins), _NEVER)
    # The n-th passes of all parcels and orbits together: which of them are a reference depends on those before.
    for nr in range(int(lengths.max())):
        some = np.flatnonzero(lengths > nr)
        at = rows[begins[some] + nr]
        fell = reference[some].min(axis=1) - db[at]  # NaN until there are enough
        low = (fell >= DROP_DB).all(axis=1) & (db[at] <= WATER_DB).all(axis=1)
        since = np.where(low, np.minimum(low_since[some], days[at]), _NEVER)
        is_lasting = low & (days[at] - since > LONGEST_DAYS)
        low &= ~is_lasting
        low_since[some] = np.where(low, since, _NEVER)
        is_low[at] = low
        _keep(reference, some[~low], db[at[~low]])
        reference[some[is_lasting]] = db[at[is_lasting], None]  # another surface: what comes is compared with it
    return is_low


_NEVER: Final = np.iinfo(np.int64).max


def _keep(reference: NDArray[np.float64], some: Ints, db: NDArray[np.float64]) -> None:
    """Put passes that are not low in the place of the oldest of their orbits."""
    reference[some] = np.concatenate([reference[some, 1:], db[:, None]], axis=1)
