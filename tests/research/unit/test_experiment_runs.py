"""The published experiments on a tiny landscape: every one runs, writes its files, and does not train twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from research.experiments import clouds, fusion, gradient_flow, in_season, timing
from research.experiments.calibration import measured
from research.experiments.forest import averaged, features, forest, parcel_means
from research.experiments.grid import Grid, Run, n_parameters
from research.experiments.schemes import ENHANCEMENTS, ExperimentError, Scheme, chosen, rows, schemes
from research.experiments.tables import read_csv
from training.config import ModelConfig, TrainingSection
from training.labelled import NO_LABEL, LabelledParcels

N, DAYS = 60, (100.0, 200.0)
MODALITIES = (
    ModalityConfig("s2", ("NDVI",), 0.4, pixels=2),
    ModalityConfig("s1a", ("VV", "VH"), 0.2, True, pixels=1),
    ModalityConfig("s1d", ("VV", "VH"), 0.2, True, pixels=1),
)
BOTH = ENHANCEMENTS[3]


def landscape() -> LabelledParcels:
    """Three crops that green on day 50, day 120, never; parcel 0 is unlabelled, parcel 1 was never observed."""
    random, label = np.random.default_rng(0), np.arange(N) % 3

    def observed(dates: int, channels: int, size: int) -> Observations:
        parcel = np.repeat(np.delete(np.arange(N), 1), dates)
        day = np.tile(np.linspace(1, 199, dates), N - 1)
        orbit = np.tile(np.resize([15, 88], dates), N - 1)
        level = (day > np.array([50, 120, 999])[label[parcel]]) + np.where(orbit == 15, 5.0, 0.0) * (channels > 1)
        pixels = level[:, None, None] + 0.3 * random.normal(size=(len(parcel), channels, size))
        return Observations(pixels.astype(np.float32), day.astype(np.float32), parcel, orbit.astype(np.int16))

    return LabelledParcels(
        name="tiny",
        observations={"s2": observed(8, 1, 2), "s1a": observed(6, 2, 1), "s1d": observed(5, 2, 1)},
        geometry=np.tile([400.0, 1e4, 0.04, 0.9], (N, 1)),
        labels=np.where(np.arange(N) == 0, NO_LABEL, label),
        classes=("early", "late", "bare"),
        modalities=MODALITIES,
        fold=np.arange(N) // 3 % 5 + 1,
        block=np.arange(N) // 3,
        scored_on=DAYS,
        day_names=("10 Apr", "19 Jul"),
    )


COMMON = ModelConfig(pixel_widths=(4, 8), decoder=(8,)), TrainingSection(epochs=2, batch=24, validate_every=2)


@pytest.fixture(autouse=True)
def small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("research.experiments.forest.N_TREES", 15)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path / "runs", landscape(), COMMON).open()


def test_rows_are_what_the_source_and_the_scheme_allow() -> None:
    data = landscape()
    assert [one.name for one in schemes(data)] == ["S2", "S1A", "S1D", "radar", "early", "mid", "late", "decision"]
    assert [one.name for one in schemes(data.of(["s1a"]))] == ["S1A"]
    assert [one.name for one in schemes(data.of(["s2", "s1a"]))] == ["S2", "S1A", "early", "mid", "late", "decision"]
    with pytest.raises(ExperimentError, match="not everything"):
        chosen(data, ["everything"])
    single, late = Scheme("S2", ("s2",)), Scheme("late", ("s2", "s1a"))
    names = [(scheme.name, one.name) for scheme, one in rows([single, late], ENHANCEMENTS)]
    assert names == [("S2", "none"), ("S2", "temporal dropout"), *(("late", one.name) for one in ENHANCEMENTS)]


def test_fusion_writes_its_files_and_trains_nothing_twice(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = chosen(grid.data, ["S2", "early", "decision"])
    found = fusion.measure(grid, asked, [BOTH], [0, 1], [1, 2])
    end = [one for one in found if one.metric == "accuracy" and one.at == "19 Jul"]
    assert len(end) == 4 * 2  # three schemes and the forest, two seeds
    assert max(one.value for one in end if one.scheme == "forest") > 0.8
    fusion.write(tmp_path, found, "tiny", grid.data.day_names)
    assert read_csv(tmp_path / "fusion.csv") == found
    assert "| decision | both |" in (tmp_path / "fusion.md").read_text()
    assert (tmp_path / "fusion.png").stat().st_size > 10_000

    monkeypatch.setattr("research.experiments.grid.train_fold", None)
    again = Grid(grid.folder, grid.data, COMMON).open()
    assert fusion.measure(again, asked, [BOTH], [0, 1], [1, 2]) == found


def test_a_folder_of_other_settings_is_refused(grid: Grid) -> None:
    model, training = COMMON
    (grid.folder / "a-run").mkdir(exist_ok=True)
    (grid.folder / "a-run" / "last.pt").touch()  # a run that has learnt something
    with pytest.raises(ExperimentError, match=r"other settings \(training epochs\)"):
        replace(grid, common=(model, training.model_copy(update={"epochs": 3}))).open()
    with pytest.raises(ExperimentError, match="data name"):
        replace(grid, data=replace(grid.data, name="elsewhere")).open()
    replace(grid, common=(model, training.model_copy(update={"folds": (1,), "seed": 7}))).open()


def test_parcels_never_observed_have_the_class_frequencies(grid: Grid) -> None:
    run = Run(Scheme("S2", ("s2",)), BOTH, 0, 1)
    training, test = grid.masks(run)
    (said,) = grid.predictions(run, (200.0,))
    counts = np.bincount(grid.data.labels[training], minlength=3)
    assert np.flatnonzero(test)[0] == 1
    np.testing.assert_allclose(said[0], counts / counts.sum())
    assert not np.allclose(said[1], said[0])


def test_clouds_take_dates_of_one_modality_only(grid: Grid, tmp_path: Path) -> None:
    data = grid.data
    n = np.bincount(data.observations["s2"].parcel, minlength=N)
    for ratio in (1.0, 0.5, 0.0):
        thin = clouds.without_dates(data, "s2", ratio, seed=3)
        assert (np.bincount(thin.observations["s2"].parcel, minlength=N) == np.round(ratio * n)).all()
        assert thin.observations["s1a"] is data.observations["s1a"]
    of = np.arange(N) < 30
    own = clouds.without_dates(data, "s2", 0.5, 3, of).observations["s2"]
    assert set(own.parcel.tolist()) == set(np.flatnonzero(of).tolist()) - {1}
    few, many = (
        set(zip(one.parcel.tolist(), one.day.tolist(), strict=True))
        for one in (clouds.without_dates(data, "s2", ratio, 3).observations["s2"] for ratio in (0.3, 0.6))
    )
    assert few < many
    found = clouds.measure(
        grid, chosen(data, ["S2", "radar", "mid"]), [BOTH], [0], [1], draws=2, ratios=(1.0, 0.5, 0.0)
    )
    radar = {one.value for one in found if one.scheme == "radar" and one.metric == "macro-F1"}
    assert len(radar) == 1
    whole = grid.pooled(Scheme("mid", ("s2", "s1a", "s1d"), "mid"), ENHANCEMENTS[2], 0, [1], DAYS[-1:])
    mid = next(one.value for one in found if one.scheme == "mid" and one.x == 1.0 and one.metric == "accuracy")
    assert mid == measured(whole[0], whole[1][0])["accuracy"]
    clouds.write(tmp_path, found, "tiny")
    assert {"clouds.csv", "clouds.md", "clouds.png"} <= {one.name for one in tmp_path.iterdir()}
    with pytest.raises(ExperimentError, match="no modality s2"):
        clouds.measure(replace(grid, data=data.of(["s1a"])), [], [BOTH], [0], [1])


def test_in_season_covers_the_season_and_the_scored_dates(grid: Grid, tmp_path: Path) -> None:
    asked = chosen(grid.data, ["S2"]), [BOTH]
    found = in_season.measure(grid, *asked, [0], [1])
    days = [one.x for one in found if one.scheme == "S2" and one.metric == "ECE"]
    assert days == sorted({*DAYS, *np.arange(15.0, 200.0, 15.0)})
    forests = {one.x: one.value for one in found if one.scheme == "forest" and one.metric == "accuracy"}
    assert forests[15.0] < forests[195.0]
    in_season.write(tmp_path, found, grid, *asked, [0], [1], "tiny")
    assert {"in-season.csv", "in-season.md", "in-season.png", "reliability.png"} <= {
        one.name for one in tmp_path.iterdir()
    }


def test_gradient_shares_add_up_and_auxiliary_supervision_feeds_every_modality(grid: Grid, tmp_path: Path) -> None:
    found = gradient_flow.measure(grid, chosen(grid.data, ["late"]), [0], [1])
    for enhancement in ("temporal dropout", "both"):
        for epoch in (1.0, 2.0):
            own = [
                one.value
                for one in found
                if (one.enhancement, one.x, one.metric) == (enhancement, epoch, gradient_flow.SHARE)
            ]
            assert len(own) == 3
            assert sum(own) == pytest.approx(1.0)
            assert min(own) > 0
    gradient_flow.write(tmp_path, found, "tiny")
    assert (tmp_path / "gradient-flow.png").exists()
    with pytest.raises(ExperimentError, match="share every parameter"):
        gradient_flow.measure(grid, chosen(grid.data, ["early"]), [0], [1])


def test_timing_has_both_forms_of_every_scheme(grid: Grid, tmp_path: Path) -> None:
    found = timing.measure(grid, schemes(grid.data), BOTH, 1, rounds=1)
    assert len(found) == 8 * 2 * 3
    assert all(one.value > 0 for one in found)
    text = timing.write(tmp_path, found, "tiny", "cpu")
    assert "torch" in text
    assert "| late | published form |" in text


def test_parameters_leave_out_what_only_training_uses(grid: Grid) -> None:
    late, decision = (grid.model(Run(one, BOTH, 0, 1)).network for one in chosen(grid.data, ["late", "decision"]))
    heads = sum(one.numel() for one in late.auxiliary.parameters())
    assert n_parameters(late) == sum(one.numel() for one in late.parameters()) - heads
    assert n_parameters(decision) == sum(one.numel() for one in decision.parameters())


def test_interpolation_is_linear_and_holds_outside() -> None:
    values = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    at = timing.interpolated(values, torch.tensor([10.0, 20.0]), torch.tensor([0.0, 10.0, 15.0, 30.0]))
    assert at.flatten().tolist() == [1.0, 1.0, 2.0, 3.0]


def test_forest_features_are_binned_means_less_the_orbits_level() -> None:
    data, training = averaged(landscape()), np.arange(N) > 20
    x = features(data, training, 200.0)
    early = features(data, training, 60.0)
    assert early.shape[1] < x.shape[1]
    assert np.isnan(x[1, :-4]).all()
    radar = features(data.of(["s1a"]), training, 200.0)
    assert abs(np.nanmean(radar[training, :-4])) < 0.2  # the offset of orbit 15, 5 dB, is gone
    assert forest(data, training, ~training, -1.0, 0).std(axis=0).max() < 1e-9  # nothing known: frequencies


def test_means_skip_invalid_pixels_of_integers_and_floats() -> None:
    raw = np.array([[[100, -1], [300, 500]]], np.int16)
    zero = np.zeros(1)
    stored = Observations(
        raw, zero.astype(np.float32), zero.astype(np.int64), zero.astype(np.int16), scale=0.01, nodata=-1
    )
    np.testing.assert_allclose(parcel_means(stored), [[1.0, 3.0]])


def test_scores_of_posteriors() -> None:
    truth, said = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    scores = measured(truth, said)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["mIoU"] == pytest.approx(0.5)  # 1 / 2 and 1 / 2
