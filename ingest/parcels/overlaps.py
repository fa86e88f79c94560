"""Outlines that lie on others: repeated ones, and the share of each that others cover."""

from typing import Final

import numpy as np
import shapely

from ingest.parcels.arrays import Flags, Floats, Geometries
from ingest.parcels.pixels import SPIKY

MAX_OVERLAP: Final = 0.1
"""Share of a parcel that others may cover: more would mix two declared crops in its mean (chosen: the inner buffer
takes about as much off a field of 4 ha)."""
MAX_MEAN_PAIRS: Final = 100
MAX_PAIRS: Final = 2_000_000
"""Pairs of outlines that touch or overlap: fields have some 6 neighbours each, small files may have what they like."""
SPIKY_PAIR_COST: Final = 2e8
"""Sum of products of vertices for pairs of spiky outlines: each side may cross each, a microsecond a time."""


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
