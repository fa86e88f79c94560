"""Decoded blocks of a band, kept for the next windows that lie on them too."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

KEPT_BYTES: Final = 48 * 2**20
"""Of one band: two rows of Sentinel-2's blocks of 1,024 x 1,024 pixels, or four of 512, so that windows given row by row decode none
twice. GDAL's own cache stands behind it, for rasters that are wider."""
_SIDES: Final = range(128, 1025)
"""Pixels of a block's sides that are kept: of strips a window needs a few rows, not whole ones of many."""

Read = Callable[[int, int, int, int], NDArray[Any]]
"""Reads the pixels from a row and column to (not with) a row and column."""


class Blocks:
    """The blocks of a raster that were used last; windows are put together from them."""

    def __init__(self, read: Read, block: tuple[int, int], size: tuple[int, int], most: int = KEPT_BYTES) -> None:
        """Take what reads a raster of `size` that is stored in blocks of `block` (height, width); `most` bytes are kept, or one block."""
        self._read, self._block, self._size, self._most = read, block, size, most
        self._kept: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_kept = all(side in _SIDES for side in block)

    def read(self, top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
        """Return the pixels of a window inside of the raster."""
        if not self._is_kept:
            return self._read(top, left, bottom, right)
        height, width = self._block
        rows, columns = range(top // height, -(-bottom // height)), range(left // width, -(-right // width))
        with self._lock:
            whole = [[self._one(row, column) for column in columns] for row in rows]
        joined = whole[0][0] if len(rows) == len(columns) == 1 else np.block(whole)
        down, across = rows[0] * height, columns[0] * width
        return joined[top - down : bottom - down, left - across : right - across]

    def _one(self, row: int, column: int) -> NDArray[Any]:
        found = self._kept.get((row, column))
        if found is not None:
            self._kept.move_to_end((row, column))
            return found
        top, left = row * self._block[0], column * self._block[1]
        found = self._read(
            top, left, min(top + self._block[0], self._size[0]), min(left + self._block[1], self._size[1])
        )
        self._kept[row, column] = found
        self._bytes += found.nbytes
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
