"""The stored daily curves of parcels, and as one compact row each.

    carried beside the states (monitor/season_series.py), under sequence "curve"      parcels of which it is there
    the newest versions of their months                                               all others

Who adds a day to a curve needs the other days of its month, phenology all of the season: to read them from months costs the server
8 us a month. Like all states the carried one is a cache: one that is missing or of another version is read from the months.

Shapes: P parcels of D days.
Units:  NDVI dimensionless.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import predictions
from db.connect import Connection
from db.predictions import DailyCurves
from db.seasons import Season
from db.states import OF_NO_MODEL, States, of_numbers

Keys = NDArray[np.int64]

CURVE: Final = "curve"
"""Under which a parcel's daily curve is stored beside the states."""
_DAYS: Final = 32
"""Curves are carried to a multiple of so many days: a batch's are then of few lengths, and their flags whole bytes."""
_VERSION: Final = np.array([2], "<u4").view(np.uint8)
"""Raised when the layout changes: curves of another version are read from their months."""


def stored(
    connection: Connection, season: Season, keys: Keys, states: Mapping[tuple[int, str], States], last_day: int = 0
) -> DailyCurves:
    """Return the curves of parcels (P,) as they are stored, from the season's first day to its last or to a later one."""
    carried = states.get((OF_NO_MODEL, CURVE))
    longest = 0 if carried is None else int(carried.n_folded.max(initial=0))
    n_days = _whole(max((season.ends_on - season.starts_on).days + 1, last_day + 1, longest))
    curves = DailyCurves.empty(keys, np.datetime64(season.starts_on), n_days)
    is_read = np.ones(len(keys), bool)
    if carried is not None:
        for n_days in np.unique(carried.n_folded).tolist():
            parcel, numbers = carried.of_size(_size(n_days))
            is_ours = np.isin(parcel, keys) & (numbers[:, : _VERSION.size] == _VERSION).all(axis=1)
            place, numbers = np.searchsorted(keys, parcel[is_ours]), numbers[is_ours, _VERSION.size :]
            is_read[place] = False
            values = np.ascontiguousarray(numbers[:, : 8 * n_days]).view("<f4")
            curves.ndvi[place, :n_days], curves.ndvi_sd[place, :n_days] = values[:, :n_days], values[:, n_days:]
            flags = np.unpackbits(numbers[:, 8 * n_days :], axis=1).astype(bool)
            curves.is_causal[place, :n_days], curves.is_observed[place, :n_days] = flags[:, :n_days], flags[:, n_days:]
    if is_read.any():
        known = predictions.daily_curves(connection, keys[is_read], season.starts_on, curves.ndvi.shape[1])
        for name in predictions.VALUES:
            getattr(curves, name)[is_read] = getattr(known, name)
    return curves


def carried(curves: DailyCurves, keys: Keys) -> States:
    """Return the curves of some parcels (K,) as they are stored."""
    rows = np.searchsorted(curves.parcel_key, keys)
    last = int((curves.last_days()[rows] - curves.first_day).astype(np.int64).max(initial=0))
    some = slice(0, _whole(last + 1))
    values = np.concatenate([curves.ndvi[rows, some], curves.ndvi_sd[rows, some]], axis=1).astype("<f4")
    flags = np.packbits(np.concatenate([curves.is_causal[rows, some], curves.is_observed[rows, some]], axis=1), axis=1)
    version = np.broadcast_to(_VERSION, (len(keys), _VERSION.size))
    n_days = np.full(len(keys), some.stop)
    return States(
        OF_NO_MODEL,
        CURVE,
        keys,
        n_days,
        curves.first_day.astype("M8[us]") + n_days.astype("m8[D]"),
        of_numbers(np.concatenate([version, values.view(np.uint8), flags], axis=1)),
    )


def _whole(n_days: int) -> int:
    """Return how many days are carried of so many."""
    return -(-n_days // _DAYS) * _DAYS


def _size(n_days: int) -> int:
    """Return the bytes of a carried curve: two reals and two bits a day."""
    return _VERSION.size + n_days * 33 // 4
