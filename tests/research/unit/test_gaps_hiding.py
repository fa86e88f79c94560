"""Hidden views: what is hidden, what is left, in both modes."""

import numpy as np
import pytest

from models.ndvi.inputs import ClearSeries
from research.experiments.gaps.filler import Mode, Views
from research.experiments.gaps.hiding import hide, known_views


@pytest.fixture
def clear() -> ClearSeries:
    """Two parcels, of three and four views."""
    day = np.array([10.0, 20.0, 30.0, 5.0, 10.0, 15.0, 40.0])
    return ClearSeries(np.array([0, 0, 0, 1, 1, 1, 1]), day, day / 100).cleaned()


def known(views: Views, row: int) -> list[float]:
    return [float(day) for day in views.day[row] if np.isfinite(day)]


@pytest.mark.parametrize(
    ("mode", "gap", "left"),
    [
        ("retrospective", 20, [[30.0], [], [10.0], [40.0], [40.0], [40.0], [5.0, 10.0, 15.0]]),
        (
            "retrospective",
            19,
            [[20.0, 30.0], [10.0, 30.0], [10.0, 20.0], [15.0, 40.0], [40.0], [5.0, 40.0], [5.0, 10.0, 15.0]],
        ),
        ("causal", 10, [[], [10.0], [10.0, 20.0], [], [], [5.0], [5.0, 10.0, 15.0]]),
    ],
)
def test_views_within_half_the_gap_are_hidden_its_ends_included(
    clear: ClearSeries, mode: Mode, gap: int, left: list[list[float]]
) -> None:
    hidden = hide(clear, gap, mode)
    assert [known(hidden.views, row) for row in range(7)] == left
    assert hidden.ndvi.tolist() == clear.ndvi.tolist()
    finite = np.isfinite(hidden.views.day)
    np.testing.assert_allclose(hidden.views.ndvi[finite], hidden.views.day[finite] / 100)
    assert np.isnan(hidden.views.ndvi[~finite]).all()


def test_only_asked_rows_are_queries(clear: ClearSeries) -> None:
    hidden = hide(clear, 10, "causal", np.array([2, 6]))
    assert hidden.parcel.tolist() == [0, 1]
    assert hidden.day.tolist() == [30, 40]


def test_nothing_is_hidden_where_a_year_is_filled(clear: ClearSeries) -> None:
    views = known_views(clear, np.array([1, 1]), np.array([10, 10]), "causal")
    assert known(views, 0) == [5.0, 10.0]
    assert known(known_views(clear, np.array([1]), np.array([10]), "retrospective"), 0) == [5.0, 10.0, 15.0, 40.0]


def test_nearest_days_is_infinite_without_a_view(clear: ClearSeries) -> None:
    hidden = hide(clear, 20, "retrospective")
    assert hidden.views.nearest_days(hidden.day).tolist() == [20.0, np.inf, 20.0, 35.0, 30.0, 25.0, 25.0]
