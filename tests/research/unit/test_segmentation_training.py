"""Training networks of pixels and of fields: they learn, go on where they were killed, and say in one line what is wrong."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rasterio.features import rasterize
from typer.testing import CliRunner

from db.sensors import S2_BANDS
from ingest.delineation.season import SeasonScenes
from ingest.imagery.settings import ImagerySettings
from models.checkpoint import Checkpoint
from models.segmentation.at_rest import from_checkpoint
from models.segmentation.network import SegmentationNetwork
from parcelwatch import app
from research.experiments.pastis_synthetic import Landscape, write_patches
from tests.made_scenes import GRID, START, blanked, optical, s2_item
from training.errors import RunConfigError
from training.patch_images import read as read_patches
from training.patches import Loading, Patch, training_folds
from training.segmentation_config import SegmentationRun, Task, parse
from training.segmentation_fitting import Epoch
from training.segmentation_run import Result, run_all

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NARROW = {"encoder": [16, 16], "decoder": [16, 16], "attention": 32, "heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    landscape = Landscape(patches=10, side=24, fields=3, dates=(12, 5, 4), classes=(1, 15))
    return write_patches(tmp_path_factory.mktemp("made") / "pastis", landscape)


def asked(task: Task, folder: Path, out: Path, model: dict[str, Any] | None = None, **training: Any) -> SegmentationRun:
    return parse(
        task,
        {
            "data": {"kind": "pastis", "path": str(folder)},
            "model": {**NARROW, **(model or {})},
            "training": {"folds": [1], "workers": 0, "batch": 2, **training},
            "run": {"folder": str(out)},
        },
        "here",
    )


class Killed(Exception):
    pass


def go(run: SegmentationRun, kill_at: int | None = None) -> Result:
    def on_epoch(_: str, epoch: Epoch) -> None:
        if epoch.number == kill_at:
            raise Killed

    return run_all(run, read_patches(run.data.path), NOW, on_epoch)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "fusion"), [("segmentation", "late"), ("segmentation", "decision"), ("panoptic", "early")]
)
def test_a_killed_run_goes_on_to_the_same_weights_and_curve(
    task: Task, fusion: str, folder: Path, tmp_path: Path
) -> None:
    whole = asked(task, folder, tmp_path / "whole", {"fusion": fusion}, epochs=2, augment=True)
    found = go(whole)
    halved = asked(task, folder, tmp_path / "halved", {"fusion": fusion}, epochs=2, augment=True)
    with pytest.raises(Killed):
        go(halved, kill_at=1)
    torch.rand(7)  # another state of the process's random numbers
    assert str(go(halved)) == str(found)  # as text, in which NaN is NaN
    curves = [(tmp_path / one / "fold-1/metrics.csv").read_text() for one in ("whole", "halved")]
    assert curves[0] == curves[1]
    assert len(curves[0].splitlines()) == 3
    one, other = (torch.load(tmp_path / name / "fold-1/weights.pt", weights_only=True) for name in ("whole", "halved"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {"curves.png", "metrics.md", "metrics.json", "environment.json"} <= {
        path.name for path in (tmp_path / "halved").iterdir()
    }


def test_pixels_are_learnt_and_scored_over_folds(folder: Path, tmp_path: Path) -> None:
    model = {"modalities": ["s2"], "temporal_dropout": False}
    run = asked("segmentation", folder, tmp_path / "run", model, epochs=30, folds=[1, 2], learning_rate=0.01)
    assert go(run).metrics["mIoU"] > 0.5
    counts = [np.array(json.loads((tmp_path / f"run/fold-{k}/counts.json").read_text())["confusion"]) for k in (1, 2)]
    # Void is left out: so many pixels of the two test folds are not.
    labels = [np.load(folder / "ANNOTATIONS" / f"TARGET_{10_000 + nr}.npy")[0] for nr in (0, 1, 5, 6)]
    assert sum(int(one.sum()) for one in counts) == sum(int((one != 19).sum()) for one in labels)
    with pytest.raises(RunConfigError, match="holds another run"):
        go(asked("segmentation", folder, tmp_path / "run", {"modalities": ["s1a"]}))


def test_what_was_trained_draws_fields_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    model = {"modalities": ["s2"], "temporal_dropout": False}
    go(asked("segmentation", folder, tmp_path / "run", model, epochs=1))
    scenes = tmp_path / "scenes"
    for nr in range(4):
        numbers = optical(nr)
        if nr == 2:
            numbers = blanked(numbers, slice(0, 24))  # no value there
        s2_item(scenes, numbers, start=START + timedelta(days=10 * nr))
    out = tmp_path / "fields.parquet"
    # One window; outlines along the pixels.
    arguments = ["--model", tmp_path / "run", "--window", 64, "--overlap", 2, "--tolerance", 0, "--min-ha", 0]
    answer = CliRunner().invoke(app, ["delineate", str(scenes), "--out", str(out), *map(str, arguments)])
    assert answer.exit_code == 0, answer.output

    fold = tmp_path / "run/fold-1"
    network, about = from_checkpoint(Checkpoint((fold / "weights.pt").read_bytes(), (fold / "model.json").read_text()))
    assert isinstance(network, SegmentationNetwork)
    assert about["starts_on"] == "2018-09-01"
    with SeasonScenes([str(scenes)], S2_BANDS, ImagerySettings()) as season:
        images, days = season.images(0, 0, 64, 64, is_masked=False), season.days(date(2022, 9, 1))
    assert days[0] == 242
    assert np.isnan(images).any((1, 2, 3)).tolist() == [False, False, True, False]
    patches = read_patches(folder)
    seen = Patch({"s2": images}, {"s2": days.astype(np.float32)}, *np.zeros((2, 64, 64), np.int64))
    alone = replace(patches, read=lambda *_: seen)
    loaded = Loading(alone, ("s2",), patches.statistics(training_folds(1)), 1).sample(0)
    with torch.inference_mode():
        probability = network(loaded.batch).logits.softmax(1)[0].numpy()
    drawn = gpd.read_parquet(out)
    assert len(drawn) > 3
    for one in drawn.itertuples():
        is_field = rasterize([one.geometry], (64, 64), transform=rasterio.Affine(*GRID.transform), dtype="uint8") > 0
        mean = probability[:, is_field].mean(1)
        assert patches.classes[mean.argmax()] == one._4
        assert mean.max() == pytest.approx(one._5, abs=1e-5)


def test_the_rate_of_fields_falls_to_a_tenth_halfway(folder: Path, tmp_path: Path) -> None:
    fields, pixels = (asked(task, folder, tmp_path) for task in ("panoptic", "segmentation"))
    assert [fields.rate(epoch) for epoch in (1, 50, 51, 100)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert {pixels.rate(epoch) for epoch in (1, 50, 51, 100)} == {0.001}
    cosine = asked("segmentation", folder, tmp_path, epochs=100, schedule="cosine")
    assert [cosine.rate(epoch) for epoch in (1, 51, 100)] == pytest.approx([1e-3, 5e-4, 2.5e-7], rel=0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "[data] kind: one of patches, pastis is needed"),
        ('[data]\nkind = "pastis"\n', "[data] path: missing"),
        ('[data]\nkind = "pastis"\npath = "x"\n', "[run]: missing"),
        ('[data]\nkind = "pastis"\npath = "x"\n[model]\nfusion = "mid"\n[run]\nfolder = "y"\n', "[model] fusion"),
        ('[data]\nkind = "pastis"\npath = "x"\n[model]\nheads = 7\n[run]\nfolder = "y"\n', "multiple of 7 heads"),
        ('[data]\nkind = "pastis"\npath = "no-such"\n[run]\nfolder = "y"\n', "no-such"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    answer = CliRunner().invoke(app, ["models", "train", "segmentation", "--config", str(path)])
    assert answer.exit_code != 0
    assert said in (answer.output + str(answer.exception))


def test_what_the_source_has_not(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunConfigError, match="has s2, s1a, s1d, not s3"):
        go(asked("segmentation", folder, tmp_path / "a", {"modalities": ["s3"]}))
    few = write_patches(tmp_path / "few", Landscape(patches=2, side=24, fields=3, dates=(3, 3, 3), classes=(1, 3)))
    with pytest.raises(RunConfigError, match="no patch to validate on for test fold 1"):
        go(asked("segmentation", few, tmp_path / "b"))
