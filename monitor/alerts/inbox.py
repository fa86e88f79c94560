"""The inbox: alerts in the order of what an inspection yields, read in pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np

from db import crop_progress, history, inbox, recording
from db.connect import Connection
from db.history import AlertFilter, KnownAlertRow
from db.inbox import GroupRow
from db.seasons import Season, previous_season
from monitor.alerts import yields
from monitor.alerts.neighbours import Floats, Ints, harvest_day
from monitor.alerts.settings import RuleSettings
from monitor.alerts.yields import Harvest
from monitor.markers.crop_calendar import calendars

Order = Literal["yield", "sure"]
"""What comes first of what is left to decide: most settled by an inspection (monitor.alerts.yields); red, then the surest."""


@dataclass(frozen=True)
class Inbox:
    """Alerts in order (N,)."""

    alert_keys: Ints
    parcel_keys: Ints
    expected_ha: Floats
    days_left: Floats
    """NaN where it is not known; negative where the proof is gone."""


@dataclass(frozen=True)
class InboxRow(KnownAlertRow):
    """An alert of the inbox, with what its inspection yields."""

    expected_ha: float
    days_left: int | None


def inbox_of(
    connection: Connection, wanted: AlertFilter, as_known_at: datetime | None, now: datetime, order: Order = "yield"
) -> Inbox:
    """Return the alerts that are wanted as known at a time (None: now), those with something left to decide first."""
    found = inbox.ranked(connection, wanted, as_known_at)
    today = (as_known_at or recording.present(connection, now)).date()
    _, first = np.unique(found["group_nr"], return_index=True)
    groups = inbox.groups_of(connection, found["parcel_key"][first].tolist(), as_known_at)
    harvests = _harvests(connection, groups, as_known_at, today)
    expected = yields.expected_ha(found["confidence"], found["area_ha"])
    left = yields.days_left(harvests, found["group_nr"], found["departed_on"], today)
    by_order = (
        (-expected, -yields.priority(expected, left)) if order == "yield" else (-found["confidence"], ~found["is_red"])
    )
    place = np.lexsort((found["alert_key"], *by_order, ~found["is_open"], ~found["is_pending"]))
    return Inbox(found["alert_key"][place], found["parcel_key"][place], expected[place], left[place])


def rows_of(connection: Connection, listed: Inbox, page: slice, as_known_at: datetime | None) -> list[InboxRow]:
    """Return a page of an inbox as known at the same time."""
    known = history.alerts_of(connection, listed.alert_keys[page].tolist(), as_known_at)
    yielded = zip(known, listed.expected_ha[page].tolist(), listed.days_left[page].tolist(), strict=True)
    return [
        InboxRow(**row.__dict__, expected_ha=expected, days_left=None if np.isnan(left) else int(left))
        for row, expected, left in yielded
    ]


def _harvests(
    connection: Connection, groups: Sequence[GroupRow], as_known_at: datetime | None, today: date
) -> list[Harvest]:
    """Return the harvest of each group as its neighbours show or foretell it."""
    settings, found = RuleSettings(), [Harvest()] * len(groups)
    for season, collection in {(_season(one), one.collection) for one in groups}:
        stored = crop_progress.load(connection, season.season_key, collection, as_known_at)
        before = previous_season(connection, collection, season)
        earlier = {} if before is None else crop_progress.load(connection, before.season_key, collection, as_known_at)
        mine = [nr for nr, one in enumerate(groups) if (_season(one), one.collection) == (season, collection)]
        calendar = calendars([groups[nr].hcat_code for nr in mine], season.ends_on.year)
        for nr, is_arable, earliest in zip(mine, calendar.is_arable, calendar.leaves_from.tolist(), strict=True):
            of = groups[nr].region, groups[nr].crop_code or ""
            if not is_arable or (of not in stored and of not in earlier):
                continue
            day = harvest_day(earlier[of].standing_share, settings) if of in earlier else None
            last_season = None if day is None else season.starts_on + timedelta(days=day)
            share = stored[of].standing_share if of in stored else np.zeros(0, np.float32)
            found[nr] = yields.harvest(share, season.starts_on, earliest, last_season, today, settings)
    return found


def _season(group: GroupRow) -> Season:
    return Season(group.season_key, group.season, group.starts_on, group.ends_on)
