"""Polygons as runs of pixels: those whose centre lies inside, by even-odd crossings of the lines through the centres.

Overlapping polygons each keep their pixels, holes and parts need no care, and the work grows with outlines, not areas.
A centre on a left or upper edge is inside, on a right or lower one outside, so that neighbours never share it.

Source: Foley, van Dam, Feiner, Hughes 1990, 3.6 (scan-line conversion of polygons), for all edges at once.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """Pixels first <= column < end of a row, each run inside polygon `owner`; ordered by owner, row and column."""

    owner: Ints
    row: Ints
    first: Ints
    end: Ints

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "Runs":
        return Runs(self.owner[which], self.row[which], self.first[which], self.end[which])

    @property
    def length(self) -> Ints:
        """Pixels of each run."""
        return self.end - self.first


def runs(polygons: NDArray[np.object_]) -> Runs:
    """Return runs of polygons or multipolygons (None allowed) in pixel coordinates: pixel (r, c) has its centre at (c+.5, r+.5)."""
    parts, polygon_of = shapely.get_parts(polygons, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    is_edge = ring_of[1:] == ring_of[:-1]
    start, stop, owner = xy[:-1][is_edge], xy[1:][is_edge], polygon_of[part_of[ring_of[1:][is_edge]]]
    # In one direction, so that an edge which two polygons share is crossed at one place.
    is_up = (start[:, 1] > stop[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(is_up, stop, start).T, np.where(is_up, start, stop).T
    top, bottom = np.ceil(y0 - 0.5).astype(np.int64), np.ceil(y1 - 0.5).astype(np.int64)
    edge, step = expand(bottom - top)
    row = top[edge] + step
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.ceil(x0[edge] + (row + 0.5 - y0[edge]) * slope - 0.5).astype(np.int64)
    order = np.lexsort((column, row, owner[edge]))
    enter, leave = order[::2], order[1::2]  # a closed outline crosses a line an even number of times
    found = Runs(owner[edge][enter], row[enter], column[enter], column[leave])
    return found[found.length > 0]


def expand(counts: Ints) -> tuple[Ints, Ints]:
    """Return each index repeated count times, and the position within its repetitions: [2, 1] -> [0, 0, 1], [0, 1, 0]."""
    index = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    return index, np.arange(len(index)) - (ends - counts)[index]
