"""Start, peak and end of season of parcels with a new clear view, from their stored daily curves."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa

from db import beliefs
from db.beliefs import PhenologyRow
from db.parcels import Parcel, Season
from db.work import Claim
from models.phenology import CROP, GRASS, PhenologyDate, phenology

HCAT_GRASS: Final = "3302"
"""EuroCrops HCAT codes of pasture and meadow begin with it."""


def date_seasons(
    connection: sa.Connection, claim: Claim, parcels: Sequence[Parcel], season: Season, now: datetime
) -> int:
    """Stores SOS, POS and EOS where they changed, of the claim's parcels with a new clear view; returns how many were looked at."""
    viewed = np.unique(claim.pending["parcel_key"][claim.pending["is_s2"] | claim.pending["is_rebuild"]])
    if len(viewed) == 0:
        return 0
    curves = beliefs.ndvi_curves(connection, viewed, season.starts_on, season.ends_on, now)
    is_complete = now.date() > season.ends_on
    grass = {p.parcel_key for p in parcels if (p.hcat_code or "").startswith(HCAT_GRASS)}
    rows = []
    for key in viewed.tolist():
        own = curves[slice(*np.searchsorted(curves["parcel_key"], [key, key + 1]))]
        days = (own["day"] - np.datetime64(season.starts_on)).astype(np.int64)
        ndvi, sd = own["ndvi"].astype(np.float64), own["ndvi_sd"].astype(np.float64)
        found = phenology(days, ndvi, sd, own["is_observed"], GRASS if key in grass else CROP, is_complete)
        dates = (_date(one, season) for one in (found.sos, found.pos, found.eos))
        outcome, reason = ("OK", None) if found.reason is None else ("NOT_VALID", str(found.reason))
        rows.append(PhenologyRow(key, outcome, reason, *dates))
    beliefs.save_phenology(connection, rows, now)
    return len(rows)


def _date(found: PhenologyDate | None, season: Season) -> date | None:
    return None if found is None else season.starts_on + timedelta(days=found.day)
