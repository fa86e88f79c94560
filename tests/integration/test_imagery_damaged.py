"""Rasters that are damaged or are something else: never values that the file does not hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio

from ingest.imagery.cut import Extraction, extract
from ingest.imagery.errors import SceneError
from ingest.imagery.index import build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import Raster
from ingest.imagery.scene import Band, Grid, Scene
from ingest.imagery.settings import ImagerySettings
from tests.made_scenes import GRID as SMALL
from tests.made_scenes import START, optical, outline, write

GRID = Grid("EPSG:32631", 574_680.0, 5_622_440.0, 10.0, 256, 256)
NUMBERS = np.random.default_rng(1).integers(1200, 6000, (256, 256)).astype(np.uint16)


def scene(path: Path, unit: str = "reflectance") -> Scene:
    band = Band(str(path), unit, nodata=0.0)  # type: ignore[arg-type]
    return Scene("S2", "scene", START, START + timedelta(hours=6), "S2A", 51, {"B04": band}, GRID)


def read(path: Path, grid: Grid = GRID) -> np.ndarray:
    with Raster(scene(path), "B04", scene(path).bands["B04"], grid) as raster:
        return raster.read(0, 0, 256, 256)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("shift_m", [0.0, 3.0], ids=["aligned", "warped"])
@pytest.mark.parametrize(
    "options",
    [
        {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": "100", "BLOCKXSIZE": "64", "BLOCKYSIZE": "64"},
        {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
    ],
    ids=["jp2", "deflate", "raw"],
)
def test_a_truncated_raster_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], shift_m: float, share: float
) -> None:
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    path = tmp_path / ("B04.jp2" if options.get("driver") else "B04.tif")
    write(path, NUMBERS, GRID, **options)
    grid = replace(GRID, left=GRID.left + shift_m)
    assert (read(path, grid)[10:-10, 10:-10] == NUMBERS[10:-10, 10:-10]).all()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SceneError) as failed:
        read(path, grid)
    assert failed.value.cause == "unreadable"


def test_only_geotiff_and_jpeg_2000_are_opened(tmp_path: Path) -> None:
    write(tmp_path / "true.tif", NUMBERS, GRID)
    virtual = f"""<VRTDataset rasterXSize="256" rasterYSize="256"><SRS>EPSG:32631</SRS>
        <VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{tmp_path}/true.tif</SourceFilename>
        </SimpleSource></VRTRasterBand></VRTDataset>"""
    (tmp_path / "B04.tif").write_text(virtual)
    for href in (tmp_path / "B04.tif", virtual, f"GTIFF_DIR:1:{tmp_path}/nothing.tif"):
        with pytest.raises(SceneError, match="cannot be read") as failed:
            read(href)  # type: ignore[arg-type]
        assert failed.value.cause == "unreadable"


def test_numbers_that_would_be_misread_are_refused(tmp_path: Path) -> None:
    for kind in ("int16", "float32", "uint32"):
        write(tmp_path / "B04.tif", NUMBERS.astype(kind), GRID)
        with pytest.raises(SceneError, match=f"holds {kind}") as failed:
            read(tmp_path / "B04.tif")
        assert failed.value.cause == "unsupported"


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    small = np.zeros((1, 1), np.uint16)
    write(tmp_path / "B04.tif", small, GRID)
    with rasterio.open(
        tmp_path / "B04.tif",
        "w",
        driver="GTiff",
        width=200_000,
        height=4,
        count=1,
        dtype="uint16",
        crs=GRID.crs,
        transform=rasterio.Affine(*GRID.transform),
        sparse_ok=True,
    ):
        pass
    with pytest.raises(SceneError, match="too large"):
        read(tmp_path / "B04.tif")


def cut(folder: Path, numbers: dict[str, Any], sensor: Literal["S1", "S2"] = "S2") -> Extraction:
    """One parcel in the middle of a small scene."""
    units: dict[str, Any] = {"SCL": "class", "VV": "linear", "VH": "linear"}
    bands = {
        name: Band(
            str(folder / write(folder / f"{name}.tif", values, SMALL)), units.get(name, "reflectance"), 1e-4, -0.1, 0.0
        )
        if sensor == "S2"
        else Band(str(folder / write(folder / f"{name}.tif", values, SMALL)), "linear")
        for name, values in numbers.items()
    }
    made = Scene(
        sensor, "scene", START, START + timedelta(hours=6), f"{sensor}A", 51, bands, SMALL, "ascending", "gamma0"
    )
    parcels = Parcels("c", "2023", ["one"], [outline((8, 8, 40, 40))], np.array([True]))
    return extract(made, SMALL, parcels, build(parcels, SMALL, 5.0, 8, 64), ImagerySettings())


def test_a_band_at_its_smallest_value_is_no_value(tmp_path: Path) -> None:
    numbers: dict[str, Any] = dict(optical(3))
    whole = cut(tmp_path, numbers)
    numbers["B03"][:24] = 1
    (row,) = cut(tmp_path, numbers).table.to_pylist()
    assert row["n_clear"] < whole.table["n_clear"][0].as_py()
    assert row["B03"] > 0
    numbers["B03"][:] = 1
    assert cut(tmp_path, numbers).skipped == {"no_data": 1}


def test_backscatter_below_the_noise_floor_is_no_value(tmp_path: Path) -> None:
    power = np.full((64, 64), 0.08, np.float32)
    numbers: dict[str, Any] = {"VV": power.copy(), "VH": power / 4}
    numbers["VV"][:24] = 1e-5
    (row,) = cut(tmp_path, numbers, "S1").table.to_pylist()
    assert row["VV"] == pytest.approx(0.08)
    assert row["VH"] == pytest.approx(0.02)
