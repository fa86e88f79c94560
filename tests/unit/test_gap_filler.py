"""The trained gap filler: blind to what is hidden and to the future, the same in any company, honest about its errors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ndvi import gap_filler
from models.ndvi.gap_filler import SCALE_DAYS, Filled, GapModel
from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.queries import GapQueries, Series, Steps
from models.ndvi.training import GapTrainingConfig, fit_gaps
from models.ndvi.views import MODES, Mode

N, LAST = 24, 299
TINY = GapConfig(is_causal=False, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2)


def truth(parcel: Ints, day: Floats) -> Floats:
    """NDVI of field `parcel`: a season that starts two days later from field to field."""
    start = 60 + 2.0 * (parcel % N)
    return np.asarray(0.2 + 0.6 / (1 + np.exp(-(day - start) / 8)) - 0.5 / (1 + np.exp(-(day - start - 90) / 6)))


def seen(parcels: Ints, seed: int) -> tuple[SarSeries, ClearSeries]:
    """Radar of two directions every six days, and a clear view every ten or so."""
    rng = np.random.default_rng(seed)
    parcel, day = np.repeat(np.arange(len(parcels)), 100), np.tile(3.0 * np.arange(100), len(parcels))
    ndvi = truth(parcels[parcel], day)
    vv, vh = -12 + 5 * ndvi + rng.normal(0, 0.5, len(day)), -22 + 8 * ndvi + rng.normal(0, 0.5, len(day))
    is_ascending = day % 6 == 0
    sar = SarSeries(parcel, day, np.where(is_ascending, 15, 37), is_ascending, vv, vh)
    parcel, day = np.repeat(np.arange(len(parcels)), 29), np.tile(np.arange(0, 290, 10.0), len(parcels))
    day = day + rng.integers(0, 8, len(day))
    return sar.cleaned(), ClearSeries(
        parcel, day, truth(parcels[parcel], day) + rng.normal(0, 0.02, len(day))
    ).cleaned()


@dataclass(frozen=True)
class World:
    """Fields whose NDVI is known, what satellites saw of them, and a model that learned on others."""

    model: GapModel
    sar: SarSeries
    clear: ClearSeries

    def fill(
        self,
        mode: Mode,
        parcel: Ints,
        day: Ints,
        half_gap: float = 0.0,
        sar: SarSeries | None = None,
        clear: ClearSeries | None = None,
        known: Ints | None = None,
    ) -> Filled:
        """Answers on days of parcels, in order of the parcels."""
        n = int(parcel.max()) + 1
        steps, series = self.given(n, sar or self.sar, clear or self.clear)
        known = np.full(n, LAST) if known is None else known
        return self.model.fill(steps, series, GapQueries.at(series, parcel, day, half_gap), mode, known)

    def given(self, n: int, sar: SarSeries, clear: ClearSeries) -> tuple[Steps, Series]:
        """Steps and series of the first n parcels."""
        clear = clear.rows(clear.parcel < n).cleaned()
        return self.model.steps(sar.rows(sar.parcel < n), n), Series(np.arange(n), *clear.padded(n))

    def alone(self, parcel: int, sar: SarSeries, clear: ClearSeries) -> tuple[Steps, Series]:
        """Steps and series of one parcel, there being no other."""
        sar, clear = sar.rows(sar.parcel == parcel), clear.rows(clear.parcel == parcel)
        return self.given(1, replace(sar, parcel=0 * sar.parcel), replace(clear, parcel=0 * clear.parcel))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world() -> World:
    config = GapTrainingConfig(network=TINY, n_members=2, n_updates=120)
    model, _ = fit_gaps(*seen(np.arange(N), 0), np.arange(N) // 2, config)
    return World(model, *seen(np.arange(N), 1))


def grid(days: Ints) -> tuple[Ints, Ints]:
    """Each parcel on each day."""
    return np.repeat(np.arange(N), len(days)), np.tile(days, N)


@pytest.mark.parametrize("mode", MODES)
def test_on_a_clear_day_it_is_the_view_with_the_views_sd(world: World, mode: Mode) -> None:
    parcel, day = world.clear.parcel, world.clear.day.astype(np.int64)
    filled = world.fill(mode, parcel, day)
    np.testing.assert_allclose(filled.ndvi, np.clip(world.clear.ndvi, -1, 1), atol=1e-6)
    np.testing.assert_allclose(filled.sd, world.model.view_sd, atol=1e-6)
    assert (filled.nearest == 0).all()


@pytest.mark.parametrize("gap", [30, 60])
def test_through_a_gap_it_is_better_than_a_line_and_radar_is_why(world: World, gap: int) -> None:
    parcel, day = grid(np.arange(80, 200, 7))
    want = truth(parcel, day.astype(float))
    got = world.fill("retrospective", parcel, day, gap / 2).ndvi
    ends = [truth(parcel, (day + side).astype(float)) for side in (-gap / 2, gap / 2)]
    line = (ends[0] + ends[1]) / 2

    def rmse(value: Floats) -> float:
        return float(np.sqrt(np.mean((value - want) ** 2)))

    assert rmse(got) < 0.6 * rmse(line)
    nothing = world.sar.rows(np.zeros(len(world.sar.day), bool))
    assert rmse(got) < 0.6 * rmse(world.fill("retrospective", parcel, day, gap / 2, sar=nothing).ndvi)


@pytest.mark.parametrize("mode", MODES)
def test_sd_grows_in_a_gap_and_holds_95_percent_of_what_it_never_saw(world: World, mode: Mode) -> None:
    parcel, target = world.clear.parcel, world.clear.ndvi
    sds, inside = [], []
    for half_gap in (0.0, 1.0, 5.0, 15.0, 30.0):
        filled = world.fill(mode, parcel, world.clear.day.astype(np.int64), half_gap)
        sds.append(filled.sd.mean())
        if half_gap:
            inside.append(np.abs(filled.ndvi - target) <= 1.96 * filled.sd)
    assert (np.diff(sds[:3]) > 0).all()
    assert sds[-1] > 1.1 * sds[0]
    assert 0.92 < np.mean(inside) < 0.99
    assert min(map(np.mean, inside)) > 0.88


@pytest.mark.parametrize("mode", MODES)
def test_sd_is_scaled_by_the_distance_to_the_nearest_view_but_not_a_views_own(world: World, mode: Mode) -> None:
    parcel, day = world.clear.parcel, world.clear.day.astype(np.int64)
    factor = {one: np.linspace(2.0, 3.0, len(SCALE_DAYS)) for one in MODES}
    scaled = replace(world, model=replace(world.model, sd_scale=factor))
    plain = replace(world, model=replace(world.model, sd_scale={one: np.ones(len(SCALE_DAYS)) for one in MODES}))
    for half_gap in (1.0, 8.0, 1e4):
        want, got = plain.fill(mode, parcel, day, half_gap), scaled.fill(mode, parcel, day, half_gap)
        np.testing.assert_array_equal(got.ndvi, want.ndvi)
        ratio = np.sqrt((got.sd**2 - world.model.view_sd**2) / (want.sd**2 - world.model.view_sd**2))
        np.testing.assert_allclose(ratio, np.interp(want.nearest, SCALE_DAYS, factor[mode]), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(day=st.integers(6, 280), seed=st.integers(0, 99), half_gap=st.sampled_from([0.0, 12.0]))
def test_a_causal_answer_never_sees_the_future(world: World, day: int, seed: int, half_gap: float) -> None:
    rng = np.random.default_rng(seed)
    parcel, days = np.arange(N), np.full(N, day)
    want = world.fill("causal", parcel, days, half_gap)
    later_sar, later = world.sar.day > day, world.clear.day > day
    changed = replace(world.sar, vv_db=np.where(later_sar, rng.normal(-12, 4, len(later_sar)), world.sar.vv_db))
    clear = replace(world.clear, ndvi=np.where(later, rng.uniform(0, 1, len(later)), world.clear.ndvi))
    sar, cut = world.sar.rows(~later_sar), world.clear.rows(~later)
    for other in (
        world.fill("causal", parcel, days, half_gap, changed, clear),
        world.fill("causal", parcel, days, half_gap, sar, cut, known=days),
        world.fill("causal", parcel, days, half_gap, sar, cut),
    ):
        np.testing.assert_allclose(other.ndvi, want.ndvi, atol=1e-6)
        np.testing.assert_allclose(other.sd, want.sd, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(day=st.integers(20, 280), seed=st.integers(0, 99))
@pytest.mark.parametrize("mode", MODES)
def test_hidden_views_are_really_hidden(world: World, mode: Mode, day: int, seed: int) -> None:
    parcel, days = np.arange(N), np.full(N, day)
    want = world.fill(mode, parcel, days, 25.0)
    is_hidden = np.abs(world.clear.day - day) <= 25
    rng = np.random.default_rng(seed)
    poisoned = replace(world.clear, ndvi=np.where(is_hidden, rng.uniform(-1, 1, len(is_hidden)), world.clear.ndvi))
    got = world.fill(mode, parcel, days, 25.0, clear=poisoned)
    np.testing.assert_array_equal(got.ndvi, want.ndvi)
    np.testing.assert_array_equal(got.sd, want.sd)


@pytest.mark.parametrize("mode", MODES)
def test_a_parcel_does_not_depend_on_what_it_is_read_with(
    world: World, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = np.arange(5, 280, 9)
    want = world.fill(mode, *grid(days))
    known = np.full(N, LAST)
    # In small parts.
    monkeypatch.setattr(gap_filler, "SERIES_AT_ONCE", 5)
    monkeypatch.setattr(gap_filler, "QUERIES_AT_ONCE", 17)
    got = world.fill(mode, *grid(days))
    np.testing.assert_allclose(got.ndvi, want.ndvi, atol=1e-6)
    np.testing.assert_allclose(got.sd, want.sd, atol=1e-6)
    monkeypatch.undo()
    # Alone, on one day at a time, and backward among others whose radar begins in autumn and who know less.
    p = 7
    mine = want.ndvi.reshape(N, -1)[p]
    steps, series = world.alone(p, world.sar, world.clear)
    for k, day in enumerate(days[::7]):
        one = GapQueries.at(series, np.zeros(1, np.int64), np.array([day]))
        np.testing.assert_allclose(world.model.fill(steps, series, one, mode, known[:1]).ndvi, mine[7 * k], atol=1e-6)
    longer = replace(world.sar, parcel=N - 1 - world.sar.parcel)
    longer = replace(longer, day=longer.day - 99.0 * (longer.parcel % 2 == 1) * (longer.parcel != N - 1 - p)).cleaned()
    turned = replace(world.clear, parcel=N - 1 - world.clear.parcel).cleaned()
    others = np.where(np.arange(N) == N - 1 - p, LAST, 150)
    got = world.fill(mode, *grid(days), sar=longer, clear=turned, known=others)
    np.testing.assert_allclose(got.ndvi.reshape(N, -1)[N - 1 - p], mine, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_parcel_without_radar_does_not_depend_on_what_it_is_asked_beside(world: World, mode: Mode) -> None:
    sar = world.sar.rows(world.sar.parcel != 0)
    days = np.arange(5, 280, 3)
    together = world.fill(mode, np.zeros(len(days), np.int64), days, sar=sar).ndvi
    apart = [world.fill(mode, np.zeros(1, np.int64), days[i : i + 1], sar=sar).ndvi[0] for i in range(len(days))]
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_what_a_retrospective_answer_knows_ends_for_each_parcel_on_its_own_day(world: World) -> None:
    parcel, day = np.arange(N), np.full(N, 100)
    known = 100 + 3 * np.arange(N)
    sar = world.sar.rows(world.sar.day <= known[world.sar.parcel])
    clear = world.clear.rows(world.clear.day <= known[world.clear.parcel])
    got = world.fill("retrospective", parcel, day, 8.0, sar, clear, known).ndvi
    for p in (0, 5, 20):
        steps, series = world.alone(p, sar, clear)
        asked = GapQueries.at(series, np.zeros(1, np.int64), day[:1], 8.0)
        alone = world.model.fill(steps, series, asked, "retrospective", known[p : p + 1]).ndvi
        np.testing.assert_allclose(got[p], alone[0], atol=1e-6)
    whole = world.fill("retrospective", parcel, day, 8.0).ndvi
    assert np.abs(whole - got).max() > 1e-3  # more is known then


@pytest.mark.parametrize("mode", MODES)
def test_several_series_of_a_parcel_are_each_answered_by_their_own_views(world: World, mode: Mode) -> None:
    steps, series = world.given(2, world.sar, world.clear)
    half = series.day[0] < 150
    both = Series(
        np.array([0, 0, 1]),
        np.stack([series.day[0], np.where(half, series.day[0], np.nan), series.day[1]]),
        np.stack([series.ndvi[0], np.where(half, series.ndvi[0], np.nan), series.ndvi[1]]),
    )
    asked, known = GapQueries.at(both, np.arange(3), np.array([180, 180, 180])), np.full(3, LAST)
    got = world.model.fill(steps, both, asked, mode, known).ndvi
    for s in range(3):
        one = GapQueries.at(both.rows(slice(s, s + 1)), np.zeros(1, np.int64), np.array([180]))
        alone = world.model.fill(steps, both.rows(slice(s, s + 1)), one, mode, known[:1]).ndvi
        np.testing.assert_allclose(got[s], alone[0], atol=1e-6)
    assert abs(got[0] - got[1]) > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_asked_and_nothing_is_answered(world: World, mode: Mode) -> None:
    nothing = np.zeros(0, np.int64)
    for n in (0, 3):
        steps, series = world.given(n, world.sar, world.clear)
        filled = world.model.fill(steps, series, GapQueries.at(series, nothing, nothing), mode, np.full(n, LAST))
        assert [len(one) for one in vars(filled).values()] == [0] * 4


@pytest.mark.parametrize("mode", MODES)
def test_radar_before_the_seasons_start_is_read(world: World, mode: Mode) -> None:
    # The same season, named after the year before: radar and views of an autumn-sown field lie before its start.
    parcel, day = grid(np.arange(-90, 100, 12))
    sar = replace(world.sar, day=world.sar.day - 120)
    clear = replace(world.clear, day=world.clear.day - 120)
    got = world.fill(mode, parcel, day, 10.0, sar, clear, known=np.full(N, LAST - 120))
    assert np.isfinite(got.ndvi).all()
    late = world.fill(mode, parcel, day, 10.0, sar.rows(sar.day >= 0), clear, known=np.full(N, LAST - 120))
    is_after = day > 50  # what is around these days is the same: only the autumn is missing
    assert np.abs(got.ndvi - late.ndvi)[is_after].max() > 1e-4


def test_it_survives_its_state(world: World) -> None:
    again = GapModel.from_state(*world.model.state())
    for mode in MODES:
        want = world.fill(mode, *grid(np.arange(0, 290, 11)), 6.0)
        got = replace(world, model=again).fill(mode, *grid(np.arange(0, 290, 11)), 6.0)
        np.testing.assert_array_equal(got.ndvi, want.ndvi)
        np.testing.assert_array_equal(got.sd, want.sd)
    assert len(again.members["causal"]) == 2
