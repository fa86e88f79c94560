"""Products made to harm or half arrived: each is refused in one line, or read as if the harm were not there."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ingest.imagery.errors import SceneError
from ingest.imagery.raster import Raster
from ingest.imagery.safe import scene_from_safe
from tests.integration.test_imagery_checksums import GRANULE, IMAGE, JP2, NAME, PRODUCT, TILE
from tests.made_scenes import GRID, optical, write

ENTITIES = '<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


def zipped(folder: Path, product: str | bytes = PRODUCT, manifest: str | bytes | None = None) -> Path:
    write(folder / "B04.jp2", optical(1)["B04"], GRID, **JP2)
    path = folder / f"{NAME}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{NAME}.SAFE/MTD_MSIL2A.xml", product, zipfile.ZIP_DEFLATED)
        archive.writestr(f"{NAME}.SAFE/{GRANULE}/MTD_TL.xml", TILE)
        archive.write(folder / "B04.jp2", f"{NAME}.SAFE/{IMAGE}.jp2")
        if manifest is not None:
            archive.writestr(f"{NAME}.SAFE/manifest.safe", manifest)
    return path


@pytest.mark.parametrize(
    ("product", "match"),
    [
        (ENTITIES + PRODUCT, "document type"),
        (f'<?xml version="1.0" encoding="UTF-16"?>{ENTITIES}{PRODUCT}'.encode("utf-16"), "document type"),
        ("<p>" * 200_000, "is it a whole"),
        ("<p>" + " " * 9_000_000 + "</p>", "more than"),
        (PRODUCT.replace(IMAGE, f"../../{IMAGE}"), "outside of the product"),
        (PRODUCT.replace(IMAGE, "nothing"), "is it a whole"),
    ],
    ids=["entities", "entities in UTF-16", "deep", "bomb", "outside", "no image"],
)
def test_a_hostile_product_is_refused(tmp_path: Path, product: str | bytes, match: str) -> None:
    with pytest.raises(SceneError, match=match) as failed:
        scene_from_safe(zipped(tmp_path, product))
    assert "\n" not in str(failed.value)


def test_a_truncated_zip_is_unreadable(tmp_path: Path) -> None:
    path = zipped(tmp_path)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(SceneError) as failed:
            scene_from_safe(path)
        assert failed.value.cause == "unreadable"


def test_metadata_with_a_wrong_crc_are_unreadable(tmp_path: Path) -> None:
    path = zipped(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(TILE.encode(), TILE.replace("N05.09", "N05.08").encode()))
    with pytest.raises(SceneError, match="CRC") as failed:
        scene_from_safe(path)
    assert failed.value.may_pass


def test_a_manifest_that_names_files_outside_has_them_not_read(tmp_path: Path) -> None:
    manifest = (
        '<m><byteStream><fileLocation href="../../../etc/hostname"/><checksum checksumName="MD5">00</checksum>'
        "</byteStream></m>"
    )
    scene = scene_from_safe(zipped(tmp_path, manifest=manifest))
    assert scene.bands["B04"].checksum is None
    with Raster(scene, "B04", scene.bands["B04"], GRID) as raster:
        assert (raster.read(0, 0, GRID.height, GRID.width) == optical(1)["B04"]).all()
