"""What PaPs is trained on, from the fields of an image: heat map, zones, sizes and classes.

    m_ij = max_p exp(-(i - i_p)^2 / (2 (h_p / 20)^2) - (j - j_p)^2 / (2 (w_p / 20)^2))        1 at each centre
    zone of a pixel = the field whose centre is nearest

Source: Garnot and Landrieu 2021, section 3.3: centres of bounding boxes, deviations of a twentieth of their sides. Their public data set
        counts as height and width the rows and columns that a field has pixels in.
Shapes: instances and semantic (H, W); N fields.
Units:  pixels.
Errors: ValueError for maps that do not fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

VOID = 19
"""The class of what is not scored, as published."""
DEVIATION = 1 / 20
"""Of the kernel around a centre, in sides of the box."""
REACH = 14.4
"""Deviations beyond which a kernel is 0 in float32: exp(-14.4^2 / 2) is below the least number of it."""


@dataclass(frozen=True)
class Targets:
    """What PaPs is to say of an image; what belongs to a field stands in its whole zone."""

    heatmap: NDArray[np.float32]
    """(H, W) 0 to 1."""
    instances: NDArray[np.int64]
    """(H, W) fields 1 to N, 0: none."""
    zones: NDArray[np.int64]
    """(H, W) fields 1 to N; 0 everywhere where there is no field."""
    sizes: NDArray[np.float32]
    """(H, W, 2) height and width of the zone's field."""
    classes: NDArray[np.int64]
    """(H, W) class of the zone's field, void where there is none."""


def targets(instances: NDArray[np.integer[Any]], semantic: NDArray[np.integer[Any]], void: int = VOID) -> Targets:
    """Return the targets of an image.

    Args:
        instances: (H, W) a number for each field, 0 where there is none; numbers need not follow each other.
        semantic: (H, W) classes. Void fields have targets as others, but for their class.

    Raises:
        ValueError: the maps have not the same shape, or are no images.
    """
    if instances.shape != semantic.shape or instances.ndim != 2:
        raise ValueError(
            f"instances {instances.shape} and classes {semantic.shape} are no two maps (H, W) of one image"
        )
    numbers = np.unique(instances[instances != 0])
    fields = len(numbers)
    numbered = np.where(instances == 0, 0, np.searchsorted(numbers, instances) + 1)
    row, column = np.nonzero(numbered)
    field = numbered[row, column] - 1
    first, last = _extent(field, np.stack([row, column], 1), fields)
    centre = (first + last) // 2  # a pixel, where the heat map is 1
    sides = np.stack([_occupied(field, one, fields) for one in (row, column)], 1)
    zones = _zones(centre, instances.shape)
    # Row 0 is of no field.
    size_of = np.concatenate([np.zeros((1, 2)), sides]).astype(np.float32)
    class_of = np.concatenate([[void], _most_frequent(field, semantic[row, column], fields)]).astype(np.int64)
    return Targets(
        _heatmap(centre, last + 1 - first, instances.shape), numbered, zones, size_of[zones], class_of[zones]
    )


def _extent(
    field: NDArray[np.int64], at: NDArray[np.int64], fields: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last row and column (N, 2) of each field."""
    first, last = np.full((fields, 2), np.iinfo(np.int64).max), np.full((fields, 2), -1)
    np.minimum.at(first, field, at)
    np.maximum.at(last, field, at)
    return first, last


def _occupied(field: NDArray[np.int64], line: NDArray[np.int64], fields: int) -> NDArray[np.int64]:
    """Return in how many rows, or columns, each field has pixels."""
    lines = int(line.max(initial=-1)) + 1
    return np.bincount(np.unique(field * lines + line) // max(lines, 1), minlength=fields)


def _most_frequent(field: NDArray[np.int64], classes: NDArray[np.integer[Any]], fields: int) -> NDArray[np.int64]:
    """Return the class that most pixels of each field have, the lowest of equal ones."""
    most = int(classes.max(initial=0)) + 1
    counts = np.bincount(field * most + classes, minlength=fields * most)
    return counts.reshape(fields, most).argmax(1)  # type: ignore[no-any-return]


def _heatmap(centre: NDArray[np.int64], sides: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the highest of the kernels around centres (N, 2) of boxes (N, 2)."""
    heatmap = np.zeros(shape, np.float32)
    if len(centre) == 0:
        return heatmap
    deviation = sides * DEVIATION
    # Beyond its reach a kernel is 0: fields of like reach are drawn together, each in a window of that size.
    reach = np.ceil(REACH * deviation).astype(np.int64).max(1)
    power = np.ceil(np.log2(np.maximum(reach, 1))).astype(np.int64)
    for one in np.unique(power):
        chosen = power == one
        offset = np.arange(-(2**one), 2**one + 1)
        row, column = (centre[chosen, axis, None] + offset for axis in (0, 1))  # (n, window)
        down, across = (np.exp(-0.5 * (offset / deviation[chosen, axis, None]) ** 2) for axis in (0, 1))
        kernel = (down[:, :, None] * across[:, None]).astype(np.float32)
        inside = ((row >= 0) & (row < shape[0]))[:, :, None] & ((column >= 0) & (column < shape[1]))[:, None]
        at = (row[:, :, None] * shape[1] + column[:, None])[inside]
        np.maximum.at(heatmap.reshape(-1), at, kernel[inside])
    return heatmap


def _zones(centre: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return (H, W) the field, from 1, with the centre nearest to each pixel."""
    if len(centre) == 0:
        return np.zeros(shape, np.int64)
    pixels = np.indices(shape).reshape(2, -1).T
    return (KDTree(centre).query(pixels)[1] + 1).reshape(shape).astype(np.int64)  # type: ignore[no-any-return]
