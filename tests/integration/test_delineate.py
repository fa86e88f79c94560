"""`parcelwatch delineate` on scenes of a season: files that `parcels import` takes, by the watershed and by networks."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import torch
from rasterio.features import rasterize
from typer.testing import CliRunner

import parcelwatch
from db.connect import engine
from db.parcels import load_parcels
from ingest.delineation.season import NotDelineated
from ingest.scenes.items import NotAScene
from models.checkpoint import Checkpoint, CheckpointError
from models.segmentation.at_rest import Network, to_checkpoint
from models.segmentation.delineation_scores import fit
from models.segmentation.network import ModalityConfig, PanopticNetwork, SegmentationConfig, SegmentationNetwork
from models.segmentation.paps import Paps, PapsConfig
from models.segmentation.utae import Utae, UtaeConfig
from tests.made_scenes import FACTOR, GRID, START, s2_item

FIELDS = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((16, 16), int))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five dates of sixteen fields of 2.56 ha, the third half under a cloud."""
    folder, chance = tmp_path_factory.mktemp("scenes"), np.random.default_rng(4)
    for date in range(5):
        green = chance.uniform(0.2, 0.9, 17)[FIELDS]
        numbers = {}
        for band, factor in FACTOR.items():
            value = 4500 * green + 1200 if band in ("B08", "B8A", "B07", "B06") else 2600 - 1300 * green
            value = value + chance.normal(0, 30, value.shape)
            numbers[band] = value[::factor, ::factor].astype(np.uint16)
        numbers["SCL"] = np.full(numbers["SCL"].shape, 4, np.uint8)
        if date == 2:
            numbers["SCL"][:, 16:] = 9
            numbers["B08"][:, 32:] = 9000
        s2_item(folder, numbers, start=START + timedelta(days=10 * date))
    return folder


def run(*arguments: object) -> dict[str, int]:
    result = CliRunner().invoke(parcelwatch.app, ["delineate", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_fields_from_scenes_are_parcels_of_a_season(
    scenes: Path, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    files = [tmp_path / "fields.gpkg", tmp_path / "fields.parquet"]
    said = [run(scenes, "--out", file, "--window", 48, "--overlap", 16) for file in files]
    assert said[0] == said[1]
    assert (said[0]["scenes"], said[0]["width"], said[0]["height"]) == (5, 64, 64)
    frames = [gpd.read_file(files[0]), gpd.read_parquet(files[1])]
    for frame in frames:
        assert frame.crs == pyproj.CRS(GRID.crs)
        assert frame.geometry.is_valid.all()
        assert frame["id"].is_unique
        assert set(frame["determination:method"]) == {"auto-imagery"}
        np.testing.assert_allclose(frame.area, frame["metrics:area"], rtol=1e-6)
        shapes = zip(frame.geometry, range(1, len(frame) + 1), strict=True)
        ours = rasterize(shapes, FIELDS.shape, transform=rasterio.Affine(*GRID.transform), dtype="int32")
        assert fit(ours, FIELDS).f1 > 0.8
    assert frames[0].geometry.geom_equals(frames[1].geometry).all()
    for file in files:
        result = CliRunner().invoke(
            parcelwatch.app,
            ["parcels", "import", str(file), "--collection", file.suffix[1:], "--season", "2023", "--json"],
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["recognised_as"] == "delineation"
        assert report["found"]["parcels"] == report["changed"]["new"] == len(frames[0])
        assert report["found"]["monitorable"] > 10
    with engine(dsn).begin() as connection:
        stored = load_parcels(connection, "2023", "gpkg")
    assert {one.source_id for one in stored} <= set(frames[0]["id"])


@pytest.mark.parametrize("kind", ["paps", "utae", "panoptic", "segmentation"])
def test_a_network_names_crops(kind: str, scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = UtaeConfig(10, 4, encoder=(16, 16), decoder=(16, 16), width=32, heads=4)
    fields = PapsConfig(config, min_confidence=0.0, mask_threshold=0.05)
    trained = SegmentationConfig((ModalityConfig("s2", 10),), config)
    networks: dict[str, Network] = {
        "paps": Paps(fields),
        "utae": Utae(config),
        "panoptic": PanopticNetwork(trained, fields),
        "segmentation": SegmentationNetwork(trained),
    }
    network = networks[kind]
    statistics = tmp_path / "norm.json"
    statistics.write_text(json.dumps({"mean": [2000.0] * 10, "std": [900.0] * 10}))
    about = {"classes": ["none", "wheat", "maize", "beet"]}
    out = tmp_path / "fields.gpkg"
    with torch.no_grad():  # no field is of class 0, whatever the seed
        weights = dict(network.named_parameters())
        weights["head.1.norm.bias" if kind in ("utae", "segmentation") else "head.classes.3.bias"][1] += 5
        if kind in ("paps", "panoptic"):
            weights["head.size.4.bias"].add_(12)  # pixels
    folder = stored(tmp_path / "model", to_checkpoint(network, about))
    with_statistics = ["--model", folder, "--statistics", statistics]
    said = run(scenes, "--out", out, *with_statistics, "--window", 48, "--overlap", 16, "--min-ha", 0.02)
    frame = gpd.read_file(out)
    assert len(frame) == said["fields"] > 0
    assert set(zip(frame["crop:code"], frame["crop:name"], strict=True)) <= {
        ("1", "wheat"),
        ("2", "maize"),
        ("3", "beet"),
    }
    assert frame["delineation:confidence"].between(0, 1).all()


@pytest.mark.parametrize("kind", ["paps", "utae"])
def test_a_scene_more_is_encoded_by_itself(kind: str, scenes: Path, tmp_path: Path) -> None:
    folder, states = network_at_rest(tmp_path / "model", kind), tmp_path / "states"
    places = sorted(scenes.iterdir())
    options = ["--model", folder, "--window", 48, "--overlap", 16, "--min-ha", 0.02, "--starts-on", "2023-04-01"]
    kept, anew = tmp_path / "kept.parquet", tmp_path / "anew.parquet"
    windows = 4
    assert run(*places[:4], "--out", kept, *options, "--states", states)["encoded"] == 4 * windows
    assert run(*places, "--out", kept, *options, "--states", states)["encoded"] == windows
    assert len(list(states.iterdir())) == windows  # nothing else was left
    assert run(*places, "--out", anew, *options)["encoded"] == 5 * windows
    ours, whole = gpd.read_parquet(kept), gpd.read_parquet(anew)
    assert len(ours) > 3
    assert ours["id"].tolist() == whole["id"].tolist()
    assert ours["crop:code"].tolist() == whole["crop:code"].tolist()
    assert ours.geometry.geom_equals(whole.geometry).all()
    np.testing.assert_allclose(ours["delineation:confidence"], whole["delineation:confidence"], atol=1e-5)
    # A scene that has other files, though the same values, is another.
    changed = Path(shutil.copytree(places[0], tmp_path / "changed" / places[0].name, copy_function=shutil.copy))
    said = run(changed, *places[1:], "--out", kept, *options, "--states", states)
    assert said["encoded"] == 5 * windows


def network_at_rest(folder: Path, kind: str, **config: Any) -> Path:
    """A network with statistics that draws some fields, none of class 0."""
    torch.manual_seed(3)
    utae = UtaeConfig(10, 4, encoder=(16, 16), decoder=(16, 16), width=32, heads=4, **config)
    network = Utae(utae) if kind == "utae" else Paps(PapsConfig(utae, min_confidence=0.0, mask_threshold=0.05))
    with torch.no_grad():
        weights = dict(network.named_parameters())
        weights["head.1.norm.bias" if kind == "utae" else "head.classes.3.bias"][1] += 5
        if kind == "paps":
            weights["head.size.4.bias"].add_(12)  # pixels
    return stored(folder, to_checkpoint(network, {"statistics": {"s2": {"mean": [0.2] * 10, "sd": [0.09] * 10}}}))


def stored(folder: Path, checkpoint: Checkpoint) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.pt").write_bytes(checkpoint.weights)
    (folder / "model.json").write_text(checkpoint.description)
    return folder


def test_what_cannot_be_drawn_is_said_in_one_line(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "fields.gpkg"
    network = Utae(UtaeConfig(3, 4, encoder=(16, 16), decoder=(16, 16), width=32, heads=4))
    bare = stored(tmp_path / "bare", to_checkpoint(network, {}))
    known = {"statistics": {"s2": {"mean": [0.0] * 3, "sd": [1.0] * 3}}}
    three = stored(tmp_path / "three", to_checkpoint(network, known))
    both = SegmentationConfig((ModalityConfig("s2", 10), ModalityConfig("s1a", 3)), network.config)
    radar = stored(tmp_path / "radar", to_checkpoint(SegmentationNetwork(both), known))
    for fold in (1, 2):
        stored(tmp_path / f"run/fold-{fold}", to_checkpoint(network, known))
    season, dated = (network_at_rest(tmp_path / norm, "utae", norm=norm) for norm in ("season", "date"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").touch()
    for arguments, error, said in (
        ([tmp_path / "empty"], NotAScene, "neither a SAFE folder"),
        ([tmp_path / "missing"], NotAScene, "no such file or folder"),
        (["https://example.org/item.json"], NotAScene, "an address"),
        ([scenes, "--model", tmp_path / "missing"], NotDelineated, "weights.pt"),
        ([scenes, "--model", bare], NotDelineated, "no statistics"),
        ([scenes, "--model", three], NotDelineated, "3 channels"),
        ([scenes, "--model", radar], NotDelineated, "a network of s2, s1a; Sentinel-2 alone is read here"),
        ([scenes, "--model", tmp_path / "run"], NotDelineated, "give one of .*run/fold-1, .*run/fold-2"),
        ([scenes, "--model", season, "--states", tmp_path / "states"], NotDelineated, 'train with norm = "date"'),
        ([scenes, "--model", dated, "--states", out.parent / "a-file"], NotDelineated, "a-file: File exists"),
        ([scenes, "--model", three, "--statistics", radar / "model.json"], NotDelineated, "`mean` and `std`"),
        ([scenes, "--min-ha", 1e6], NotDelineated, "no field was found"),
    ):
        with pytest.raises(error, match=said):
            run(*arguments, "--out", out)
    (bare / "weights.pt").write_bytes(b"?")
    with pytest.raises(CheckpointError):
        run(scenes, "--out", out, "--model", bare)
    with pytest.raises(NotDelineated, match="no such folder"):
        run(scenes, "--out", tmp_path / "nowhere" / "fields.gpkg")
    for wrong in (
        ["--out", tmp_path / "fields.shp"],
        ["--out", out, "--window", 64, "--overlap", 40],
        ["--out", out, "--states", tmp_path],
    ):
        result = CliRunner().invoke(parcelwatch.app, ["delineate", str(scenes), *map(str, wrong)])
        assert result.exit_code == 2
    assert [one for one in tmp_path.iterdir() if "fields" in one.name] == []
