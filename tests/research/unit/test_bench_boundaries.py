"""Altered declarations: what is altered is so by what is said of it, the rest lies as it is farmed."""

from collections import Counter

import numpy as np
import shapely

from models.segmentation.boundaries import DrawnFields, compare
from research.bench.boundaries import MOVED_M, altered, scored

SIDE, PITCH = 10, 210.0
FIELDS = np.array(
    [shapely.box(PITCH * x, PITCH * y, PITCH * x + 204, PITCH * y + 204) for y in range(SIDE) for x in range(SIDE)],
    object,
)
CROP = np.array([f"{nr % 3}" for nr in range(SIDE**2)])


def test_declarations_are_altered_as_they_say() -> None:
    declared = altered(FIELDS, CROP, 1)
    assert Counter(declared.truth) == {"farmed_apart": 8, "moved": 24, "as_declared": 60}
    for outline, kind in zip(declared.outline, declared.truth, strict=True):
        nearest = FIELDS[np.argmax(shapely.area(shapely.intersection(FIELDS, outline)))]
        if kind == "as_declared":
            assert outline.equals(nearest)
        elif kind == "farmed_apart":
            assert outline.area > 1.9 * nearest.area
        else:
            assert 0.9 * MOVED_M * 204 < outline.symmetric_difference(nearest).area < 1.5 * (MOVED_M + 12) * 204
    assert altered(FIELDS, CROP, 1).truth == declared.truth
    fields = DrawnFields(FIELDS, np.ones(len(FIELDS)), [None] * len(FIELDS))
    said = [one.kind for one in compare(declared.outline, fields)]
    scores = scored(Counter(zip(declared.truth, said, strict=True)))
    for kind in ("farmed_apart", "moved"):
        assert scores[kind]["precision"] == 1
        assert scores[kind]["recall"] > 0.9


def test_scores_by_hand() -> None:
    counts = Counter(
        {("moved", "moved"): 3, ("as_declared", "moved"): 1, ("moved", "inconclusive"): 5, ("farmed_apart", "moved"): 1}
    )
    found = scored(counts)
    assert found["moved"] == {"true": 8, "found": 5, "right": 3, "precision": 0.6, "recall": 0.375}
    assert found["farmed_apart"] == {"true": 1, "found": 0, "right": 0, "precision": 0, "recall": 0}
    assert (found["as_declared"], found["inconclusive"]) == ({"moved": 1}, 5)
