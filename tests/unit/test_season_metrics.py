"""Measures of a season: right where the truth is known, and as uncertain as they say."""

from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from models.phenology import CROP, phenologies
from models.season_metrics import METRICS, RANGE_DAYS, SeasonMetrics, season_metrics

Array = NDArray[np.float64]

DAYS: Final = np.arange(300)
SEASONS: Final = {  # up, down, low before, peak, low after, sd
    "summer crop": (100, 200, 0.15, 0.85, 0.15, 0.03),
    "lows that differ": (110, 190, 0.2, 0.9, 0.3, 0.02),
}


def logistic(up: float, down: float, before: float = 0.15, high: float = 0.85, after: float = 0.15) -> Array:
    """Return a curve that rises with a rate of 12 days and falls with one of 10."""
    rise, fall = 1 / (1 + np.exp(-(DAYS - up) / 12)), 1 / (1 + np.exp(-(DAYS - down) / 10))
    return np.asarray(before + (high - before) * rise - (high - after) * fall)


def measured(ndvi: Array, sd: float = 0.03, is_complete: bool = True) -> SeasonMetrics:
    spread, n = np.full(ndvi.shape, sd), len(ndvi)
    found = phenologies(DAYS[: ndvi.shape[1]], ndvi, spread, spread > 0, [CROP] * n, is_complete)
    share = np.full(n, CROP.share_up), np.full(n, CROP.share_down)
    return season_metrics(ndvi, spread, found, *share, is_complete)


def of(found: SeasonMetrics, name: str, parcel: int = 0) -> tuple[float, float]:
    nr = METRICS.index(name)
    return float(found.value[parcel, nr]), float(found.sd[parcel, nr])


@pytest.mark.parametrize("season", SEASONS)
def test_the_stated_sd_covers_the_truth_as_often_as_it_says(season: str) -> None:
    """Errors drawn with the covariance that is stated: 1.96 sd hold between 90 and 98 % of them."""
    *shape, sd = SEASONS[season]
    curve, random = logistic(*shape)[None], np.random.default_rng(1)
    root = np.linalg.cholesky(np.exp(-np.abs(DAYS[:, None] - DAYS) / RANGE_DAYS))
    found, truth = measured(curve + sd * random.normal(size=(1500, len(DAYS))) @ root.T, sd), measured(curve, sd)
    held = np.abs(found.value - truth.value) <= 1.96 * found.sd
    coverage = dict(zip(METRICS, held.mean(axis=0).tolist(), strict=True))
    assert coverage.pop("n_cycles") > 0.98  # a count: its sd is mostly 0
    assert {name: share for name, share in coverage.items() if not 0.90 <= share <= 0.98} == {}


def test_measures_of_a_known_curve() -> None:
    found = measured(logistic(100, 200)[None], 0.01)
    known = {
        "sos": (100 - 12 * np.log(3), 1.5),
        "eos": (200 + 10 * np.log(3), 1.5),
        "amplitude": (0.69, 0.03),
        "base": (0.15, 0.025),
        "greening_rate": (0.6 * 0.7 / (2 * 12 * np.log(4)), 0.001),
        "senescence_rate": (0.6 * 0.7 / (2 * 10 * np.log(4)), 0.001),
        "n_cycles": (1, 0),
    }
    for name, (value, tolerance) in known.items():
        assert of(found, name)[0] == pytest.approx(value, abs=tolerance), name
    length = of(found, "eos")[0] - of(found, "sos")[0]
    assert of(found, "length")[0] == pytest.approx(length)
    inside = logistic(100, 200)[int(of(found, "sos")[0]) + 1 : int(of(found, "eos")[0]) + 1]
    assert of(found, "large_integral")[0] == pytest.approx(inside.sum(), rel=0.02)
    assert of(found, "small_integral")[0] == pytest.approx((inside - of(found, "base")[0]).sum(), rel=0.02)


def test_twice_the_sd_of_the_curve_is_twice_that_of_its_measures() -> None:
    one, two = (measured(logistic(100, 200)[None], sd) for sd in (0.01, 0.02))
    linear = [nr for nr, name in enumerate(METRICS) if name not in ("pos", "n_cycles")]
    np.testing.assert_allclose(two.sd[:, linear], 2 * one.sd[:, linear], rtol=1e-4)
    assert of(two, "pos")[1] > of(one, "pos")[1]


def test_a_double_crop_and_a_catch_crop_are_cycles() -> None:
    double = logistic(60, 120) + logistic(180, 250) - 0.15
    catch = logistic(60, 150) + 0.4 * (logistic(220, 600) - 0.15)
    found = measured(np.stack([double, catch, logistic(100, 200)]), 0.02)
    assert found.value[:, METRICS.index("n_cycles")].tolist() == [2, 2, 1]


def test_a_rise_near_the_threshold_is_an_uncertain_cycle() -> None:
    faint = logistic(60, 150) + 0.2 * (logistic(220, 600) - 0.15)  # a rise of 0.14 where 0.15 counts
    assert of(measured(faint[None], 0.03), "n_cycles") == (1, 0.5)


def test_a_running_season_says_no_more_than_is_known() -> None:
    growing = measured(logistic(100, 200)[None, :115], is_complete=False)
    shown = {name for name in METRICS if np.isfinite(of(growing, name)[0])}
    assert shown == {"sos", "base_before", "n_cycles"}  # of the amplitude so far
    falling = measured(logistic(100, 200)[None, :205], is_complete=False)
    shown = {name for name in METRICS if np.isfinite(of(falling, name)[0])}
    assert {"sos", "pos", "base_before", "greening_rate"} <= shown
    assert not {"eos", "length", "large_integral", "senescence_rate"} & shown
    over = measured(logistic(100, 200)[None])
    assert np.isfinite(over.value).all()
    assert np.isfinite(over.sd).all()


def test_each_parcel_of_many_is_measured_as_alone_and_days_that_are_missing_change_little() -> None:
    many = np.stack([logistic(100, 200), logistic(80, 180, high=0.7), np.full(300, 0.4), logistic(110, 190, after=0.3)])
    together = measured(many)
    for nr, curve in enumerate(many):
        alone = measured(curve[None])
        np.testing.assert_allclose(together.value[nr], alone.value[0])
        np.testing.assert_allclose(together.sd[nr], alone.sd[0], rtol=1e-5)
    assert np.isnan(together.value[2]).all()  # no amplitude, no measures
    gappy = many[:1].copy()
    gappy[:, :20] = gappy[:, 250:] = np.nan
    for name in ("sos", "eos", "length", "large_integral"):
        assert of(measured(gappy), name)[0] == pytest.approx(of(together, name)[0], rel=0.03)


def test_no_parcels_have_no_measures() -> None:
    assert measured(np.empty((0, 30))).value.shape == (0, len(METRICS))
