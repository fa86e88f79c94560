"""The folder of a run: a run that was killed goes on and ends with the weights of one that was not."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.classifier.fitting import Epoch
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from training.config import RunConfig, parse, read
from training.cross_validation import CrossValidation, cross_validate
from training.errors import RunConfigError
from training.labelled import LabelledParcels
from training.run import write_results
from training.run_folder import RunFolder, write
from training.scores import score

PARCELS = 40


class Killed(Exception):
    """Stands for a process that is gone."""


@pytest.fixture(scope="module")
def data() -> LabelledParcels:
    """Two crops told apart by a level."""
    random, label, parcel = np.random.default_rng(0), np.arange(PARCELS) % 2, np.repeat(np.arange(PARCELS), 4)
    pixels = (random.normal(size=(len(parcel), 1, 3)) + 2 * label[parcel][:, None, None]).astype(np.float32)
    day = np.tile(np.linspace(0, 100, 4), PARCELS).astype(np.float32)
    block = np.arange(PARCELS) // 2
    return LabelledParcels(
        "made up",
        {"s2": Observations(pixels, day, parcel, np.zeros(len(parcel), np.int16))},
        np.full((PARCELS, 4), np.nan),
        label,
        ("low", "high"),
        (ModalityConfig("s2", ("NDVI",), pixels=2),),
        block % 5 + 1,
        block,
        (50.0, 100.0),
        ("middle", "end"),
    )


def config(folder: Path, **training: Any) -> RunConfig:
    quick = {"epochs": 3, "batch": 8, "validate_every": 1, "folds": [1, 2], "inner_folds": 2}
    return parse(
        {
            "data": {"kind": "nl", "path": "nowhere"},
            "model": {"pixel_widths": [4], "decoder": [8]},
            "training": {**quick, **training},
            "run": {"folder": str(folder)},
        },
        "test",
    )


def ran(asked: RunConfig, data: LabelledParcels, stop_at: int | None = None) -> CrossValidation:
    """A run, killed in the middle of what follows its stop_at-th epoch."""
    seen = 0

    def told(_name: str, _epoch: Epoch) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_at:
            raise Killed

    folder = RunFolder.open(asked)
    return cross_validate(data, asked.model, asked.training, folder=folder, on_epoch=told)


@pytest.fixture(scope="module")
def whole(data: LabelledParcels, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    return ran(config(tmp_path_factory.mktemp("whole") / "run"), data)


# A fold is 2 held-out sets and a refit of 3 epochs each: 1 to 9; the second fold 10 to 18.
@pytest.mark.parametrize("stops", [(1,), (3,), (5, 1), (9,), (13, 2)])
def test_a_killed_run_ends_as_one_that_was_not(
    stops: tuple[int, ...], data: LabelledParcels, whole: CrossValidation, tmp_path: Path
) -> None:
    asked = config(tmp_path / "run")
    for stop in stops:
        with pytest.raises(Killed):
            ran(asked, data, stop)
        torch.manual_seed(99)  # nothing may depend on the state of the process
    known = ran(asked, data)
    for fold, model in whole.models.items():
        assert known.models[fold].to_checkpoint().model == model.to_checkpoint().model
    np.testing.assert_array_equal(known.probabilities, whole.probabilities)
    with (tmp_path / "run" / "fold-1" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(one["round"]), int(one["number"])) for one in rows] == [(r, n) for r in (1, 2, 3) for n in (1, 2, 3)]
    assert [bool(one["miou"]) for one in rows] == [True] * 6 + [False] * 3


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
def test_both_schedules_go_on(schedule: str, data: LabelledParcels, tmp_path: Path) -> None:
    same = {"schedule": schedule, "folds": [1], "inner_folds": 1, "refit": False, "validation": "fold"}
    one, other = config(tmp_path / "one", **same), config(tmp_path / "other", **same)
    with pytest.raises(Killed):
        ran(one, data, 2)
    models = [ran(each, data).models[1].to_checkpoint().model for each in (one, other)]
    assert models[0] == models[1]


def test_what_is_finished_is_not_trained_again(data: LabelledParcels, tmp_path: Path) -> None:
    asked = config(tmp_path / "run", folds=[1])
    first = ran(asked, data)
    again = ran(asked, data, stop_at=1)  # an epoch would be told, and stop it
    assert first.models[1].to_checkpoint().model == again.models[1].to_checkpoint().model


def test_a_folder_without_a_finished_epoch_is_free(tmp_path: Path) -> None:
    RunFolder.open(config(tmp_path / "run")).write_environment(
        config(tmp_path / "run"), datetime(2026, 1, 1, tzinfo=UTC)
    )
    RunFolder.open(config(tmp_path / "run", seed=1))
    assert read(tmp_path / "run" / "config.toml").training.seed == 1
    assert not (tmp_path / "run" / "environment.json").exists()  # it was of the run that failed


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    write(RunFolder.open(config(tmp_path / "run")).part("fold-1").folder / "last.pt", b"an epoch")
    RunFolder.open(config(tmp_path / "run", device="cuda"))  # the same run elsewhere
    with pytest.raises(
        RunConfigError, match=r"run holds another run \(\[training\] seed differ\): name another folder"
    ):
        RunFolder.open(config(tmp_path / "run", seed=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    with pytest.raises(RunConfigError, match="is not empty and holds no run"):
        RunFolder.open(config(tmp_path / "other"))
    assert [one.name for one in (tmp_path / "other").iterdir()] == ["thesis.doc"]


def test_results_are_all_there(data: LabelledParcels, tmp_path: Path) -> None:
    asked = config(tmp_path / "run", folds=[1])
    whole, folder = ran(asked, data), RunFolder.open(asked)
    folder.write_environment(asked, datetime(2026, 1, 1, tzinfo=UTC))
    write_results(folder, asked, data, whole, score(whole))
    names = {
        "config.toml",
        "environment.json",
        "metrics.json",
        "metrics.md",
        "confusion.csv",
        "confusion.png",
        "curves.png",
        "reliability.png",
        "predictions.npz",
        "fold-1",
    }
    assert {one.name for one in folder.path.iterdir()} == names
    (environment,) = json.loads((folder.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["started_at"] == "2026-01-01T00:00:00+00:00"
    with np.load(folder.path / "predictions.npz") as kept:
        np.testing.assert_array_equal(kept["probabilities"], whole.probabilities)
        assert kept["parcel_id"].tolist() == whole.parcel.astype(str).tolist(), "a source without ids: rows"
    table = (folder.path / "metrics.md").read_text().partition("Parcels by true crop (rows)")[2].splitlines()
    assert sum(int(row.split("|")[-2]) for row in table[4:]) == len(whole.truth)
    with (folder.path / "confusion.csv").open() as file:
        assert sum(int(one["parcels"]) for one in csv.DictReader(file)) == 2 * len(whole.truth)
