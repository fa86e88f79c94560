"""The leader's work: how the parcels of each region and declared crop stand, stored for all workers.

Computed again when other observations are stored than it was computed from. Parcels whose findings may change with it are
marked, so that findings follow from what is known and not from whether the leader or a worker came by first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import crop_progress, recording, work
from db.connect import Connection
from db.crop_progress import ProgressRow
from db.seasons import Season
from monitor.alerts.neighbours import CropStands, Neighbours, harvest_day
from monitor.alerts.settings import RuleSettings
from monitor.dekads import dekad_number
from monitor.markers.bands import Bands
from monitor.markers.crop_calendar import OTHER
from monitor.season_views import LeaderMemory

Group = tuple[str, str | None]
"""Region and declared crop, None where nothing is declared."""
SAME_NDVI: Final = 0.01
"""Medians that differ by less change no finding that a single view's noise (0.03 to 0.05) would not change too."""


def refresh(
    connection: Connection,
    season: Season,
    collection: str,
    settings: RuleSettings,
    now: datetime,
    memory: LeaderMemory | None = None,
) -> int:
    """Recompute the progress of a season when other observations are stored or a day has begun; return the groups stored.

    `memory` is what this process keeps from one time to the next; without it the season's views are read whole.
    """
    last = crop_progress.last_computed(connection, season.season_key, collection)
    n = crop_progress.count_observations(connection, season.starts_on, season.ends_on)
    until = min(now.date(), season.ends_on)
    if last is not None and last.n_observations == n and last.recorded_at.date() >= until:
        return 0
    views = (memory or LeaderMemory()).of(connection, season, collection)
    before = crop_progress.load(connection, season.season_key, collection)
    n = views.update(connection)
    rows = views.progress(until, settings)
    if not rows:
        return 0
    # As late as can be: whoever asks as known at a later time waits from here to the commit.
    recorded_at = recording.begin(connection, now)
    crop_progress.save(connection, season.season_key, collection, rows, n, recorded_at)
    work.mark(connection, _affected(connection, season, collection, before, rows, settings), "rules", recorded_at)
    return len(rows)


def finish_season(
    connection: Connection, season: Season, collection: str, settings: RuleSettings, now: datetime
) -> int:
    """Compute the progress of a season that is over, once; return the groups stored."""
    last = crop_progress.last_computed(connection, season.season_key, collection)
    if last is not None and last.recorded_at.date() > season.ends_on:
        return 0
    views = LeaderMemory().of(connection, season, collection)
    n = views.update(connection)
    rows = views.progress(season.ends_on, settings)
    crop_progress.save(connection, season.season_key, collection, rows, n, recording.begin(connection, now))
    return len(rows)


def _affected(
    connection: Connection,
    season: Season,
    collection: str,
    before: Mapping[tuple[str, str], ProgressRow],
    rows: list[ProgressRow],
    settings: RuleSettings,
) -> list[int]:
    """Return keys of parcels whose findings may change.

    Those of groups that stand otherwise, and those seen on days not known of the neighbours before.
    """
    old = {(row.region_key, row.crop_code): row for row in before.values()}
    moved = [
        (row.region_key, row.crop_code)
        for row in rows
        if differs(old.get((row.region_key, row.crop_code)), row, settings)
    ]
    keys = set(crop_progress.parcels_of(connection, season.season_key, collection, moved)) if moved else set()
    if old:
        known_to = min(row.first_day + timedelta(days=len(row.standing_share) - 1) for row in old.values())
        last = rows[0].first_day + timedelta(days=len(rows[0].standing_share) - 1)
        if last > known_to:
            first = known_to + timedelta(days=1)
            keys |= set(crop_progress.parcels_viewed(connection, season.season_key, collection, first, last))
    return sorted(keys)


def differs(before: ProgressRow | None, after: ProgressRow, settings: RuleSettings) -> bool:
    """Say whether rules may find something else among neighbours that stand like this.

    Days that are new say nothing else as long as they go on like the last day known before: rules take that for later ones.
    """
    if before is None or (before.n_parcels >= settings.neighbours_min) != (after.n_parcels >= settings.neighbours_min):
        return True
    if _moved(before.band, after.band):
        return True
    n = min(len(before.standing_share), len(after.standing_share))
    was, now = _classes(before.standing_share, settings), _classes(after.standing_share, settings)
    medians = np.abs(np.nan_to_num(before.median_ndvi[:n], nan=-1) - np.nan_to_num(after.median_ndvi[:n], nan=-1))
    return bool(n == 0 or np.any(was[:n] != now[:n]) or np.any(now[n:] != was[n - 1]) or np.any(medians > SAME_NDVI))


def _moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Say whether a band differs in a dekad that was known before; a new one matters to parcels that are seen behind it alone."""
    n = min(before.shape[1], after.shape[1])
    return before.shape[1] > after.shape[1] or not np.array_equal(before[:, :n], after[:, :n], equal_nan=True)


def _classes(share: NDArray[np.float32], settings: RuleSettings) -> NDArray[np.int64]:
    """Return (D,) class of a share of parcels with a canopy, as the rules compare: unknown, bare, between, canopy."""
    levels = np.array([settings.seedbed_share, settings.standing_share], np.float32)
    # As the rules compare: bare at or below the one, canopy at or above the other.
    return np.where(np.isfinite(share), (share > levels[0]).astype(int) + (share >= levels[1]) + 1, 0)


@dataclass
class KnownStands:
    """How the crops of seasons stand, kept between a worker's batches until other progress is stored."""

    _kept: dict[tuple[int, str], "KnownGroups"] = field(default_factory=dict)

    def of(self, connection: Connection, season: Season, collection: str, settings: RuleSettings) -> "KnownGroups":
        """Return the newest stored progress of all groups as rules and markers take it."""
        version = crop_progress.version(connection, season.season_key, collection)
        kept = self._kept.get((season.season_key, collection))
        if kept is None or kept.version != version:
            kept = KnownGroups.read(connection, season, collection, version, settings)
            self._kept[season.season_key, collection] = kept
        return kept


@dataclass(frozen=True)
class KnownGroups:
    """How the groups of a season and collection stand, by stored progress."""

    version: crop_progress.Version
    stands: CropStands
    bands: Bands
    group: Mapping[Group, int]
    """Place of each (region, crop code)."""

    @classmethod
    def read(
        cls,
        connection: Connection,
        season: Season,
        collection: str,
        version: crop_progress.Version,
        settings: RuleSettings,
    ) -> "KnownGroups":
        stored, key = crop_progress.load(connection, season.season_key, collection), version.season_before
        before = {} if key is None else crop_progress.load(connection, key, collection)
        stands = stands_of(stored, before, season.starts_on, settings)
        first = dekad_number(season.starts_on)
        bands = Bands.of([row.band for row in stored.values()], first, dekad_number(season.ends_on) - first + 1)
        return cls(version, stands, bands, {group: nr for nr, group in enumerate(stored)})

    def of(self, region: Sequence[str], crop_code: Sequence[str | None]) -> NDArray[np.int64]:
        """Return (P,) the places of parcels' groups, -1 where nothing is known of them."""
        return np.array([self.group.get(one, -1) for one in zip(region, crop_code, strict=True)], np.int64)


def stands_of(
    stored: Mapping[tuple[str, str], ProgressRow],
    before: Mapping[tuple[str, str], ProgressRow],
    starts_on: date,
    settings: RuleSettings,
) -> CropStands:
    """Return groups as the rules take them, with the harvest of the season before (of which all is known) moved to this one."""
    harvest = {
        group: harvest_day(row.standing_share, settings, earliest_harvest(row))
        for group, row in before.items()
        if group in stored
    }
    groups = [
        Neighbours(
            row.n_parcels,
            row.first_day,
            row.standing_share,
            row.median_ndvi,
            None if (day := harvest.get(group)) is None else starts_on + timedelta(days=day),
        )
        for group, row in stored.items()
    ]
    return CropStands.of(groups, settings)


def earliest_harvest(row: ProgressRow) -> int:
    """Return the day of a season before which no crop is harvested; the harvest is of the year of the season's middle."""
    year = (row.first_day + timedelta(days=len(row.standing_share) // 2)).year
    return (OTHER.harvest_from(year) - row.first_day).days
