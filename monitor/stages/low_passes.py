"""Low passes: at which radar passes claimed parcels fell to what water returns, and which passes are to be counted among neighbours.

    in order         the new passes that return as little as water: only of their parcels is the season's radar read
    other parcels    all passes, and what was stored of them

Reads the batch's series. Adds `low_passes` to the batch, leaves the rows to `save`; who leads counts (`monitor.flooded_land`).
"""

import numpy as np
from numpy.typing import NDArray

from db import low_passes as store
from db.low_passes import PASS, Pass
from monitor.alerts.flooding import AMONG_DROP_DB, AMONG_WATER_DB, is_like_water, low_passes
from monitor.batch import BatchContext
from monitor.policies.known import radar_views


def find(batch: BatchContext) -> None:
    """Find which passes of the claimed parcels are low that were not stored as such, or the other way round."""
    series, keys = batch.series, batch.claim.parcel_keys
    new = np.flatnonzero(series.is_new_pass)
    like_water = is_like_water(series.passes["vv_db"][new], series.passes["vh_db"][new], AMONG_WATER_DB)
    is_read = ~batch.is_in_order
    is_read[series.pass_parcel[new[like_water]]] = True
    if not is_read.any():
        return
    radar = radar_views(series, batch.season.starts_on, is_read)
    low = low_passes(radar, AMONG_DROP_DB, AMONG_WATER_DB)
    is_new = series.is_new_pass[is_read[series.pass_parcel]] | ~batch.is_in_order[radar.parcel]
    rows = np.empty(int((low & is_new).sum()), PASS)
    rows["parcel_key"], rows["is_low"] = keys[radar.parcel[low & is_new]], True
    rows["day"], rows["relative_orbit"] = radar.days[low & is_new], radar.orbit[low & is_new]
    rows = np.unique(rows)  # two products of a pass on one day are one
    others = keys[~batch.is_in_order]
    if len(others):
        before = store.stored(batch.connection, others)
        gone = np.setdiff1d(before, rows)
        gone["is_low"] = False
        rows = np.concatenate([np.setdiff1d(rows, before), gone])
    batch.low_passes = rows


def save(batch: BatchContext) -> None:
    """Store what changed, and ask for the passes of which anything new is known to be counted."""
    claim, observed = batch.claim, batch.claim.observations
    radar = observed[~observed["is_s2"]]
    moved = set(zip(radar["observed_at"].astype("M8[D]").tolist(), radar["relative_orbit"].tolist(), strict=True))
    if batch.low_passes is not None and batch.recorded_at is not None:
        store.save(batch.connection, batch.low_passes, batch.recorded_at)
        moved |= _passes(batch.low_passes)
    if moved:
        store.move(batch.connection, claim.season_key, claim.collection, [Pass(*one) for one in sorted(moved)])


def _passes(rows: NDArray[np.void]) -> set[tuple[object, int]]:
    return set(zip(rows["day"].tolist(), rows["relative_orbit"].tolist(), strict=True))
