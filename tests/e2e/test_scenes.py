"""Imagery in, posteriors out: the Flemish patch as a catalogue and as SAFE folders through every command of a season."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

import parcelwatch
from db.sensors import S2_BANDS
from ingest.scenes import terminal
from tests.integration.test_imagery_flanders import GRID, Patch, as_safe, on_grid, patch, shifted
from tests.made_scenes import World, check_optical, s1_item, s2_item, world
from tests.stac_server import StacServer

__all__ = ["patch"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BASELINES = ("02.14", "05.09")
"""Before and from 04.00, which brought the offset."""
N_S2, N_S1 = 16, 8
LEAST_CLEAR, LEAST_PIXELS = 0.05, 8


@pytest.fixture
def chain(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    settings = {
        "DSN": dsn,
        "BOOTSTRAP": bootstrap,
        "INGEST_TOPIC_PREFIX": topic_prefix,
        "SCENES_INDEX_FOLDER": tmp_path / "index",
        # Regions follow the pixels' edges: 6 m less takes the pixels along them. Sets hold every pixel, to be compared.
        "IMAGERY_S2_BUFFER_M": 6,
        "IMAGERY_S1_BUFFER_M": 6,
        "IMAGERY_SAMPLE_PIXELS": 4096,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"PARCELWATCH_{name}", str(value))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(terminal, "stop_on_signals", threading.Event)  # pytest keeps its own
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        yield made


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


def run(*arguments: object) -> str:
    """What a command prints."""
    done = CliRunner().invoke(parcelwatch.app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows(*arguments: object) -> list[dict[str, Any]]:
    """What a command prints with --json."""
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


def parcel_file(patch: Patch, path: Path) -> Path:
    """The regions of the crop raster as an agency's file, with two made-up crops, so that there is something to learn."""
    outlines = shapely.from_wkb(patch.parcels.wkb)
    crops = ["wheat" if nr % 2 else "grass" for nr in range(len(outlines))]
    table = {"field": patch.parcels.ids, "crop": crops}
    geopandas.GeoDataFrame(table, geometry=outlines, crs="EPSG:4326").to_file(path)
    return path


def serve(patch: Patch, server: StacServer, folder: Path, s2_dates: list[int], s1_dates: list[int]) -> None:
    """Acquisitions as COGs behind the catalogue, with the two kinds of baseline in turn."""
    box = tuple(shapely.total_bounds(shapely.from_wkb(patch.parcels.wkb)).tolist())
    for nr, date in enumerate(s2_dates):
        baseline = BASELINES[nr % 2]
        numbers = {band: shifted(patch, band, date, baseline) for band in patch.s2}
        at = patch.s2_at[date]
        path = s2_item(folder, numbers, start=at, baseline=baseline, grid=GRID, driver="COG", blocksize=128)
        server.publish(path, "optical", box)
    for date in s1_dates:
        numbers = {band: patch.s1[band][date] for band in ("VV", "VH")}
        path = s1_item(
            folder,
            numbers,
            start=patch.s1_at[date],
            datatake=f"{date:06X}",
            grid=GRID,
            stored={"unit": "dB", "scale": 1e-4},
            driver="COG",
            blocksize=128,
        )
        server.publish(path, "radar", box)


def optical_truth(patch: Patch, date: int) -> dict[str, np.ndarray]:
    """The clear pixels of every parcel that must be observed, by the numbers of the original file."""
    numbers = {band: on_grid(patch.s2[band][date]) for band in patch.s2}
    clear = np.isin(numbers["SCL"], [4, 5, 6, 7]) & np.logical_and.reduce([numbers[band] > 0 for band in S2_BANDS])
    return {name: mine & clear for name, mine in fields(patch).items() if is_enough(mine, clear)}


def radar_truth(patch: Patch, date: int) -> dict[str, np.ndarray]:
    there = np.logical_and(*(on_grid(patch.s1[band][date]) != 0 for band in ("VV", "VH")))
    return {name: mine & there for name, mine in fields(patch).items() if is_enough(mine, there)}


def is_enough(mine: np.ndarray, valid: np.ndarray) -> bool:
    return bool((mine & valid).sum() >= max(np.ceil(LEAST_CLEAR * mine.sum()), 1))


def fields(patch: Patch) -> dict[str, np.ndarray]:
    masks = {name: patch.inner == number for number, name in enumerate(patch.parcels.ids)}
    return {name: mine for name, mine in masks.items() if mine.sum() >= LEAST_PIXELS}


def check_radar(row: dict[str, Any], patch: Patch, date: int, mine: np.ndarray) -> None:
    decibel = np.array([on_grid(patch.s1[band][date])[mine] * 1e-4 for band in ("VV", "VH")])
    assert row["n_pixels"] == mine.sum()
    for band, values in zip(("vv", "vh"), 10 ** (decibel / 10), strict=True):
        assert row[band] == pytest.approx(values.mean(), rel=1e-6)
        assert row[f"{band}_sd"] == pytest.approx(values.std(), rel=1e-4, abs=1e-7)
    pixels = np.frombuffer(row["pixels"], "<i2").reshape(2, -1)
    pixels = pixels[:, (pixels != -32768).all(axis=0)]
    truth = np.rint(decibel * 100).astype(int)
    assert np.array_equal(pixels[:, np.lexsort(pixels)], truth[:, np.lexsort(truth)])


def check_stored(chain: World, patch: Patch, s2_dates: list[int], s1_dates: list[int]) -> Counter[tuple[str, str]]:
    """Every observation of every date against the original numbers; returns how many of each parcel and sensor there are."""
    unwatched = {
        row["source_id"] for row in chain.rows("select source_id from parcels where not_monitorable_reason <> ''")
    }
    seen: Counter[tuple[str, str]] = Counter()
    for sensor, dates in (("s2", s2_dates), ("s1", s1_dates)):
        for date in dates:
            at = patch.s2_at[date].replace(microsecond=0) if sensor == "s2" else patch.s1_at[date]
            expected = optical_truth(patch, date) if sensor == "s2" else radar_truth(patch, date)
            found = chain.current(sensor, at)
            assert set(found) == set(expected) - unwatched
            for name, row in found.items():
                seen[name, sensor] += 1
                if sensor == "s2":
                    check_optical(row, {band: patch.s2[band][date] for band in patch.s2}, expected[name], offset=0.0)
                else:
                    check_radar(row, patch, date, expected[name])
    return seen


@pytest.mark.timeout(300)
def test_from_a_catalogue_to_posteriors(chain: World, server: StacServer, patch: Patch, tmp_path: Path) -> None:
    season = [date for date, at in enumerate(patch.s2_at) if at.year == 2019]
    optical = sorted(season, key=lambda date: -np.isin(patch.s2["SCL"][date], [4, 5]).mean())[:N_S2]
    cogs, safes = optical[:-2], optical[-2:]
    radar = [date for date, at in enumerate(patch.s1_at) if at.year == 2019][::7][:N_S1]
    serve(patch, server, tmp_path / "cogs", cogs, radar)
    profile = tmp_path / "local.toml"
    profile.write_text(
        f'title = "local"\napi = "{server.api}"\npublished = "created"\npage_size = 5\n'
        '[sensors.S2]\ncollections = ["optical"]\n[sensors.S1]\ncollections = ["radar"]\n'
    )

    run(
        "parcels",
        "import",
        parcel_file(patch, tmp_path / "fields.gpkg"),
        "--collection",
        "flanders",
        "--season",
        "2019",
        "--id-column",
        "field",
        "--crop-code-column",
        "crop",
        "--region",
        "patch",
    )
    polled = run("scenes", "poll", profile, "--since", "2019-01-01")
    assert f"{len(cogs)} new, 0 known" in polled
    assert f"{len(radar)} new, 0 known" in polled
    folders = [as_safe(patch, date, baseline, tmp_path) for date, baseline in zip(safes, BASELINES, strict=True)]
    assert "2 new" in run("scenes", "add", *folders)
    assert f"scenes: {len(optical) + len(radar)} cut" in run("scenes", "work", "--until-idle")
    assert "0 new" in run("scenes", "poll", profile)
    run("ingest", "run", "--until-end")

    ledger = rows("scenes", "list")
    assert len(ledger) == len(optical) + len(radar)
    assert {(row["adds_up"], row["is_stored"], row["expected"]) for row in ledger} == {(True, True, len(patch.parcels))}
    assert {row["baseline"] for row in ledger if row["sensor"] == "S2"} == set(BASELINES)
    seen = check_stored(chain, patch, optical, radar)
    assert seen.total() > 200
    stored = chain.rows("select (select count(*) from s2_observations) + (select count(*) from s1_observations) as n")
    assert stored == [{"n": seen.total()}]
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]

    watch(tmp_path)
    check_beliefs(chain, seen)
    before, curves, moment = beliefs(chain), curve(chain), chain.rows("select now() as t")[0]["t"]
    process_anew(chain, server, patch, cogs[0], profile, tmp_path)
    check_beliefs(chain, seen)
    changed = {name for name, row in beliefs(chain).items() if row["probabilities"] != before[name]["probabilities"]}
    assert changed == {name for name in optical_truth(patch, cogs[0]) if (name, "s2") in seen}
    assert curve(chain) != curves
    assert beliefs(chain, f"where recorded_at <= '{moment}'") == before, "what was believed can still be asked for"


def watch(folder: Path) -> None:
    """Both models, hardly trained, watch the season."""
    season = ("--season", "2019", "--collection", "flanders")
    quick = folder / "quick.toml"
    quick.write_text("n_members = 1\nn_updates = 5\n")
    run("models", "train", "classifier", *season, "--min-parcels", "2", "--epochs", "2", "--out", folder / "classifier")
    run("models", "train", "ndvi", *season, "--min-area-ha", "0", "--config", quick, "--out", folder / "ndvi")
    for key in (1, 2):
        run("models", "activate", key, *season)
    run("monitor", "once")


def process_anew(chain: World, server: StacServer, patch: Patch, date: int, profile: Path, folder: Path) -> None:
    """A newer processing of one date, with brighter pixels, is found, cut, stored and taken into account."""
    at = patch.s2_at[date]

    def more(values: np.ndarray, by: int) -> np.ndarray:
        return np.where(values > 0, values.astype(np.uint16) + by, 0).astype(np.uint16)

    classes = {"SCL": patch.s2["SCL"][date]}
    brighter = {band: more(patch.s2[band][date], 400) for band in S2_BANDS} | classes
    numbers = {band: more(brighter[band], 1000) for band in S2_BANDS} | classes
    made = datetime.now(UTC)
    path = s2_item(folder / "newer", numbers, start=at, baseline="05.10", made=made, driver="COG", blocksize=128)
    server.publish(path, "optical", (4.0, 50.7, 4.1, 50.8))
    assert "1 new" in run("scenes", "poll", profile, "--sensor", "S2")
    assert "1 cut" in run("scenes", "work", "--until-idle")
    run("ingest", "run", "--until-end")
    run("monitor", "once")
    told = {row["state"]: row for row in rows("scenes", "list") if row["datatake"] == f"S2A_{at:%Y%m%dT%H%M%S}"}
    assert set(told) == {"cut", "superseded"}
    assert (told["cut"]["revision"], told["superseded"]["superseded_by"]) == (1, path.parent.name)
    for name, row in chain.current("s2", at.replace(microsecond=0)).items():
        check_optical(row, brighter, optical_truth(patch, date)[name], offset=0.0)


def beliefs(chain: World, where: str = "") -> dict[str, dict[str, Any]]:
    """The newest posterior of each parcel."""
    found = chain.rows(f"""select distinct on (source_id) source_id, n_s2, n_s1a + n_s1d + n_s1 as n_s1, probabilities
                           from (select * from posteriors {where}) known join parcels using (parcel_key)
                           order by source_id, known.recorded_at desc""")
    return {row["source_id"]: row for row in found}


def check_beliefs(chain: World, seen: Counter[tuple[str, str]]) -> None:
    """Every parcel that was observed has a posterior of all its observations, each counted once."""
    found = beliefs(chain)
    assert set(found) == {name for name, _ in seen}
    for name, row in found.items():
        assert (row["n_s2"], row["n_s1"]) == (seen[name, "s2"], seen[name, "s1"])
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def curve(chain: World) -> list[dict[str, Any]]:
    """The daily NDVI of every parcel."""
    return chain.rows("select parcel_key, day, ndvi from daily_ndvi order by parcel_key, day")
