"""Fields of a window without training: a watershed of the season's mean gradient, like neighbours merged.

    g      = mean_t sqrt(sum_c |grad G_s x_tc|^2)          over the clear dates t, bands c
    fields = watershed of g from its local minima; the nearest neighbours within `alike` of each other are merged, round by round
    d(a,b) = sqrt(mean_tc (m_tc(a) - m_tc(b))^2)           m: means of a field

Source: Meyer and Beucher 1990 (morphological segmentation). The side of markers and the bounds are chosen, on simulated seasons of
        seeds 1 and 2.
Chosen because: it is the peer that needs no labels; a network that draws fields worse is not worth training.
Shapes: images (T, C, h, w), NaN where a date is not clear; instances of 1 score.
Units:  reflectance 0 to 1.
Errors: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.segmentation.delineation import Instances

Images = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Watershed:
    """Settings of the watershed."""

    sigma: float = 0.7
    """Pixels of the Gaussian whose derivative is taken."""
    side: int = 5
    """A marker is lowest of so many pixels each way."""
    alike: float = 0.016
    """Reflectance: neighbours that differ by less are one field."""
    least_change: float = 0.05
    """NDVI: what changes by less between two dates is no field (wood, water, roofs)."""
    rounds: int = 30

    def __call__(self, images: Images, red: int, near_infrared: int) -> Instances:
        """Return the fields of images (T, C, h, w); `red`, `near_infrared`: places among the bands."""
        valid: NDArray[np.bool_] = np.asarray(np.isfinite(images).all(1))
        filled = _filled(images, valid)
        height = gradient(filled, valid, self.sigma)
        labels = _flooded(height, self.side)
        means = _means(filled, labels)
        labels = _merged(labels, means, self.alike, self.rounds)
        means = _means(filled, labels)
        unlike = 1 - self.alike / np.maximum(_nearest(labels, means), self.alike)
        means = means.reshape(-1, *images.shape[:2])
        red_, nir = means[..., red], means[..., near_infrared]
        ndvi = (nir - red_) / np.maximum(nir + red_, 1e-6)
        is_field = np.ptp(ndvi, axis=1) >= self.least_change
        number = np.concatenate([[0], np.cumsum(is_field) * is_field])
        labels_ = np.where(valid.any(0), number[labels], 0)
        sure = np.minimum(self._contrast(labels, height), unlike)
        return Instances(labels_, sure[is_field][:, None])

    @staticmethod
    def _contrast(labels: NDArray[np.int64], height: Images) -> NDArray[np.float64]:
        """Return (N,) 1 - the gradient within a field over that of its boundary, from 0 to 1."""
        edge = ndimage.minimum_filter(labels, 3) != ndimage.maximum_filter(labels, 3)
        names = np.arange(1, labels.max() + 1)
        flat, total = labels.ravel(), len(names) + 1
        within, along = (
            np.bincount(flat, (height * one).ravel(), total)[1:]
            / np.maximum(np.bincount(flat, one.ravel(), total)[1:], 1)
            for one in (~edge, edge)
        )
        ratio = within / np.maximum(along, 1e-9)  # of a field without an inner pixel: 0, of no contrast: 1
        is_thin = np.bincount(flat, ~edge.ravel(), total)[1:] == 0
        ratio[is_thin] = 1.0
        contrast: NDArray[np.float64] = np.clip(1 - ratio, 0, 1)
        return contrast


def gradient(images: Images, valid: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Return (h, w) the mean over clear dates of the gradient's length over all bands; 0 where no date is clear."""
    total, count = (np.zeros(images.shape[2:], np.float32) for _ in range(2))
    for image, is_clear in zip(images, valid, strict=True):
        # What lies beside a cloud has the cloud in its gradient.
        sound = ndimage.minimum_filter(is_clear, 2 * int(2 * sigma + 1) + 1)
        squares = np.zeros(image.shape[1:], np.float32)
        for band in image:
            for axis in ((0, 1), (1, 0)):
                squares += ndimage.gaussian_filter(band, sigma, axis, mode="nearest", truncate=3) ** 2
        total += np.sqrt(squares) * sound
        count += sound
    mean: NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
    return mean


def _filled(images: Images, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the images with the pixel's mean of the clear dates where a date is not clear."""
    whole = np.where(valid[:, None], images, 0).astype(np.float32)
    mean = whole.sum(0) / np.maximum(valid.sum(0), 1)
    filled: NDArray[np.float32] = np.where(valid[:, None], whole, mean)
    return filled


def _flooded(height: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """Return the basins (h, w) of a height, numbered from 1.

    SciPy's flooding goes over differences of neighbours, not over heights. So pixels are 0, with the greater height of two
    neighbours between them; the corners that are left are farther from every height than the highest is from 0.
    """
    h, w = height.shape
    scaled = np.minimum(height / max(float(np.quantile(height, 0.99)), 1e-9), 1.0)
    levels = (scaled * 32767).astype(np.uint16)
    between = np.full((2 * h - 1, 2 * w - 1), 65535, np.uint16)
    between[::2, ::2] = 0
    between[1::2, ::2] = np.maximum(levels[1:], levels[:-1])
    between[::2, 1::2] = np.maximum(levels[:, 1:], levels[:, :-1])
    markers = np.zeros(between.shape, np.int32)
    markers[::2, ::2] = ndimage.label(levels == ndimage.minimum_filter(levels, side), np.ones((3, 3)))[0]
    basins: NDArray[np.int64] = ndimage.watershed_ift(between, markers)[::2, ::2].astype(np.int64)
    return basins


def _means(images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (N, T x C) the means of labels 1 to N."""
    flat = labels.ravel()
    count = np.bincount(flat)[1:]
    layers = images.reshape(-1, flat.size)
    return np.stack([np.bincount(flat, one)[1:] for one in layers], 1) / np.maximum(count, 1)[:, None]


def _neighbours(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs a < b of labels that share an edge of a pixel."""
    sides = [(labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])]
    one, other = (np.concatenate([side[k].ravel() for side in sides]) for k in (0, 1))
    low, high = np.minimum(one, other), np.maximum(one, other)
    is_pair = low != high
    n = int(labels.max()) + 1
    a, b = np.divmod(np.unique(low[is_pair] * n + high[is_pair]), n)
    return a, b


def _nearest(labels: NDArray[np.int64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N,) the distance of each field's means (N, T x C) to those of the field next to it that is most like it; inf of one alone."""
    a, b = _neighbours(labels)
    distance, nearest = np.sqrt(np.square(means[a - 1] - means[b - 1]).mean(1)), np.full(len(means), np.inf)
    np.minimum.at(nearest, a - 1, distance)
    np.minimum.at(nearest, b - 1, distance)
    return nearest


def _merged(labels: NDArray[np.int64], means: NDArray[np.float64], alike: float, rounds: int) -> NDArray[np.int64]:
    """Return labels with fields merged that are each other's nearest neighbour, and near enough."""
    n = len(means) + 1
    means = np.concatenate([np.zeros((1, means.shape[1])), means])
    area = np.bincount(labels.ravel(), minlength=n).astype(float)
    name = np.arange(n)
    a, b = _neighbours(labels)
    for _ in range(rounds):
        distance = np.sqrt(np.square(means[a] - means[b]).mean(1))
        nearest = np.full(n, np.inf)
        np.minimum.at(nearest, a, distance)
        np.minimum.at(nearest, b, distance)
        is_merged = (distance < alike) & (distance <= nearest[a]) & (distance <= nearest[b])
        if not is_merged.any():
            break
        into = np.arange(n)
        into[b[is_merged]] = a[is_merged]
        while (up := into[into]).tolist() != into.tolist():  # equal distances make chains
            into = up
        order = np.argsort(into, kind="stable")
        starts = np.flatnonzero(np.diff(into[order], prepend=-1))
        sums, area_ = np.zeros_like(means), np.bincount(into, area, n)
        sums[into[order][starts]] = np.add.reduceat((means * area[:, None])[order], starts)
        means, area = sums / np.maximum(area_, 1)[:, None], area_
        name = into[name]
        low, high = np.minimum(into[a], into[b]), np.maximum(into[a], into[b])
        a, b = np.divmod(np.unique((low * n + high)[low != high]), n)
    return np.unique(name[labels], return_inverse=True)[1].reshape(labels.shape) + 1
