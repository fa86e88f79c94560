"""Obligations on curves worked out by hand."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.parcels import DeclaredParcels
from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, RED, YELLOW, ClearViews, Decisions
from monitor.alerts.runs import longest_runs
from monitor.markers.form import RadarViews
from monitor.policies.known import Asked, Known
from monitor.policies.obligations import decide
from monitor.policies.policy import Obligation, Policy, Selection

Views = list[tuple[str, float]]


_NONE = np.zeros(0)
NO_RADAR = RadarViews(_NONE.astype(np.int64), _NONE.astype("M8[D]"), _NONE.astype(np.int64), _NONE, _NONE, _NONE, _NONE)


def views_of(*parcels: Views) -> ClearViews:
    rows = [(nr, day, ndvi) for nr, views in enumerate(parcels) for day, ndvi in views]
    return ClearViews(
        np.array([nr for nr, _, _ in rows], np.int64),
        np.array([day for _, day, _ in rows], "M8[D]"),
        np.array([ndvi for _, _, ndvi in rows], np.float64),
        len(parcels),
    )


def asked(n: int) -> Asked:
    shape = np.full(n, 100.0), np.full(n, 2.0), np.full(n, 0.9)
    return Asked(DeclaredParcels(["r"] * n, ["265"] * n, ["3302000000"] * n, *shape), [str(nr) for nr in range(n)])


def verdict(obligation: Obligation, views: Views, today: str) -> int:
    return int(decided(obligation, 1, views_of(views), np.array([today], "M8[D]")).found.verdict[0])


def decided(asks: Obligation, n: int, views: ClearViews, today: Any) -> Decisions:
    return next(decide(Policy(name="p", version=1, obligation=(asks,)), asked(n), Known(views, NO_RADAR, today, 2025)))


def obligation(kind: str, begin: str, until: str, **more: object) -> Obligation:
    return Obligation.model_validate({"name": "it", "kind": kind, "from": begin, "until": until, **more})


CATCH = obligation("cover_days", "2025-08-01", "2025-11-30", days=56)
PLOUGH = obligation("not_ploughed", "2025-01-01", "2025-12-31")
WINTER = obligation("covered", "2025-11-15", "2026-01-31")
SOWN = obligation("established_by", "2025-03-01", "2025-05-31", grace_days=10)
CLOUDY_JUNE: Views = [("2025-05-03", 0.2), ("2025-06-23", 0.8), ("2025-07-23", 0.91)]
HARVESTED: Views = [("2025-09-01", 0.2), ("2025-09-20", 0.2)]


@pytest.mark.parametrize(
    ("views", "today", "expected"),
    [
        ([("2025-09-01", 0.4), ("2025-09-20", 0.6), ("2025-10-26", 0.5)], "2025-10-26", GREEN),  # 56 days, both counted
        ([("2025-09-01", 0.4), ("2025-09-20", 0.6), ("2025-10-25", 0.5)], "2025-10-25", NOT_VALID),  # 55: not yet
        ([("2025-08-10", 0.2)], "2025-08-10", NOT_VALID),  # there is time left
        ([("2025-09-20", 0.2), ("2025-10-06", 0.2)], "2025-10-06", YELLOW),  # what is left is 55 days, first seen so
        ([("2025-09-20", 0.2), ("2025-10-06", 0.2), ("2025-10-16", 0.2)], "2025-10-16", RED),
        ([("2025-08-05", 0.5), ("2025-11-25", 0.5)], "2025-12-05", NOT_VALID),  # nothing is known of between
        ([], "2025-12-05", NOT_VALID),
    ],
)
def test_catch_crop(views: Views, today: str, expected: int) -> None:
    assert verdict(CATCH, views, today) == expected


GRASS: Views = [("2025-03-01", 0.6), ("2025-03-20", 0.7)]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([*GRASS, ("2025-05-01", 0.8)], GREEN),
        ([*GRASS, ("2025-05-01", 0.2)], YELLOW),
        ([*GRASS, ("2025-05-01", 0.2), ("2025-05-06", 0.7)], YELLOW),  # it recovers
        (
            [*GRASS, ("2025-05-01", 0.2), ("2025-05-06", 0.7), ("2025-05-11", 0.7)],
            GREEN,
        ),  # a cloud that the mask missed
        ([*GRASS, ("2025-05-01", 0.2), ("2025-05-09", 0.2)], YELLOW),
        ([*GRASS, ("2025-05-01", 0.2), ("2025-05-11", 0.2)], RED),
        ([*GRASS, ("2025-05-01", 0.2), ("2025-05-11", 0.2), ("2025-07-01", 0.8)], RED),  # sown again: it was ploughed
        ([*GRASS, ("2025-05-01", 0.4), ("2025-05-11", 0.4)], GREEN),  # mown
        ([("2025-03-01", 0.2), ("2025-05-11", 0.2)], NOT_VALID),  # never seen green
    ],
)
def test_ploughed_grassland(views: Views, expected: int) -> None:
    assert verdict(PLOUGH, views, "2025-08-01") == expected


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([*GRASS, ("2025-05-03", 0.2)], NOT_VALID),  # a catch crop, worked in before May
        ([*GRASS, ("2025-05-03", 0.2), ("2025-06-01", 0.6), ("2025-06-05", 0.2)], YELLOW),
        ([*GRASS, ("2025-05-03", 0.8), ("2025-05-20", 0.2)], YELLOW),
        ([("2025-05-03", 0.8), ("2025-05-20", 0.2)], NOT_VALID),  # green on one day alone
        ([*GRASS, ("2025-05-03", 0.8), ("2025-05-20", 0.6)], GREEN),
    ],
)
def test_a_stand_that_was_green_since_a_day(views: Views, expected: int) -> None:
    since = obligation("not_ploughed", "2025-05-01", "2025-06-15", green_from="2025-05-01")
    assert verdict(since, views, "2025-08-01") == expected


@pytest.mark.parametrize(
    ("views", "today", "expected"),
    [
        ([("2025-11-01", 0.1)], "2025-11-10", NOT_EXECUTED),
        ([("2025-11-01", 0.1)], "2025-11-20", NOT_VALID),  # bare before the window
        ([("2025-11-20", 0.1), ("2025-12-05", 0.1)], "2025-12-05", RED),
        ([("2025-11-20", 0.4), ("2026-02-05", 0.1)], "2026-02-05", GREEN),
    ],
)
def test_winter_cover(views: Views, today: str, expected: int) -> None:
    assert verdict(WINTER, views, today) == expected


@pytest.mark.parametrize(
    ("views", "today", "expected"),
    [
        ([("2025-05-01", 0.2)], "2025-06-10", NOT_VALID),  # with its grace until the tenth
        ([("2025-05-01", 0.2)], "2025-06-11", NOT_VALID),  # nothing seen since
        ([("2025-06-12", 0.2)], "2025-06-12", YELLOW),
        ([("2025-06-12", 0.2), ("2025-06-22", 0.2)], "2025-06-22", RED),
        ([("2025-06-12", 0.2), ("2025-06-22", 0.2), ("2025-07-10", 0.6)], "2025-07-10", RED),  # late
        ([("2025-06-05", 0.5), ("2025-06-22", 0.2)], "2025-06-22", GREEN),
        ([("2025-02-05", 0.5), ("2025-06-22", 0.2)], "2025-06-22", YELLOW),  # last year's weeds
        ([*CLOUDY_JUNE], "2025-07-23", NOT_VALID),  # it came up some day between
        ([*CLOUDY_JUNE, *HARVESTED], "2025-09-20", NOT_VALID),
        ([("2025-06-05", 0.5), ("2025-07-23", 0.91), *HARVESTED], "2025-09-20", GREEN),
        ([("2025-06-12", 0.2), ("2025-07-23", 0.91), *HARVESTED], "2025-09-20", YELLOW),  # late, but only once seen so
        ([("2025-06-12", 0.2), ("2025-06-22", 0.2), ("2025-07-23", 0.91), *HARVESTED], "2025-09-20", RED),
    ],
)
def test_establishment(views: Views, today: str, expected: int) -> None:
    assert verdict(SOWN, views, today) == expected


def test_establishment_rests_on_what_was_seen_before_the_crop() -> None:
    late: Views = [("2025-06-12", 0.2), ("2025-06-22", 0.2), ("2025-07-23", 0.91)]
    today = np.array(["2025-09-20"] * 2, "M8[D]")
    both = decided(SOWN, 2, views_of([*CLOUDY_JUNE, *HARVESTED], [*late, *HARVESTED]), today)
    assert both.finding(0).evidence["reason"].startswith("vegetation first seen on 2025-06-23")
    assert both.finding(1).departed_on == date(2025, 6, 12)
    assert both.finding(1).evidence["clear_views"] == [list(one) for one in late]


def meadow(cuts: list[int], until: int = 300) -> Views:
    """A sward that grows back within four weeks of each cut, seen every fifth day."""
    begin = date(2025, 1, 1)
    days = range(70, until, 5)
    since = [min((day - cut for cut in cuts if cut <= day), default=99) for day in days]
    return [(str(begin + timedelta(day)), 0.4 + 0.45 * min(one / 28, 1)) for day, one in zip(days, since, strict=True)]


def unused(until: int = 300) -> Views:
    """A sward that grows up and dies back once."""
    begin = date(2025, 1, 1)
    shape = {day: 0.35 + 0.5 * np.exp(-(((day - 160) / 45) ** 2)) for day in range(70, until, 5)}
    return [(str(begin + timedelta(day)), float(ndvi)) for day, ndvi in shape.items()]


MOWN = obligation("mown", "2025-05-15", "2025-09-15")
IN_GRACE = MOWN.model_copy(update={"grace_days": 15})
NESTING = obligation("not_mown", "2025-04-01", "2025-06-15")


@pytest.mark.parametrize(
    ("asks", "views", "today", "expected"),
    [
        (MOWN, meadow([170]), "2025-10-01", GREEN),
        (MOWN, meadow([269]), "2025-11-10", NOT_VALID),  # cut eleven days after the last
        (IN_GRACE, meadow([269]), "2025-11-10", GREEN),
        (MOWN, meadow([], 200), "2025-07-20", NOT_VALID),  # there is time left
        (MOWN, unused(), "2025-10-20", YELLOW),
        (MOWN, meadow([]), "2025-10-20", NOT_VALID),  # always short or always long: animals leave nothing to see
        (MOWN, [], "2025-10-20", NOT_VALID),
        (NESTING, meadow([140]), "2025-08-01", RED),
        (NESTING, meadow([185]), "2025-08-01", GREEN),
        (NESTING, [], "2025-08-01", NOT_VALID),
    ],
)
def test_use_of_grass(asks: Obligation, views: Views, today: str, expected: int) -> None:
    assert verdict(asks, views, today) == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, True),
        ({"crops": ["hcat:3302"]}, True),
        ({"crops": ["hcat:3301", "code:265"]}, True),
        ({"crops": ["hcat:3301"]}, False),
        ({"except_crops": ["code:265"]}, False),
        ({"regions": ["s"]}, False),
        ({"except_regions": ["r"]}, False),
        ({"min_area_ha": 2.5}, False),
        ({"source_ids": ["1"]}, False),
        ({"source_ids": ["0"]}, True),
    ],
)
def test_of_which_parcels_it_is_asked(selection: dict[str, object], expected: bool) -> None:
    assert asked(1).applies(Selection.model_validate(selection)).tolist() == [expected]


DAYS = st.lists(st.integers(0, 400), max_size=12, unique=True).map(sorted)


@given(
    st.lists(st.tuples(DAYS, st.lists(st.floats(-0.1, 0.9), min_size=12, max_size=12)), min_size=1, max_size=4),
    st.sampled_from([CATCH, PLOUGH, WINTER, SOWN, MOWN, NESTING]),
    st.integers(0, 420),
)
def test_a_parcel_is_decided_as_if_alone(
    parcels: list[tuple[list[int], list[float]]], asks: Obligation, seen_to: int
) -> None:
    begin = date(2025, 1, 1)
    each = [
        [(str(begin + timedelta(day)), ndvi) for day, ndvi in zip(days, ndvi, strict=False)] for days, ndvi in parcels
    ]
    today = np.array([begin + timedelta(max([*days, seen_to])) for days, _ in parcels], "M8[D]")
    found = decided(asks, len(each), views_of(*each), today)
    for nr, views in enumerate(each):
        alone = decided(asks, 1, views_of(views), today[nr : nr + 1])
        assert alone.found.verdict[0] == found.found.verdict[nr]
        assert dict(alone.finding(0).evidence) == dict(found.finding(nr).evidence)
        if found.found.verdict[nr] in (YELLOW, RED):
            assert not np.isnat(found.found.departed_on[nr])


def test_the_longest_run_is_found() -> None:
    views = views_of(
        [("2025-01-01", 1), ("2025-01-11", 1), ("2025-01-12", 0), ("2025-01-20", 1), ("2025-02-10", 1)], []
    )
    high = views.ndvi > 0.5
    runs = longest_runs(views.parcel, views.days, high, 2)
    assert (runs.first[0], runs.last[0], runs.n[0]) == (np.datetime64("2025-01-20"), np.datetime64("2025-02-10"), 2)
    assert runs.days.tolist() == [22, 0]
    assert longest_runs(views.parcel, views.days, high, 2, 15).days.tolist() == [11, 0]
