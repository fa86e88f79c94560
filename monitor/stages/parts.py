"""Parts: the split of each clear view's pixel set, a few numbers that the season's series carry.

    in order     of the pending views; most of their sets were read for the classifier
    all others   as carried, of passes of which nothing is pending; all else is read

So what the rule finds does not depend on which batch a view came in, nor on whether a classifier reads pixel sets.
Reads the batch's observations, `carried` and `splits`. Changes the splits of `series`.
"""

import numpy as np
from numpy.typing import NDArray

from db.connect import Connection
from db.pixel_sets import pixel_sets_within
from db.series import numbered
from monitor.acquisitions import BYTES_AT_ONCE
from monitor.batch import BatchContext
from monitor.features import season_days, splits_of
from monitor.markers.parts import SPLIT
from monitor.season_series import Bools, Ints


def split_views(batch: BatchContext) -> None:
    """Find the splits of clear views of which none is carried."""
    series, rows = batch.series, batch.s2[np.isfinite(batch.s2["ndvi"])]
    if not len(rows):
        return
    found, is_found = np.zeros(len(rows), SPLIT), np.zeros(len(rows), bool)
    _take_carried(batch, rows, found, is_found)
    _take_read(batch, rows, found, is_found)
    found[~is_found] = read_splits(batch.connection, rows[~is_found])
    # Of a parcel's views those that are carried come first, and the others in the order of the rows.
    places = np.flatnonzero(series.is_new_view | ~batch.is_in_order[series.view_parcel])
    batch.series = series.with_splits(places, found)


def _take_carried(batch: BatchContext, rows: NDArray[np.void], found: NDArray[np.void], is_found: Bools) -> None:
    """Enter the splits of views of parcels that are not in order, where nothing of their pass is pending."""
    place, carried = np.searchsorted(batch.claim.parcel_keys, rows["parcel_key"]), batch.carried
    some = np.flatnonzero(~batch.is_in_order[place] & ~batch.claim.is_among(rows, is_s2=True))
    if not len(some) or not len(carried.views):
        return
    known = _keys(carried.view_parcel, carried.views["day"])
    wanted = _keys(place[some], season_days(rows["observed_at"][some], batch.season.starts_on))
    first, end = (np.searchsorted(known, wanted, side=side) for side in ("left", "right"))
    is_one = end - first == 1  # of two orbits at one time it is not known which is which
    found[some[is_one]], is_found[some[is_one]] = carried.views["split"][first[is_one]], True


def _take_read(batch: BatchContext, rows: NDArray[np.void], found: NDArray[np.void], is_found: Bools) -> None:
    """Enter the splits of sets that were read for the classifier."""
    if not batch.splits:
        return
    read, splits = (np.concatenate(column) for column in zip(*batch.splits, strict=True))
    if not len(read):  # what came has no pixel sets
        return
    parcels = np.unique(np.concatenate([rows["parcel_key"], read["parcel_key"]]))
    times = np.unique(np.concatenate([rows["observed_at"], read["observed_at"]]))
    known, wanted = (numbered(one, parcels, times) for one in (read, rows))
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    is_same = known[at] == wanted
    found[is_same], is_found[is_same] = splits[at[is_same]], True


def read_splits(connection: Connection, rows: NDArray[np.void]) -> NDArray[np.void]:
    """Return the splits of rows, of as many at a time as their sizes allow."""
    _, sets = pixel_sets_within(connection, "S2", rows, BYTES_AT_ONCE)
    if sets is not None:
        return splits_of(sets)
    half = len(rows) // 2
    return np.concatenate([read_splits(connection, rows[:half]), read_splits(connection, rows[half:])])


def _keys(parcel: Ints, day: NDArray[np.float32]) -> Ints:
    """Return (N,) parcel and day as one number; the bits of days, which are never negative, are in the days' order."""
    return np.asarray(parcel.astype(np.int64) << 32 | np.ascontiguousarray(day, np.float32).view(np.int32))
