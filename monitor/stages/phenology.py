"""Start, peak and end of season of parcels whose curves changed, from their daily curves.

A parcel's daily curve is carried from batch to batch beside the states (monitor/season_series.py), under sequence "curve": to read it from
its months costs the server 8 us a month. Like all states it is a cache: one that is missing is read from the months.

Reads `curve`, stored states, curves and dates. Adds the curves to the states that are to be stored, and leaves the dates to `save`.
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import phenology as store
from db import predictions
from db.connect import Connection
from db.phenology import SeasonDates
from db.predictions import DailyCurves
from db.seasons import Season
from db.states import OF_NO_MODEL, States, of_numbers
from models.phenology import CROP, GRASS, NONE, OK, REASONS, phenologies
from monitor.batch import BatchContext

HCAT_GRASS: Final = "3302"
"""EuroCrops HCAT codes of pasture and meadow begin with it."""
CURVE: Final = "curve"
"""Under which a parcel's daily curve is stored beside the states."""
_DAYS: Final = 32
"""Curves are carried to a multiple of so many days: a batch's are then of few lengths, and their flags whole bytes."""


def date_seasons(batch: BatchContext) -> None:
    """Find SOS, POS and EOS, where they changed, of parcels whose curves changed; the season's end is known from the day after it."""
    if batch.curve is None or len(batch.curve.day) == 0:
        return
    season, rows = batch.season, batch.curve
    keys, place = np.unique(rows.parcel_key, return_inverse=True)
    curves = stored_curves(batch.connection, season, keys, batch.states)
    day = (rows.day - np.datetime64(season.starts_on)).astype(np.int64)
    curves.ndvi[place, day], curves.ndvi_sd[place, day] = rows.ndvi, rows.ndvi_sd
    curves.is_observed[place, day] = rows.is_observed
    n_days = _whole(1 + int(np.flatnonzero(np.isfinite(curves.ndvi).any(axis=0))[-1]))
    ndvi, sd, is_observed = curves.ndvi[:, :n_days], curves.ndvi_sd[:, :n_days], curves.is_observed[:, :n_days]
    batch.new_states.append(_carried(keys, ndvi, sd, is_observed, season.starts_on))
    is_grass = np.array([(code or "").startswith(HCAT_GRASS) for code in batch.parcels.hcat_code])
    found = phenologies(
        np.arange(n_days),
        ndvi.astype(np.float64),
        sd.astype(np.float64),
        is_observed,
        [GRASS if one else CROP for one in is_grass[np.searchsorted(batch.claim.parcel_keys, keys)].tolist()],
        is_complete=batch.now.date() > season.ends_on,
    )
    now = np.stack([found.reason, found.sos.day, found.pos.day, found.eos.day], axis=1)
    stored = store.latest(batch.connection, keys, season.starts_on, [str(reason) for reason in REASONS])
    changed = np.flatnonzero((now != _before(keys, stored)).any(axis=1))
    dates = [np.where(days == NONE, np.datetime64("NaT"), np.datetime64(season.starts_on) + days) for days in now.T[1:]]
    batch.season_dates = SeasonDates(
        keys[changed],
        [None if nr == OK else str(REASONS[nr]) for nr in found.reason[changed].tolist()],
        *(days[changed] for days in dates),
    )


def save(batch: BatchContext) -> None:
    """Store the dates that changed."""
    if batch.season_dates is not None and batch.recorded_at is not None:
        store.save(batch.connection, batch.season_dates, batch.recorded_at)


def _whole(n_days: int) -> int:
    """Return how many days are carried of so many."""
    return -(-n_days // _DAYS) * _DAYS


def stored_curves(
    connection: Connection, season: Season, keys: NDArray[np.int64], states: Mapping[tuple[int, str], States]
) -> DailyCurves:
    """Return the stored curves of parcels (P,), as many days of the season as are carried of a whole one."""
    curves = DailyCurves.empty(len(keys), _whole((season.ends_on - season.starts_on).days + 1))
    is_read = np.ones(len(keys), bool)
    if (carried := states.get((OF_NO_MODEL, CURVE))) is not None:
        for n_days in np.unique(carried.n_folded).tolist():
            parcel, numbers = carried.of_size(_size(n_days))
            is_asked = np.isin(parcel, keys)
            place, numbers = np.searchsorted(keys, parcel[is_asked]), numbers[is_asked]
            is_read[place] = False
            values = np.ascontiguousarray(numbers[:, : 8 * n_days]).view("<f4")
            curves.ndvi[place, :n_days], curves.ndvi_sd[place, :n_days] = values[:, :n_days], values[:, n_days:]
            curves.is_observed[place, :n_days] = np.unpackbits(numbers[:, 8 * n_days :], axis=1)
    if is_read.any():
        known = predictions.daily_curves(connection, keys[is_read], season.starts_on, season.ends_on)
        some = np.ix_(is_read, np.arange(known.ndvi.shape[1]))
        curves.ndvi[some], curves.ndvi_sd[some] = known.ndvi, known.ndvi_sd
        curves.is_observed[some] = known.is_observed
    return curves


def _size(n_days: int) -> int:
    """Return the bytes of a carried curve: two reals and a bit a day."""
    return n_days * 65 // 8


def _carried(
    keys: NDArray[np.int64],
    ndvi: NDArray[np.float32],
    sd: NDArray[np.float32],
    is_observed: NDArray[np.bool_],
    starts_on: date,
) -> States:
    """Return curves (P, D) as they are stored."""
    values = np.ascontiguousarray(np.concatenate([ndvi, sd], axis=1), "<f4").view(np.uint8)
    numbers = np.concatenate([values, np.packbits(is_observed, axis=1)], axis=1)
    n_days = np.full(len(keys), ndvi.shape[1])
    return States(
        OF_NO_MODEL, CURVE, keys, n_days, np.datetime64(starts_on, "us") + n_days.astype("m8[D]"), of_numbers(numbers)
    )


def _before(keys: NDArray[np.int64], stored: NDArray[np.void]) -> NDArray[np.int64]:
    """Return (P, 4) reason and dates as stored; what nothing can be equal to where nothing is."""
    before = np.full((len(keys), 4), np.iinfo(np.int64).min)
    place = np.searchsorted(keys, stored["parcel_key"])
    for column, name in enumerate(("reason_nr", *store.DATES)):
        before[place, column] = stored[name]
    return before
