"""The experiments of Zhao et al. 2020 on a tiny season: who is held back, how dates are scored, what is written, what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.published.mcnn_seq import McnnSeqConfig
from models.ndvi.published.networks import CnnConfig, RnnConfig
from models.ndvi.published.reconstruction import NdviTrainingConfig
from models.ndvi.published.training import train_ndvi
from research.experiments import experiment_commands
from research.experiments.gaps.series import GapSeries
from research.experiments.ndvi import clouds, crops, dates, runs, settings
from research.experiments.ndvi.haze import hazy_days
from research.experiments.ndvi.runs import Answer, Runs, within
from research.experiments.ndvi.scores import Views, by_date, difference, pooled
from research.experiments.ndvi.sources import ScoredSeries
from research.experiments.ndvi.splits import clouded, fold_trials, folds, held_back
from research.experiments.schemes import ExperimentError

N, YEAR = 60, 2023
GROUPS = np.array(["beet", "grass", "wheat"])
S1_DAYS, S2_DAYS = np.arange(2, 360, 12), np.arange(15, 350, 20)


def season() -> ScoredSeries:
    """Sixty parcels of three crops in twelve blocks; VH follows NDVI; parcel 0 is learned from and not scored."""
    random, kind = np.random.default_rng(0), np.arange(N) % 3
    peak = np.array([220, 180, 140])[kind] + random.normal(0, 10, N)

    def ndvi(parcel: np.ndarray, day: np.ndarray) -> np.ndarray:
        return np.asarray(0.2 + 0.6 * np.exp(-(((day - peak[parcel]) / 50) ** 2)))

    s1, s2 = np.repeat(np.arange(N), len(S1_DAYS)), np.repeat(np.arange(N), len(S2_DAYS))
    day1, day2 = np.tile(S1_DAYS, N).astype(float), np.tile(S2_DAYS, N).astype(float)
    vh = -22 + 8 * ndvi(s1, day1) + 0.3 * random.normal(size=len(s1))
    sar = SarSeries(s1, day1, np.full(len(s1), 15), np.ones(len(s1), bool), np.full(len(s1), -10.0), vh)
    clear = ClearSeries(s2, day2, ndvi(s2, day2) + 0.01 * random.normal(size=len(s2)))
    block = np.arange(N) // 5
    group = np.where(np.arange(N) == 0, "", GROUPS[kind])
    series = GapSeries("tiny", sar, clear.cleaned(), group, np.ones(N, bool), block, block % 5)
    return ScoredSeries(series, date(YEAR, 1, 1), "parcels")


def small(**choices: object) -> dict[str, NdviTrainingConfig]:
    """The three networks, small; windows of twelve steps of fifteen days."""
    common = {"step_days": 15, "n_updates": 3, "batch_size": 8, **choices}
    network = {"n_segments": 12, "n_extra": 2}
    return {
        name: NdviTrainingConfig.chosen(name, {**common, "network": network | ({} if name == "cnn" else {"hidden": 8})})
        for name in settings.MODELS
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


# Who is held back


def test_folds_of_both_splits_hold_each_parcel_once_and_blocks_stay_whole() -> None:
    data = season()
    for split in ("random", "blocked"):
        held = np.sum([one.is_test for one in fold_trials(data.series, split, (1, 2, 3, 4, 5))], axis=0)
        assert (held == 1).all()
    blocked = folds(data.series, "blocked")
    assert all(len(set(blocked[data.series.block == one])) == 1 for one in range(12))
    random = folds(data.series, "random")
    assert any(len(set(random[data.series.block == one])) > 1 for one in range(12))
    sizes = [np.bincount(random[data.series.group == name], minlength=5) for name in GROUPS]
    assert all(one.max() - one.min() <= 1 for one in sizes), "each crop is dealt out evenly"


@pytest.mark.parametrize("split", ["random", "blocked"])
def test_a_larger_share_holds_back_what_a_smaller_one_does(split: str) -> None:
    series = season().series
    half, more = (held_back(series, split, share, 3).is_test for share in (0.5, 0.7))  # type: ignore[arg-type]
    assert not (half & ~more).any()
    scored = series.is_scored
    assert half[scored].mean() == pytest.approx(0.5, abs=0.05)
    assert more[scored].mean() == pytest.approx(0.7, abs=0.05)
    if split == "blocked":
        assert all(len(set(half[series.block == one])) == 1 for one in range(12))


def test_cloud_takes_the_same_share_of_every_parcels_views() -> None:
    series = season().series
    trial = fold_trials(series, "random", (1,))[0]
    half, more = (clouded(trial, series.clear, share, 0) for share in (0.5, 0.7))
    assert half.is_view_kept is not None
    assert more.is_view_kept is not None
    left = np.bincount(series.clear.parcel[more.is_view_kept], minlength=N)
    assert set(left) == {round(0.3 * len(S2_DAYS))}
    assert not (more.is_view_kept & ~half.is_view_kept).any()
    assert half.name != more.name != trial.name


# Haze


def test_two_hazy_dates_in_a_row_are_both_found_and_a_clear_season_has_none() -> None:
    day, parcel = np.tile(np.arange(0, 120, 6.0), N), np.repeat(np.arange(N), 20)
    growth = 0.2 + 0.6 / (1 + np.exp((60 + parcel % 7 - day) / 12))
    clear = ClearSeries(parcel, day, growth)
    assert hazy_days(clear) == {}
    spoilt = ClearSeries(parcel, day, growth - np.where(np.isin(day, (54, 60)), 0.15, 0.0))
    found = hazy_days(spoilt)
    assert set(found) == {54, 60}
    assert all(-0.2 < departure < -0.05 for departure in found.values())
    some = parcel < N // 3  # fields that are harvested make no date hazy
    assert hazy_days(ClearSeries(parcel, day, growth - np.where((day == 60) & some, 0.3, 0.0))) == {}


# Scores


def views(observed: np.ndarray, predicted: np.ndarray, day: np.ndarray | int = 10) -> Views:
    n = len(observed)
    return Views(np.arange(n) % N, np.broadcast_to(day, n).astype(np.int64), observed, predicted)


def test_r2_of_a_date_is_about_that_dates_own_mean() -> None:
    y = np.concatenate([np.linspace(0.1, 0.3, 30), np.linspace(0.6, 0.8, 30)])
    day = np.repeat([10, 20], 30)
    level = views(y, np.where(day == 10, 0.2, 0.7), day)  # the right level of each date, nothing of its parcels
    assert level.score("random", "rnn", "arable", "season", float("nan"), 0).r2 > 0.9
    own = by_date(season(), level, "random", "rnn", "arable", 0, min_views=30)
    assert [one.at for one in own] == ["2023-01-11", "2023-01-21"]
    assert [one.r2 for one in own] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert by_date(season(), level, "random", "rnn", "arable", 0, min_views=31) == []


def test_a_date_that_is_off_as_a_whole_is_told_from_one_whose_shape_is_wrong() -> None:
    y = np.linspace(0.2, 0.8, 40)
    off = views(y, y + 0.3).score("random", "rnn", "arable", "", 0, 0)
    assert off.r2 < 0
    assert off.r2_shape == pytest.approx(1.0)
    assert off.bias == pytest.approx(0.3)
    assert off.rmse == pytest.approx(0.3)


def test_a_difference_is_of_the_same_views_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(0)
    y = random.uniform(0, 1, 600)
    good, bad = views(y, y + 0.05 * random.normal(size=600)), views(y, y + 0.2 * random.normal(size=600))
    found = difference(good, bad, np.arange(N) // 5)
    assert found.low < found.value < found.high
    assert found.low > 0
    assert difference(good, good, np.arange(N)).value == 0
    with pytest.raises(ValueError, match="same views"):
        difference(good, bad.of(np.arange(600) < 300), np.arange(N))


def test_views_without_an_answer_are_left_out() -> None:
    data, parcel = season(), np.array([3, 7])
    curve = np.full((2, 365), 0.5)
    curve[1] = np.nan
    every = pooled(data, [Answer(parcel, 0, curve, 1, 1.0)])
    assert set(every.parcel) == {3}
    assert len(every.day) == len(S2_DAYS)


# Trainings


def test_a_run_is_trained_once_and_sees_nothing_of_who_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = season(), list[tuple[set[int], set[int], int]]()

    def watched(sar: SarSeries, clear: ClearSeries, *rest: object) -> object:
        seen.append((set(sar.parcel), set(clear.parcel), len(clear.day)))
        return train_ndvi(sar, clear, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "train_ndvi", watched)
    grid = Runs(tmp_path, data, {"cnn": small()["cnn"]}).open()
    trial = fold_trials(data.series, "blocked", (2,))[0]
    first = grid.answer("cnn", trial, 0)
    again = Runs(tmp_path, data, {"cnn": small()["cnn"]}).open().answer("cnn", trial, 0)
    assert len(seen) == 1
    assert np.array_equal(first.curve.astype(np.float32), again.curve.astype(np.float32))
    held = set(np.flatnonzero(trial.is_test))
    assert not (seen[0][0] | seen[0][1]) & held
    assert set(first.parcel) == held - {0}
    grid.answer("cnn", clouded(trial, data.series.clear, 0.5, 0), 0)
    assert seen[1][2] < 0.6 * seen[0][2]


def test_a_folder_of_other_settings_is_refused_and_takes_further_models(tmp_path: Path) -> None:
    data, three = season(), small()
    Runs(tmp_path, data, {"cnn": three["cnn"]}).open()
    (tmp_path / "last.pt").touch()  # a run that has learnt something
    Runs(tmp_path, data, three).open()
    Runs(tmp_path, data, small(seed=3)).open()  # a seed is of a run
    with pytest.raises(ExperimentError, match="cnn n_updates"):
        Runs(tmp_path, data, {"cnn": small(n_updates=4)["cnn"]}).open()
    fewer = replace(data, series=replace(data.series, group=np.where(np.arange(N) < 9, "", data.series.group)))
    with pytest.raises(ExperimentError, match="data scored"):
        Runs(tmp_path, fewer, three).open()


def test_a_budget_gives_a_slower_network_fewer_updates_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def rate(_data: object, config: NdviTrainingConfig) -> float:
        asked.append(type(config.network).__name__)
        return 0.5 if isinstance(config.network, McnnSeqConfig) else 0.1

    monkeypatch.setattr(runs, "seconds_per_update", rate)
    found = within(20, season(), small(), tmp_path)
    assert {name: one.n_updates for name, one in found.items()} == {"mcnn-seq": 40, "rnn": 200, "cnn": 200}
    assert within(20, season(), small(), tmp_path) == found
    assert len(asked) == 3


def test_the_rate_of_updates_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 100, 3))
    monkeypatch.setattr("time.process_time", lambda: float(next(ticks)))
    assert runs.seconds_per_update(season(), small()["cnn"]) == pytest.approx(3.0)


# Settings


def test_the_paper_form_has_none_of_the_extensions() -> None:
    paper = settings.chosen(settings.MODELS, {"all": {"form": "paper"}}, "x")
    assert [type(one.network) for one in paper.values()] == [McnnSeqConfig, RnnConfig, CnnConfig]
    assert paper["mcnn-seq"].network == McnnSeqConfig()
    assert all(one.network.n_extra == 0 and one.loss == "squared" and one.batch_size == 500 for one in paper.values())
    extended = settings.chosen(["mcnn-seq"], {}, "x")["mcnn-seq"]
    assert extended.network.n_extra == 2
    assert extended.network.is_aligned  # type: ignore[union-attr]


def test_tables_of_a_file_name_rows_and_own_choices_go_before_common_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        "[all]\nn_updates = 5\n[rnn]\nn_updates = 7\n[mine]\nmodel = 'rnn'\n[mine.network]\ncell = 'tanh'\n"
    )
    tables = settings.read(path)
    found = settings.chosen(["mcnn-seq", "rnn", "mine"], tables, str(path))
    assert [one.n_updates for one in found.values()] == [5, 7, 5]
    assert found["mine"].network == RnnConfig(n_extra=2, cell="tanh")
    with pytest.raises(ExperimentError, match="'lstm' is no network"):
        settings.chosen(["lstm"], tables, str(path))
    with pytest.raises(ExperimentError, match=r"\[rnn\].*epochs"):
        settings.chosen(["rnn"], {"rnn": {"epochs": 3}}, str(path))
    path.write_text("n_updates = 5\n")
    with pytest.raises(ExperimentError, match="n_updates: write it in the table"):
        settings.read(path)


# What is written


@pytest.fixture
def grid(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs", season(), small()).open()


def test_dates_are_scored_for_each_network_and_split(grid: Runs, tmp_path: Path) -> None:
    found = dates.measure(grid, ("random", "blocked"), (1, 2, 3, 4, 5), (0,), min_views=10)
    at_season = [one for one in found.scores if one.at == dates.SEASON]
    n_arable = int(grid.data.is_arable.sum()) * len(S2_DAYS)
    assert {(one.split, one.parcels, one.model) for one in at_season} == {
        (split, kind, model)
        for split in ("random", "blocked")
        for kind in ("arable", "grass")
        for model in settings.MODELS
    }
    assert {one.n for one in at_season if one.parcels == "arable"} == {n_arable}
    assert set(found.differences) == {
        (split, kind, other)
        for split in ("random", "blocked")
        for kind in ("arable", "grass")
        for other in ("rnn", "cnn")
    }
    page = dates.write(tmp_path, found, "tiny", grid)
    assert "| 2023-01-16 |" in page
    assert "mcnn-seq less rnn" in page
    header, *lines = (tmp_path / "dates.csv").read_text().splitlines()
    assert header.startswith("split,model,parcels,at,day,seed,n,")
    assert len(lines) == len(found.scores)
    for name in ("dates-random.png", "dates-blocked.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_clouds_of_both_readings(grid: Runs, tmp_path: Path) -> None:
    only = replace(grid, configs={"cnn": grid.configs["cnn"]})
    found = clouds.measure(only, ("blocked",), (0.5, 0.7), clouds.READINGS, (1, 2), 1, (0,), min_views=5)
    whole = {one.at: one.n for one in found.scores if np.isnan(one.day) and one.parcels == "arable"}
    assert set(whole) == {"series 50 %", "series 70 %", "views 50 %", "views 70 %"}
    assert whole["series 70 %"] > whole["series 50 %"]
    assert whole["views 70 %"] == whole["views 50 %"], "the same folds are scored whatever cloud took from the others"
    assert "## series 50 % held back" in clouds.write(tmp_path, found, "tiny")
    assert (tmp_path / "clouds.png").stat().st_size > 10_000


def test_crops_have_scores_and_curves(grid: Runs, tmp_path: Path) -> None:
    only = replace(grid, configs={"rnn": grid.configs["rnn"]})
    found = crops.measure(only, ("random",), (1, 2, 3, 4, 5), (0, 1))
    assert {(one.parcels, one.at, one.seed) for one in found.scores} == {
        (crop, at, seed) for crop in GROUPS for at in (crops.SEASON, crops.CURVE) for seed in (0, 1)
    }
    assert found.n_parcels == {"beet": 19, "grass": 20, "wheat": 20}
    assert len(found.curves) == 3 * len(S2_DAYS), "of the first seed"
    peak = max((one for one in found.curves if one.crop == "wheat"), key=lambda one: one.observed)
    assert abs(peak.day - 140) <= 20
    page = crops.write(tmp_path, found, "tiny")
    assert "| wheat | 20 | 340 |" in page
    assert (tmp_path / "crops-random-rnn.png").stat().st_size > 10_000


# The commands


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setattr("research.experiments.ndvi.commands.open_series", lambda _source: season())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    network = "[all.network]\nn_segments = 12\n"
    path.write_text(f"[all]\nstep_days = 15\nn_updates = 2\nbatch_size = 8\n{network}")
    common = ("--config", str(path), "--models", "cnn", "--split", "blocked")
    return lambda name, *words: CliRunner().invoke(experiment_commands.app, [name, *common, *words])


@pytest.mark.parametrize(
    ("name", "words", "files"),
    [
        ("ndvi-dates", ("--min-views", "5"), ("dates.csv", "dates-blocked.png")),
        ("ndvi-clouds", ("--shares", "50"), ("clouds.csv", "clouds.png")),
        ("ndvi-crops", (), ("crops.csv", "crop-curves.csv", "crops-blocked-cnn.png")),
    ],
)
def test_a_command_writes_its_page(
    run: Callable[..., Result], name: str, words: tuple[str, ...], files: tuple[str, ...]
) -> None:
    result = run(name, *words)
    assert result.exit_code == 0, result.output
    folder = Path("reports/experiments") / f"{name}-nl"
    assert {"report.md", "runs", *files} == {one.name for one in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("ndvi-dates", ("--folds", "0"), "from 1 to 5"),
        ("ndvi-dates", ("--seeds", "one"), "whole numbers"),
        ("ndvi-dates", ("--models", "lstm"), "no network"),
        ("ndvi-dates", ("--form", "long"), "one of extended, paper"),
        ("ndvi-clouds", ("--shares", "100"), "1 to 99"),
        ("ndvi-clouds", ("--reading", "both"), "series, views"),
    ],
)
def test_what_cannot_be_asked_ends_in_one_line(
    run: Callable[..., Result], name: str, words: tuple[str, ...], said: str
) -> None:
    result = run(name, *words)
    assert isinstance(result.exception, ExperimentError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
