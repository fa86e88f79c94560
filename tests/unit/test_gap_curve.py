"""The daily curve: its views where there are some, humble in gaps, calm about clouds, never without an answer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ndvi.daily_curve import DIP_DEPTH, OBSERVED, PRIOR, RECONSTRUCTED, CurveRows, reconstruct_curve
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.training import GapTrainingConfig, fit_gaps

N, LAST = 24, 299
TINY = GapConfig(is_causal=False, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2)
NOTHING = np.zeros(0, np.int64)


def truth(parcel: Ints, day: Floats) -> Floats:
    """NDVI of field `parcel`: a season that starts two days later from field to field."""
    start = 60 + 2.0 * parcel
    return np.asarray(0.2 + 0.6 / (1 + np.exp(-(day - start) / 8)) - 0.5 / (1 + np.exp(-(day - start - 90) / 6)))


def seen(seed: int, has_gap: bool) -> tuple[SarSeries, ClearSeries]:
    """Radar every six days, a view every ten, less those of sixty days."""
    rng = np.random.default_rng(seed)
    parcel, day = np.repeat(np.arange(N), 50), np.tile(6.0 * np.arange(50), N)
    day = day + parcel % 6  # on the first day of a step, on its last, or between
    ndvi = truth(parcel, day)
    vv, vh = -12 + 5 * ndvi + rng.normal(0, 0.5, len(day)), -22 + 8 * ndvi + rng.normal(0, 0.5, len(day))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), vv, vh)
    days = np.r_[0:90:10, 82, 90:290:10].astype(float)
    days = days[(days <= 110) | (days >= 170) | (not has_gap)]
    parcel, day = np.repeat(np.arange(N), len(days)), np.tile(days, N)
    return sar, ClearSeries(parcel, day, truth(parcel, day) + rng.normal(0, 0.01, len(day)))


@dataclass(frozen=True)
class World:
    """Fields whose NDVI is known, what satellites saw of them, and a model that learned on others."""

    model: GapModel
    sar: SarSeries
    clear: ClearSeries

    def curve(
        self, first: int, known: int, sar: SarSeries | None = None, clear: ClearSeries | None = None, n: int = N
    ) -> CurveRows:
        """The rows of n fields from a day to another, as known then."""
        return reconstruct_curve(self.model, sar or self.sar, clear or self.clear, np.full(n, first), np.full(n, known))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world() -> World:
    model, _ = fit_gaps(*seen(0, False), np.arange(N) // 2, GapTrainingConfig(network=TINY, n_members=1, n_updates=150))
    return World(model, *seen(1, True))


def on(rows: CurveRows, day: int) -> CurveRows:
    """The rows of a day, one a field that has any."""
    keep = rows.day == day
    return replace(rows, **{name: one[keep] for name, one in vars(rows).items() if name != "cached"})


def assert_same(got: CurveRows, want: CurveRows, atol: float = 1e-6) -> None:
    for name in ("parcel", "day", "origin", "is_causal"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.ndvi, want.ndvi, atol=atol)
    np.testing.assert_allclose(got.sd, want.sd, atol=atol)


def test_there_is_a_row_for_each_day_and_the_last_alone_is_causal(world: World) -> None:
    first, known = np.array([10, 200, 50, -30]), np.array([20, 190, 50, -20])
    rows = reconstruct_curve(world.model, world.sar, world.clear, first, known)
    assert rows.parcel.tolist() == [0] * 11 + [2] + [3] * 11
    assert rows.day.tolist() == [*range(10, 21), 50, *range(-30, -19)]
    assert rows.day[rows.is_causal].tolist() == [20, 50, -20]


def test_a_clear_day_is_its_view(world: World) -> None:
    for rows in (world.curve(70, LAST), world.curve(60, 70)):  # later known, and on the day itself
        day = on(rows, 70)
        assert (day.origin == OBSERVED).all()
        np.testing.assert_allclose(day.ndvi, world.clear.ndvi[world.clear.day == 70], atol=1e-6)
        assert (on(rows, 70 + (1 if rows.day.max() > 70 else -1)).origin == RECONSTRUCTED).all()


def test_it_follows_the_truth_through_a_gap_better_than_a_line(world: World) -> None:
    rows = world.curve(111, LAST)
    rows = replace(rows, **{name: one[rows.day < 170] for name, one in vars(rows).items() if name != "cached"})
    want = truth(rows.parcel, rows.day.astype(float))
    ends = [truth(rows.parcel, np.full(len(want), float(day))) for day in (110, 170)]
    line = ends[0] + (ends[1] - ends[0]) * (rows.day - 110) / 60
    assert np.sqrt(np.mean((rows.ndvi - want) ** 2)) < 0.6 * np.sqrt(np.mean((line - want) ** 2))


def test_sd_grows_in_a_gap_and_covers_the_truth(world: World) -> None:
    rows = world.curve(110, LAST)
    assert (np.diff([on(rows, day).sd.mean() for day in (110, 112, 116, 140)]) > 0).all()
    causal = [world.curve(day, day) for day in (110, 112, 116)]
    assert (np.diff([one.sd.mean() for one in causal]) > 0).all()
    rows = replace(rows, **{name: one[rows.day < 170] for name, one in vars(rows).items() if name != "cached"})
    for some in (rows, *causal):
        error = some.ndvi - truth(some.parcel, some.day.astype(float))
        assert np.mean(np.abs(error) <= 1.96 * some.sd) > 0.85


@settings(max_examples=12, deadline=None)
@given(known=st.integers(45, 250), back=st.integers(0, 40), seed=st.integers(0, 99))
def test_no_row_sees_what_comes_after_the_known_day(world: World, known: int, back: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    want = world.curve(known - back, known)
    later_sar, later = world.sar.day > known, world.clear.day > known
    sar = replace(world.sar, vv_db=np.where(later_sar, rng.normal(-12, 4, len(later_sar)), world.sar.vv_db))
    clear = replace(world.clear, ndvi=np.where(later, rng.uniform(0, 1, len(later)), world.clear.ndvi))
    assert_same(world.curve(known - back, known, sar, clear), want)
    assert_same(world.curve(known - back, known, world.sar.rows(~later_sar), world.clear.rows(~later)), want)


def test_a_parcel_does_not_depend_on_its_neighbours(world: World) -> None:
    sar, clear = world.sar.rows(world.sar.parcel == 5), world.clear.rows(world.clear.parcel == 5)
    known = 100 + 5 * np.arange(N)
    among = reconstruct_curve(world.model, world.sar, world.clear, known - 60, known)
    alone = reconstruct_curve(
        world.model,
        replace(sar, parcel=0 * sar.parcel),
        replace(clear, parcel=0 * clear.parcel),
        known[5:6] - 60,
        known[5:6],
    )
    np.testing.assert_allclose(among.ndvi[among.parcel == 5], alone.ndvi, atol=1e-6)
    np.testing.assert_allclose(among.sd[among.parcel == 5], alone.sd, atol=1e-6)


def with_a_cloud(world: World, field: int, day: int, depth: float) -> ClearSeries:
    is_dip = (world.clear.parcel == field) & (world.clear.day == day)
    return replace(world.clear, ndvi=world.clear.ndvi - depth * is_dip)


def test_a_cloud_dip_is_not_followed_once_the_recovery_is_seen(world: World) -> None:
    clear = with_a_cloud(world, 0, 100, 0.4)  # field 0 is at its peak
    later = world.curve(96, 115, clear=clear)
    assert on(later, 100).origin[0] == RECONSTRUCTED
    want = on(later, 100)
    np.testing.assert_allclose(want.ndvi[0], truth(np.zeros(1, np.int64), np.array([100.0])), atol=0.15)
    np.testing.assert_allclose(on(later, 115).ndvi[0], on(world.curve(115, 115), 115).ndvi[0], atol=0.05)
    # All others are as they were.
    is_other = later.parcel > 0
    np.testing.assert_allclose(later.ndvi[is_other], world.curve(96, 115).ndvi[is_other], atol=1e-6)


def test_a_dip_is_judged_by_the_weeks_around_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came long before or comes later changes no verdict, so that the past stays as it was drawn."""
    clear = with_a_cloud(world, 0, 100, 0.4)
    judged: list[Floats] = []
    fill = GapModel.fill

    def told(*args: object, **kwargs: object) -> object:
        filled = fill(*args, **kwargs)  # type: ignore[arg-type]
        judged.append(filled.ndvi)
        return filled

    monkeypatch.setattr(GapModel, "fill", told)

    def verdict(first: int, last: int, known: int = 250) -> float:
        """What is said of the dip where radar and views of some days are others."""
        judged.clear()
        is_sar = (world.sar.day >= first) & (world.sar.day <= last)
        is_view = (clear.day >= first) & (clear.day <= last) & (np.abs(clear.day - 100) > 45)
        sar = replace(world.sar, vv_db=np.where(is_sar, -5.0, world.sar.vv_db))
        world.curve(known, known, sar, replace(clear, ndvi=np.where(is_view, 0.9, clear.ndvi)))
        assert len(judged[0]) == 1  # of what is asked first: the suspects
        return float(judged[0][0])

    want = verdict(1000, 1000)
    for first, last in ((0, 30), (132, 299)):
        assert verdict(first, last) == pytest.approx(want, abs=1e-6)
    assert verdict(1000, 1000, known=140) == pytest.approx(want, abs=1e-6)
    for first, last in ((60, 90), (104, 118)):
        assert abs(verdict(first, last) - want) > 1e-3


def test_a_fall_that_nothing_confirms_is_followed_but_not_trusted(world: World) -> None:
    """Until the recovery is seen it may as well be a harvest."""
    clear = with_a_cloud(world, 0, 100, 0.4)
    then, calm = world.curve(98, 104, clear=clear), world.curve(98, 104)
    assert on(then, 100).origin[0] == OBSERVED
    assert on(then, 100).ndvi[0] < 0.5
    doubt = [on(then, day).sd[0] - on(calm, day).sd[0] for day in (100, 104)]
    assert doubt[0] > doubt[1] > 0.05  # and it fades
    assert on(then, 99).sd[0] < on(calm, 99).sd[0] + 0.1
    low, high = (on(then, 100).ndvi[0] + side * 1.96 * on(then, 100).sd[0] for side in (-1, 1))
    assert low < on(then, 100).ndvi[0] < on(calm, 100).ndvi[0] < high + 0.05


def test_a_harvest_is_followed(world: World) -> None:
    """A fall that lasts is no dip, nor is one that radar saw."""
    is_late = (world.clear.parcel == 0) & (world.clear.day >= 100) & (world.clear.day < 200)
    clear = replace(world.clear, ndvi=np.where(is_late, 0.2, world.clear.ndvi))
    assert on(world.curve(95, 125, clear=clear), 100).origin[0] == OBSERVED
    shallow = with_a_cloud(world, 0, 100, DIP_DEPTH - 0.06)
    assert on(world.curve(95, 125, clear=shallow), 100).origin[0] == OBSERVED


def test_without_radar_the_views_answer_and_without_views_radar(world: World) -> None:
    none_sar, none = np.zeros(len(world.sar.day), bool), np.zeros(len(world.clear.day), bool)
    for first, known in ((40, LAST), (150, 150)):
        both = world.curve(first, known)
        views, radar = (
            world.curve(first, known, sar=world.sar.rows(none_sar)),
            world.curve(first, known, clear=world.clear.rows(none)),
        )
        assert (views.origin != PRIOR).all()
        assert (radar.origin == RECONSTRUCTED).all()
        assert radar.sd.mean() > both.sd.mean()
        assert np.isfinite(views.ndvi).all()
        error = [np.mean((one.ndvi - truth(one.parcel, one.day.astype(float))) ** 2) for one in (both, radar)]
        assert error[0] < error[1] < 0.02 if known == LAST else error[1] < 0.02  # 0.02: 0.14 of NDVI
    # Nor is the answer another for what the neighbours have.
    some = world.sar.rows(world.sar.parcel >= 2)
    bare = world.curve(0, 80, sar=some)
    assert np.abs(bare.ndvi - world.curve(0, 80).ndvi)[bare.parcel >= 2].max() < 1e-6


def test_nothing_at_all_is_the_prior_with_its_wide_band(world: World) -> None:
    sar, clear = world.sar.rows(world.sar.parcel != 3), world.clear.rows(world.clear.parcel != 3)
    for rows in (world.curve(0, 200, sar, clear), world.curve(200, 200, sar, clear)):
        mine = rows.parcel == 3
        assert (rows.origin[mine] == PRIOR).all()
        assert (rows.origin[~mine] != PRIOR).all()
        day = rows.day[mine].astype(float)
        np.testing.assert_allclose(rows.ndvi[mine], world.model.prior.at(day))
        np.testing.assert_allclose(rows.sd[mine], world.model.prior.sd_at(day))
        assert (rows.sd[mine] >= 0.1).all()
    nobody = reconstruct_curve(
        world.model, sar.rows(sar.day < 0), clear.rows(clear.day < 0), np.zeros(2, np.int64), np.full(2, 9)
    )
    assert (nobody.origin == PRIOR).all()


def test_radar_and_views_too_far_away_say_nothing(world: World) -> None:
    sar = world.sar.rows(world.sar.day <= 60)
    clear = world.clear.rows(world.clear.day <= 60)
    rows = world.curve(60, 250, sar, clear)
    assert (on(rows, 77).origin == RECONSTRUCTED).all()
    assert (on(rows, 180).origin == RECONSTRUCTED).all()
    assert (on(rows, 181).origin == PRIOR).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 7.0])
def test_impossible_values_change_nothing(world: World, poison: float) -> None:
    bad = SarSeries(
        np.array([0]), np.array([51.0]), np.array([15]), np.array([True]), np.array([poison * 9]), np.array([-15.0])
    )
    bad_day = replace(bad, day=np.array([np.nan]), vv_db=np.array([-9.0]))
    sar = SarSeries(
        *(
            np.concatenate(parts)
            for parts in zip(*(vars(one).values() for one in (world.sar, bad, bad_day)), strict=True)
        )
    )
    clear = ClearSeries(
        np.r_[world.clear.parcel, 0, 0, N, -1],
        np.r_[world.clear.day, 51.0, poison, 50, 50],
        np.r_[world.clear.ndvi, poison, 2.0, 0.1, 0.1],
    )
    assert_same(world.curve(40, 90, sar, clear), world.curve(40, 90), atol=0)


def test_order_and_duplicates_do_not_matter(world: World) -> None:
    rng = np.random.default_rng(3)
    i, j = rng.permutation(len(world.sar.day)), rng.permutation(len(world.clear.day))
    sar = SarSeries(*(np.r_[v[i], v[i][:9]] for v in vars(world.sar).values()))
    clear = ClearSeries(*(np.r_[v[j], v[j][:9]] for v in vars(world.clear).values()))
    assert_same(world.curve(0, LAST, sar, clear), world.curve(0, LAST))


@pytest.mark.parametrize("n_views", [0, 1])
@pytest.mark.parametrize("n_passes", [0, 1])
def test_one_view_or_one_pass_are_enough_for_an_answer(world: World, n_views: int, n_passes: int) -> None:
    sar = world.sar.rows(np.arange(len(world.sar.day)) < n_passes)
    clear = world.clear.rows((world.clear.day == 20) & (world.clear.parcel < n_views))
    rows = world.curve(-20, 250, sar, clear, n=2)
    assert np.isfinite(rows.ndvi).all()
    assert (rows.sd > 0).all()
    assert (rows.origin[rows.parcel == 1] == PRIOR).all()
    assert (np.abs(rows.ndvi) <= 1).all()
    assert (rows.sd[rows.day > 160] >= 0.1).all()  # never a confident number far from all that is known


def test_nobody_asked_for_and_no_days(world: World) -> None:
    for first, known in ((NOTHING, NOTHING), (np.array([9, 9]), np.array([8, -(10**6)]))):
        rows = reconstruct_curve(world.model, world.sar, world.clear, first, known)
        assert [len(one) for name, one in vars(rows).items() if name != "cached"] == [0] * 6


def test_a_season_sown_the_autumn_before_its_name(world: World) -> None:
    sar, clear = replace(world.sar, day=world.sar.day - 120), replace(world.clear, day=world.clear.day - 120)
    rows = world.curve(-100, 60, sar, clear)
    assert (rows.origin != PRIOR).all()
    got = on(rows, -50)
    np.testing.assert_allclose(got.ndvi, clear.ndvi[clear.day == -50], atol=1e-6)
    error = rows.ndvi - truth(rows.parcel, rows.day.astype(np.float64) + 120)
    is_covered = (rows.day < -10) | (rows.day > 50)
    assert np.sqrt(np.mean(error[is_covered] ** 2)) < 0.1  # another season than the one learned from, and no nonsense


def test_a_view_says_little_of_days_before_the_two_views_before_it(world: World) -> None:
    """Rows that the chain does not draw anew (`monitor.stages.reconstruct_ndvi`) are not what they would be, but nearly."""
    fewer = world.clear.rows((world.clear.parcel != 3) | (world.clear.day != 230))
    changed = np.abs(world.curve(150, 230).ndvi - world.curve(150, 230, clear=fewer).ndvi)
    rows = world.curve(150, 230)
    mine = rows.parcel == 3
    assert changed[~mine].max() < 1e-6
    assert changed[mine & (rows.day <= 210)].max() < 0.03
