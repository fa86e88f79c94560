"""Standardisation: training parcels only, orbits apart, unknown orbits and missing values."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.classifier import normalisation
from models.classifier.normalisation import LEAST_PIXELS_OF_ORBIT, Normaliser, Observations

PARCELS, EACH = 4, 200


def radar() -> Observations:
    """Orbit 15 around -10 dB, orbit 88 around -14 dB, each with sd 1; the last parcel is 100 dB off."""
    random = np.random.default_rng(0)
    parcel = np.repeat(np.arange(PARCELS), EACH)
    orbit = np.tile(np.array([15, 88], np.int16), PARCELS * EACH // 2)
    level = np.where(orbit == 15, -10.0, -14.0) + 100.0 * (parcel == PARCELS - 1)
    pixels = (level[:, None, None] + random.normal(size=(len(parcel), 2, 1))).astype(np.float32)
    return Observations(pixels, np.zeros(len(parcel), np.float32), parcel, orbit)


GEOMETRY = np.array([[400, 1e4, 0.04, 1.0], [800, 4e4, 0.02, 0.8], [np.nan] * 4, [1e9, 1e9, 1.0, 0.1]])
TRAINING = np.array([True, True, True, False])


def fitted(per_orbit: bool) -> Normaliser:
    return Normaliser.fit({"s1a": radar()}, GEOMETRY, TRAINING, ["s1a"] if per_orbit else [])


def test_each_orbit_is_standardised_on_its_own_from_training_parcels() -> None:
    observations = radar()
    pixels = fitted(True).series("s1a", observations).pixels.numpy()
    training = observations.parcel < 3
    for orbit in (15, 88):
        rows = pixels[training & (observations.orbit == orbit)]
        assert rows.mean() == pytest.approx(0, abs=1e-4)
        assert rows.std() == pytest.approx(1, abs=0.02)
    together = fitted(False).series("s1a", observations).pixels.numpy()[training]
    orbit_of = observations.orbit[training]
    gap = together[orbit_of == 15].mean() - together[orbit_of == 88].mean()
    assert gap > 1  # without, the incidence angle is the largest signal


def test_an_orbit_not_seen_takes_the_statistics_of_the_modality() -> None:
    observations = radar()
    unseen = replace(observations, orbit=np.full_like(observations.orbit, 37))
    assert fitted(True).series("s1a", unseen).pixels.equal(fitted(False).series("s1a", observations).pixels)


def test_an_orbit_of_few_pixels_has_no_statistics_of_its_own() -> None:
    observations = radar()
    orbit = observations.orbit.copy()
    orbit[: LEAST_PIXELS_OF_ORBIT - 1] = 110
    few = Observations(observations.pixels, observations.day, observations.parcel, orbit)
    assert set(Normaliser.fit({"s1a": few}, GEOMETRY, TRAINING, ["s1a"]).modalities["s1a"].orbits) == {15, 88}


def test_a_pixel_without_a_channel_is_invalid_and_finite() -> None:
    observations = radar()
    observations.pixels[0, 1, 0] = np.nan
    series = fitted(True).series("s1a", observations)
    assert not series.valid[0, 0]
    assert series.valid[1:].all()
    assert series.pixels.isfinite().all()


def test_a_constant_channel_loses_its_mean_only() -> None:
    observations = radar()
    observations.pixels[:, 0] = 7.0
    series = Normaliser.fit({"s1a": observations}, GEOMETRY, TRAINING).series("s1a", observations)
    assert series.pixels[:, 0].abs().max() < 1e-5


def test_geometry_is_logarithmic_and_zero_where_unknown() -> None:
    geometry = fitted(True).batch({"s1a": radar()}, GEOMETRY).geometry.numpy()
    np.testing.assert_allclose(geometry[:2, :3], [[-1, -1, 1], [1, 1, -1]], atol=1e-5)
    assert (geometry[2] == 0).all()
    assert np.isfinite(geometry).all()
    assert np.abs(geometry).max() <= 10


def test_round_trip() -> None:
    normaliser = fitted(True)
    assert Normaliser.from_json(json.loads(json.dumps(normaliser.to_json()))) == normaliser


def test_what_was_not_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="no statistics of modality 's2'"):
        fitted(True).series("s2", radar())
    one_channel = replace(radar(), pixels=radar().pixels[:, :1])
    with pytest.raises(ValueError, match="1 channels given, statistics are of 2"):
        fitted(True).series("s1a", one_channel)
    with pytest.raises(ValueError, match="no training observation"):
        Normaliser.fit({"s1a": radar()}, GEOMETRY, np.zeros(PARCELS, bool))


def stored_radar() -> Observations:
    """The same in hundredths of dB, with some pixels that hold nothing."""
    plain = radar()
    raw = np.round(plain.pixels * 100).astype(np.int16)
    raw[::9, 0, 0] = -32768
    return replace(plain, pixels=raw, scale=0.01, nodata=-32768)


@pytest.mark.parametrize("chunk", [2**24, 300])
def test_stored_integers_are_standardised_as_their_physical_values(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "CHUNK", chunk)
    stored = stored_radar()
    physical = replace(stored, pixels=stored.physical(), scale=1.0, nodata=None)
    assert np.isnan(physical.pixels[::9]).any(axis=1).all()
    one, other = (Normaliser.fit({"s1a": each}, GEOMETRY, TRAINING, ["s1a"]) for each in (stored, physical))
    assert one == other
    a, b = one.series("s1a", stored), other.series("s1a", physical)
    assert a.valid.equal(b.valid)
    np.testing.assert_allclose(a.pixels, b.pixels, atol=2e-5)


def test_statistics_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(True)
    monkeypatch.setattr(normalisation, "CHUNK", 70)
    for one, other in zip(
        whole.modalities["s1a"].orbits.values(), fitted(True).modalities["s1a"].orbits.values(), strict=True
    ):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
        np.testing.assert_allclose(one.sd, other.sd, rtol=1e-12)


def test_statistics_are_those_of_numpy() -> None:
    observations = radar()
    rows = observations.pixels[(observations.parcel < 3) & (observations.orbit == 88), :, 0].astype(np.float64)
    found = fitted(True).modalities["s1a"].orbits[88]
    np.testing.assert_allclose([found.mean, found.sd], [rows.mean(0), rows.std(0)], rtol=1e-6)


def test_a_file_mapped_read_only_is_read_in_place(tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", stored_radar().pixels)
    mapped = replace(stored_radar(), pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    normaliser = Normaliser.fit({"s1a": mapped}, GEOMETRY, TRAINING, ["s1a"])
    assert normaliser.series("s1a", mapped).pixels.equal(normaliser.series("s1a", stored_radar()).pixels)


def test_a_pixel_without_a_finite_value_is_invalid() -> None:
    observations = radar()
    observations.pixels[0, 1, 0] = -np.inf
    series = fitted(True).series("s1a", observations)
    assert not series.valid[0, 0]
    assert series.pixels[0].abs().max() == 0
