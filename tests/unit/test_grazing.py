"""Grazing on curves worked out by hand: little by little it is grazing, at once it is a cut."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.rules import ClearViews
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK
from monitor.markers.grazing import USES, grassland_use, grazing
from monitor.markers.mowing import mowing

NEW_YEAR = np.datetime64("2024-01-01")
Curve = Sequence[tuple[int, float]]
GRAZED = [(60, 0.45), (130, 0.85), (150, 0.85), (190, 0.62), (220, 0.80), (300, 0.70)]
CUT = [(60, 0.45), (130, 0.85), (160, 0.85), (164, 0.50), (190, 0.80), (300, 0.75)]
UNTOUCHED = [(60, 0.45), (130, 0.85), (200, 0.80), (300, 0.45)]


def line(corners: Curve, every: int = 5) -> list[tuple[int, float]]:
    days = np.arange(corners[0][0], corners[-1][0] + 1, every)
    return list(zip(days.tolist(), np.interp(days, *np.array(corners).T).tolist(), strict=True))


def views(*curves: Curve) -> ClearViews:
    rows = [(nr, day, ndvi) for nr, curve in enumerate(curves) for day, ndvi in curve]
    parcel, day, ndvi = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    return ClearViews(parcel.astype(np.int64), NEW_YEAR + day.astype(np.int64), ndvi.astype(np.float32), len(curves))


@pytest.mark.parametrize("every", [2, 5, 10])
def test_a_sward_lost_over_six_weeks_that_grows_back_is_grazed_and_not_mown(every: int) -> None:
    known = views(line(GRAZED, every))
    found = grazing(known)
    assert mowing(known).value.tolist() == [0]
    assert (found.status.tolist(), found.value.tolist()) == ([OK], [1])
    begin, end = found.events.begin[0], found.events.end[0]
    assert NEW_YEAR + 140 <= begin < end <= NEW_YEAR + 200
    assert USES[grassland_use(known, mowing(known), found)[0]] == "grazed"


def test_a_cut_is_not_grazing() -> None:
    known = views(line(CUT))
    assert grazing(known).value.tolist() == [0]
    assert USES[grassland_use(known, mowing(known), grazing(known))[0]] == "mown"


def test_a_meadow_that_grows_up_and_dies_back_once_is_unmanaged() -> None:
    known = views(line(UNTOUCHED))
    assert grazing(known).value.tolist() == [0]
    assert USES[grassland_use(known, mowing(known), grazing(known))[0]] == "unmanaged"


def test_a_sward_kept_short_from_spring_on_is_not_called_unmanaged() -> None:
    known = views(line([(60, 0.45), (110, 0.68), (300, 0.66)]))
    assert USES[grassland_use(known, mowing(known), grazing(known))[0]] == "unknown"


def test_a_meadow_that_was_hardly_seen_is_unknown() -> None:
    known = views(line(UNTOUCHED, every=60), [])
    found = grazing(known)
    assert found.status.tolist() == [NOT_VALID, NOT_VALID]
    assert {USES[one] for one in grassland_use(known, mowing(known), found)} == {"unknown"}


def test_episodes_do_not_overlap_and_both_rotations_are_found() -> None:
    rotations = [
        (60, 0.45),
        (110, 0.85),
        (120, 0.85),
        (150, 0.65),
        (175, 0.83),
        (185, 0.83),
        (215, 0.63),
        (240, 0.80),
        (300, 0.75),
    ]
    found = grazing(views(line(rotations)))
    assert found.value.tolist() == [2]
    assert found.events.end[0] <= found.events.begin[1]


def test_what_is_no_grass_is_not_executed() -> None:
    found = grazing(views(line(GRAZED)), applies=np.array([False]))
    assert found.status.tolist() == [NOT_EXECUTED]
    assert np.isnan(found.value[0])
    assert not len(found.events.parcel)


def test_evidence_names_episodes_and_cuts() -> None:
    shown = grazing(views(line(GRAZED), line(CUT)))
    assert len(shown.evidence(0)["episodes"]) == len(shown.evidence(1)["cuts"]) == 1


CURVES = st.lists(
    st.lists(
        st.tuples(st.integers(90, 300), st.sampled_from([0.4, 0.55, 0.62, 0.7, 0.75, 0.8, 0.85, float("nan")])),
        max_size=40,
        unique_by=lambda view: view[0],
    ),
    min_size=1,
    max_size=4,
)


@given(CURVES, st.randoms(use_true_random=False))
def test_neither_order_nor_the_others_of_the_batch_matter(curves: list[Curve], random: object) -> None:
    known = views(*curves)
    order = np.arange(len(known.parcel))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = grazing(ClearViews(known.parcel[order], known.days[order], known.ndvi[order], known.n_parcels))
    use = grassland_use(known, mowing(known), found)
    for nr, curve in enumerate(curves):
        one = views(curve)
        alone = grazing(one)
        assert (alone.status[0], alone.evidence(0)) == (found.status[nr], found.evidence(nr))
        np.testing.assert_array_equal(alone.confidence[0], found.confidence[nr])
        assert grassland_use(one, mowing(one), alone)[0] == use[nr]


@given(st.lists(st.integers(90, 300), max_size=40))
def test_nan_never_gives_an_episode(days: list[int]) -> None:
    found = grazing(views([(day, float("nan")) for day in days]))
    assert found.status.tolist() == [NOT_VALID]
    assert not len(found.events.parcel)
