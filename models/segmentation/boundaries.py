"""Declared parcels beside drawn fields: parcels that are farmed apart, and edges that are not where they were declared.

    own(p)    the fields of which p holds more than any other parcel does; main(p): the one of these that holds most of p
    wide(r)   (r eroded by t / 2) dilated by t / 2, within r                                t: tolerance
    by(r)     (h - sqrt(h^2 - 4 |r|)) / 2: a rectangle's width, of r's area and half its perimeter h

    farmed apart     own(p) has two fields or more with a large share of p each, and of them beyond t from its edge; together most of it
    moved            wide parts of p lie in the main field of a neighbour, or of main(p) beyond p; exchanged, main(p) fits p
    inconclusive     own(p) does not fit p, or not surely: cloud, trees, two parcels drawn as one

Source: ours; t is half a pixel (Vajsova et al. 2020: what checks by monitoring take off each side) and the 1.5 pixels by which an outline
        is simplified. Two persons' outlines differ by 2 to 3.5 pixels, too (Pluto-Kossakowska et al. 2007, Cartosat-1).
Chosen because: fields are often drawn wrong, so that a difference counts only where all else fits, on both sides of an edge.
Shapes: P parcels, F fields, in one system of metres; outlines are valid.
Units:  metres; hectares where the name says so.
Errors: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

Outlines = NDArray[np.object_]
Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Kind = Literal["as_declared", "farmed_apart", "moved", "inconclusive"]
VERSION: Final = "1"
COMPASS: Final = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")


@dataclass(frozen=True)
class Bounds:
    """From where on something differs; all but the tolerance are chosen, on simulated seasons (docs/LOG.md)."""

    tolerance_m: float = 20.0
    least_ha: float = 0.25
    """Of a part, and of what moved: 25 pixels of Sentinel-2."""
    least_share: float = 0.2
    """Of a part."""
    within: float = 0.8
    """Share of a part's field that lies in the parcel."""
    explained: float = 0.75
    """Share of the parcel that its parts make up."""
    fit: float = 0.5
    """IoU of a field and its parcel."""
    sure: float = 0.4
    """Confidence of the surer one of two fields, of the edge between them."""
    most_moved: float = 0.5
    """Share of the parcel: what moves more is no edge."""

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Return them as evidence names them."""
        return asdict(self)


@dataclass(frozen=True)
class DrawnFields:
    """Fields as they were drawn."""

    outline: Outlines
    """(F,)"""
    confidence: Floats
    """(F,) 0 to 1."""
    crop: Sequence[str | None]
    """(F,) None where none was recognised."""


@dataclass(frozen=True)
class Compared:
    """What drawn fields say of one parcel."""

    kind: Kind
    confidence: float
    hectares: float | None
    """That differ; None where nothing can be said."""
    evidence: Mapping[str, Any]


def compare(
    parcels: Outlines,
    fields: DrawnFields,
    bounds: Bounds | None = None,
    of: Ints | None = None,
    names: Sequence[str] | None = None,
) -> list[Compared]:
    """Return what fields say of the parcels at some places, None: of all; the parcels and fields around must be among them.

    Args:
        names: (P,) by which evidence names neighbours; None: their places.
    """
    names = [str(nr) for nr in range(len(parcels))] if names is None else names
    comparison = _Comparison(parcels, fields, bounds or Bounds(), names)
    return [comparison.of(nr) for nr in (range(len(parcels)) if of is None else of.tolist())]


class _Comparison:
    """Parcels and fields with what they share."""

    def __init__(self, parcels: Outlines, fields: DrawnFields, bounds: Bounds, names: Sequence[str]) -> None:
        self._parcels, self._fields, self._bounds, self._names = parcels, fields, bounds, names
        outline = fields.outline
        parcel, field = shapely.STRtree(outline).query(parcels, predicate="intersects")
        shared = shapely.area(shapely.intersection(parcels[parcel], outline[field]))
        order = np.argsort(shared, kind="stable")
        parcel, field, shared = parcel[order], field[order], shared[order]
        # Of equal indices the last assignment stays: of those with the largest area.
        self._owner, held = np.full(len(outline), -1), np.zeros(len(outline))
        self._owner[field], held[field] = parcel, shared
        area = np.maximum(shapely.area(outline), 1e-9)
        self._held, self._declared = held / area, np.bincount(field, shared, len(outline)) / area
        """(F,) share of a field that lies in its owner, and in any parcel."""
        is_own = self._owner[field] == parcel
        self._main, both = np.full(len(parcels), -1), np.zeros(len(parcels))
        self._main[parcel[is_own]], both[parcel[is_own]] = field[is_own], shared[is_own]
        self._area = shapely.area(parcels)
        size = np.where(self._main < 0, 0, shapely.area(outline)[self._main] if len(outline) else 0)
        self._iou = both / np.maximum(self._area + size - both, 1e-9)
        by_parcel, by_field = np.argsort(parcel, kind="stable"), np.argsort(field, kind="stable")
        self._of_parcel = _Groups(parcel[by_parcel], field[by_parcel], shared[by_parcel])
        self._of_field = _Groups(field[by_field], parcel[by_field], shared[by_field])

    def of(self, nr: int) -> Compared:
        """Return what is said of a parcel."""
        near, shared = self._of_parcel.at(nr)
        if not shared.sum():
            return _inconclusive("no field was drawn on it")
        if (apart := self._apart(nr, near, shared)) is not None:
            return apart
        if self._main[nr] < 0 or 2 * self._iou[nr] < self._bounds.fit:
            return _inconclusive("no drawn field is its own")
        moved, main = self._moved(nr, near), self._main[nr]
        drawn, fits = self._fields.outline[main], self._iou[nr]
        if moved:
            exchanged = shapely.difference(
                self._parcels[nr], shapely.union_all([one.part for one in moved if one.is_within])
            )
            exchanged = shapely.union_all([exchanged, *(one.part for one in moved if not one.is_within)])
            fits = shapely.area(shapely.intersection(drawn, exchanged)) / shapely.area(shapely.union(drawn, exchanged))
        if fits < self._bounds.fit:
            return _inconclusive(f"no drawn field fits it: IoU {fits:.2f}")
        if not moved or fits < self._iou[nr]:
            return Compared("as_declared", float(self._fields.confidence[main]), 0.0, {"iou": round(float(fits), 2)})
        sure = min(max(self._fields.confidence[main], one.sure) for one in moved)
        if sure < self._bounds.sure:
            return _inconclusive(f"an edge lies elsewhere, but is not drawn surely: confidence {sure:.2f}")
        regions = [one.evidence for one in sorted(moved, key=lambda one: -one.part.area)]
        hectares = sum(one.part.area for one in moved) / 1e4
        return Compared(
            "moved", float(sure), round(hectares, 2), {"iou": round(float(self._iou[nr]), 2), "regions": regions}
        )

    def _apart(self, nr: int, near: Ints, shared: Floats) -> Compared | None:
        """Return the parts that a parcel is farmed in, None where it is not."""
        bounds, least = self._bounds, 1e4 * self._bounds.least_ha
        is_part = (self._owner[near] == nr) & (self._held[near] >= bounds.within)
        is_part &= shared >= bounds.least_share * self._area[nr]
        if is_part.sum() < 2:
            return None
        inner = shapely.buffer(self._parcels[nr], -bounds.tolerance_m)
        is_part[is_part] = shapely.area(shapely.intersection(self._fields.outline[near[is_part]], inner)) >= least / 2
        share = shared[is_part] / self._area[nr]
        # Two parts differ by as much as the surer one does from what is most like it.
        sure = np.sort(self._fields.confidence[near[is_part]])[1:].min(initial=1.0)
        if len(share) < 2 or share.sum() < bounds.explained or sure < bounds.sure:
            return None
        order = np.argsort(-share)
        parts, share = near[is_part][order], share[order]
        crops = [self._fields.crop[one] for one in parts.tolist()]
        shown = [
            {
                "area_ha": _hectares(one * self._area[nr]),
                "share": round(float(one), 2),
                "confidence": round(float(c), 2),
            }
            | ({} if crop is None else {"crop": crop})
            for one, c, crop in zip(share, self._fields.confidence[parts], crops, strict=True)
        ]
        is_other_crop = len({one for one in crops if one is not None}) > 1
        confidence = float(1 - (1 - sure) / (2 if is_other_crop else 1))
        return Compared("farmed_apart", confidence, _hectares(share[1:].sum() * self._area[nr]), {"parts": shown})

    def _moved(self, nr: int, near: Ints) -> list[_Region]:
        """Return what of a parcel lies in a neighbour's field, and what of its field beyond it."""
        main, own = int(self._main[nr]), self._parcels[nr]
        found: list[_Region] = []
        for other in near[near != main].tolist():
            owner, outline = int(self._owner[other]), self._fields.outline[other]
            if self._declared[other] < 0.5:
                found += self._wide(
                    nr, shapely.intersection(own, outline), "in_undeclared", None, self._fields.confidence[other]
                )
            elif owner != nr and other == self._main[owner] and self._fits(owner):
                found += self._wide(
                    nr, shapely.intersection(own, outline), "in_neighbour", owner, self._fields.confidence[other]
                )
        beyond = shapely.difference(self._fields.outline[main], own)
        touched, _ = self._of_field.at(main)
        for parcel in touched[touched != nr].tolist():
            if self._fits(parcel):
                region = shapely.intersection(beyond, self._parcels[parcel])
                found += self._wide(nr, region, "takes_neighbour", parcel, self._fields.confidence[self._main[parcel]])
        nobody = shapely.difference(beyond, shapely.union_all(self._parcels[touched]))
        return found + self._wide(nr, nobody, "takes_undeclared", None, 0.0)

    def _fits(self, nr: int) -> bool:
        """Return whether a neighbour is drawn well enough to say where the edge to it lies."""
        return bool(self._main[nr] >= 0 and self._iou[nr] >= self._bounds.fit)

    def _wide(self, nr: int, region: Any, how: str, neighbour: int | None, sure: float) -> list[_Region]:
        """Return the parts of a region that are wide and large, and not so large that it is another field."""
        half, least = self._bounds.tolerance_m / 2, 1e4 * self._bounds.least_ha
        if region.area < least:
            return []
        inner = shapely.buffer(region, -half, join_style="mitre")
        wide = shapely.intersection(shapely.buffer(inner, half, join_style="mitre"), region)
        name = None if neighbour is None else self._names[neighbour]
        middle = shapely.get_coordinates(shapely.centroid(self._parcels[nr]))[0]
        return [
            _Region(part, how, name, float(sure), middle)
            for part in shapely.get_parts(wide)
            if least <= part.area <= self._bounds.most_moved * self._area[nr]
            and shapely.dwithin(part, self._parcels[nr], self._bounds.tolerance_m)
        ]


@dataclass(frozen=True)
class _Groups:
    """Pairs in the order of their first numbers."""

    key: Ints
    other: Ints
    shared: Floats

    def at(self, nr: int) -> tuple[Ints, Floats]:
        """Return the other numbers of one, and the areas that both share."""
        some = slice(*np.searchsorted(self.key, [nr, nr + 1]))
        return self.other[some], self.shared[some]


@dataclass(frozen=True)
class _Region:
    """Land on the other side of an edge than declared."""

    part: Any
    how: str
    neighbour: str | None
    sure: float
    middle: Floats
    """(2,) of the parcel."""

    @property
    def is_within(self) -> bool:
        """Return whether it lies in the parcel."""
        return self.how.startswith("in_")

    @cached_property
    def evidence(self) -> Mapping[str, Any]:
        x, y = shapely.get_coordinates(shapely.centroid(self.part))[0] - self.middle
        where = COMPASS[round(float(np.degrees(np.arctan2(y, x))) / 45) % 8]
        size = {"area_ha": _hectares(self.part.area), "by_m": round(width(self.part)), "where": where}
        return {"how": self.how, **size} | ({} if self.neighbour is None else {"neighbour": self.neighbour})


def width(region: Any) -> float:
    """Return the shorter side of the rectangle with a region's area and perimeter; of what is rounder, the root of its area."""
    half, area = region.length / 2, region.area
    return float((half - np.sqrt(max(half**2 - 4 * area, 0.0))) / 2) if half**2 > 4 * area else float(np.sqrt(area))


def _hectares(area_m2: float) -> float:
    return round(float(area_m2) / 1e4, 2)


def _inconclusive(reason: str) -> Compared:
    return Compared("inconclusive", 0.0, None, {"reason": reason})
