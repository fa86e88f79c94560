"""Start, peak and end of season of parcels whose curves changed, from their stored daily curves.

Reads `curve` (already saved) and the stored curves. Adds nothing to the batch: the dates are stored.
"""

from datetime import date, timedelta
from typing import Final

import numpy as np

from db import predictions
from db.predictions import PhenologyRow
from db.seasons import Season
from models.phenology import CROP, GRASS, PhenologyDate, phenology
from monitor.batch import BatchContext

HCAT_GRASS: Final = "3302"
"""EuroCrops HCAT codes of pasture and meadow begin with it."""


def date_seasons(batch: BatchContext) -> None:
    """Store SOS, POS and EOS, where they changed, of parcels whose curves changed; the season's end is known from the day after it."""
    if batch.curve is None or len(batch.curve.day) == 0 or batch.recorded_at is None:
        return
    season, keys = batch.season, np.unique(batch.curve.parcel_key)
    curves = predictions.daily_curves(batch.connection, keys, season.starts_on, season.ends_on)
    days = np.arange(curves.ndvi.shape[1])
    is_complete = batch.now.date() > season.ends_on
    grass = {p.parcel_key for p in batch.parcels if (p.hcat_code or "").startswith(HCAT_GRASS)}
    rows = []
    for key, ndvi, sd, is_observed in zip(keys.tolist(), curves.ndvi, curves.ndvi_sd, curves.is_observed, strict=True):
        config = GRASS if key in grass else CROP
        found = phenology(days, ndvi.astype(np.float64), sd.astype(np.float64), is_observed, config, is_complete)
        dates = (_date(one, season) for one in (found.sos, found.pos, found.eos))
        outcome, reason = ("OK", None) if found.reason is None else ("NOT_VALID", str(found.reason))
        rows.append(PhenologyRow(key, outcome, reason, *dates))
    predictions.save_phenology(batch.connection, rows, batch.recorded_at)


def _date(found: PhenologyDate | None, season: Season) -> date | None:
    return None if found is None else season.starts_on + timedelta(days=found.day)
