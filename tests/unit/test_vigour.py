"""Bands of neighbours and vigour below them, on values worked out by hand."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from db.crop_progress import ProgressRow
from monitor.alerts.settings import RuleSettings
from monitor.crop_progress import differs
from monitor.dekads import dekad_number, dekad_numbers, dekads_begin, dekads_of
from monitor.markers.bands import Bands, bands, greenest, n_over
from monitor.markers.crop_calendar import calendars
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, Marked
from monitor.markers.vigour import vigour

MAIZE, NAN = "3301090400", float("nan")
FIRST = dekad_number(date(2025, 1, 1))
JUNE = 15
"""Place of the first dekad of June in the season."""
SETTINGS = RuleSettings()


def band(medians: dict[int, float], half: float = 0.05) -> Bands:
    """Return the band of one group around medians by dekad."""
    middle = np.full(36, np.nan, np.float32)
    for dekad, value in medians.items():
        middle[dekad] = value
    return Bands.of([np.stack([middle - half, middle, middle + half]).astype(np.float32)], FIRST, 36)


def marked(ndvi: dict[int, float], medians: dict[int, float], half: float = 0.05, **given: Any) -> Marked:
    """Return what is said of one parcel whose greenest views are given by dekad."""
    green = np.full((1, 36), np.nan, np.float32)
    for dekad, value in ndvi.items():
        green[0, dekad] = value
    n_known, codes = np.array([given.get("n_known", 36)]), [given.get("code", MAIZE)]
    group, is_asked = np.array([given.get("group", 0)]), np.array([given.get("asked", True)])
    return vigour(green, band(medians, half), group, n_known, calendars(codes, 2025), is_asked)


def grows(*ndvi: float) -> dict[int, float]:
    return {JUNE + nr: value for nr, value in enumerate(ndvi)}


MEDIANS = grows(0.5, 0.6, 0.7, 0.75, 0.8, 0.8)


@pytest.mark.parametrize(
    ("ndvi", "value"),
    [
        (grows(0.5, 0.6, 0.7, 0.75, 0.8, 0.8), 0),
        (grows(0.5, 0.6, 0.7, 0.52, 0.57, 0.57), 3),
        (grows(0.5, 0.6, 0.7, 0.75, 0.57, 0.57), 0),  # two are not enough
        (grows(0.2, 0.2, 0.2, 0.2, 0.2, 0.2), 6),
        (grows(0.2, 0.2, 0.2, 0.2, 0.2, 0.7), 0),  # it has caught up
        (grows(0.5, 0.2, NAN, 0.2, NAN, 0.2), 3),  # not seen: passed over
        (grows(0.5, 0.6, 0.7, 0.56, 0.61, 0.61), 0),  # 0.19 below the median; the fence is 0.2 below it
    ],
)
def test_dekads_in_a_row_below_the_fence(ndvi: dict[int, float], value: float) -> None:
    found = marked(ndvi, MEDIANS)
    assert (found.status[0], found.value[0]) == (OK, value)
    assert len(found.events.parcel) == (value > 0)


def test_when_it_began_and_what_it_rests_on() -> None:
    found = marked(grows(0.5, 0.6, 0.7, 0.52, 0.57, 0.57), MEDIANS)
    assert (str(found.events.begin[0]), str(found.events.end[0])) == ("2025-07-01", "2025-07-31")
    assert found.confidence[0] == 1 - 0.5**3
    shown = found.evidence(0)["dekads"][-1]
    assert shown == {"begins": "2025-07-21", "ndvi": 0.57, "floor": 0.6, "median": 0.8}


def test_among_neighbours_that_are_nearly_alike_a_tenth_is_needed() -> None:
    assert marked(grows(0.5, 0.6, 0.62, 0.66, 0.72, 0.72), MEDIANS, half=0.01).value[0] == 0
    assert marked(grows(0.5, 0.6, 0.59, 0.64, 0.69, 0.69), MEDIANS, half=0.01).value[0] == 4


def test_what_lies_behind_the_peak_before_the_crop_or_in_its_rest_is_not_asked() -> None:
    ripening = grows(0.7, 0.8, 0.85, 0.7, 0.6, 0.5)
    assert marked(grows(0.7, 0.8, 0.85, 0.2, 0.2, 0.2), ripening).value[0] == 0
    cover = dict.fromkeys(range(0, 10), 0.7)  # before maize comes up
    assert marked(dict.fromkeys(cover, 0.2), cover).status[0] == NOT_VALID
    bare = grows(0.2, 0.25, 0.3, 0.34)
    assert marked(dict.fromkeys(bare, 0.1), bare).status[0] == NOT_VALID


def test_too_little_is_not_valid_and_no_crop_is_not_asked() -> None:
    low = grows(0.2, 0.2, 0.2, 0.2)
    assert marked(grows(0.2, 0.2), MEDIANS).status[0] == NOT_VALID
    assert marked(low, {}).status[0] == NOT_VALID
    assert marked(low, MEDIANS, group=-1).status[0] == NOT_VALID
    assert marked(low, MEDIANS, n_known=JUNE + 2).status[0] == NOT_VALID
    assert marked(low, MEDIANS, n_known=JUNE + 3).value[0] == 3
    none = marked(low, MEDIANS, asked=False)
    assert none.status[0] == NOT_EXECUTED
    assert np.isnan(none.value[0])
    assert np.isnan(none.confidence[0])


def test_a_parcel_does_not_depend_on_the_others_of_the_batch() -> None:
    chance = np.random.default_rng(3)
    green = np.where(chance.random((40, 36)) < 0.3, np.nan, chance.random((40, 36))).astype(np.float32)
    both = band(MEDIANS)
    of, n_known = calendars([MAIZE] * 40, 2025), chance.integers(0, 37, 40)
    whole = vigour(green, both, np.zeros(40, np.int64), n_known, of, np.ones(40, bool))
    for nr in range(40):
        one = vigour(
            green[[nr]], both, np.zeros(1, np.int64), n_known[[nr]], calendars([MAIZE], 2025), np.ones(1, bool)
        )
        for name in ("status", "value", "confidence"):
            np.testing.assert_array_equal(getattr(one, name)[0], getattr(whole, name)[nr])
        assert one.events.of(0) == whole.events.of(nr)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-100, 100)), max_size=60))
def test_bands_are_quartiles_of_the_greenest_views(views: list[tuple[int, int, int]]) -> None:
    parcel, dekad, ndvi = (np.array([one[nr] for one in views], np.int64) for nr in range(3))
    group = np.array([0, 0, 0, 1, 1, 1])
    found = bands(greenest(parcel, dekad, (ndvi / 100).astype(np.float32), (6, 4)), group, 2, 2)
    for of in (0, 1):
        for at in range(4):
            best = [max(mine) for nr in range(6) if group[nr] == of and (mine := _of(views, nr, at))]
            wanted = np.quantile(best, [0.25, 0.5, 0.75]) / 100 if len(best) >= 2 else np.full(3, np.nan)
            np.testing.assert_allclose(found[:, of, at], wanted, atol=0.0051)


def _of(views: list[tuple[int, int, int]], parcel: int, dekad: int) -> list[int]:
    return [ndvi for who, when, ndvi in views if (who, when) == (parcel, dekad)]


def test_the_number_of_a_band_tells_apart_what_was_known_before_each_dekad() -> None:
    one, other = band(MEDIANS).until, band(MEDIANS | {JUNE + 2: 0.71}).until
    np.testing.assert_array_equal(one[0, : JUNE + 3], other[0, : JUNE + 3])
    assert (one[0, JUNE + 3 :] != other[0, JUNE + 3 :]).all()
    assert len(np.unique(one[0])) == 37
    assert (one != 0).all()


@pytest.mark.parametrize(
    ("day", "over"), [("2025-01-13", 0), ("2025-01-14", 1), ("2025-02-23", 4), ("2025-02-24", 5), ("2025-03-04", 6)]
)
def test_a_dekad_is_over_three_days_after_its_end(day: str, over: int) -> None:
    assert n_over(np.array([day], "M8[D]"), FIRST)[0] == over


def test_dekads_are_numbered() -> None:
    days = np.arange(np.datetime64("1969-01-01"), np.datetime64("2030-01-01"))
    np.testing.assert_array_equal(dekads_begin(dekad_numbers(days)), dekads_of(days))


def _row(of: NDArray[np.float32]) -> ProgressRow:
    days = np.full(120, 0.5, np.float32)
    return ProgressRow(1, "maize", 20, date(2025, 1, 1), days, days, of)


def test_a_band_that_moves_asks_for_the_parcels_of_its_group() -> None:
    known = np.array([[0.4, NAN], [0.5, NAN], [0.6, NAN]], np.float32)
    moved = known.copy()
    moved[0, 0] = 0.41
    later = np.concatenate([known, known[:, :1]], axis=1)
    assert not differs(_row(known), _row(known.copy()), SETTINGS)
    assert not differs(_row(known), _row(later), SETTINGS)  # parcels seen behind it are asked for as such
    assert differs(_row(known), _row(moved), SETTINGS)
    assert differs(_row(known), replace(_row(known), band=known[:, :1]), SETTINGS)
