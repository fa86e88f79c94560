"""The leader's other work: how many neighbours of low parcels are low at the same pass, stored for all workers.

Counted anew for each pass of which workers came to know anything. Parcels whose count changed are marked, so that findings
follow from what is known and not from whether the leader or a worker came by first.
"""

from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import low_passes, recording, work
from db.connect import Connection
from db.low_passes import LowParcel, Pass
from db.seasons import Season
from monitor.alerts.low_neighbours import (
    LOW_MIN,
    NEAREST,
    UNDECLARED,
    USUAL_SHARE,
    WITHIN_M,
    LowNeighbours,
    counted,
    is_crowded,
    usual_shares,
)
from monitor.alerts.neighbours import Bools, Floats, Ints
from monitor.season_views import LeaderMemory, SeasonViews

COUNTS: Final = ("n_seen", "n_low", "n_crops", "usual_share")


def refresh(connection: Connection, season: Season, collection: str, memory: LeaderMemory, now: datetime) -> int:
    """Count low neighbours at the passes that moved; return how many parcels are marked."""
    moved = low_passes.take_moved(connection, season.season_key, collection)
    if not moved:
        return 0
    sample = memory.of(connection, season, collection)
    changed = np.concatenate([_changed(connection, season, collection, sample, one) for one in moved])
    if not len(changed):
        return 0
    recorded_at = recording.begin(connection, now)
    low_passes.save_counted(connection, changed, recorded_at)
    return work.mark(connection, np.unique(changed["parcel_key"]).tolist(), "rules", recorded_at)


def low_neighbours(connection: Connection, keys: Ints) -> LowNeighbours:
    """Return what was counted last of some parcels, ascending, by their places."""
    return of_rows(low_passes.counted(connection, keys), keys)


def of_rows(rows: NDArray[np.void], keys: Ints) -> LowNeighbours:
    """Return stored counts of some parcels, ascending, by their places."""
    orbit, seen, low, crops = (rows[name].astype(np.int64) for name in ("relative_orbit", *COUNTS[:3]))
    place = np.searchsorted(keys, rows["parcel_key"])
    return LowNeighbours(place, rows["day"], orbit, seen, low, crops, rows["usual_share"])


def _changed(
    connection: Connection, season: Season, collection: str, sample: SeasonViews, at: Pass
) -> NDArray[np.void]:
    """Return the counts at a pass that are others than those stored; of parcels that are flooded, or were."""
    before = low_passes.counted_at(connection, season.season_key, collection, at)
    now = _flooded(connection, low_passes.low_parcels(connection, season.season_key, collection, at), sample, at)
    now = now.astype(before.dtype)
    gone = before[~np.isin(before["parcel_key"], now["parcel_key"]) & (before["n_low"] > 0)]
    for name in COUNTS:
        gone[name] = 0
    return np.concatenate([now[~np.isin(now, before)], gone])


def _flooded(connection: Connection, low: list[LowParcel], sample: SeasonViews, at: Pass) -> NDArray[np.void]:
    """Return the counts of the low parcels that are flooded."""
    if not _may_flood(low).any():
        return np.zeros(0, _ROW)
    usual = _usual_shares(connection, low, sample, at)
    low, usual = _some(low, usual <= USUAL_SHARE), usual[usual <= USUAL_SHARE]
    is_candidate = _may_flood(low)
    candidates = np.array([one.parcel_key for one in low], np.int64)[is_candidate]
    rows = np.zeros(len(candidates), _ROW)
    if not len(rows):
        return rows
    near = low_passes.nearest(connection, candidates, NEAREST, WITHIN_M)
    keys, place = np.unique(near["parcel_key"], return_inverse=True)
    around = np.full((len(candidates), NEAREST), -1)
    around[near["place"], np.arange(len(near)) - np.searchsorted(near["place"], near["place"])] = place
    code = {one: nr for nr, one in enumerate(sorted({one.crop_code for one in low} - {None}, key=str))}
    crop_of = {one.parcel_key: code.get(one.crop_code, UNDECLARED) for one in low}
    crop, own = (
        np.array([crop_of.get(key, UNDECLARED) for key in some.tolist()], np.int64) for some in (keys, candidates)
    )
    is_seen, is_low = np.isin(keys, low_passes.seen(connection, keys, at)), np.isin(keys, list(crop_of))
    rows["parcel_key"], rows["day"], rows["relative_orbit"] = candidates, at.day, at.relative_orbit
    rows["n_seen"], rows["n_low"], rows["n_crops"] = counted(around, own, crop, is_seen, is_low)
    rows["usual_share"] = usual[is_candidate]
    return rows[of_rows(rows, candidates).is_flooded]


_ROW: Final = np.dtype(
    [
        ("parcel_key", "i8"),
        ("day", "M8[D]"),
        ("relative_orbit", "i2"),
        ("n_seen", "i2"),
        ("n_low", "i2"),
        ("n_crops", "i2"),
        ("usual_share", "f4"),
    ]
)


def _usual_shares(connection: Connection, low: list[LowParcel], sample: SeasonViews, at: Pass) -> Floats:
    """Return (N,) which share of the region's parcels of each one's crop is low, by the leader's sample."""
    regions = sorted({region for region, _ in sample.groups} | {one.region_key for one in low})
    groups = [*sample.groups, *((region, None) for region in regions)]  # of no sampled crop: all of the region
    is_seen = np.isin(sample.parcel_keys, low_passes.seen(connection, sample.parcel_keys, at))
    is_low = np.isin(sample.parcel_keys, [one.parcel_key for one in low])
    region = np.array([regions.index(one) for one, _ in groups], np.int64)
    shares = usual_shares(sample.group, region, is_seen, is_low)
    place = {group: nr for nr, group in enumerate(groups)}
    of = [place.get((one.region_key, one.crop_code), place[one.region_key, None]) for one in low]
    return np.asarray(shares[of])


def _may_flood(low: list[LowParcel]) -> Bools:
    """Return (N,) which parcels may have enough low ones around."""
    if len(low) <= LOW_MIN:
        return np.zeros(len(low), bool)
    lon, lat = np.array([(one.lon, one.lat) for one in low]).T
    return is_crowded(lon * 111_320 * np.cos(np.radians(lat.max())), lat * 110_574)


def _some(low: list[LowParcel], which: Bools) -> list[LowParcel]:
    return [low[nr] for nr in np.flatnonzero(which).tolist()]
