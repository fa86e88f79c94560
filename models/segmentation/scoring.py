"""Scores of maps of crops and of fields: mIoU, panoptic quality, F1 of objects, IoU of boundaries; counts add up over a set.

    IoU_k = TP / (TP + FP + FN)          SQ_k = sum of IoU over matches / TP     RQ_k = TP / (TP + FP/2 + FN/2)     PQ_k = SQ_k RQ_k
    match: a true and a predicted field of one class with IoU > 0.5

Source: Kirillov et al. 2019 (PQ); Cheng et al. 2021 (boundary IoU, within 2 % of an image's diagonal). Void as corrected by the authors of
        PaPs: its pixels are removed from predictions and truth before matching; "segments" leaves out predictions that lie mostly in void
        too (Kirillov); "uncorrected" is the first form, of Table 3 of Garnot, Landrieu and Chehata 2022.
Shapes: maps (..., H, W), K classes.
Units:  pixels.
Errors: ValueError for maps that do not fit each other, or counts that were not made alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.segmentation.targets import VOID

Map = NDArray[np.integer[Any]]
Void = Literal["pixels", "segments", "uncorrected"]
BACKGROUND = 0
MATCH = 0.5
"""IoU above which a prediction matches: above a half there is one such field at most."""
BOUNDARY = 0.02
"""Width of a boundary in diagonals of the image."""


def confusion(predicted: Map, true: Map, classes: int, void: int | None = VOID) -> NDArray[np.int64]:
    """Return the counts (K, K) of pixels by true and predicted class.

    Pixels that are void in truth are left out; one that is predicted void elsewhere counts against its class.

    Raises:
        ValueError: the maps differ in shape, or hold a class that is not among 0 to K - 1.
    """
    _same_shape(predicted, true)
    is_scored = np.ones(true.shape, bool) if void is None else true != void
    pairs = np.stack([true[is_scored], predicted[is_scored]]).astype(np.int64)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= classes):
        raise ValueError(
            f"classes are 0 to {classes - 1}, a map holds {pairs.min() if pairs.min() < 0 else pairs.max()}"
        )
    return np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).reshape(classes, classes)


def class_iou(counts: NDArray[np.int64], void: int | None = VOID) -> NDArray[np.float64]:
    """Return the IoU (K,) of each class of a confusion matrix; NaN for void and for classes that are nowhere."""
    hits = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    iou: NDArray[np.float64] = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    if void is not None and void < len(iou):
        iou[void] = np.nan
    return iou


def mean_iou(counts: NDArray[np.int64], void: int | None = VOID) -> float:
    """Return the mean IoU of the classes that are anywhere, NaN where none is."""
    return _mean(class_iou(counts, void))


class Quality(NamedTuple):
    """Means over classes, or one value a class."""

    sq: Any
    rq: Any
    pq: Any


@dataclass(frozen=True)
class PanopticCounts:
    """Matched and unmatched fields of each class, summed over images."""

    hits: NDArray[np.int64]
    """(K,) pairs that match."""
    false: NDArray[np.int64]
    """(K,) predicted fields without a match."""
    missed: NDArray[np.int64]
    """(K,) true fields without a match."""
    iou: NDArray[np.float64]
    """(K,) sum of IoU over matches."""
    void: Void

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        """Return the counts of both sets.

        Raises:
            ValueError: they treat void differently.
        """
        if self.void != other.void:
            raise ValueError(f"counts with void {self.void!r} and {other.void!r} do not add up")
        return PanopticCounts(
            self.hits + other.hits,
            self.false + other.false,
            self.missed + other.missed,
            self.iou + other.iou,
            self.void,
        )

    @property
    def name(self) -> str:
        """Return what the quality is to be called."""
        return "PQ (void uncorrected)" if self.void == "uncorrected" else "PQ"

    def by_class(self) -> Quality:
        """Return SQ, RQ and PQ (K,) of each class; NaN where it is nowhere, SQ 0 where nothing matches."""
        found = self.hits + self.false / 2 + self.missed / 2
        is_there = found > 0
        sq = np.where(is_there, self.iou / np.maximum(self.hits, 1), np.nan)
        rq = np.divide(self.hits, found, out=np.full(len(found), np.nan), where=is_there)
        return Quality(sq, rq, sq * rq)

    def quality(self) -> Quality:
        """Return the means of SQ, RQ and PQ over the classes that are anywhere, NaN where none is."""
        return Quality(*(_mean(one) for one in self.by_class()))


@dataclass(frozen=True)
class Counts:
    """Two counts that add up, and their score."""

    hits: int
    of: float
    """What the hits are a share of."""

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both sets."""
        return Counts(self.hits + other.hits, self.of + other.of)

    @property
    def score(self) -> float:
        """Return the share, NaN of nothing."""
        return self.hits / self.of if self.of else float("nan")


def panoptic_counts(
    predicted: Map,
    predicted_classes: Map,
    true: Map,
    true_classes: Map,
    classes: int,
    *,
    void: int = VOID,
    treatment: Void = "pixels",
) -> PanopticCounts:
    """Return the counts of one image: fields (H, W) numbered from 1, 0 where there is none, and their classes (H, W).

    A field is of the class that most of its pixels have. Background and void are no classes of fields.

    Raises:
        ValueError: the maps differ in shape, or there is no such treatment.
    """
    _same_shape(predicted, predicted_classes, true, true_classes)
    ours, theirs = _Fields.of(predicted), _Fields.of(true)
    of_ours, of_theirs = ours.classes(predicted_classes, classes), theirs.classes(true_classes, classes)
    pairs = _Pairs.of(ours, theirs, true_classes == void, treatment)
    is_thing = np.ones(classes, bool)
    is_thing[[BACKGROUND, *([void] if void < classes else [])]] = False
    is_match = pairs.is_match & (of_ours[pairs.predicted] == of_theirs[pairs.true]) & is_thing[of_theirs[pairs.true]]
    label = of_theirs[pairs.true[is_match]]
    hits = np.bincount(label, minlength=classes)
    counted = np.bincount(of_ours[pairs.counted(is_match)], minlength=classes) * is_thing
    there = np.bincount(of_theirs[pairs.is_there], minlength=classes) * is_thing
    iou = np.bincount(label, weights=pairs.iou[is_match], minlength=classes).astype(float)
    return PanopticCounts(hits, counted - hits, there - hits, iou, treatment)


def object_f1(
    predicted: Map, true: Map, is_void: NDArray[np.bool_] | None = None, treatment: Void = "pixels"
) -> Counts:
    """Return the counts of F1 of the fields (H, W) of an image, whatever their class: 2 TP of 2 TP + FP + FN, at an IoU above 0.5.

    Raises:
        ValueError: the maps differ in shape, or there is no such treatment.
    """
    _same_shape(predicted, true)
    is_void = np.zeros(true.shape, bool) if is_void is None else is_void
    pairs = _Pairs.of(_Fields.of(predicted), _Fields.of(np.where(is_void, 0, true)), is_void, treatment)
    return Counts(2 * int(pairs.is_match.sum()), float(pairs.counted(pairs.is_match).sum() + pairs.is_there.sum()))


def boundary_iou(
    predicted: Map, true: Map, is_void: NDArray[np.bool_] | None = None, width: int | None = None
) -> Counts:
    """Return the counts of the IoU of the boundaries of fields (H, W): pixels of a field within `width` of what is not that field.

    What lies outside of the image is not that field either, as in the reference implementation.

    Args:
        is_void: (H, W) pixels that are left out.
        width: pixels; None: 2 % of the diagonal, at least 1.

    Raises:
        ValueError: the maps differ in shape.
    """
    _same_shape(predicted, true)
    width = max(1, round(BOUNDARY * float(np.hypot(*true.shape)))) if width is None else width
    ours, theirs = boundaries(predicted, width), boundaries(true, width)
    if is_void is not None:
        ours, theirs = ours & ~is_void, theirs & ~is_void
    return Counts(int((ours & theirs).sum()), float((ours | theirs).sum()))


def boundaries(fields: Map, width: int) -> NDArray[np.bool_]:
    """Return (H, W) the pixels of fields within `width` pixels, by row and by column, of another field, of none, or of the image's edge."""
    side = 2 * width + 1
    lowest = ndimage.minimum_filter(fields, side, mode="constant", cval=-1)
    highest = ndimage.maximum_filter(fields, side, mode="constant", cval=-1)
    return (fields != 0) & ((lowest != fields) | (highest != fields))  # type: ignore[no-any-return]


class _Fields(NamedTuple):
    """The fields of a map, numbered 0 to N - 1 in the order of their numbers; -1 where there is none."""

    at: NDArray[np.int64]
    """(H, W)."""
    number: int

    @classmethod
    def of(cls, fields: Map) -> _Fields:
        numbers = np.unique(fields[fields != 0])
        return cls(np.where(fields == 0, -1, np.searchsorted(numbers, fields)), len(numbers))

    def classes(self, pixels: Map, classes: int) -> NDArray[np.int64]:
        """Return the class (N,) that most pixels of each field have."""
        is_field = self.at >= 0
        label = pixels[is_field]
        if label.size and (label.min() < 0 or label.max() >= classes):
            raise ValueError(
                f"classes are 0 to {classes - 1}, a field's is {label.min() if label.min() < 0 else label.max()}"
            )
        counts = np.bincount(self.at[is_field] * classes + label, minlength=self.number * classes)
        return counts.reshape(self.number, classes).argmax(1)  # type: ignore[no-any-return]

    def areas(self, where: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many pixels of each field (N,) are there."""
        return np.bincount(self.at[(self.at >= 0) & where], minlength=self.number)


class _Pairs(NamedTuple):
    """Predicted and true fields that share pixels."""

    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    iou: NDArray[np.float64]
    is_seen: NDArray[np.bool_]
    """(N,) predicted fields with a pixel that is scored."""
    is_excused: NDArray[np.bool_]
    """(N,) predicted fields that are not counted unless they match."""
    is_there: NDArray[np.bool_]
    """(M,) true fields that are scored."""

    @property
    def is_match(self) -> NDArray[np.bool_]:
        return self.iou > MATCH

    def counted(self, is_match: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return (N,) the predicted fields that are counted, where these pairs match."""
        is_matched = np.zeros(len(self.is_seen), bool)
        is_matched[self.predicted[is_match]] = True
        return self.is_seen & (is_matched | ~self.is_excused)

    @classmethod
    def of(cls, ours: _Fields, theirs: _Fields, is_void: NDArray[np.bool_], treatment: Void) -> _Pairs:
        if treatment not in get_args(Void):
            raise ValueError(f"void is treated as one of {', '.join(get_args(Void))}, not {treatment!r}")
        kept = np.ones_like(is_void) if treatment == "uncorrected" else ~is_void
        shared = kept & (ours.at >= 0) & (theirs.at >= 0)
        pair, area = np.unique(ours.at[shared] * max(theirs.number, 1) + theirs.at[shared], return_counts=True)
        predicted, true = np.divmod(pair, max(theirs.number, 1))
        of_ours, of_theirs = ours.areas(kept), theirs.areas(kept)
        iou = area / (of_ours[predicted] + of_theirs[true] - area)
        is_excused = np.zeros(ours.number, bool)
        if treatment == "segments":
            is_excused = 2 * ours.areas(is_void) > ours.areas(np.ones_like(is_void))
        return cls(predicted, true, iou, of_ours > 0, is_excused, of_theirs > 0)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _same_shape(*maps: NDArray[Any]) -> None:
    if len({one.shape for one in maps}) > 1:
        raise ValueError(f"maps of one image have one shape, not {' and '.join(str(one.shape) for one in maps)}")
