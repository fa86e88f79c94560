"""`parcelwatch models patches`: what is cut from a simulated season's scenes and parcels is what they hold, and networks train on it."""

from __future__ import annotations

import filecmp
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from typer.testing import CliRunner

import parcelwatch
from db.sensors import S2_BANDS
from ingest.delineation.passes import PassImages
from research.simulator import Season, SimulatorConfig, simulate_season
from research.simulator.rasters import Renderer, write_scenes
from terminal.errors import UserError
from training.patch_images import PatchFolder
from training.patch_metadata import THEIA_NO_DATA

SIDE = 32
SHAPE = ("--side", SIDE, "--block", 1, "--gap", 8, "--min-parcels", 2)
RUN = """
[data]
kind = "patches"
path = "{patches}"
[model]
fusion = "early"
encoder = [16, 16]
decoder = [16, 16]
attention = 32
heads = 4
[training]
epochs = 1
workers = 0
folds = [1]
[run]
folder = "{folder}"
"""


@pytest.fixture(scope="module")
def season() -> Season:
    return simulate_season(
        SimulatorConfig(year=2019, seed=3, n_parcels=24, n_pixels=16, regions=("lowlands",), s1_orbits=1)
    )


@pytest.fixture(scope="module")
def made(season: Season, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes and parcels."""
    folder = tmp_path_factory.mktemp("made")
    whole = [one for one in season.products if not (one.is_lost or one.is_withdrawn or one.revision)]
    chosen = [one.scene_id for one in whole if one.sensor == "s2"][20:60:10]
    chosen += [one.scene_id for one in whole if one.sensor == "s1"][20:24]
    write_scenes(season, [str(one) for one in season.parcels.parcel_id], folder / "scenes", chosen)
    pyogrio.write_dataframe(season.parcels, folder / "parcels.gpkg")
    return folder


def run(made: Path, out: Path, *more: object) -> dict[str, Any]:
    line = [
        "models",
        "patches",
        made / "scenes",
        "--parcels",
        made / "parcels.gpkg",
        "--out",
        out,
        *SHAPE,
        *more,
        "--json",
    ]
    result = CliRunner().invoke(parcelwatch.app, [*map(str, line)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def cut(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("cut") / "patches"
    return out, run(made, out)


def features(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "metadata.geojson").read_text())["features"])


def array(folder: Path, name: str) -> NDArray[Any]:
    found: NDArray[Any] = np.load(folder / f"{name}.npy")
    return found


def test_classes_and_fields_are_those_of_the_parcels(season: Season, cut: tuple[Path, dict[str, Any]]) -> None:
    folder, said = cut
    renderer, names = Renderer(season, "lowlands"), json.loads((folder / "patches.json").read_text())["classes"]
    # Each crop of two parcels or more is a class of its name.
    known = sorted(crop for crop, n in Counter(season.parcels.crop_name).items() if n >= 2)
    assert names == ["Background", *known]
    labelled = Counter[int]()
    for feature in features(folder):
        number, ring = feature["properties"]["ID_PATCH"], np.array(feature["geometry"]["coordinates"][0][0])
        place = renderer.place(ring[:, 0].min(), ring[:, 1].max(), SIDE, SIDE)
        ids = np.where(place.is_field, place.field + 1, 0).reshape(SIDE, SIDE)
        np.testing.assert_array_equal(array(folder, f"ANNOTATIONS/ParcelIDs_{number}"), ids)
        target = array(folder, f"ANNOTATIONS/TARGET_{number}")[0]
        assert (target[ids == 0] == 0).all()
        for one in np.unique(ids[ids > 0]):
            is_mostly_here = (ids == one).sum() * 100 > shapely.area(renderer.outlines[one - 1]) / 2
            crop = season.parcels.crop_name.iloc[one - 1]
            expected = names.index(crop) if is_mostly_here and crop in known else len(names)
            assert set(target[ids == one]) == {expected}
            labelled[one] += expected < len(names)
    assert max(labelled.values()) == 1  # so none is learnt from in two folds
    assert sum(labelled.values()) == sum(said["parcels"].values()) > 8
    assert {feature["properties"]["Fold"] for feature in features(folder)} == {1, 2, 3, 4, 5}


def test_images_are_those_of_the_scenes(made: Path, cut: tuple[Path, dict[str, Any]]) -> None:
    folder, said = cut
    assert said["passes"].keys() == {"S2", "S1A", "S1D"}
    items = [json.loads(path.read_text()) for path in (made / "scenes").glob("*/item.json")]
    compared = 0
    for feature in features(folder):
        number, ring = feature["properties"]["ID_PATCH"], np.array(feature["geometry"]["coordinates"][0][0])
        dates = {name: list(feature["properties"][f"dates-{name}"].values()) for name in said["passes"]}
        images = {name: array(folder, f"DATA_{name}/{name}_{number}") for name in said["passes"]}
        assert all(len(images[name]) == len(dates[name]) for name in images)
        for item in items:
            when, state = (
                int(item["properties"]["datetime"][:10].replace("-", "")),
                item["properties"].get("sat:orbit_state"),
            )
            name = {None: "S2", "ascending": "S1A", "descending": "S1D"}[state]
            bands = [window(made, item["id"], one, ring) for one in (S2_BANDS if name == "S2" else ("VV", "VH"))]
            is_there = np.logical_and.reduce([one > 0 for one in bands])
            if not is_there.any():
                assert when not in dates[name]
                continue
            image = images[name][dates[name].index(when)]
            if name == "S2":
                expected = np.where(is_there, np.array(bands).astype(int) - 1000, THEIA_NO_DATA)
                assert image.dtype == np.int16
                np.testing.assert_array_equal(image, expected)
            else:
                vv, vh = (10 * np.log10(np.where(is_there, one, np.nan)) for one in bands)
                np.testing.assert_allclose(image, np.stack([vv, vh, vv - vh]), rtol=1e-3, atol=1e-3)
            compared += 1
    assert compared > 20


def window(made: Path, scene: str, band: str, ring: NDArray[Any]) -> NDArray[Any]:
    """A band under a patch, each pixel of 20 m as four of 10 m; 0 beyond the file."""
    with rasterio.open(made / "scenes" / scene / f"{band}.tif") as file:
        k, left, top = round(file.transform.a / 10), file.transform.c, file.transform.f
        values = np.pad(np.kron(file.read(1), np.ones((k, k), file.dtypes[0])), SIDE)
    down, right = round((top - ring[:, 1].max()) / 10) + SIDE, round((ring[:, 0].min() - left) / 10) + SIDE
    if not (0 <= down <= len(values) - SIDE and 0 <= right <= values.shape[1] - SIDE):
        return np.zeros((SIDE, SIDE), values.dtype)
    found: NDArray[Any] = values[down : down + SIDE, right : right + SIDE]
    return found


def test_networks_train_on_them(cut: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, said = cut
    patches = PatchFolder(path=folder).open()
    assert (patches.void, len(patches.fold)) == (len(said["parcels"]) + 1, said["patches"])
    assert str(patches.starts_on) == json.loads((folder / "patches.json").read_text())["starts_on"]
    first = patches.read(0, ("s2",))
    assert first.days["s2"].min() >= 0
    assert np.nanmax(first.images["s2"]) < 2  # reflectance
    (tmp_path / "run.toml").write_text(RUN.format(patches=folder, folder=tmp_path / "run"))
    line = ["models", "train", "segmentation", "--config", str(tmp_path / "run.toml")]
    assert CliRunner().invoke(parcelwatch.app, line, catch_exceptions=False).exit_code == 0
    counts = np.array(json.loads((tmp_path / "run/fold-1/counts.json").read_text())["confusion"])
    assert counts.shape == (patches.void, patches.void)
    assert counts.sum() == sum(
        (patches.read(row, ()).classes != patches.void).sum() for row in np.flatnonzero(patches.fold == 1).tolist()
    )


def test_a_cutting_that_was_stopped_goes_on(
    made: Path, cut: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = PassImages.window, 9

    def stopped(self: PassImages, *given: int) -> NDArray[np.float32]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return read(self, *given)

    out = tmp_path / "patches"
    monkeypatch.setattr(PassImages, "window", stopped)
    with pytest.raises(AssertionError):
        run(made, out)
    assert not out.exists()
    assert len(json.loads((tmp_path / ".patches.partial/cut.json").read_text())["seen"]["S2"]) == 1
    monkeypatch.setattr(PassImages, "window", read)
    with pytest.raises(UserError, match="begun with other scenes, parcels or settings"):
        run(made, out, "--starts-on", "2018-09-01")
    assert run(made, out) == cut[1]
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(out, cut[0], files, shallow=False) == (files, [], [])
    assert list(tmp_path.iterdir()) == [out]


def test_crops_have_the_classes_of_a_file_and_other_land_is_void(
    made: Path, cut: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    table = tmp_path / "classes.toml"
    table.write_text('[classes]\nRoots = ["sugar beet", "potato", "seed onion"]\nCereals = ["winter wheat"]\n')
    said = run(made, tmp_path / "patches", "--classes", table, "--undeclared-void", "--starts-on", "2018-09-01")
    assert said["parcels"].keys() == {"Cereals", "Roots"}
    by_name = cut[1]["parcels"]
    assert said["parcels"]["Cereals"] == by_name["winter wheat"]
    assert said["parcels"]["Roots"] == sum(by_name[name] for name in ("sugar beet", "potato", "seed onion"))
    patches = PatchFolder(path=tmp_path / "patches").open()
    one = patches.read(0, ("s2",))
    assert set(one.classes[one.instances == 0]) == {patches.void} == {3}
    assert str(patches.starts_on) == "2018-09-01"
    assert one.days["s2"].min() > 30


def test_what_makes_no_patches_is_said_in_one_line(made: Path, season: Season, tmp_path: Path) -> None:
    out = tmp_path / "patches"
    (tmp_path / "there").mkdir()
    (tmp_path / "classes.toml").write_text('[classes]\nA = ["x"]\nB = ["x"]\n')
    far = tmp_path / "far.gpkg"
    pyogrio.write_dataframe(season.parcels.set_geometry(season.parcels.translate(20, 0)), far)
    radar = next(path for path in (made / "scenes").iterdir() if path.name.startswith("S1"))
    for more, said in (
        (["--out", tmp_path / "there"], "is there: name another folder"),
        (["--out", tmp_path / "no" / "patches"], "no such folder; make it first"),
        (["--parcels", tmp_path / "none.gpkg"], "no such file"),
        (["--parcels", far], "no parcel lies on the scenes"),
        (["--classes", tmp_path / "none.toml"], "No such file"),
        (["--classes", tmp_path / "classes.toml"], "x is of two classes"),
        (["--min-parcels", 1000], "0 classes among 25 parcels"),
        (["--block", 20], "1 blocks of patches with labelled parcels, 5 folds need one each"),
        (["--starts-on", "2021-01-01"], "days from 2021-01-01, day 0"),
    ):
        with pytest.raises(UserError, match=said) as raised:
            run(made, out, *more)
        assert "\n" not in str(raised.value)
    line = ["models", "patches", radar, "--parcels", made / "parcels.gpkg", "--out", out]
    assert "no scene of Sentinel-2" in str(CliRunner().invoke(parcelwatch.app, [*map(str, line)]).exception)
    assert CliRunner().invoke(parcelwatch.app, [*map(str, line), "--side", "20"]).exit_code == 2
    assert not out.exists()
