"""Scores of maps of crops and fields: against torchmetrics, and on cases worked out by hand."""

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.segmentation.scoring import (
    Void,
    boundaries,
    boundary_iou,
    class_iou,
    confusion,
    mean_iou,
    object_f1,
    panoptic_counts,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchmetrics.detection import PanopticQuality
    from torchmetrics.functional.classification import multiclass_jaccard_index

K, VOID = 5, 4
Map = NDArray[np.int64]


def fields(random: np.random.Generator, number: int, size: int = 24) -> Map:
    """Draw rectangles over each other, numbered from 1; some places stay empty."""
    drawn = np.zeros((size, size), np.int64)
    for one in range(1, number + 1):
        y, x = random.integers(0, size - 4, 2)
        h, w = random.integers(3, 12, 2)
        drawn[y : y + h, x : x + w] = one
    return drawn


def drawn(seed: int) -> tuple[Map, Map, Map, Map]:
    """Draw predicted fields and classes, and true ones that resemble them; some of truth is void."""
    random = np.random.default_rng(seed)
    predicted = fields(random, 9)
    true = np.where(random.random(predicted.shape) < 0.15, np.roll(predicted, 2, 0), predicted)
    of_predicted, of_true = random.integers(1, VOID, 10), random.integers(1, VOID, 10)
    of_true = np.where(random.random(10) < 0.6, of_predicted, of_true)
    of_true[random.integers(1, 10, 2)] = VOID
    of_predicted[0] = of_true[0] = 0
    return predicted, of_predicted[predicted], true, of_true[true]


def test_iou_of_classes_is_that_of_torchmetrics() -> None:
    random = np.random.default_rng(0)
    predicted, true = random.integers(0, K, (2, 3, 16, 16))
    true[predicted == 3] = 2
    counts = confusion(predicted, true, K, VOID)
    expected = multiclass_jaccard_index(
        torch.from_numpy(predicted), torch.from_numpy(true), K, average="none", ignore_index=VOID
    )
    assert class_iou(counts, VOID)[:VOID] == pytest.approx(expected[:VOID].numpy(), abs=1e-6)
    assert counts.sum() == (true != VOID).sum()


def test_a_pixel_predicted_void_is_a_miss_of_its_class() -> None:
    true, predicted = np.array([[1, 1, 2, VOID]]), np.array([[1, VOID, 2, 3]])
    counts = confusion(predicted, true, K, VOID)
    iou = class_iou(counts, VOID)
    assert iou[1] == 0.5  # leaving void predictions out would make it 1
    assert iou[2] == 1.0
    assert np.isnan(iou[[0, 3, 4]]).all()  # class 3 is predicted on void alone
    assert mean_iou(counts, VOID) == 0.75
    assert math.isnan(mean_iou(np.zeros((K, K), np.int64), VOID))
    assert mean_iou(confusion(predicted, true, K, None), None) == pytest.approx((0.5 + 1 + 0 + 0) / 4)


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_is_that_of_torchmetrics(seed: int) -> None:
    metric = PanopticQuality(
        things=set(range(1, VOID)),
        stuffs={0},
        return_per_class=True,
        return_sq_and_rq=True,
        allow_unknown_preds_category=True,
    )
    total = None
    for image in range(3):
        predicted, predicted_classes, true, true_classes = drawn(10 * seed + image)
        counts = panoptic_counts(predicted, predicted_classes, true, true_classes, K, void=VOID, treatment="segments")
        total = counts if total is None else total + counts
        metric.update(*(
            torch.from_numpy(np.stack([classes, numbers], -1))[None]
            for classes, numbers in ((predicted_classes, predicted), (true_classes, true))
        ))  # fmt: skip
    assert total is not None
    expected = metric.compute().numpy()  # (classes, [PQ, SQ, RQ]), things before stuff
    sq, rq, pq = total.by_class()
    there = ~np.isnan(pq[1:VOID])
    assert there.any()
    for ours, column in ((pq, 0), (sq, 1), (rq, 2)):
        assert ours[1:VOID][there] == pytest.approx(expected[: VOID - 1, column][there], abs=1e-6)
    assert total.hits.sum() > 0
    assert total.false.sum() > 0
    assert total.missed.sum() > 0


def by_hand() -> tuple[Map, Map, Map, Map]:
    """Return one row of fields: a match of IoU 4/5, one of the wrong class, one half in void, one in void alone, one missed."""
    true = np.array([[1] * 5 + [2] * 4 + [3] * 4 + [4] * 4 + [0] * 3 + [5] * 2])
    classes = np.array([[1] * 5 + [2] * 4 + [1] * 2 + [VOID] * 2 + [VOID] * 4 + [0] * 3 + [3] * 2])
    predicted = np.array([[1] * 4 + [0] + [2] * 4 + [3] * 4 + [4] * 4 + [0] * 5])
    predicted_classes = np.array([[1] * 4 + [0] + [1] * 4 + [1] * 4 + [2] * 4 + [0] * 5])
    return predicted, predicted_classes, true, classes


@pytest.mark.parametrize(
    ("treatment", "hits", "false", "missed", "iou"),
    [
        # Class 1: fields 1 (4/5) and 3 (2/2 without void) match, field 2 is false. Class 2: field 2 is missed. Class 3: field 5 is missed.
        ("pixels", [2, 0, 0], [1, 0, 0], [0, 1, 1], 0.8 + 1.0),
        ("segments", [2, 0, 0], [1, 0, 0], [0, 1, 1], 0.8 + 1.0),
        # With void pixels as they are, field 4 is false, and field 3 is matched with 4 true pixels of its number.
        ("uncorrected", [2, 0, 0], [1, 1, 0], [0, 1, 1], 0.8 + 1.0),
    ],
)
def test_panoptic_counts_by_hand(
    treatment: Void, hits: list[int], false: list[int], missed: list[int], iou: float
) -> None:
    counts = panoptic_counts(*by_hand(), K, void=VOID, treatment=treatment)
    assert counts.hits[1:VOID].tolist() == hits
    assert counts.false[1:VOID].tolist() == false
    assert counts.missed[1:VOID].tolist() == missed
    assert counts.iou.sum() == pytest.approx(iou)
    assert counts.hits[[0, VOID]].sum() + counts.false[[0, VOID]].sum() + counts.missed[[0, VOID]].sum() == 0
    assert counts.name == ("PQ (void uncorrected)" if treatment == "uncorrected" else "PQ")


def test_a_field_mostly_in_void_counts_as_false_unless_segments_are_left_out() -> None:
    true, classes = np.zeros((1, 10), np.int64), np.array([[VOID] * 6 + [0] * 4])
    predicted = np.array([[1] * 8 + [0] * 2])
    for treatment, false in (("pixels", 1), ("segments", 0), ("uncorrected", 1)):
        counts = panoptic_counts(predicted, predicted, true, classes, K, void=VOID, treatment=treatment)  # type: ignore[arg-type]
        assert counts.false.tolist() == [0, false, 0, 0, 0]
        # Two fifths in void are not most of it.
        less = np.array([[0] * 4 + [1] * 5 + [0]])
        counts = panoptic_counts(less, less, true, classes, K, void=VOID, treatment=treatment)  # type: ignore[arg-type]
        assert counts.false.tolist() == [0, 1, 0, 0, 0]
        # One that matches what is not void is a hit, and no less than that.
        field, label = np.array([[0] * 6 + [1] * 4]), np.where(classes == VOID, VOID, 1)
        whole = np.ones((1, 10), np.int64)
        counts = panoptic_counts(whole, whole, field, label, K, void=VOID, treatment=treatment)  # type: ignore[arg-type]
        assert (counts.hits[1], counts.false[1]) == ((0, 1) if treatment == "uncorrected" else (1, 0))


def test_quality_is_pooled_over_a_set() -> None:
    """Counts add up before they are divided: the mean of two images' PQ would be another number."""
    one = panoptic_counts(*by_hand(), K, void=VOID)
    empty = np.zeros((1, 4), np.int64)
    missed = panoptic_counts(empty, empty, empty + 1, empty + 1, K, void=VOID)
    both = one + missed
    sq, rq, pq = both.by_class()
    assert (sq[1], rq[1], pq[1]) == pytest.approx((0.9, 2 / 3, 0.6))
    assert (sq[2], rq[2], pq[2]) == (0, 0, 0)
    assert both.quality() == pytest.approx((0.3, 2 / 9, 0.2))
    assert one.quality().pq != both.quality().pq
    nothing = panoptic_counts(empty, empty, empty, empty, K, void=VOID)
    assert all(math.isnan(value) for value in nothing.quality())
    uncorrected = panoptic_counts(*by_hand(), K, void=VOID, treatment="uncorrected")
    with pytest.raises(ValueError, match="do not add up"):
        _ = one + uncorrected


def test_a_match_needs_more_than_half() -> None:
    true, predicted = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    counts = panoptic_counts(predicted, predicted, true, true, K, void=VOID)
    assert counts.hits.sum() == 0  # IoU is exactly 1/2
    wide, narrow = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 0]])
    assert panoptic_counts(narrow, narrow, wide, wide, K, void=VOID).iou[1] == 0.75


def test_f1_of_objects_whatever_their_class() -> None:
    predicted, _, true, classes = by_hand()
    counts = object_f1(predicted, true, classes == VOID)
    # Without void: true 1, 2, 3, 5; predicted 1, 2, 3; three match.
    assert (counts.hits, counts.of) == (6, 7)
    assert object_f1(predicted, true).score == pytest.approx(8 / 9)  # field 4 matches too
    assert (counts + counts).score == counts.score
    empty = np.zeros((2, 2), np.int64)
    assert math.isnan(object_f1(empty, empty).score)


def test_iou_of_boundaries_by_hand() -> None:
    true, predicted = np.zeros((2, 9, 9), np.int64)
    true[1:8, 1:8] = 7  # its ring within 1 pixel: 24 pixels
    predicted[2:8, 1:8] = 3  # 7 x 6: 22 pixels
    assert boundaries(true, 1).sum() == 24
    counts = boundary_iou(predicted, true, width=1)
    # Shared: left and right side from row 2 to 7, and 5 pixels between them below.
    assert (counts.hits, counts.of) == (6 + 6 + 5, 24 + 22 - 17)
    assert boundary_iou(true, true).score == 1
    two = true.copy()
    two[1:8, 5:8] = 8  # a border within the field is a boundary as well
    assert boundaries(two, 1).sum() == 24 + 2 * 5
    assert boundary_iou(np.zeros_like(true), true).score == 0
    assert boundary_iou(predicted, true, true == 7).of == 0
    assert boundaries(np.ones((5, 5), np.int64), 1).sum() == 16  # the image's edge


def test_what_does_not_fit_is_said() -> None:
    one, other = np.zeros((2, 2), np.int64), np.zeros((2, 3), np.int64)
    with pytest.raises(ValueError, match=r"one shape, not \(2, 2\) and \(2, 3\)"):
        confusion(one, other, K)
    with pytest.raises(ValueError, match=r"one shape"):
        panoptic_counts(one, one, other, other, K)
    with pytest.raises(ValueError, match="classes are 0 to 4, a map holds 9"):
        confusion(one + 9, one, K)
    with pytest.raises(ValueError, match="classes are 0 to 4, a field's is 9"):
        panoptic_counts(one + 1, one + 9, one, one, K)
    with pytest.raises(ValueError, match="void is treated as one of pixels, segments, uncorrected, not 'no'"):
        object_f1(one, one, treatment="no")  # type: ignore[arg-type]
