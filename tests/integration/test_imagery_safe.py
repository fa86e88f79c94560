"""Products that are not whole: told with their cause, before any pixel is read."""

import zipfile
from pathlib import Path

import pytest

from ingest.imagery.errors import SceneError
from ingest.imagery.safe import scene_from_safe

NAME = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
IMAGE = "GRANULE/L2A_T31UFU_A041031_20230501T105623/IMG_DATA/R10m/T31UFU_20230501T105621_B02_10m"
WHOLE = f"<p><BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE><IMAGE_FILE>{IMAGE}</IMAGE_FILE></p>"


@pytest.mark.parametrize(
    ("metadata", "cause", "match"),
    [
        (None, "unreadable", "No such file"),
        ("<p><BOA_QUANT", "bad_metadata", "is it a whole L2A product"),
        ("<p><PRODUCT_START_TIME/></p>", "bad_metadata", "is it a whole L2A product"),
        (WHOLE, "unreadable", "MTD_TL.xml"),
    ],
)
def test_folder_without_its_metadata(metadata: str | None, cause: str, match: str, tmp_path: Path) -> None:
    safe = tmp_path / f"{NAME}.SAFE"
    safe.mkdir()
    if metadata is not None:
        (safe / "MTD_MSIL2A.xml").write_text(metadata)
    with pytest.raises(SceneError, match=match) as caught:
        scene_from_safe(safe)
    assert (caught.value.scene_id, caught.value.cause) == (NAME, cause)


def test_granule_must_say_what_reflectance_needs(tmp_path: Path) -> None:
    safe = tmp_path / f"{NAME}.SAFE"
    (safe / IMAGE).parents[2].mkdir(parents=True)
    (safe / "MTD_MSIL2A.xml").write_text(WHOLE.replace("BOA_QUANTIFICATION_VALUE", "L1C_QUANTIFICATION"))
    ((safe / IMAGE).parents[2] / "MTD_TL.xml").write_text("<t/>")
    with pytest.raises(SceneError, match="BOA_QUANTIFICATION_VALUE is not in the metadata"):
        scene_from_safe(safe)


def test_half_a_zip_and_one_without_a_product(tmp_path: Path) -> None:
    archive = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(archive, "w") as whole:
        whole.writestr(f"{NAME}.SAFE/MTD_MSIL2A.xml", WHOLE)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(SceneError, match="fetch it again") as caught:
        scene_from_safe(archive)
    assert caught.value.may_pass
    with zipfile.ZipFile(archive, "w") as whole:
        whole.writestr("readme.txt", "nothing here")
    with pytest.raises(SceneError, match="no SAFE folder"):
        scene_from_safe(archive)
