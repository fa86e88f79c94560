"""Stored rows as the networks take them."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from db.series import INVALID_PIXEL
from monitor import features


def s1_rows(vv: list[float], vh: list[float]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(len(vv), [("vv", "f4"), ("vh", "f4"), ("direction_nr", "i2")])
    rows["vv"], rows["vh"] = vv, vh
    return rows


def test_backscatter_is_in_db_and_nothing_stays_nothing() -> None:
    got = features.means(s1_rows([0.1, 0.0, np.nan], [0.01, 0.01, 0.01]), ("VV", "VH", "VV-VH"))
    np.testing.assert_allclose(got[0], [-10, -20, 10], atol=1e-5)
    assert np.isnan(got[1:, 0]).all()
    assert np.isnan(got[1:, 2]).all()


def test_directions_are_never_mixed() -> None:
    rows = s1_rows([0.1] * 4, [0.1] * 4)
    rows["direction_nr"] = [1, 2, 3, 1]
    split = features.split_modalities(rows[:0], rows)
    assert {name: len(part) for name, part in split.items()} == {"s2": 0, "s1a": 2, "s1d": 1, "s1": 1}


def test_pixel_sets_fill_up_with_nan_and_a_missing_one_is_the_mean() -> None:
    single = np.array([[[0.5], [0.25]], [[0.9], [0.1]]], np.float32)
    stored = [np.arange(20, dtype="<i2").reshape(10, 2).tobytes(), None]
    got = features._with_pixel_sets(single, pa.array(stored, pa.binary()), "S2", ("B02", "B12"))
    assert got.shape == (2, 2, 2)
    np.testing.assert_allclose(got[0], np.array([[0, 1], [18, 19]]) / 1e4, atol=1e-7)
    np.testing.assert_allclose(got[1, :, 0], [0.9, 0.1])
    assert np.isnan(got[1, :, 1]).all()


def test_an_invalid_pixel_is_nan_in_every_channel_and_index() -> None:
    pixels = np.full((10, 2), 3000, "<i2")
    pixels[:, 1] = INVALID_PIXEL
    pixels[6, 0] = 5000  # B08
    got = features._with_pixel_sets(
        np.zeros((1, 2, 1), np.float32), pa.array([pixels.tobytes()], pa.binary()), "S2", ("B04", "NDVI")
    )
    assert np.isnan(got[0, :, 1]).all()
    assert got[0, 1, 0] == pytest.approx(0.25)


def test_season_days_hold_their_fraction() -> None:
    times = np.array(["2025-01-01T12:00", "2025-01-11T00:00"], "M8[us]")
    np.testing.assert_allclose(features.season_days(times, date(2025, 1, 1)), [0.5, 10.0])


def test_geometry_keeps_unknowns_apart() -> None:
    got = features.geometry([400.0, None], [1.0, None], [0.9, None])
    np.testing.assert_allclose(got[0], [400, 1e4, 0.04, 0.9])
    assert np.isnan(got[1]).all()
