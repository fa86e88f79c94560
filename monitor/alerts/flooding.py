"""Flooding: fields under open water, seen by both sensors.

    low(pass)    VV and VH fell at once by a drop below the lowest of the last passes of the same orbit, to what water returns
    water(view)  a clear view has NDVI below `WATER_NDVI`
    flooded      a pass that is low, if by less, and so is the land around (`monitor.alerts.low_neighbours`)
    yellow       a low or flooded pass and a view of water within `TOGETHER_DAYS`; or flooded passes of two days within `FLOOD_DAYS`
    red          a third observation of another day that says the same, within `FLOOD_DAYS` of these; or flooded passes of three
                 days with `LARGE_SHARE` of the neighbours

Neither sensor is enough alone: of 1,107 Dutch parcels in a year without a flood, radar alone found 35 to 76 (a seedbed rolled fine falls
by as much as water, and what is green before may be one), both together none, and radar among neighbours none (docs/LOG.md). A calm
surface reflects away from the radar, so both polarisations fall between one pass and the next in all orbits; a crop that shadows its
soil (VV of wheat falls by 6 to 8 dB in six weeks) falls by less from pass to pass.
Source: ours; constants chosen on the Dutch parcels and seasons of the simulator other than those that are scored.
Shapes: P parcels, N passes, M views.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.low_neighbours import CROPS_MIN, LOW_MIN, LOW_SHARE, NEAREST, USUAL_SHARE, WITHIN_M, LowNeighbours
from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, Case, ClearViews, Decisions, agreeing, unseen
from monitor.markers.form import Floats, RadarViews

DROP_DB: Final = (3.5, 3.0)
"""By which VV and VH fall at once, at least."""
WATER_DB: Final = (-13.5, -20.5)
"""VV and VH of open water, at most; wind roughens it."""
AMONG_DROP_DB: Final = (2.5, 2.5)
AMONG_WATER_DB: Final = (-13.0, -20.0)
"""The same where neighbours fell, too: over a wet or smooth field water makes less of a fall."""
LARGE_SHARE: Final = 0.5
WATER_NDVI: Final = 0.05
"""Below it is water: at 0.1 bare soil is as often below as a flood."""
TOGETHER_DAYS: Final = 6
FLOOD_DAYS: Final = 15
REFERENCE_PASSES: Final = 3
"""Passes of an orbit whose lowest is the reference."""
LONGEST_DAYS: Final = 60
"""What stays low for longer is no flood but another surface."""


def flooding(views: ClearViews, radar: RadarViews, around: LowNeighbours | None = None) -> Decisions:
    """Decide whether P parcels stood under water.

    Args:
        views: of P parcels.
        radar: passes of the parcels of which `is_read` says so, at least.
        around: their low passes among neighbours, by place of the parcel; None: of none anything is known.
    """
    around = around or LowNeighbours.none()
    n_parcels, is_water, is_candidate = views.n_parcels, views.ndvi < WATER_NDVI, is_read(views, around)
    radar = radar.only(is_candidate[radar.parcel])
    share = _share_around(radar, around)
    low = low_passes(radar) | (share > 0)
    parcel = np.concatenate([views.parcel[is_water], radar.parcel[low]])
    days = np.concatenate([views.days[is_water], radar.days[low]])
    shown = np.concatenate([np.full(is_water.sum(), _VIEW), share[low]])
    order = np.lexsort((days, parcel))
    parcel, days, shown = parcel[order], days[order], shown[order]
    begun, n = np.full(n_parcels, np.datetime64("NaT", "D")), np.zeros(n_parcels, np.int64)
    is_sure = np.zeros(n_parcels, bool)
    for nr in np.flatnonzero(is_candidate).tolist():
        own = slice(*np.searchsorted(parcel, [nr, nr + 1]).tolist())
        begun[nr], n[nr], is_sure[nr] = _decided(days[own], shown[own])

    def evidence(nr: int) -> Mapping[str, Any]:
        own = np.flatnonzero(low & (radar.parcel == nr))[-6:]
        db = zip(radar.vv_db[own], radar.vh_db[own], strict=True)
        thresholds = {"water_ndvi": WATER_NDVI, "water_db": list(WATER_DB), "drop_db": list(DROP_DB)}
        found: dict[str, Any] = {
            "clear_views": views.shown(nr, is_water),
            "low_passes": [
                [str(radar.days[i]), int(radar.orbit[i]), round(float(vv), 1), round(float(vh), 1)]
                for i, (vv, vh) in zip(own, db, strict=True)
            ],
        }
        if (share[own] > 0).any():
            found["neighbours"] = _shown(around.only((around.parcel == nr) & around.is_flooded))
            thresholds |= _AMONG
        return found | {"thresholds": thresholds}

    cases = [
        Case(is_sure, RED, evidence, agreeing(n)),
        Case(n > 0, YELLOW, evidence, agreeing(n)),
        Case(views.count(views.ndvi < np.inf) == 0, NOT_VALID, unseen("no clear view yet")),
        Case(n == 0, GREEN, lambda _: {}),
    ]
    return Decisions("flooding", cases, begun)


_AMONG: Final = {
    "neighbours_drop_db": list(AMONG_DROP_DB),
    "neighbours_water_db": list(AMONG_WATER_DB),
    "neighbours_nearest": NEAREST,
    "neighbours_within_m": WITHIN_M,
    "neighbours_low_min": LOW_MIN,
    "neighbours_low_share": LOW_SHARE,
    "neighbours_large_share": LARGE_SHARE,
    "neighbours_crops": CROPS_MIN,
    "usual_share": USUAL_SHARE,
}


def _shown(around: LowNeighbours) -> list[list[Any]]:
    """Return flooded passes of a parcel as evidence shows them: day, orbit, neighbours seen and low, crops, share usually low."""
    order = np.lexsort((around.orbit, around.days))[-6:]
    columns = (around.orbit, around.n_seen, around.n_low, around.n_crops)
    return [
        [str(around.days[i]), *(int(one[i]) for one in columns), round(float(around.usual_share[i]), 3)]
        for i in order.tolist()
    ]


def is_read(views: ClearViews, around: LowNeighbours) -> Bools:
    """Return (P,) the few parcels of which radar is read: a view shows water, or the land around was flooded."""
    is_read = np.asarray(views.count(views.ndvi < WATER_NDVI) > 0)
    is_read[around.parcel[around.is_flooded]] = True
    return is_read


def _share_around(radar: RadarViews, around: LowNeighbours) -> NDArray[np.float64]:
    """Return (N,) the share of the neighbours that were low, of passes that are low among flooded land; 0 of all others."""
    share, around = np.zeros(len(radar.parcel)), around.only(around.is_flooded)
    if not len(around.parcel):
        return share
    known, asked = (_pass_numbers(one.parcel, one.days, one.orbit) for one in (around, radar))
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(known, asked, sorter=order), len(known) - 1)]
    is_known = known[place] == asked
    share[is_known] = around.share[place[is_known]]
    return np.where(low_passes(radar, AMONG_DROP_DB, AMONG_WATER_DB), share, 0.0)


def _pass_numbers(parcel: Ints, days: Days, orbit: Ints) -> Ints:
    """Return (N,) a number for each pass of each parcel."""
    return np.asarray((parcel * 100_000 + days.astype(np.int64)) * 1_000 + orbit)


_VIEW: Final = -1.0
"""In place of a share: a view of water."""


def _decided(days: Days, shown: NDArray[np.float64]) -> tuple[np.datetime64, int, bool]:
    """Return the first day of a parcel's longest flood, how many days show it, and whether that is enough to be sure.

    Args:
        days: (M,) of views of water and low passes, ascending.
        shown: (M,) `_VIEW`, or the share of low neighbours of a pass.
    """
    first, n = _flood(days, shown == _VIEW)
    first_flooded, n_flooded = _longest(days[shown > 0])
    is_sure = n > 2 or _longest(days[shown >= LARGE_SHARE])[1] > 2
    return (first_flooded, n_flooded, is_sure) if n_flooded > max(n, 1) else (first, n, is_sure)


def _longest(days: Days) -> tuple[np.datetime64, int]:
    """Return the first of the most days (M,), ascending, that lie within `FLOOD_DAYS`, and how many these are."""
    days = np.unique(days)
    if not len(days):
        return np.datetime64("NaT", "D"), 0
    n = np.searchsorted(days, days + np.timedelta64(FLOOD_DAYS, "D"), side="right") - np.arange(len(days))
    return days[n.argmax()], int(n.max())


def _flood(days: Days, is_view: Bools) -> tuple[np.datetime64, int]:
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


def is_like_water(vv_db: Floats, vh_db: Floats, level_db: tuple[float, float] = WATER_DB) -> Bools:
    """Return (N,) which passes return as little as water, and so may be low."""
    return np.asarray((vv_db <= level_db[0]) & (vh_db <= level_db[1]))


def low_passes(
    radar: RadarViews, drop_db: tuple[float, float] = DROP_DB, water_db: tuple[float, float] = WATER_DB
) -> Bools:
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
        low = (fell >= drop_db).all(axis=1) & is_like_water(db[at, 0], db[at, 1], water_db)
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
