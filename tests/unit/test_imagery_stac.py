"""Scenes from items as the three large catalogues write them; offsets of both kinds of baseline."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from db.sensors import S2_BANDS
from ingest.imagery.errors import SceneError
from ingest.imagery.profile import Profile
from ingest.imagery.scene import Grid
from ingest.imagery.sentinel1 import S1_PROFILE
from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.imagery.stac import scene_from_item

NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
NAMES = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}


def earth_search(*, applied: bool, baseline: str = "05.09") -> dict[str, Any]:
    raster = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]
    return {
        "id": "S2A_31UFU_20230501_0_L2A",
        "properties": {
            "datetime": "2023-05-01T10:56:38.071000Z",
            "created": "2023-05-01T21:44:02.336Z",
            "platform": "sentinel-2a",
            "s2:processing_baseline": baseline,
            "s2:product_uri": f"{NAME}.SAFE",
            "grid:code": "MGRS-31UFU",
            "earthsearch:boa_offset_applied": applied,
            "proj:epsg": 32631,
        },
        "assets": {
            name: {
                "href": f"https://example.org/{band}.tif",
                "proj:shape": [10980, 10980],
                "proj:transform": [10, 0, 600000, 0, -10, 5900040],
                **({} if band == "SCL" else {"raster:bands": raster}),
            }
            for band, name in NAMES.items()
        },
    }


def planetary_computer(baseline: str) -> dict[str, Any]:
    return {
        "id": "S2A_MSIL2A_20230501T105621_R094_T31UFU_20230501T170300",
        "properties": {
            "datetime": "2023-05-01T10:56:21.024000Z",
            "s2:generation_time": "2023-05-01T17:03:00.000000Z",
            "platform": "Sentinel-2A",
            "s2:processing_baseline": baseline,
            "sat:relative_orbit": 94,
            "s2:product_uri": f"{NAME}.SAFE",
            "s2:mgrs_tile": "31UFU",
            "proj:epsg": 32631,
        },
        "assets": {band: {"href": f"https://example.org/{band}.tif"} for band in NAMES},
    }


def data_space() -> dict[str, Any]:
    coarse = {"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}
    said = {"raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0}
    return {
        "id": NAME,
        "properties": {
            "datetime": "2023-05-01T10:56:21.024000Z",
            "published": "2023-05-01T19:40:11.5Z",
            "platform": "sentinel-2a",
            "processing:version": "05.09",
            "sat:relative_orbit": 94,
            "grid:code": "MGRS-31UFU",
            "proj:code": "EPSG:32631",
        },
        "assets": {
            f"{band}_{20 if band in coarse else 10}m": {"href": f"s3://eodata/{band}.jp2", **said} for band in NAMES
        },
    }


@pytest.mark.parametrize(
    ("item", "offset", "published"),
    [
        (earth_search(applied=True), 0.0, "2023-05-01T21:44:02.336+00:00"),
        (earth_search(applied=False), -0.1, "2023-05-01T21:44:02.336+00:00"),
        (earth_search(applied=False, baseline="03.01"), 0.0, "2023-05-01T21:44:02.336+00:00"),
        (planetary_computer("05.09"), -0.1, "2023-05-01T17:03:00+00:00"),
        (planetary_computer("02.14"), 0.0, "2023-05-01T17:03:00+00:00"),
        (data_space(), -0.1, "2023-05-01T19:40:11.500+00:00"),
    ],
)
def test_catalogues_give_the_same_scene(item: dict[str, Any], offset: float, published: str) -> None:
    scene = scene_from_item(item, S2_PROFILE)
    assert scene.scene_id == NAME
    assert scene.observed_at == datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
    assert scene.available_at == datetime.fromisoformat(published)
    assert (scene.platform, scene.relative_orbit, scene.tile) == ("S2A", 94, "31UFU")
    assert set(scene.bands) == set(NAMES)
    for band in S2_BANDS:
        assert (scene.bands[band].scale, scene.bands[band].offset) == pytest.approx((1e-4, offset))
        assert (scene.bands[band].unit, scene.bands[band].nodata) == ("reflectance", 0.0)
    assert (scene.bands["SCL"].unit, scene.bands["SCL"].scale, scene.bands["SCL"].offset) == ("class", 1.0, 0.0)


def test_grid_is_what_the_item_says_or_left_to_the_file() -> None:
    found = scene_from_item(earth_search(applied=True), S2_PROFILE).grid
    assert found == Grid("EPSG:32631", 600_000.0, 5_900_040.0, 10.0, 10_980, 10_980)
    assert scene_from_item(planetary_computer("05.09"), S2_PROFILE).grid is None


@pytest.mark.parametrize(
    ("remove", "match"),
    [
        (("s2:processing_baseline", "s2:product_uri"), "neither an offset nor a processing baseline"),
        (("s2:generation_time",), "no property of published"),
        (("sat:relative_orbit",), None),
    ],
)
def test_what_an_item_must_say(remove: tuple[str, ...], match: str | None) -> None:
    item = deepcopy(planetary_computer("05.09"))
    for name in remove:
        del item["properties"][name]
    if match is None:  # the product's name says it too
        assert scene_from_item(item, S2_PROFILE).relative_orbit == 94
        return
    with pytest.raises(SceneError, match=match) as caught:
        scene_from_item(item, S2_PROFILE)
    assert caught.value.cause == "bad_metadata"
    assert not caught.value.may_pass


def radar(**properties: Any) -> dict[str, Any]:
    return {
        "id": "S1A_IW_GRDH_1SDV_20230502T172441_20230502T172506_048356_05D0F5_rtc",
        "properties": {
            "datetime": "2023-05-02T17:24:53Z",
            "created": "2023-05-02T21:00:00Z",
            "platform": "SENTINEL-1A",
            "sat:orbit_state": "ascending",
            "sat:relative_orbit": 88,
            "proj:epsg": 32631,
            **properties,
        },
        "assets": {"vv": {"href": "vv.tif", "raster:bands": [{"nodata": -32768}]}, "vh": {"href": "vh.tif"}},
    }


def test_radar_says_its_measurement_in_the_item_or_in_the_profile() -> None:
    said = {"card4l:measurement_type": "gamma0", "card4l:measurement_convention": "linear power"}
    scene = scene_from_item(radar(**said), S1_PROFILE)
    assert (scene.radiometry, scene.direction, scene.relative_orbit) == ("gamma0", "ascending", 88)
    assert (scene.platform, scene.datatake) == ("S1A", "05D0F5")
    assert scene.observed_at == datetime(2023, 5, 2, 17, 24, 41, tzinfo=UTC)
    assert (scene.bands["VV"].unit, scene.bands["VV"].nodata, scene.bands["VH"].nodata) == ("linear", -32768.0, None)
    assert scene_from_item(radar(), Profile("S1", S1_PROFILE.assets, fixed=said)) == scene
    with pytest.raises(SceneError, match="measurement_convention"):
        scene_from_item(radar(), S1_PROFILE)


def test_decibels_are_known_by_the_unit_of_the_raster() -> None:
    item = radar(**{"card4l:measurement_type": "sigma0"})
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"unit": "dB", "scale": 0.0001}]
    assert scene_from_item(item, S1_PROFILE).bands["VH"].unit == "dB"


@pytest.mark.parametrize("place", ["raster:bands", "bands", "raster:unit in bands", "asset", "item"])
@pytest.mark.parametrize(("said", "unit"), [("dB", "dB"), ("linear power", "linear"), ("Decibel", "dB")])
def test_the_nearest_unit_counts(place: str, said: str, unit: str) -> None:
    other = "linear power" if unit == "dB" else "dB"
    item = radar(**{"card4l:measurement_type": "gamma0"})
    if place == "item":
        item["properties"]["unit"] = said
    else:
        item["properties"] |= {"card4l:measurement_convention": other, "unit": other}
    for asset in item["assets"].values():
        if place == "asset":
            asset["unit"] = said
        elif place != "item":
            key = "raster:unit" if place.startswith("raster:unit") else "unit"
            asset["raster:bands" if place == "raster:bands" else "bands"] = [{key: said}]
            asset["unit"] = other
    assert {band.unit for band in scene_from_item(item, S1_PROFILE).bands.values()} == {unit}


@pytest.mark.parametrize(
    "changes",
    [
        {"proj:epsg": None, "proj:code": "http://127.0.0.1/system"},
        {"proj:code": "/etc/hostname"},
        {"proj:shape": [10**9, 10**9]},
        {"proj:transform": [float("nan"), 0, 0, 0, -10, 0]},
    ],
)
def test_a_grid_that_is_none_is_bad_metadata(changes: dict[str, Any]) -> None:
    item = earth_search(applied=True)
    for asset in item["assets"].values():
        asset |= changes
    with pytest.raises(SceneError, match="proj:"):
        scene_from_item(item, S2_PROFILE)
