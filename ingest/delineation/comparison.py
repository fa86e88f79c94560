"""Drawn fields beside known ones: a parcel file, brought to the scenes' grid and scored stripe by stripe.

Scored is the box of the known parcels on the grid: what is drawn where none is known counts as wrong. Memory is that of the outlines of
both files, and of `ROWS` rows of the grid.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from ingest.delineation.season import NotDelineated
from ingest.imagery.scene import Grid
from ingest.parcels.files import open_parcel_file, read_features
from models.segmentation.delineation_scores import BOUNDARY_PIXELS, Fit, Tally

ROWS: Final = 512
Geometries = NDArray[np.object_]
WORDS: Final = {
    "known": "known fields",
    "drawn": "drawn fields there",
    "f1": "F1 of objects, IoU above 0.5",
    "boundary_iou": "IoU of boundaries, within a pixel",
    "over": "over-segmentation, mean",
    "under": "under-segmentation, mean",
    "area": "error of area, median",
    "gtc": "total error, weighted by area (GTC)",
}


@dataclass(frozen=True)
class Known:
    """Parcels of a file that lie on a grid."""

    outlines: Geometries
    """(M,) in the grid's system."""
    grid: Grid

    @classmethod
    def read(cls, path: Path, grid: Grid) -> "Known":
        """Return the parcels of a file. Raises ParcelFileError: unreadable; NotDelineated: no system, or none on the grid."""
        outlines = _outlines(path, grid)
        if not len(outlines):
            raise NotDelineated(f"--against {path}: none of its parcels lies on the scenes ({grid.crs})")
        return cls(outlines, grid)

    def fit(self, drawn: Path) -> Fit:
        """Return how well the fields of a file that was drawn on the grid fit the parcels."""
        grid, margin, tally = self.grid, BOUNDARY_PIXELS, Tally()
        west, south, east, north = shapely.total_bounds(self.outlines)
        left, right = ((one - grid.left) / grid.pixel_m for one in (west, east))
        top, bottom = ((grid.top - one) / grid.pixel_m for one in (north, south))
        first, last = _whole(top, bottom, grid.height)
        begin, end = _whole(left, right, grid.width)
        maps = [_Numbered(one, grid) for one in (_outlines(drawn, grid), self.outlines)]
        is_scored = np.zeros(grid.width + 2 * margin, bool)
        is_scored[begin + margin : end + margin] = True
        for row in range(first, last, ROWS):
            n = min(ROWS, last - row)
            ours, theirs = (one.stripe(row - margin, n + 2 * margin, margin) for one in maps)
            tally.add(ours, theirs, np.broadcast_to(is_scored, ours.shape), slice(margin, margin + n))
        return tally.fit


def lines(fit: Fit) -> list[tuple[str, str]]:
    """Return the scores in words."""
    values = [(one.name, getattr(fit, one.name)) for one in fields(fit)]
    return [(WORDS[name], f"{value:,}" if isinstance(value, int) else f"{value:.3f}") for name, value in values]


def plain_values(fit: Fit) -> dict[str, float | None]:
    """Return the scores as JSON has them: null where there is none."""
    return {name: None if value != value else value for name, value in asdict(fit).items()}


def _whole(begin: float, end: float, length: int) -> tuple[int, int]:
    """Return the whole pixels of a side that a stretch touches by more than a thousandth."""
    return max(0, int(np.floor(begin + 1e-3))), min(length, int(np.ceil(end - 1e-3)))


class _Numbered:
    """Outlines as numbers of pixels, from 1."""

    def __init__(self, outlines: Geometries, grid: Grid) -> None:
        self._outlines, self._grid, self._tree = outlines, grid, shapely.STRtree(outlines)

    def stripe(self, row: int, n: int, margin: int) -> NDArray[np.int32]:
        """Return (n, W + 2 margin) rows of the grid."""
        a, _, left, _, e, top = self._grid.transform
        left, top, width = left - margin * a, top + row * e, self._grid.width + 2 * margin
        here = np.sort(self._tree.query(shapely.box(left, top + n * e, left + width * a, top)))
        made = np.zeros((n, width), np.int32)
        if len(here):
            pairs = zip(self._outlines[here], (here + 1).tolist(), strict=True)
            rasterize(pairs, out=made, transform=rasterio.Affine(a, 0, left, 0, e, top))
        return made


def _outlines(path: Path, grid: Grid) -> Geometries:
    """Return the outlines of a parcel file that lie on a grid, in its system."""
    file = open_parcel_file(path)
    if file.crs is None:
        why = file.crs_fault or "does not say its coordinate system"
        raise NotDelineated(f"--against {path}: {why}; write it into the file, as by `ogr2ogr -a_srs EPSG:25832`")
    to_grid = pyproj.Transformer.from_crs(file.crs, grid.crs, always_xy=True)
    a, _, left, _, e, top = grid.transform
    box = shapely.box(left, top + grid.height * e, left + grid.width * a, top)

    def read() -> Iterator[Geometries]:
        for batch in read_features(file, file.columns[:1]):
            there: Any = shapely.from_wkb([one for one in batch.wkb if one], on_invalid="ignore")
            there = shapely.force_2d(there[shapely.area(there) > 0])
            there = shapely.transform(there, lambda xy: np.stack(to_grid.transform(*xy.T), axis=1))
            yield there[np.isfinite(shapely.bounds(there)).all(1) & shapely.intersects(shapely.envelope(there), box)]

    return np.concatenate([np.zeros(0, object), *read()])
