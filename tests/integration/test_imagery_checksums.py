"""A byte that was flipped on the way: a JPEG 2000 decodes it to other values, the published checksum tells them apart."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.imagery.checksums import Checksum, from_multihash, require
from ingest.imagery.errors import SceneError
from ingest.imagery.raster import Raster
from ingest.imagery.safe import scene_from_safe
from ingest.imagery.scene import Scene
from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.imagery.stac import scene_from_item
from ingest.scenes.adding import scenes_at
from tests.made_scenes import GRID, START, optical, s2_item, write

JP2: dict[str, Any] = {"driver": "JP2OpenJPEG", "CODEC": "JP2", "REVERSIBLE": "YES", "QUALITY": "100"}
NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
GRANULE = "GRANULE/L2A_T31UFU_A041031_20230501T105623"
IMAGE = f"{GRANULE}/IMG_DATA/R10m/T31UFU_20230501T105621_B04_10m"
PRODUCT = f"""<p><BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE><IMAGE_FILE>{IMAGE}</IMAGE_FILE>
<DATATAKE_SENSING_START>2023-05-01T10:56:21Z</DATATAKE_SENSING_START><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<GENERATION_TIME>2023-05-01T17:03:00Z</GENERATION_TIME><SENSING_ORBIT_NUMBER>94</SENSING_ORBIT_NUMBER>
<PROCESSING_BASELINE>05.09</PROCESSING_BASELINE></p>"""
TILE = f"""<t><TILE_ID>S2A_OPER_MSI_L2A_TL_T31UFU_N05.09</TILE_ID><HORIZONTAL_CS_CODE>{GRID.crs}</HORIZONTAL_CS_CODE>
<Size resolution="10"><NROWS>{GRID.height}</NROWS><NCOLS>{GRID.width}</NCOLS></Size>
<Geoposition resolution="10"><ULX>{GRID.left}</ULX><ULY>{GRID.top}</ULY></Geoposition></t>"""


def flipped(content: bytes) -> bytes:
    """One bit of the last tenth: coefficients, no marker."""
    place = len(content) * 9 // 10
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def read(scene: Scene) -> None:
    with Raster(scene, "B04", scene.bands["B04"], GRID) as raster:
        raster.read(0, 0, GRID.height, GRID.width)


def item_with(path: Path, key: str, hashed: Callable[[bytes], str]) -> Scene:
    item = json.loads(path.read_text())
    item["assets"]["B04"][key] = hashed((path.parent / "B04.tif").read_bytes())
    path.write_text(json.dumps(item))
    (found,) = scenes_at(str(path), None, lambda _: None, START)
    return scene_from_item(found.item or {}, S2_PROFILE)


@pytest.mark.parametrize("key", ["file:checksum", "checksum:multihash"])
@pytest.mark.parametrize(
    "hashed",
    [
        lambda content: "1220" + hashlib.sha256(content).hexdigest(),
        lambda content: "D50110" + hashlib.md5(content).hexdigest().upper(),
        lambda content: "1620" + hashlib.sha3_256(content).hexdigest(),
    ],
    ids=["sha256", "md5", "sha3"],
)
def test_a_flipped_byte_of_an_item_is_found(tmp_path: Path, key: str, hashed: Callable[[bytes], str]) -> None:
    path = s2_item(tmp_path, optical(1), **JP2)
    scene = item_with(path, key, hashed)
    read(scene)
    band = path.parent / "B04.tif"
    band.write_bytes(flipped(band.read_bytes()))
    with pytest.raises(SceneError, match=r"B04.*published is [0-9a-f]{32}.*fetch it again") as failed:
        read(scene)
    assert failed.value.may_pass
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), [("SHA3-256", "sha3_256"), ("MD5", "md5")])
def test_a_flipped_byte_of_a_product_is_found(tmp_path: Path, name: str, algorithm: str, is_zip: bool) -> None:
    safe = tmp_path / f"{NAME}.SAFE"
    image = safe / f"{IMAGE}.jp2"
    write(image, optical(1)["B04"], GRID, **JP2)
    (safe / "MTD_MSIL2A.xml").write_text(PRODUCT)
    (safe / GRANULE / "MTD_TL.xml").write_text(TILE)
    digest = hashlib.new(algorithm, image.read_bytes()).hexdigest()
    (safe / "manifest.safe").write_text(
        f'<m><byteStream><fileLocation href="./{IMAGE}.jp2"/><checksum checksumName="{name}">{digest}</checksum>'
        "</byteStream></m>"
    )

    def product() -> Path:
        if not is_zip:
            return safe
        with zipfile.ZipFile(tmp_path / f"{NAME}.zip", "w") as archive:
            for file in filter(Path.is_file, safe.rglob("*")):
                archive.write(file, file.relative_to(tmp_path))
        return tmp_path / f"{NAME}.zip"

    read(scene_from_safe(product()))
    image.write_bytes(flipped(image.read_bytes()))
    with pytest.raises(SceneError, match=f"B04.*published is {digest}") as failed:
        read(scene_from_safe(product()))
    assert failed.value.may_pass


def test_what_is_no_known_checksum_is_not_compared() -> None:
    for text in (None, 5, "", "1220ab", "ffff" + "0" * 64, {"a": 1}):
        assert from_multihash(text) is None
    require("https://cogs.example.org/B04.tif", Checksum("md5", "0"))
