"""Classes and fields of a file of parcels on the pixels of a grid.

A pixel is of the parcel that its centre lies in, of the smallest where several do. A parcel is void where no more than half of it lies in
a window, as in PASTIS, so that it is labelled in one window at most; and where its crop has no class.
Units:  pixels of the grid, from its upper left corner.
Errors: ParcelFileError for a file that cannot be read, PatchError for one without crops or without parcels on the grid.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from ingest.imagery.scanlines import expand, runs
from ingest.imagery.scene import Grid
from ingest.parcels.declared import ImportOptions, parcel_columns, parcel_crs, read_declared
from ingest.parcels.files import open_parcel_file
from ingest.parcels.geometry import WGS84
from training.errors import PatchError
from training.patch_metadata import BACKGROUND

MOST_CLASSES: Final = 250
"""A class is a byte."""


@dataclass(frozen=True)
class Labels:
    """Parcels on a grid."""

    classes: tuple[str, ...]
    """Background first, without void."""
    geometry: NDArray[np.object_]
    """(P,) in pixels."""
    number: NDArray[np.int32]
    """(P,) row in the file, from 1."""
    label: NDArray[np.uint8]
    """(P,) class; void of a crop without one."""
    tree: shapely.STRtree

    @property
    def void(self) -> int:
        """Return the class of what is not scored."""
        return len(self.classes)

    def maps(
        self, row: int, column: int, side: int, *, elsewhere: int = BACKGROUND
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return parcels' numbers and classes (side, side) of a window; `elsewhere`: the class of land of no parcel, whose number is 0."""
        ids, target = np.zeros((side, side), np.int32), np.full((side, side), elsewhere, np.uint8)
        near = np.sort(self.tree.query(shapely.box(column, row, column + side, row + side)))
        own = near[np.argsort(-shapely.area(self.geometry[near]), kind="stable")]
        found = runs(shapely.transform(self.geometry[own], lambda xy: xy - (column, row)))
        first, end = found.first.clip(0, side), found.end.clip(0, side)
        length = np.where((found.row >= 0) & (found.row < side), end - first, 0)
        inside = np.bincount(found.owner, length, len(own))
        label = np.where(inside > shapely.area(self.geometry[own]) / 2, self.label[own], self.void)
        of_run, at = expand(length)
        # In the order of owners, so that of several parcels the last, the smallest, remains.
        place = found.row[of_run], first[of_run] + at
        ids[place], target[place] = self.number[own][found.owner[of_run]], label[found.owner[of_run]]
        return ids, target


def read_classes(path: Path) -> dict[str, str]:
    """Return the class of each crop, by code or name, of a TOML file: [classes], "Class" = ["crop", ...].

    Raises:
        PatchError: no such file, or it says something else.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["classes"]
        found = [(str(crop), str(name)) for name, crops in table.items() for crop in _listed(crops)]
    except OSError as error:
        raise PatchError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise PatchError(
            f'{path}: a table [classes] with lines such as Wheat = ["winter wheat", "101"] expected'
        ) from error
    if twice := [crop for crop, n in Counter(crop for crop, _ in found).items() if n > 1]:
        raise PatchError(f"{path}: {twice[0]} is of two classes")
    return dict(found)


def _listed(crops: object) -> Sequence[object]:
    if not isinstance(crops, list):
        raise TypeError
    return crops


def read_labels(
    path: Path, grid: Grid, options: ImportOptions, class_of: Mapping[str, str] | None, min_parcels: int
) -> Labels:
    """Return the parcels of a file that lie on a grid, outlines as `parcels import` reads them.

    Args:
        path: a file of parcels.
        grid: pixels.
        options: how to read the file.
        class_of: by code or name of the crop; None: each crop with `min_parcels` on the grid is a class of its name.
        min_parcels: see there.

    Raises:
        ParcelFileError: it cannot be read.
        PatchError: no crops, none with a class, or no parcels on the grid.
    """
    file = open_parcel_file(path, options.layer)
    columns, _ = parcel_columns(file, options)
    if columns.crop_code is None and columns.crop_name is None:
        raise PatchError(f"{path}: no column of crops is known; say --crop-name-column. It has: {file.listed()}")
    declared = read_declared(file, columns, parcel_crs(file, options), "", lambda *_: None)
    geometry = shapely.transform(declared.outlines.geometry, _to_pixels(grid))
    rows = np.flatnonzero(shapely.intersects(geometry, shapely.box(0, 0, grid.width, grid.height)))
    if not len(rows):
        raise PatchError(f"{path}: no parcel lies on the scenes ({grid.crs}); give the scenes of its region")
    names, codes = declared.crop_name, declared.crop_code
    if class_of is None:
        count = Counter(names[row] for row in rows)
        crops: list[str | None] = [name if name and count[name] >= min_parcels else None for name in names]
    else:
        crops = [class_of.get(code or "") or class_of.get(name or "") for code, name in zip(codes, names, strict=True)]
    classes = sorted({crop for row in rows if (crop := crops[row])})
    if not classes or len(classes) > MOST_CLASSES:
        raise PatchError(
            f"{path}: {len(classes)} classes among {len(rows)} parcels on the scenes; 1 to {MOST_CLASSES} are needed: "
            "see --classes and --min-parcels"
        )
    number = {name: one for one, name in enumerate(classes, 1)}
    void = len(classes) + 1
    return Labels(
        ("Background", *classes),
        geometry[rows],
        (rows + 1).astype(np.int32),
        np.array([number.get(crops[row] or "", void) for row in rows], np.uint8),
        shapely.STRtree(geometry[rows]),
    )


def _to_pixels(grid: Grid) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    transformer = pyproj.Transformer.from_crs(WGS84, grid.crs, always_xy=True)

    def moved(lon_lat: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = transformer.transform(lon_lat[:, 0], lon_lat[:, 1])
        return np.column_stack([x - grid.left, grid.top - y]) / grid.pixel_m

    return moved
