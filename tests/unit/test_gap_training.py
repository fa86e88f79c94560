"""Training of the gap filler: blocks kept together, members that leave out different fields, nonsense refused."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.ndvi import training
from models.ndvi.gap_filler import SCALE_DAYS
from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries, TrainingDataError
from models.ndvi.network import GapConfig, GapNetwork
from models.ndvi.queries import Series
from models.ndvi.training import GAPS_DAYS, PARTS, GapTrainingConfig, fit_gaps

N = 20
TINY = GapConfig(is_causal=False, hidden=8, view_hidden=6, head=8, branch_channels=(4, 4), n_harmonics=1)
CONFIG = GapTrainingConfig(network=TINY, n_members=2, n_updates=30, batch_size=8)


def truth(parcel: Ints, day: Floats) -> Floats:
    """NDVI of field `parcel`: a season that starts two days later from field to field."""
    return np.asarray(0.2 + 0.6 * np.exp(-(((day - 110 - 2.0 * parcel) / 40) ** 2)))


def season(first: int = 0) -> tuple[SarSeries, ClearSeries]:
    """Radar every six days and a view every ten, from a day on."""
    rng = np.random.default_rng(0)
    parcel, day = np.repeat(np.arange(N), 40), np.tile(first + 6.0 * np.arange(40), N)
    ndvi = truth(parcel, day)
    vv, vh = -12 + 5 * ndvi + rng.normal(0, 0.5, len(day)), -22 + 8 * ndvi + rng.normal(0, 0.5, len(day))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), vv, vh)
    parcel, day = np.repeat(np.arange(N), 24), np.tile(first + 10.0 * np.arange(24), N)
    return sar, ClearSeries(parcel, day, truth(parcel, day) + rng.normal(0, 0.02, len(day)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    yield
    torch.set_num_threads(threads)


def test_it_learns_scores_what_was_left_out_and_tells_of_every_update() -> None:
    told: list[tuple[int, float]] = []
    model, scores = fit_gaps(*season(), np.arange(N), CONFIG, lambda update, loss: told.append((update, loss)))
    assert [update for update, _ in told] == list(range(1, CONFIG.all_updates + 1))
    assert np.isfinite([loss for _, loss in told]).all()
    assert set(scores.flat()) == {f"rmse_{mode}_{g}" for mode in model.members for g in GAPS_DAYS} | {"radar_alone_r2"}
    assert scores.n_fields in range(6, 11)  # those of two of five parts
    assert scores.n_views == 24 * scores.n_fields
    _, untrained = fit_gaps(*season(), np.arange(N), replace(CONFIG, n_updates=1))
    for mode in model.members:
        assert all(scores.rmse[mode][gap] < untrained.rmse[mode][gap] for gap in GAPS_DAYS[1:])
    assert scores.radar_alone_r2 > max(0.3, untrained.radar_alone_r2)
    for mode, members in model.members.items():
        assert len(members) == CONFIG.n_members
        assert all(one.config == replace(TINY, is_causal=mode == "causal") for one in members)
        assert model.sd_scale[mode].shape == (len(SCALE_DAYS),)
        assert (model.sd_scale[mode] >= 0.5).all()
    assert not any(one.training for members in model.members.values() for one in members)


def test_the_same_seed_gives_the_same_model() -> None:
    config = replace(CONFIG, n_members=1, n_updates=3)
    first, again, other = (
        fit_gaps(*season(), np.arange(N), replace(config, seed=seed))[0].state()[1] for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_members_leave_out_different_blocks_and_no_block_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[set[int]] = []
    held: list[set[int]] = []
    fit, hold = training._fit, training._held_out

    def told_fit(*args: object) -> GapNetwork:
        learned.append(set(args[3].tolist()))  # type: ignore[attr-defined]
        return fit(*args)  # type: ignore[arg-type]

    def told_hold(*args: object) -> object:
        held.append(set(args[2].tolist()))  # type: ignore[attr-defined]
        return hold(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_fit", told_fit)
    monkeypatch.setattr(training, "_held_out", told_hold)
    block = np.arange(N) // 3
    fit_gaps(*season(), block, replace(CONFIG, n_members=3, n_updates=1))
    assert len(held) == 6
    assert held[:3] == held[3:]  # of both modes the same
    assert all(one.isdisjoint(other) for i, one in enumerate(held[:3]) for other in held[:i])
    for mine, theirs in zip(learned, held, strict=True):
        assert mine
        assert theirs
        assert mine | theirs == set(range(N))
        assert not {int(block[p]) for p in mine} & {int(block[p]) for p in theirs}


@pytest.mark.parametrize("sizes", [[1] * 40, [30, 5, 5, 5, 5, 1, 1], [7, 7, 7], [100]])
def test_parts_are_even_as_far_as_blocks_allow(sizes: list[int]) -> None:
    block = np.repeat(np.arange(len(sizes)), sizes)
    part = training._parts(block, np.ones(len(block), bool), 0)
    assert all(len(np.unique(part[block == b])) == 1 for b in range(len(sizes)))
    counts = np.bincount(part, minlength=PARTS)
    assert len(counts) == PARTS
    assert counts.max() <= max(*sizes, 0, len(block) // PARTS + 1)
    if len(sizes) >= PARTS:
        assert counts.min() > 0


def test_one_block_is_learned_from_though_there_is_nothing_to_hold_out() -> None:
    model, scores = fit_gaps(*season(), np.zeros(N, np.int64), replace(CONFIG, n_updates=2))
    assert all(np.isfinite(one) for one in scores.flat().values())
    assert len(model.members["causal"]) == 2


def test_a_season_without_radar_or_without_views_cannot_be_learned() -> None:
    sar, clear = season()
    cases = [
        (sar.rows(sar.day < 0), clear),
        (sar, clear.rows(clear.day < 0)),
        (sar.rows(sar.day < 0), clear.rows(clear.day < 0)),
        (sar.rows(sar.parcel == 0), clear.rows(clear.parcel == 1)),
        (replace(sar, vv_db=sar.vv_db * np.nan), clear),
    ]
    for radar, views in cases:
        with pytest.raises(TrainingDataError, match="both SAR and a clear NDVI"):
            fit_gaps(radar, views, np.arange(N), CONFIG)


def test_a_poor_season_is_learned_from_as_far_as_it_goes() -> None:
    sar, clear = season()
    # One field has both, one view; others have radar or views alone; some rows are nonsense.
    sar, clear = sar.rows(sar.parcel < 4), clear.rows((clear.parcel > 3) | ((clear.parcel == 3) & (clear.day == 100)))
    sar = replace(sar, vv_db=np.where(sar.day == 60, np.inf, sar.vv_db))
    model, scores = fit_gaps(sar, clear, np.arange(N), replace(CONFIG, n_updates=3))
    assert all(weight.isfinite().all() for weight in model.state()[1].values())
    assert np.isfinite(list(scores.rmse["causal"].values())).all()


def test_a_season_of_negative_days_is_learned_from() -> None:
    """An autumn sown before the year that the season is named after."""
    sar, clear = season(first=-200)
    _, scores = fit_gaps(sar, clear, np.arange(N), replace(CONFIG, n_members=1))
    assert scores.rmse["retrospective"][30] < 0.2


def test_sd_is_scaled_until_it_holds_95_percent_at_every_distance() -> None:
    rng = np.random.default_rng(0)
    nearest = rng.uniform(0, 60, 20_000)
    sd = 0.02 + 0.002 * nearest
    error = rng.normal(0, np.hypot(0.01, sd * (1.5 - nearest / 60)))  # too sure near views, too unsure far from them
    scale = training._calibrated(error, np.hypot(0.01, sd), nearest, 0.01)
    scaled = np.hypot(0.01, sd * np.interp(nearest, SCALE_DAYS, scale))
    for low, high in ((2, 8), (8, 15), (15, 30), (30, 60)):
        inside = (nearest > low) & (nearest <= high)
        assert np.mean(np.abs(error[inside]) <= 1.96 * scaled[inside]) == pytest.approx(0.95, abs=0.02)


def test_a_handful_of_views_does_not_make_it_sure() -> None:
    scale = training._calibrated(np.full(5, 1e-6), np.full(5, 0.1), np.full(5, 3.0), 0.02)
    np.testing.assert_array_equal(scale, 0.5)


def test_what_a_field_is_given_ends_where_its_season_is_cut_and_stays_in_order() -> None:
    rng = np.random.default_rng(0)
    views = Series(np.arange(50), np.tile(np.arange(0, 200, 10.0), (50, 1)), np.full((50, 20), 0.5))
    end = rng.integers(20, 200, 50)
    given = training._spoiled(views, end, GapTrainingConfig(), rng)
    n = given.n_views
    assert (np.nanmax(given.day, axis=1, initial=-1) <= end).all()
    assert all((np.diff(given.day[i, : n[i]]) > 0).all() and np.isnan(given.day[i, n[i] :]).all() for i in range(50))
    assert 0 < (given.ndvi[np.isfinite(given.day)] < 0.5).mean() < 0.1  # a few are lowered, none is raised
    assert (given.ndvi <= 0.5).all()
    assert 0.05 < 1 - n.sum() / (views.day <= end[:, None]).sum() < 0.3  # some are left out


def test_a_file_chooses_what_it_names_and_may_not_name_what_is_not_there() -> None:
    chosen = GapTrainingConfig.chosen({"n_updates": 5, "network": {"hidden": 7, "branch_channels": [3, 4]}})
    assert (chosen.n_updates, chosen.network.hidden, chosen.network.branch_channels) == (5, 7, (3, 4))
    assert chosen.batch_size == GapTrainingConfig().batch_size
    with pytest.raises(ValueError, match="no n_update, width"):
        GapTrainingConfig.chosen({"n_update": 5, "network": {"width": 7}})
    for wrong in (
        {"n_members": 0},
        {"n_members": PARTS + 1},
        {"n_updates": 0},
        {"batch_size": 0},
        {"network": {"hidden": 0}},
    ):
        with pytest.raises(ValueError, match="gap filling"):
            GapTrainingConfig.chosen(wrong)
