"""What products say of the part and processing that they are, and the grid that covers several of them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from db.sensors import S2_BANDS
from ingest.imagery.merge import covering, is_stored_alike
from ingest.imagery.scene import SCL, Band, Grid, Scene
from ingest.imagery.sentinel1 import S1_PROFILE
from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.imagery.stac import scene_from_item

START = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
GRID = Grid("EPSG:32631", 600_000.0, 5_700_000.0, 10.0, 100, 80)


def item(**properties: object) -> dict[str, object]:
    return {"id": NAME, "properties": {"created": "2023-05-01T20:00:00Z", **properties}, "assets": {}}


def test_part_and_processing_of_sentinel_2() -> None:
    strip = "S2A_OPER_MSI_L2A_DS_2APS_20230501T170300_S20230501T105623_N05.09"
    scene = scene_from_item(item(**{"s2:datastrip_id": strip}), S2_PROFILE)
    assert scene.part == datetime(2023, 5, 1, 10, 56, 23, tzinfo=UTC)
    assert (scene.processed_at, scene.tile) == (datetime(2023, 5, 1, 17, 3, tzinfo=UTC), "31UFU")
    plain = scene_from_item(item(**{"s2:generation_time": "2024-01-01T00:00:00Z"}), S2_PROFILE)
    assert (plain.part, plain.processed_at) == (None, datetime(2024, 1, 1, tzinfo=UTC))


def test_part_of_sentinel_1_is_its_slice() -> None:
    name = "S1A_IW_GRDH_1SDV_20230502T172441_20230502T172506_048356_05D0F5"
    scene = scene_from_item({**item(**{"sat:relative_orbit": 88}), "id": name}, S1_PROFILE)
    assert scene.part == scene.observed_at == datetime(2023, 5, 2, 17, 24, 41, tzinfo=UTC)
    assert scene.datatake == "05D0F5"


@pytest.mark.parametrize(
    ("other", "covers"),
    [
        (replace(GRID, left=600_500.0, top=5_699_000.0), (600_000.0, 5_700_000.0, 150, 180)),
        (replace(GRID, left=599_500.0, top=5_700_200.0, width=10, height=10), (599_500.0, 5_700_200.0, 150, 100)),
        (replace(GRID, left=600_505.0), (600_000.0, 5_700_000.0, 100, 80)),
        (replace(GRID, crs="EPSG:32632"), (600_000.0, 5_700_000.0, 100, 80)),
    ],
)
def test_a_grid_grows_over_those_that_share_its_pixels(other: Grid, covers: tuple[float, float, int, int]) -> None:
    found = covering(GRID, [other])
    assert (found.left, found.top, found.width, found.height) == covers


def test_products_stored_otherwise_are_told() -> None:
    bands = {name: Band(f"/a/{name}", "reflectance", 1e-4, -0.1, 0.0) for name in S2_BANDS} | {
        SCL: Band("/a/SCL", "class")
    }
    one = Scene("S2", "a", START, START, "S2A", 94, bands)
    moved = {name: replace(band, href="/b") for name, band in bands.items()}
    assert is_stored_alike(one, replace(one, bands=moved))
    assert not is_stored_alike(one, replace(one, bands={**bands, "B04": replace(bands["B04"], offset=0.0)}))
