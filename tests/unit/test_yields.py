"""The order of the inbox: what a harvest of the neighbours leaves of a proof, and what comes first."""

from datetime import date, timedelta

import numpy as np
import pytest

from monitor.alerts.neighbours import Floats
from monitor.alerts.settings import RuleSettings
from monitor.alerts.yields import Harvest, days_left, expected_ha, harvest, priority, soonest

FIRST = date(2025, 1, 1)
EARLIEST = date(2025, 5, 25)
LAST_SEASON = date(2025, 7, 20)
N = 365


def day(when: date) -> int:
    return (when - FIRST).days


def wheat(falls: date, until: date, floor: float = 0.1) -> Floats:
    """A crop of which all fields stand, then 2 % less each day from one day on, as known on another."""
    share: Floats = np.clip(1 - 0.02 * (np.arange(N) - day(falls)), floor, 1).astype(np.float32)
    share[day(until) + 1 :] = np.nan
    return share


def asked(share: Floats, today: date, last_season: date | None = LAST_SEASON, earliest: date = EARLIEST) -> Harvest:
    return harvest(share, FIRST, earliest, last_season, today, RuleSettings())


FALLS = date(2025, 7, 10)
BEGAN = FALLS + timedelta(days=6)  # the first day on which fewer than 90 % stand


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2025, 6, 1), Harvest(LAST_SEASON)),  # foretold
        (FALLS, Harvest(LAST_SEASON)),
        (date(2025, 7, 16), Harvest(BEGAN)),  # seen to begin, earlier than last season
        (date(2025, 8, 20), Harvest(BEGAN, FALLS + timedelta(days=26))),
    ],
)
def test_a_harvest_is_foretold_then_seen(today: date, expected: Harvest) -> None:
    assert asked(wheat(FALLS, today), today) == expected


def test_nothing_is_foretold_without_a_season_before() -> None:
    assert asked(wheat(FALLS, date(2025, 6, 1)), date(2025, 6, 1), None) == Harvest()
    assert asked(np.full(N, np.nan, np.float32), date(2025, 6, 1), None) == Harvest()


def test_a_late_year_is_due_any_day_and_an_unseen_one_unknown() -> None:
    late = wheat(date(2025, 8, 15), date(2025, 8, 1))
    today = date(2025, 8, 1)
    assert asked(late, today) == Harvest(LAST_SEASON)  # past, but the neighbours are seen to stand
    assert days_left([asked(late, today)], np.array([0]), np.array(["2025-05-01"], "M8[D]"), today) == 0
    assert asked(late, today + timedelta(days=40)) == Harvest()  # nobody knows whether they still do
    assert asked(np.full(N, np.nan, np.float32), date(2025, 6, 1)) == Harvest(LAST_SEASON)


def test_what_stood_before_the_crop_is_not_its_harvest() -> None:
    """Weeds and catch crops on fields of maize go in April; maize stands from July on."""
    share = np.where(np.arange(N) < day(date(2025, 4, 20)), 0.95, 0.05).astype(np.float32)
    share[day(date(2025, 7, 1)) :] = 0.97
    share[day(date(2025, 8, 20)) :] = np.nan
    earliest, foretold = date(2025, 8, 15), date(2025, 9, 20)
    assert asked(share, date(2025, 8, 19), foretold, earliest) == Harvest(foretold)
    share[day(date(2025, 6, 1)) :] = np.nan
    assert asked(share, date(2025, 6, 1), foretold, earliest) == Harvest(foretold)


def test_a_catch_crop_after_the_harvest_does_not_hide_it() -> None:
    share = wheat(FALLS, date(2025, 12, 1))
    share[day(date(2025, 9, 15)) : day(date(2025, 12, 1))] = 0.9
    assert asked(share, date(2025, 12, 1)).is_over_on == FALLS + timedelta(days=26)


def test_days_left() -> None:
    today = date(2025, 7, 1)
    groups = [
        Harvest(date(2025, 7, 11)),
        Harvest(date(2025, 6, 20)),
        Harvest(date(2025, 6, 1), date(2025, 6, 21)),
        Harvest(),
    ]
    group = np.array([0, 1, 2, 3, 0])
    departed = np.array(["2025-05-01"] * 4 + ["2025-07-11"], "M8[D]")
    left = days_left(groups, group, departed, today)
    np.testing.assert_array_equal(left, [10, 0, -10, np.nan, np.nan])
    over_today = days_left([Harvest(date(2025, 6, 1), today)], np.array([0]), departed[:1], today)
    np.testing.assert_array_equal(over_today, [-1])


def test_priority() -> None:
    expected = expected_ha(np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.9], "f4"), np.array([2, 2, 2, 2, 0.9, np.nan], "f4"))
    np.testing.assert_allclose(expected, [1.8, 1.8, 1.8, 1.8, 0.45, 0])
    left = np.array([14, 15, -1, np.nan, 3, 3], "f4")
    assert priority(expected, left).tolist() == [2, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("left", "expected"), [([9, 4, -2, np.nan], 4), ([-3, np.nan], np.nan), ([-9, -3], -3), ([0, 5], 0)]
)
def test_alerts_seen_together_are_as_urgent_as_the_first_that_goes(left: list[float], expected: float) -> None:
    np.testing.assert_equal(soonest(np.array(left, np.float32)), expected)
