"""Tables 2 and 3: rows as published, run on a small folder, with the published figures beside."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.segmentation.network import PanopticNetwork, SegmentationNetwork
from models.segmentation.published import load_utae
from parcelwatch import app
from research.experiments import segmentation, segmentation_clouds, segmentation_picture, segmentation_timing
from research.experiments.pastis_simulated import Simulated, write_simulated
from research.experiments.pastis_synthetic import Landscape, write_patches
from research.experiments.schemes import ExperimentError
from research.experiments.segmentation import BOTH, DROPOUT, NONE, ROWS, Training, chosen, forest_scores, run_of
from research.experiments.tables import Measurement, read_csv
from training.patch_images import read
from training.patches import Loading
from training.segmentation_run import Result, network_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = """
[data]
kind = "pastis"
path = "{path}"
[model]
encoder = [16, 16]
decoder = [16, 16]
attention = 32
heads = 4
[training]
folds = [1]
workers = 0
batch = 2
epochs = 1
"""


BASELINES_OF = {"segmentation": {"forest, S2", "forest, all"}, "panoptic": {"watershed"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    landscape = Landscape(patches=5, side=24, fields=3, dates=(12, 5, 4), classes=(1, 15))
    return write_patches(tmp_path_factory.mktemp("made") / "pastis", landscape)


@pytest.mark.parametrize(
    ("task", "metric", "published"), [("segmentation", "mIoU", 0.636), ("panoptic", "PQ (void uncorrected)", 0.404)]
)
def test_tables_have_ours_beside_the_published(
    task: str, metric: str, published: float, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(RUN.format(path=folder))
    arguments = ["--config", str(tmp_path / "run.toml"), "--schemes", "S2", "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ["experiments", task, *arguments])
    assert answer.exit_code == 0, answer.output
    rows = read_csv(tmp_path / "out" / f"{task}.csv")
    last = [one for one in rows if one.scheme == "S2" and one.metric == metric][-1]
    assert last.at == "published"
    assert last.value == pytest.approx(published)
    assert {one.at for one in rows if one.metric == "parameters"} == {"here", "published"}
    text = (tmp_path / "out" / f"{task}.md").read_text()
    assert "narrow networks, encoder [16, 16]" in text
    assert {one.scheme for one in rows} - {"S2"} == BASELINES_OF[task]


def test_the_forest_learns_seasons_of_single_pixels(folder: Path, tmp_path: Path) -> None:
    plain = {"data": {"kind": "pastis", "path": str(folder)}, "training": {"folds": [1]}}
    run = run_of("segmentation", plain, ROWS["segmentation"][0], 0, tmp_path)
    found = forest_scores(run, read(folder), ("s2",), 0)
    assert found["accuracy"] > 0.8
    assert forest_scores(run, read(folder), ("s2",), 0) == found


def test_the_watershed_draws_fields_with_the_crops_of_a_forest(tmp_path: Path) -> None:
    folder = write_simulated(tmp_path / "made", Simulated(5, 48, (8, 1, 1), regions=("lowlands",)))
    plain = {"data": {"kind": "pastis", "path": str(folder)}, "training": {"folds": [1]}}
    found = forest_scores(run_of("panoptic", plain, ROWS["panoptic"][0], 0, tmp_path), read(folder), ("s2",), 0)
    assert found["F1 of objects"] > 0.5
    assert 0 < found["PQ"] < found["SQ"] <= 1  # four patches teach a forest few crops


def test_rows_are_what_was_published() -> None:
    late = next(row for row in ROWS["segmentation"] if row.scheme == "late" and row.enhancement == BOTH)
    run = run_of("segmentation", {"data": {"kind": "pastis", "path": "x"}}, late, 3, Path("out"))
    assert (run.model.fusion, run.model.modalities, run.model.auxiliary, run.model.temporal_dropout, run.training.seed) == (
        "late", (), True, True, 3,
    )  # fmt: skip
    assert run.model.is_published
    assert all(row.enhancement == NONE for row in ROWS["panoptic"] if row.scheme.startswith("S"))
    for row in ROWS["panoptic"]:  # PQ is a mean over classes, so no product of the means; never above either
        sq, rq, pq = row.published.values()
        assert pq < min(sq, rq)
        assert np.isclose(pq, sq * rq, atol=0.015)
    with pytest.raises(ExperimentError, match="Table 3 has S2, S1D, S1A, early, late"):
        chosen("panoptic", ["decision"])
    assert [row.scheme for row in chosen("segmentation", ["S2", "late"], ["temporal dropout"])] == ["S2", "late"]
    with pytest.raises(ExperimentError, match="Table 3 has no row of late with none"):
        chosen("panoptic", ["late"], ["none"])


def test_which_patches_is_asked_once(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["experiments", "panoptic", "--smoke", "--path", str(tmp_path)])
    assert answer.exit_code != 0
    assert "give one of" in answer.output + str(answer.exception)
    assert segmentation.SMOKE_MODEL["encoder"] != (64, 64, 64, 128)


def test_optical_dates_are_taken_away_at_random_and_radar_is_left(folder: Path) -> None:
    patches = read(folder)
    loading = Loading(patches, ("s2", "s1a"), patches.statistics((1, 2, 3)), 2)
    (whole, *_), ratios = loading.batches([0, 1]), (1.0, 0.5, 0.25, 0.0)
    thinned = [segmentation_clouds.without_optical(whole.batch, [0, 1], one, 3) for one in ratios]
    kept = torch.stack([one["s2"].valid for one in thinned]).int()
    assert kept.sum(2).tolist() == [[12, 12], [6, 6], [3, 3], [0, 0]]
    assert (kept.diff(dim=0) <= 0).all()  # what a smaller ratio keeps a larger one keeps
    assert (kept[1, 0] != kept[1, 1]).any()
    other = segmentation_clouds.without_optical(whole.batch, [0, 1], 0.5, 4)["s2"].valid
    assert (other.int() != kept[1]).any()
    assert all(one["s1a"] is whole.batch["s1a"] for one in thinned)


def test_clouds_go_on_from_the_tables_own_runs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN.format(path=folder))
    shared = ["--config", str(tmp_path / "run.toml"), "--schemes", "S2,S1D,late", "--out", str(tmp_path / "out")]

    def done(*words: str) -> list[Measurement]:
        answer = CliRunner().invoke(app, ["experiments", *words, *shared])
        assert answer.exit_code == 0, answer.output
        return read_csv(tmp_path / "out" / f"{words[0]}.csv")

    table = {
        (one.scheme, one.enhancement): one.value
        for one in done("panoptic")
        if (one.at, one.metric) == ("here", "F1 of objects")
    }
    weights = {one: one.stat().st_mtime_ns for one in (tmp_path / "out" / "runs").rglob("weights.pt")}
    first = [one for one in done("clouds", "--task", "panoptic", "--draws", "1") if one.metric == "F1 of objects"]
    assert {one: one.stat().st_mtime_ns for one in weights} == weights
    assert {(one.scheme, one.enhancement): one.value for one in first if one.x == 1} == table
    radar = {one.value for one in first if one.scheme == "S1D"}
    assert radar == {table["S1D", "none"]}
    text = (tmp_path / "out" / "clouds.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| late") and "0.376" in line)
    assert "0.3, published" in text.split(row)[0]
    kept = next((tmp_path / "out" / "runs").rglob("panoptic-S2-*/fold-1/clouds-0.json"))
    whole = json.loads(kept.read_text())
    whole["0.5"]["objects"] = {"hits": 1, "of": 4.0}  # what was found before is not asked again
    kept.write_text(json.dumps(whole))
    again = done("clouds", "--task", "panoptic", "--draws", "1")
    assert [one.value for one in again if (one.scheme, one.x, one.metric) == ("S2", 0.5, "F1 of objects")] == [0.25]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("clouds", "--task", "segmentation", "--smoke", "--season", "2024"),
            "--season is not an option of --task seg",
        ),
        (("clouds", "--smoke"), "--smoke is not an option of --task classification"),
        (("clouds", "--task", "panoptic", "--smoke", "--schemes", "decision"), "Table 3 has S2"),
        (("clouds", "--task", "panoptic"), "give one of --path"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(words: tuple[str, ...], said: str) -> None:
    answer = CliRunner().invoke(app, ["experiments", *words])
    assert isinstance(answer.exception, ExperimentError)
    assert said in str(answer.exception)
    assert "\n" not in str(answer.exception)


def test_timing_needs_no_training_and_times_the_published_form(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN.format(path=folder))
    shared = ["--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--rounds", "1", "--patches", "1"]
    for task, schemes, seconds in (("segmentation", "S2,early,late", 259), ("panoptic", "late", 819)):
        answer = CliRunner().invoke(app, ["experiments", "timing", "--task", task, "--schemes", schemes, *shared])
        assert answer.exit_code == 0, answer.output
        rows = read_csv(tmp_path / "out" / "timing.csv")
        assert {one.scheme for one in rows} == set(schemes.split(","))
        late = {(one.metric, one.at): one.value for one in rows if one.scheme == "late"}
        assert late["seconds of 500 patches", "published"] == seconds
        whole = late["seconds a patch", "reading"] + late["seconds a patch", "inference"]
        assert late["seconds of 500 patches", "here"] == pytest.approx(500 * whole)
        assert (("published form / ours", "inference") in late) == (task == "segmentation")
        assert "cannot be reproduced" in (tmp_path / "out" / "timing.md").read_text()
    assert not (tmp_path / "out" / "runs").exists()


def test_the_published_form_that_is_timed_gives_the_same(folder: Path) -> None:
    patches = read(folder)
    plain = {"data": {"kind": "pastis", "path": str(folder)}, "training": {"folds": [1]}}
    model = {"encoder": [16, 16], "decoder": [16, 16], "attention": 32, "heads": 4}
    batch = Loading(patches, ("s2", "s1a", "s1d"), patches.statistics((1, 2, 3)), 1).sample(0).batch
    for row in (one for one in ROWS["segmentation"] if one.enhancement in (DROPOUT, BOTH) and one.scheme != "S1A"):
        run = run_of("segmentation", {**plain, "model": model}, row, 0, Path("out"))
        network = network_of(run, patches).eval()
        assert isinstance(network, SegmentationNetwork)
        states = segmentation_timing.published_states(network, run)
        for name, state in states.items():
            ours = load_utae(state)
            network.features.encoders[name].load_state_dict(ours.state_dict(), strict=False)  # all but its head
            if row.scheme == "decision":
                network.auxiliary[name].load_state_dict(ours.head.state_dict())
            elif row.scheme != "late":
                assert network.head is not None
                network.head.load_state_dict(ours.head.state_dict())
        with torch.inference_mode():
            expected = network(batch).logits
        assert torch.allclose(segmentation_timing.published(network, states, batch), expected, atol=1e-4), row.scheme


def test_a_drawn_paps_finds_as_many_fields_as_pastis_has(folder: Path) -> None:
    patches = read(folder)
    run = run_of("panoptic", {"data": {"kind": "pastis", "path": str(folder)}}, ROWS["panoptic"][0], 0, Path("out"))
    network = network_of(run, patches).eval()
    assert isinstance(network, PanopticNetwork)
    batch = Loading(patches, ("s2",), patches.statistics((1, 2, 3)), 1).sample(0).batch
    segmentation_timing.as_trained(network, batch)
    with torch.inference_mode():
        found = network(batch)
    assert int((found.confidence >= network.head.config.min_confidence).sum()) == round(51 * 24**2 / 128**2)
    assert found.size.mean().item() == pytest.approx(16, abs=2)


def test_the_picture_chooses_patches_by_score_and_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN.format(path=folder))
    shared = ["--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--schemes", "S1D,late"]
    answer = CliRunner().invoke(app, ["experiments", "picture", "--task", "panoptic", *shared])
    assert answer.exit_code == 0, answer.output
    assert "highest, median and lowest PQ of late, temporal dropout among 1 test patches" in " ".join(
        answer.output.split()
    )
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"picture.png", "picture.csv", "picture.md", "runs"}
    answer = CliRunner().invoke(app, ["experiments", "picture", "--task", "classification", *shared])
    assert "--task classification: this is of segmentation and panoptic" in str(answer.exception)


def test_chosen_patches_are_the_highest_the_middle_and_the_lowest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1: [(0, 0.9)], 2: [(1, float("nan")), (4, 0.1), (2, 0.7), (3, 0.8)]}
    plain = {"data": {"kind": "pastis", "path": str(folder)}, "training": {"folds": [1, 2]}}
    row = ROWS["segmentation"][0]
    one = Training(row, 0, run_of("segmentation", plain, row, 0, Path("out")), Result({}, 0, {}))
    monkeypatch.setattr(segmentation_picture, "patch_scores", lambda _by, _patches, fold, _report: scores[fold])
    monkeypatch.setattr(segmentation_picture, "_answer", lambda _one, _patches, fold, row: ((fold, row), 0.0))
    shown = segmentation_picture.measure([one], lambda _: None)[2]
    assert [(it.rank, it.fold, it.row) for it in shown] == [("highest", 1, 0), ("median", 2, 2), ("lowest", 2, 4)]


def test_outlines_run_between_pixels_of_different_fields() -> None:
    found = segmentation_picture.outlines(np.array([[1, 1], [1, 2]]))
    assert found.tolist() == [[[0.5, 0.5], [0.5, 1.5]], [[0.5, 0.5], [1.5, 0.5]]]


def test_the_clear_date_has_the_darkest_blue() -> None:
    images = np.full((3, 2, 10, 10), 0.05, np.float32)
    images[0, 0, :3] = 0.4  # cloud over a third
    images[1, 0, 0, 0] = np.nan
    images[1, 0, 1:9] = 0.04
    images[2, 1] = 0.0  # another channel
    assert segmentation_picture.clear_date(images) == 1
