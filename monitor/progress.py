"""The daily work of the leader: how the parcels of each region and declared crop stand, stored for all workers."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa

from db import progress
from db.parcels import Season
from monitor.rules import Neighbours, RuleSettings, neighbours_of

SAMPLE: Final = 200
"""Parcels looked at for each region and crop: a share is then known to 3.5 % (binomial standard error at 0.5)."""
EVERY: Final = timedelta(days=1)


def refresh(connection: sa.Connection, season: Season, collection: str, settings: RuleSettings, now: datetime) -> int:
    """Recomputes the progress of a season when a day has passed since the last time; returns the groups stored."""
    last = progress.last_recorded(connection, season.season_key, collection)
    if last is not None and now - last < EVERY:
        return 0
    views = progress.clear_views(connection, season.season_key, collection, SAMPLE, now)
    if len(views) == 0:
        return 0
    crops = progress.crop_of(connection, np.unique(views["parcel_key"]).tolist(), now)
    crop = np.array([crops[key] for key in views["parcel_key"].tolist()])
    until = min(now.date(), season.ends_on)
    rows = []
    for region in np.unique(views["region_key"]):
        for code in np.unique(crop[views["region_key"] == region]):
            group = views[(views["region_key"] == region) & (crop == code)]
            of = neighbours_of(group["parcel_key"], group["day"], group["ndvi"], season.starts_on, until, settings)
            rows.append(
                progress.ProgressRow(int(region), str(code), of.n, of.first_day, of.emerged_share, of.lost_share)
            )
    progress.save(connection, season.season_key, collection, rows, now)
    return len(rows)


def neighbours(
    stored: Mapping[tuple[str, str], progress.ProgressRow], region: str, crop_code: str | None
) -> Neighbours | None:
    """The stored progress of a region and crop as the rules take it."""
    row = stored.get((region, crop_code)) if crop_code is not None else None
    return None if row is None else Neighbours(row.n_parcels, row.first_day, row.emerged_share, row.lost_share)
