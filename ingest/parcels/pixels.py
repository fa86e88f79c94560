"""What a 10 m sensor sees of an outline: pixels that lie wholly inside, and what an inner buffer leaves."""

from typing import Final

import numpy as np
import numpy.typing as npt
import shapely

from ingest.parcels.arrays import Flags, Floats, Geometries

PIXEL_M: Final = 10.0
"""Sentinel-2's finest grid."""
INNER_BUFFER_S2_M: Final = 5.0
INNER_BUFFER_S1_M: Final = 10.0
MIN_FULL_PIXELS: Final = 8
SURE_PIXELS: Final = 3 * MIN_FULL_PIXELS
"""Expected pixels from which no position of the grid leaves fewer than the least (a test tries strips and squares)."""
MAX_COUNTED_PIXELS: Final = 1_000_000
"""Pixels of an outline's bounds that are checked one by one: 10 km by 10 km."""
MAX_LOST_SHARE: Final = 0.6
"""Monitorable: at least 8 full pixels inside the inner buffer, which takes less than 60 % of the area (Sen4CAP)."""
SPIKY: Final = 30.0
"""Perimeter by the root of the area: 4 for a square, 15 for a strip 50 times as long as wide."""
MEAN_PIXEL_REACH_M: Final = PIXEL_M / 2 * 4 / np.pi
"""Mean over directions of a pixel's reach from its centre, 5 (|cos a| + |sin a|)."""
BATCH_BUFFER_COST: Final = 1e9
"""Sum over a batch of the squares of vertices that are buffered: at most 40 s (measured on spiky outlines)."""
MAX_FOLDS: Final = 30_000.0
"""Vertices times how often the band that an inner buffer takes would cover the area (its width times perimeter by area): the
band of a spiky outline crosses itself so often. A buffer takes 10 to 30 microseconds for each, and 0.7 kB (measured on stars of
200 to 3,000 vertices, where 4.8e6 were not done after 20 s and 6 GB); of four agencies' files none has over 3,000."""
BATCH_FOLDS: Final = 1e6


def full_pixels(in_metres: Geometries) -> npt.NDArray[np.int64]:
    """Return pixels of the 10 m UTM grid that lie wholly inside each geometry: counted near the limit, estimated elsewhere.

    The estimate is the expectation over all positions of the grid, the area that a pixel's centre may take, with
    the pixel's reach averaged over directions.
    """
    expected = shapely.area(_shrink(in_metres, MEAN_PIXEL_REACH_M)) / PIXEL_M**2
    count = np.round(expected).astype(int)
    has_room = shapely.area(in_metres) >= MIN_FULL_PIXELS * PIXEL_M**2
    left, below, right, above = shapely.bounds(in_metres).T
    # A sliver across a country (one vertex astray) would have a grid of billions of pixels: its estimate stands.
    is_countable = (right - left) * (above - below) < MAX_COUNTED_PIXELS * PIXEL_M**2
    for index in np.flatnonzero(has_room & is_countable & (expected < SURE_PIXELS)):
        count[index] = _count_full_pixels(in_metres[index])
    return count


def _count_full_pixels(polygon: shapely.Geometry) -> int:
    """Return pixels whose four corners lie inside; a hole or bay narrower than a pixel between them is overlooked."""
    left, below, right, above = shapely.bounds(polygon)
    x = np.arange(np.floor(left / PIXEL_M), np.ceil(right / PIXEL_M) + 1) * PIXEL_M
    y = np.arange(np.floor(below / PIXEL_M), np.ceil(above / PIXEL_M) + 1) * PIXEL_M
    shapely.prepare(polygon)
    inside = shapely.intersects_xy(polygon, x[None, :], y[:, None])  # (ny, nx) corners
    return int(np.sum(inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]))


def too_small_for(in_metres: Geometries, area_m2: Floats, inner_buffer_m: float) -> Geometries:
    """Return `too_narrow`, `too_small` or None for each geometry seen through an inner buffer."""
    reason = np.full(len(in_metres), None, dtype=object)
    doubtful = np.flatnonzero(~is_clear(in_metres, area_m2, inner_buffer_m))
    is_affordable = _is_affordable(in_metres[doubtful], area_m2[doubtful], inner_buffer_m)
    reason[doubtful[~is_affordable]] = "too_complex"
    doubtful = doubtful[is_affordable]
    area_m2, inner = area_m2[doubtful], _shrink(in_metres[doubtful], inner_buffer_m)
    is_small = full_pixels(inner) < MIN_FULL_PIXELS
    lost = 1 - np.divide(shapely.area(inner), area_m2, out=np.zeros(len(area_m2)), where=area_m2 > 0)
    # Where less than this is left, a compact field would have too few pixels as well: its fault is its size.
    is_large_enough = area_m2 >= MIN_FULL_PIXELS * PIXEL_M**2 / (1 - MAX_LOST_SHARE)
    reason[doubtful[is_small]] = "too_small"
    reason[doubtful[(lost >= MAX_LOST_SHARE) & is_large_enough]] = "too_narrow"
    return reason


def _is_affordable(in_metres: Geometries, area_m2: Floats, inner_buffer_m: float) -> Flags:
    """Say which geometries of one batch can be buffered within the limits of time and memory."""
    perimeter_m, n_vertices = shapely.length(in_metres), shapely.get_num_coordinates(in_metres).astype(float)
    turns = np.divide(inner_buffer_m * perimeter_m, area_m2, out=np.full(len(area_m2), np.inf), where=area_m2 > 0)
    # Far outside its zone a valid outline may cross itself in metres, over thousands of kilometres.
    is_crossing = perimeter_m > SPIKY * np.sqrt(area_m2)
    is_crossing[is_crossing] = ~shapely.is_valid(in_metres[is_crossing])
    folds = n_vertices * turns
    is_affordable: Flags = ~is_crossing & (folds <= MAX_FOLDS) & (np.cumsum(n_vertices**2) <= BATCH_BUFFER_COST)
    return is_affordable & (np.cumsum(np.where(is_affordable, folds, 0.0)) <= BATCH_FOLDS)


def is_clear(in_metres: Geometries, area_m2: Floats, inner_buffer_m: float) -> Flags:
    """Say which geometries are large enough whatever their shape: a buffer d wide takes at most d times the perimeter."""
    perimeter_m = shapely.length(in_metres)
    least_pixels = (area_m2 - (inner_buffer_m + MEAN_PIXEL_REACH_M) * perimeter_m) / PIXEL_M**2
    return np.asarray(
        (least_pixels > SURE_PIXELS) & (inner_buffer_m * perimeter_m < MAX_LOST_SHARE * area_m2), dtype=bool
    )


def _shrink(in_metres: Geometries, distance_m: float) -> Geometries:
    shrunk: Geometries = shapely.buffer(in_metres, -distance_m, join_style="mitre")
    return shrunk
