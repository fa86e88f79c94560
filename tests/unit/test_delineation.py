"""Fields of a tile: one field across any border of windows, the same whatever the windows, valid and apart, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from models.segmentation.delineation import Instances, Segmenter, Settings, Soft, Window, delineate, spans
from models.segmentation.delineation_scores import BOUNDARY_PIXELS, Tally, fit
from models.segmentation.watershed import Watershed

EXACT: dict[str, Any] = {"tolerance": 0.0, "min_pixels": 0.0}


def part(array: np.ndarray, window: Window) -> np.ndarray:
    row, column, height, width = window
    return array[row : row + height, column : column + width]


def of_truth(labels: np.ndarray, order: Callable[[int], int] = lambda one: one) -> Segmenter:
    """A segmenter that sees the true fields of its window, numbered in an order of its own; scores name the field."""

    def segment(window: Window) -> Instances:
        seen = part(labels, window)
        names = sorted((one for one in np.unique(seen).tolist() if one), key=order)
        number = np.zeros(labels.max() + 1, int)
        number[names] = np.arange(1, len(names) + 1)
        return Instances(number[seen], np.array(names, float).reshape(-1, 1))

    return segment


def of_map(interior: np.ndarray) -> Segmenter:
    """A local segmenter: each pixel by itself."""
    return lambda window: Soft(part(interior, window), part(interior, window)[None])


def drawn(shape: tuple[int, int], segmenter: Segmenter, **of: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outlines, first pixels and scores, in the order of first pixels."""
    found = list(delineate(*shape, segmenter, Settings(**of)))
    geometry, first, scores = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("geometry", "first", "scores")
    )
    order = np.lexsort(first.T[::-1])
    return geometry[order], first[order], scores[order]


def smooth(shape: tuple[int, int], seed: int, sigma: float = 4.0) -> np.ndarray:
    """A random map from 0 to 1."""
    made = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (made - made.min()) / np.ptp(made)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "field",
    [
        (slice(20, 30), slice(50, 78)),  # two windows, side by side
        (slice(50, 78), slice(20, 30)),  # two windows, one below the other
        (slice(50, 78), slice(50, 78)),  # a corner of four
        (slice(20, 30), slice(40, 140)),  # three and more in a row
        (slice(40, 140), slice(20, 30)),
        (slice(30, 140), slice(30, 140)),  # windows that see nothing else
    ],
)
def test_a_field_across_borders_of_windows_is_one_polygon(field: tuple[slice, slice]) -> None:
    labels = np.zeros((150, 160), int)
    labels[field] = 1
    labels[2:6, 2:6], labels[-5:, -5:] = 2, 3
    geometry, first, scores = drawn(labels.shape, of_truth(labels), side=64, overlap=16, stripe=37, **EXACT)
    rows, columns = field
    expected = shapely.box(columns.start, rows.start, columns.stop, rows.stop)
    assert [one.equals(expected) for one in geometry] == [False, True, False]
    assert geometry[1].geom_type == "Polygon"
    assert first.tolist() == [[2, 2], [rows.start, columns.start], [145, 155]]
    assert scores[:, 0].tolist() == [2, 1, 3]


def test_neighbours_that_meet_on_a_border_of_windows_stay_two() -> None:
    labels = np.zeros((60, 160), int)
    cut = (spans(160, 64, 16)[1][0] + 64) // 2  # the middle of the overlap
    labels[10:30, 20:cut], labels[10:30, cut:120] = 1, 2
    geometry, _, scores = drawn(labels.shape, of_truth(labels), side=64, overlap=16, **EXACT)
    assert scores[:, 0].tolist() == [1, 2]
    assert geometry[0].equals(shapely.box(20, 10, cut, 30))


def test_the_order_in_which_windows_number_their_fields_changes_nothing() -> None:
    labels, _ = ndimage.label(smooth((150, 160), 5) > 0.5)
    one, other = (
        drawn(labels.shape, of_truth(labels, order), side=64, overlap=16) for order in (lambda n: n, lambda n: -n)
    )
    assert shapely.equals_exact(one[0], other[0]).all()
    assert one[1].tolist() == other[1].tolist()
    np.testing.assert_allclose(one[2], other[2])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), side=st.integers(32, 90), stripe=st.integers(20, 200))
def test_windows_do_not_matter_to_a_local_segmenter(seed: int, side: int, stripe: int) -> None:
    interior = smooth((130, 117), seed)
    truth, n = ndimage.label(interior > 0.5)
    geometry, first, scores = drawn(interior.shape, of_map(interior), side=side, overlap=12, stripe=stripe, **EXACT)
    assert len(geometry) == n
    np.testing.assert_allclose(shapely.area(geometry), np.bincount(truth.ravel())[truth[first[:, 0], first[:, 1]]])
    np.testing.assert_allclose(scores[:, 0], ndimage.mean(interior, truth, truth[first[:, 0], first[:, 1]]), rtol=1e-5)
    whole = drawn(interior.shape, of_map(interior), side=200, overlap=2, stripe=200, **EXACT)
    assert shapely.equals(geometry, whole[0]).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), tolerance=st.floats(0, 4), least=st.integers(0, 60), is_soft=st.booleans())
def test_outlines_are_valid_and_apart_and_share_their_edges(
    seed: int, tolerance: float, least: int, is_soft: bool
) -> None:
    centres = np.random.default_rng(seed).uniform(0, 128, (40, 2))
    at = np.moveaxis(np.mgrid[:128, :128], 0, -1)
    labels = np.square(at[:, :, None] - centres).sum(-1).argmin(-1) + 1
    labels[smooth((128, 128), seed) > 0.6] = 0
    segmenter = of_map((labels % 3 > 0).astype(float)) if is_soft else of_truth(labels)
    geometry, _, _ = drawn(
        labels.shape, segmenter, side=48, overlap=16, stripe=50, tolerance=tolerance, min_pixels=float(least)
    )
    assert shapely.is_valid(geometry).all()
    assert (shapely.area(geometry) >= least).all()
    assert np.isclose(shapely.area(geometry).sum(), shapely.union_all(geometry).area)


def test_an_edge_of_two_fields_is_simplified_once() -> None:
    labels = np.where(np.add.outer(np.arange(60) * 0.4, np.arange(80)) < 45, 1, 2)
    labels[:3] = labels[-3:] = labels[:, :3] = labels[:, -3:] = 0
    geometry, _, _ = drawn(labels.shape, of_truth(labels), side=200, overlap=10, tolerance=2.0)
    assert len(geometry) == 2
    assert shapely.coverage_is_valid(geometry)
    assert shapely.get_num_coordinates(geometry).sum() < 30  # by pixels some 130
    assert shapely.union_all(geometry).equals(shapely.box(3, 3, 77, 57))


def test_holes_that_hold_no_field_are_filled() -> None:
    labels = np.zeros((64, 64), int)
    labels[4:50, 4:50] = 1
    labels[10:13, 10:13], labels[20:30, 20:30], labels[40:42, 40:42] = 2, 3, 0
    geometry, _, _ = drawn(labels.shape, of_truth(labels), side=200, overlap=10, tolerance=0.0, min_pixels=25.0)
    assert shapely.area(geometry).tolist() == [46 * 46 - 100, 100]


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"side": 64, "overlap": 40}, "overlap by 2 to 32"),
        ({"stripe": 0}, "at least 1 row"),
        ({"tolerance": -1.0}, "at least 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(of: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**of)


def test_a_segmenter_of_another_size_or_of_two_forms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 64\) was segmented as \(3, 3\)"):
        list(delineate(64, 64, lambda _: Soft(np.zeros((3, 3)), np.zeros((1, 3, 3)))))
    forms = iter([of_map(np.ones((64, 64))), of_truth(np.ones((64, 64), int))])
    with pytest.raises(ValueError, match="not both"):
        list(delineate(64, 64, lambda window: next(forms)(window), Settings(32, 8)))


PROGRAM = """
import resource, sys
import numpy as np
from models.segmentation.delineation import Settings, Soft, delineate
def segment(window):
    rows, columns = (np.arange(at, at + n) % 20 < 18 for at, n in zip(window[:2], window[2:]))
    interior = np.outer(rows, columns).astype(np.float32)
    return Soft(interior, interior[None])
n = sum(len(one.geometry) for one in delineate(int(sys.argv[1]), 1000, segment, Settings(128, 32, stripe=100)))
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_is_that_of_a_stripe_not_of_the_tile() -> None:
    found, peaks = [], []
    for height in (500, 5000):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(height)], capture_output=True, text=True, check=True, timeout=120
        )
        n, peak = map(int, run.stdout.split())
        found.append(n)
        peaks.append(peak)
    assert found == [50 * 25, 50 * 250]
    assert peaks[1] - peaks[0] < 12  # MB; 4,500 rows more of 64-bit ids alone are 36 MB


def plots(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A season of fields of 16 x 16 pixels with their own course: (T, C, h, w), and the fields."""
    chance = np.random.default_rng(seed)
    labels = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((16, 16), int))
    green = chance.uniform(0.2, 0.9, (6, 65))
    red, nir = 0.15 - 0.12 * green, 0.2 + 0.3 * green
    images = np.stack([red[:, labels], nir[:, labels]], 1)
    return images + chance.normal(0, 0.004, images.shape), labels


def test_a_watershed_finds_fields_of_different_courses_under_clouds() -> None:
    images, labels = plots()
    images[2, :, 30:70, 40:90] = np.nan
    found = Watershed()(images, 0, 1)
    scores = fit(found.labels, labels)
    assert scores.f1 > 0.8
    assert found.scores.shape == (found.labels.max(), 1)
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_a_watershed_leaves_out_what_does_not_change_or_was_never_seen() -> None:
    images, labels = plots()
    images[:, :, labels == 10] = np.array([0.05, 0.3])[None, :, None]
    images[:, :, labels == 30] = np.nan
    found = Watershed()(images, 0, 1)
    for one in (10, 30):
        assert (found.labels[ndimage.binary_erosion(labels == one, iterations=4)] == 0).all()


def test_scores_of_a_case_worked_out_by_hand() -> None:
    known, ours = np.zeros((10, 20), int), np.zeros((10, 20), int)
    known[0:4, 0:10], known[5:9, 0:10], known[5:9, 12:17] = 1, 2, 3  # 40, 40 and 20 pixels
    ours[0:4, 0:8] = 5  # four fifths of the first
    ours[5:9, 0:5], ours[5:9, 5:10] = 6, 7  # the second in halves; the third not at all
    scores = fit(ours, known)
    assert (scores.known, scores.drawn) == (3, 3)
    assert scores.over == pytest.approx((0.2 + 0.5 + 1) / 3)
    assert scores.under == pytest.approx((0 + 0 + 1) / 3)
    assert scores.area == pytest.approx(0.5)
    assert scores.f1 == pytest.approx(2 * 1 / (3 + 3))  # an IoU of exactly a half is no match
    assert scores.gtc == pytest.approx((40 * 0.2 / np.sqrt(2) + 40 * 0.5 / np.sqrt(2) + 20 * 1) / 100)
    same = fit(known, known)
    assert (same.f1, same.boundary_iou, same.over, same.under, same.area, same.gtc) == (1, 1, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="one shape"):
        fit(known, known[1:])


def test_scores_of_stripes_are_those_of_the_map() -> None:
    chance = np.random.default_rng(5)
    known, ours = (np.kron(chance.integers(0, 9, (6, 5)), np.ones((size, size), int))[:30, :25] for size in (5, 7))
    is_scored = chance.random(known.shape) < 0.8
    tally = Tally()
    for row in range(0, 30, 4):
        top = max(0, row - BOUNDARY_PIXELS)
        stripe = slice(top, row + 4 + BOUNDARY_PIXELS)
        tally.add(ours[stripe], known[stripe], is_scored[stripe], slice(row - top, row - top + 4))
    assert tally.fit == fit(ours, known, is_scored)


def test_spans_cover_a_side_and_overlap_by_what_was_asked() -> None:
    for length, side, overlap in ((10_980, 256, 64), (100, 256, 64), (257, 256, 2), (64, 64, 16)):
        found = spans(length, side, overlap)
        assert (found[0][0], found[-1][1]) == (0, length)
        assert all(one[1] - other[0] == overlap for one, other in pairwise(found))
