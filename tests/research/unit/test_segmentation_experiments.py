"""Tables 2 and 3: rows as published, run on a small folder, with the published figures beside."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from parcelwatch import app
from research.experiments import segmentation
from research.experiments.pastis_simulated import Simulated, write_simulated
from research.experiments.pastis_synthetic import Landscape, write_patches
from research.experiments.schemes import ExperimentError
from research.experiments.segmentation import BOTH, NONE, ROWS, chosen, forest_scores, run_of
from research.experiments.tables import read_csv
from training.patch_images import read

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
