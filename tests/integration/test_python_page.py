"""The Python page's own lines, one after the other, on the models and the store that it names."""

import re
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from db import observations
from db.connect import engine
from db.parcels import load_parcels
from ingest.stream.settings import IngestSettings
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.seasons.season_stream import Chain, import_season
from research.simulator import SimulatorConfig, simulate_season
from training.classifier_command import classifier
from training.ndvi_command import ndvi

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2025, 12, 1, tzinfo=UTC)
PNG = b"\x89PNG"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def store(dsn: str) -> None:
    """A simulated season with its Sentinel-2 observations."""
    season = simulate_season(SimulatorConfig(n_parcels=40, n_pixels=1, s1_every_d=12, s1_orbits=1))
    chain = Chain(dsn, "nobody:9092", IngestSettings(), Worker(dsn, MonitorSettings()))
    known, _ = import_season(chain, season, "simulated", NOW)
    with engine(dsn).begin() as connection:
        key_of = {one.source_id: one.parcel_key for one in load_parcels(connection, known, "simulated")}
        for one in season.acquisitions():
            if one.sensor.upper() == "S2" and one.table.num_rows:
                keys = np.array([key_of[name] for name in one.table["parcel_id"].to_pylist()], np.int64)
                observations.insert(connection, "S2", one.table, keys, NOW)


def train(command: object, *words: str) -> None:
    app = typer.Typer()
    app.command()(command)  # type: ignore[type-var]
    with torch.random.fork_rng():
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)


def test_the_page_gives_posteriors_a_curve_with_its_picture_and_a_history(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    store(dsn)
    exec(compile(blocks("training.md", "python")[0], "training.md", "exec"), {})  # the pages are ours
    Path("fields.toml").write_text(blocks("training.md", "toml")[0])
    train(classifier, "--config", "fields.toml")
    (file,) = blocks("python.md", "toml")
    Path("curves.toml").write_text(file.replace("n_updates = 300", "n_updates = 2").replace("= 120", "= 40"))
    train(ndvi, "--config", "curves.toml", "--out", "models/curves")
    capsys.readouterr()
    names: dict[str, object] = {}
    for number, code in enumerate(blocks("python.md", "python")):
        exec(compile(code, f"python.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    (readme,) = blocks("../README.md", "python")
    exec(compile(readme, "README.md", "exec"), {})
    assert "field-59" in capsys.readouterr().out
    assert "field-59" in shown
    assert "('maize', 'wheat')" in shown
    assert "declaration" in shown or "declared" in shown
    assert Path("python-curve.png").read_bytes().startswith(PNG)
    assert (DOCS / "figures" / "python-curve.png").read_bytes().startswith(PNG)
    engine(dsn).dispose()
