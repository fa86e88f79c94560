"""The parcels that scenes are cut for, as the cutter needs them: ids and outlines."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from ingest.imagery.scene import Grid
from ingest.parcels.geometry import WGS84


@dataclass(frozen=True, slots=True)
class Parcels:
    """Parcels of one collection and season, in one order for everything that follows."""

    collection: str
    season: str
    ids: Sequence[str]
    wkb: Sequence[bytes | None] = field(repr=False)
    """Polygons or multipolygons in EPSG:4326, as `db.parcels.geometry` gives them."""
    is_monitorable: NDArray[np.bool_] = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.wkb) == len(self.is_monitorable):
            raise ValueError(f"{len(self.ids)} ids, {len(self.wkb)} outlines, {len(self.is_monitorable)} verdicts")

    def __len__(self) -> int:
        return len(self.ids)

    def content_hash(self) -> bytes:
        """Return a digest that changes when an id, an outline or a verdict does."""
        digest = hashlib.sha256(np.packbits(self.is_monitorable).tobytes())
        for one, outline in zip(self.ids, self.wkb, strict=True):
            digest.update(f"{one}\0{len(outline) if outline else -1}\0".encode())
            digest.update(outline or b"")
        return digest.digest()

    def on_grid(self, grid: Grid, buffer_m: float, which: slice = slice(None)) -> NDArray[np.object_]:
        """Return outlines less an inner buffer in pixels of the grid, x to the right and y down; None where there is none.

        The mitred buffer is the one that decided whether the parcel is monitorable.
        """
        outlines = np.array(self.wkb[which], dtype=object)
        outlines[~self.is_monitorable[which]] = None
        projection = pyproj.Transformer.from_crs(WGS84, grid.crs, always_xy=True)

        def to_pixels(metres: NDArray[np.float64]) -> NDArray[np.float64]:
            return (metres - (grid.left, grid.top)) / (grid.pixel_m, -grid.pixel_m)

        def to_metres(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(projection.transform(degrees[:, 0], degrees[:, 1]))

        metres = shapely.transform(shapely.from_wkb(outlines), to_metres)
        metres[~np.all(np.isfinite(shapely.bounds(metres)), axis=1)] = None  # beyond the projection: far outside
        inner = shapely.buffer(metres, -buffer_m, join_style="mitre") if buffer_m else metres
        pixels: NDArray[np.object_] = shapely.transform(inner, to_pixels)
        return pixels
