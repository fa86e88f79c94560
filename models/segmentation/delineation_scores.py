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

from models.segmentation.scoring import MATCH, Counts, boundary_iou

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


class Tally:
    """Counts of a map that is added stripe by stripe: memory grows with the number of fields, not with the map."""

    def __init__(self) -> None:
        self._pairs: list[NDArray[np.int64]] = []
        self._shared: list[NDArray[np.int64]] = []
        self._boundary = Counts(0, 0.0)

    def add(
        self, drawn: Map, known: Map, is_scored: NDArray[np.bool_] | None = None, rows: slice = slice(None)
    ) -> None:
        """Count some rows of a stripe; those around them, at least `BOUNDARY_PIXELS`, say where boundaries are.

        Args:
            drawn: (h, W), numbers below 2^31, the same field under the same number in all stripes.
            known: (h, W), likewise.
            is_scored: (h, W) pixels that are looked at; None: all.
            rows: of the stripe that are counted; none is counted twice.

        Raises:
            ValueError: the maps differ in shape.
        """
        if drawn.shape != known.shape:
            raise ValueError(f"maps of one tile have one shape, not {drawn.shape} and {known.shape}")
        counted = np.zeros(known.shape, bool)
        counted[rows] = True if is_scored is None else is_scored[rows]
        self._boundary += boundary_iou(drawn, known, ~counted, BOUNDARY_PIXELS)
        pair, shared = np.unique(known[counted].astype(np.int64) << 32 | drawn[counted], return_counts=True)
        self._pairs.append(pair)
        self._shared.append(shared)

    @property
    def fit(self) -> Fit:
        """Return how well the drawn fields fit the known ones, of what was added."""
        pair, of_pair = np.unique(np.concatenate([*self._pairs, np.zeros(1, np.int64)]), return_inverse=True)
        shared = np.bincount(of_pair, np.concatenate([*self._shared, np.zeros(1)]), len(pair)).astype(np.int64)
        (known, of), (drawn, by) = (
            np.unique(np.append(one, 0), return_inverse=True) for one in (pair >> 32, pair & (1 << 31) - 1)
        )
        of, by, m, n = of[:-1], by[:-1], len(known), len(drawn)  # 0: no field
        area_of, area_by = (np.bincount(one, shared, k).astype(np.int64) for one, k in ((of, m), (by, n)))
        is_pair = (of > 0) & (by > 0)
        of, by, shared = of[is_pair], by[is_pair], shared[is_pair]
        matches = int((shared / (area_of[of] + area_by[by] - shared) > MATCH).sum())
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
            f1=Counts(2 * matches, float(n + m - 2)).score,
            boundary_iou=self._boundary.score,
            over=float(over.mean()) if m > 1 else nothing,
            under=float(under.mean()) if m > 1 else nothing,
            area=float(np.median(np.abs(region - size) / size)) if m > 1 else nothing,
            gtc=float((size * total).sum() / size.sum()) if m > 1 else nothing,
        )


def fit(drawn: Map, known: Map, is_scored: NDArray[np.bool_] | None = None) -> Fit:
    """Return how well drawn fields fit known ones.

    Args:
        is_scored: (H, W) pixels that are looked at; None: all.

    Raises:
        ValueError: the maps differ in shape.
    """
    tally = Tally()
    tally.add(drawn, known, is_scored)
    return tally.fit
