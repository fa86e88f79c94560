"""Items as found scenes: what a record needs is there, or the reason is told."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.scenes.access import unsigned
from ingest.scenes.items import NotAScene, absolute, scene_of_file, scene_of_item, sensor_of
from ingest.scenes.record import FoundScene

NOW = datetime(2024, 5, 2, 12, tzinfo=UTC)
NAME = "S2A_MSIL2A_20240501T105621_N0510_R094_T31UFU_20240501T170300"
ITEM: dict[str, Any] = {
    "type": "Feature",
    "id": "S2A_31UFU_20240501_0_L2A",
    "properties": {"datetime": "2024-05-01T10:56:38Z", "s2:product_uri": f"{NAME}.SAFE"},
    "assets": {"blue": {"href": "B02.tif"}, "thumbnail": {"href": "https://example.org/t.jpg"}},
    "links": [{"rel": "self", "href": "https://example.org/v1/collections/s2/items/S2A_31UFU"}],
}


def found(item: object, place: str = "https://example.org/v1") -> FoundScene:
    return scene_of_item(item, "S2", S2_PROFILE, source="stac:x", profile="x", place=place, found_at=NOW)


def test_item_becomes_a_record_and_back() -> None:
    scene = found(ITEM)
    assert (scene.scene_id, scene.kind, scene.sensor) == (NAME, "item", "S2")
    assert scene.href == "https://example.org/v1/collections/s2/items/S2A_31UFU"
    assert scene.item is not None
    assert scene.item["assets"]["blue"]["href"] == "https://example.org/v1/collections/s2/items/B02.tif"
    assert scene.item["assets"]["thumbnail"]["href"] == "https://example.org/t.jpg"
    assert FoundScene.from_json(scene.to_json()) == scene
    assert ITEM["assets"]["blue"]["href"] == "B02.tif"


def test_id_counts_where_no_product_is_named_and_place_where_no_address_is() -> None:
    item = {
        **ITEM,
        "properties": {"datetime": "2024-05-01T10:56:38+02:00"},
        "links": [{"rel": "self", "href": "./x.json"}],
    }
    scene = found(item, place="/data/scene/item.json")
    assert (scene.scene_id, scene.href) == ("S2A_31UFU_20240501_0_L2A", "/data/scene/item.json")
    assert scene.item is not None
    assert scene.item["assets"]["blue"]["href"] == "/data/scene/B02.tif"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": None}, "no id"),
        ({"id": " "}, "no id"),
        ({"properties": None}, "no properties"),
        ({"properties": {"datetime": None}}, "datetime None is no time"),
        ({"properties": {"datetime": "1 May"}}, "'1 May' is no time"),
        ({"properties": {"datetime": 20240501}}, "20240501 is no time"),
        ({"properties": {"datetime": "2024-05-01T10:56:38"}}, "without its offset"),
        ({"assets": {}}, "no assets"),
        ({"assets": [1]}, "no assets"),
        ({"assets": {"thumbnail": {"href": "t.jpg"}}}, r"none of its assets is a band \(thumbnail\)"),
        ({"assets": {"blue": {}}}, "asset blue has no href"),
        ({"assets": {"blue": "B02.tif"}}, "asset blue has no href"),
        ({"bbox": [float("nan")]}, "NaN"),
        ({"title": "a\0b"}, "no database stores"),
        ({"title": "a" * 500_000}, r"500,\d+ bytes are too many"),
        ({"properties": {"datetime": "2024-05-01T10:56:38Z", "s2:product_uri": "a\nb"}}, "no name of a product"),
        ({"properties": {"datetime": "2024-05-01T10:56:38Z", "s2:product_uri": "a" * 300}}, "no name of a product"),
    ],
)
def test_what_is_no_scene_says_why(change: dict[str, Any], match: str) -> None:
    with pytest.raises(NotAScene, match=match) as caught:
        found({**deepcopy(ITEM), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", [None, 3, [], "text", {}])
def test_what_is_no_item(item: object) -> None:
    with pytest.raises(NotAScene, match="not a STAC item"):
        found(item)


def test_interval_needs_no_datetime() -> None:
    properties = {"datetime": None, "start_datetime": "2024-05-01T10:56:38Z", "end_datetime": "2024-05-01T10:57:38Z"}
    assert found({**ITEM, "properties": properties}).scene_id == ITEM["id"]


@pytest.mark.parametrize(
    ("href", "home", "expected"),
    [
        ("B02.tif", "https://a.org/x/item.json", "https://a.org/x/B02.tif"),
        ("/b/B02.tif", "https://a.org/x/item.json", "https://a.org/b/B02.tif"),
        ("s3://eodata/B02.jp2", "https://a.org/x", "s3://eodata/B02.jp2"),
        ("./B02.tif", "/data/x/item.json", "/data/x/B02.tif"),
        ("/data/B02.tif", "/else/item.json", "/data/B02.tif"),
        ("file:///data/a%20b.tif", "/else/item.json", "/data/a b.tif"),
        ("/vsis3/b/B02.tif", "/else/item.json", "/vsis3/b/B02.tif"),
    ],
)
def test_addresses_are_absolute(href: str, home: str, expected: str) -> None:
    assert absolute(href, home) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sentinel-2a",), "S2"),
        (("Sentinel-1C",), "S1"),
        ((None, "S2B_MSIL2A_2024"), "S2"),
        (("s1",), "S1"),
        (("sentinel-3a",), None),
        (("S10_x",), None),
        ((None, 5, "landsat-8"), None),
    ],
)
def test_sensor_by_name(names: tuple[object, ...], expected: str | None) -> None:
    assert sensor_of(*names) == expected


def test_signatures_are_not_shown() -> None:
    line = "B02: https://a.blob.core.windows.net/c/B02.tif?se=2024&sig=abc cannot be read: /vsicurl/https://a/b?sig=abc"
    assert unsigned(line) == "B02: https://a.blob.core.windows.net/c/B02.tif cannot be read: /vsicurl/https://a/b"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("https://a.b/c.tif?sig=x&se=y cannot be read", "https://a.b/c.tif cannot be read"),
        ("'/vsicurl/https://a.b/c.tif?sig=x' not found", "'/vsicurl/https://a.b/c.tif' not found"),
        ("first\nhttps://a.b/c?sig=x\nlast: why?", "first\nhttps://a.b/c\nlast: why?"),
        ("s3://a/b?x and https://c?y", "s3://a/b and https://c"),
        ("/data/what?.tif is broken; is it?", "/data/what?.tif is broken; is it?"),
    ],
)
def test_addresses_are_told_without_their_signature(told: str, shown: str) -> None:
    assert unsigned(told) == shown


def test_all_that_an_item_lacks_is_told_at_once() -> None:
    item = {
        "id": "field-scan",
        "properties": {"platform": "sentinel-1a", "datetime": "2024-05-01T10:56:21Z"},
        "assets": {"vv": {"href": "vv.tif"}},
    }
    with pytest.raises(NotAScene) as failed:
        scene_of_file(item, "/data/item.json", None, "add", datetime.now(UTC))
    for what in (
        "when it could be had (published or created",
        "the relative orbit",
        "ascending or descending",
        "sigma0 or gamma0",
        "asset VH",
    ):
        assert what in str(failed.value)
