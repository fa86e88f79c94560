"""Matches of events: as many as there can be, of those the nearest; beside the assignment of scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from training.event_scores import Match, matches, total


def days(*of: int) -> NDArray[np.int64]:
    return np.array(of, np.int64)


def test_an_event_is_matched_once_and_the_pairs_are_the_nearest() -> None:
    true = days(100, 120)
    assert matches(true, true, days(118, 101, 112), 15) == [Match(0, 1, 1), Match(1, 0, -2)]


def test_more_pairs_beat_nearer_ones() -> None:
    """The nearest pair (110, 111) would leave 96 without one: 100 is out of its reach."""
    true = days(96, 110)
    assert [(one.true, one.found) for one in matches(true, true, days(111, 124), 15)] == [(0, 0), (1, 1)]


def test_the_error_is_counted_from_the_interval() -> None:
    begin, end = days(100), days(110)
    assert matches(begin, end, days(105), 0) == [Match(0, 0, 0)]
    assert matches(begin, end, days(113), 3) == [Match(0, 0, 3)]
    assert matches(begin, end, days(114), 3) == []


def test_scores_by_hand() -> None:
    scores = total([(2, 3, [Match(0, 0, -4)]), (1, 1, [Match(0, 0, 2)]), (1, 0, [])])
    assert (scores.precision, scores.recall, scores.f1) == (2 / 4, 2 / 4, 0.5)
    assert (scores.mean_absolute_day_error, scores.mean_day_error) == (3, -1)


def test_nothing_found_has_no_precision() -> None:
    assert total([(1, 0, [])]).as_json()["precision"] is None
    assert total([]).f1 is None


@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 6)), max_size=7),
    st.lists(st.integers(0, 90), max_size=7),
    st.integers(0, 20),
    st.integers(0, 6),
)
def test_no_assignment_is_better(true: list[tuple[int, int]], found: list[int], tolerance: int, width: int) -> None:
    """Intervals of one width never lie in one another."""
    begin = days(*(one for one, _ in true))
    end, at = begin + width, days(*found)
    pairs = matches(begin, end, at, tolerance)
    assert len({one.true for one in pairs}) == len({one.found for one in pairs}) == len(pairs)
    off = np.abs(np.maximum(at - end[:, None], 0) - np.maximum(begin[:, None] - at, 0)).reshape(len(true), len(found))
    rows, columns = linear_sum_assignment(np.where(off <= tolerance, off - 1000, 0))
    taken = off[rows, columns][off[rows, columns] <= tolerance]
    assert len(pairs) == len(taken)
    assert sum(abs(one.error) for one in pairs) == taken.sum()


@pytest.mark.parametrize("n", [0, 3])
def test_one_side_may_be_empty(n: int) -> None:
    assert matches(days(*range(n)), days(*range(n)), days(), 5) == []
    assert matches(days(), days(), days(*range(n)), 5) == []
