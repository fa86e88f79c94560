"""Low neighbours, and what flooding makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.evidence import as_of, why
from monitor.alerts.flooding import flooding
from monitor.alerts.low_neighbours import (
    LOW_MIN,
    UNDECLARED,
    WITHIN_M,
    LowNeighbours,
    counted,
    is_crowded,
    usual_shares,
)
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW
from tests.unit.test_flooding import DAY, LAND, Pass, radar_of, views_of

FELL: list[Pass] = [(36, 15, -14, -21), (37, 88, -14, -21), (42, 15, -14, -21)]
"""Low by less than what is low without regard to the neighbours."""


def around(*passes: tuple[int, int], n_low: int = 6, n_crops: int = 2, usual: float = 0.02) -> LowNeighbours:
    """Return counts of parcel 0 at passes (day, orbit): of ten neighbours."""
    days, orbit = (np.array([one[nr] for one in passes], np.int64) for nr in (0, 1))
    n = len(passes)
    seen, low, crops = (np.full(n, one) for one in (10, n_low, n_crops))
    return LowNeighbours(np.zeros(n, np.int64), DAY + days, orbit, seen, low, crops, np.full(n, usual, np.float32))


TWO, THREE = ((36, 15), (37, 88)), ((36, 15), (37, 88), (42, 15))


@pytest.mark.parametrize(
    ("passes", "views", "low", "expected"),
    [
        ([*LAND, *FELL], [], around(*TWO), YELLOW),
        ([*LAND, *FELL], [(10, 0.6)], around(*TWO), YELLOW),
        ([*LAND, *FELL], [], around(*THREE), RED),
        ([*LAND, *FELL], [], around(*THREE, n_low=4), YELLOW),  # a flood's edge
        ([*LAND, *FELL], [(39, 0.01)], around(*TWO), RED),  # seen from above, too
        ([*LAND, *FELL], [(10, 0.6)], around((36, 15)), GREEN),  # one pass
        ([*LAND, *FELL], [(36, 0.01)], around((36, 15)), YELLOW),  # but seen from above
        ([*LAND, *FELL], [(10, 0.6)], around(*TWO, n_low=3), GREEN),
        ([*LAND, *FELL], [(10, 0.6)], around(*TWO, n_crops=1), GREEN),  # one crop's seedbeds
        ([*LAND, *FELL], [(10, 0.6)], around(*TWO, usual=0.2), GREEN),  # a dry day in the whole region
        ([*LAND, *FELL], [(10, 0.6)], LowNeighbours.none(), GREEN),
        ([*LAND, *FELL], [(10, 0.6)], around((36, 15), (36, 88)), GREEN),  # the second pass is none of its own
        (LAND, [(10, 0.6)], around(*TWO), GREEN),  # its own passes are withdrawn
        (LAND, [], around(*TWO), NOT_VALID),
        ([*LAND, (36, 15, -14, -21), (60, 15, -14, -21)], [(10, 0.6)], around((36, 15), (60, 15)), GREEN),  # apart
    ],
)
def test_radar_is_believed_among_flooded_neighbours(
    passes: list[Pass], views: list[tuple[int, float]], low: LowNeighbours, expected: int
) -> None:
    decisions = flooding(views_of(views), radar_of(passes), low)
    assert decisions.found.verdict.tolist() == [expected]
    if expected in (YELLOW, RED):
        finding = decisions.finding(0)
        assert decisions.found.departed_on[0] == DAY + 36
        assert [one[0] for one in finding.evidence["low_passes"]]
        assert len(finding.evidence["neighbours"]) == len(low.parcel)
        assert finding.evidence["thresholds"]["neighbours_low_min"] == LOW_MIN
        assert str(as_of(finding.evidence)) >= str(DAY + 36)
        assert f"{low.n_low[0]} of 10 on 2025-04-06 (orbit 15)" in why("flooding", finding.evidence)


def test_neighbours_move_no_other_parcel() -> None:
    low = replace(around(*TWO), parcel=np.array([1, 1]))
    found = flooding(views_of([(10, 0.6)], []), radar_of([*LAND, *FELL], [*LAND, *FELL]), low).found
    assert found.verdict.tolist() == [GREEN, YELLOW]


def test_low_and_seen_are_counted_with_the_crops_of_those_that_are_low() -> None:
    near = np.array([[1, 2, 3, 4], [0, 2, -1, -1], [4, -1, -1, -1]])
    crop = np.array([7, 7, 8, UNDECLARED, 9])
    seen, low = np.array([1, 1, 1, 1, 0], bool), np.array([1, 1, 1, 1, 1], bool)
    n_seen, n_low, n_crops = counted(near, np.array([7, UNDECLARED, 9]), crop, seen, low)
    assert n_seen.tolist() == [3, 2, 0]
    assert n_low.tolist() == [3, 2, 0]
    assert n_crops.tolist() == [2, 2, 1]
    assert counted(near, np.array([7, 7, 7]), crop, seen, ~low)[1].tolist() == [0, 0, 0]


def test_what_is_usual_is_that_of_the_crop_or_where_few_are_seen_of_the_region() -> None:
    group = np.repeat([0, 1, 2, 3], [40, 10, 50, 5])
    low = np.concatenate([np.arange(40) < 10, np.ones(10), np.zeros(50), np.zeros(5)]).astype(bool)
    shares = usual_shares(group, np.array([0, 0, 0, 1, 1, 2]), group != 3, low)
    np.testing.assert_allclose(shares, [0.25, 0.2, 0, np.nan, np.nan, np.nan])


@given(st.lists(st.tuples(st.floats(-3e3, 3e3), st.floats(-3e3, 3e3)), max_size=40))
def test_who_has_enough_near_is_never_passed_over(places: list[tuple[float, float]]) -> None:
    xy = np.array(places, np.float64).reshape(-1, 2)
    near = (np.linalg.norm(xy[:, None] - xy[None], axis=2) <= WITHIN_M).sum(axis=1) - 1
    assert not (~is_crowded(*xy.T) & (near >= LOW_MIN)).any()


def test_scattered_places_are_not_crowded() -> None:
    xy = 5 * WITHIN_M * np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2)
    assert not is_crowded(*xy.T).any()
