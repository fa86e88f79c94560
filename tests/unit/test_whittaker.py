"""The simple curve: its mean and sd are those of the whole problem solved at once, it never looks ahead, and a gap widens its band."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import CheckpointError
from models.ndvi.curve_models import curve_model_of
from models.ndvi.daily_curve import OBSERVED, ORIGINS, RECONSTRUCTED, CurveRows
from models.ndvi.inputs import ClearSeries
from models.ndvi.whittaker import KIND, Whittaker

MODEL = Whittaker()
DAYS = 150


def series(*parcels: dict[int, float]) -> ClearSeries:
    rows = [(nr, day, ndvi) for nr, views in enumerate(parcels) for day, ndvi in views.items()]
    parcel, day, ndvi = zip(*rows, strict=True) if rows else ((), (), ())
    return ClearSeries(np.array(parcel, np.int64), np.array(day, np.float64), np.array(ndvi, np.float64))


def curve(clear: ClearSeries, n: int = 1, first: int = 0, known: int = DAYS - 1) -> CurveRows:
    return MODEL.reconstruct(clear, np.full(n, first), np.full(n, known))


def penalised(views: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """NDVI and sd of every day by the normal equations of the penalised least squares as the module states them."""
    phi = np.exp(-1 / MODEL.memory_days)
    step = MODEL.sd**2 * (1 - phi**2)
    precision = np.zeros((DAYS, DAYS))
    precision[0, 0] = 1 / MODEL.sd**2
    difference = (np.eye(DAYS) - phi * np.eye(DAYS, k=-1))[1:]
    precision += difference.T @ difference / step
    right = np.zeros(DAYS)
    for day, ndvi in views.items():
        precision[day, day] += 1 / MODEL.view_sd**2
        right[day] += (ndvi - MODEL.level) / MODEL.view_sd**2
    covariance = np.linalg.inv(precision)
    return MODEL.level + covariance @ right, np.sqrt(np.diag(covariance) + MODEL.view_sd**2)


some_views = st.dictionaries(st.integers(0, DAYS - 1), st.floats(0.3, 0.4), min_size=1, max_size=25)  # none is a dip


@settings(max_examples=10, deadline=None)
@given(st.lists(some_views, min_size=1, max_size=3))
def test_mean_and_sd_are_those_of_the_penalised_least_squares(parcels: list[dict[int, float]]) -> None:
    parcels = [dict(sorted(views.items())) for views in parcels]
    found = curve(series(*parcels), len(parcels))
    for nr, views in enumerate(parcels):
        near = np.abs(np.arange(DAYS)[:, None] - np.array(list(views))).min(axis=1)
        rows = (found.parcel == nr) & (near[found.day] > 0) & (near[found.day] <= 120)
        mean, sd = penalised(views)
        np.testing.assert_allclose(found.ndvi[rows], mean[found.day[rows]], atol=1e-6)
        np.testing.assert_allclose(found.sd[rows], sd[found.day[rows]], atol=1e-6)
        own = found.origin == OBSERVED
        assert found.ndvi[own & (found.parcel == nr)].tolist() == list(views.values())


def test_the_band_widens_in_a_gap_and_not_beyond_any_land() -> None:
    found = curve(series({20: 0.8, 100: 0.8}))
    assert found.sd[60] > 1.5 * found.sd[25] > 3 * found.sd[20]
    assert found.sd[60] < found.sd[140]  # with a view on one side only the band is wider
    assert found.sd[140] < np.hypot(MODEL.sd, MODEL.view_sd) + 1e-9
    assert 0.5 < found.ndvi[140] < 0.8
    assert [ORIGINS[found.origin[day]] for day in (20, 60, 149)] == ["observed", "reconstructed", "reconstructed"]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 190), st.floats(-0.2, 1.0), min_size=1, max_size=40), st.integers(5, 150))
def test_nothing_after_the_known_day_is_read_and_a_part_is_as_the_whole(views: dict[int, float], known: int) -> None:
    clear = series(views)
    past = series({day: ndvi for day, ndvi in views.items() if day <= known})
    found = curve(clear, known=known)
    for other in (curve(past, known=known), curve(clear.rows(np.arange(len(clear.day))[::-1]), known=known)):
        np.testing.assert_array_equal(found.ndvi, other.ndvi)
        np.testing.assert_array_equal(found.sd, other.sd)
    part = curve(clear, first=known - 4, known=known)
    np.testing.assert_allclose(part.ndvi, found.ndvi[-5:], atol=1e-6)
    np.testing.assert_allclose(part.sd, found.sd[-5:], atol=1e-6)
    assert found.is_causal.tolist() == [False] * known + [True]


def test_a_dip_is_not_followed_once_it_has_recovered_and_doubted_until_then() -> None:
    views = dict.fromkeys(range(0, 100, 10), 0.8) | {100: 0.4}
    doubted, clean = curve(series(views), known=102), curve(series(views | {100: 0.8}), known=102)
    assert doubted.ndvi[101] < 0.45
    assert doubted.sd[101] > clean.sd[101] + 0.1
    recovered = curve(series(views | {110: 0.8}), known=112)
    assert recovered.ndvi[100] > 0.75
    assert recovered.origin[100] == RECONSTRUCTED
    # Confirmed by a second low view it is a harvest, and nothing is doubted.
    harvest = curve(series(views | {110: 0.35}), known=112)
    assert harvest.ndvi[100] == 0.4
    assert harvest.sd[111] == pytest.approx(clean.sd[101], abs=0.01)


def test_bad_series_and_nothing_at_all_have_finite_rows() -> None:
    clear = ClearSeries(np.array([0, 0, 0, 2]), np.array([5.0, 5.5, np.nan, 7.0]), np.array([np.nan, 9.0, 0.5, 0.6]))
    found = curve(clear, 3, known=150)
    assert np.isfinite(found.ndvi).all()
    assert np.isfinite(found.sd).all()
    assert {ORIGINS[one] for one in found.origin[found.parcel < 2]} == {"prior"}
    assert ORIGINS[found.origin[(found.parcel == 2) & (found.day == 128)][0]] == "prior"  # 121 days after the view
    assert len(MODEL.reconstruct(clear, np.array([5, 5, 5]), np.array([4, 4, 4])).day) == 0


def test_a_checkpoint_holds_its_constants_and_names_them() -> None:
    other = replace(MODEL, memory_days=40.0)
    assert curve_model_of(other.checkpoint()) == other
    assert MODEL.checkpoint().model == MODEL.checkpoint().model != other.checkpoint().model
    assert MODEL.checkpoint().describe()["config"]["kind"] == KIND
    with pytest.raises(CheckpointError):
        curve_model_of(replace(MODEL.checkpoint(), description="{}"))
