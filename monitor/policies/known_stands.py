"""How the crops of a season stood as known on each day, under any thresholds: made anew from the sampled parcels' views.

What the leader stored then was found under the thresholds of then, and of an imported season nothing was.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from db import crop_progress
from db.connect import Connection
from db.parcels import declared_parcels
from db.seasons import Season
from monitor.alerts.neighbours import CropStands
from monitor.alerts.settings import RuleSettings
from monitor.crop_progress import Group, stands_of
from monitor.policies.revisions import Clock, Revisions
from monitor.season_series import NEVER
from monitor.season_views import SeasonViews

Stands = tuple[CropStands, Mapping[Group, int]]
"""How the groups stand, and the place of each (region, crop code)."""


def known_stands(
    connection: Connection, season: Season, collection: str, days: Sequence[date], clock: Clock, settings: RuleSettings
) -> list[Stands]:
    """Return how the crops stood as known at the end of each day, ascending.

    A region's crop is a group; of a year day by day some 0.5 MB each.
    """
    version = crop_progress.sample_version(connection, season.season_key, collection)
    views = SeasonViews.read(connection, season, collection, version)
    keys = views.parcel_keys
    regions = declared_parcels(connection, keys).region
    code_of = {views.groups[nr]: (regions[place], views.groups[nr][1]) for place, nr in enumerate(views.group)}
    revisions = Revisions.read(connection, "S2", keys, clock)
    key = crop_progress.version(connection, season.season_key, collection).season_before
    before = {} if key is None else crop_progress.load(connection, key, collection)
    stands, since = list[Stands](), NEVER
    for day in days:
        until = np.datetime64(day + timedelta(days=1), "us")
        _take(views, revisions.newest(until), revisions.new(since, until))
        since = until
        progress = {code_of[row.region_key, row.crop_code]: row for row in views.progress(day, settings)}
        place = {group: nr for nr, group in enumerate(progress)}
        stands.append((stands_of(progress, before, season.starts_on, settings), place))
    return stands


def _take(views: SeasonViews, known: NDArray[np.void], new: NDArray[np.void]) -> None:
    """Put what is known in the place of the views; what is new says from which day on they are others."""
    first_day, order = np.datetime64(views.season.starts_on), np.argsort(views.parcel_keys)
    clear = known[~known["is_withdrawn"] & np.isfinite(known["ndvi"])]
    views.views = np.empty(len(clear), crop_progress.VIEW)
    views.views["parcel"] = order[np.searchsorted(views.parcel_keys, clear["parcel_key"], sorter=order)]
    views.views["day"] = (clear["observed_at"].astype("M8[D]") - first_day).astype(np.int64)
    views.views["ndvi"] = clear["ndvi"]
    if len(new):
        first = int((new["observed_at"].min().astype("M8[D]") - first_day).astype(np.int64))
        views.changed_from = min(views.changed_from, first)
