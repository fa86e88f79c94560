"""Try a policy and thresholds on a stored season: what they would have said day by day, from what was known on each day.

    crop_mismatch                    along the stored posteriors
    no_emergence, early_loss         among neighbours that stand as they did by the views known then
    flooding                         on the parcel's own, and its low neighbours as the leader counted them
    boundaries                       on what drawn fields said of the parcel
    parts, obligations               on what was known of the parcel itself

Each is decided by the functions that the monitor calls, at the end of each day, from what was found at the end of the day before.
Nothing is stored. Declarations are those of now, and no person decides on an alert.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import alerts, low_passes, markers, registry
from db.connect import Connection
from db.crop_progress import with_another_crop_before
from db.parcels import declared_parcels, monitorable_keys, source_ids
from db.policies import stored_rules
from db.seasons import Season
from db.sensors import Sensor
from monitor.acquisitions import acquisition_keys
from monitor.alerts.boundaries import MARKER as BOUNDARIES
from monitor.alerts.flooding import flooding, is_read
from monitor.alerts.lifecycle import why_over
from monitor.alerts.low_neighbours import LowNeighbours
from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.parts import parts
from monitor.alerts.rules import (
    GREEN,
    NOT_EXECUTED,
    NOT_VALID,
    RED,
    RULES,
    UNKNOWN,
    VERDICTS,
    YELLOW,
    ClearViews,
    Decisions,
    Found,
    crop_mismatch,
    early_loss,
    no_emergence,
    unless_doubted,
)
from monitor.alerts.settings import RuleSettings
from monitor.flooded_land import of_rows
from monitor.policies.comparisons import compared_with_fields
from monitor.policies.courses import Decided, KnownCourses
from monitor.policies.known import Asked, Known, pixel_views, radar_views
from monitor.policies.known_stands import Stands, known_stands
from monitor.policies.obligations import decide
from monitor.policies.policy import Policy
from monitor.policies.red import seen_of_all
from monitor.policies.revisions import NOT_YET, Clock, Revisions, Splits, Time
from monitor.policies.suppression import windows_of
from monitor.season_series import NEVER, SeasonSeries

LIGHTS: Final = {"green": GREEN, "yellow": YELLOW, "red": RED, "not valid": NOT_VALID, "not executed": NOT_EXECUTED}
SENSORS: Final[tuple[Sensor, Sensor]] = ("S2", "S1")
AT_ONCE: Final = 5_000
"""Parcels of which seasons are in memory at once: some 300 MB."""


@dataclass(frozen=True)
class Turned:
    """A parcel of which an alert was opened, opened again or confirmed."""

    parcel_key: int
    source_id: str
    colour: str
    departed_on: date


@dataclass(frozen=True)
class DayOfTrial:
    """What a rule says of the parcels as known at the end of a day."""

    day: date
    rule: str
    lights: dict[str, int]
    """Parcels by light."""
    turned: list[Turned]
    """Since the day of the trial before."""


@dataclass(frozen=True)
class Trial:
    """What is tried, on which season."""

    policy: Policy
    settings: RuleSettings
    season: Season
    collection: str
    days: Sequence[date]
    """Ascending."""
    clock: Clock
    """`recorded_at`, as it was known here; `available_at`, as it could have been known, for a season imported later."""

    def run(self, connection: Connection) -> Iterator[DayOfTrial]:
        """Yield what each rule and obligation says as known at the end of each of the days; nothing is written."""
        stands = known_stands(connection, self.season, self.collection, self.days, self.clock, self.settings)
        models = registry.activations(connection, self.season.season_key, self.collection, "classifier")
        yield from _decided(
            _TriedParcels(self, connection, keys, stands, models).run()
            for keys in _batches(connection, self.season, self.collection)
        )


def in_force(connection: Connection, season: Season, collection: str, days: Sequence[date]) -> Iterator[DayOfTrial]:
    """Yield what was found by the rules in force as recorded by the end of each day, and the alerts that they gave."""
    rules = [*RULES, *stored_rules(connection, (season.season_key, collection))]
    batches = _batches(connection, season, collection)
    yield from _decided(_recorded(connection, keys, rules, days) for keys in batches)


def _batches(connection: Connection, season: Season, collection: str) -> Iterator[Ints]:
    keys = monitorable_keys(connection, season.season_key, collection)
    return (keys[at : at + AT_ONCE] for at in range(0, len(keys), AT_ONCE))


def _decided(batches: Iterator[Iterator[DayOfTrial]]) -> Iterator[DayOfTrial]:
    """Yield what is said of all batches of parcels together, of rules that were decided of any."""
    return (one for one in _joined(batches) if any(one.lights.values()))


def _joined(batches: Iterator[Iterator[DayOfTrial]]) -> Iterator[DayOfTrial]:
    """Yield what is said of all batches of parcels together; one after the other is tried, see AT_ONCE."""
    for together in zip(*[list(one) for one in batches], strict=True):
        first = together[0]
        lights = {light: sum(one.lights[light] for one in together) for light in LIGHTS}
        yield DayOfTrial(first.day, first.rule, lights, [one for part in together for one in part.turned])


@dataclass
class _Said:
    """What a rule found of P parcels so far, and their alerts."""

    found: Found
    """As it was found, in suppression windows and where it may not be red too."""
    seen: Ints
    """(P,) the verdict that people see."""
    alert: Ints
    """(P,) the worst verdict since the alert was opened, NOT_EXECUTED where none is open."""

    @classmethod
    def nothing(cls, n_parcels: int) -> "_Said":
        nothing = Found.nothing(n_parcels)
        return cls(nothing, nothing.verdict.copy(), np.full(n_parcels, NOT_EXECUTED))

    def take(self, trial: "Trial", asked: Asked, decided: Decided) -> Ints:
        """Take over what is decided, and return the places of the parcels whose alerts were opened or confirmed."""
        places, decisions, is_last = decided
        policy, seen = trial.policy, seen_of_all(decisions, trial.policy, trial.season)
        nrs = np.flatnonzero(is_last)
        is_other = decisions.found.of(nrs).differs(self.found.of(places[nrs]))
        nrs = nrs[is_other | (seen.verdict[nrs] != self.seen[places[nrs]])]
        at, found = places[nrs], seen.of(nrs)
        self.found.verdict[at], self.found.departed_on[at] = decisions.found.verdict[nrs], found.departed_on
        self.seen[at] = found.verdict
        in_window = windows_of(policy, asked, at, decisions.rule, found) >= 0
        departs = (found.verdict >= YELLOW) & ~in_window
        turned: Ints = at[departs & (found.verdict > self.alert[at])]
        self.alert[at[departs]] = np.maximum(self.alert[at], found.verdict)[departs]
        for nr in np.flatnonzero(~departs & (self.alert[at] > NOT_EXECUTED)).tolist():
            if in_window[nr] or why_over(decisions.finding(int(nrs[nr]))) is not None:
                self.alert[at[nr]] = NOT_EXECUTED
        return turned


@dataclass
class _TriedParcels:
    """Some parcels of a trial."""

    trial: Trial
    connection: Connection
    keys: Ints
    stands: Sequence[Stands]
    """On each of the days."""
    models: Sequence[tuple[datetime, int]]
    """When classifiers began to watch, and their keys."""
    _courses: tuple[int, KnownCourses] | None = None
    """By the classifier that watches."""

    def __post_init__(self) -> None:
        connection, keys = self.connection, self.keys
        self._declared, self._ids = declared_parcels(connection, keys), source_ids(connection, keys)
        self._s2, self._s1 = (Revisions.read(connection, one, keys, self.trial.clock) for one in SENSORS)
        self._around = low_passes.every_count(connection, keys)
        # Of a season imported later: as it could have been counted once the day of the pass was over.
        self._counted_at = (
            self._around["recorded_at"]
            if self.trial.clock == "recorded_at"
            else (self._around["day"] + np.timedelta64(1, "D")).astype("M8[us]") - np.timedelta64(1, "us")
        )
        self._compared = markers.every(connection, keys, BOUNDARIES)
        self._splits = Splits.read(connection, self._s2.rows)
        self._is_new_stand = np.isin(keys, list(with_another_crop_before(connection, keys)))
        self._grown = list(zip(self._declared.region, self._declared.crop_code, strict=True))

    def run(self) -> Iterator[DayOfTrial]:
        """Yield what each rule and obligation says at the end of each day."""
        trial, n_parcels, since = self.trial, len(self.keys), NEVER
        asked = Asked(self._declared, self._ids)
        rules = [*RULES, *(one.name for one in trial.policy.obligation)]
        said = {rule: _Said.nothing(n_parcels) for rule in rules}
        for day, stands in zip(trial.days, self.stands, strict=True):
            until, turned = np.datetime64(day + timedelta(days=1), "us"), dict[str, list[Ints]]()
            for decided in self._decided((since, until), stands, asked, said):
                rule = decided[1].rule
                turned.setdefault(rule, []).append(said[rule].take(trial, asked, decided))
            since = until
            for rule, one in said.items():
                places = np.unique(np.concatenate(turned.get(rule, [np.zeros(0, np.int64)])))
                yield DayOfTrial(day, rule, _counted(one.seen), [self._turned(one, place) for place in places.tolist()])

    def _turned(self, said: _Said, place: int) -> Turned:
        colour, departed_on = VERDICTS[said.seen[place]][1], said.found.departed_on[place].item()
        return Turned(int(self.keys[place]), self._ids[place], str(colour), departed_on)

    def _decided(
        self, time: tuple[Time, Time], stands: Stands, asked: Asked, said: Mapping[str, _Said]
    ) -> Iterator[Decided]:
        """Yield what all rules decide at the end of a day of the parcels of which it may be something else than the day before."""
        s2, s1 = (one.newest(time[1]) for one in (self._s2, self._s1))
        yield from self._mismatches(time, _gone(s2, s1), said["crop_mismatch"].found)
        optical, radar = s2[~s2["is_withdrawn"]], s1[~s1["is_withdrawn"]]
        everyone = np.arange(len(self.keys))
        yield self._boundaries(time[1], said[BOUNDARIES].found)
        for decisions in self._of_views(optical, stands, said["crop_mismatch"].found.verdict >= YELLOW):
            yield everyone, decisions, np.ones(len(everyone), bool)
        # What rests on the parcel alone; its time is that of its newest observation.
        counted = self._around["parcel_key"][(self._counted_at >= time[0]) & (self._counted_at < time[1])]
        new = np.concatenate([counted, *(one.new(*time)["parcel_key"] for one in (self._s2, self._s1))])
        places = np.flatnonzero(np.isin(self.keys, new)) if time[0] > NEVER else everyone
        if len(places):
            keys, starts_on = self.keys[places], self.trial.season.starts_on
            own_s2, own_s1 = (one[np.isin(one["parcel_key"], keys)] for one in (optical, radar))
            season = SeasonSeries.of(own_s2, own_s1, None, keys, starts_on)
            splits = self._splits.of(own_s2[np.isfinite(own_s2["ndvi"])])
            season = season.with_splits(np.arange(len(splits)), splits)
            for decisions in self._of_itself(season, asked.of(places), self._low_neighbours(keys, time[1])):
                yield places, decisions, np.ones(len(places), bool)

    def _boundaries(self, until: Time, before: Found) -> Decided:
        """Return the rule on drawn fields as compared before a time; of a season imported later, with scenes from before it."""
        is_recorded = self.trial.clock == "recorded_at"
        newest = {
            key: row
            for key, row in self._compared
            if (
                np.datetime64(row.recorded_at.replace(tzinfo=None))
                if is_recorded
                else np.datetime64(row.evidence["observed_to"])
            )
            < until
        }
        return compared_with_fields(self.connection, self.keys, newest, before)

    def _low_neighbours(self, keys: Ints, until: Time) -> LowNeighbours:
        """Return what was counted of low neighbours before a time, the last count of each pass."""
        rows = self._around[(self._counted_at < until) & np.isin(self._around["parcel_key"], keys)][::-1]
        _, newest = np.unique(rows[["parcel_key", "day", "relative_orbit"]], return_index=True)
        return of_rows(rows[newest], keys)

    def _of_itself(self, season: SeasonSeries, asked: Asked, around: LowNeighbours) -> Iterator[Decisions]:
        """Yield flooding, parts and the obligations."""
        starts_on = self.trial.season.starts_on
        known = Known.of(season, self.trial.season)
        yield flooding(known.views, radar_views(season, starts_on, is_read(known.views, around)), around)
        yield parts(pixel_views(season, starts_on))
        yield from decide(self.trial.policy, asked, known)

    def _mismatches(self, time: tuple[Time, Time], gone: NDArray[np.void], before: Found) -> Iterator[Decided]:
        """Yield the rule along what became known of the courses by the classifier that watched."""
        trial, n_parcels = self.trial, len(self.keys)
        model = self._watching(time[1])
        if model is None:
            nothing = crop_mismatch([None] * n_parcels, None, before, trial.settings)
            yield np.arange(n_parcels), nothing, np.ones(n_parcels, bool)
            return
        if self._courses is None or self._courses[0] != model:
            crops = self._declared.crop_code
            available = (
                np.concatenate([_available(one) for one in (self._s2, self._s1)])
                if trial.clock == "available_at"
                else None
            )
            courses = KnownCourses.read(self.connection, model, self.keys, crops, trial.policy, available)
            self._courses = model, courses
            time, before = (NEVER, time[1]), Found.nothing(n_parcels)  # what another classifier found does not count
        yield from self._courses[1].between(time, gone, before, trial.settings)

    def _watching(self, until: Time) -> int | None:
        """Return the classifier that watched before a time; as it could have been known, the one that watches now."""
        is_recorded = self.trial.clock == "recorded_at"
        began = [key for at, key in self.models if not is_recorded or np.datetime64(at.replace(tzinfo=None)) < until]
        return began[-1] if began else None

    def _of_views(self, optical: NDArray[np.void], stands: Stands, is_other_crop: Bools) -> Iterator[Decisions]:
        """Yield the rules on clear views among neighbours; views later than what is known of these wait."""
        settings, (crops, place) = self.trial.settings, stands
        group = np.array([place.get(one, -1) for one in self._grown], np.int64)
        clear = optical[np.isfinite(optical["ndvi"])]
        place_of, days = np.searchsorted(self.keys, clear["parcel_key"]), clear["observed_at"].astype("M8[D]")
        views = ClearViews.greenest(place_of, days, clear["ndvi"], len(self.keys)).until(crops.known_until[group])
        is_doubted = np.zeros(len(self.keys), bool) if self._courses is None else self._courses[1].is_doubted
        for decisions in (
            no_emergence(views, crops, group, is_other_crop, settings),
            early_loss(views, crops, group, is_other_crop, self._is_new_stand, settings),
        ):
            yield unless_doubted(decisions, is_doubted, settings)


def _available(revisions: Revisions) -> NDArray[np.void]:
    """Return parcel, time and availability of the observations that are in force."""
    rows = revisions.newest(NOT_YET)
    there: NDArray[np.void] = rows[["parcel_key", "observed_at", "available_at"]][~rows["is_withdrawn"]]
    return there


def _gone(*sensors: NDArray[np.void]) -> NDArray[np.void]:
    """Return the acquisitions of which every observation is withdrawn, of the newest revisions of several sensors."""
    withdrawn = np.concatenate([_acquisitions(one[one["is_withdrawn"]]) for one in sensors])
    if not len(withdrawn):
        return withdrawn
    there = [one[~one["is_withdrawn"] & np.isin(one["parcel_key"], withdrawn["parcel_key"])] for one in sensors]
    return np.setdiff1d(withdrawn, np.concatenate([_acquisitions(one) for one in there]))


def _acquisitions(rows: NDArray[np.void]) -> NDArray[np.void]:
    return acquisition_keys(rows["parcel_key"], rows["observed_at"])


def _recorded(connection: Connection, keys: Ints, rules: Sequence[str], days: Sequence[date]) -> Iterator[DayOfTrial]:
    """Yield what was found of parcels as recorded by the end of each day, and the alerts that were opened or confirmed."""
    found, ids = alerts.every_finding(connection, keys, rules, VERDICTS), source_ids(connection, keys)
    raised = alerts.raised(connection, keys)
    raised_at = np.array([one.recorded_at.replace(tzinfo=None) for one in raised], "M8[us]")
    verdict = np.full((len(rules), len(keys)), UNKNOWN)
    since = NEVER
    for day in days:
        until = np.datetime64(day + timedelta(days=1), "us")
        new = found[(found["recorded_at"] >= since) & (found["recorded_at"] < until)]
        verdict[new["rule_nr"], np.searchsorted(keys, new["parcel_key"])] = new["verdict_nr"]  # the last stays
        turned = {rule: dict[int, Turned]() for rule in rules}
        for nr in np.flatnonzero((raised_at >= since) & (raised_at < until)).tolist():
            one = raised[nr]
            its_id = ids[int(np.searchsorted(keys, one.parcel_key))]
            turned[one.rule][one.parcel_key] = Turned(one.parcel_key, its_id, one.colour, one.departed_on)
        since = until
        for rule, of_rule in zip(rules, verdict, strict=True):
            yield DayOfTrial(day, rule, _counted(of_rule), list(turned[rule].values()))


def _counted(verdict: Ints) -> dict[str, int]:
    """Return parcels by light."""
    return {light: int((verdict == nr).sum()) for light, nr in LIGHTS.items()}
