"""Phenology of parcels whose curves changed, from their daily curves: dates, and measures with their standard deviations.

    dates      of every curve that changed
    logistic   a double logistic fitted to seasons that are over
    measures   where a date changed, the season is over, or the stored ones are `MEASURED_DAYS` old

Reads `curve`, `curves` and what is stored. Adds what is to be stored, and leaves it to `save`: a row where a date changed, a measure
moved by more than half of its sd, came or went, or the season is over.
"""

from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import phenology as store
from db.phenology import SeasonDates
from models import double_logistic
from models.phenology import CROP, GRASS, NONE, OK, REASONS, phenologies
from models.season_metrics import METRICS, SeasonMetrics, season_metrics
from monitor.batch import BatchContext

HCAT_GRASS: Final = "3302"
"""EuroCrops HCAT codes of pasture and meadow begin with it."""
MEASURED_DAYS: Final = 10
"""After which measures are taken anew though no date changed (a dekad, by which agencies report)."""
MATTERS: Final = 0.5
"""Of its sd: a measure that moved by less is the same."""


def date_seasons(batch: BatchContext) -> None:
    """Find dates and measures, where they changed, of parcels whose curves changed; the season's end is known from the day after it."""
    if batch.curve is None or batch.curves is None or len(batch.curve.day) == 0:
        return
    season, curves = batch.season, batch.curves
    keys = np.unique(batch.curve.parcel_key)
    rows = np.searchsorted(curves.parcel_key, keys)
    last = int(np.flatnonzero(np.isfinite(curves.ndvi).any(axis=0))[-1])
    n_days = 1 + min(last, (season.ends_on - season.starts_on).days)  # a curve goes on after the season's end
    is_grass = np.array([(code or "").startswith(HCAT_GRASS) for code in batch.parcels.hcat_code])
    is_grass = is_grass[np.searchsorted(batch.claim.parcel_keys, keys)]
    configs = [GRASS if one else CROP for one in is_grass.tolist()]
    is_complete = batch.now.date() > season.ends_on
    ndvi, sd = (of[rows, :n_days].astype(np.float64) for of in (curves.ndvi, curves.ndvi_sd))
    found = phenologies(np.arange(n_days), ndvi, sd, curves.is_observed[rows, :n_days], configs, is_complete)
    now = np.stack([found.reason, found.sos.day, found.pos.day, found.eos.day], axis=1)
    reasons = [str(reason) for reason in REASONS]
    known = _Known(keys, store.latest(batch.connection, keys, season.starts_on, reasons, len(METRICS)))
    is_other = (now != known.dates).any(axis=1) | (known.is_complete != is_complete)
    is_old = known.recorded_at <= np.datetime64((batch.now - timedelta(days=MEASURED_DAYS)).replace(tzinfo=None))
    due = np.flatnonzero(is_other | is_complete | is_old & (found.reason == OK))
    up = np.where(is_grass[due], GRASS.share_up, CROP.share_up)
    down = np.where(is_grass[due], GRASS.share_down, CROP.share_down)
    measured = season_metrics(ndvi[due], sd[due], found.some(due), up, down, is_complete)
    is_new = is_other[due] | _moved(measured, known.measures[due], known.measures_sd[due])
    changed, measured = due[is_new], SeasonMetrics(measured.value[is_new], measured.sd[is_new])
    first, never = np.datetime64(season.starts_on), np.datetime64("NaT")
    sos, pos, eos = (np.where(days == NONE, never, first + days) for days in now[changed].T[1:])
    batch.season_dates = SeasonDates(
        keys[changed],
        [None if nr == OK else str(REASONS[nr]) for nr in found.reason[changed].tolist()],
        sos,
        pos,
        eos,
        is_complete,
        measured.value,
        measured.sd,
        *_fitted(ndvi[changed], sd[changed], measured, is_complete),
    )


def save(batch: BatchContext) -> None:
    """Store what changed."""
    if batch.season_dates is not None and batch.recorded_at is not None:
        store.save(batch.connection, batch.season_dates, batch.recorded_at)


def _fitted(
    ndvi: NDArray[np.float64], sd: NDArray[np.float64], measured: SeasonMetrics, is_complete: bool
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the parameters of the double logistics of seasons that are over, and their sd; None while they run."""
    if not is_complete:
        return None, None
    sos, eos = (measured.value[:, METRICS.index(name)] for name in ("sos", "eos"))
    return double_logistic.fit(ndvi, sd, sos, eos)


def _moved(now: SeasonMetrics, value: NDArray[np.floating], sd: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (P,) whether a measure or its sd moved by more than matters from what is stored, came, or went."""
    is_there, least = np.isfinite(now.value), MATTERS * np.fmax(now.sd, sd) + 1e-6
    is_other = (np.abs(now.value - value) > least) | (np.abs(now.sd - sd) > least)
    return np.asarray(((is_there != np.isfinite(value)) | is_other).any(axis=1))


class _Known:
    """What is stored of P parcels; what nothing can be equal to where nothing is."""

    def __init__(self, keys: NDArray[np.int64], stored: NDArray[np.void]) -> None:
        place = np.searchsorted(keys, stored["parcel_key"])
        self.dates = np.full((len(keys), 4), np.iinfo(np.int64).min)
        for column, name in enumerate(("reason_nr", *store.DATES)):
            self.dates[place, column] = stored[name]
        self.is_complete = np.zeros(len(keys), bool)
        self.recorded_at = np.full(len(keys), np.datetime64("NaT", "us"))
        self.measures, self.measures_sd = np.full((2, len(keys), len(METRICS)), np.nan)
        for name in ("is_complete", "recorded_at", "measures", "measures_sd"):
            getattr(self, name)[place] = stored[name]
