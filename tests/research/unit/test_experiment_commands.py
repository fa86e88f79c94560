"""`parcelwatch experiments`: what it writes where, and one clear line for what it cannot do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from research.experiments import experiment_commands
from research.experiments.schemes import ExperimentError
from training.errors import RunConfigError
from training.labelled import LabelledParcels

N = 30


def tiny(_config: object, _progress: object) -> LabelledParcels:
    """Two crops that one band tells apart; thirty parcels, two modalities."""
    parcel, random = np.repeat(np.arange(N), 4), np.random.default_rng(0)
    pixels = ((parcel % 2)[:, None, None] + 0.1 * random.normal(size=(4 * N, 1, 1))).astype(np.float32)
    one = Observations(pixels, np.tile([10, 40, 70, 99], N).astype(np.float32), parcel, np.zeros(4 * N, np.int16))
    return LabelledParcels(
        name="tiny",
        observations={"s2": one, "s1a": one},
        geometry=np.ones((N, 4)),
        labels=np.arange(N) % 2,
        classes=("a", "b"),
        modalities=(ModalityConfig("s2", ("B04",), pixels=1), ModalityConfig("s1a", ("VV",), pixels=1)),
        fold=np.arange(N) // 2 % 5 + 1,
        block=np.arange(N) // 2,
        scored_on=(50.0, 100.0),
        day_names=("May", "July"),
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]  # a function of words
    monkeypatch.setattr(experiment_commands, "open_source", tiny)
    monkeypatch.setattr("research.experiments.forest.N_TREES", 5)
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str) -> Result:
        with torch.random.fork_rng():
            return CliRunner().invoke(experiment_commands.app, words)

    return invoke


SMALL = ("--data", "nl", "--folds", "1", "--epochs", "1")


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("fusion", *SMALL, "--schemes", "S2"), ("fusion.csv", "fusion.md", "fusion.png")),
        (("clouds", *SMALL, "--schemes", "S2,late", "--draws", "1"), ("clouds.csv", "clouds.md", "clouds.png")),
        (("gradient-flow", *SMALL), ("gradient-flow.csv", "gradient-flow.md", "gradient-flow.png")),
        (
            ("in-season", *SMALL, "--schemes", "S2"),
            ("in-season.csv", "in-season.md", "in-season.png", "reliability.png"),
        ),
    ],
)
def test_each_writes_a_csv_a_table_and_a_plot(run, words: Sequence[str], files: Sequence[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run(*words)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "reports" / "experiments" / f"{words[0]}-nl"
    assert set(files) <= {one.name for one in folder.iterdir()}
    assert f"written to reports/experiments/{words[0]}-nl" in result.output


def test_the_configuration_of_a_training_run_will_do(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "run.toml").write_text(
        '[data]\nkind = "fr"\npath = "somewhere"\n[training]\nepochs = 1\n[model]\nnormalisation = "published"\n'
    )
    result = run(
        "fusion", "--config", "run.toml", "--schemes", "S2", "--folds", "2", "--enhancements", "none", "--no-forest"
    )
    assert result.exit_code == 0, result.output
    settings = (tmp_path / "reports/experiments/fusion-fr/runs/settings.json").read_text()
    assert '"published"' in settings
    assert '"epochs": 1' in settings


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("fusion",), ExperimentError, "which parcels"),
        (("fusion", *SMALL, "--seeds", "0,x"), ExperimentError, "--seeds 0,x: whole numbers"),
        (("fusion", *SMALL, "--enhancements", "magic"), ExperimentError, "known are none, auxiliary"),
        (("fusion", *SMALL, "--schemes", "S3"), ExperimentError, "not S3"),
        (("fusion", "--data", "nl", "--folds", "9"), ExperimentError, "--folds 9: from 1 to 5"),
        (("fusion", "--data", "database"), RunConfigError, "missing"),
        (("gradient-flow", *SMALL, "--schemes", "early"), ExperimentError, "share every parameter"),
        (("fusion", "--config", "nowhere.toml"), ExperimentError, "nowhere.toml"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, words: Sequence[str], error: type[Exception], said: str) -> None:  # type: ignore[no-untyped-def]
    result = run(*words)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
