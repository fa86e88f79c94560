"""What PaPs is trained on, beside the same made pixel by pixel."""

import math

import numpy as np
import pytest

from models.segmentation.targets import targets


def test_targets_of_drawn_fields_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    instances = np.zeros((30, 41), np.int64)
    for number in random.permutation(np.arange(3, 60, 5)):
        y, x, h, w = *random.integers(0, 25, 2), *random.integers(1, 20, 2)
        instances[y : y + h, x : x + w] = number
    semantic = np.where(instances % 2, 19, instances // 5)
    got = targets(instances, semantic)
    numbers = [one for one in np.unique(instances) if one]
    assert len(numbers) > 6
    centres, heat = [], np.zeros(instances.shape)
    for nr, number in enumerate(numbers, 1):
        rows, columns = np.nonzero(instances == number)
        assert (got.instances[rows, columns] == nr).all()
        h, w = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
        i, j = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
        centres.append((i, j))
        for y in range(instances.shape[0]):
            for x in range(instances.shape[1]):
                kernel = math.exp(-((y - i) ** 2) / (2 * (h / 20) ** 2) - (x - j) ** 2 / (2 * (w / 20) ** 2))
                heat[y, x] = max(heat[y, x], kernel)
        zone = got.zones == nr
        assert (got.sizes[zone] == (len(np.unique(rows)), len(np.unique(columns)))).all()
        assert (got.classes[zone] == semantic[rows[0], columns[0]]).all()
    np.testing.assert_allclose(got.heatmap, heat, atol=1e-7)
    assert (got.heatmap == 1).sum() == len(set(centres))
    assert (got.instances == 0).sum() == (instances == 0).sum()
    for y in range(instances.shape[0]):
        for x in range(instances.shape[1]):
            distances = [math.hypot(y - i, x - j) for i, j in centres]
            assert distances[got.zones[y, x] - 1] == pytest.approx(min(distances))


def test_sizes_count_rows_and_columns_with_pixels() -> None:
    """As the public data set does: a field in two parts is as high as both."""
    instances = np.zeros((20, 20), np.int64)
    instances[0:2, 0:3] = instances[10:12, 0:3] = 1
    got = targets(instances, instances)
    assert (got.sizes == (4, 3)).all()
    assert np.argwhere(got.heatmap == 1).tolist() == [[5, 1]]  # the middle of the whole box


def test_a_field_has_the_class_of_most_of_its_pixels() -> None:
    instances, semantic = np.ones((2, 4, 4), np.int64)
    semantic[1:] = 7
    assert (targets(instances, semantic).classes == 7).all()


def test_an_image_without_a_field() -> None:
    empty = np.zeros((8, 8), np.int64)
    got = targets(empty, empty, void=4)
    assert not got.heatmap.any()
    assert not got.zones.any()
    assert (got.sizes == 0).all()
    assert (got.classes == 4).all()


def test_maps_of_different_images_are_refused() -> None:
    one = np.zeros((4, 4), np.int64)
    with pytest.raises(ValueError, match=r"instances \(4, 4\) and classes \(4, 5\)"):
        targets(one, np.zeros((4, 5), np.int64))
    with pytest.raises(ValueError, match="no two maps"):
        targets(one[0], one[0])
