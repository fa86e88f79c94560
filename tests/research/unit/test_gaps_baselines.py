"""The peers' own mathematics, against plain forms of it."""

import numpy as np
import pytest
from scipy.signal import savgol_filter

from models.ndvi.inputs import Floats
from research.experiments.gaps.boosting import inner_fold, nearest
from research.experiments.gaps.filler import Views
from research.experiments.gaps.gaussian_process import posterior
from research.experiments.gaps.interpolation import SavitzkyGolay, Whittaker, lines_at

DAYS = np.array([3.0, 10.0, 14.0, 40.0, 41.0])
NDVI = np.array([0.2, 0.6, 0.5, 0.9, 0.1])


@pytest.fixture
def views() -> Views:
    """Two queries: five views, and two."""
    return Views(
        np.stack([DAYS, np.r_[20.0, 30.0, np.full(3, np.nan)]]), np.stack([NDVI, np.r_[0.3, 0.4, np.full(3, np.nan)]])
    )


def test_lines_are_those_of_numpy_row_by_row(views: Views) -> None:
    at = np.array([[-200.0, 3.0, 5.5, 40.5, 300.0], [-1.0, 20.0, 25.0, 30.0, 400.0]])
    expected = np.stack([np.interp(at[0], DAYS, NDVI), np.interp(at[1], [20, 30], [0.3, 0.4])])
    np.testing.assert_allclose(lines_at(views, at), expected)


def test_savitzky_golay_is_scipys_filter_of_the_daily_lines() -> None:
    daily = np.interp(np.arange(-50, 100), DAYS, NDVI)
    day = np.array([12, 25])
    rows = Views(np.stack([DAYS, DAYS]), np.stack([NDVI, NDVI]))
    found = SavitzkyGolay().interpolate(rows, day, "retrospective", (15, 2))
    np.testing.assert_allclose(found, savgol_filter(daily, 15, 2)[50 + day])


def test_savitzky_golays_causal_form_is_the_end_of_the_fitted_polynomial(views: Views) -> None:
    day = 41
    x = np.arange(day - 14, day + 1)
    expected = np.polyval(np.polyfit(x, np.interp(x, DAYS, NDVI), 2), day)
    found = SavitzkyGolay().interpolate(views.rows(slice(0, 1)), np.array([day]), "causal", (15, 2))
    np.testing.assert_allclose(found, [expected], atol=1e-9)


@pytest.mark.parametrize(("lmbda", "order"), [(10.0, 1), (1000.0, 2)])
def test_whittaker_minimises_its_penalised_squares(views: Views, lmbda: float, order: int) -> None:
    day, last = 20, 41
    y, w = np.zeros((2, last + 1))
    y[DAYS.astype(int)], w[DAYS.astype(int)] = NDVI, 1.0
    d = np.diff(np.eye(last + 1)[:, 3:], order, axis=1).T  # from the first view on
    a = np.diag(w) + lmbda * d.T @ d
    expected = np.linalg.solve(a[3:, 3:], (w * y)[3:])[day - 3]
    found = Whittaker().interpolate(views.rows(slice(0, 1)), np.array([day]), "retrospective", (lmbda, order))
    np.testing.assert_allclose(found, [expected], atol=1e-8)


def test_posterior_is_that_of_the_known_observations_alone() -> None:
    rng = np.random.default_rng(0)
    t, y = rng.uniform(0, 50, 8), rng.normal(0, 1, 8)
    known = np.array([True, True, False, True, True, False, True, True])

    def k(a: Floats, b: Floats) -> Floats:
        return np.asarray(np.exp(-np.abs(a[:, None] - b[None, :]) / 20))

    some = np.flatnonzero(known)
    inverse = np.linalg.inv(k(t[some], t[some]) + (0.1 + 1e-6) * np.eye(len(some)))
    to_day = k(np.array([30.0]), t[some])[0]
    mean, lowered = posterior(
        k(t, t)[None], k(np.array([30.0]), t), np.where(known, y, np.nan)[None], known[None], np.full((1, 8), 0.1)
    )
    assert mean[0] == pytest.approx(to_day @ inverse @ y[some])
    assert lowered[0] == pytest.approx(to_day @ inverse @ to_day)


def test_nearest_views_of_each_side_come_nearest_first(views: Views) -> None:
    age, ndvi = nearest(views, np.array([12, 35]), "before")
    np.testing.assert_allclose(age, [[2, 9, np.nan], [5, 15, np.nan]])
    np.testing.assert_allclose(ndvi, [[0.6, 0.2, np.nan], [0.4, 0.3, np.nan]])
    age, ndvi = nearest(views, np.array([12, 35]), "after")
    np.testing.assert_allclose(age[0], [2, 28, 29])
    np.testing.assert_allclose(ndvi[0], [0.5, 0.9, 0.1])
    assert np.isnan(age[1]).all()
    assert np.isnan(ndvi[1]).all()


def test_inner_folds_are_contiguous_and_alike_in_size() -> None:
    fold = inner_fold(10, 3)
    assert (np.diff(fold) >= 0).all()
    assert np.bincount(fold).tolist() == [4, 3, 3]
