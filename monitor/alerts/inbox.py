"""The inbox: alerts in the order of what an inspection yields, read in pages."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from db import crop_progress, history, inbox, recording
from db.connect import Connection, Engine
from db.history import AlertFilter, KnownAlertRow
from db.inbox import GroupRow
from db.incidents import IncidentRow, incidents
from db.seasons import Season, previous_season
from monitor.alerts import yields
from monitor.alerts.incidents import INCIDENT
from monitor.alerts.neighbours import Floats, Ints, harvest_day
from monitor.alerts.settings import RuleSettings
from monitor.alerts.yields import Harvest
from monitor.crop_progress import earliest_harvest
from monitor.markers.crop_calendar import calendars

Order = Literal["yield", "sure"]
"""What comes first of what is left to decide: most settled by an inspection (monitor.alerts.yields); red, then the surest."""


@dataclass(frozen=True)
class Inbox:
    """Lines in order (N,): an alert each, or a regional incident with all of its alerts."""

    alert_keys: Ints
    """Of an incident, the one that names it."""
    parcel_keys: Ints
    expected_ha: Floats
    days_left: Floats
    """NaN where it is not known; negative where the proof is gone."""
    n_red: Ints
    incident: Ints
    """Place in `incidents`; -1 for an alert that is of none, or is listed by itself."""
    incidents: Sequence[IncidentRow]


@dataclass(frozen=True)
class InboxRow(KnownAlertRow):
    """An alert of the inbox, with what its inspection yields."""

    expected_ha: float
    days_left: int | None


@dataclass(frozen=True)
class IncidentLine(IncidentRow):
    """A regional incident of the inbox, with what the inspections of all its alerts yield."""

    n_red: int
    expected_ha: float
    days_left: int | None


def inbox_of(
    connection: Connection,
    wanted: AlertFilter,
    as_known_at: datetime | None,
    now: datetime,
    order: Order = "yield",
    with_members: bool = False,
) -> Inbox:
    """Return the alerts that are wanted as known at a time (None: now), those with something left to decide first.

    Those of a regional incident are one line, `with_members` each its own.
    """
    found = inbox.ranked(connection, wanted, as_known_at)
    today = (as_known_at or recording.present(connection, now)).date()
    _, first, group = np.unique(found["group_hash"], return_index=True, return_inverse=True)
    groups = inbox.groups_of(connection, found["parcel_key"][first].tolist(), as_known_at)
    harvests = _harvests(connection, groups, as_known_at, today)
    lines = np.zeros(len(found), _LINE)
    for name in ("alert_key", "parcel_key", "is_pending", "is_open", "confidence"):
        lines[name] = found[name]
    lines["n_red"], lines["incident"] = found["is_red"], -1
    lines["expected_ha"] = yields.expected_ha(found["confidence"], found["area_ha"])
    lines["days_left"] = yields.days_left(harvests, group, found["departed_on"], today)
    around: list[IncidentRow] = []
    if not with_members and wanted.rule in (None, *INCIDENT.rules):
        around = incidents(connection, INCIDENT, wanted.season, wanted.collection, as_known_at)
        lines = _gathered(lines, around)
    lines = lines[_places(lines, order)]
    return Inbox(
        lines["alert_key"],
        lines["parcel_key"],
        lines["expected_ha"],
        lines["days_left"],
        lines["n_red"],
        lines["incident"],
        around,
    )


_LINE: Final = np.dtype(
    [
        ("alert_key", "i8"),
        ("parcel_key", "i8"),
        ("is_pending", "?"),
        ("is_open", "?"),
        ("confidence", "f4"),
        ("expected_ha", "f4"),
        ("days_left", "f4"),
        ("n_red", "i8"),
        ("incident", "i8"),
    ]
)


def _gathered(lines: NDArray[np.void], around: Sequence[IncidentRow]) -> NDArray[np.void]:
    """Return the lines with the alerts of each incident in one."""
    of = np.full(len(lines), -1, np.int64)
    sizes = [len(one.alert_keys) for one in around]
    keys = np.concatenate([np.array(one.alert_keys, np.int64) for one in around] or [np.zeros(0, np.int64)])
    is_member = np.isin(lines["alert_key"], keys)
    by_key = np.argsort(keys)
    of[is_member] = np.repeat(np.arange(len(around)), sizes)[by_key][
        np.searchsorted(keys[by_key], lines["alert_key"][is_member])
    ]
    gathered = [lines[of < 0]]
    for nr in np.unique(of[of >= 0]).tolist():
        members = np.sort(lines[of == nr], order="alert_key")
        line = members[:1].copy()
        for name in ("is_pending", "is_open", "confidence"):
            line[name] = members[name].max()
        for name in ("expected_ha", "n_red"):
            line[name] = members[name].sum()
        line["days_left"], line["incident"] = yields.soonest(members["days_left"]), nr
        gathered.append(line)
    return np.concatenate(gathered)


def _places(lines: NDArray[np.void], order: Order) -> Ints:
    """Return the places of lines in an order."""
    expected, left = lines["expected_ha"], lines["days_left"]
    by_order = (
        (-expected, -yields.priority(expected, left))
        if order == "yield"
        else (-lines["confidence"], lines["n_red"] == 0)
    )
    return np.lexsort((lines["alert_key"], *by_order, ~lines["is_open"], ~lines["is_pending"]))


def rows_of(
    connection: Connection, listed: Inbox, page: Sequence[int], as_known_at: datetime | None
) -> list[InboxRow | IncidentLine]:
    """Return the lines at some places of an inbox, as known at the same time."""
    keys = listed.alert_keys[page].tolist()
    alone = [key for key, nr in zip(keys, listed.incident[page].tolist(), strict=True) if nr < 0]
    known = {row.alert_key: row for row in history.alerts_of(connection, alone, as_known_at)}
    rows: list[InboxRow | IncidentLine] = []
    for place, key in zip(page, keys, strict=True):
        left = float(listed.days_left[place])
        expected, days = float(listed.expected_ha[place]), None if np.isnan(left) else int(left)
        if (nr := int(listed.incident[place])) < 0:
            rows.append(InboxRow(**known[key].__dict__, expected_ha=expected, days_left=days))
        else:
            rows.append(
                IncidentLine(
                    **listed.incidents[nr].__dict__,
                    n_red=int(listed.n_red[place]),
                    expected_ha=expected,
                    days_left=days,
                )
            )
    return rows


def _harvests(
    connection: Connection, groups: Sequence[GroupRow], as_known_at: datetime | None, today: date
) -> list[Harvest]:
    """Return the harvest of each group as its neighbours show or foretell it."""
    found = [Harvest()] * len(groups)
    for season, collection in {(_season(one), one.collection) for one in groups}:
        mine = [nr for nr, one in enumerate(groups) if (_season(one), one.collection) == (season, collection)]
        of_them = tuple(groups[nr] for nr in mine)
        if as_known_at is not None:
            harvests = _harvests_of(connection, season, collection, of_them, as_known_at, today)
        else:
            # Progress is computed once a day: what follows from it is kept until it is computed anew.
            version = crop_progress.version(connection, season.season_key, collection)
            kept, key = _kept.setdefault(connection.engine, {}), (season, collection, of_them, version, today)
            if key not in kept:
                if len(kept) >= _MOST_KEPT:
                    kept.clear()
                kept[key] = _harvests_of(connection, season, collection, of_them, None, today)
            harvests = kept[key]
        for nr, harvest in zip(mine, harvests, strict=True):
            found[nr] = harvest
    return found


_kept: Final[WeakKeyDictionary[Engine, dict[Hashable, list[Harvest]]]] = WeakKeyDictionary()
_MOST_KEPT: Final = 100
"""Lists of harvests: of each season, and of those who see other regions or ask for other alerts."""


def _harvests_of(
    connection: Connection,
    season: Season,
    collection: str,
    groups: Sequence[GroupRow],
    as_known_at: datetime | None,
    today: date,
) -> list[Harvest]:
    """Return the harvest of each group of a season and collection."""
    settings, found = RuleSettings(), [Harvest()] * len(groups)
    stored = crop_progress.load(connection, season.season_key, collection, as_known_at)
    before = previous_season(connection, collection, season)
    earlier = {} if before is None else crop_progress.load(connection, before.season_key, collection, as_known_at)
    calendar = calendars([one.hcat_code for one in groups], season.ends_on.year)
    of_groups = zip(groups, calendar.is_arable, calendar.leaves_from.tolist(), strict=True)
    for nr, (one, is_arable, earliest) in enumerate(of_groups):
        of = one.region, one.crop_code or ""
        if not is_arable or (of not in stored and of not in earlier):
            continue
        row = earlier.get(of)
        day = None if row is None else harvest_day(row.standing_share, settings, earliest_harvest(row))
        last_season = None if day is None else season.starts_on + timedelta(days=day)
        share = stored[of].standing_share if of in stored else np.zeros(0, np.float32)
        found[nr] = yields.harvest(share, season.starts_on, earliest, last_season, today, settings)
    return found


def _season(group: GroupRow) -> Season:
    return Season(group.season_key, group.season, group.starts_on, group.ends_on)
