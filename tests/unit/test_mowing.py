"""Mowing on curves worked out by hand: what is a cut, what is not, and what holds for every series."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import date, timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.alerts.rules import ClearViews
from monitor.markers.form import COHERENCE, NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Marked, RadarViews
from monitor.markers.mowing import mowing

YEAR = date(2024, 1, 1)
Curve = Sequence[tuple[int, float]]
"""Days of the year (0 is 1 January) and NDVI."""


def line(*corners: tuple[int, float], every: int = 5) -> list[tuple[int, float]]:
    """Return views every few days on the line through corners."""
    days = np.arange(corners[0][0], corners[-1][0] + 1, every)
    values = np.interp(days, *np.array(corners).T)
    return list(zip(days.tolist(), values.tolist(), strict=True))


def views(*curves: Curve) -> ClearViews:
    rows = [(nr, day, ndvi) for nr, curve in enumerate(curves) for day, ndvi in curve]
    parcel, day, ndvi = zip(*rows, strict=True) if rows else ((), (), ())
    return ClearViews(np.array(parcel, np.int64), _days(day), np.array(ndvi, np.float32), len(curves))


def coherence(*curves: Curve, orbit: int = 15) -> RadarViews:
    """Return the views of one parcel and orbit, VV and VH alike."""
    day, value = np.array(curves[0]).T
    nan = np.full(len(day), np.nan)
    return RadarViews(np.zeros(len(day), np.int64), _days(day), np.full(len(day), orbit), nan, nan, value, value)


def _days(of: Sequence[float] | NDArray[np.float64]) -> NDArray[np.datetime64]:
    return np.datetime64(YEAR, "D") + np.array(of, np.int64)


def day(of: int) -> np.datetime64:
    return np.datetime64(YEAR + timedelta(days=of), "D")


UNTOUCHED = line((60, 0.45), (130, 0.85), (200, 0.80), (300, 0.55))
CORNERS = (60, 0.45), (130, 0.85), (160, 0.85), (164, 0.50), (190, 0.80), (300, 0.65)
CUT = line(*CORNERS)


def only(marked: Marked, parcel: int = 0) -> Events:
    return marked.events.only(marked.events.parcel == parcel)


def test_a_cut_that_grows_back_is_one_event_between_the_views_around_it() -> None:
    found = mowing(views(CUT))
    event = only(found)
    assert found.status.tolist() == [OK]
    assert found.value.tolist() == [1]
    assert (event.begin[0], event.end[0]) == (day(160), day(165))
    assert event.begin[0] < event.best[0] <= event.end[0]
    assert event.confidence[0] > 0.9
    assert event.seen_by.tolist() == [OPTICAL]


def test_hay_that_ripens_before_its_cut_is_cut_and_what_only_ripens_is_not() -> None:
    ripening = (60, 0.45), (130, 0.95), (140, 0.95), (179, 0.70)
    hay, ripe = (*ripening, (180, 0.62), (205, 0.82), (300, 0.65)), (*ripening, (204, 0.50), (300, 0.45))
    assert mowing(views(*(line(*one, every=10) for one in (hay, ripe)))).value.tolist() == [1, 0]


def test_two_cuts_three_weeks_apart_are_two_events() -> None:
    curve = line((60, 0.45), (130, 0.85), (150, 0.85), (153, 0.50), (171, 0.75), (174, 0.45), (200, 0.80), (300, 0.65))
    found = only(mowing(views(curve)))
    assert found.begin.tolist() == [day(150).item(), day(170).item()]


def test_a_slow_swath_and_a_field_mown_in_parts_are_one_event() -> None:
    curve = line((60, 0.45), (130, 0.85), (150, 0.85), (162, 0.50), (190, 0.80), (300, 0.65), every=3)
    assert mowing(views(curve)).value.tolist() == [1]


def test_daily_views_show_a_cut_that_no_two_neighbours_show() -> None:
    curve = line((60, 0.45), (130, 0.85), (150, 0.85), (157, 0.50), (190, 0.80), (300, 0.65), every=1)
    event = only(mowing(views(curve)))
    assert len(event.parcel) == 1
    assert day(150) <= event.best[0] <= day(158)


def test_noisy_daily_views_show_the_cut_and_nothing_else() -> None:
    random = np.random.default_rng(1)
    curves = [[(at, v + random.normal(0, 0.03)) for at, v in line(*CORNERS, every=1)] for _ in range(40)]
    found = mowing(views(*curves))
    assert (found.value == 1).mean() > 0.9
    assert np.median(np.abs((found.events.best - day(162)).astype(int))) <= 3


@pytest.mark.parametrize(("depth", "n_views"), [(0.15, 1), (0.3, 1), (0.6, 1), (0.3, 2), (0.6, 2)])
def test_hidden_cloud_is_no_cut(depth: float, n_views: int) -> None:
    """Not 0.15 on two views: so much a sward may grow in ten days."""
    curve = [(at, v - depth * (150 <= at < 150 + 5 * n_views)) for at, v in UNTOUCHED]
    assert mowing(views(curve)).value.tolist() == [0]


def test_a_cut_that_is_seen_late_and_grown_back_in_part_is_found() -> None:
    grown = line((60, 0.45), (130, 0.80), (160, 0.80), (162, 0.45), (190, 0.86), (300, 0.7))
    seen_late = [one for one in grown if not 160 < one[0] < 180]
    fall = dict(seen_late)[160] - dict(seen_late)[180]
    assert 0.05 < fall < 0.10, "less than what counts as a fall"
    assert mowing(views(seen_late)).value.tolist() == [1]
    assert mowing(views([one for one in UNTOUCHED if not 160 < one[0] < 180])).value.tolist() == [0]


def test_an_untouched_meadow_and_its_senescence_have_no_event() -> None:
    found = mowing(views(UNTOUCHED, line((60, 0.45), (130, 0.85), (190, 0.82), (250, 0.40), (300, 0.35))))
    assert found.value.tolist() == [0, 0]
    assert (found.confidence > 0.5).all()


def test_gradual_grazing_is_no_cut() -> None:
    curve = line((60, 0.45), (130, 0.85), (150, 0.85), (185, 0.62), (215, 0.80), (300, 0.65))
    assert mowing(views(curve)).value.tolist() == [0]


@pytest.mark.parametrize("after", [0.15, 0.25])
def test_the_harvest_of_a_field_is_no_cut(after: float) -> None:
    ripening = line((60, 0.40), (130, 0.90), (165, 0.85), (195, 0.35), (200, after), (300, after))
    silage = line((120, 0.20), (170, 0.85), (240, 0.80), (243, after), (300, after))
    assert mowing(views(ripening, silage)).value.tolist() == [0, 0]


def test_a_cut_in_a_gap_of_40_days_is_seen_by_coherence_alone() -> None:
    hidden = [(at, v) for at, v in UNTOUCHED if not 140 < at < 180]
    rise = [(at, 0.65 if 163 <= at < 190 else 0.30 + 0.02 * (at // 6 % 2)) for at in range(61, 300, 6)]
    still = [(at, 0.30 + 0.02 * (at // 6 % 2)) for at, _ in rise]
    assert mowing(views(hidden)).value.tolist() == [0]
    assert mowing(views(hidden), coherence(still)).value.tolist() == [0]
    event = only(mowing(views(hidden), coherence(rise)))
    assert event.seen_by.tolist() == [COHERENCE]
    assert event.confidence[0] == pytest.approx(0.5)  # radar alone says no more (Sen4CAP L4B)
    assert abs(event.best[0] - day(157)) <= np.timedelta64(6, "D")  # the pair of day 163 is the first behind the cut
    assert event.begin[0] < event.best[0] < event.end[0]


def test_a_pair_of_twelve_days_dates_a_cut_twelve_days_back() -> None:
    hidden = [(at, v) for at, v in UNTOUCHED if not 140 < at < 180]
    rise = [(at, 0.65 if 169 <= at < 200 else 0.30 + 0.02 * (at // 12 % 2)) for at in range(61, 300, 12)]
    event = only(mowing(views(hidden), coherence(rise)))
    assert event.seen_by.tolist() == [COHERENCE]
    assert abs(event.best[0] - day(157)) <= np.timedelta64(6, "D")


def test_coherence_that_stays_high_is_autumn_or_soil() -> None:
    hidden = [(at, v) for at, v in UNTOUCHED if not 140 < at < 180]
    stays = [
        (at, 0.30 + 0.02 * (at // 6 % 2) if at < 163 else min(0.45 + 0.004 * (at - 163), 0.8))
        for at in range(61, 300, 6)
    ]
    assert mowing(views(hidden), coherence(stays)).value.tolist() == [0]


def test_clear_views_outweigh_a_rise_of_coherence() -> None:
    rise = [(at, 0.65 if 163 <= at < 190 else 0.30 + 0.02 * (at // 6 % 2)) for at in range(61, 300, 6)]
    assert mowing(views(UNTOUCHED), coherence(rise)).value.tolist() == [0]


def test_coherence_raises_the_confidence_of_a_fall_and_dates_it() -> None:
    curve = [(at, v) for at, v in CUT if not 145 < at < 175]
    rise = [(at, 0.65 if 169 <= at < 196 else 0.30 + 0.02 * (at // 6 % 2)) for at in range(61, 300, 6)]
    alone, both = only(mowing(views(curve))), only(mowing(views(curve), coherence(rise)))
    assert both.confidence[0] > alone.confidence[0]
    assert both.seen_by.tolist() == [OPTICAL | COHERENCE]
    assert abs(both.best[0] - day(162)) <= np.timedelta64(3, "D")


def test_a_level_that_differs_between_orbits_is_no_step() -> None:
    """An orbit whose passes begin in mid season, 0.3 above the other, changes nothing."""
    hidden = [(at, v) for at, v in UNTOUCHED if not 140 < at < 180]
    one, other = [(at, 0.3) for at in range(61, 300, 6)], [(at, 0.6) for at in range(158, 300, 6)]
    first, second = coherence(one), coherence(other, orbit=88)
    both = RadarViews(*(np.concatenate([getattr(first, one.name), getattr(second, one.name)]) for one in fields(first)))
    assert mowing(views(hidden), both).value.tolist() == [0]


def test_too_few_views_are_not_valid_and_what_is_no_grass_is_not_executed() -> None:
    found = mowing(views(CUT[:3], CUT, []), applies=np.array([True, False, True]))
    assert found.status.tolist() == [NOT_VALID, NOT_EXECUTED, NOT_VALID]
    assert not len(found.events.parcel)
    assert np.isnan(found.value).all()
    assert np.isnan(found.confidence).all()
    assert found.evidence(1)["events"] == []


def test_no_parcels_at_all() -> None:
    assert len(mowing(views()).status) == 0
    assert mowing(views([])).status.tolist() == [NOT_VALID]


CURVES = st.lists(
    st.lists(
        st.tuples(st.integers(40, 330), st.sampled_from([0.2, 0.35, 0.5, 0.62, 0.7, 0.75, 0.8, 0.85, float("nan")])),
        max_size=40,
        unique_by=lambda view: view[0],
    ),
    min_size=1,
    max_size=4,
)


def same(one: Marked, other: Marked) -> None:
    for name in ("status", "value", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("parcel", "begin", "end", "best", "confidence", "seen_by"):
        np.testing.assert_array_equal(getattr(one.events, name), getattr(other.events, name))


@given(CURVES, st.randoms(use_true_random=False))
def test_the_order_of_the_views_does_not_matter(curves: list[Curve], random: object) -> None:
    known = views(*curves)
    order = np.arange(len(known.parcel))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed = ClearViews(known.parcel[order], known.days[order], known.ndvi[order], known.n_parcels)
    same(mowing(known), mowing(mixed))


@given(CURVES)
def test_a_parcel_does_not_depend_on_the_others_of_its_batch(curves: list[Curve]) -> None:
    together = mowing(views(*curves))
    for nr, curve in enumerate(curves):
        alone = mowing(views(curve))
        assert alone.status[0] == together.status[nr]
        np.testing.assert_array_equal(alone.value[0], together.value[nr])
        np.testing.assert_array_equal(alone.confidence[0], together.confidence[nr])
        assert alone.evidence(0) == together.evidence(nr)


PASSES = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(40, 330),
        st.sampled_from([15, 88, 110]),
        *[st.sampled_from([0.2, 0.3, 0.45, 0.7, float("nan")])] * 2,
        *[st.sampled_from([-20.0, -18.5, -12.0, float("nan")])] * 2,
    ),
    max_size=60,
)


def passes(rows: Sequence[tuple[float, ...]]) -> RadarViews:
    parcel, days, orbit, *channels = np.array(rows, np.float64).reshape(-1, 7).T
    return RadarViews(parcel.astype(np.int64), _days(days), orbit.astype(np.int64), *channels[2:], *channels[:2])


@given(
    st.lists(CURVES.map(lambda curves: curves[0]), min_size=3, max_size=3), PASSES, st.randoms(use_true_random=False)
)
@example(
    [[], [], []],
    [(0, 73, 15, 0.2, 0.2, -20.0, -20.0), (0, 77, 15, 0.2, 0.2, -20.0, -20.0), (1, 40, 15, 0.2, 0.2, -20.0, -20.0)],
    Random(0),
)
def test_neither_the_order_of_passes_nor_other_parcels_matter(
    curves: list[Curve], rows: list[tuple[float, ...]], random: object
) -> None:
    together = mowing(views(*curves), passes(rows))
    mixed = list(rows)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    same(together, mowing(views(*curves), passes(mixed)))
    for nr, curve in enumerate(curves):
        alone = mowing(views(curve), passes([(0, *row[1:]) for row in rows if row[0] == nr]))
        assert (alone.status[0], alone.evidence(0)) == (together.status[nr], together.evidence(nr))
        np.testing.assert_array_equal(alone.confidence[0], together.confidence[nr])


@given(CURVES)
def test_what_is_nan_changes_nothing(curves: list[Curve]) -> None:
    seen = [[(at, v) for at, v in curve if v == v] for curve in curves]
    same(mowing(views(*curves)), mowing(views(*seen)))


@given(st.lists(st.integers(40, 330), max_size=60))
def test_nothing_but_nan_never_gives_an_event(days: list[int]) -> None:
    nan = np.full(len(days), np.nan)
    when = np.append(_days(days), np.datetime64("NaT"))[: len(days)]
    when[::7] = np.datetime64("NaT")
    radar = RadarViews(np.zeros(len(days), np.int64), when, np.zeros(len(days), np.int64), nan, nan, nan, nan)
    found = mowing(views([(at, float("nan")) for at in days]), radar)
    assert found.status.tolist() == [NOT_VALID]
    assert not len(found.events.parcel)
