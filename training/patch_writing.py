"""Patches written in the patch form of PASTIS-R: images, annotations of fields, statistics of each fold, and what is not as in PASTIS.

Shapes: as in training.patch_metadata.
Units:  reflectance x 10000, dB; of statistics pixels without a value are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.segmentation.targets import targets
from training.patch_metadata import ABOUT, SENSORS, THEIA_NO_DATA, Form

PIXEL_M = 10.0


@dataclass(frozen=True)
class MadePatch:
    """A patch to write."""

    number: int
    fold: int
    ids: NDArray[np.int32]
    """(H, W) parcel ids, 0 where there is none."""
    target: NDArray[np.uint8]
    """(H, W) classes."""
    days: dict[str, NDArray[np.int64]]
    """(T,) since day 0, by sensor."""
    images: dict[str, NDArray[Any]]
    """(T, C, H, W) as published, by sensor: int16 with THEIA_NO_DATA, or float16 with NaN, where there is no value."""
    corner: tuple[float, float]
    """West and south, metres of the system."""


@dataclass(frozen=True)
class Setting:
    """What all patches of a folder share."""

    crs: str = "EPSG:2154"
    tile: str = "t31tfm"
    form: Form = field(default_factory=Form)
    about: dict[str, Any] = field(default_factory=dict)
    """What patches.json says beside."""


PASTIS = Setting()


def write(folder: Path, patches: Iterable[MadePatch], setting: Setting = PASTIS) -> Path:
    """Write patches in the patch form, with the annotations of instances, into a folder, and return it."""
    norms: dict[str, Moments] = {}
    features, form = [], setting.form
    for name in ("ANNOTATIONS", "INSTANCE_ANNOTATIONS"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for patch in patches:
        features.append(feature(patch, setting))
        fields = targets(patch.ids, patch.target, form.void)
        for name, array in (("HEATMAP", fields.heatmap), ("INSTANCES", fields.instances), ("ZONES", fields.zones)):
            np.save(folder / "INSTANCE_ANNOTATIONS" / f"{name}_{patch.number}.npy", array)
        annotation = np.stack([patch.target, *np.zeros_like([patch.target] * 2)])
        np.save(folder / "ANNOTATIONS" / f"TARGET_{patch.number}.npy", annotation)
        np.save(folder / "ANNOTATIONS" / f"ParcelIDs_{patch.number}.npy", patch.ids)
        for name, images in patch.images.items():
            (folder / f"DATA_{name}").mkdir(exist_ok=True)
            np.save(folder / f"DATA_{name}" / f"{name}_{patch.number}.npy", images)
            norms.setdefault(name, Moments()).add(patch.fold, images.swapaxes(0, 1).reshape(images.shape[1], -1))
    write_metadata(folder, features, setting.crs)
    for name, norm in norms.items():
        (folder / f"NORM_{name}_patch.json").write_text(json.dumps(norm.plain()))
    if setting != PASTIS:
        channels = {one.name: one.channels for one in SENSORS if one.name in norms}
        about = {"classes": form.classes, "starts_on": str(form.starts_on), "channels": channels, **setting.about}
        (folder / ABOUT).write_text(json.dumps(about, indent=1))
    return folder


class Moments:
    """Sums over the pixels of each fold, for the published statistics."""

    def __init__(self) -> None:
        self.of_fold: dict[int, list[Any]] = {}

    def add(self, fold: int, pixels: NDArray[Any]) -> None:
        """Add pixels (C, M)."""
        is_known = pixels != THEIA_NO_DATA if pixels.dtype == np.int16 else np.isfinite(pixels)
        values = np.where(is_known, pixels, 0).astype(np.float64)
        count, total, squares = self.of_fold.get(fold, [0, 0.0, 0.0])
        self.of_fold[fold] = [count + is_known.sum(1), total + values.sum(1), squares + (values**2).sum(1)]

    def plain(self) -> dict[str, Any]:
        """Return {"Fold_1": {"mean": [C], "std": [C]}}."""
        return {
            f"Fold_{fold}": {
                "mean": (total / count).tolist(),
                "std": np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)).tolist(),
            }
            for fold, (count, total, squares) in sorted(self.of_fold.items())
            if np.all(count)
        }


def write_metadata(folder: Path, features: list[dict[str, Any]], crs: str = PASTIS.crs) -> None:
    """Write metadata.geojson."""
    plain = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": crs}}}
    (folder / "metadata.geojson").write_text(json.dumps({**plain, "features": features}))


def feature(patch: MadePatch, setting: Setting = PASTIS) -> dict[str, Any]:
    """Return a patch's feature of metadata.geojson."""
    side, (west, south), starts_on = patch.ids.shape[0] * PIXEL_M, patch.corner, setting.form.starts_on
    ring = [[west, south], [west + side, south], [west + side, south + side], [west, south + side], [west, south]]
    dates = {
        f"dates-{name}": {str(k): int(f"{starts_on + timedelta(days=int(day)):%Y%m%d}") for k, day in enumerate(days)}
        for name, days in patch.days.items()
    }
    properties = {"ID_PATCH": patch.number, "Fold": patch.fold, "TILE": setting.tile, **dates}
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(patch.number), "type": "Feature", "properties": properties, "geometry": geometry}
