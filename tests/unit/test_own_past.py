"""Departures from a parcel's own past seasons, on values worked out by hand."""

from datetime import date
from typing import Any

import numpy as np
import pytest

from monitor.dekads import dekad_number
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, Marked
from monitor.markers.own_past import crop_group, norms, own_past

FIRST, NAN = dekad_number(date(2025, 1, 1)), float("nan")
NORM = np.full((1, 6), 0.7, np.float32)


def marked(*ndvi: float, **given: Any) -> Marked:
    """Return what is said of a parcel of grassland whose norm is 0.7, with a standard deviation of 0.1."""
    green = np.full((1, 6), NAN, np.float32)
    green[0, : len(ndvi)] = ndvi
    sd, n_known = np.full((1, 6), 0.1, np.float32), np.array([given.get("n_known", 6)])
    return own_past(green, given.get("middle", NORM), sd, n_known, FIRST, [given.get("group", "3302")])


@pytest.mark.parametrize(
    ("ndvi", "value", "side"),
    [
        ((0.7, 0.6, 0.8, 0.5, 0.4, 0.7), 0, None),
        ((0.7, 0.7, 0.7, 0.3, 0.3, 0.3), 3, "below"),
        ((0.7, 0.7, 0.7, 0.7, 0.3, 0.3), 0, None),
        ((0.3, 0.3, 0.3, 0.3, 0.3, 0.7), 0, None),
        ((0.3, NAN, 0.3, 0.3, NAN, NAN), 3, "below"),
        ((0.7, 0.7, 1.1, 1.1, 1.1, 1.1), 4, "above"),
        ((0.3, 0.3, 1.1, 0.3, 0.3, 1.1), 0, None),
    ],
)
def test_dekads_in_a_row_far_from_the_norm(ndvi: tuple[float, ...], value: int, side: str | None) -> None:
    found = marked(*ndvi)
    assert (found.status[0], found.value[0]) == (OK, value)
    assert len(found.events.parcel) == (value > 0)
    if side:
        assert found.evidence(0)["side"] == side


def test_when_it_began() -> None:
    assert not marked(0.7, 0.7, 0.3, 0.3, 0.3, n_known=4).events.of(0)  # the last of three is not over
    (event,) = marked(0.7, 0.3, 0.3, 0.3).events.of(0)
    assert (event["begin"], event["end"]) == ("2025-01-11", "2025-02-10")


def test_arable_land_is_not_asked_and_too_little_is_not_valid() -> None:
    assert marked(0.3, 0.3, 0.3, group=None).status[0] == NOT_EXECUTED
    assert marked(0.3, 0.3).status[0] == NOT_VALID
    assert marked(0.3, 0.3, 0.3, middle=np.full((1, 6), NAN, np.float32)).status[0] == NOT_VALID
    assert marked(0.1, 0.1, 0.1, middle=np.full((1, 6), 0.3, np.float32)).status[0] == NOT_VALID  # no vegetation
    assert [crop_group(code) for code in ("3302000000", "3303060000", "3301010101", None)] == [
        "3302", "3303", None, None,
    ]  # fmt: skip


def test_norm_of_three_seasons_with_the_dekads_beside() -> None:
    past = np.full((4, 1, 5), NAN, np.float32)
    past[0, 0, 1], past[1, 0, 2], past[2, 0, 2], past[3, 0, 3] = 0.5, 0.6, 0.7, 0.9
    middle, sd = norms(past)
    np.testing.assert_allclose(middle[0], [NAN, 0.6, 0.65, 0.7, NAN], atol=1e-6)
    np.testing.assert_allclose(sd[0, 1], 1.4826 * 0.1, atol=1e-6)
    assert np.isnan(norms(past[:2])[0]).all()
