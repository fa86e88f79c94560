"""A real season through the whole chain by the command: trained on one half of the French pixels, scored on the other."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pandas as pd
import pytest

import parcelwatch


@pytest.fixture
def halves(data_dir: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of the French form: the pixels dealt by their ids."""
    source = data_dir("fr-worldcereal-2023")
    dekads = pd.read_parquet(source / "dekads.parquet")
    is_first = dekads["sample_id"].map(lambda one: crc32(str(one).encode()) % 2 == 0)
    folders = []
    for name, rows in (("one", dekads[is_first]), ("other", dekads[~is_first])):
        folder = tmp_path / name
        folder.mkdir()
        rows.to_parquet(folder / "dekads.parquet")
        shutil.copy(source / "class_mappings.json", folder)
        folders.append(folder)
    return folders[0], folders[1]


@pytest.mark.timeout(400)
def test_trained_on_one_folder_scored_on_another(
    halves: tuple[Path, Path],
    dsn: str,
    bootstrap: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    scores_file, log = tmp_path / "scores.json", tmp_path / "LOG.md"
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", bootstrap)
    monkeypatch.setattr(
        "sys.argv",
        [
            "parcelwatch",
            "replay",
            "fr",
            str(halves[1]),
            "--train-on",
            str(halves[0]),
            "--json",
            str(scores_file),
            "--log",
            str(log),
            "--epochs",
            "12",
            "--ndvi-updates",
            "20",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        parcelwatch.main()
    assert not ended.value.code
    printed = capfd.readouterr().out
    assert re.search(r"servers: database parcelwatch_\S+, topics \S+", printed)
    assert re.search(r"^replay: .*, 0:\d\d:\d\d so far, about 0:\d\d:\d\d left$", printed, re.MULTILINE)
    assert "replay: done after 0:" in printed
    scores = json.loads(scores_file.read_text())
    assert scores["facts"]["observations sent"] == scores["facts"]["stored"] > 20_000
    assert scores["facts"]["dead letters"] == 0
    assert scores["facts"]["posteriors"] > 3_000
    ours = scores["classes"]["parcelwatch"]
    assert len(ours) == 5
    last = ours[max(ours)]
    commonest = max(sum(row) for row in last["confusion"]) / last["n"]
    assert last["accuracy"] > commonest + 0.05  # unseen pixels, better than to name the commonest crop
    assert set(scores["classes"]["random forest"]) == set(ours)
    (radar_alone,) = scores["ndvi"].values()
    assert radar_alone["n"] > 1_000
    assert 0 < radar_alone["rmse"] < 0.5
    assert len(radar_alone["per_day"]) > 20
    assert "macro-F1" in log.read_text()


def test_a_folder_is_not_scored_on_itself(
    halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["parcelwatch", "replay", "fr", str(halves[0]), "--train-on", str(halves[0])])
    with pytest.raises(SystemExit):
        parcelwatch.main()
    assert "says nothing" in capfd.readouterr().err
