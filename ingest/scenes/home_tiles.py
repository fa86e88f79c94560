"""The home tile of a parcel: the one of several overlapping tiles that it is observed from, in every pass.

The tile that holds the largest share of the parcel; of several that hold it alike (as a rule: whole), the one whose name
comes first. It follows from the parcel's outline and the known tiles' grids alone, so not from the order in which scenes
arrive. Tiles of two UTM zones are compared in degrees. A tile that was never seen before joins at the end of the order
for passes that were begun without it (`db.scene_passes.begin_pass`): of these it takes, as a revision, only parcels that
it holds more of. A home whose product never came is left out when a scene is cut again (`TAKEN_OVER_AFTER`), so that the
next tile observes its parcels.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from ingest.imagery.scene import Grid
from ingest.parcels.geometry import WGS84

TAKEN_OVER_AFTER: Final = timedelta(days=1)
"""Of a scene since it was found: by then the other tiles of its pass are published as a rule (chosen so; one that comes
even later is emitted as a revision)."""
_STEPS: Final = 32
"""Points to a side of an outline: within 2 m of the curved edge of a tile of 110 km (chosen for that)."""


def outline(grid: Grid) -> shapely.Polygon:
    """Return the edge of a grid in degrees."""
    along = np.linspace(0.0, 1.0, _STEPS, endpoint=False)
    width, height = grid.width * grid.pixel_m, grid.height * grid.pixel_m
    x = np.concatenate([along, np.ones(_STEPS), 1 - along, np.zeros(_STEPS)]) * width + grid.left
    y = grid.top - np.concatenate([np.zeros(_STEPS), along, np.ones(_STEPS), 1 - along]) * height
    to_degrees = pyproj.Transformer.from_crs(grid.crs, WGS84, always_xy=True)
    return shapely.Polygon(np.column_stack(to_degrees.transform(x, y)))


def home_of(wkb: Sequence[bytes], tile: str, tiles: Sequence[tuple[str, Grid]]) -> NDArray[np.str_]:
    """Return (P,) the home of parcels on `tile`, one of `tiles`, which come in the order of preference."""
    edges = {name: outline(grid) for name, grid in tiles}
    near = [name for name in edges if shapely.intersects(edges[name], edges[tile])]
    if near == [tile]:
        return np.full(len(wkb), tile)
    parcels = shapely.from_wkb(np.array(wkb, dtype=object))
    shares = np.stack([_share(parcels, edges[name]) for name in near])  # (tiles, P)
    home: NDArray[np.str_] = np.array(near)[np.where(shares.max(0) > 0, shares.argmax(0), near.index(tile))]
    return home


def _share(parcels: NDArray[np.object_], edge: shapely.Polygon) -> NDArray[np.float64]:
    """Return (P,) share of each parcel within an outline, to a millionth: far below a pixel, far above rounding."""
    shapely.prepare(edge)
    share = shapely.covers(edge, parcels).astype(np.float64)
    cut = np.flatnonzero((share == 0) & shapely.intersects(edge, parcels))
    if len(cut):
        share[cut] = shapely.area(shapely.intersection(parcels[cut], edge)) / shapely.area(parcels[cut])
    rounded: NDArray[np.float64] = np.round(share, 6)
    return rounded
