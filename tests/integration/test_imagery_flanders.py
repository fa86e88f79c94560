"""The Flemish patch as products: COGs with STAC items, SAFE folders and zips; every value against plain numpy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from shapely.geometry import shape

from db.sensors import S2_BANDS
from db.series import INVALID_PIXEL
from ingest.imagery.cut import Extraction, extract
from ingest.imagery.index import build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import grid_of
from ingest.imagery.safe import scene_from_safe
from ingest.imagery.scene import Grid, Scene
from ingest.imagery.sentinel1 import S1_PROFILE
from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.stac import scene_from_item
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.messages import encode_arrow
from ingest.stream.row_checks import faults
from ingest.stream.schemas import S1, S2, ObservationSchema

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
GRID = Grid("EPSG:32631", 574_680.0, 5_622_440.0, 10.0, 64, 64)
# Regions follow the pixels' edges: 6 m less takes the pixels along them, 5 m would run through their centres.
SETTINGS = ImagerySettings(s2_buffer_m=6.0, s1_buffer_m=6.0, sample_pixels=4096)
EVERY = 6  # of 72 dates, so that the test takes seconds


@dataclass(frozen=True)
class Patch:
    """The patch in memory: numbers (dates, rows, columns) by band, regions of one crop, and them as parcels."""

    s2: dict[str, np.ndarray]
    s2_at: list[datetime]
    s1: dict[str, np.ndarray]
    s1_at: list[datetime]
    inner: np.ndarray
    """(64, 64) number of the region whose eight neighbours belong to it too, else -1."""
    parcels: Parcels


def read(path: Path, name: str) -> tuple[np.ndarray, list[datetime]]:
    with rasterio.open(f"netcdf:{path}:{name}") as file:
        tags = file.tags()
        values = file.read()
    if "timestamp#units" not in tags:
        return values, []
    begin = datetime.fromisoformat(tags["timestamp#units"].removeprefix("seconds since ")).replace(tzinfo=UTC)
    seconds = tags["NETCDF_DIM_timestamp_VALUES"].strip("{}").split(",")
    return values, [begin + timedelta(seconds=int(float(one))) for one in seconds]


@pytest.fixture(scope="module")
def patch(data_dir: Callable[[str], Path]) -> Patch:
    folder = data_dir("be-flanders-patches") / "0000280849BAC91C"
    file = {name: next(folder.glob(f"{name}_*.nc")) for name in ("S2_L2A_10m", "S2_L2A_20m", "S1", "OUTPUT")}
    fine = ("B02", "B03", "B04", "B08")
    s2: dict[str, np.ndarray] = {}
    s1: dict[str, np.ndarray] = {}
    for band in (*S2_BANDS, "SCL"):
        s2[band], at = read(file["S2_L2A_10m" if band in fine else "S2_L2A_20m"], band)
    for band in ("VV", "VH"):
        s1[band], s1_at = read(file["S1"], band)
    crops = read(file["OUTPUT"], "CT")[0][0].astype(np.int32)
    transform = rasterio.Affine(*GRID.transform)
    regions = [shape(outline) for outline, crop in shapes(crops, crops != 0, transform=transform) if crop]
    label = np.full((66, 66), -1)
    y, x = GRID.top - np.arange(64) * 10 - 5, GRID.left + np.arange(64) * 10 + 5
    for number, region in enumerate(regions):
        label[1:-1, 1:-1][shapely.contains_xy(region, *np.meshgrid(x, y))] = number
    same = [label[1 + i : 65 + i, 1 + j : 65 + j] == label[1:-1, 1:-1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    to_degrees = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    outlines = [
        shapely.to_wkb(shapely.transform(one, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1]))))
        for one in regions
    ]
    parcels = Parcels("flanders", "2019", [f"R{n}" for n in range(len(regions))], outlines, np.ones(len(regions), bool))
    return Patch(s2, at, s1, s1_at, np.where(np.logical_and.reduce(same), label[1:-1, 1:-1], -1), parcels)


def write(path: Path, values: np.ndarray, **options: Any) -> str:
    """One band as a file over the patch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 640 / values.shape[0]
    with rasterio.open(
        path,
        "w",
        width=values.shape[1],
        height=values.shape[0],
        count=1,
        dtype=values.dtype,
        crs=GRID.crs,
        transform=rasterio.Affine(size, 0, GRID.left, 0, -size, GRID.top),
        **options,
    ) as file:
        file.write(values, 1)
    return str(path)


def product_name(at: datetime, baseline: str) -> str:
    return f"S2A_MSIL2A_{at:%Y%m%dT%H%M%S}_N{baseline.replace('.', '')}_R051_T31UES_{at:%Y%m%dT%H%M%S}"


def shifted(patch: Patch, band: str, date: int, baseline: str) -> np.ndarray:
    """Numbers as that baseline would publish them: 1000 more from 04.00 on, 0 stays no data."""
    values = patch.s2[band][date]
    return np.where(values > 0, values + 1000, 0).astype(np.uint16) if baseline >= "04" and band != "SCL" else values


def as_stac(patch: Patch, date: int, baseline: str, folder: Path) -> Scene:
    at = patch.s2_at[date]
    hrefs = {
        band: write(folder / f"{band}.tif", shifted(patch, band, date, baseline), driver="COG", blocksize=128)
        for band in patch.s2
    }
    item = {
        "id": product_name(at, baseline),
        "properties": {"datetime": at.isoformat(), "created": at.isoformat(), "s2:processing_baseline": baseline},
        "assets": {band: {"href": href} for band, href in hrefs.items()},
    }
    return scene_from_item(item, S2_PROFILE)


def as_safe(patch: Patch, date: int, baseline: str, folder: Path) -> Path:
    """A minimal product: the metadata that the reader needs, and lossless JP2."""
    at, name = patch.s2_at[date], product_name(patch.s2_at[date], baseline)
    safe, granule = folder / f"{name}.SAFE", "GRANULE/L2A_T31UES_A012345_20190101T105000"
    images = []
    for band in patch.s2:
        values = shifted(patch, band, date, baseline)
        metres = 640 // values.shape[0]
        image = f"{granule}/IMG_DATA/R{metres}m/T31UES_{at:%Y%m%dT%H%M%S}_{band}_{metres}m"
        write(safe / f"{image}.jp2", values, driver="JP2OpenJPEG", quality=100, reversible=True)
        images.append(f"<IMAGE_FILE>{image}</IMAGE_FILE>")
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{number}">-1000</BOA_ADD_OFFSET>' for number in range(13))
    when = f"{at:%Y-%m-%dT%H:%M:%S.024Z}"
    (safe / "MTD_MSIL2A.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>{when}</PRODUCT_START_TIME>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE><GENERATION_TIME>{when}</GENERATION_TIME>
<Datatake datatakeIdentifier="x"><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>{when}</DATATAKE_SENSING_START><SENSING_ORBIT_NUMBER>51</SENSING_ORBIT_NUMBER></Datatake>
<Product_Organisation><Granule_List><Granule>{"".join(images)}</Granule></Granule_List></Product_Organisation>
</Product_Info><Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
{f"<BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>" if baseline >= "04" else ""}
</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>""")
    (safe / granule / "MTD_TL.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd">
<n1:General_Info><TILE_ID>S2A_OPER_MSI_L2A_TL_2APS_{at:%Y%m%dT%H%M%S}_A012345_T31UES_N02.14</TILE_ID></n1:General_Info>
<n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_CODE>{GRID.crs}</HORIZONTAL_CS_CODE>
<Size resolution="10"><NROWS>64</NROWS><NCOLS>64</NCOLS></Size>
<Geoposition resolution="10"><ULX>574680</ULX><ULY>5622440</ULY><XDIM>10</XDIM><YDIM>-10</YDIM></Geoposition>
</Tile_Geocoding></n1:Geometric_Info></n1:Level-2A_Tile_ID>""")
    return safe


def cut(scene: Scene, patch: Patch) -> Extraction:
    grid = grid_of(scene, "B02" if scene.sensor == "S2" else "VV") if scene.sensor == "S2" else GRID
    assert grid == GRID
    index = build(patch.parcels, grid, 6.0, SETTINGS.least_pixels, SETTINGS.sample_pixels)
    return extract(scene, grid, patch.parcels, index, SETTINGS)


def on_grid(values: np.ndarray) -> np.ndarray:
    factor = 64 // values.shape[0]
    return np.kron(values, np.ones((factor, factor), values.dtype))


def check_s2(found: Extraction, patch: Patch, date: int) -> None:
    """Every row against the numbers of the original file (baseline 02, so without an offset)."""
    numbers = {band: on_grid(patch.s2[band][date]).astype(np.int64) for band in patch.s2}
    clear = np.isin(numbers["SCL"], [4, 5, 6, 7]) & np.logical_and.reduce([numbers[band] > 0 for band in S2_BANDS])
    seen = (numbers["SCL"] > 0) & np.logical_and.reduce([numbers[band] > 0 for band in S2_BANDS])
    rows = {row["parcel_id"]: row for row in found.table.to_pylist()}
    expected = {"stored": 0, "cloud": 0, "no_data": 0, "too_few_pixels": 0}
    for number, name in enumerate(patch.parcels.ids):
        mine = patch.inner == number
        n, n_clear = int(mine.sum()), int((mine & clear).sum())
        least = max(np.ceil(0.05 * n), 1)
        outcome = (
            "too_few_pixels"
            if n < 8
            else "no_data"
            if (mine & seen).sum() < least
            else "cloud"
            if n_clear < least
            else "stored"
        )
        expected[outcome] += 1
        assert (name in rows) == (outcome == "stored")
        if outcome != "stored":
            continue
        row, used = rows[name], mine & clear
        b = {band: numbers[band][used] / 10_000 for band in S2_BANDS}
        mean = {band: values.mean() for band, values in b.items()}
        for band in S2_BANDS:
            assert row[band] == pytest.approx(mean[band], abs=1e-6)
        ndvi = (b["B08"] - b["B04"]) / (b["B08"] + b["B04"])
        assert row["NDVI"] == pytest.approx(ndvi.mean(), abs=1e-6)
        assert row["NDVI_SD"] == pytest.approx(ndvi.std(), abs=1e-5)
        assert row["NBR2"] == pytest.approx((mean["B11"] - mean["B12"]) / (mean["B11"] + mean["B12"]), abs=1e-5)
        soil, leaf = mean["B11"] + mean["B04"], mean["B08"] + mean["B02"]
        assert row["BSI"] == pytest.approx((soil - leaf) / (soil + leaf), abs=1e-5)
        water = mean["B11"] + mean["B12"]
        assert row["S2WI"] == pytest.approx((mean["B08"] - water) / (mean["B08"] + water), abs=1e-5)
        assert (row["n_clear"], row["clear_fraction"]) == (n_clear, pytest.approx(n_clear / n))
        pixels = np.frombuffer(row["pixels"], "<i2").reshape(10, -1)
        truth = np.where(clear[mine], [numbers[band][mine] for band in S2_BANDS], INVALID_PIXEL)
        assert np.array_equal(pixels[:, np.lexsort(pixels)], truth[:, np.lexsort(truth)])
    assert {"stored": found.stored, **found.skipped} == {key: n for key, n in expected.items() if n or key == "stored"}
    assert found.expected == found.stored + sum(found.skipped.values())


def check_contract(schema: ObservationSchema, table: pa.Table) -> None:
    found, decoded = decode_arrow(encode_arrow(table))
    assert found is schema
    assert decoded.equals(table)
    assert faults(schema, table, datetime(2024, 1, 1, tzinfo=UTC), timedelta(), 81_920) == []


@pytest.mark.parametrize("baseline", ["02.14", "05.09"])
def test_cogs_with_items(patch: Patch, baseline: str, tmp_path: Path) -> None:
    stored = 0
    for date in range(0, len(patch.s2_at), EVERY):
        found = cut(as_stac(patch, date, baseline, tmp_path / str(date)), patch)
        check_s2(found, patch, date)
        check_contract(S2, found.table)
        stored += found.stored
    assert stored > 50


@pytest.mark.parametrize("baseline", ["02.14", "05.09"])
def test_safe_folder_and_zip(patch: Patch, baseline: str, tmp_path: Path) -> None:
    clearest = int(np.argmax([np.isin(scl, [4, 5]).mean() for scl in patch.s2["SCL"]]))
    safe = as_safe(patch, clearest, baseline, tmp_path)
    scene = scene_from_safe(safe)
    assert scene.observed_at == patch.s2_at[clearest].replace(microsecond=24_000)
    assert (scene.platform, scene.relative_orbit, scene.tile, scene.baseline) == ("S2A", 51, "31UES", baseline)
    from_folder = cut(scene, patch)
    check_s2(from_folder, patch, clearest)
    assert from_folder.stored > 5
    archive = Path(shutil.make_archive(str(tmp_path / safe.stem), "zip", tmp_path, safe.name))
    shutil.rmtree(safe)
    assert cut(scene_from_safe(archive), patch).table.equals(from_folder.table)


def test_radar_in_decibels_on_20_m_pixels(patch: Patch, tmp_path: Path) -> None:
    stored = 0
    for date in range(0, len(patch.s1_at), 4 * EVERY):
        at = patch.s1_at[date]
        raster = [{"unit": "dB", "scale": 0.0001, "nodata": 0}]
        item = {
            "id": f"S1A_IW_GRDH_1SDV_{at:%Y%m%dT%H%M%S}_{at:%Y%m%dT%H%M%S}_048356_05D0F5",
            "properties": {
                "created": at.isoformat(),
                "sat:orbit_state": "ascending",
                "sat:relative_orbit": 88,
                "card4l:measurement_type": "sigma0",
            },
            "assets": {
                name.lower(): {
                    "href": write(tmp_path / f"{date}{name}.tif", patch.s1[name][date], tiled=True),
                    "raster:bands": raster,
                }
                for name in ("VV", "VH")
            },
        }
        found = cut(scene_from_item(item, S1_PROFILE), patch)
        check_contract(S1, found.table)
        rows = {row["parcel_id"]: row for row in found.table.to_pylist()}
        power = {name: 10 ** (on_grid(patch.s1[name][date]) * 1e-4 / 10) for name in ("VV", "VH")}
        there = (on_grid(patch.s1["VV"][date]) != 0) & (on_grid(patch.s1["VH"][date]) != 0)
        for number, name in enumerate(patch.parcels.ids):
            mine = (patch.inner == number) & there
            if name not in rows:
                assert mine.sum() < max(8, 0.05 * (patch.inner == number).sum())
                continue
            for band in ("VV", "VH"):
                assert rows[name][band] == pytest.approx(power[band][mine].mean(), rel=1e-6)
                assert rows[name][f"{band}_SD"] == pytest.approx(power[band][mine].std(), rel=1e-4, abs=1e-7)
            assert rows[name]["n_pixels"] == mine.sum()
            pixels = np.frombuffer(rows[name]["pixels"], "<i2").reshape(2, -1)
            truth = np.rint(np.array([on_grid(patch.s1[band][date])[mine] for band in ("VV", "VH")]) * 1e-4 * 100)
            assert np.array_equal(pixels[:, np.lexsort(pixels)], truth[:, np.lexsort(truth)])
        stored += found.stored
    assert stored > 10
