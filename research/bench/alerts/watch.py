"""A season walked day by day with what was known at the end of each: rules, lifecycle, and the alerts that a user would have seen.

    crop_mismatch                        along each acquisition, as in the stage of markers
    no_emergence, early_loss, flooding   at the end of each day on which anything arrived

A day's findings open, confirm and close alerts by `monitor.alerts.lifecycle`. Nobody decides on them.
`parts` is left out: simulated fields have none, and what it finds of them is in docs/LOG.md.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from db.crop_progress import VIEW, ProgressRow, SampleVersion
from db.seasons import Season as StoredSeason
from monitor.alerts.evidence import as_of, why
from monitor.alerts.flooding import flooding, is_read
from monitor.alerts.lifecycle import Episode, OpenAlert, events
from monitor.alerts.low_neighbours import LowNeighbours
from monitor.alerts.neighbours import Bools, CropStands, Ints
from monitor.alerts.rules import (
    YELLOW,
    ClearViews,
    Decisions,
    Finding,
    Found,
    crop_mismatch,
    doubted,
    early_loss,
    no_emergence,
    unless_doubted,
)
from monitor.alerts.settings import RuleSettings
from monitor.crop_progress import stands_of
from monitor.season_views import SAMPLE, SeasonViews
from research.bench.alerts.floods import LowLand
from research.bench.alerts.known import Series, arrival_days
from research.bench.alerts.posteriors import Course
from research.seasons.evaluate import ANSWERING
from research.simulator import Season, SimulatorConfig
from research.simulator.crops import CROPS
from research.simulator.landscape import build_landscape
from research.simulator.randomness import stream

Groups = Mapping[tuple[str, str], ProgressRow]


@dataclass
class Alert:
    """An alert as its log would show it."""

    parcel: int
    rule: str
    opened_on: date
    finding: Finding
    """The newest that departs."""
    confirmed_on: date | None = None
    closed_on: date | None = None
    reds: list[tuple[date, float]] = field(default_factory=list)
    """When its rule called it red with more confidence than before, and with how much."""

    def red_on(self, level: float) -> date | None:
        """Return when it is confirmed where only departures of a confidence may be red (`monitor.policies.red`)."""
        return next((day for day, confidence in self.reds if confidence >= level), None)

    @property
    def episode(self) -> Episode:
        """Return the episode that it closed with, as the stage of alerts does."""
        departed_on = self.finding.departed_on or self.opened_on
        return Episode(max(departed_on, as_of(self.finding.evidence) or departed_on), is_silent=False)


@dataclass
class Inbox:
    """The alerts of a season."""

    every: list[Alert] = field(default_factory=list)
    alive: dict[tuple[int, str], Alert] = field(default_factory=dict)
    closed: dict[tuple[int, str], Alert] = field(default_factory=dict)

    def move(self, parcel: int, finding: Finding, today: date) -> None:
        """Let a finding open, confirm, change or close the alert of its parcel and rule."""
        of = parcel, finding.rule
        alert, before = self.alive.get(of), self.closed.get(of)
        is_open = None
        if alert is not None:
            colour = alert.finding.colour
            assert colour is not None
            is_open = OpenAlert(0, colour, alert.confirmed_on is not None)
        for event in events(is_open, finding, None if before is None else before.episode):
            if event == "opened":
                alert = Alert(parcel, finding.rule, today, finding)
                self.every.append(alert)
            assert alert is not None or before is not None
            if event == "reopened":
                alert = self.closed.pop(of)
                alert.closed_on = None
            assert alert is not None
            if event == "confirmed" and alert.confirmed_on is None:
                alert.confirmed_on = today
            if event == "closed":
                alert.closed_on = today
                self.closed[of] = self.alive.pop(of)
                return
            self.alive[of] = alert
        if alert is not None and finding.departed_on is not None:
            alert.finding = finding
            confidence = finding.confidence or 0.0
            if finding.colour == "red" and (not alert.reds or confidence > alert.reds[-1][1]):
                alert.reds.append((today, confidence))


@dataclass(frozen=True)
class Watched:
    """What the rules said of a season."""

    alerts: Sequence[Alert]
    said: Mapping[str, Found]
    """What each rule found last, (P,)."""
    why: Mapping[tuple[int, str], str]
    """Of parcels on which something happened, by parcel and rule on views: what its last finding rests on."""


class Leader:
    """How the groups stand as known on a day: the leader's own memory, filled from rows in memory."""

    def __init__(self, season: Season, settings: RuleSettings) -> None:
        frame = season.parcels
        of = list(zip(frame["region"].astype(str), frame["crop_code"].astype(str), strict=True))
        self.groups = sorted(set(of))
        place = {group: nr for nr, group in enumerate(self.groups)}
        self.group = np.array([place[one] for one in of], np.int64)
        is_watched = season.truth.parcels["is_monitorable"].to_numpy(bool)
        self.sampled = _sample(np.where(is_watched, self.group, -1), season.config.seed)
        self._place = np.full(len(of), -1)
        self._place[self.sampled] = np.arange(len(self.sampled))
        self.season = StoredSeason(0, season.name, season.starts_on, season.ends_on)
        self._settings = settings
        self._views = SeasonViews(
            self.season,
            SampleVersion(None, None, None),
            self.sampled,
            self.group[self.sampled],
            [(nr, code) for nr, (_, code) in enumerate(self.groups)],
        )

    def progress(self, series: Series, today: date) -> Groups:
        """Return the progress as known at the end of a day; days are asked ascending."""
        rows, day = series.optical, np.datetime64(today)
        moved = rows.days[(rows.known_from == day) | (rows.known_until == day)]
        known = rows.on(day) & (self._place[rows.parcel] >= 0)
        views = np.empty(int(known.sum()), VIEW)
        views["parcel"], views["ndvi"] = self._place[rows.parcel[known]], rows.values[known, 0]
        views["day"] = (rows.days[known] - np.datetime64(self.season.starts_on)).astype(np.int64)
        self._views.views = views
        if len(moved):
            first = int((moved.min() - np.datetime64(self.season.starts_on)).astype(np.int64))
            self._views.changed_from = min(self._views.changed_from, first)
        until = min(today, self.season.ends_on)
        return {self.groups[one.region_key]: one for one in self._views.progress(until, self._settings)}


def _sample(group: Ints, seed: int) -> Ints:
    """Return up to `SAMPLE` parcels of each group (P,), by group; those of none (-1) are left out."""
    order = stream(seed, "sample").permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    begins = np.searchsorted(group[order], group[order])
    keep = (np.arange(len(order)) - begins < SAMPLE) & (group[order] >= 0)
    return np.asarray(order[keep])


def watch(
    season: Season, past: tuple[Season, Series], series: Series, courses: Sequence[Course], settings: RuleSettings
) -> Watched:
    """Return what the rules say of a season, day by day.

    Args:
        past: the season before of the same fields, whose harvest says what is early.
        series: what was observed.
        courses: posteriors, in order of availability.
        settings: thresholds.
    """
    leader, (_, before) = Leader(season, settings), at_its_end(*past, settings)
    names = courses[0].posteriors.classes if courses else ()
    declared = [name if name in names else None for name in season.parcels["crop_name"]]
    is_new_stand, inbox = _is_new_stand(season), Inbox()
    said: dict[str, Found] = {rule: Found.nothing(series.n_parcels) for rule in ANSWERING}
    mine = defaultdict[date, list[Course]](list)
    for one in courses:
        mine[one.known_on].append(one)
    last: dict[str, Decisions] = {}
    low_land, is_doubted = _low_land(season, series, leader), np.zeros(series.n_parcels, bool)
    for today in arrival_days(series.optical, series.radar):
        for course in mine[today]:
            _mismatch(course, declared, said["crop_mismatch"], settings, inbox, today)
            of = [declared[nr] for nr in course.parcels]
            is_doubted[course.parcels] = doubted(of, course.posteriors, settings)
        progress = leader.progress(series, today)
        stands, group = stands_of(progress, before, season.starts_on, settings), group_of(leader, progress)
        views, is_other_crop = series.views(np.datetime64(today)), said["crop_mismatch"].verdict >= YELLOW
        low = low_land.known(np.datetime64(today))
        for decisions in _of_views(
            series, views, stands, group, (is_other_crop, is_doubted), is_new_stand, settings, np.datetime64(today), low
        ):
            everyone = np.arange(series.n_parcels)
            _moved(everyone, decisions, said[decisions.rule], inbox, today)
            said[decisions.rule], last[decisions.rule] = decisions.found, decisions
    troubled = season.truth.parcels["parcel_id"].isin(season.truth.events.query("kind != 'mowing'")["parcel_id"])
    return Watched(
        inbox.every,
        said,
        {
            (nr, rule): why(rule, decisions.finding(nr).evidence)
            for rule, decisions in last.items()
            for nr in np.flatnonzero(troubled).tolist()
        },
    )


def _of_views(
    series: Series,
    views: ClearViews,
    stands: CropStands,
    group: Ints,
    silenced: tuple[Bools, Bools],
    is_new_stand: Bools,
    settings: RuleSettings,
    today: np.datetime64,
    low: LowNeighbours,
) -> Iterator[Decisions]:
    """Yield the rules on views; those among neighbours are silenced by a mismatch and by a doubt, (P,) each."""
    known, (is_other_crop, is_doubted) = views.until(stands.known_until[group]), silenced
    for decisions in (
        no_emergence(known, stands, group, is_other_crop, settings),
        early_loss(known, stands, group, is_other_crop, is_new_stand, settings),
    ):
        yield unless_doubted(decisions, is_doubted, settings)
    yield flooding(views, series.passes(today, is_read(views, low)), low)


def _low_land(season: Season, series: Series, leader: Leader) -> LowLand:
    """Return what is known of low neighbours, places in metres by the mean latitude of all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # centroids of degrees: fields are small
        centre = season.parcels.geometry.centroid
    metres = np.stack([centre.x * 111_320 * np.cos(np.radians(centre.y.mean())), centre.y * 110_574], axis=1)
    is_watched = season.truth.parcels["is_monitorable"].to_numpy(bool)
    return LowLand(series.radar, metres, leader.group, leader.groups, is_watched, leader.sampled)


def _mismatch(
    course: Course, declared: Sequence[str | None], said: Found, settings: RuleSettings, inbox: Inbox, today: date
) -> None:
    of, parcels = [declared[nr] for nr in course.parcels], course.parcels
    decisions = crop_mismatch(of, course.posteriors, said.of(parcels), settings)
    _moved(parcels, decisions, said.of(parcels), inbox, today)
    said.verdict[parcels], said.departed_on[parcels] = decisions.found.verdict, decisions.found.departed_on


def _moved(parcels: Ints, decisions: Decisions, before: Found, inbox: Inbox, today: date) -> None:
    """Move the alerts of parcels (N,) that depart or did; the others have none."""
    departs = np.maximum(decisions.found.verdict, before.verdict) >= YELLOW
    is_alive = np.array([(nr, decisions.rule) in inbox.alive for nr in parcels.tolist()], bool)
    for nr in np.flatnonzero(departs | is_alive).tolist():
        inbox.move(int(parcels[nr]), decisions.finding(nr), today)


def at_its_end(season: Season, series: Series, settings: RuleSettings) -> tuple[Leader, Groups]:
    """Return a leader of a season, and how the groups stood as known long after it."""
    leader = Leader(season, settings)
    return leader, leader.progress(series, date(season.config.year + 1, 12, 31))


def group_of(leader: Leader, progress: Groups) -> Ints:
    """Return (P,) the place of each parcel's group among those of which anything is known, -1 where nothing is."""
    place = {group: nr for nr, group in enumerate(progress)}
    return np.array([place.get(group, -1) for group in leader.groups], np.int64)[leader.group]


def farmed(config: SimulatorConfig) -> pd.DataFrame:
    """Return the parcels of a season as farmed: `field` and `previous_key`, in the order of the season."""
    landscape = build_landscape(config.seed, config.n_parcels, config.regions, config.year)
    return pd.DataFrame(landscape.parcels(config.year))


def _is_new_stand(season: Season) -> Bools:
    """Return (P,) fields that grew another crop last season than is declared now (a product asks the declaration of that season)."""
    name = {crop.key: crop.name for crop in CROPS}
    before = farmed(season.config)["previous_key"].map(name)
    return np.asarray(before.to_numpy() != season.parcels["crop_name"].to_numpy())
