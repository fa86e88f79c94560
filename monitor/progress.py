"""The daily work of the leader: how the parcels of each region and declared crop stand, stored for all workers."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa

from db import progress
from db.parcels import Season
from monitor.rules import Neighbours, RuleSettings, harvest_day, neighbours_of

SAMPLE: Final = 200
"""Parcels looked at for each region and crop: a share is then known to 3.5 % (binomial standard error at 0.5)."""
EVERY: Final = timedelta(days=1)


def refresh(connection: sa.Connection, season: Season, collection: str, settings: RuleSettings, now: datetime) -> int:
    """Recomputes the progress of a season when a day has passed since the last time; returns the groups stored."""
    last = progress.last_recorded(connection, season.season_key, collection)
    is_due = last is None or now - last >= EVERY
    return _compute(connection, season, collection, settings, now) if is_due else 0


def settle(connection: sa.Connection, season: Season, collection: str, settings: RuleSettings, now: datetime) -> int:
    """Computes the progress of a season that is over, once."""
    last = progress.last_recorded(connection, season.season_key, collection)
    is_settled = last is not None and last.date() > season.ends_on
    return 0 if is_settled else _compute(connection, season, collection, settings, now)


def _compute(connection: sa.Connection, season: Season, collection: str, settings: RuleSettings, now: datetime) -> int:
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
                progress.ProgressRow(int(region), str(code), of.n, of.first_day, of.standing_share, of.median_ndvi)
            )
    progress.save(connection, season.season_key, collection, rows, now)
    return len(rows)


def neighbours(
    stored: Mapping[tuple[str, str], progress.ProgressRow], before: Mapping[tuple[str, str], progress.ProgressRow],
    region: str, crop_code: str | None, starts_on: date, settings: RuleSettings,
) -> Neighbours | None:  # fmt: skip
    """The stored progress of a region and crop as the rules take it, with the harvest of the season before."""
    row, last = (rows.get((region, crop_code)) if crop_code is not None else None for rows in (stored, before))
    if row is None:
        return None
    harvest = harvest_day(last.standing_share, settings) if last is not None else None
    harvest_from = None if harvest is None else starts_on + timedelta(days=harvest)
    return Neighbours(row.n_parcels, row.first_day, row.standing_share, row.median_ndvi, harvest_from)
