"""Windows of pictures share decoded blocks: the same pictures byte for byte, each block of the files read once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.imagery import blocks
from ingest.imagery.raster import Raster
from ingest.imagery.scene import Band, Grid, Scene
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.chip_cutting import Asked, cut_chips
from ingest.scenes.opening import Opened
from tests.made_scenes import optical, outline, write

GRID = Grid("EPSG:32631", 574_680.0, 5_622_440.0, 10.0, 512, 512)
NOW = datetime(2024, 6, 1, 10, 50, tzinfo=UTC)
BANDS = ("B02", "B03", "B04", "B08", "SCL")


def opened(folder: Path, **options: Any) -> Opened:
    """A scene of S2 with some cloud and some pixels without data."""
    numbers = optical(1, GRID)
    numbers["SCL"][40:80, 40:120] = 9
    numbers["B04"][:60, 100:200] = 0
    bands = {}
    for name in BANDS:
        write(folder / f"{name}.tif", numbers[name], GRID, **options)
        counted = name != "SCL"
        bands[name] = Band(
            str(folder / f"{name}.tif"), "reflectance" if counted else "class", 1e-4 if counted else 1.0, 0.0, 0.0
        )
    return Opened(Scene("S2", "made", NOW, NOW, "S2A", 51, bands, GRID), GRID)


def asked() -> list[Asked]:
    """Parcels all over the scene, over its edges, beside it, and one so large that every second pixel is shown."""
    chance = np.random.default_rng(2)
    corners, sizes = chance.uniform(-30, 500, (40, 2)), chance.uniform(2, 60, (40, 2))
    boxes = [(left, top, left + wide, top + high) for (left, top), (wide, high) in zip(corners, sizes, strict=True)]
    boxes += [(100.0, 100.0, 300.0, 180.0), (900.0, 10.0, 910.0, 20.0)]
    return [Asked(key, 0, "alert", outline(box, GRID)) for key, box in enumerate(boxes)]


@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"},
        {
            "driver": "JP2OpenJPEG",
            "CODEC": "JP2",
            "QUALITY": "100",
            "REVERSIBLE": "YES",
            "blockxsize": 256,
            "blockysize": 256,
        },
        {"compress": "deflate"},
    ],
    ids=["tiles", "jpeg2000", "strips"],
)
def test_pictures_from_shared_blocks_are_the_same_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    scene, wanted, settings = opened(tmp_path, **options), asked(), ImagerySettings()
    shared = cut_chips(scene, wanted, settings)
    assert sum(one.image is not None for one in shared) > 50
    assert sum(one.missing is not None for one in shared) >= 2, "the parcel beside the scene has none"
    monkeypatch.setattr(blocks, "_SIDES", range(0))
    assert cut_chips(scene, wanted, settings) == shared


def test_each_block_is_read_once_and_none_that_no_picture_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = opened(tmp_path, tiled=True, blockxsize=128, blockysize=128)
    reads: Counter[tuple[str, int, int]] = Counter()
    read = Raster._read

    def counted(raster: Raster, top: int, left: int, bottom: int, right: int) -> Any:
        reads[raster._name, top, left] += 1
        return read(raster, top, left, bottom, right)

    monkeypatch.setattr(Raster, "_read", counted)
    cut_chips(scene, asked(), ImagerySettings())
    assert set(reads.values()) == {1}
    assert len(reads) == 4 * 4 * 4 + 2 * 2  # four bands of 512 pixels, SCL of 256
    reads.clear()
    cut_chips(scene, [Asked(0, 0, "alert", outline((40.0, 40.0, 60.0, 60.0), GRID))], ImagerySettings())
    assert sorted(reads) == [(name, 0, 0) for name in BANDS]
