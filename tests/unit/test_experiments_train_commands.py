"""The command's options: what belongs together, what wins, and where it may run."""

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from training.classifier_command import classifier
from training.config import read
from training.devices import session
from training.errors import RunConfigError

DATA_AND_SEED = '[data]\nkind = "nl"\npath = "x"\n[training]\nseed = 5\n'


def test_options_win_over_the_file_and_are_checked_like_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'{DATA_AND_SEED}[run]\nfolder = "there"\n')
    got = read(file, {"training": {"epochs": 7, "seed": None}, "run": {"folder": Path("here")}})
    assert (got.training.epochs, got.training.seed, got.run.folder) == (7, 5, Path("here"))
    with pytest.raises(RunConfigError, match=r"run.toml: \[training\] epochs = 0"):
        read(file, {"training": {"epochs": 0}})


def test_a_folder_given_as_an_option_needs_no_run_table(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(DATA_AND_SEED)
    assert read(file, {"run": {"folder": Path("here")}}).run.folder == Path("here")
    with pytest.raises(RunConfigError, match=r"\[run\]: missing"):
        read(file, {"run": {"folder": None}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "name a stored season with --season and --collection, or a file with --config"),
        (["--season", "2025"], "name a stored season"),
        (["--config", "a.toml", "--season", "2025"], "give --season and --collection, or --config a.toml, not both"),
        (["--config", "none.toml"], "none.toml: no such file"),
    ],
)
def test_what_does_not_belong_together_is_said(given: list[str], said: str) -> None:
    app = typer.Typer()
    app.command()(classifier)
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, RunConfigError)
    assert said in str(result.exception)


@pytest.mark.parametrize("device", ["moon", "cuda"])
def test_a_device_that_is_not_there_is_said(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunConfigError, match=f"device '{device}'"), session(device):
        pass
