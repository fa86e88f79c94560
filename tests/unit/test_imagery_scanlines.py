"""Pixels whose centre lies inside a polygon, against shapely asked for one point at a time."""

from collections.abc import Sequence

import numpy as np
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ingest.imagery.scanlines import expand, runs

SIZE = 24


def filled(polygons: Sequence[shapely.Geometry | None]) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
    """(P, SIZE, SIZE) how often each pixel is in a run of each polygon."""
    found = runs(np.array(polygons, dtype=object))
    counts = np.zeros((len(polygons), SIZE, SIZE), np.int64)
    for owner, row, first, end in zip(found.owner, found.row, found.first, found.end, strict=True):
        counts[owner, row, first:end] += 1
    return counts


def centres_inside(polygon: shapely.Geometry) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    return np.asarray(shapely.contains_xy(polygon, x, y))


def centres_off_the_edge(polygon: shapely.Geometry) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """What lies on an edge but for rounding is a matter of convention, tested on its own."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    return np.asarray(shapely.distance(shapely.points(x, y), shapely.boundary(polygon)) > 1e-9)


# Coordinates off the pixels' centres; edges may run through one all the same.
CORNERS = arrays(float, (7, 2), elements=st.integers(1, (SIZE - 1) * 64).map(lambda i: i / 64 + 1 / 256))


# An edge of slope -1/3 through the centre (2.5, 0.5).
@example(
    np.full((7, 2), 5 / 256), np.array([[169, 285], [913, 37], [5, 341], [5, 341], [5, 341], [5, 341], [5, 341]]) / 256
)
@given(CORNERS, CORNERS)
def test_runs_hold_the_centres_that_lie_inside(one: np.ndarray, other: np.ndarray) -> None:
    # Differences of hulls have holes, bays and several parts.
    a, b = shapely.MultiPoint(one).convex_hull, shapely.MultiPoint(other).convex_hull
    polygons = [a, b, a.difference(b), a.symmetric_difference(b), a.union(b)]
    polygons = [polygon for polygon in polygons if polygon.geom_type in ("Polygon", "MultiPolygon")]
    for polygon, counts in zip(polygons, filled(polygons), strict=True):
        is_sure = centres_off_the_edge(polygon)
        assert np.array_equal(counts[is_sure], centres_inside(polygon).astype(int)[is_sure])


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    # The common edge runs through centres: straight down at x = 8.5, and on a diagonal from centre to centre.
    left = shapely.Polygon([(2.5, 2.5), (8.5, 2.5), (8.5, 8.5), (14.5, 14.5), (2.5, 14.5)])
    right = shapely.Polygon([(8.5, 2.5), (20.5, 2.5), (20.5, 14.5), (14.5, 14.5), (8.5, 8.5)])
    counts = filled([left, right]).sum(axis=0)
    expected = np.zeros((SIZE, SIZE), int)
    expected[2:14, 2:20] = 1
    assert np.array_equal(counts, expected)


def test_missing_and_empty_polygons_have_no_runs_and_overlaps_keep_theirs() -> None:
    square = shapely.box(3, 3, 9, 9)
    counts = filled([None, shapely.Polygon(), square, square])
    assert counts.sum(axis=(1, 2)).tolist() == [0, 0, 36, 36]


def test_expand_counts_within_each() -> None:
    index, step = expand(np.array([2, 0, 3]))
    assert index.tolist() == [0, 0, 2, 2, 2]
    assert step.tolist() == [0, 1, 0, 1, 2]
