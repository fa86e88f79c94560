"""Folders in the patch form of PASTIS-R for networks of pixels: the patches with their classes and fields, mapped and read one at a time.

    INSTANCE_ANNOTATIONS/INSTANCES_{ID}.npy      (H, W) fields, 0 where there is none; without it ParcelIDs are taken

Files, folds, dates, classes and statistics are as in training.patch_metadata; the class after the last is void. What PaPs is trained on is
made from the fields (models.segmentation.targets), not read.
Errors: PastisError, one line: file, what, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.segmentation.network import ModalityConfig
from training.patch_metadata import (
    BACKGROUND,
    INVALID,
    PastisError,
    Patch,
    Sensor,
    array,
    form_of,
    packed,
    patch_statistics,
    patches,
    sensors_in,
)
from training.patches import Patch as Read
from training.patches import PatchSet, PatchSource, Statistics


class PatchFolder(PatchSource):
    """A folder of patches, as `models patches` writes them."""

    kind: Literal["patches"] = "patches"
    path: Path

    def open(self) -> PatchSet:
        """Return the patches; raises PastisError."""
        return read(self.path)


def read(folder: Path) -> PatchSet:
    """Return the patches of a folder; the headers of all files are looked at, their values are not.

    Raises:
        PastisError: no folder in patch form, or a file that is not there or does not fit the others.
    """
    sensors, form = sensors_in(folder), form_of(folder)
    if not (folder / "ANNOTATIONS").is_dir():
        raise PastisError(f"{folder / 'ANNOTATIONS'}: no such folder; networks of pixels need the patch form")
    reader = _Reader(folder, {one.modality: one for one in sensors}, patches(folder), form.void)
    for row in range(len(reader.listed)):
        reader.check(row)
    return PatchSet(
        folder.resolve().name,
        tuple(ModalityConfig(one.modality, len(one.channels), one.temporal_dropout) for one in sensors),
        form.classes,
        form.void,
        np.array([one.fold for one in reader.listed]),
        reader.patch,
        partial(_statistics, folder, sensors),
        form.starts_on,
    )


def _statistics(folder: Path, sensors: Sequence[Sensor], folds: Sequence[int]) -> dict[str, Statistics]:
    found = {one.modality: patch_statistics(folder, folds, one) for one in sensors}
    return {
        name: Statistics(np.array(one.mean, np.float32), np.maximum(np.array(one.sd, np.float32), 1e-6))
        for name, one in found.items()
    }


@dataclass(frozen=True)
class _Reader:
    folder: Path
    sensors: dict[str, Sensor]
    listed: tuple[Patch, ...]
    void: int

    def patch(self, row: int, names: Sequence[str]) -> Read:
        """Return a patch."""
        patch = self.listed[row]
        target, instances = self._maps(patch)
        images = {name: self._images(patch, self.sensors[name]) for name in names}
        days = {name: patch.days(self.sensors[name]) for name in names}
        classes = np.array(target[0], np.int64)  # a copy: what is mapped cannot be written
        if classes.min() < BACKGROUND or classes.max() > self.void:
            raise PastisError(
                f"{self._path('ANNOTATIONS', 'TARGET', patch)}: classes {classes.min()} to {classes.max()}; "
                f"0 to {self.void} expected"
            )
        return Read(images, days, classes, np.array(instances, np.int64))

    def check(self, row: int) -> None:
        """Raise PastisError for a patch whose files do not fit each other."""
        patch = self.listed[row]
        target, _ = self._maps(patch)
        for sensor in self.sensors.values():
            path = self._path(f"DATA_{sensor.name}", sensor.name, patch)
            images = array(path, (None, len(sensor.channels), *target.shape[1:]), "dates, channels, rows, columns")
            if len(images) != (dates := len(patch.days(sensor))):
                raise PastisError(
                    f"{path}: {len(images)} dates, but metadata.geojson has {dates} in dates-{sensor.name}"
                )

    def _maps(self, patch: Patch) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Return the annotation (C, H, W) and the fields (H, W), mapped."""
        target = array(self._path("ANNOTATIONS", "TARGET", patch), (None, None, None), "channels, rows, columns")
        fields = self._path("INSTANCE_ANNOTATIONS", "INSTANCES", patch)
        fields = fields if fields.is_file() else self._path("ANNOTATIONS", "ParcelIDs", patch)
        return target, array(fields, target.shape[1:], "fields")

    def _images(self, patch: Patch, sensor: Sensor) -> NDArray[np.float32]:
        """Return (T, C, H, W) in physical units."""
        path = self._path(f"DATA_{sensor.name}", sensor.name, patch)
        raw = packed(array(path, (None, None, None, None), "images"), sensor, path)
        return np.where(raw == INVALID, np.float32(np.nan), raw * np.float32(sensor.scale))

    def _path(self, folder: str, name: str, patch: Patch) -> Path:
        return self.folder / folder / f"{name}_{patch.id}.npy"
