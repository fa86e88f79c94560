"""What every sensor's cut adds up and keeps: sums over segments, and the pixel sets."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.series import INVALID_PIXEL
from ingest.imagery.index import Chunk, ParcelIndex

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Columns = dict[str, Any]
"""Columns of the message contract by name, one entry for each parcel asked for; NaN is no value."""


class Sums(Protocol):
    """What a sensor's scene is added up in, for P parcels."""

    n_seen: Integers
    """(P,) pixels that the scene has data of."""
    n_valid: Integers
    """(P,) pixels that show the ground."""

    def add(self, chunk: Chunk, values: Mapping[str, NDArray[Any]]) -> None:
        """Add a chunk: (n,) numbers of each band at its pixels."""

    def check(self, rows: NDArray[np.intp]) -> None:
        """Raise SceneError where the scene as a whole cannot be true of parcels with valid pixels."""

    def columns(self, rows: NDArray[np.intp]) -> Columns:
        """Return the contract's columns of parcels with valid pixels."""


def integer_sums(values: NDArray[np.integer], chunk: Chunk) -> Integers:
    """Return (m,) sums of (n,) whole numbers of 16 bits over the segments, exact."""
    longest = int(np.diff(chunk.start, append=len(values)).max())
    wide_enough = np.uint32 if longest < 2**16 else np.uint64  # 2^16 pixels x 16 bits fit 32: five times as fast
    sums: Integers = np.add.reduceat(values, chunk.start, dtype=wide_enough).astype(np.int64)
    return sums


def float_sums(values: NDArray[np.floating], chunk: Chunk) -> Floats:
    """Return (m,) sums of (n,) numbers over the segments, in double precision."""
    sums: Floats = np.add.reduceat(values, chunk.start, dtype=np.float64)
    return sums


def spread(sums: Floats, squares: Floats, n: Integers) -> Floats:
    """Return standard deviations from sums and sums of squares."""
    return np.sqrt(np.maximum(squares / n - np.square(sums / n), 0.0))


class PixelSets:
    """Pixel sets of all parcels: int16, bands x sample in C order, parcel after parcel."""

    def __init__(self, index: ParcelIndex, n_bands: int) -> None:
        self._start, self._size, self._n_bands = index.sample_start, np.diff(index.sample_start), n_bands
        self._values = np.full(n_bands * index.sample_start[-1], INVALID_PIXEL, "<i2")
        self._n_valid = np.zeros(len(self._size), np.int64)

    def put(self, chunk: Chunk, bands: Sequence[NDArray[np.int16]], is_valid: NDArray[np.bool_]) -> None:
        """Keep the valid ones of the chunk's sampled pixels, (t,) each."""
        parcel = chunk.sampled_parcel[is_valid]
        place, size = self._n_bands * self._start[parcel] + chunk.slot[is_valid], self._size[parcel]
        for number, values in enumerate(bands):
            self._values[place + number * size] = values[is_valid]
        self._n_valid += np.bincount(parcel, minlength=len(self._size))

    def column(self, rows: NDArray[np.intp]) -> pa.Array:
        """Return the sets of some parcels as the contract has them; null where no sampled pixel was valid."""
        ends = (2 * self._n_bands * self._start).astype(np.int32)
        valid = pa.array(self._n_valid > 0).buffers()[1]
        sets = pa.Array.from_buffers(
            pa.binary(), len(self._size), [valid, pa.py_buffer(ends), pa.py_buffer(self._values)]
        )
        return sets.take(pa.array(rows))
