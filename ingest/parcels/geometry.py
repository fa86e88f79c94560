"""Declared outlines made measurable: repaired, measured in metres, checked for what a 10 m sensor can see of them.

Everything works on arrays of shapely geometries, one entry per parcel. Outlines are kept in longitude and latitude
(EPSG:4326); lengths and areas come from the UTM zone of each parcel, the grid that Sentinel-2 pixels lie on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyproj
import shapely

from ingest.parcels.arrays import Flags, Floats, Geometries, masked
from ingest.parcels.pixels import INNER_BUFFER_S1_M, INNER_BUFFER_S2_M, is_clear, too_small_for

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
MIN_PART_M2: Final = 1.0
"""Parts that a repair splits off below this are digitising noise (chosen: a hundredth of a pixel)."""
LONG_VERTICES: Final = 5_000
"""Outlines longer than this are measured only where their perimeter alone says that an inner buffer leaves enough of
them: buffers take time by the square of the vertices (3 s for 10,000 on a spiky outline; of four agencies' files none
has so many)."""
MAX_BROKEN_VERTICES: Final = 20_000
MAX_CROSSINGS: Final = 20_000
"""A repair takes 30 microseconds for each place where an outline crosses itself (measured): 0.6 s."""
BATCH_CROSSINGS: Final = 200_000
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
    reason[is_sound] = too_small_for(in_metres[is_sound], area_m2[is_sound], INNER_BUFFER_S2_M)
    is_seen_by_s1 = _open(reason)
    s1_reason = too_small_for(in_metres[is_seen_by_s1], area_m2[is_seen_by_s1], INNER_BUFFER_S1_M)
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
    too_long[is_long] = ~is_clear(in_metres, shapely.area(in_metres), INNER_BUFFER_S2_M)
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


def _open(reason: Geometries) -> Flags:
    """Return entries without a reason yet."""
    return np.array([value is None for value in reason], dtype=bool)
