"""A small PASTIS-R folder in either published form, for a trial run without the 54 GB: made-up fields, true formats.

Fields are rectangles between paths; each class has a peak of its own, which greens reflectance and raises backscatter; on
some dates a patch is cloudy. A void parcel lies at each patch's border. The classes are easy to distinguish on purpose.
Shapes: as in research.experiments.pastis and research.experiments.pastis_pixelset.
Units:  reflectance x 10000, dB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from research.experiments.pastis import shapes
from training.patch_metadata import FOLDS, SENSORS, VOID, Sensor
from training.patch_writing import PIXEL_M, MadePatch, Moments, feature, write, write_metadata

FIRST_ID = 10_000  # as the published ids
SPAN_D = 430
"""September 2018 to early November 2019, as published."""
BARE = np.array([0.08, 0.10, 0.12, 0.15, 0.19, 0.21, 0.23, 0.24, 0.30, 0.25])
GREEN = np.array([0.03, 0.06, 0.03, 0.09, 0.30, 0.38, 0.41, 0.43, 0.20, 0.10])
"""Reflectance of bare soil and of a closed canopy in the ten bands, as field spectra have it."""
CLOUD = 0.6
CLOUDY = 0.3
"""Share of Sentinel-2 dates under cloud; chosen because the published dates were chosen for few clouds."""


@dataclass(frozen=True)
class Landscape:
    """What is written."""

    patches: int = 10
    side: int = 128
    """Pixels."""
    fields: int = 7
    """Fields in a row and in a column of a patch."""
    dates: tuple[int, int, int] = (43, 70, 70)
    """Of S2, S1A and S1D."""
    classes: tuple[int, ...] = (1, 3, 5, 8, 11, 15)
    """Labels that grow, of 1 to 18."""
    seed: int = 0


def write_patches(folder: Path, landscape: Landscape = Landscape()) -> Path:
    """Write the patch form into a folder, and return it."""
    return write(folder, (_patch(index, landscape) for index in range(landscape.patches)))


def write_pixel_sets(folder: Path, landscape: Landscape = Landscape()) -> Path:
    """Write the same fields in pixel-set form into a folder, and return it."""
    norms = {one.name: Moments() for one in SENSORS}
    features, rows = [], ["ID_PARCEL,ID_PATCH,Fold,Label,GF_perimeter,GF_area,GF_ratio,GF_fill"]
    for one in SENSORS:
        (folder / f"DATA_{one.name}").mkdir(parents=True, exist_ok=True)
    for index in range(landscape.patches):
        patch = _patch(index, landscape)
        features.append(feature(patch))
        numbers = np.unique(patch.ids[patch.ids > 0])
        geometry = shapes(np.where(patch.ids > 0, np.searchsorted(numbers, patch.ids) + 1, 0), len(numbers))
        for number, features_of_parcel in zip(numbers, geometry, strict=True):
            where = patch.ids == number
            if (label := int(patch.target[where][0])) == VOID:
                continue
            rows.append(",".join(map(str, (number, patch.number, patch.fold, label, *features_of_parcel))))
            for name, images in patch.images.items():
                pixels = images[:, :, where]  # (T, C, N)
                np.save(folder / f"DATA_{name}" / f"{name}_{number}.npy", pixels)
                norms[name].add(patch.fold, pixels.swapaxes(0, 1).reshape(images.shape[1], -1))
    (folder / "metadata_parcel.csv").write_text("\n".join(rows) + "\n")
    write_metadata(folder, features)
    for name, norm in norms.items():
        (folder / f"NORM_PARCEL_{name}_set.json").write_text(json.dumps(norm.plain()))
    return folder


def _patch(index: int, landscape: Landscape) -> MadePatch:
    random = np.random.default_rng([landscape.seed, index])
    ids, target = _fields(index, landscape, random)
    days = {
        one.name: np.sort(random.choice(SPAN_D, n, replace=False)).astype(np.int64)
        for one, n in zip(SENSORS, landscape.dates, strict=True)
    }
    images = {one.name: _images(one, target, days[one.name], random) for one in SENSORS}
    corner = made_up_corner(index, landscape.side)
    return MadePatch(FIRST_ID + index, FOLDS[index % len(FOLDS)], ids, target, days, images, corner)


def made_up_corner(index: int, side: int) -> tuple[float, float]:
    """Return where a patch is said to lie: Lambert-93, somewhere in France."""
    return 900_000.0 + side * PIXEL_M * index, 6_500_000.0


def _fields(index: int, landscape: Landscape, random: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return parcel ids and classes (H, W): a grid of rectangles, a pixel of background between them, the first one void."""
    side, n = landscape.side, landscape.fields
    edges = [np.sort(random.choice(np.arange(3, side - 3, 3), n - 1, replace=False)) for _ in range(2)]
    row, column = (np.searchsorted(one, np.arange(side), side="right") for one in edges)
    ids = (index * n * n + 1 + row[:, None] * n + column[None, :]).astype(np.int32)
    ids[np.isin(np.arange(side), edges[0])] = 0
    ids[:, np.isin(np.arange(side), edges[1])] = 0
    crop = random.permutation(np.resize(np.array(landscape.classes), n * n)).astype(np.uint8)
    crop[0] = VOID
    return ids, np.where(ids > 0, crop[(ids - 1) % (n * n)], 0).astype(np.uint8)


def _images(sensor: Sensor, target: NDArray[Any], days: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Return (T, C, H, W) as published: each class grows around a day of its own."""
    peak = 150.0 + 15.0 * target  # (H, W)
    shape = (len(days), 1, *target.shape)
    growth = np.exp(-(((days[:, None, None] - peak) / 45.0) ** 2)).reshape(shape)
    growth = np.where(target == 0, 0.2, growth)
    if sensor.name == "S2":
        cover = random.normal(growth, 0.05)
        bands = BARE[:, None, None] + cover * (GREEN - BARE)[:, None, None]
        bands[random.random(len(days)) < CLOUDY] = CLOUD
        return np.asarray(np.rint(bands.clip(0, 1) * 1e4), np.int16)
    vv = random.normal(-13.0 + 3.0 * growth, 1.0)
    vh = random.normal(-20.0 + 5.0 * growth, 1.0)
    return np.asarray(np.concatenate([vv, vh, vv - vh], axis=1), np.float16)
