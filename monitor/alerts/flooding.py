"""Flooding: fields under open water, from radar, through clouds.

    low(pass)   VV and VH fell at once by `DROP_DB` below the lowest of the last passes of the same orbit, to what calm water returns
    yellow      the newest pass is low
    red         passes of two days at least are low, with no other pass between

A calm surface reflects away from the radar: both polarisations fall between one pass and the next, and all orbits see it. A crop
that shadows its soil (wheat at stem elongation: VV falls by 6 to 8 dB in six weeks) falls by less from pass to pass, and VH little.
The reference is of passes that were not low, so that a flood is low to its end; for `LONGEST_DAYS`, then it is the new state.
Source: water and land in VV and VH, as the thresholds of published flood maps (Twele et al. 2016; Clement et al. 2018); values chosen,
with what they find on Dutch parcels without flood and on the simulator's, in docs/LOG.md.
Shapes: P parcels, N passes.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.evidence import LACKS_OBSERVATIONS
from monitor.alerts.neighbours import Bools
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, Case, Decisions
from monitor.alerts.runs import longest_runs
from monitor.markers.form import RadarViews

DROP_DB: Final = (3.5, 3.0)
"""By which VV and VH fall at once, at least."""
WATER_DB: Final = (-16.0, -23.0)
"""VV and VH of open water, at most."""
REFERENCE_PASSES: Final = 3
"""Passes of an orbit whose lowest is the reference."""
LONGEST_DAYS: Final = 60
"""What stays low for longer is no flood but another surface."""
LONGEST_GAP_DAYS: Final = 15
"""Low passes farther apart are no one flood: an orbit of one satellite returns after 12 days."""


def flooding(radar: RadarViews, n_parcels: int) -> Decisions:
    """Decide whether P parcels stood under water."""
    order = np.lexsort((radar.orbit, radar.days, radar.parcel))
    radar = radar.only(order)
    is_low, is_known, drop = _low(radar)
    parcel, days = radar.parcel[is_known], radar.days[is_known]
    runs = longest_runs(parcel, days, is_low[is_known], n_parcels, LONGEST_GAP_DAYS)
    newest = np.zeros(n_parcels, bool)
    newest[parcel] = is_low[is_known]  # of equal indices the last assignment stays
    n_known = np.bincount(parcel, minlength=n_parcels)

    def evidence(nr: int) -> Mapping[str, Any]:
        low = np.flatnonzero((radar.parcel == nr) & is_low)[-6:]
        return {
            "low_passes": [
                [
                    str(radar.days[i]),
                    int(radar.orbit[i]),
                    *(round(float(db[i]), 1) for db in (radar.vv_db, radar.vh_db)),
                ]
                for i in low
            ],
            "drops_db": [[round(float(one), 1) for one in drop[i]] for i in low],
            "observed_to": str(radar.days[radar.parcel == nr].max()),
            "thresholds": {"drop_db": list(DROP_DB), "water_db": list(WATER_DB)},
        }

    def unseen(nr: int) -> Mapping[str, Any]:
        return {
            "reason": f"{n_known[nr]} passes with three before them of the same orbit, 2 needed",
            "lacks": LACKS_OBSERVATIONS,
        }

    def confidence(nr: int) -> float:
        return float(1 - 0.5 ** int(runs.n[nr]))

    cases = [
        Case(n_known < 2, NOT_VALID, unseen),
        Case(runs.days > 1, RED, evidence, confidence),
        Case((runs.n > 0) & newest, YELLOW, evidence, confidence),
        Case(n_known >= 0, GREEN, lambda _: {}),
    ]
    return Decisions("flooding", cases, runs.first)


def _low(radar: RadarViews) -> tuple[Bools, Bools, NDArray[np.float64]]:
    """Return (N,) which passes are low, of which a reference is known, and (N, 2) by how much VV and VH fell."""
    db = np.stack([radar.vv_db, radar.vh_db], axis=1).astype(np.float64)
    n, days = len(db), radar.days.astype(np.int64)
    is_low, is_known, drop = np.zeros(n, bool), np.zeros(n, bool), np.full((n, 2), np.nan)
    by_orbit = np.lexsort((days, radar.orbit, radar.parcel))
    by_orbit = by_orbit[np.isfinite(db[by_orbit]).all(axis=1)]
    if not len(by_orbit):
        return is_low, is_known, drop
    parcel, orbit = radar.parcel[by_orbit], radar.orbit[by_orbit]
    is_first = np.r_[True, (np.diff(parcel) != 0) | (np.diff(orbit) != 0)]
    begins = np.flatnonzero(is_first)
    lengths = np.diff(np.r_[begins, len(by_orbit)])
    # One step a pass of all parcels and orbits together: the passes that are no reference depend on those before.
    kept = np.full((len(begins), REFERENCE_PASSES, 2), np.nan)
    low_since = np.full(len(begins), np.iinfo(np.int64).max)
    for nr in range(int(lengths.max())):
        some = np.flatnonzero(lengths > nr)
        at = by_orbit[begins[some] + nr]
        reference = kept[some].min(axis=1)  # NaN until there are enough
        fell = reference - db[at]
        low = (fell >= DROP_DB).all(axis=1) & (db[at] <= WATER_DB).all(axis=1)
        since = np.where(low, np.minimum(low_since[some], days[at]), np.iinfo(np.int64).max)
        is_lasting = low & (days[at] - np.minimum(since, days[at]) > LONGEST_DAYS)
        low &= ~is_lasting
        low_since[some] = np.where(low, since, np.iinfo(np.int64).max)
        is_low[at], is_known[at], drop[at] = low, np.isfinite(reference).all(axis=1), fell
        other = some[~low]
        kept[other] = np.concatenate([kept[other, 1:], db[at[~low], None]], axis=1)
        # Another surface is what the passes after it are compared with.
        kept[some[is_lasting]] = db[at[is_lasting], None]
    return is_low, is_known, drop
