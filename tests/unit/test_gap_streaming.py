"""Cached states: answers of what came since are those of reading everything, and a state that no longer holds is made anew."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from db.states import States
from models.ndvi.cached_state import HEAD, CachedState, from_array, size_of, to_array
from models.ndvi.daily_curve import SETTLED_DAYS, reconstruct_curve
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import NEVER, ClearSeries, Floats, Ints, OrbitScale, SarSeries
from models.ndvi.network import GapConfig, GapNetwork
from models.ndvi.queries import STEP_DAYS, GapQueries, Series, Steps, next_step
from models.ndvi.state_updates import advance, begin, holding
from models.ndvi.views import MODES, Mode, Prior

P, FIRST, LAST = 6, -60, 260
TINY = GapConfig(is_causal=False, hidden=7, view_hidden=5, head=9, branch_channels=(3, 4), n_harmonics=2)
Mask = np.typing.NDArray[np.bool_]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


def made(seed: int) -> GapModel:
    """A model whose answers depend on all that its networks hold."""
    torch.manual_seed(seed)
    members: dict[Mode, tuple[GapNetwork, ...]] = {
        mode: tuple(GapNetwork(replace(TINY, is_causal=mode == "causal")).eval() for _ in range(2)) for mode in MODES
    }
    for network in (one for networks in members.values() for one in networks):
        torch.nn.init.normal_(network.head[-1].weight, std=0.5)  # type: ignore[arg-type]
    prior = Prior(np.array([0.0, 100, 200]), np.array([0.3, 0.7, 0.4]), np.full(3, 0.2))
    scale = OrbitScale({}, (-12.0, 3.0, -20.0, 3.0), (-11.0, 2.0, -19.0, 3.0))
    return GapModel(members, scale, prior, 0.02, {mode: np.ones(4) for mode in MODES})


@pytest.fixture(scope="module")
def model() -> GapModel:
    return made(0)


def random_season(seed: int, radar: float, views: float, begins: int | None = None) -> tuple[SarSeries, ClearSeries]:
    """Any season: each acquisition is there or not, some parcels have no radar, or no view, or begin late."""
    rng = np.random.default_rng(seed)
    parcel, day = (one.ravel() for one in np.meshgrid(np.arange(P), np.arange(FIRST, LAST + 1)))
    day_of: Floats = day.astype(np.float64)
    first = rng.choice([FIRST, 0, 40, LAST + 9], P) if begins is None else np.full(P, begins)
    is_seen = (rng.random(len(day)) < radar) & (day >= first[parcel])
    n, up = len(day), rng.random(len(day)) < 0.5
    sar = SarSeries(parcel, day_of + 0.3, np.where(up, 15, 37), up, rng.normal(-12, 3, n), rng.normal(-20, 3, n))
    is_clear = (rng.random(n) < views) & (parcel != 1)
    clear = ClearSeries(parcel, day_of + 0.4, np.clip(rng.normal(0.5, 0.25, n), -1, 1))
    return sar.rows(is_seen).cleaned(), clear.rows(is_clear).cleaned()


def given_of(model: GapModel, sar: SarSeries, clear: ClearSeries) -> tuple[Steps, Series]:
    day, ndvi = clear.padded(P)
    return model.steps(sar, P), Series(np.arange(P), np.floor(day), ndvi)


def known_on(day: Ints, sar: SarSeries, clear: ClearSeries) -> tuple[SarSeries, ClearSeries]:
    return sar.rows(sar.day < day[sar.parcel] + 1), clear.rows(clear.day < day[clear.parcel] + 1)


seasons = st.builds(
    random_season, st.integers(0, 10**6), st.sampled_from([0.02, 0.15, 0.5]), st.sampled_from([0.01, 0.1])
)
days = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=6, unique=True).map(sorted)


@settings(max_examples=25, deadline=None)
@given(season=seasons, stops=days, delay=st.integers(0, 40), spread=st.integers(0, 9), data=st.data())
@pytest.mark.parametrize("mode", MODES)
def test_answers_from_a_carried_state_are_those_of_reading_everything(
    model: GapModel,
    mode: Mode,
    season: tuple[SarSeries, ClearSeries],
    stops: list[int],
    delay: int,
    spread: int,
    data: st.DataObject,
) -> None:
    cached = begin(model, mode, P)
    for stop in stops:
        known = stop + spread * np.arange(P)  # each parcel has its own today
        steps, series = given_of(model, *known_on(known, *season))
        cached = holding(cached, steps, series, known)
        assert (cached.day > -NEVER).all() or stop == stops[0]  # nothing that comes in order empties a state
        cached = advance(model, mode, cached, steps, series, known - delay)
        assert (cached.day == known - delay).all()
        asked = known - data.draw(st.integers(0, delay))
        queries = GapQueries.at(series, np.arange(P), asked)
        want = model.fill(steps, series, queries, mode, known)
        got = model.fill(steps, series, queries, mode, known, cached)
        np.testing.assert_allclose(got.ndvi, want.ndvi, atol=1e-5)
        np.testing.assert_allclose(got.sd, want.sd, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(season=seasons, stops=days)
def test_a_causal_answer_needs_only_what_is_recent(
    model: GapModel, season: tuple[SarSeries, ClearSeries], stops: list[int]
) -> None:
    """The radar of 48 days and of the unfinished step, and the last views read: nothing else is looked at."""
    cached, none = begin(model, "causal", P), np.zeros(P, np.int64)
    for stop in stops:
        known = none + stop
        sar, clear = known_on(known, *season)
        want_steps, want_series = given_of(model, sar, clear)
        want = model.fill(want_steps, want_series, GapQueries.at(want_series, np.arange(P), known), "causal", known)
        since = np.minimum(known - 48, STEP_DAYS * next_step(cached.day) - 1)
        older = sum((clear.parcel == p) & (clear.day <= cached.day[p]) for p in range(P)).astype(bool)
        nearest = np.concatenate([np.flatnonzero((clear.parcel == p) & older)[-3:] for p in range(P)])
        keep = ~older
        keep[nearest] = True
        steps, series = given_of(model, sar.rows(sar.day > since[sar.parcel]), clear.rows(keep))
        got = model.fill(steps, series, GapQueries.at(series, np.arange(P), known), "causal", known, cached)
        np.testing.assert_allclose(got.ndvi, want.ndvi, atol=1e-5)
        np.testing.assert_allclose(got.sd, want.sd, atol=1e-5)
        cached = advance(model, "causal", cached, steps, series, known)


def cached_to(model: GapModel, mode: Mode, sar: SarSeries, clear: ClearSeries, day: int) -> CachedState:
    return advance(model, mode, begin(model, mode, P), *given_of(model, sar, clear), np.full(P, day))


def without(one: SarSeries | ClearSeries, row: int) -> Mask:
    return np.asarray(np.arange(len(one.day)) != row)


def test_a_state_is_emptied_by_what_it_read_otherwise_and_by_nothing_else(model: GapModel) -> None:
    sar, clear = random_season(1, 0.3, 0.1, begins=0)
    i, j = (int(np.flatnonzero((one.parcel == 2) & (one.day < 95))[4]) for one in (sar, clear))
    vv, ndvi, day = sar.vv_db.copy(), clear.ndvi.copy(), sar.day.copy()
    vv[i] += 0.5
    ndvi[j] -= 0.01
    day[i] = -40  # before what was the first
    cached = cached_to(model, "causal", sar, clear, 100)
    cases = {
        "a pass is revised": (replace(sar, vv_db=vv), clear),
        "a pass is withdrawn": (sar.rows(without(sar, i)), clear),
        "a pass is late": (replace(sar, day=day), clear),
        "all passes are withdrawn": (sar.rows(sar.parcel != 2), clear),
        "a view is revised": (sar, replace(clear, ndvi=ndvi)),
        "a view is withdrawn": (sar, clear.rows(without(clear, j))),
    }
    for what, (now_sar, now_clear) in cases.items():
        held = holding(cached, *given_of(model, now_sar, now_clear), np.full(P, 150))
        assert (held.day == np.where(np.arange(P) == 2, -NEVER, 100)).all(), what
        assert held.encoder[:, :, 2].eq(0).all()
        assert held.encoder[:, :, 3].equal(cached.encoder[:, :, 3])
    # What comes after is no reason, nor a late pass of the step that had not ended: days 96 to 101.
    later_sar = replace(sar, vv_db=np.where(sar.day >= 96, -5.0, sar.vv_db))
    later = clear.rows((clear.day < 101) | (clear.parcel != 2))
    held = holding(cached, *given_of(model, later_sar, later), np.full(P, 150))
    assert (held.day == 100).all()
    # A day before what is read is.
    asked = np.where(np.arange(P) == 3, 99, 100)
    held = holding(cached, *given_of(model, sar, clear), asked)
    assert (held.day == np.where(np.arange(P) == 3, -NEVER, 100)).all()


def test_a_day_before_the_carried_one_is_refused(model: GapModel) -> None:
    steps, series = given_of(model, *random_season(1, 0.3, 0.1))
    cached = cached_to(model, "retrospective", *random_season(1, 0.3, 0.1), 100)
    known = np.full(P, LAST)
    for day, half_gap in ((99, 0.0), (110, 60.0)):  # the gap of the second hides views that the state has read
        asked = GapQueries.at(series, np.arange(P), np.full(P, day), half_gap)
        with pytest.raises(ValueError, match="before the cached state"):
            model.fill(steps, series, asked, "retrospective", known, cached)


@pytest.mark.parametrize("mode", MODES)
def test_series_of_one_parcel_go_on_from_different_days(model: GapModel, mode: Mode) -> None:
    sar, clear = random_season(1, 0.3, 0.1, begins=0)
    steps, series = given_of(model, sar, clear)
    twice = series.rows(np.array([3, 3, 4]))
    states = [cached_to(model, mode, sar, clear, day).rows(np.array([p])) for p, day in ((3, 110), (3, 60), (4, 60))]
    first, day, steps_sum, views_sum = (
        np.concatenate([vars(one)[name] for one in states]) for name in ("first_step", "day", "steps_sum", "views_sum")
    )
    encoder, decoder = (torch.cat([vars(one)[name] for one in states], dim=2) for name in ("encoder", "decoder"))
    both = CachedState(states[0].model, first, day, steps_sum, views_sum, encoder, decoder)
    queries, known = GapQueries.at(twice, np.arange(3), np.array([130, 140, 150])), np.full(3, 200)
    want = model.fill(steps, twice, queries, mode, known)
    got = model.fill(steps, twice, queries, mode, known, both)
    np.testing.assert_allclose(got.ndvi, want.ndvi, atol=1e-5)


def test_a_fall_on_the_day_the_state_ends_is_doubted_as_by_reading_everything(model: GapModel) -> None:
    """The state has read the fall: what was expected before it is not to be had from it."""
    sar, clear = random_season(1, 0.3, 0.1, begins=0)
    known, last = np.full(P, 190), 190 - SETTLED_DAYS
    day = np.tile(np.array([last - 40.0, last - 20.0, last]), P)
    clear = ClearSeries(np.repeat(np.arange(P), 3), day, np.tile(np.array([0.8, 0.8, 0.1]), P))
    stored = {mode: begin(model, mode, P) for mode in MODES}
    want, got = (
        reconstruct_curve(model, sar, clear, known, known),
        reconstruct_curve(model, sar, clear, known, known, stored),
    )
    assert (got.cached["causal"].day == last - 1).all()
    np.testing.assert_allclose(got.sd, want.sd, atol=1e-5)
    calm = reconstruct_curve(model, sar, replace(clear, ndvi=np.full(3 * P, 0.8)), known, known)
    assert (got.sd > calm.sd + 1e-3).any()


def test_states_are_stored_and_read_bit_by_bit_and_others_are_empty(model: GapModel) -> None:
    cached = cached_to(model, "causal", *random_season(1, 0.3, 0.1), 100)
    stored: list[bytes | None] = [*to_bytes(cached)]
    assert {len(one) for one in stored if one} == {HEAD.itemsize + 4 * 2 * 2 * (7 + 5)}
    empty = begin(model, "causal", P)
    back = from_bytes(stored, empty)
    assert_equal(back, cached)
    other = made(1)
    broken = [
        None,
        stored[1],
        b"broken",
        stored[3][:-4] if stored[3] else None,
        to_bytes(begin(other, "causal", 1))[0],
        b"",
    ]
    assert from_bytes(broken, empty).day.tolist() == [-NEVER, 100, *[-NEVER] * 4]
    assert_equal(from_bytes([None] * P, empty), empty)
    assert_equal(from_bytes([], begin(model, "causal", 0)), begin(model, "causal", 0))
    # Of another model, of the other mode, or of the same networks with another prior.
    changed = replace(model, prior=replace(model.prior, mean=model.prior.mean + 0.1))
    for one in (begin(other, "causal", P), begin(model, "retrospective", P), begin(changed, "causal", P)):
        assert (from_bytes(stored, one).day == -NEVER).all()


def to_bytes(cached: CachedState) -> list[bytes]:
    return [one.tobytes() for one in to_array(cached)]


def from_bytes(stored: Sequence[bytes | None], empty: CachedState) -> CachedState:
    """Read states as the store has them: those that are there."""
    there = [nr for nr, one in enumerate(stored) if one is not None]
    keys, nothing = np.array(there, np.int64), np.zeros(len(there), np.int64)
    rows = States(1, "s", keys, nothing, nothing.astype("M8[us]"), pa.array([stored[nr] for nr in there], pa.binary()))
    place, numbers = rows.of_size(size_of(empty))
    return from_array(numbers, place, empty)


def assert_equal(one: CachedState, other: CachedState) -> None:
    for name, value in vars(one).items():
        same = (
            value.equal(getattr(other, name))
            if isinstance(value, torch.Tensor)
            else np.array_equal(value, getattr(other, name))
        )
        assert same, name


@settings(max_examples=12, deadline=None)
@given(
    season=seasons,
    order=st.randoms(use_true_random=False),
    stops=st.lists(st.integers(20, LAST), min_size=1, max_size=5).map(sorted),
    back=st.integers(0, 60),
)
def test_a_curve_drawn_from_carried_states_is_that_of_reading_everything(
    model: GapModel, season: tuple[SarSeries, ClearSeries], order: object, stops: list[int], back: int
) -> None:
    """Whatever arrives late, is revised or taken back between two looks."""
    rng = np.random.default_rng(order.randrange(10**6))  # type: ignore[attr-defined]
    sar, clear = season
    stored = {mode: begin(model, mode, P) for mode in MODES}
    for stop in stops:
        known = np.full(P, stop)
        arrived, seen = rng.random(len(sar.day)) < 0.95, rng.random(len(clear.day)) < 0.95
        ndvi: Floats = np.where(rng.random(len(clear.day)) < 0.02, clear.ndvi - 0.3, clear.ndvi)
        now = (sar.rows(arrived), replace(clear, ndvi=ndvi).rows(seen))
        want = reconstruct_curve(model, *now, known - back, known)
        got = reconstruct_curve(model, *now, known - back, known, stored)
        for name in ("ndvi", "sd", "origin", "is_causal"):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-5)
        assert not want.cached
        stored = {mode: from_bytes(to_bytes(one), begin(model, mode, P)) for mode, one in got.cached.items()}


def test_a_curve_goes_on_from_what_is_stored(model: GapModel) -> None:
    """Numbers that were tampered with show: they are what the next row is drawn from."""
    sar, clear = random_season(1, 0.3, 0.1)
    stored = dict(
        reconstruct_curve(
            model, sar, clear, np.full(P, 200), np.full(P, 200), {m: begin(model, m, P) for m in MODES}
        ).cached
    )
    known = np.full(P, 206)
    rows = reconstruct_curve(model, sar, clear, known - 5, known, stored)
    for mode in MODES:
        tampered = stored | {mode: replace(stored[mode], encoder=stored[mode].encoder + 1)}
        changed = np.abs(reconstruct_curve(model, sar, clear, known - 5, known, tampered).ndvi - rows.ndvi) > 1e-6
        is_mode = rows.is_causal == (mode == "causal")
        assert changed[is_mode].any()
        assert not changed[~is_mode].any()
