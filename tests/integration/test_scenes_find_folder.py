"""A watched folder: products that are whole, each once; those still written wait, those that are broken are told once."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from db.sensors import S2_BANDS
from ingest.errors import BrokerUnavailable
from ingest.scenes.folder import FolderError, FolderPoll, Watch
from ingest.scenes.profiles import load_profile
from ingest.scenes.publish import Published
from ingest.scenes.record import FoundScene

NAME = "S2A_MSIL2A_20240501T105621_N0510_R094_T31UFU_20240501T170300"
OTHER = NAME.replace("31UFU", "31UFT")
IMAGE = "GRANULE/L2A_T31UFU/IMG_DATA/R10m/T31UFU_20240501T105621_B02_10m"
SETTLED = timedelta(seconds=30)


@dataclass
class Ledger:
    """A publisher that knows what it has."""

    scenes: list[FoundScene] = field(default_factory=list)
    calls: int = 0
    fails: bool = False

    def publish(self, found: Iterable[FoundScene]) -> Published:
        self.calls += 1
        if self.fails:
            raise BrokerUnavailable("broker: away")
        given = list(found)
        known = {scene.scene_id for scene in self.scenes}
        new = [scene for scene in given if scene.scene_id not in known]
        self.scenes += new
        return Published(len(new), len(given) - len(new))


def later(seconds: float = 60) -> datetime:
    """The present of a look that comes so long after what was just written."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def safe(folder: Path, name: str = NAME, manifest: bool = True) -> Path:
    product = folder / f"{name}.SAFE"
    image = product / f"{IMAGE}.jp2"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"jp2" * 100)
    (product / "MTD_MSIL2A.xml").write_text(f'<a:p xmlns:a="urn:a"><IMAGE_FILE>{IMAGE}</IMAGE_FILE></a:p>')
    if manifest:
        listed = "".join(
            f'<dataObject><byteStream size="{(product / file).stat().st_size}"><fileLocation href="./{file}"/>'
            "</byteStream></dataObject>"
            for file in ("MTD_MSIL2A.xml", f"{IMAGE}.jp2")
        )
        (product / "manifest.safe").write_text(
            f'<x:XFDU xmlns:x="urn:x"><dataObjectSection>{listed}</dataObjectSection></x:XFDU>'
        )
    return product


ELSEWHERE = {band: {"href": f"https://example.org/{band}.tif"} for band in (*S2_BANDS, "SCL")}


def cogs(folder: Path, **change: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "B02.tif").write_bytes(b"tif" * 50)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"{NAME}_cog",
        "properties": {
            "datetime": "2024-05-01T10:56:21Z",
            "created": "2024-05-01T20:00:00Z",
            "platform": "sentinel-2a",
        },
        "assets": {**ELSEWHERE, "B02": {"href": "./B02.tif"}, "preview": {"href": "missing.png"}},
        **change,
    }
    file = folder / "item.json"
    file.write_text(json.dumps(item))
    return file


def poll(watch: Watch, ledger: Ledger, now: datetime | None = None) -> FolderPoll:
    return watch.poll(now or later(), ledger.publish)


def test_every_kind_of_product_once(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    safe(folder / "2024" / "05")
    safe(folder, OTHER, manifest=False)
    third = safe(tmp_path / "elsewhere", NAME.replace("31UFU", "31UFS"))
    shutil.make_archive(str(folder / "anything"), "zip", third.parent, third.name)
    cogs(folder / "cogs")
    (folder / "collection.json").write_text('{"type": "Collection"}')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "readme.txt").write_text("nothing")
    with zipfile.ZipFile(folder / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    watch, ledger = Watch(folder), Ledger()
    found = poll(watch, ledger)
    assert (found.outcome.new, found.outcome.rejected.count, found.waiting.count) == (4, 0, 0)
    kinds = {scene.scene_id: (scene.kind, scene.source, scene.sensor) for scene in ledger.scenes}
    assert kinds == {
        NAME: ("safe", "folder:incoming", "S2"),
        OTHER: ("safe", "folder:incoming", "S2"),
        NAME.replace("31UFU", "31UFS"): ("safe", "folder:incoming", "S2"),
        f"{NAME}_cog": ("item", "folder:incoming", "S2"),
    }
    item = next(scene.item for scene in ledger.scenes if scene.item)
    assert item["assets"]["B02"]["href"] == str(folder / "cogs" / "B02.tif")
    assert Path(next(scene.href for scene in ledger.scenes if scene.scene_id.endswith("31UFS_20240501T170300"))) == (
        folder / "anything.zip"
    )
    assert poll(watch, ledger).outcome.new == 0
    assert ledger.calls == 1
    again = poll(Watch(folder), ledger)  # another process: the ledger knows
    assert (again.outcome.new, again.outcome.known) == (0, 4)


def test_same_content_under_another_path_is_known(tmp_path: Path) -> None:
    product = safe(tmp_path)
    watch, ledger = Watch(tmp_path), Ledger()
    poll(watch, ledger)
    shutil.copytree(product, tmp_path / "copy" / product.name)
    found = poll(watch, ledger)
    assert (found.outcome.new, found.outcome.known) == (0, 1)


def test_product_still_written_waits(tmp_path: Path) -> None:
    product = safe(tmp_path, manifest=False)
    watch, ledger = Watch(tmp_path), Ledger()
    found = poll(watch, ledger, later(10))
    assert (found.outcome.new, found.waiting.first) == (0, f"{NAME}.SAFE: still being written")
    (product / f"{IMAGE}.jp2").write_bytes(b"jp2" * 500)
    assert poll(watch, ledger, later(20)).waiting.count == 1
    assert poll(watch, ledger, later(40)).outcome.new == 1


def test_copied_times_do_not_deceive(tmp_path: Path) -> None:
    product = safe(tmp_path)
    for path in [product, *product.rglob("*")]:
        os.utime(path, (0, 0))
    assert poll(Watch(tmp_path), Ledger(), later(10)).waiting.count == 1


def test_clock_of_the_file_server_that_runs_ahead(tmp_path: Path) -> None:
    """Then what counts is how long this process has seen it unchanged."""
    safe(tmp_path)
    watch, ledger, now = Watch(tmp_path), Ledger(), datetime.now(UTC) - timedelta(days=1)
    assert poll(watch, ledger, now).waiting.count == 1
    assert poll(watch, ledger, now + timedelta(seconds=20)).waiting.count == 1
    assert poll(watch, ledger, now + timedelta(seconds=31)).outcome.new == 1


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda product: (product / f"{IMAGE}.jp2").unlink(), "1 of 2 files are missing or short, as T31UFU"),
        (lambda product: (product / f"{IMAGE}.jp2").write_bytes(b"x"), "1 of 2 files are missing or short"),
        (
            lambda product: [(product / name).unlink() for name in ("manifest.safe", "MTD_MSIL2A.xml")],
            "neither manifest",
        ),
    ],
)
def test_product_that_misses_a_file_waits_for_it(spoil: Any, match: str, tmp_path: Path) -> None:
    product = safe(tmp_path)
    spoil(product)
    watch, ledger = Watch(tmp_path), Ledger()
    found = poll(watch, ledger)
    assert found.waiting.count == 1
    assert match in (found.waiting.first or "")
    assert found.new_rejections == ()
    shutil.rmtree(product)
    safe(tmp_path)
    assert poll(watch, ledger).outcome.new == 1


def test_item_waits_for_the_files_of_its_bands(tmp_path: Path) -> None:
    cogs(tmp_path)
    (tmp_path / "B02.tif").unlink()
    watch, ledger = Watch(tmp_path), Ledger()
    assert poll(watch, ledger).waiting.first == "item.json: B02: B02.tif is not there"
    (tmp_path / "B02.tif").write_bytes(b"tif")
    assert poll(watch, ledger, later(10)).waiting.first == "item.json: still being written"
    assert poll(watch, ledger).outcome.new == 1


def test_what_cannot_be_read_is_told_once_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.zip").write_bytes(b"PK half a zip")
    (tmp_path / "broken.json").write_text('{"type": "Feat')
    cogs(tmp_path / "landsat", id="LC08", properties={"datetime": "2024-05-01T10:56:21Z", "platform": "landsat-8"})
    safe(tmp_path, "S1A_IW_GRDH_1SDV_20240502T172441_20240502T172506_053709_0685F7_1234")
    safe(tmp_path, NAME.replace("L2A", "L1C"))
    safe(tmp_path, "S3A_OL_1_EFR____20240502")
    (safe(tmp_path, OTHER) / "manifest.safe").write_text("<XFDU")
    watch, ledger = Watch(tmp_path), Ledger()
    found = poll(watch, ledger)
    assert (found.outcome.new, found.outcome.rejected.count, len(found.new_rejections)) == (0, 7, 7)
    rejections = " | ".join(found.new_rejections)
    for reason in (
        "File is not a zip file",
        "not JSON",
        "neither platform nor id",
        "lies on no map",
        "not level 2A",
        "no product of Sentinel-1 or Sentinel-2",
        "list of files is broken",
    ):
        assert reason in rejections
    again = poll(watch, ledger)
    assert (again.outcome.rejected.count, again.new_rejections) == (7, ())
    product = safe(tmp_path / "new")
    shutil.make_archive(str(tmp_path / NAME), "zip", product.parent, product.name)
    shutil.rmtree(tmp_path / "new")
    found = poll(watch, ledger)
    assert (found.outcome.new, found.outcome.rejected.count) == (1, 6)


def test_publishing_that_fails_finds_them_again(tmp_path: Path) -> None:
    safe(tmp_path)
    watch, ledger = Watch(tmp_path), Ledger(fails=True)
    with pytest.raises(BrokerUnavailable):
        poll(watch, ledger)
    ledger.fails = False
    assert poll(watch, ledger).outcome.new == 1


def test_names_of_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('title = "t"\napi = "http://a"\n[sensors.S2]\ncollections = ["x"]\nassets.B02 = ["band_2"]\n')
    cogs(tmp_path / "in", assets={"band_2": {"href": "B02.tif"}})
    ledger = Ledger()
    assert poll(Watch(tmp_path / "in"), ledger).new_rejections == (
        f"{NAME}_cog: none of its assets is a band (band_2)",
    )
    others = {band: asset for band, asset in ELSEWHERE.items() if band != "B02"}
    cogs(tmp_path / "in", assets={**others, "band_2": {"href": "B02.tif"}})
    assert poll(Watch(tmp_path / "in", load_profile(str(file))), ledger).outcome.new == 1
    assert ledger.scenes[0].profile == str(file)


def test_links_in_a_circle_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    product = safe(tmp_path / "store")
    (tmp_path / "in" / product.name).symlink_to(product)
    safe(tmp_path / "in" / ".unpacking")
    ledger = Ledger()
    assert poll(Watch(tmp_path / "in"), ledger).outcome.new == 1


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="No such file or directory"):
        poll(Watch(tmp_path / "no"), Ledger())


def test_folder_that_is_a_whole_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.scenes.folder._MOST_ENTRIES", 5)
    for number in range(6):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(FolderError, match="more than 5 entries; watch a part of it"):
        poll(Watch(tmp_path), Ledger())
