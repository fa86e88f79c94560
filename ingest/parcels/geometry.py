"""Declared outlines made measurable: repaired, measured in metres, checked for what a 10 m sensor can see of them.

Everything works on arrays of shapely geometries, one entry per parcel. Outlines are kept in longitude and latitude
(EPSG:4326); lengths and areas come from the UTM zone of each parcel, the grid that Sentinel-2 pixels lie on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

Geometries = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Reason = Literal[
    "unusable_text",
    "no_geometry",
    "not_polygonal",
    "too_complex",
    "invalid_geometry",
    "no_id",
    "duplicate_id",
    "duplicate_geometry",
    "too_small",
    "too_narrow",
    "overlaps_other",
]
"""Why a parcel cannot be monitored, in the order of the checks: the first that holds is kept."""

WGS84: Final = "EPSG:4326"
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
MIN_PART_M2: Final = 1.0
"""Parts that a repair splits off below this are digitising noise (chosen: a hundredth of a pixel)."""
MAX_OVERLAP: Final = 0.1
"""Share of a parcel that others may cover: more would mix two declared crops in its mean (chosen: the inner buffer
takes about as much off a field of 4 ha)."""
MAX_MEAN_PAIRS: Final = 100
MAX_PAIRS: Final = 2_000_000
"""Pairs of outlines that touch or overlap: fields have some 6 neighbours each, small files may have what they like."""
SPIKY: Final = 30.0
"""Perimeter by the root of the area: 4 for a square, 15 for a strip 50 times as long as wide."""
SPIKY_PAIR_COST: Final = 2e8
"""Sum of products of vertices for pairs of spiky outlines: each side may cross each, a microsecond a time."""
MEAN_PIXEL_REACH_M: Final = PIXEL_M / 2 * 4 / np.pi
"""Mean over directions of a pixel's reach from its centre, 5 (|cos a| + |sin a|)."""
LONG_VERTICES: Final = 5_000
"""Outlines longer than this are measured only where their perimeter alone says that an inner buffer leaves enough of
them: buffers take time by the square of the vertices (3 s for 10,000 on a spiky outline; of four agencies' files none
has so many)."""
MAX_BROKEN_VERTICES: Final = 20_000
MAX_CROSSINGS: Final = 20_000
"""A repair takes 30 microseconds for each place where an outline crosses itself (measured): 0.6 s."""
BATCH_CROSSINGS: Final = 200_000
BATCH_BUFFER_COST: Final = 1e9
"""Sum over a batch of the squares of vertices that are buffered: at most 40 s (measured on spiky outlines)."""
MAX_FOLDS: Final = 30_000.0
"""Vertices times how often the band that an inner buffer takes would cover the area (its width times perimeter by area): the
band of a spiky outline crosses itself so often. A buffer takes 10 to 30 microseconds for each, and 0.7 kB (measured on stars of
200 to 3,000 vertices, where 4.8e6 were not done after 20 s and 6 GB); of four agencies' files none has over 3,000."""
BATCH_FOLDS: Final = 1e6
COORDINATE_DECIMALS: Final = 8
"""1 mm in degrees: two versions of the projection library then give one outline: a file read again is unchanged."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Parcels' outlines (MultiPolygon or None), measures (NaN without outline) and verdicts, one entry per parcel."""

    geometry: Geometries
    area_ha: Floats
    perimeter_m: Floats
    bbox_fill: Floats
    reason: Geometries
    """Reason, or None: monitorable as far as the parcel alone shows."""
    is_repaired: Flags
    is_seen_by_s1: Flags
    """Monitorable with Sentinel-1's wider inner buffer too."""


@np.errstate(invalid="ignore", over="ignore")  # coordinates that are no numbers are refused below
def measure(wkb: list[bytes | None], crs: pyproj.CRS) -> Outlines:
    """Return outlines of one batch of features given as WKB in `crs`."""
    is_given = np.array([value is not None for value in wkb], dtype=bool)
    raw = shapely.force_2d(shapely.from_wkb(np.array(wkb, dtype=object), on_invalid="ignore"))
    reason = np.full(len(wkb), None, dtype=object)
    reason[is_given & shapely.is_missing(raw)] = "invalid_geometry"
    reason[~is_given | shapely.is_empty(raw)] = "no_geometry"
    # 3 Polygon, 6 MultiPolygon, 7 GeometryCollection, which a repair may reduce to polygons.
    reason[_open(reason) & ~np.isin(shapely.get_type_id(raw), (3, 6, 7))] = "not_polygonal"

    geometry = shapely.transform(masked(raw, ~_open(reason)), _projection(crs, WGS84))
    reason[_open(reason) & ~_is_on_earth(geometry)] = "invalid_geometry"
    geometry = masked(geometry, ~_open(reason))
    reason[_open(reason) & _is_too_long(geometry)] = "too_complex"
    geometry = masked(geometry, ~_open(reason))
    is_broken = _open(reason) & ~(shapely.is_valid(geometry) & np.isin(shapely.get_type_id(geometry), (3, 6)))
    reason[is_broken & ~_is_repairable(geometry, is_broken)] = "too_complex"
    geometry, is_broken = masked(geometry, ~_open(reason)), is_broken & _open(reason)
    geometry[is_broken] = shapely.make_valid(geometry[is_broken], method="structure", keep_collapsed=False)
    geometry, in_metres = _polygons(geometry, to_utm(geometry), is_broken)
    reason[_open(reason) & shapely.is_missing(geometry)] = "invalid_geometry"

    area_m2 = shapely.area(in_metres)
    left, below, right, above = shapely.bounds(in_metres).T
    is_sound = _open(reason)
    reason[is_sound] = _too_small_for(in_metres[is_sound], area_m2[is_sound], INNER_BUFFER_S2_M)
    is_seen_by_s1 = _open(reason)
    s1_reason = _too_small_for(in_metres[is_seen_by_s1], area_m2[is_seen_by_s1], INNER_BUFFER_S1_M)
    is_seen_by_s1[is_seen_by_s1] = _open(s1_reason)
    return Outlines(
        geometry=masked(geometry, reason == "too_complex"),
        area_ha=area_m2 / 1e4,
        perimeter_m=shapely.length(in_metres),
        bbox_fill=area_m2 / ((right - left) * (above - below)),
        reason=reason,
        is_repaired=is_broken & ~shapely.is_missing(geometry),
        is_seen_by_s1=is_seen_by_s1,
    )


def _is_too_long(geometry: Geometries) -> Flags:
    """Say which long outlines, in degrees, have so much perimeter for their area that they would have to be buffered."""
    is_long = shapely.get_num_coordinates(geometry) > LONG_VERTICES
    too_long = np.zeros(len(geometry), dtype=bool)
    in_metres = to_utm(geometry[is_long])
    too_long[is_long] = ~_is_clear(in_metres, shapely.area(in_metres), INNER_BUFFER_S2_M)
    return too_long


def _is_repairable(geometry: Geometries, is_broken: Flags) -> Flags:
    """Say which broken outlines cross themselves so rarely that they can be repaired in time."""
    repairable, left = np.zeros(len(geometry), dtype=bool), BATCH_CROSSINGS
    for row in np.flatnonzero(is_broken):
        if shapely.get_num_coordinates(geometry[row]) <= MAX_BROKEN_VERTICES and left > 0:
            crossings = _count_crossings(geometry[row], min(MAX_CROSSINGS, left))
            left -= crossings
            repairable[row] = crossings < MAX_CROSSINGS and left > 0
    return repairable


def _count_crossings(outline: shapely.Geometry, limit: int) -> int:
    """Return how many pairs of an outline's segments meet other than as neighbours do, counted up to a limit."""
    rings = [shapely.get_coordinates(ring) for ring in _rings(outline)]
    if not rings:
        return 0
    ends = np.concatenate([np.stack([xy[:-1], xy[1:]], axis=1) for xy in rings])  # (S, 2, 2)
    segments = np.asarray(shapely.linestrings(ends), dtype=object)
    tree, found = shapely.STRtree(segments), -3 * len(segments)  # itself, the one before, the one after
    for start in range(0, len(segments), 256):
        found += tree.query(segments[start : start + 256], predicate="intersects").shape[1]
        if found > 2 * limit:
            break
    return max(0, found // 2)


def _rings(outline: shapely.Geometry) -> Geometries:
    """Return the rings of all polygons within a geometry, however deep they lie."""
    parts = np.array([outline], dtype=object)
    while np.any(shapely.get_type_id(parts) > 3):
        parts = shapely.get_parts(parts)
    rings: Geometries = shapely.get_rings(parts[shapely.get_type_id(parts) == 3])
    return rings


def to_utm(geometry: Geometries) -> Geometries:
    """Return geometries in longitude and latitude moved to the UTM zone (WGS 84) of the middle of their bounds."""
    bounds = shapely.bounds(geometry)
    lon, lat = (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
    zone = np.clip(np.nan_to_num(np.floor((lon + 180) / 6)).astype(int) + 1, 1, 60)
    epsg = np.where(np.isnan(lon), 0, np.where(lat >= 0, 32600, 32700) + zone)
    moved = geometry.copy()  # an empty one stays as it is
    for code in np.unique(epsg[epsg > 0]):
        here = epsg == code
        moved[here] = shapely.transform(geometry[here], _projection(WGS84, f"EPSG:{code}", decimals=None))
    return moved


def repeated(geometry: Geometries) -> Flags:
    """Return outlines that an earlier entry has already, whatever vertex they start from."""
    seen: set[bytes] = set()
    is_repeated = np.zeros(len(geometry), dtype=bool)
    for index, key in enumerate(shapely.to_wkb(shapely.normalize(geometry))):
        if key is not None:
            is_repeated[index] = key in seen
            seen.add(key)
    return is_repeated


def overlap_share(geometry: Geometries, at_once: int = 256) -> Floats:
    """Return share of each outline's area that the others cover; several covering the same place count each time, up to 1.

    Spiky outlines that would take too long are taken for covered.
    Raises ValueError where the outlines lie on each other in so many pairs that no agency's parcels can be meant.
    """
    tree, area, n_vertices = shapely.STRtree(geometry), shapely.area(geometry), shapely.get_num_coordinates(geometry)
    is_spiky = shapely.length(geometry) > SPIKY * np.sqrt(area)
    covered, n_pairs, left = np.zeros(len(geometry)), 0, SPIKY_PAIR_COST
    for start in range(0, len(geometry), at_once):
        one, other = tree.query(geometry[start : start + at_once], predicate="intersects")
        one += start
        n_pairs += len(one)
        if n_pairs > MAX_PAIRS + MAX_MEAN_PAIRS * len(geometry):
            raise ValueError(f"the first {start + at_once:,} outlines lie on others {n_pairs:,} times")
        # Where both are covered whole nothing can be added.
        matters = (one < other) & ((covered[one] < area[one]) | (covered[other] < area[other]))
        one, other = one[matters], other[matters]
        cost = np.where(is_spiky[one] & is_spiky[other], n_vertices[one] * n_vertices[other], 0)
        is_affordable = np.cumsum(cost) <= left
        left -= cost.sum()
        for unmeasured in (one[~is_affordable], other[~is_affordable]):
            covered[unmeasured] = area[unmeasured]
        one, other = one[is_affordable], other[is_affordable]
        shared = shapely.area(shapely.intersection(geometry[one], geometry[other]))
        np.add.at(covered, one, shared)
        np.add.at(covered, other, shared)
    return np.minimum(np.divide(covered, area, out=np.zeros(len(geometry)), where=area > 0), 1.0)


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


def _too_small_for(in_metres: Geometries, area_m2: Floats, inner_buffer_m: float) -> Geometries:
    """Return `too_narrow`, `too_small` or None for each geometry seen through an inner buffer."""
    reason = np.full(len(in_metres), None, dtype=object)
    doubtful = np.flatnonzero(~_is_clear(in_metres, area_m2, inner_buffer_m))
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


def _is_clear(in_metres: Geometries, area_m2: Floats, inner_buffer_m: float) -> Flags:
    """Say which geometries are large enough whatever their shape: a buffer d wide takes at most d times the perimeter."""
    perimeter_m = shapely.length(in_metres)
    least_pixels = (area_m2 - (inner_buffer_m + MEAN_PIXEL_REACH_M) * perimeter_m) / PIXEL_M**2
    return np.asarray(
        (least_pixels > SURE_PIXELS) & (inner_buffer_m * perimeter_m < MAX_LOST_SHARE * area_m2), dtype=bool
    )


def _shrink(in_metres: Geometries, distance_m: float) -> Geometries:
    shrunk: Geometries = shapely.buffer(in_metres, -distance_m, join_style="mitre")
    return shrunk


def _polygons(geometry: Geometries, in_metres: Geometries, is_broken: Flags) -> tuple[Geometries, Geometries]:
    """Return every geometry as MultiPolygon in both systems; of repaired ones only polygon parts that are no slivers."""
    outer, index = shapely.get_parts(geometry, return_index=True)
    parts, inner = shapely.get_parts(outer, return_index=True)  # collections may hold MultiPolygons
    index, parts_m = index[inner], shapely.get_parts(shapely.get_parts(in_metres))
    is_sliver = is_broken[index] & (shapely.area(parts_m) < MIN_PART_M2)
    keep = (shapely.get_type_id(parts) == 3) & ~shapely.is_empty(parts) & ~is_sliver
    owners, owner_of = np.unique(index[keep], return_inverse=True)
    results = []
    for kept in (parts[keep], parts_m[keep]):
        joined = np.full(len(geometry), None, dtype=object)
        if len(kept):
            joined[owners] = shapely.multipolygons(kept, indices=owner_of)
        results.append(joined)
    return results[0], results[1]


def _projection(
    source: pyproj.CRS | str, target: str, decimals: int | None = COORDINATE_DECIMALS
) -> Callable[[Floats], Floats]:
    """Map coordinates (N, 2), x before y, from one system to another."""
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True, allow_ballpark=False)

    def project(xy: Floats) -> Floats:
        moved = np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
        return moved if decimals is None else np.round(moved, decimals)

    return project


def _is_on_earth(geometry: Geometries) -> Flags:
    """Return whether all coordinates are finite degrees; PROJ gives infinity outside of a system's domain."""
    bounds = shapely.bounds(geometry)
    return np.asarray(np.all(np.isfinite(bounds), axis=1) & np.all(np.abs(bounds) <= (180, 90, 180, 90), axis=1))


def masked(geometry: Geometries, is_hidden: Flags) -> Geometries:
    """Return a copy with None where hidden."""
    shown = geometry.copy()
    shown[is_hidden] = None
    return shown


def _open(reason: Geometries) -> Flags:
    """Return entries without a reason yet."""
    return np.array([value is None for value in reason], dtype=bool)
