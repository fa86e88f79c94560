"""What the gap network is given: steps that never depend on what is asked, hidden views that are hidden, exact kriging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ndvi.inputs import NEVER, Floats, Ints, OrbitScale, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.queries import (
    HISTORY_DAYS,
    TAU_DAYS,
    GapQueries,
    Series,
    StepGrid,
    Steps,
    answer_inputs,
    next_step,
    view_inputs,
)
from models.ndvi.views import Prior

BOTH, CAUSAL = GapConfig(is_causal=False), GapConfig(is_causal=True)
FLAT = Prior(np.array([0.0]), np.array([0.4]), np.array([0.2]))
NO_SCALE = OrbitScale({}, (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0))
NAN = np.nan


def series(*rows: list[tuple[float, float]]) -> Series:
    """One series a row of (day, NDVI)."""
    width = max(1, *map(len, rows))
    padded = [row + [(NAN, NAN)] * (width - len(row)) for row in rows]
    day, ndvi = np.moveaxis(np.array(padded, dtype=np.float64).reshape(len(rows), width, 2), 2, 0)
    return Series(np.arange(len(rows)), day, ndvi)


def radar(parcel: list[int], day: list[float], is_ascending: list[bool], value: list[float]) -> SarSeries:
    n = len(parcel)
    return SarSeries(
        np.array(parcel, np.int64),
        np.array(day),
        np.full(n, 15),
        np.array(is_ascending, bool),
        np.array(value),
        np.zeros(n),
    )


def test_a_step_is_the_mean_of_its_six_days_each_direction_apart() -> None:
    sar = radar([0, 0, 0, 1], [0, 5, 6, -1], [True, True, False, True], [1.0, 3.0, 4.0, 5.0])
    steps = Steps.build(sar, NO_SCALE, 2)
    np.testing.assert_array_equal(steps.first_days, [0, -1])
    x = steps.ending_on(np.array([0, 1]), np.array([11, 11]), 3)  # days -6 to -1, 0 to 5, 6 to 11
    np.testing.assert_allclose(x[0], [[0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 1, 0], [0, 4, 0, 0, 0, 1]])
    np.testing.assert_allclose(x[1], [[5, 0, 0, 0, 1, 0], [0] * 6, [0] * 6])


def test_steps_around_a_day_hold_nothing_after_what_is_known() -> None:
    steps = Steps.build(radar([0] * 40, list(range(40)), [True] * 40, [1.0] * 40), NO_SCALE, 1)
    day, known = np.array([20, 20]), np.array([39, 30])
    near = steps.near(np.zeros(2, np.int64), day, BOTH, known)
    has = near[..., 4]
    np.testing.assert_array_equal(has[0, -6:], [1, 1, 1, 1, 1, 0])  # the last ends on day 44
    np.testing.assert_array_equal(has[1, -6:], [1, 1, 1, 0, 0, 0])  # one ends on day 26, the next would on day 32
    assert steps.near(np.zeros(2, np.int64), day, CAUSAL, known).shape[1] == CAUSAL.steps_back


def test_radar_long_before_the_season_is_not_read() -> None:
    sar = radar([0, 0], [-HISTORY_DAYS - 1.0, -HISTORY_DAYS], [True, False], [1.0, 1.0])
    assert Steps.build(sar, NO_SCALE, 1).first_days.tolist() == [-HISTORY_DAYS]
    assert Steps.build(sar.rows(np.zeros(2, bool)), NO_SCALE, 1).first_days.tolist() == [NEVER]


@given(first=st.integers(-400, 400), length=st.integers(0, 400), others=st.integers(0, 400))
def test_a_parcels_steps_do_not_depend_on_the_others(first: int, length: int, others: int) -> None:
    last = np.array([first + length, first + length + others])
    both, alone = StepGrid.over(np.array([first, first]), last), StepGrid.over(np.array([first]), last[:1])
    zero, days = np.zeros(1, np.int64), np.arange(first - 20, first + length + 1)
    assert both.first[0] == alone.first[0] == first // 6
    np.testing.assert_array_equal(both.complete(zero, days), alone.complete(zero, days))
    np.testing.assert_array_equal(both.begun(last)[:1], alone.begun(last[:1]))
    # A step is complete on its last day, and no sooner.
    ended = (alone.ends[:, None, :] <= days[:, None]).sum(axis=2)[0]
    np.testing.assert_array_equal(alone.complete(zero, days), ended)


def test_a_parcel_without_radar_reads_no_step_whatever_is_asked_beside_it() -> None:
    for last in (np.array([5]), np.array([5, 300])):
        grid = StepGrid.over(np.full(len(last), NEVER), last)
        assert grid.complete(np.zeros(3, np.int64), np.array([-1, 4, 5])).tolist() == [0, 0, 0]
        assert grid.begun(last).tolist() == [0] * len(last)
    assert next_step(np.array([-7, -1, 4, 5])).tolist() == [-1, 0, 0, 1]


def test_views_in_a_gap_are_hidden_and_with_no_gap_the_days_own_view_is_used() -> None:
    views = series([(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)], [(20, 0.5)], [])
    of, day = np.array([0, 0, 0, 1, 2]), np.array([30, 30, 35, 20, 7])
    asked = GapQueries.at(views, of, day)
    np.testing.assert_array_equal(asked.n_before, [3, 3, 3, 1, 0])
    np.testing.assert_array_equal(asked.first_after, [3, 3, 3, 1, 0])
    hidden = GapQueries.at(views, of, day, np.array([0.5, 10.0, 7.0, 3.0, 1e4]))
    np.testing.assert_array_equal(hidden.n_before, [2, 1, 2, 0, 0])  # 10 days: those on its edges are hidden too
    np.testing.assert_array_equal(hidden.first_after, [3, 4, 4, 1, 0])


@given(
    days=st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True).map(sorted),
    day=st.integers(0, 60),
    values=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_kriging_solves_its_equations(days: list[int], day: int, values: tuple[float, float]) -> None:
    views = series(list(zip(map(float, days), values, strict=True)))
    asked = GapQueries.at(views, np.zeros(1, np.int64), np.array([day]))
    near = np.zeros((1, BOTH.n_near_steps, 6))
    got = answer_inputs(views, asked, near, FLAT, BOTH)
    known = [d for d in days if d <= day][-1:] + [d for d in days if d > day][:1]  # the nearest of each side
    r = np.array([values[days.index(d)] - 0.4 for d in known])
    k = np.exp(-np.abs(np.subtract.outer(known, known)) / TAU_DAYS)
    c = np.exp(-np.abs(day - np.array(known)) / TAU_DAYS)
    w = np.linalg.solve(k, c)
    assert got.base[0] == pytest.approx(0.4 + w @ r, abs=1e-9)
    assert got.free[0] == pytest.approx(np.sqrt(max(1 - w @ c, 0)), abs=1e-6)
    if day in days:
        assert (got.base[0], got.nearest[0]) == (pytest.approx(values[days.index(day)]), 0)


def features(views: Series, queries: GapQueries, config: GapConfig) -> Floats:
    near = np.zeros((len(queries.day), config.n_near_steps, 6))
    return answer_inputs(views, queries, near, FLAT, config).features


@pytest.mark.parametrize("config", [BOTH, CAUSAL])
def test_hidden_views_are_really_hidden(config: GapConfig) -> None:
    views = series([(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4), (50, 0.5)])
    asked = GapQueries.at(views, np.zeros(1, np.int64), np.array([30]), 12.0)
    poisoned = series([(10, 0.1), (20, NAN), (30, NAN), (40, NAN), (50, 0.5)])
    want = features(views, asked, config)
    assert np.isfinite(want).all()
    assert want.shape == (1, config.n_features)
    np.testing.assert_array_equal(features(poisoned, asked, config), want)


def test_a_query_without_any_view_is_the_season() -> None:
    views = series([], [(5, 0.9)])
    asked = GapQueries.at(views, np.array([0, 1]), np.array([100, 4000]))
    answers = answer_inputs(views, asked, np.zeros((2, BOTH.n_near_steps, 6)), FLAT, BOTH)
    np.testing.assert_allclose(answers.base, 0.4)
    np.testing.assert_allclose(answers.free, 1.0)
    assert answers.nearest.tolist() == [np.inf, 3995]
    assert answers.n_views.tolist() == [0, 1]
    assert np.isfinite(answers.features).all()


def test_a_view_is_read_with_its_residual_and_the_time_since_the_one_before() -> None:
    views = series([(10, 0.5), (30, 0.3)], [(7, 0.4)])
    x = view_inputs(views, FLAT, CAUSAL).numpy()
    np.testing.assert_allclose(x[0, :, 1], [0.5, 0.3])
    np.testing.assert_allclose(x[0, :, 0], [0.3, -0.3], atol=1e-6)
    assert x[0, 1, 2] < x[0, 0, 2] == x[1, 0, 2]  # 20 days; nothing before
    assert (x[1, 1] == 0).all()  # no view


def test_columns_after_a_day_up_to_another() -> None:
    views = series([(10, 0.1), (20, 0.2), (30, 0.3)], [(20, 0.5)], [])

    def columns(after: list[int], to: list[int] | None) -> tuple[Ints, Ints]:
        return views.columns(np.array(after), None if to is None else np.array(to))

    column, n = columns([10, -NEVER, 0], None)
    assert n.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(column[0, :2], [1, 2])
    column, n = columns([10, 20, 0], [29, 99, 5])
    assert n.tolist() == [1, 0, 0]
    assert column.shape == (3, 1)
