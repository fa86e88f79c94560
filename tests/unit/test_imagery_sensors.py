"""A sensor that the product does not know is cut once it is described in `IMAGERY`: no other code names it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from db.sensors import Sensor
from ingest.imagery.cut import extract
from ingest.imagery.errors import SceneError
from ingest.imagery.index import Chunk, ParcelIndex, build
from ingest.imagery.parcels import Parcels
from ingest.imagery.profile import ItemBand, Profile
from ingest.imagery.scene import Band, Grid, Scene
from ingest.imagery.sensors import IMAGERY, SensorImagery
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.stac import lacks, scene_from_item
from ingest.imagery.sums import Columns, float_sums, integer_sums
from ingest.scenes.items import sensor_of
from ingest.stream.schemas import S1

THERMAL = cast(Sensor, "L8")
GRID = Grid("EPSG:32631", 500_000.0, 5_700_000.0, 10.0, 64, 64)
AT = datetime(2024, 5, 1, 10, 56, tzinfo=UTC)
SETTINGS = ImagerySettings()


class ThermalSums:
    def __init__(self, scene: Scene, index: ParcelIndex) -> None:
        self._band = scene.bands["LST"]
        self.n_seen = np.zeros(len(index.n_pixels), np.int64)
        self.n_valid, self._sums = self.n_seen, np.zeros(len(index.n_pixels))

    def add(self, chunk: Chunk, values: Mapping[str, NDArray[Any]]) -> None:
        kelvin = values["LST"] * self._band.scale
        self.n_valid[chunk.parcel] += integer_sums((kelvin > 0).view(np.uint8), chunk)
        self._sums[chunk.parcel] += float_sums(kelvin, chunk)

    def check(self, rows: NDArray[np.intp]) -> None:
        pass

    def columns(self, rows: NDArray[np.intp]) -> Columns:
        return {"LST": self._sums[rows] / self.n_valid[rows], "n_pixels": self.n_valid[rows]}


def band(of: ItemBand, _: Profile) -> Band:
    return Band(of.href, "kelvin", of.scale or 1.0, 0.0, 0.0)


@pytest.fixture
def thermal(monkeypatch: pytest.MonkeyPatch) -> SensorImagery:
    fields = [S1.arrow.field(name) for name in ("parcel_id", "observed_at", "scene_id", "platform", "n_pixels")]
    described = SensorImagery(
        title="Landsat",
        platform=re.compile("landsat-8|LC08"),
        product=re.compile(r"(?P<platform>LC08)_(?P<orbit>\d{3})_(?P<start>\d{8}T\d{6})"),
        profile=Profile(THERMAL, {"LST": ("LST", "lwir11")}),
        band=band,
        part=lambda *_: None,
        schema=replace(S1, name="parcelwatch.l8", arrow=pa.schema([*fields, pa.field("LST", pa.float32())])),
        counted="n_pixels",
        needed=("LST",),
        sums=lambda scene, index, *_: ThermalSums(scene, index),
        inner_buffer_m=lambda _: 10.0,
    )
    monkeypatch.setitem(IMAGERY, THERMAL, described)
    return described


def parcels() -> Parcels:
    degrees = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    metres = [shapely.box(500_100 + x, 5_699_500, 500_250 + x, 5_699_800) for x in (0, 200)]
    outlines = shapely.transform(metres, lambda xy: np.column_stack(degrees.transform(xy[:, 0], xy[:, 1])))
    return Parcels("made-up", "2024", ["left", "right"], shapely.to_wkb(outlines).tolist(), np.ones(2, np.bool_))


def item(href: str) -> dict[str, Any]:
    properties = {"published": "2024-05-02T00:00:00Z", "datetime": "2024-05-01T10:56:00Z"}
    assets = {"lwir11": {"href": href, "raster:bands": [{"scale": 0.01}]}}
    return {"id": "LC08_199_20240501T105600", "properties": properties, "assets": assets}


def test_a_described_sensor_is_cut(thermal: SensorImagery) -> None:
    values = np.full((GRID.height, GRID.width), 29_000, np.uint16)
    values[:, 30:] = 30_000
    place = rasterio.Affine(*GRID.transform)
    form = {"driver": "GTiff", "count": 1, "dtype": "uint16", "crs": GRID.crs, "transform": place}
    with MemoryFile() as memory:
        with memory.open(width=GRID.width, height=GRID.height, **form) as file:
            file.write(values, 1)
        scene = scene_from_item(item(memory.name), thermal.profile)
        both = parcels()
        index = build(both, GRID, thermal.inner_buffer_m(SETTINGS), SETTINGS.least_pixels, SETTINGS.sample_pixels)
        found = extract(scene, GRID, both, index, SETTINGS)
    assert (found.stored, found.skipped) == (2, {})
    assert found.table.schema == thermal.schema.arrow
    rows = found.table.to_pylist()
    assert [row["parcel_id"] for row in rows] == ["left", "right"]
    assert [row["LST"] for row in rows] == pytest.approx([290.0, 300.0])
    assert {(row["n_pixels"], row["scene_id"], row["observed_at"]) for row in rows} == {(13 * 28, scene.scene_id, AT)}


def test_what_a_described_sensor_lacks_is_said(thermal: SensorImagery) -> None:
    bare = {**item("/a/b.tif"), "assets": {}}
    assert lacks(bare, thermal.profile) == ["asset LST"]
    assert sensor_of("landsat-8") == THERMAL
    both = parcels()
    index = build(both, GRID, 10.0, SETTINGS.least_pixels, SETTINGS.sample_pixels)
    with pytest.raises(SceneError, match="no LST; L8 needs LST"):
        extract(scene_from_item(bare, thermal.profile), GRID, both, index, SETTINGS)
