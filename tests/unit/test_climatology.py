"""The frozen mean of a season: what it is, where it ends, that it is merged over chunks and stands for training parcels."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from models.classifier.normalisation import Normaliser, Observations
from models.climatology import KERNEL_D, STEP_D, Climatology, DaySums, nearest_knot

DAYS = np.arange(0.0, 200.0, 2.0)


def wave(day: np.ndarray) -> np.ndarray:
    """A season's course that an eight-day kernel hardly flattens."""
    return np.asarray(0.5 - 0.4 * np.cos(2 * np.pi * day / 200))


def fitted(rows: np.ndarray, day: np.ndarray) -> Climatology:
    return Climatology.of(DaySums.of(rows, day, float(day.max())))


def test_the_mean_follows_the_season_and_the_departures_have_their_sd() -> None:
    random = np.random.default_rng(0)
    day = np.repeat(DAYS, 50)
    found = fitted(wave(day)[:, None] + 0.1 * random.normal(size=(len(day), 1)), day)
    knots = np.arange(len(found.mean)) * STEP_D
    inner = (knots > 2 * KERNEL_D) & (knots < DAYS[-1] - 2 * KERNEL_D)
    np.testing.assert_allclose(np.array(found.mean)[inner, 0], wave(knots[inner]), atol=0.03)
    assert found.sd[0] == pytest.approx(0.1, abs=0.01)


def test_days_outside_the_season_take_its_ends_and_gaps_the_nearest_days() -> None:
    day = np.array([3.0, 3.0, 400.0])
    found = fitted(np.array([[1.0], [3.0], [10.0]]), day)
    assert nearest_knot(torch.tensor([-20.0, 2.6, 9e3]), len(found.mean)).tolist() == [0, 1, len(found.mean) - 1]
    mean = np.array(found.mean)[:, 0]
    assert mean[0] == pytest.approx(2.0)
    assert mean[-1] == pytest.approx(10.0)
    assert (np.diff(mean) >= 0).all()  # finite too, 200 days from any observation
    assert mean[len(mean) // 3] == pytest.approx(2.0)


def test_chunks_are_merged_to_the_whole() -> None:
    random = np.random.default_rng(1)
    day, rows = random.uniform(-3, 120, 400), random.normal(size=(400, 3)) * [1, 1e-3, 100]
    parts = [DaySums.of(rows[some], day[some], 120.0) for some in np.array_split(np.arange(400), 7)]
    one, other = Climatology.of(sum(parts[1:], parts[0])), Climatology.of(DaySums.of(rows, day, 120.0))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.sd, other.sd, rtol=1e-9)


def season() -> Observations:
    """Six parcels, two orbits 4 apart, each parcel by its number above the season's course; the last is no training parcel."""
    day = np.tile(DAYS, 6).astype(np.float32)
    parcel = np.repeat(np.arange(6), len(DAYS))
    orbit = np.where(np.arange(len(day)) % 2 == 0, 15, 88).astype(np.int16)
    value = wave(day) * 10 + np.where(orbit == 15, 4.0, 0.0) + np.where(parcel == 5, 1e3, parcel - 2.0)
    return Observations(value.astype(np.float32)[:, None, None], day, parcel, orbit)


GEOMETRY, TRAINING = np.ones((6, 4)), np.arange(6) < 5


def test_anomalies_are_further_channels_free_of_season_and_orbit() -> None:
    observed = season()
    plain = Normaliser.fit({"s1a": observed}, GEOMETRY, TRAINING, ["s1a"])
    both = Normaliser.fit({"s1a": observed}, GEOMETRY, TRAINING, ["s1a"], ["s1a"])
    pixels = both.series("s1a", observed).pixels
    assert pixels.shape[1] == 2
    assert pixels[:, :1].equal(plain.series("s1a", observed).pixels)
    number = observed.parcel[TRAINING[observed.parcel]] - 2.0
    inner = (observed.day > 20) & (observed.day < 180)
    anomaly = pixels[:, 1, 0].numpy()[TRAINING[observed.parcel]]
    chosen = inner[TRAINING[observed.parcel]]
    assert np.corrcoef(anomaly[chosen], number[chosen])[0, 1] > 0.97
    assert np.corrcoef(pixels[:, 0, 0].numpy()[TRAINING[observed.parcel]][chosen], number[chosen])[0, 1] < 0.6


def test_an_orbit_not_seen_and_stored_integers_and_a_round_trip() -> None:
    observed = season()
    both = Normaliser.fit({"s1a": observed}, GEOMETRY, TRAINING, ["s1a"], ["s1a"])
    assert Normaliser.from_json(json.loads(json.dumps(both.to_json()))) == both
    unseen = replace(observed, orbit=np.full_like(observed.orbit, 37))
    without = Normaliser.fit({"s1a": observed}, GEOMETRY, TRAINING, (), ["s1a"])
    assert both.series("s1a", unseen).pixels.equal(without.series("s1a", observed).pixels)
    stored = replace(observed, pixels=np.round(observed.pixels * 10).astype(np.int16), scale=0.1, nodata=-32768)
    difference = both.series("s1a", stored).pixels - both.series("s1a", observed).pixels
    assert difference[TRAINING[observed.parcel]].abs().max() < 0.06
    old = both.to_json()
    for one in old["modalities"].values():
        del one["seasonal"]  # written before there were anomalies
    assert Normaliser.from_json(old).series("s1a", observed).pixels.shape[1] == 1


def test_a_climatology_is_plain_json() -> None:
    found = fitted(np.array([[1.0, 2.0]]), np.array([0.0]))
    assert Climatology.from_json(json.loads(json.dumps(asdict(found)))) == found
    assert found.sd == (1.0, 1.0)
