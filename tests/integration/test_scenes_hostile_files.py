"""Files in a watched folder that would stop or exhaust whoever reads them: told once, the rest goes on."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest.imagery.errors import SceneError
from ingest.imagery.safe import scene_from_safe
from ingest.scenes.adding import scenes_at
from ingest.scenes.folder import Watch
from ingest.scenes.items import NotAScene
from ingest.scenes.publish import Published
from ingest.scenes.record import FoundScene
from tests.made_scenes import optical, s2_item

NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"


def poll(watched: Watch, found: list[FoundScene]) -> tuple[str, ...]:
    def publish(scenes: Iterable[FoundScene]) -> Published:
        new = list(scenes)
        found.extend(new)
        return Published(len(new), 0)

    return watched.poll(datetime.now(UTC) + timedelta(minutes=5), publish).new_rejections


def test_one_file_does_not_stop_a_watched_folder(tmp_path: Path) -> None:
    s2_item(tmp_path, optical(1))
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle.SAFE").symlink_to(tmp_path / "circle.SAFE")
    (tmp_path / "all.SAFE").symlink_to("/usr")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "linked.json").symlink_to("/usr")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "deep2.json").write_text('{"type": "Feature", "id": "S2A", "assets": ' + "[" * 500 + "]" * 500 + "}")
    surrogate = {
        "id": "S2A_\ud800",
        "assets": {"B02": {"href": "x"}},
        "properties": {"datetime": "2023-05-01T10:00:00Z"},
    }
    (tmp_path / "surrogate.json").write_text(json.dumps({"type": "Feature", **surrogate}))
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "not.zip").write_bytes(b"PK\x05\x06")
    watched, found = Watch(tmp_path), list[FoundScene]()
    rejections = poll(watched, found)
    assert len(found) == 1
    text = "\n".join(rejections)
    for name in ("dangling", "deep.json", "all.SAFE", "linked", "pipe.json", "pipe.zip", "device", "not.zip"):
        assert name in text, name
    assert poll(watched, found) == ()
    assert len(found) == 1


def test_a_file_that_vanishes_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = s2_item(tmp_path, optical(1))
    monkeypatch.setattr("ingest.scenes.folder._entries", lambda _: [str(tmp_path / "gone.json"), str(item)])
    found: list[FoundScene] = []
    assert poll(Watch(tmp_path), found) == ()
    assert len(found) == 1


def test_an_item_that_is_mended_is_found_again(tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(1))
    watched, found = Watch(tmp_path), list[FoundScene]()
    poll(watched, found)
    poll(watched, found)
    item.write_text(item.read_text().replace("05.09", "05.10"))
    poll(watched, found)
    assert [one.item["properties"]["s2:processing_baseline"] for one in found if one.item] == ["05.09", "05.10"]


def test_metadata_are_not_unpacked_beyond_their_bounds(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{NAME}.SAFE/MTD_MSIL2A.xml", "w", force_zip64=True) as member,
    ):
        member.write(b"<a>")
        for _ in range(200):
            member.write(b"<b/>" * 2**18)
    tracemalloc.start()
    with pytest.raises(SceneError, match="more than 8,388,608 bytes") as failed:
        scene_from_safe(path)
    assert failed.value.cause == "unreadable"
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["[" * 100_000, '"' * 3, "\x00", "{" + '"a":' * 9])
def test_what_is_no_json_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "item.json").write_text(text)
    with pytest.raises(NotAScene, match="not JSON"):
        scenes_at(str(tmp_path / "item.json"), None, lambda _: None, datetime.now(UTC))


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    safe = tmp_path / f"{NAME}.SAFE"
    safe.mkdir()
    (safe / "MTD_MSIL2A.xml").write_text('<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>')
    with pytest.raises(SceneError, match="document type"):
        scene_from_safe(safe)
