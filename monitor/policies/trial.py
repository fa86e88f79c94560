"""Try a policy on a stored season: what it would have said day by day, from what was known on each day, beside what was said.

Each obligation is decided of all parcels as known at the end of a day, by the function that the monitor calls. Nothing is
stored. What rests on neighbours or on the classifier is decided by the chain alone; `in_force` shows what it said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from db import alerts, series
from db.connect import Connection
from db.parcels import declared_parcels, monitorable_keys, source_ids
from db.seasons import Season
from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, RED, VERDICTS, YELLOW
from monitor.policies.known import Asked, Known
from monitor.policies.obligations import decide
from monitor.policies.policy import Policy
from monitor.policies.red import seen_of_all
from monitor.policies.suppression import windows_of
from monitor.season_series import SeasonSeries

Clock = Literal["recorded_at", "available_at"]
Ints = NDArray[np.int64]
LIGHTS: Final = {"green": GREEN, "yellow": YELLOW, "red": RED, "not valid": NOT_VALID, "not executed": NOT_EXECUTED}
AT_ONCE: Final = 20_000
"""Parcels of which seasons are in memory at once: some 400 MB."""


@dataclass(frozen=True)
class Turned:
    """A parcel whose light turned yellow or red on a day; outside of suppression windows, where it gives an alert."""

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


def try_policy(
    connection: Connection, policy: Policy, season: Season, collection: str, days: Sequence[date], clock: Clock
) -> Iterator[DayOfTrial]:
    """Yield what each obligation says as known at the end of each of the days, ascending.

    Args:
        connection: of the store; nothing is written.
        policy: to try.
        season: stored.
        collection: whose parcels.
        days: to try.
        clock: `recorded_at`, as it was known here; `available_at`, as it could have been known, for a season imported later.
    """
    keys = monitorable_keys(connection, season.season_key, collection)
    some = (keys[at : at + AT_ONCE] for at in range(0, len(keys), AT_ONCE))
    parts = [
        list(_of_parcels(connection, policy, one, season, days, clock)) for one in some
    ]  # one after the other: see AT_ONCE
    for together in zip(*parts, strict=True):
        first = together[0]
        lights = {light: sum(one.lights[light] for one in together) for light in LIGHTS}
        yield DayOfTrial(first.day, first.rule, lights, [one for part in together for one in part.turned])


def _of_parcels(
    connection: Connection, policy: Policy, keys: Ints, season: Season, days: Sequence[date], clock: Clock
) -> Iterator[DayOfTrial]:
    ids = source_ids(connection, keys)
    asked = Asked(declared_parcels(connection, keys), ids)
    s2, s1 = (series.every_revision(connection, sensor, keys) for sensor in ("S2", "S1"))
    before = {one.name: np.full(len(keys), NOT_EXECUTED) for one in policy.obligation}
    for day in days:
        until = np.datetime64(day + timedelta(days=1), "us")
        optical, radar = _current(s2, s2[clock] < until), _current(s1, s1[clock] < until)
        known = SeasonSeries.of(optical, radar, None, keys, season.starts_on)
        for decisions in decide(policy, asked, Known.of(known, season.starts_on)):
            rule, found = decisions.rule, seen_of_all(decisions, policy, season)
            in_window = windows_of(policy, asked, np.arange(len(keys)), rule, found) >= 0
            turned = np.flatnonzero((found.verdict >= YELLOW) & ~in_window & (found.verdict > before[rule]))
            before[rule] = np.where(in_window, NOT_EXECUTED, found.verdict)
            yield DayOfTrial(
                day,
                rule,
                {light: int((found.verdict == nr).sum()) for light, nr in LIGHTS.items()},
                [
                    Turned(int(keys[nr]), ids[nr], str(VERDICTS[found.verdict[nr]][1]), found.departed_on[nr].item())
                    for nr in turned.tolist()
                ],
            )


def in_force(
    connection: Connection, season: Season, collection: str, days: Sequence[date]
) -> Iterator[tuple[date, str, dict[str, int]]]:
    """Yield (day, rule, parcels by light) of what was found by the rules in force, as recorded by the end of each day."""
    for day in days:
        until = datetime.fromisoformat(f"{day + timedelta(days=1)}T00:00:00+00:00")
        for rule, by_verdict in alerts.counted_findings(connection, season.season_key, collection, until).items():
            yield day, rule, {light: by_verdict.get(VERDICTS[nr], 0) for light, nr in LIGHTS.items()}


def _current(rows: NDArray[np.void], is_known: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return of the rows that are known the newest revision of each pass, withdrawn ones left out."""
    known = rows[is_known]
    if not len(known):
        return known
    is_last = np.ones(len(known), bool)
    is_last[:-1] = np.any(
        [known[name][1:] != known[name][:-1] for name in ("parcel_key", "observed_at", "relative_orbit")], axis=0
    )
    current: NDArray[np.void] = known[is_last & ~known["is_withdrawn"]]
    return current
