"""Records of the scenes topic: there and back, refused where they say something wrong, keyed by pass."""

import json
from datetime import UTC, datetime

import pytest

from ingest.errors import MessageRejected
from ingest.scenes.record import FoundScene, datatake_named, pass_key

AT = datetime(2023, 5, 1, 20, tzinfo=UTC)
NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
SAFE = FoundScene(NAME, "S2", "add", "safe", f"/data/{NAME}.SAFE", None, None, AT)
ITEM = FoundScene("S1A_x", "S1", "stac:here", "item", "https://h/i.json", {"id": "x", "assets": {}}, "here", AT)


@pytest.mark.parametrize("scene", [SAFE, ITEM])
def test_there_and_back(scene: FoundScene) -> None:
    assert FoundScene.from_json(scene.to_json()) == scene
    assert FoundScene.from_record(json.loads(scene.to_json())) == scene


@pytest.mark.parametrize(
    ("changes", "code", "match"),
    [
        ({"schema": "parcelwatch.scene/2"}, "unknown_schema", "this reader knows parcelwatch.scene/1"),
        ({"scene_id": ""}, "malformed", "scene_id"),
        ({"sensor": "S3"}, "malformed", "sensor"),
        ({"found_at": "2023-05-01T20:00:00"}, "malformed", "found_at"),
        ({"more": 1}, "malformed", "more"),
        ({"kind": "item"}, "malformed", "kind item without an item"),
    ],
)
def test_a_wrong_record_is_refused(changes: dict[str, object], code: str, match: str) -> None:
    with pytest.raises(MessageRejected, match=match) as caught:
        FoundScene.from_json(json.dumps(json.loads(SAFE.to_json()) | changes).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "old_and_new",
    [
        ('"href":"https://h/i.json"', '"href":"a\\u0000b"'),
        ('"href":"https://h/i.json"', '"href":"' + "x" * 5_000 + '"'),
        ('"href":"https://h/i.json"', '"href":"\\u001b[31m"'),
        ('"source":"stac:here"', '"source":"a\\u0000"'),
        ('"profile":"here"', '"profile":"a\\u0000"'),
        ('"scene_id":"S1A_x"', '"scene_id":"S1A\\u0000"'),
        ('"scene_id":"S1A_x"', '"scene_id":"\\ud800"'),
        ('"id":"x"', '"i\\u0000d":"x"'),
        ('"id":"x"', '"id":["x",{"a":"\\u0000"}]'),
        ('"id":"x"', '"id":NaN'),
        ('"id":"x"', '"id":[-Infinity]'),
        ('"id":"x"', '"id":1e400'),
        ('"id":"x"', '"id":' + "9" * 5_000),
        ('"id":"x"', '"id":' + "[" * 5_000 + "]" * 5_000),
        ('"id":"x"', '"id":"' + "x" * 2**20 + '"'),
        ('"found_at":"2023-05-01T20:00:00+00:00"', '"found_at":"9999-12-31T23:59:59-14:00"'),
        ('"found_at":"2023-05-01T20:00:00+00:00"', '"found_at":"0001-01-01T00:00:00+14:00"'),
        ('"found_at":"2023-05-01T20:00:00+00:00"', '"found_at":1e300'),
    ],
    ids=lambda pair: pair[1][:40],
)
def test_what_the_ledger_cannot_hold_is_refused(old_and_new: tuple[str, str]) -> None:
    text = ITEM.to_json().decode()
    assert old_and_new[0] in text
    with pytest.raises(MessageRejected) as caught:
        FoundScene.from_json(text.replace(*old_and_new).encode())
    assert caught.value.code in ("malformed", "oversized")


def test_what_only_looks_like_nul_is_let_through() -> None:
    text = ITEM.to_json().replace(b'"id":"x"', b'"id":"\\\\u0000"').decode()
    assert FoundScene.from_json(text.encode()).item == {"id": "\\u0000", "assets": {}}


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(MessageRejected) as caught:
        FoundScene.from_json(b"\xff{")
    assert caught.value.code == "malformed"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="found_at without"):
        FoundScene(NAME, "S2", "add", "safe", "/x", None, None, datetime(2023, 5, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("scene_id", "key", "datatake"),
    [
        (NAME, "S2A_20230501_T31UFU", "S2A_20230501T105621"),
        ("S2A_MSIL2A_20230501T105621_N0510_R094_T31UFU_20240101T000000", "S2A_20230501_T31UFU", "S2A_20230501T105621"),
        ("S2A_MSIL2A_20230501T105621_R094_T31UFU_20230501T170300", "S2A_20230501_T31UFU", "S2A_20230501T105621"),
        ("S2A_31UFU_20230501_0_L2A", "S2A_20230501_T31UFU", None),
        ("S1A_IW_GRDH_1SDV_20230502T172441_20230502T172506_048356_05D0F5_ABCD", "S1A_048356_05D0F5", "S1A_05D0F5"),
        ("S1A_IW_GRDH_1SDV_20230502T172506_20230502T172531_048356_05D0F5_rtc", "S1A_048356_05D0F5", "S1A_05D0F5"),
        ("something else", "something else", None),
    ],
)
def test_all_processings_of_a_scene_share_a_key(scene_id: str, key: str, datatake: str | None) -> None:
    assert (pass_key(scene_id), datatake_named(scene_id)) == (key, datatake)
