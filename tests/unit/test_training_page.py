"""The training page's own example: its table, its file and its lines of Python, run as they are printed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from training.classifier_command import classifier

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_a_table_of_ones_own_is_made_trained_on_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    making, scoring = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (file,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(making, PAGE, "exec"), names)  # the page is ours
    Path("fields.toml").write_text(file)
    app = typer.Typer()
    app.command()(classifier)
    with torch.random.fork_rng():
        result = CliRunner().invoke(app, ["--config", "fields.toml"])
        assert result.exit_code == 0, (result.output, result.exception)
        exec(compile(scoring, PAGE, "exec"), names)
    assert "1 Sep" in result.output
    with np.load("runs/fields/predictions.npz") as kept:
        assert set(kept["parcel_id"]) == {f"field-{number}" for number in range(60)}
        assert kept["probabilities"].shape == (3, 60, 2)
        assert (kept["probabilities"][-1].argmax(-1) == kept["truth"]).mean() > 0.9
    assert Path("runs/fields/final/model.json").exists()
    assert "| macro-F1 |" in capsys.readouterr().out
