"""Flooding on series worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.flooding import flooding, low_passes
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, ClearViews
from monitor.markers.form import RadarViews

DAY = np.datetime64("2025-03-01")
Pass = tuple[int, int, float, float]
LAND: list[Pass] = [(day, orbit, -11.0, -18.0) for day in (0, 12, 24) for orbit in (15, 88)]


def radar_of(*parcels: list[Pass]) -> RadarViews:
    rows = [(nr, *one) for nr, passes in enumerate(parcels) for one in passes]
    parcel, day, orbit, vv, vh = (np.array(column) for column in zip(*rows, strict=True)) if rows else np.zeros((5, 0))
    none = np.full(len(parcel), np.nan)
    return RadarViews(parcel.astype(np.int64), DAY + day.astype(np.int64), orbit.astype(np.int64), vv, vh, none, none)


def views_of(*parcels: list[tuple[int, float]]) -> ClearViews:
    rows = [(nr, *one) for nr, views in enumerate(parcels) for one in sorted(views)]
    return ClearViews(
        np.array([nr for nr, _, _ in rows], np.int64),
        DAY + np.array([day for _, day, _ in rows], np.int64),
        np.array([ndvi for _, _, ndvi in rows]),
        len(parcels),
    )


@pytest.mark.parametrize(
    ("passes", "views", "expected"),
    [
        (LAND, [(10, 0.6)], GREEN),
        (LAND, [], NOT_VALID),
        ([*LAND, (36, 15, -17, -24)], [(10, 0.6)], GREEN),  # a fine seedbed looks so to the radar
        (LAND, [(10, 0.6), (35, 0.01)], GREEN),  # a shadow looks so from above
        ([*LAND, (36, 15, -17, -24)], [(10, 0.6), (35, 0.01)], YELLOW),
        ([*LAND, (36, 15, -17, -24)], [(10, 0.6), (36, 0.01)], YELLOW),
        ([*LAND, (36, 15, -17, -24)], [(10, 0.6), (29, 0.01)], GREEN),  # a week apart
        ([*LAND, (36, 15, -17, -24), (37, 88, -16, -23)], [(10, 0.6), (35, 0.01)], RED),
        ([*LAND, (36, 15, -17, -24), (48, 15, -17, -24)], [(35, 0.01)], RED),  # low against what was before the flood
        ([*LAND, (36, 15, -13, -24)], [(35, 0.01)], GREEN),  # not as low as water
        ([*LAND, (36, 15, -17, -20)], [(35, 0.01)], GREEN),  # VH stays: a crop
        ([*LAND[:4], (36, 15, -17, -24)], [(35, 0.01)], GREEN),  # two passes are no reference
    ],
)
def test_both_sensors_must_see_water(passes: list[Pass], views: list[tuple[int, float]], expected: int) -> None:
    decisions = flooding(views_of(views), radar_of(passes))
    assert decisions.found.verdict.tolist() == [expected]
    if expected in (YELLOW, RED):
        assert decisions.found.departed_on[0] >= DAY + 35
        assert decisions.finding(0).evidence["low_passes"]


def test_what_stays_low_is_another_surface() -> None:
    passes = [*LAND, *((36 + 12 * nr, 15, -17.0, -24.0) for nr in range(10))]
    low = low_passes(radar_of(passes))
    assert low.sum() == 6  # sixty days


def test_a_crop_that_grows_over_its_soil_is_no_flood() -> None:
    wheat = [(6 * nr, 15, -10.0 - nr, -18.0 - 0.6 * nr) for nr in range(10)]
    assert not low_passes(radar_of(wheat)).any()


PASSES = st.lists(
    st.tuples(st.integers(0, 90), st.sampled_from([15, 88]), st.floats(-22, -8), st.floats(-28, -15)), max_size=12
)
VIEWS = st.lists(st.tuples(st.integers(0, 90), st.floats(-0.2, 0.8)), max_size=5, unique_by=lambda one: one[0])


@given(st.lists(st.tuples(PASSES, VIEWS), min_size=1, max_size=4), st.randoms())
def test_a_parcel_is_decided_as_if_alone(
    parcels: list[tuple[list[Pass], list[tuple[int, float]]]], chance: st.DataObject
) -> None:
    # Of one orbit and day there is one pass.
    each = [(list({(day, orbit): (day, orbit, vv, vh) for day, orbit, vv, vh in p}.values()), v) for p, v in parcels]
    found = flooding(views_of(*(v for _, v in each)), radar_of(*(p for p, _ in each))).found
    for nr, (passes, views) in enumerate(each):
        shuffled = list(passes)
        chance.shuffle(shuffled)  # type: ignore[attr-defined]
        alone = flooding(views_of(views), radar_of(shuffled)).found
        assert alone.verdict[0] == found.verdict[nr]
        assert str(alone.departed_on[0]) == str(found.departed_on[nr])
