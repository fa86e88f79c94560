"""Repeatable randomness: independent streams by name, and smooth random fields in space and time."""

import zlib

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

WAVES = 64  # chosen because a field of 64 plane waves is Gaussian to within what a cloud edge shows


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and the names alone, whatever was drawn before."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) & 0xFFFFFFFF for name in names]
    return np.random.default_rng([seed & 0xFFFFFFFF, *words])


def smooth_field(xy: FloatArray, scale_m: float, rng: np.random.Generator) -> FloatArray:
    """Return a stationary Gaussian field, mean 0 and variance 1, with squared-exponential correlation of length `scale_m`.

    Random Fourier features (Rahimi and Recht 2007): sqrt(2/M) sum cos(k x + phi), k ~ N(0, 1/scale). xy (..., 2).
    """
    k = rng.normal(0.0, 1.0 / scale_m, (2, WAVES))
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    centred = xy - xy.reshape(-1, 2).mean(axis=0)
    field: FloatArray = np.sqrt(2 / WAVES) * np.cos(centred @ k + phase).sum(axis=-1)
    return field


def autoregressive(n: int, scale_d: float, rng: np.random.Generator) -> FloatArray:
    """Return a daily AR(1) series, mean 0 and variance 1, that forgets over `scale_d` days."""
    phi = float(np.exp(-1.0 / scale_d))
    noise = rng.normal(0, np.sqrt(1 - phi**2), n)
    series = np.empty(n)
    level = rng.normal()
    for i in range(n):
        level = phi * level + noise[i]
        series[i] = level
    return series
