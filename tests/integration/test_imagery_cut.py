"""A made-up tile cut from files: overlaps, edges, coarse pixels, other systems; and every way a scene can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from rasterio.warp import Resampling, reproject

from db.sensors import S2_BANDS
from db.series import INVALID_PIXEL
from ingest.imagery.cut import Extraction, extract
from ingest.imagery.errors import SceneError
from ingest.imagery.index import build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import grid_of
from ingest.imagery.scene import SCL, Band, Grid, Scene
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.settings import ImagerySettings

GRID = Grid("EPSG:32631", 500_000.0, 5_700_000.0, 10.0, 1260, 1140)
AT = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
SETTINGS = ImagerySettings(sample_pixels=4096)
FACTOR = {**dict.fromkeys(S2_BANDS, 2), **dict.fromkeys(("B02", "B03", "B04", "B08"), 1), "B05": 6, SCL: 2}
# Pixels of GRID: left, top, right, bottom. On the corner of four chunks; over it; under cloud; in no data; at the edge.
BOXES = {
    "corner": (1000.2, 1000.2, 1050.2, 1080.2),
    "over": (1035.2, 1010.2, 1045.2, 1090.2),
    "cloudy": (300.2, 300.2, 340.2, 340.2),
    "empty": (5.2, 5.2, 40.2, 40.2),
    "edge": (1200.2, 500.2, 1300.2, 560.2),
    "small": (700.2, 700.2, 703.4, 703.4),
    "beyond": (-400.0, 100.0, -350.0, 150.0),
    "forbidden": (600.0, 600.0, 650.0, 650.0),
}


def outline(box: tuple[float, float, float, float]) -> bytes:
    to_degrees = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    left, top, right, bottom = box
    metres = shapely.box(GRID.left + left * 10, GRID.top - bottom * 10, GRID.left + right * 10, GRID.top - top * 10)
    degrees = shapely.transform(metres, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    wkb: bytes = shapely.to_wkb(degrees)
    return wkb


PARCELS = Parcels(
    "made-up",
    "2023",
    list(BOXES),
    [outline(box) for box in BOXES.values()],
    np.array([n != "forbidden" for n in BOXES]),
)


def inside(name: str, buffer: float) -> np.ndarray:
    """(height, width) pixels whose centre lies in the box less a buffer in pixels."""
    left, top, right, bottom = BOXES[name]
    y, x = np.mgrid[0 : GRID.height, 0 : GRID.width] + 0.5
    return np.asarray((x > left + buffer) & (x < right - buffer) & (y > top + buffer) & (y < bottom - buffer))


def write(path: Path, values: np.ndarray, crs: str | None = GRID.crs, transform: rasterio.Affine | None = None) -> str:
    size = GRID.pixel_m * GRID.width / values.shape[1]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=values.shape[1],
        height=values.shape[0],
        count=1,
        dtype=values.dtype,
        crs=crs,
        transform=transform or rasterio.Affine(size, 0, GRID.left, 0, -size, GRID.top),
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="DEFLATE",
    ) as file:
        file.write(values, 1)
    return str(path)


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    chance, made = np.random.default_rng(5), {}
    for band, factor in FACTOR.items():
        made[band] = chance.integers(1001, 9000, (GRID.height // factor, GRID.width // factor)).astype(np.uint16)
    made["B06"][510:515, 500:530] = 0  # one band without data within "corner"
    made[SCL] = chance.choice([4, 5, 6, 7, 3, 8, 9, 10, 11, 2], made[SCL].shape).astype(np.uint8)
    made[SCL][150:170, 150:170] = 9
    made[SCL][:21, :21] = 0
    return made


@pytest.fixture(scope="module")
def optical(numbers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("tile")
    bands = {
        name: Band(write(folder / f"{name}.tif", values), "reflectance", 1e-4, -0.1, 0.0)
        for name, values in numbers.items()
    }
    bands[SCL] = Band(bands[SCL].href, "class", nodata=0.0)
    return Scene("S2", "tile", AT, AT, "S2A", 94, bands, GRID)


def cut(scene: Scene, grid: Grid = GRID, settings: ImagerySettings = SETTINGS) -> Extraction:
    index = build(
        PARCELS, grid, IMAGERY[scene.sensor].inner_buffer_m(settings), settings.least_pixels, settings.sample_pixels
    )
    return extract(scene, grid, PARCELS, index, settings)


def full(values: np.ndarray) -> np.ndarray:
    """On the 10 m grid, each pixel repeated."""
    factor = GRID.height // values.shape[0]
    return np.kron(values, np.ones((factor, factor), values.dtype))


def test_every_value_equals_plain_numpy(numbers: dict[str, np.ndarray], optical: Scene) -> None:
    found = cut(optical)
    rows = {row["parcel_id"]: row for row in found.table.to_pylist()}
    assert list(rows) == ["corner", "over", "edge"]
    b = {name: full(values).astype(float) for name, values in numbers.items()}
    clear = np.isin(b[SCL], [4, 5, 6, 7]) & np.logical_and.reduce([b[name] > 0 for name in S2_BANDS])
    for name, row in rows.items():
        mine = inside(name, 0.5)
        used = mine & clear
        reflectance = {band: b[band][used] / 10_000 - 0.1 for band in S2_BANDS}
        for band in S2_BANDS:
            assert row[band] == pytest.approx(reflectance[band].mean(), abs=1e-6)
        ndvi = (reflectance["B08"] - reflectance["B04"]) / (reflectance["B08"] + reflectance["B04"])
        assert row["NDVI"] == pytest.approx(ndvi.mean(), abs=1e-5)
        assert row["NDVI_SD"] == pytest.approx(ndvi.std(), abs=1e-5)
        pixels = np.frombuffer(row["pixels"], "<i2").reshape(10, -1)
        truth = np.where(clear[mine], [b[band][mine] - 1000 for band in S2_BANDS], INVALID_PIXEL)
        assert row["n_clear"] == used.sum()
        truth = truth[:, np.lexsort(truth)]
        assert np.array_equal(pixels[:, np.lexsort(pixels)], truth)
    assert rows["edge"]["clear_fraction"] == pytest.approx((inside("edge", 0.5) & clear).sum() / (99 * 59))


def test_every_parcel_is_accounted_for(optical: Scene) -> None:
    found = cut(optical)
    assert found.skipped == {"not_monitorable": 1, "too_few_pixels": 1, "outside": 1, "no_data": 1, "cloud": 1}
    assert found.expected == found.stored + sum(found.skipped.values()) == len(BOXES)
    share = dict(zip(BOXES, found.share_inside.tolist(), strict=True))
    assert share["corner"] == 1.0
    assert share["edge"] == pytest.approx(59 / 99)
    assert share["beyond"] == 0.0


def test_samples_are_the_same_pixels_on_every_date(
    optical: Scene, numbers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    few = ImagerySettings()
    shifted = write(tmp_path / "B02.tif", numbers["B02"] + np.uint16(7))
    later = replace(optical, bands={**optical.bands, "B02": replace(optical.bands["B02"], href=shifted)})
    for one, other in zip(
        *(cut(scene, settings=few).table["pixels"].to_pylist() for scene in (optical, later)), strict=True
    ):
        before, after = (np.frombuffer(pixels, "<i2").reshape(10, 64).astype(int) for pixels in (one, other))
        assert np.array_equal(before[1:], after[1:])
        assert np.array_equal(after[0][after[0] != INVALID_PIXEL] - 7, before[0][before[0] != INVALID_PIXEL])


def test_threads_change_nothing(optical: Scene) -> None:
    assert cut(optical).table.equals(cut(optical, settings=ImagerySettings(sample_pixels=4096, threads=5)).table)


def radar_scene(folder: Path, unit: str, power: dict[str, np.ndarray], **changes: object) -> Scene:
    stored: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "linear": np.asarray,
        "amplitude": np.sqrt,
        "dB": lambda values: 10 * np.log10(values),
    }
    bands = {
        name: Band(write(folder / f"{name}-{unit}.tif", stored[unit](values).astype(np.float32)), unit)  # type: ignore[arg-type]
        for name, values in power.items()
    }
    scene = Scene("S1", "radar", AT, AT, "S1A", 88, bands, direction="ascending", radiometry="gamma0")
    return replace(scene, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def power() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(6)
    made = {name: chance.gamma(4, 0.02, (GRID.height, GRID.width)) + 1e-4 for name in ("VV", "VH")}
    made["VV"][1010:1020, 1005:1030] = np.nan
    return made


@pytest.mark.parametrize("unit", ["linear", "amplitude", "dB"])
def test_backscatter_is_averaged_as_power(unit: str, power: dict[str, np.ndarray], tmp_path: Path) -> None:
    coherence = np.full((GRID.height // 2, GRID.width // 2), 0.25, np.float32)
    coherence[::2] = np.nan
    scene = radar_scene(tmp_path, unit, power, coherence_with=datetime(2023, 4, 19, tzinfo=UTC))
    band = Band(write(tmp_path / f"coherence-{unit}.tif", coherence), "coherence")
    found = cut(replace(scene, bands={**scene.bands, "coherence_VV": band}), grid_of(scene, "VV"))
    row = next(row for row in found.table.to_pylist() if row["parcel_id"] == "corner")
    used = inside("corner", 1.0) & np.isfinite(power["VV"])
    for name in ("VV", "VH"):
        assert row[name] == pytest.approx(power[name][used].mean(), rel=1e-5)
        assert row[f"{name}_SD"] == pytest.approx(power[name][used].std(), rel=1e-4)
    assert row["n_pixels"] == used.sum()
    assert (row["coherence_VV"], row["coherence_VH"]) == (0.25, None)
    pixels = np.frombuffer(row["pixels"], "<i2").reshape(2, -1)
    assert (pixels == INVALID_PIXEL).all(axis=0).sum() == (inside("corner", 1.0) & ~used).sum()
    assert np.sort(pixels[1][pixels[1] != INVALID_PIXEL]) == pytest.approx(
        np.sort(1000 * np.log10(power["VH"][used])), abs=0.51
    )


def test_raster_in_another_system_is_warped_to_the_grid(power: dict[str, np.ndarray], tmp_path: Path) -> None:
    straight = cut(radar_scene(tmp_path, "linear", power), GRID)
    turned, part = {}, {}
    for name, values in power.items():
        smooth = np.nan_to_num(values, nan=0.05).astype(np.float32)
        target = np.zeros((1400, 2200), np.float32)
        transform = rasterio.Affine(1e-4, 0, 2.99, 0, -1e-4, 51.46)
        reproject(
            smooth,
            target,
            src_transform=rasterio.Affine(*GRID.transform),
            src_crs=GRID.crs,
            dst_transform=transform,
            dst_crs="EPSG:4326",
            resampling=Resampling.nearest,
        )
        turned[name] = Band(write(tmp_path / f"{name}-turned.tif", target, "EPSG:4326", transform), "linear")
        west = write(tmp_path / f"{name}-part.tif", target[:, :800] + np.float32(1), "EPSG:4326", transform)
        part[name] = Band(west, "dB")
    warped = cut(replace(radar_scene(tmp_path, "linear", power), bands=turned, grid=GRID))
    assert warped.table["parcel_id"].to_pylist() == straight.table["parcel_id"].to_pylist()
    in_part = cut(replace(radar_scene(tmp_path, "linear", power), bands=part, grid=GRID))
    assert in_part.table["parcel_id"].to_pylist() == ["cloudy", "empty"]
    assert in_part.skipped["no_data"] == 3
    # Nearest pixels twice over: the same field, other pixels of its speckle.
    assert warped.table["VH"].to_numpy() == pytest.approx(straight.table["VH"].to_numpy(), rel=0.05)


Breaking = Callable[[Scene, Path, dict[str, np.ndarray]], Scene]


def with_band(scene: Scene, name: str, href: str) -> Scene:
    return replace(scene, bands={**scene.bands, name: replace(scene.bands[name], href=href)})


def truncated(scene: Scene, folder: Path, _: dict[str, np.ndarray]) -> Scene:
    whole = Path(scene.bands["B08"].href).read_bytes()
    (folder / "half.tif").write_bytes(whole[: len(whole) // 2])
    return with_band(scene, "B08", str(folder / "half.tif"))


def corrupt(scene: Scene, folder: Path, _: dict[str, np.ndarray]) -> Scene:
    whole = bytearray(Path(scene.bands["B08"].href).read_bytes())
    for at in range(len(whole) // 4, len(whole), 5000):
        whole[at : at + 300] = bytes(300)
    (folder / "corrupt.tif").write_bytes(whole)
    return with_band(scene, "B08", str(folder / "corrupt.tif"))


def no_raster(scene: Scene, folder: Path, _: dict[str, np.ndarray]) -> Scene:
    (folder / "page.tif").write_text("<html>503 Service Unavailable</html>")
    return with_band(scene, "B08", str(folder / "page.tif"))


def away(scene: Scene, folder: Path, _: dict[str, np.ndarray]) -> Scene:
    return with_band(scene, "B08", str(folder / "nowhere.tif"))


def bandless(scene: Scene, _: Path, __: dict[str, np.ndarray]) -> Scene:
    return replace(scene, bands={name: band for name, band in scene.bands.items() if name not in ("B05", SCL)})


def placeless(scene: Scene, folder: Path, numbers: dict[str, np.ndarray]) -> Scene:
    return with_band(scene, "B08", write(folder / "placeless.tif", numbers["B08"], None))


def unclassified(scene: Scene, folder: Path, numbers: dict[str, np.ndarray]) -> Scene:
    return with_band(scene, SCL, write(folder / "SCL.tif", np.zeros_like(numbers[SCL])))


def offset_twice(scene: Scene, folder: Path, numbers: dict[str, np.ndarray]) -> Scene:
    return with_band(scene, "B04", write(folder / "B04.tif", (numbers["B04"] // 10 + 1).astype(np.uint16)))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("breaking", "cause", "match", "may_pass"),
    [
        (truncated, "unreadable", "B08: .*half.tif cannot be read", True),
        (corrupt, "unreadable", "B08: .*corrupt.tif cannot be read", True),
        (no_raster, "unreadable", "B08: .*page.tif cannot be read", True),
        (away, "unreadable", "B08: .*nowhere.tif cannot be read", True),
        (bandless, "missing_band", "no B05, SCL; S2 needs", False),
        (placeless, "unknown_crs", "B08: .*placeless.tif says no coordinate system", False),
        (unclassified, "empty_scl", "SCL has no class", False),
        (offset_twice, "implausible", "negative reflectance with offset -0.1", False),
    ],
)
def test_broken_scene_tells_its_cause_in_one_line(
    breaking: Breaking,
    cause: str,
    match: str,
    may_pass: bool,
    optical: Scene,
    numbers: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    with pytest.raises(SceneError, match=match) as caught:
        cut(breaking(optical, tmp_path, numbers))
    assert (caught.value.cause, caught.value.may_pass) == (cause, may_pass)
    assert str(caught.value).startswith("scene tile: ")
    assert "\n" not in str(caught.value)


def test_tile_without_parcels_and_unknown_grid(optical: Scene) -> None:
    with pytest.raises(SceneError, match="none of 8 parcels") as caught:
        cut(optical, replace(GRID, left=GRID.left + 100_000))
    assert caught.value.cause == "no_parcels"
    index = build(PARCELS, GRID, 5.0, 8, 64)
    with pytest.raises(SceneError, match="no known system"):
        extract(optical, replace(GRID, crs="EPSG:999999"), PARCELS, index, SETTINGS)


def test_radar_without_direction_is_refused(power: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="direction and radiometry") as caught:
        cut(radar_scene(tmp_path, "linear", power, direction=None))
    assert caught.value.cause == "bad_metadata"
