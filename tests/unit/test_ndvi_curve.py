"""The operational NDVI curve: near its views, humble in gaps, blind to the future, calm about clouds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.mcnn_seq import McnnSeqConfig
from models.ndvi_curve import ORIGINS, DailyCurve, NdviModel, daily_curve, fit_curve
from models.ndvi_inputs import ClearSeries, SarSeries
from models.ndvi_reconstruction import NdviTrainingConfig
from models.ndvi_training import TrainingDataError, train_ndvi
from models.ndvi_views import Mode, find_dips, informed_days

N = 24
DAYS = np.arange(40, 260, 4)
MODES: tuple[Mode, ...] = ("causal", "retrospective")
OBSERVED, RECONSTRUCTED, PRIOR = range(3)


@dataclass(frozen=True)
class World:
    """Fields whose NDVI is known, what satellites saw of them, and a model that learned on others."""

    model: NdviModel
    sar: SarSeries
    clear: ClearSeries

    def curve(self, mode: Mode, days: NDArray[np.int64] = DAYS, known_day: int = 300) -> DailyCurve:
        return daily_curve(self.model, self.sar, self.clear, N, days, mode, known_day)


def truth(parcel: NDArray[np.int64], day: NDArray[np.float64]) -> NDArray[np.float64]:
    """NDVI of field `parcel`: a season that starts two days later from field to field."""
    start = 60 + 2.0 * parcel
    return np.asarray(0.2 + 0.6 / (1 + np.exp(-(day - start) / 8)) - 0.5 / (1 + np.exp(-(day - start - 90) / 6)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    parcel, day = np.repeat(np.arange(N), 50), np.tile(6.0 * np.arange(50), N)
    ndvi = truth(parcel, day)
    vv, vh = -12 + 5 * ndvi + rng.normal(0, 0.5, len(day)), -22 + 8 * ndvi + rng.normal(0, 0.5, len(day))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), dtype=bool), vv, vh)
    parcel, day = np.repeat(np.arange(N), 25), np.tile(np.r_[0:90:10, 82, 90:120:10, 170:290:10].astype(float), N)
    clear = ClearSeries(parcel, day, truth(parcel, day) + rng.normal(0, 0.01, len(day)))
    config = NdviTrainingConfig(
        network=McnnSeqConfig(n_segments=16, hidden=12, branch_channels=(4, 6), n_extra=2, is_aligned=True),
        n_updates=60,
        batch_size=24,
        learning_rate=2e-2,
    )
    is_held = np.arange(N) % 3 == 0
    network, _ = train_ndvi(sar, clear, N, is_held, config)
    return World(fit_curve(network, sar, clear, N, is_held, n_updates=300), sar, clear)


def rows_of(clear: ClearSeries, parcel: int) -> NDArray[np.bool_]:
    return np.asarray(clear.parcel == parcel)


@pytest.mark.parametrize("mode", MODES)
def test_a_clear_day_is_its_view(world: World, mode: Mode) -> None:
    curve = world.curve(mode, np.array([70, 74, 80]))
    assert (curve.origin[:, [0, 2]] == OBSERVED).all()
    assert (curve.origin[:, 1] == RECONSTRUCTED).all()
    for column, day in ((0, 70), (2, 80)):
        np.testing.assert_allclose(curve.ndvi[:, column], world.clear.ndvi[world.clear.day == day], atol=1e-9)


def test_it_follows_the_truth_through_a_gap_better_than_a_line(world: World) -> None:
    gap = np.arange(115, 166, 5)
    got = world.curve("retrospective", gap).ndvi
    parcels = np.arange(N)[:, None]
    want = truth(parcels, gap[None, :].astype(float))
    ends = [truth(parcels, np.array([[day]], dtype=float)) for day in (110, 170)]
    line = ends[0] + (ends[1] - ends[0]) * (gap - 110) / 60
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.6 * np.sqrt(np.mean((line - want) ** 2))


@pytest.mark.parametrize("mode", MODES)
def test_sd_grows_in_a_gap_and_covers_the_truth(world: World, mode: Mode) -> None:
    curve = world.curve(mode, np.array([110, 112, 116, 140]))
    sd = curve.sd.mean(axis=0)
    assert (np.diff(sd) > 0).all()
    error = curve.ndvi - truth(np.arange(N)[:, None], curve.days[None, :].astype(float))
    assert np.mean(np.abs(error) <= 1.96 * curve.sd) > 0.85


@settings(max_examples=12, deadline=None)
@given(cut=st.integers(45, 250), seed=st.integers(0, 99))
def test_a_causal_row_never_sees_the_future(world: World, cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    later_sar, later = world.sar.day > cut, world.clear.day > cut
    sar = replace(world.sar, vv_db=np.where(later_sar, rng.normal(-12, 4, len(later_sar)), world.sar.vv_db))
    clear = replace(world.clear, ndvi=np.where(later, rng.uniform(0, 1, len(later)), world.clear.ndvi))
    days = DAYS[cut >= DAYS]
    got = daily_curve(world.model, sar, clear, N, days, "causal", known_day=300)
    cut_off = daily_curve(world.model, world.sar, world.clear, N, days, "causal", known_day=cut)
    want = world.curve("causal", days)
    for other in (got, cut_off):
        np.testing.assert_allclose(other.ndvi, want.ndvi, atol=1e-6)
        np.testing.assert_allclose(other.sd, want.sd, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_after_known_day_is_not_looked_at(world: World, mode: Mode) -> None:
    keep_sar, keep = world.sar.day <= 100, world.clear.day <= 100
    cut = daily_curve(world.model, world.sar.rows(keep_sar), world.clear.rows(keep), N, DAYS, mode, known_day=300)
    np.testing.assert_allclose(world.curve(mode, known_day=100).ndvi, cut.ndvi, atol=1e-9)


def test_a_parcel_does_not_depend_on_its_neighbours(world: World) -> None:
    alone_sar = world.sar.rows(world.sar.parcel == 5)
    alone = world.clear.rows(rows_of(world.clear, 5))
    for mode in MODES:
        got = daily_curve(
            world.model,
            replace(alone_sar, parcel=np.zeros_like(alone_sar.parcel)),
            replace(alone, parcel=np.zeros_like(alone.parcel)),
            1,
            DAYS,
            mode,
            known_day=300,
        )
        np.testing.assert_allclose(got.ndvi[0], world.curve(mode).ndvi[5], atol=1e-5)


def test_a_cloud_dip_is_not_followed_once_the_recovery_is_seen(world: World) -> None:
    # Field 0 is at its peak on day 100: a cloud takes 0.4 off.
    is_dip = rows_of(world.clear, 0) & (world.clear.day == 100)
    clear = replace(world.clear, ndvi=world.clear.ndvi - 0.4 * is_dip)
    days = np.array([98, 100, 102])
    curve = daily_curve(world.model, world.sar, clear, N, days, "retrospective", known_day=300)
    assert curve.origin[0, 1] == RECONSTRUCTED
    want = truth(np.zeros(1, dtype=np.int64), days.astype(float))
    np.testing.assert_allclose(curve.ndvi[0], want, atol=0.15)
    # On the day itself it may as well be a harvest: followed, but not trusted.
    then = daily_curve(world.model, world.sar, clear, N, days, "causal", known_day=300)
    calm = world.curve("causal", days)
    assert then.origin[0, 1] == OBSERVED
    assert then.ndvi[0, 1] < 0.5
    assert then.sd[0, 1] > calm.sd[0, 1] + 0.1
    later = daily_curve(world.model, world.sar, clear, N, np.array([112]), "causal", known_day=300)
    np.testing.assert_allclose(later.ndvi[0], world.curve("causal", np.array([112])).ndvi[0], atol=0.05)


def test_dips_are_falls_that_recover_soon_and_that_sar_denies() -> None:
    day = np.array([[0.0, 8, 16, np.nan]] * 4)
    day[2, 2] = 40  # recovers too late: a cut
    ndvi = np.array([[0.7, 0.4, 0.7, np.nan]] * 4)
    ndvi[1, 2] = 0.4  # stays down: a harvest
    f = np.full((4, 4), 0.7)
    f[3, 1] = 0.4  # SAR saw it too
    is_dip = find_dips(day, ndvi, f)
    np.testing.assert_array_equal(is_dip, [[False, True, False, False]] + [[False] * 4] * 3)


def test_without_sar_the_views_answer_and_without_views_sar(world: World) -> None:
    nothing_sar, nothing = np.zeros(len(world.sar.day), dtype=bool), np.zeros(len(world.clear.day), dtype=bool)
    for mode in MODES:
        both = world.curve(mode)
        views = daily_curve(world.model, world.sar.rows(nothing_sar), world.clear, N, DAYS, mode, 300)
        assert not views.has_sar.any()
        assert (views.origin != PRIOR).all()
        radar = daily_curve(world.model, world.sar, world.clear.rows(nothing), N, DAYS, mode, 300)
        assert (radar.n_views == 0).all()
        assert (radar.origin == RECONSTRUCTED).all()
        assert radar.sd.mean() > both.sd.mean()
        assert np.isfinite(views.ndvi).all()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_at_all_is_the_prior_with_its_wide_band(world: World, mode: Mode) -> None:
    sar = world.sar.rows(np.zeros(len(world.sar.day), dtype=bool))
    clear = world.clear.rows(np.zeros(len(world.clear.day), dtype=bool))
    curve = daily_curve(world.model, sar, clear, 2, DAYS, mode, 300)
    assert (curve.origin == ORIGINS.index("prior")).all()
    assert (curve.sd >= 0.1).all()
    np.testing.assert_allclose(curve.ndvi[0], world.model.prior.at(DAYS.astype(float)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 7.0])
def test_impossible_values_change_nothing(world: World, mode: Mode, poison: float) -> None:
    sar, clear = world.sar, world.clear
    bad_sar = SarSeries(
        *(
            np.r_[a, b]
            for a, b in zip(vars(sar).values(), ([0], [51.0], [15], [True], [poison * 9], [-15.0]), strict=True)
        )
    )
    bad = ClearSeries(np.r_[clear.parcel, 0], np.r_[clear.day, 51.0], np.r_[clear.ndvi, poison])
    got = daily_curve(world.model, bad_sar, bad, N, DAYS, mode, 300)
    np.testing.assert_array_equal(got.ndvi, world.curve(mode).ndvi)


@pytest.mark.parametrize("mode", MODES)
def test_order_and_duplicates_do_not_matter(world: World, mode: Mode) -> None:
    rng = np.random.default_rng(3)
    i, j = rng.permutation(len(world.sar.day)), rng.permutation(len(world.clear.day))
    sar = SarSeries(*(np.r_[v[i], v[i][:9]] for v in vars(world.sar).values()))
    clear = ClearSeries(*(np.r_[v[j], v[j][:9]] for v in vars(world.clear).values()))
    got = daily_curve(world.model, sar, clear, N, DAYS, mode, 300)
    np.testing.assert_allclose(got.ndvi, world.curve(mode).ndvi, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_one_view_and_one_acquisition_are_enough_for_an_answer(world: World, mode: Mode) -> None:
    sar, clear = world.sar.rows(np.arange(len(world.sar.day)) == 20), world.clear.rows(np.arange(25 * N) == 5)
    curve = daily_curve(world.model, sar, clear, 1, np.arange(0, 300, 3), mode, 300)
    assert np.isfinite(curve.ndvi).all()
    assert (curve.sd > 0).all()
    assert daily_curve(world.model, sar, clear, 1, np.zeros(0, dtype=np.int64), mode, 300).ndvi.shape == (1, 0)


def test_model_survives_its_state(world: World) -> None:
    again = NdviModel.from_state(*world.model.state())
    for mode in MODES:
        got = daily_curve(again, world.sar, world.clear, N, DAYS, mode, 300)
        np.testing.assert_array_equal(got.ndvi, world.curve(mode).ndvi)
        np.testing.assert_array_equal(got.sd, world.curve(mode).sd)


def test_a_curve_without_any_view_cannot_be_learned(world: World) -> None:
    nothing = world.clear.rows(np.zeros(len(world.clear.day), dtype=bool))
    with pytest.raises(TrainingDataError, match="no clear NDVI"):
        fit_curve(world.model.sar_to_ndvi, world.sar, nothing, N, np.ones(N, dtype=bool))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("day", [40, 90, 230])
def test_a_view_changes_only_the_days_it_informs(world: World, mode: Mode, day: int) -> None:
    # Field 3 with its view of that day taken away, as it was before the view came.
    is_new = rows_of(world.clear, 3) & (world.clear.day == day)
    days = np.arange(0, 290)
    before = daily_curve(world.model, world.sar, world.clear.rows(~is_new), N, days, mode, 300)
    after = world.curve(mode, days)
    changed = days[np.abs(before.ndvi[3] - after.ndvi[3]) + np.abs(before.sd[3] - after.sd[3]) > 1e-9]
    views = world.clear.day[rows_of(world.clear, 3)].astype(np.int64)
    first, last = informed_days(views, day, "s2", mode, last_day=289)
    assert day in changed
    assert first <= changed.min()
    assert changed.max() <= last
    assert last - first < 200


@pytest.mark.parametrize("mode", MODES)
def test_sar_changes_only_the_days_it_informs(world: World, mode: Mode) -> None:
    is_new = (world.sar.parcel == 3) & (world.sar.day == 180)
    days = np.arange(0, 290)
    before = daily_curve(world.model, world.sar.rows(~is_new), world.clear, N, days, mode, 300)
    after = world.curve(mode, days)
    changed = days[np.abs(before.ndvi[3] - after.ndvi[3]) > 1e-9]
    first, last = informed_days(np.zeros(0, dtype=np.int64), 180, "s1", mode, last_day=289)
    assert first <= changed.min()
    assert changed.max() <= last
