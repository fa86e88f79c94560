"""Parts of a parcel on pixel sets made by hand, and on simulated fields put together."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from db.sensors import S2_BANDS
from db.series import INVALID_PIXEL
from monitor.alerts.evidence import why
from monitor.alerts.parts import parts
from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, YELLOW
from monitor.markers.form import NOT_EXECUTED as NO_SETS
from monitor.markers.form import OK
from monitor.markers.parts import SPLIT, PixelViews, partly_cut, sealed, splits, two_parts
from research.simulator import SimulatorConfig, simulate_season

DAY = np.datetime64("2025-05-01")
View = tuple[int, Sequence[float]]


def stored(ndvi: NDArray[np.float64]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Red and near infrared of pixels (N, S) with an NDVI, as they are stored; NaN is no pixel."""
    filled = np.nan_to_num(ndvi)
    bands = (np.where(np.isnan(ndvi), INVALID_PIXEL, np.rint(5000 * one)) for one in (1 - filled, 1 + filled))
    red, nir = (one.astype(np.int16) for one in bands)
    return red, nir


def two(share: float, low: float, high: float, n: int = 40, noise: float = 0.02, seed: int = 0) -> list[float]:
    """Pixels of two groups in any order."""
    random = np.random.default_rng(seed)
    level = np.where(np.arange(n) < round(share * n), low, high)
    ndvi: list[float] = (random.permutation(level) + random.normal(0, noise, n)).tolist()
    return ndvi


def even(level: float, n: int = 40, seed: int = 0) -> list[float]:
    return two(0, level, level, n, seed=seed)


def views_of(*parcels: Sequence[View]) -> PixelViews:
    rows = [(nr, day, ndvi) for nr, views in enumerate(parcels) for day, ndvi in views]
    pixels = np.full((len(rows), max((len(ndvi) for *_, ndvi in rows), default=1)), np.nan)
    for row, (*_, ndvi) in zip(pixels, rows, strict=True):
        row[: len(ndvi)] = ndvi
    days = DAY + np.array([day for _, day, _ in rows], np.int64)
    return PixelViews(np.array([nr for nr, *_ in rows], np.int64), days, splits(*stored(pixels)), len(parcels))


@given(st.lists(st.floats(-0.9, 0.95).map(lambda one: round(one, 3)), min_size=2, max_size=30), st.randoms())
def test_the_split_is_that_of_otsu_however_the_pixels_lie(ndvi: list[float], random: object) -> None:
    red, nir = stored(np.array([ndvi]))
    exact = np.sort(((nir.astype(float) - red) / (nir.astype(float) + red))[0])
    between = [
        k * (len(exact) - k) * (exact[:k].mean() - exact[k:].mean()) ** 2 / len(exact) ** 2
        for k in range(1, len(exact))
    ]
    found = splits(red, nir)[0]
    k = round(found["share"] / 100 * len(exact))
    assert between[k - 1] == pytest.approx(max(between), rel=1e-4, abs=1e-9)
    assert found["separation"] == pytest.approx(100 * max(between) / max(exact.var(), 1e-9), abs=1)
    assert found["low"] == pytest.approx(100 * exact[:k].mean(), abs=0.51)
    shuffled = list(ndvi)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert splits(*stored(np.array([[np.nan, *shuffled, np.nan]])))[0] == found


def test_a_set_without_pixels_says_nothing() -> None:
    none = splits(*stored(np.full((2, 5), np.nan)))
    assert none.tolist() == np.zeros(2, SPLIT).tolist()
    assert splits(*stored(np.full((1, 0), np.nan))).tolist() == np.zeros(1, SPLIT).tolist()


MEADOW: list[View] = [(0, even(0.8)), (5, even(0.8, seed=1))]


@pytest.mark.parametrize(
    ("views", "share", "kind"),
    [
        ([*MEADOW, (10, two(0.4, 0.5, 0.8)), (15, two(0.4, 0.52, 0.81))], 0.4, "mown"),
        ([*MEADOW, (10, two(0.4, 0.15, 0.8)), (15, two(0.4, 0.15, 0.81))], 0.4, "tilled"),
        ([*MEADOW, (10, two(0.4, 0.5, 0.8)), (15, two(0.7, 0.5, 0.8)), (20, two(0.7, 0.5, 0.8))], 0.3, "mown"),
        ([*MEADOW, (10, even(0.5)), (15, even(0.52))], 0, None),  # all of it
        ([*MEADOW, (10, two(0.4, 0.5, 0.8)), (15, even(0.8))], 0, None),  # back at once: a cloud that the mask missed
        ([*MEADOW, (10, two(0.4, 0.5, 0.8, n=20)), (15, even(0.8))], 0, None),  # beside a cloud: not looked at
        ([*MEADOW, (10, two(0.05, 0.4, 0.8)), (15, two(0.05, 0.4, 0.8))], 0, None),  # two pixels are no part
        ([*MEADOW, (10, two(0.4, 0.72, 0.8)), (15, two(0.4, 0.72, 0.8))], 0, None),  # not by as much as a cut
        ([(0, even(0.8)), (40, two(0.4, 0.5, 0.8)), (45, two(0.4, 0.5, 0.8))], 0, None),  # who knows what lies between
        ([(0, even(0.3)), (5, even(0.3)), (10, two(0.4, 0.1, 0.3)), (15, two(0.4, 0.1, 0.3))], 0, None),  # no stand
    ],
)
def test_the_share_of_a_part_that_is_cut(views: list[View], share: float, kind: str | None) -> None:
    found = partly_cut(views_of(views))
    assert found.status.tolist() == [OK]
    assert found.value[0] == pytest.approx(share, abs=0.011)
    said = found.evidence(0)["parts"]
    assert [one["kind"] for one in said][-1:] == ([kind] if kind else [])
    if kind:
        assert found.confidence[0] > 0.9, "seen on two views"


def test_what_is_said_to_have_fallen_is_never_more_than_what_fell() -> None:
    """Of parcels of two levels before and two after, in which it is known of each pixel how far it fell."""
    random = np.random.default_rng(1)
    n_said = 0
    for _ in range(300):
        (low, high), (low_after, high_after) = (
            np.sort(random.choice(np.arange(0.3, 0.9, 0.01), 2, False)) for _ in "ab"
        )
        before, after = (
            np.where(random.random(50) < random.random(), *levels) for levels in ((low, high), (low_after, high_after))
        )
        found = partly_cut(
            views_of([(-5, before.tolist()), (0, before.tolist()), (5, after.tolist()), (9, after.tolist())])
        )
        said = found.evidence(0)["parts"]
        fell = np.mean(np.round(before - after, 2) >= 0.12)
        assert all(one["share"] <= fell + 1e-9 for one in said)
        n_said += len(said)
    assert n_said >= 20


WHEAT_AND_MAIZE: list[View] = [
    (0, two(0.3, 0.2, 0.8)),
    (20, two(0.3, 0.3, 0.85, seed=1)),
    (45, even(0.8)),
    (80, two(0.7, 0.25, 0.85, seed=2)),
]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (WHEAT_AND_MAIZE, True),
        (WHEAT_AND_MAIZE[:3], False),  # two views: a cut in part
        ([(day, two(0.3, 0.5, 0.8, seed=day)) for day in (0, 5, 10, 15)], False),  # not for long
        ([(day, two(0.3, 0.5, 0.8, seed=day)) for day in (0, 20, 40)], True),
        ([(day, two(0.3, 0.67, 0.8, seed=day)) for day in (0, 20, 40)], False),  # not far enough apart
        ([(0, two(0.12, 0.4, 0.8)), (20, two(0.5, 0.4, 0.8)), (40, two(0.12, 0.4, 0.8))], False),  # other parts
        ([(day, np.linspace(0.4, 0.8, 40).tolist()) for day in (0, 20, 40, 60)], False),  # an even gradient
        (
            [(day, two(0.3, 0.4, 0.8) if day % 60 == 0 else even(0.8)) for day in range(0, 140, 10)],
            False,
        ),  # now and then
    ],
)
def test_two_parts_must_last(views: list[View], expected: bool) -> None:
    found = two_parts(views_of(views))
    assert np.isfinite(found.share).tolist() == [expected]
    if expected:
        assert found.share[0] == pytest.approx(0.3, abs=0.02)
        assert found.since[0] == DAY


YARD: list[View] = [(day, two(0.2, 0.1, 0.4 + day / 300, seed=day)) for day in range(0, 110, 10)]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (YARD, True),
        ([(-240, even(0.7)), *YARD], True),  # the autumn before was another season
        (YARD[:9], False),  # 80 days
        ([*YARD, (115, even(0.7))], False),  # it was bare until its crop came up
        ([*YARD[:4], (39, even(0.7)), *YARD[4:]], False),  # it was green once
        ([*YARD[:3], *YARD[8:]], False),  # nothing is known of two months
        ([(day, two(0.2, 0.1, 0.2, seed=day)) for day in range(0, 110, 10)], False),  # nothing grows on the rest either
    ],
)
def test_a_part_without_vegetation_bears_none_all_the_season(views: list[View], expected: bool) -> None:
    found = sealed(views_of(views))
    assert np.isfinite(found.share).tolist() == [expected]


def test_the_rule_is_never_red_and_says_why() -> None:
    few, unseen = [(0, even(0.8)), (10, even(0.8))], [(day, [0.5] * 7) for day in (0, 10, 20)]
    decisions = parts(views_of(WHEAT_AND_MAIZE, YARD, MEADOW * 2, few, unseen, [(0, []), (10, [])], []))
    assert decisions.found.verdict.tolist() == [YELLOW, YELLOW, GREEN, NOT_VALID, NOT_VALID, NOT_EXECUTED, NOT_EXECUTED]
    two_crops, yard = decisions.finding(0), decisions.finding(1)
    assert (two_crops.evidence["kind"], yard.evidence["kind"]) == ("two_parts", "no_vegetation")
    assert (two_crops.confidence, yard.confidence) == (0.438, 0.5)
    assert why("parts", two_crops.evidence).startswith(
        "as of 2025-07-20: 30% of the pixels differ from the rest on 3 views"
    )
    assert "20% of the pixels bore no vegetation on 11 views since 2025-05-01" in why("parts", yard.evidence)
    assert partly_cut(views_of([(0, []), (10, [])])).status.tolist() == [NO_SETS]


def test_parcels_are_decided_alike_alone_and_together() -> None:
    many = [WHEAT_AND_MAIZE, YARD, MEADOW * 2, [*MEADOW, (10, two(0.4, 0.5, 0.8)), (15, two(0.4, 0.5, 0.8))], []]
    together = views_of(*many)
    cut, decisions = partly_cut(together), parts(together)
    for nr, views in enumerate(many):
        alone = views_of(views)
        np.testing.assert_array_equal(partly_cut(alone).value[0], cut.value[nr])
        assert parts(alone).finding(0) == decisions.finding(nr)


def test_simulated_fields_have_no_parts_and_two_of_them_together_do() -> None:
    season = simulate_season(
        SimulatorConfig(n_parcels=40, n_pixels=32, regions=("lowlands",), event_rate=0, s1_orbits=1)
    )
    since = season.starts_on + timedelta(days=210)  # from March on
    seen: dict[str, list[View]] = {}
    for acquisition in season.acquisitions():
        if acquisition.sensor == "s2" and acquisition.available_at.date() > since:
            for row in acquisition.table.select(["parcel_id", "observed_at", "pixels", "revision"]).to_pylist():
                if row["pixels"] and row["revision"] == 0:
                    bands = np.frombuffer(row["pixels"], "<i2").reshape(len(S2_BANDS), -1).astype(float)
                    red, nir = (np.where(one < 0, np.nan, one) for one in (bands[2], bands[6]))
                    day = (row["observed_at"].date() - DAY.item()).days
                    seen.setdefault(row["parcel_id"], []).append((day, ((nir - red) / (nir + red)).tolist()))
    crop = dict(zip(season.truth.parcels["parcel_id"], season.truth.parcels["grown"], strict=True))
    alone = [sorted(views, key=lambda view: view[0]) for views in seen.values()]
    assert (parts(views_of(*alone)).found.verdict == YELLOW).sum() == 0
    full = [(one, dict(views)) for one, views in seen.items() if max(len(ndvi) for _, ndvi in views) == 32]
    pairs = [
        [(day, [*here[day][:16], *there[day][:16]]) for day in sorted(here.keys() & there.keys())]
        for (one, here), (other, there) in pairwise(full)
        if crop[one][:4] != crop[other][:4]
    ]
    found = parts(views_of(*pairs)).found.verdict == YELLOW
    assert len(pairs) >= 5
    assert found.mean() >= 0.5
