"""Every filler behind the one interface: better than nothing, blind to the future in causal mode, never without an answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.training import GapTrainingConfig
from research.bench.gapfill import METHODS
from research.experiments.gaps import boosting, gaussian_process, ours
from research.experiments.gaps.filler import MODES, Filler, Mode
from research.experiments.gaps.hiding import hide
from research.experiments.gaps.residual_sd import ResidualSd

N = 30
LAST = 300


def truth(parcel: Ints, day: Floats) -> Floats:
    """NDVI of field `parcel`: a season that starts two days later from field to field."""
    start = 60 + 2.0 * (parcel % 20)
    return np.asarray(0.2 + 0.6 / (1 + np.exp(-(day - start) / 8)) - 0.5 / (1 + np.exp(-(day - start - 90) / 6)))


def season(seed: int) -> tuple[SarSeries, ClearSeries]:
    """SAR every six days and views every ten, of fields whose NDVI is known."""
    rng = np.random.default_rng(seed)
    parcel, day = np.repeat(np.arange(N), LAST // 6), np.tile(np.arange(0, LAST, 6.0), N)
    ndvi = truth(parcel, day)
    vv, vh = -12 + 5 * ndvi + rng.normal(0, 0.5, len(day)), -22 + 8 * ndvi + rng.normal(0, 0.5, len(day))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), dtype=bool), vv, vh).cleaned()
    parcel, day = np.repeat(np.arange(N), LAST // 10), np.tile(np.arange(0, LAST, 10.0), N)
    return sar, ClearSeries(parcel, day, truth(parcel, day) + rng.normal(0, 0.02, len(day))).cleaned()


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Fits of seconds: fewer updates, trees and parcels."""
    trees = replace(boosting.BoostingConfig(), n_iterations=40, n_iterations_of_size=20)
    with pytest.MonkeyPatch.context() as patch:
        few = partial(GapTrainingConfig, n_members=1, n_updates=60)
        patch.setattr(ours, "GapTrainingConfig", few)
        patch.setattr(boosting, "BoostingConfig", lambda: trees)
        patch.setattr(gaussian_process, "N_STEPS_OF_FIT", 30)
        yield


@pytest.fixture(scope="module", params=list(METHODS))
def fitted(request: pytest.FixtureRequest, small: None) -> Filler:  # noqa: ARG001
    """Each method, fitted on one season's fields."""
    make: Callable[[], Filler] = METHODS[request.param]
    filler = make()
    filler.fit(*season(0), N, 0)
    return filler


@pytest.mark.parametrize("mode", MODES)
def test_a_gap_is_filled_better_than_by_the_seasons_mean(fitted: Filler, mode: Mode) -> None:
    sar, clear = season(1)
    hidden = hide(clear, 10, mode)
    mean, sd = fitted.fill(sar, hidden.views, hidden.parcel, hidden.day, mode)
    error = mean - hidden.ndvi
    by_day = np.array([clear.ndvi[clear.day == day].mean() for day in hidden.day])
    # A last value is no better than the season here: causal needs SAR for it.
    if mode == "retrospective" or fitted.name in ("mogpr", "boosting", "ours"):
        assert np.sqrt(np.mean(error**2)) < 0.9 * np.sqrt(np.mean((by_day - hidden.ndvi) ** 2))
    assert 0.8 < np.mean(np.abs(error) <= 1.96 * sd) <= 1.0
    assert (sd > 0).all()


def test_a_causal_answer_does_not_know_the_future(fitted: Filler) -> None:
    sar, clear = season(1)
    hidden = hide(clear, 20, "causal")
    before = fitted.fill(sar, hidden.views, hidden.parcel, hidden.day, "causal")
    known_day = 149
    changed = replace(
        sar, vv_db=np.where(sar.day > known_day, -5.0, sar.vv_db), vh_db=np.where(sar.day > known_day, -9.0, sar.vh_db)
    )
    after = fitted.fill(changed, hidden.views, hidden.parcel, hidden.day, "causal")
    past = hidden.day <= known_day
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one[past], other[past], atol=1e-6)
    if fitted.name in ("mogpr", "boosting", "ours"):  # the others look at no SAR at all
        assert np.abs(before[0][~past] - after[0][~past]).max() > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_nothing_known_is_answered_with_the_season_and_a_wide_band(fitted: Filler, mode: Mode) -> None:
    _, clear = season(1)
    no_sar = SarSeries(*(values[:0] for values in vars(season(1)[0]).values()))
    hidden = hide(clear, 2 * LAST, mode)  # all views hidden
    mean, sd = fitted.fill(no_sar, hidden.views, hidden.parcel, hidden.day, mode)
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert sd.min() > 0.03
    assert np.abs(mean).max() <= 1


def test_residual_sd_holds_95_percent_at_each_distance() -> None:
    rng = np.random.default_rng(0)
    nearest = rng.choice([5.0, 16.0, 50.0], 30_000)
    residual = rng.normal(0, 0.002 * nearest)
    sd = ResidualSd.fit(nearest, residual).at(nearest)
    for days in (5.0, 16.0, 50.0):
        inside = np.abs(residual) <= 1.96 * sd
        assert inside[nearest == days].mean() == pytest.approx(0.95, abs=0.01)
    assert ResidualSd.fit(nearest, residual).at(np.array([np.inf]))[0] == pytest.approx(0.1, rel=0.05)
