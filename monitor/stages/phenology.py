"""Start, peak and end of season of parcels whose curves changed, from their daily curves.

Reads `curve`, `curves` and stored dates. Adds the dates that are to be stored, and leaves them to `save`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import phenology as store
from db.phenology import SeasonDates
from models.phenology import CROP, GRASS, NONE, OK, REASONS, phenologies
from monitor.batch import BatchContext

HCAT_GRASS: Final = "3302"
"""EuroCrops HCAT codes of pasture and meadow begin with it."""


def date_seasons(batch: BatchContext) -> None:
    """Find SOS, POS and EOS, where they changed, of parcels whose curves changed; the season's end is known from the day after it."""
    if batch.curve is None or batch.curves is None or len(batch.curve.day) == 0:
        return
    season, curves = batch.season, batch.curves
    keys = np.unique(batch.curve.parcel_key)
    rows = np.searchsorted(curves.parcel_key, keys)
    last = int(np.flatnonzero(np.isfinite(curves.ndvi).any(axis=0))[-1])
    n_days = 1 + min(last, (season.ends_on - season.starts_on).days)  # a curve goes on after the season's end
    is_grass = np.array([(code or "").startswith(HCAT_GRASS) for code in batch.parcels.hcat_code])
    found = phenologies(
        np.arange(n_days),
        curves.ndvi[rows, :n_days].astype(np.float64),
        curves.ndvi_sd[rows, :n_days].astype(np.float64),
        curves.is_observed[rows, :n_days],
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


def _before(keys: NDArray[np.int64], stored: NDArray[np.void]) -> NDArray[np.int64]:
    """Return (P, 4) reason and dates as stored; what nothing can be equal to where nothing is."""
    before = np.full((len(keys), 4), np.iinfo(np.int64).min)
    place = np.searchsorted(keys, stored["parcel_key"])
    for column, name in enumerate(("reason_nr", *store.DATES)):
        before[place, column] = stored[name]
    return before
