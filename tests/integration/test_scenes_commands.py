"""`parcelwatch scenes` as a person sees it, and the Flemish patch through the whole chain."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from db.sensors import S2_BANDS
from db.status import status
from ingest.errors import IngestError
from ingest.scenes import terminal
from ingest.scenes.commands import app
from tests.integration.test_imagery_flanders import GRID, Patch, as_safe, on_grid, patch, shifted
from tests.made_scenes import START, World, check_optical, optical, s2_item, world

__all__ = ["patch"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def chain(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("PARCELWATCH_SCENES_INDEX_FOLDER", str(tmp_path / "index"))
    monkeypatch.setattr(terminal, "stop_on_signals", threading.Event)
    monkeypatch.setenv("COLUMNS", "200")
    # Regions follow the pixels' edges: 6 m less takes the pixels along them.
    monkeypatch.setenv("PARCELWATCH_IMAGERY_S2_BUFFER_M", "6")
    monkeypatch.setenv("PARCELWATCH_IMAGERY_SAMPLE_PIXELS", "4096")
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        yield made


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def listed(*arguments: str) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in run("list", "--json", *arguments).splitlines()]
    return {row["scene_id"]: row for row in rows}


def test_the_flemish_patch_as_cogs_safe_and_zip(chain: World, patch: Patch, tmp_path: Path) -> None:
    outlines = {name: outline for name, outline in zip(patch.parcels.ids, patch.parcels.wkb, strict=True) if outline}
    chain.store_parcels(outlines, collection="flanders", year=2019)
    clear_share = np.array([np.isin(scl, [4, 5]).mean() for scl in patch.s2["SCL"]])
    dates = [int(date) for date in np.argsort(-clear_share) if patch.s2_at[date].year == 2019][:4]
    cogs = [
        s2_item(
            tmp_path / "cogs",
            {band: shifted(patch, band, date, baseline) for band in patch.s2},
            start=patch.s2_at[date],
            baseline=baseline,
            grid=GRID,
            driver="COG",
            blocksize=128,
        )
        for date, baseline in zip(dates[:2], ("02.14", "05.09"), strict=True)
    ]
    folder, zipped = (
        as_safe(patch, date, baseline, tmp_path) for date, baseline in zip(dates[2:], ("05.09", "02.14"), strict=True)
    )
    archive = Path(shutil.make_archive(str(tmp_path / zipped.stem), "zip", tmp_path, zipped.name))
    shutil.rmtree(zipped)
    assert "4 new, 0 known" in run("add", str(cogs[0]), str(cogs[1].parent), str(folder), str(archive))
    assert "4 cut" in run("work", "--until-idle")
    chain.consumer.catch_up()
    rows = listed("--state", "cut")
    assert len(rows) == 4
    for date in dates:
        at = patch.s2_at[date]
        numbers = {band: on_grid(patch.s2[band][date]) for band in patch.s2}
        clear = np.isin(numbers["SCL"], [4, 5, 6, 7]) & np.logical_and.reduce([numbers[band] > 0 for band in S2_BANDS])
        found = chain.current(at=at.replace(microsecond=0))
        expected = {}
        for number, name in enumerate(patch.parcels.ids):
            mine = patch.inner == number
            if mine.sum() >= 8 and (mine & clear).sum() >= max(np.ceil(0.05 * mine.sum()), 1):
                expected[name] = mine & clear
        assert set(found) == set(expected)
        assert len(found) > 5
        for name, row in found.items():
            check_optical(row, numbers, expected[name], offset=0.0)
    for row in rows.values():
        assert (row["adds_up"], row["is_stored"], row["expected"]) == (True, True, len(outlines))


def test_a_person_adds_looks_and_retries(chain: World, tmp_path: Path) -> None:
    assert "no scenes" in run("list")
    good, broken = s2_item(tmp_path, optical(1)), s2_item(tmp_path, optical(2), start=START + timedelta(days=1))
    name, other = good.parent.name, broken.parent.name
    band = broken.parent / "B08.tif"
    whole = band.read_bytes()
    band.write_bytes(whole[:3000])
    assert "2 new, 0 known" in run("add", str(good.parent), str(broken))
    assert "0 new, 2 known" in run("add", str(good.parent), str(broken))
    assert "2 empty" in run("work", "--until-idle")
    assert {row["cause"] for row in listed().values()} == {"no_parcels"}
    chain.store_parcels({"a": (2.2, 2.2, 20.2, 20.2), "b": (30.2, 30.2, 33.2, 33.2)})
    assert "2 scenes are due again" in run("retry", "--empty")
    assert "1 cut, 1 failed" in run("work", "--until-idle")
    with chain.engine.connect() as connection:
        signs = {what: value for part, what, value in status(connection) if part == "scenes"}
    assert signs["cut"] == "1"
    assert signs["failed: unreadable"].startswith("1, next try 20")
    assert "unreadable" in run("show", other)
    assert "B08.tif cannot be read" in json.loads(run("show", other, "--json"))["told"]
    band.write_bytes(whole)
    elsewhere = str(broken.parent.rename(tmp_path / "elsewhere"))
    assert "1 new, 1 known" in run("add", str(good.parent), elsewhere)
    assert "1 cut" in run("work", "--until-idle")
    assert "1 not stored yet" in run("show", name)
    chain.consumer.catch_up()
    shown = run("show", name)
    assert "skipped: too_few_pixels" in shown
    assert "not stored yet" not in shown
    told = json.loads(run("show", name, "--json"))
    assert (told["expected"], told["emitted"], told["skipped_by"], told["stored"]) == (2, 1, {"too_few_pixels": 1}, 1)
    assert listed("--limit", "1", "--since", "2020-01-01").keys() == {other}
    assert listed("--state", "failed") == {}
    run("retry", name)
    run("work", "--until-idle")
    chain.consumer.catch_up()
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]
    assert listed()[name]["stored"] == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["add", "{}/nowhere.SAFE"], "no such file or folder"),
        (["add", "{}/page.json"], "not JSON"),
        (["add", "{}/list.json"], "not a STAC item"),
        (["add", "{}/empty"], "neither a SAFE folder"),
        (["show", "X"], "scene 'X' is not in the ledger"),
        (["retry"], "say which"),
        (["retry", "X", "--failed"], "say which"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], match: str, chain: World, tmp_path: Path) -> None:  # noqa: ARG001
    (tmp_path / "page.json").write_text("<html>")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match=match) as caught:
        CliRunner().invoke(app, [one.format(tmp_path) for one in arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)


def test_an_unknown_state_is_told() -> None:
    done = CliRunner().invoke(app, ["list", "--state", "lost"])
    assert done.exit_code == 2
