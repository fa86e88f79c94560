"""The pixels of each field: a repeatable sample of the 10 m grid inside the outline.

Pixels count when their centre lies inside the outline less a buffer, 5 m for Sentinel-2 and 10 m for Sentinel-1; with
fewer than 8 of the former a field is not monitorable (Sen4CAP's rule for L4A and L4C).
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from research.simulator.randomness import stream

Float32 = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

GRID_M = 10.0
LEAST_PIXELS = 8
FINE = 0.05  # sd of plant area from one pixel to the next


@dataclass(frozen=True)
class PixelSample:
    """Sampled pixels of every parcel; rows are padded to the same length S."""

    count: IntArray
    """Pixels of the field, sampled or not, (P,)."""
    is_used: BoolArray
    """Which of the S places hold a pixel, (P, S); the used ones come first."""
    offset: Float32
    """East and north from the field's centre in metres, (P, S, 2)."""
    border_m: Float32
    """Distance to the outline, (P, S)."""


def sample_pixels(fields: list[Polygon], buffer_m: float, n_pixels: int, seed: int) -> PixelSample:
    """Return samples up to `n_pixels` pixels of each field (UTM outlines), the same ones for the same seed."""
    n = len(fields)
    count = np.zeros(n, dtype=np.int64)
    offset = np.zeros((n, n_pixels, 2), np.float32)
    border = np.full((n, n_pixels), 20.0, np.float32)
    is_used = np.zeros((n, n_pixels), dtype=bool)
    for i, field in enumerate(fields):
        inner = field.buffer(-buffer_m)
        if inner.is_empty:
            continue
        x0, y0, x1, y1 = inner.bounds
        east = np.arange(np.floor(x0 / GRID_M), np.ceil(x1 / GRID_M)) * GRID_M + GRID_M / 2
        north = np.arange(np.floor(y0 / GRID_M), np.ceil(y1 / GRID_M)) * GRID_M + GRID_M / 2
        x, y = (axis.ravel() for axis in np.meshgrid(east, north))
        inside = np.flatnonzero(shapely.contains_xy(inner, x, y))
        count[i] = len(inside)
        chosen = inside
        if len(inside) > n_pixels:
            chosen = np.sort(stream(seed, "pixels", i).choice(inside, n_pixels, replace=False))
        k = len(chosen)
        is_used[i, :k] = True
        offset[i, :k, 0] = x[chosen] - field.centroid.x
        offset[i, :k, 1] = y[chosen] - field.centroid.y
        border[i, :k] = shapely.distance(shapely.points(x[chosen], y[chosen]), field.exterior)
    return PixelSample(count, is_used, offset, border)


@dataclass(frozen=True)
class Patches:
    """How plant area varies over P fields: a smooth wave each, from which any place in a field has its share."""

    spread: NDArray[np.float64]
    """(P, 1)"""
    wave: NDArray[np.float64]
    """(P, 2, 3)"""
    phase: NDArray[np.float64]
    """(P, 1, 3)"""

    def at(
        self, rows: IntArray | slice, offset: Float32, border_m: Float32, fine: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return plant area (p, S) of places of some fields: offset (p, S, 2), distance to the outline and fine noise (p, S)."""
        patches = np.cos(np.einsum("psk,pkw->psw", offset, self.wave[rows]) + self.phase[rows]).sum(axis=2) * np.sqrt(
            2 / 3
        )
        thin_border = 1 - 0.25 * np.exp(-border_m / 6.0)
        area: NDArray[np.float64] = np.clip(1 + self.spread[rows] * patches + fine, 0.25, 2.0) * thin_border
        return area


def draw_patches(n: int, rng: np.random.Generator) -> Patches:
    """Return the patches of n fields: a gradient and patches of about 60 m."""
    spread = rng.gamma(4.0, 0.03, n)[:, None]
    return Patches(spread, rng.normal(0, 1 / 60.0, (n, 2, 3)), rng.uniform(0, 2 * np.pi, (n, 1, 3)))


def growth_pattern(sample: PixelSample, seed: int) -> Float32:
    """Return plant area of each pixel over the field's mean, (P, S): a gradient, patches and a thin border.

    Sizes are chosen so that NDVI varies by 0.02 to 0.05 within a Dutch field of 2023.
    """
    rng = stream(seed, "pattern")
    patches = draw_patches(len(sample.count), rng)
    fine = rng.normal(0, FINE, sample.is_used.shape)
    pattern = patches.at(slice(None), sample.offset, sample.border_m, fine)
    mean = (pattern * sample.is_used).sum(axis=1) / np.maximum(sample.is_used.sum(axis=1), 1)
    relative: Float32 = (pattern / np.maximum(mean, 0.2)[:, None]).astype(np.float32)
    return relative
