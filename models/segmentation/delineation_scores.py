"""How well drawn fields fit known ones: errors of over- and under-segmentation, of area, F1 of objects, IoU of boundaries.

    R(O) = the drawn field with the largest part of a known one O
    over  = 1 - |O n R| / |O|          under = 1 - |O n R| / |R|          total = sqrt((over^2 + under^2) / 2)
    area  = ||R| - |O|| / |O|          GTC   = sum |O| total(O) / sum |O|

Source: Persello and Bruzzone 2010 (IEEE Trans. Geosci. Remote Sens. 48(3)): errors of over- and under-segmentation. GTC weighs the total
        errors by area, here over known fields. A known field without a drawn one has over, under, total and area 1.
Shapes: maps (H, W), 0 where there is no field.
Units:  pixels.
Errors: ValueError for maps of two shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.segmentation.scoring import boundary_iou, object_f1

Map = NDArray[np.integer[Any]]
BOUNDARY_PIXELS = 1
"""Within which a boundary is at its place: as wide as known outlines are uncertain at 10 m."""


@dataclass(frozen=True)
class Fit:
    """Scores of one map."""

    known: int
    drawn: int
    f1: float
    """Of objects, at an IoU above 0.5."""
    boundary_iou: float
    over: float
    """Mean over known fields."""
    under: float
    area: float
    """Median over known fields."""
    gtc: float
    """0 to 1: 0 where all fields are drawn as known."""


def fit(drawn: Map, known: Map, is_scored: NDArray[np.bool_] | None = None) -> Fit:
    """Return how well drawn fields fit known ones.

    Args:
        is_scored: (H, W) pixels that are looked at; None: all.

    Raises:
        ValueError: the maps differ in shape.
    """
    if drawn.shape != known.shape:
        raise ValueError(f"maps of one tile have one shape, not {drawn.shape} and {known.shape}")
    is_void = np.zeros(known.shape, bool) if is_scored is None else ~is_scored
    f1 = object_f1(drawn, known, is_void).score
    boundary = boundary_iou(drawn, known, is_void, BOUNDARY_PIXELS).score
    ours, theirs = (np.unique(np.where(is_void, 0, one), return_inverse=True) for one in (drawn, known))
    numbers = [names if names.size and names[0] == 0 else np.insert(names, 0, 0) for names in (ours[0], theirs[0])]
    at = [one[1].ravel() + (len(names) - len(one[0])) for one, names in zip((ours, theirs), numbers, strict=True)]
    n, m = (len(names) for names in numbers)
    pair, shared = np.unique(at[1].astype(np.int64) * n + at[0], return_counts=True)
    of, by = np.divmod(pair, n)
    area_of, area_by = np.bincount(at[1], minlength=m), np.bincount(at[0], minlength=n)
    is_pair = (of > 0) & (by > 0)
    of, by, shared = of[is_pair], by[is_pair], shared[is_pair]
    order = np.lexsort((-by, shared))  # the last of a known field is its largest part
    best, common = np.zeros(m, np.int64), np.zeros(m, np.int64)
    best[of[order]], common[of[order]] = by[order], shared[order]
    size, region = area_of[1:], np.where(best > 0, area_by[best], 0)[1:]
    over = 1 - common[1:] / size
    under = 1 - common[1:] / np.maximum(region, 1)
    total = np.sqrt((over**2 + under**2) / 2)
    nothing = float("nan")
    return Fit(
        known=m - 1,
        drawn=n - 1,
        f1=f1,
        boundary_iou=boundary,
        over=float(over.mean()) if m > 1 else nothing,
        under=float(under.mean()) if m > 1 else nothing,
        area=float(np.median(np.abs(region - size) / size)) if m > 1 else nothing,
        gtc=float((size * total).sum() / size.sum()) if m > 1 else nothing,
    )
