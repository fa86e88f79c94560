"""The double logistic of many seasons: its parameters are found, as uncertain as they say, and no other shape is fitted."""

import numpy as np
from numpy.typing import NDArray

from models.double_logistic import PARAMETERS, fit
from models.season_metrics import RANGE_DAYS

DAYS = np.arange(300)


def curves(of: NDArray[np.float64]) -> NDArray[np.float64]:
    before, after, peak, up, r, down, q = (one[:, None] for one in of.T)
    rise, fall = 1 / (1 + np.exp(-(DAYS - up) / r)), 1 / (1 + np.exp(-(DAYS - down) / q))
    return np.asarray(before + (peak - before) * rise - (peak - after) * fall)


def test_parameters_are_found_and_days_that_are_missing_are_left_out() -> None:
    random = np.random.default_rng(2)
    low, high = [0.1, 0.1, 0.6, 70, 5, 180, 5], [0.3, 0.3, 0.9, 120, 15, 230, 15]
    true = random.uniform(low, high, (200, 7))
    ndvi = curves(true)
    ndvi[:, 20:40] = np.nan
    at = true[:, 3] - 10, true[:, 5] + 10
    found, sd = fit(ndvi, np.full(ndvi.shape, 0.02), *at)
    np.testing.assert_allclose(found[:, :3], true[:, :3], atol=0.01)
    np.testing.assert_allclose(found[:, 3:], true[:, 3:], atol=0.5)
    assert (sd > 0).all()


def test_the_stated_sd_covers_the_truth_as_often_as_it_says() -> None:
    random, true = np.random.default_rng(3), np.array([[0.15, 0.2, 0.85, 100, 12, 200, 10.0]])
    root = np.linalg.cholesky(np.exp(-np.abs(DAYS[:, None] - DAYS) / RANGE_DAYS))
    ndvi = curves(true) + 0.02 * random.normal(size=(1000, 300)) @ root.T
    found, sd = fit(ndvi, np.full(ndvi.shape, 0.02), np.full(1000, 90.0), np.full(1000, 210.0))
    is_fit = np.isfinite(found).all(axis=1)
    assert is_fit.mean() > 0.98
    coverage = (np.abs(found - true) <= 1.96 * sd)[is_fit].mean(axis=0)
    shares = dict(zip(PARAMETERS, coverage.tolist(), strict=True))
    assert {name: share for name, share in shares.items() if not 0.90 <= share <= 0.98} == {}


def test_two_crops_and_seasons_without_dates_have_no_double_logistic() -> None:
    one = curves(np.array([[0.15, 0.15, 0.85, 50, 6, 110, 6.0]]))
    two = one + curves(np.array([[0.0, 0.0, 0.7, 190, 6, 250, 6.0]]))
    found, sd = fit(np.concatenate([two, one]), np.full((2, 300), 0.02), np.array([45, np.nan]), np.array([120, 120.0]))
    assert np.isnan(found).all()
    assert np.isnan(sd).all()
    assert fit(two[:0], two[:0], two[:0, 0], two[:0, 0])[0].shape == (0, 7)
