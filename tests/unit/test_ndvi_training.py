"""Training of MCNN-Seq on fields whose NDVI the SAR does tell."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.ndvi.inputs import ClearSeries, DailySar, OrbitScale, SarSeries, TrainingDataError
from models.ndvi.published.mcnn_seq import McnnSeqConfig
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from models.ndvi.published.training import r2, train_ndvi

N = 40
HELD = np.arange(N) % 4 == 0
SMALL = NdviTrainingConfig(
    network=McnnSeqConfig(n_segments=16, hidden=16, branch_channels=(4, 8), n_extra=2, is_aligned=True),
    n_updates=80,
    batch_size=24,
    learning_rate=1e-2,
)
ORBITS = ((15, True, 0.0), (37, False, 3.0))
"""Relative orbit, direction, and dB by which its incidence angle shifts everything."""


def truth(parcel: NDArray[np.int64], day: NDArray[np.float64]) -> NDArray[np.float64]:
    """NDVI of field `parcel`: a season that starts 1.5 days later from field to field."""
    start = 60 + 1.5 * parcel
    return np.asarray(0.2 + 0.6 / (1 + np.exp(-(day - start) / 8)) - 0.5 / (1 + np.exp(-(day - start - 90) / 6)))


def fields(seed: int = 0) -> tuple[SarSeries, ClearSeries]:
    rng = np.random.default_rng(seed)
    parts = []
    for orbit, is_ascending, shift in ORBITS:
        parcel, day = np.repeat(np.arange(N), 25), np.tile(12.0 * np.arange(25) + orbit % 12, N)
        ndvi = truth(parcel, day)
        parts.append(
            (
                parcel,
                day,
                np.full(len(day), orbit),
                np.full(len(day), is_ascending),
                -12 + shift + 5 * ndvi + rng.normal(0, 0.3, len(day)),
                -22 + shift + 8 * ndvi + rng.normal(0, 0.3, len(day)),
            )
        )
    sar = SarSeries(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    parcel = np.repeat(np.arange(N), 20)
    day = rng.integers(0, 300, len(parcel)).astype(np.float64)
    return sar, ClearSeries(parcel, day, truth(parcel, day) + rng.normal(0, 0.01, len(day)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained() -> tuple[SarToNdvi, SarSeries, ClearSeries]:
    sar, clear = fields()
    model, scores = train_ndvi(sar, clear, N, HELD, SMALL)
    assert scores is not None
    assert scores.r2 > 0.8
    assert scores.rmse < 0.1
    return model, sar, clear


def test_it_learns_what_sar_tells_on_unseen_fields(trained: tuple[SarToNdvi, SarSeries, ClearSeries]) -> None:
    model, sar, _ = trained
    days = np.arange(100, 250)
    got = model.retrospective(model.daily(sar, N), np.flatnonzero(HELD), days)
    want = truth(np.flatnonzero(HELD)[:, None], days[None, :].astype(np.float64))
    assert r2(want, got) > 0.8


def test_same_seed_same_weights() -> None:
    sar, clear = fields()
    short = replace(SMALL, n_updates=3)
    first, second = (train_ndvi(sar, clear, N, HELD, short)[0].network.state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    other = train_ndvi(sar, clear, N, HELD, replace(short, seed=1))[0].network.state_dict()
    assert any((first[name] != other[name]).any() for name in first)


def test_progress_is_told_after_each_update() -> None:
    told: list[tuple[int, float]] = []
    train_ndvi(*fields(), N, HELD, replace(SMALL, n_updates=4), lambda n, loss: told.append((n, loss)))
    assert [n for n, _ in told] == [1, 2, 3, 4]
    assert all(np.isfinite(loss) for _, loss in told)


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "squared", "optimiser": "rmsprop", "has_schedule": False, "learning_rate": 1e-3},
        {"teacher_forcing": 0.5},
        {"loss": "likelihood", "network": replace(SMALL.network, has_sd=True)},
        {"network": replace(SMALL.network, n_extra=0, segment_length=3, stride=2, n_segments=8)},
    ],
)
def test_every_way_of_training_lowers_the_loss(change: dict[str, object]) -> None:
    losses: list[float] = []
    config = replace(SMALL, n_updates=40, **change)  # type: ignore[arg-type]
    model, _ = train_ndvi(*fields(), N, HELD, config, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    windows = model.windows(model.daily(fields()[0], N), np.array([0, 1]), np.array([150, 200]))
    assert windows.ndvi.shape == (2, config.network.n_segments)
    assert (windows.log_sd is not None) == config.network.has_sd


def test_model_survives_its_state(trained: tuple[SarToNdvi, SarSeries, ClearSeries]) -> None:
    model, sar, _ = trained
    again = SarToNdvi.from_state(*model.state())
    parcel, end = np.arange(5), np.full(5, 180)
    want = model.windows(model.daily(sar, N), parcel, end).ndvi
    np.testing.assert_array_equal(again.windows(again.daily(sar, N), parcel, end).ndvi, want)


def test_nothing_to_learn_from_is_said() -> None:
    sar, clear = fields()
    with pytest.raises(TrainingDataError, match="both SAR and a clear NDVI"):
        train_ndvi(sar, clear.rows(np.zeros(len(clear.day), dtype=bool)), N, HELD, SMALL)
    with pytest.raises(TrainingDataError, match="both SAR and a clear NDVI"):
        train_ndvi(sar, clear, N, np.ones(N, dtype=bool), SMALL)


def test_a_likelihood_needs_an_sd() -> None:
    with pytest.raises(ValueError, match="likelihood"):
        replace(SMALL, loss="likelihood")


def test_orbits_are_standardised_each_on_its_own_before_they_are_averaged() -> None:
    sar, _ = fields()
    z = OrbitScale.fit(sar).apply(sar)
    for orbit, _, _ in ORBITS:
        np.testing.assert_allclose(z[sar.relative_orbit == orbit].mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(z[sar.relative_orbit == orbit].std(axis=0), 1, atol=1e-9)


def test_an_unseen_orbit_takes_its_directions_scale() -> None:
    sar, _ = fields()
    scale = OrbitScale.from_json(OrbitScale.fit(sar).to_json())
    stranger = replace(sar.rows(sar.relative_orbit == 37), relative_orbit=np.full(N * 25, 110))
    np.testing.assert_allclose(scale.apply(stranger), scale.apply(sar.rows(sar.relative_orbit == 37)))


def test_a_step_is_the_mean_of_the_days_before_its_end_and_no_later_one() -> None:
    one = SarSeries(
        np.zeros(4, dtype=np.int64),
        np.array([10.4, 12.0, 13.0, 30.0]),
        np.full(4, 15),
        np.ones(4, dtype=bool),
        np.array([1.0, 2.0, 4.0, 8.0]),
        np.array([0.0, 0.0, 6.0, 0.0]),
    )
    daily = DailySar.build(one, OrbitScale({}, (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)), 2)
    x, is_present = daily.windows(np.array([0, 0, 1]), np.array([18, 40, 18]), 3, 6)
    # The window ending on 18 has steps of days 1-6, 7-12 and 13-18.
    np.testing.assert_allclose(x[0], np.array([[0, 0], [1.5, 0], [4, 6]]))
    np.testing.assert_array_equal(is_present, [[False, True, True], [False, True, False], [False] * 3])
    np.testing.assert_array_equal(daily.last_days(), [30, 0])


def test_impossible_rows_are_dropped_and_the_last_duplicate_stays() -> None:
    vv = np.array([-9.0, np.nan, -np.inf, 99.0, -8.0, -7.0])
    day = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 5.5])
    n = len(day)
    sar = SarSeries(np.zeros(n, np.int64), day, np.full(n, 15), np.ones(n, dtype=bool), vv, np.full(n, -15.0))
    np.testing.assert_array_equal(sar.cleaned().vv_db, [-9.0, -7.0])
    clear = ClearSeries(
        np.zeros(5, np.int64), np.array([9.0, 3.0, 3.0, 5.0, np.nan]), np.array([0.5, 0.1, 0.2, 3, 0.5])
    )
    np.testing.assert_array_equal(clear.cleaned().day, [3.0, 9.0])
    np.testing.assert_array_equal(clear.cleaned().ndvi, [0.2, 0.5])


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        ClearSeries(np.zeros(2, dtype=np.int64), np.zeros(3), np.zeros(3))
