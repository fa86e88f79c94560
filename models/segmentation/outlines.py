"""Outlines of fields from a map of them, stripe by stripe; edges that two fields share stay shared.

    corner of the two edges e1, e2 at a vertex: cut where |e1 x e2| / 2 < tolerance^2, smallest first

Source: Visvalingam and Whyatt 1993, on a coverage (GEOS CoverageSimplifier): an edge is simplified once for both of its fields, ends of
        edges stay, and no cut corner holds another vertex, so that nothing overlaps. What is no field is part of the coverage too.
Chosen because: a stripe's own sides are not simplified, so that the parts of a field in two stripes meet exactly.
Shapes: maps (h, W).
Units:  pixels; x columns, y rows.
Errors: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import features


class Drawn(NamedTuple):
    """A part of a field within one stripe."""

    geometry: Any
    """Polygon."""
    first: tuple[int, int]
    """Row and column of the first pixel of the field in the stripe."""


def outlines(labels: NDArray[np.int64], top: int, tolerance: float) -> dict[int, list[Drawn]]:
    """Return the parts of each field but 0 of a stripe (h, W) that begins at row `top`."""
    present = np.zeros(int(labels.max()) + 1, bool)
    present[labels] = True
    names = np.flatnonzero(present)
    small = (np.cumsum(present) - 1).astype(np.int32)[labels]
    found = list(features.shapes(small, connectivity=4))
    rings = [[np.array(ring) for ring in shape["coordinates"]] for shape, _ in found]
    polygons = np.array([shapely.Polygon(shell, holes) for shell, *holes in rings], object)
    # GDAL leaves out a vertex where two others meet a straight edge: a coverage has all of them.
    polygons = shapely.transform(shapely.segmentize(polygons, 1.0), np.rint)
    if tolerance > 0:
        polygons = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    polygons = shapely.transform(polygons, lambda xy: xy + np.array([0, top]))
    flat = small.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    first = np.full(len(names), len(flat), np.int64)
    np.minimum.at(first, flat[starts], starts)
    row, column = np.divmod(first, labels.shape[1])
    parts = dict[int, list[Drawn]]()
    for polygon, (_, value) in zip(polygons, found, strict=True):
        at = int(value)
        if names[at]:
            parts.setdefault(int(names[at]), []).append(Drawn(polygon, (int(row[at]) + top, int(column[at]))))
    return parts


def whole(parts: Sequence[Drawn], min_area: float) -> tuple[Any, tuple[int, int]] | None:
    """Return a field of all of its parts and its first pixel; None of one that is smaller than so many pixels.

    Holes that are smaller than it are filled: no field is in them.
    """
    geometry = parts[0].geometry if len(parts) == 1 else shapely.union_all([one.geometry for one in parts])
    if geometry.area < min_area:
        return None
    if shapely.get_num_interior_rings(shapely.get_parts(geometry)).any():
        filled = [
            shapely.Polygon(one.exterior, [hole for hole in one.interiors if shapely.Polygon(hole).area >= min_area])
            for one in shapely.get_parts(geometry)
        ]
        geometry = filled[0] if len(filled) == 1 else shapely.union_all(filled)
    return geometry, min(one.first for one in parts)
