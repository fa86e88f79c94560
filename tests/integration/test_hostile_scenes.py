"""Mutated scenes: each is cut to what its files hold, or fails with a cause, in bounded time and memory.

Whether a value is silently wrong is decided by a second decoding: a mutated file that a fresh, single-threaded reader
decodes in full holds other numbers validly (formats without checksums do), and the cut must show just these; one that
it cannot decode must fail the scene. Values that no decoder gives, as uninitialised memory, differ between the two.
PARCELWATCH_FUZZ=10000 runs that many.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from db.sensors import S2_BANDS
from ingest.imagery.cut import bands_of, extract
from ingest.imagery.errors import SceneError
from ingest.imagery.index import build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import grid_of
from ingest.imagery.sentinel2 import S2_PROFILE
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.stac import scene_from_item
from ingest.scenes.adding import scenes_at
from ingest.scenes.items import NotAScene
from tests.made_scenes import GRID, START, inside, optical, outline, s2_item

RUNS = int(os.environ.get("PARCELWATCH_FUZZ", "200"))
MOST_S = 5.0
MOST_MB = 400
BOX = (4.2, 4.2, 60.2, 60.2)
PARCELS = Parcels("c", "2023", ["one"], [outline(BOX)], np.array([True]))
INDEX = build(PARCELS, GRID, 5.0, 8, 64)
KINDS: dict[str, dict[str, Any]] = {
    "jp2": {
        "driver": "JP2OpenJPEG",
        "CODEC": "JP2",
        "REVERSIBLE": "YES",
        "QUALITY": "100",
        "BLOCKXSIZE": "64",
        "BLOCKYSIZE": "64",
    },
    "deflate": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "predictor": 2},
    "lzw": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"},
    "raw": {},
}


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, a hole, a part moved or repeated, an end cut off."""
    made, place = bytearray(content), chance.randrange(len(content))
    match chance.randrange(5):
        case 0:
            for _ in range(chance.choice([1, 3, 20])):
                made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
        case 1:
            made = made[:place]
        case 2:
            made[place : place + 400] = bytes(len(made[place : place + 400]))
        case 3:
            made[place:place] = made[: chance.randrange(200)]
        case _:
            made[: min(200, place)] = chance.randbytes(min(200, place))
    return bytes(made)


def mangled(value: Any, chance: random.Random) -> Any:
    """An item in which one value somewhere is something else."""
    odd: list[Any] = [
        None,
        -1,
        0,
        1e308,
        "",
        "x" * 5000,
        [],
        {},
        [[[]]],
        True,
        "2023-13-45",
        "\u202e",
        float("nan"),
        10**30,
    ]
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        return {**value, key: mangled(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], mangled(value[place], chance), *value[place + 1 :]]
    return chance.choice(odd)


def cut(path: Path) -> dict[str, Any] | None:
    """The observation of the parcel; None where there is none. Raises SceneError, NotAScene."""
    (found,) = scenes_at(str(path), None, lambda _: None, START)
    scene = scene_from_item(found.item or {}, S2_PROFILE)
    grid = grid_of(scene, bands_of(scene)[0])
    if grid != GRID:
        raise SceneError(found.scene_id, "bad_metadata", "another grid")
    rows = extract(scene, grid, PARCELS, INDEX, ImagerySettings()).table.to_pylist()
    return rows[0] if rows else None


def decoded(path: Path) -> np.ndarray | None:
    """The numbers of a band by a reader of its own, None where it is another grid; raises where it cannot be decoded."""
    with rasterio.Env(GDAL_NUM_THREADS="1", GDAL_PAM_ENABLED="NO"), rasterio.open(path) as file:
        is_alike = (
            file.shape == (64, 64) and file.transform == rasterio.Affine(*GRID.transform) and file.crs == GRID.crs
        )
        return file.read(1) if is_alike else None


@pytest.mark.filterwarnings("ignore")
def test_mutated_scenes_are_cut_truly_or_fail(tmp_path: Path) -> None:
    chance, ends = random.Random(5), {"cut": 0, "failed": 0, "none": 0}
    numbers = optical(1)
    mine = inside(BOX)
    whole = {kind: s2_item(tmp_path / kind, numbers, **options) for kind, options in KINDS.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(RUNS):
        kind = chance.choice(list(KINDS))
        folder = tmp_path / "now"
        shutil.copytree(whole[kind].parent, folder)
        item, band = folder / "item.json", folder / "B04.tif"
        is_item = chance.random() < 0.3
        if is_item and chance.random() < 0.5:
            item.write_text(json.dumps(mangled(json.loads(item.read_text()), chance)))
        else:
            target = item if is_item else band
            target.write_bytes(mutated(target.read_bytes(), chance))
        began, told = time.monotonic(), ""
        try:
            row = cut(item)
            ends["cut" if row else "none"] += 1
        except (SceneError, NotAScene) as error:
            row, told = None, str(error)
            ends["failed"] += 1
        assert time.monotonic() - began < MOST_S
        assert "\n" not in told
        if row and not is_item and (truth := decoded(band)) is not None:
            valid = mine & (truth > 1)
            assert row["n_clear"] == valid.sum()
            assert row["B04"] == pytest.approx(truth[valid].mean() / 10_000 - 0.1, abs=1e-5)
            for other in set(S2_BANDS) - {"B04"}:
                assert np.isfinite(row[other])
        shutil.rmtree(folder)
    assert min(ends["cut"], ends["failed"]) > 0, ends
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MB, ends
