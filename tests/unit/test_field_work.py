"""Emergence, harvest and tillage on curves and passes worked out by hand."""

from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.rules import ClearViews
from monitor.markers.crop_calendar import calendars
from monitor.markers.field_work import FieldWork, field_work
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, RadarViews
from monitor.markers.harvest import expected_harvest

WHEAT, MAIZE, BEET, GRASS = "3301010101", "3301090400", "3301290700", "3302000000"
NONE = np.zeros(0)
NO_RADAR = RadarViews.of_backscatter(NONE.astype(np.int64), NONE.astype("M8[D]"), NONE.astype(np.int64), NONE, NONE)
FIRST, LAST = np.datetime64("2024-09-01"), np.datetime64("2025-12-31")
Corners = dict[str, float]

RIPENS: Corners = {
    "2024-09-01": 0.15, "2024-11-01": 0.15, "2024-12-15": 0.35, "2025-03-01": 0.4, "2025-05-20": 0.85, "2025-06-20": 0.85,
    "2025-07-15": 0.3, "2025-07-24": 0.25, "2025-07-25": 0.15, "2025-12-31": 0.15,
}  # fmt: skip
CUT_GREEN: Corners = {
    "2024-09-01": 0.15, "2025-05-10": 0.15, "2025-07-10": 0.85, "2025-09-19": 0.75, "2025-09-20": 0.16, "2025-12-31": 0.16,
}  # fmt: skip


def seen(*curves: Corners, every: int = 5, noise: float = 0.0) -> ClearViews:
    """Return views of curves every so many days, the first on 1 September 2024."""
    days = np.arange(FIRST, LAST, every)
    random = np.random.default_rng(0)
    ndvi = [
        np.interp(days.astype(float), np.array(sorted(one), "M8[D]").astype(float), [one[day] for day in sorted(one)])
        for one in curves
    ]
    parcel = np.repeat(np.arange(len(curves)), len(days))
    values = (np.concatenate(ndvi) + random.normal(0, 1, len(parcel)) * noise).astype(np.float32)
    return ClearViews(parcel, np.tile(days, len(curves)), values, len(curves))


def passes(steps: dict[str, tuple[float, float]], n_parcels: int = 1) -> RadarViews:
    """Return passes of two orbits every six days whose VV and VH move by so many dB on dates."""
    day = np.concatenate([np.arange(FIRST, LAST, 6), np.arange(FIRST + 2, LAST, 6)])
    orbit = np.repeat([15, 88], [len(np.arange(FIRST, LAST, 6)), len(np.arange(FIRST + 2, LAST, 6))])
    vv, vh = np.where(orbit == 15, -10.0, -11.0), np.where(orbit == 15, -18.0, -18.5)
    for since, (of_vv, of_vh) in steps.items():
        vv, vh = vv + of_vv * (day >= np.datetime64(since)), vh + of_vh * (day >= np.datetime64(since))
    n = len(day)
    columns = (np.tile(one, n_parcels) for one in (day, orbit, vv, vh))
    return RadarViews.of_backscatter(np.repeat(np.arange(n_parcels), n), *columns)


def work(
    views: ClearViews, codes: list[str | None], radar: RadarViews = NO_RADAR, today: str = "2025-12-31"
) -> FieldWork:
    at = np.datetime64(today)
    kept, passed = views.days <= at, radar.days <= at
    known = ClearViews(views.parcel[kept], views.days[kept], views.ndvi[kept], views.n_parcels)
    return field_work(known, radar.only(passed), codes, 2025, np.full(views.n_parcels, at))


def event(marked: Any, nr: int = 0) -> Any:
    return marked.events.of(0)[nr]


def days_between(one: str, other: str) -> int:
    return abs((date.fromisoformat(one) - date.fromisoformat(other)).days)


def test_a_crop_that_ripens_is_harvested_after_it_lost_its_green() -> None:
    found = event(work(seen(RIPENS), [WHEAT]).harvest)
    assert found["begin"] <= "2025-07-25" <= found["end"]
    assert days_between(found["best"], "2025-07-25") <= 7


def test_a_crop_that_is_cut_green_is_harvested_between_two_views() -> None:
    found = event(work(seen(CUT_GREEN), [MAIZE]).harvest)
    assert found["begin"] < "2025-09-20" <= found["end"]
    assert days_between(found["end"], found["begin"]) <= 5


def test_standing_crops_are_not_harvested_and_one_low_view_says_nothing() -> None:
    views = seen(CUT_GREEN)
    assert work(views, [MAIZE], today="2025-09-15").harvest.value[0] == 0
    first_low = str(views.days[(views.days >= np.datetime64("2025-09-20"))][0])
    said = work(views, [MAIZE], today=first_low).harvest
    assert (said.value[0], said.confidence[0]) == (0, 0.5)
    cloud = views.ndvi.copy()
    cloud[views.days == np.datetime64("2025-08-07")] = 0.1
    assert work(ClearViews(views.parcel, views.days, cloud, 1), [MAIZE]).harvest.events.end[0] > np.datetime64(
        "2025-09-01"
    )


def test_a_loss_before_the_earliest_date_is_no_harvest() -> None:
    lost = {**CUT_GREEN, "2025-07-20": 0.85, "2025-07-21": 0.15, "2025-09-19": 0.15}
    assert work(seen(lost), [MAIZE]).harvest.value[0] == 0


def test_radar_confirms_a_harvest() -> None:
    alone, both = (
        work(seen(CUT_GREEN), [MAIZE], radar).harvest for radar in (NO_RADAR, _noisy(passes({"2025-09-20": (0, -3)})))
    )
    assert event(both)["confidence"] > event(alone)["confidence"]
    assert event(both)["seen_by"] == ["optical", "backscatter"]


def _noisy(radar: RadarViews) -> RadarViews:
    noise = np.random.default_rng(1).normal(0, 0.3, (2, len(radar.parcel)))
    return RadarViews.of_backscatter(
        radar.parcel, radar.days, radar.orbit, radar.vv_db + noise[0], radar.vh_db + noise[1]
    )


def test_emergence_is_the_first_rise_that_lasts() -> None:
    found = work(seen(CUT_GREEN, noise=0.01), [MAIZE]).emergence
    assert event(found)["begin"] <= "2025-05-10" <= event(found)["end"]
    assert days_between(event(found)["best"], "2025-05-10") <= 7


def test_a_winter_cover_that_is_ploughed_is_not_the_crop() -> None:
    covered = {**CUT_GREEN, "2024-10-15": 0.6, "2025-03-20": 0.6, "2025-03-25": 0.15}
    found = work(seen(covered), [MAIZE])
    assert event(found.emergence)["end"] > "2025-05-10"
    assert event(found.tillage)["begin"] <= "2025-03-25" <= event(found.tillage)["end"]


def test_bare_soil_has_not_come_up_yet() -> None:
    said = work(seen(CUT_GREEN), [MAIZE], today="2025-05-05").emergence
    assert (said.status[0], said.value[0], len(said.events.parcel)) == (OK, 0, 0)


def test_what_is_green_from_the_first_view_on_has_no_emergence() -> None:
    assert (
        work(seen({"2024-09-01": 0.6, "2025-05-20": 0.85, "2025-12-31": 0.4}), [WHEAT]).emergence.status[0] == NOT_VALID
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"2025-08-20": (1.3, 1.9)}, 1),  # rough
        ({"2025-08-20": (1.5, 1.0)}, 0),  # wet
        ({"2025-08-20": (-2.3, -3.2)}, 0),  # rolled
        ({"2025-06-01": (1.3, 1.9)}, 0),  # under a stand
        ({"2025-08-20": (1.3, 1.9), "2025-10-20": (1.3, 1.9)}, 2),
    ],
)
def test_radar_sees_stubble_tilled(steps: dict[str, tuple[float, float]], expected: int) -> None:
    found = work(seen(RIPENS), [WHEAT], passes(steps)).tillage
    assert found.value[0] == expected
    if expected:
        assert days_between(str(found.events.best[0]), "2025-08-20") <= 6


def test_volunteers_lost_where_the_soil_gets_rough_are_one_event_that_both_sensors_see() -> None:
    volunteers = {**RIPENS, "2025-08-15": 0.15, "2025-09-10": 0.45, "2025-09-22": 0.45, "2025-09-24": 0.15}
    found = work(seen(volunteers), [WHEAT], passes({"2025-10-14": (1.3, 1.9)})).tillage
    assert [(one["seen_by"], one["confidence"]) for one in found.events.of(0)] == [(["optical", "backscatter"], 0.8)]


def test_grass_is_not_asked_and_without_views_nothing_is_said() -> None:
    found = work(seen(RIPENS), [GRASS])
    assert {int(one.status[0]) for one in (found.emergence, found.harvest, found.tillage)} == {NOT_EXECUTED}
    views = ClearViews(NONE.astype(np.int64), NONE.astype("M8[D]"), NONE.astype(np.float32), 2)
    nothing = work(views, [WHEAT, None], passes({}, 2))
    assert {int(status) for one in (nothing.emergence, nothing.harvest, nothing.tillage) for status in one.status} == {
        NOT_VALID
    }


@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=5))
def test_a_parcel_does_not_depend_on_the_others_nor_on_the_order(seeds: list[int]) -> None:
    corners = [
        {str(day): float(np.random.default_rng(seed + nr).uniform(0.1, 0.9)) for nr, day in enumerate(_EDGES)}
        for seed in seeds
    ]
    codes = [[WHEAT, MAIZE, BEET, None, GRASS][seed % 5] for seed in seeds]
    radar = _noisy(passes({"2025-04-01": (1.3, 1.9)}, len(seeds)))
    views = seen(*corners, every=7, noise=0.02)
    together, shuffled = work(views, codes, radar), np.random.default_rng(seeds[0]).permutation(len(radar.parcel))
    again = work(views, codes, radar.only(shuffled))
    for nr in range(len(seeds)):
        mine, passed = views.parcel == nr, radar.only(radar.parcel == nr)
        alone = work(
            ClearViews(np.zeros(mine.sum(), np.int64), views.days[mine], views.ndvi[mine], 1),
            [codes[nr]],
            RadarViews.of_backscatter(passed.parcel * 0, passed.days, passed.orbit, passed.vv_db, passed.vh_db),
        )
        for name in ("emergence", "harvest", "tillage"):
            one, other, third = (getattr(found, name) for found in (alone, together, again))
            assert one.events.of(0) == other.events.of(nr) == third.events.of(nr)
            assert one.status[0] == other.status[nr]
            np.testing.assert_array_equal(one.value[0], other.value[nr])


_EDGES = np.arange(FIRST, LAST, 45)


def test_calendars_go_by_the_code_and_the_year_of_harvest() -> None:
    of = calendars([WHEAT, MAIZE, GRASS, None, "3301010600"], 2025)
    assert of.is_arable.tolist() == [True, True, False, True, True]
    assert of.emerges_from.astype(str).tolist()[:2] == ["2024-09-01", "2025-04-15"]
    assert of.is_known.tolist() == [True, True, False, False, True]


def test_the_harvest_of_neighbours_is_expected_where_most_are_harvested() -> None:
    days = np.array(["2025-07-20"] * 6 + ["2025-07-30"] * 4 + ["NaT"] * 2 + ["2025-07-20", "NaT", "NaT"], "M8[D]")
    group = np.array([0] * 12 + [1] * 3)
    half, later = expected_harvest(days, group, 2)
    assert half.astype(str).tolist() == ["2025-07-30", "NaT"]
    assert later[1] == 0
