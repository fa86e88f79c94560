"""Bands of a scene on its grid: opened once, read window by window, gathered at the parcels' pixels.

A coarser band (20 or 60 m) is read in its own pixels and each is given to every grid pixel on it: exact doubling, no
resampling. A raster in another system, or shifted by part of a pixel, is warped to the grid (nearest) while it is read.
"""

import threading
import warnings
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ingest.imagery.blocks import KEPT_BYTES, Blocks, Read
from ingest.imagery.checksums import require
from ingest.imagery.errors import SceneError
from ingest.imagery.index import CHUNK, Chunk
from ingest.imagery.scene import LONGEST_SIDE, Band, Grid, Scene

_OPTIONS: Final = {
    # Bytes, here: a row of blocks of ten bands, so that none is decoded twice where blocks and chunks differ (140 MB).
    "GDAL_CACHEMAX": 256 * 2**20,
    # GDAL's own advice for remote files: no listing of folders, neighbouring ranges in one request, patience.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    # Errors of GDAL's decoding threads never reach the caller: a JPEG 2000 block that cannot be decoded would be given as
    # uninitialised memory. With one thread each failed block fails the read. (Bands are read side by side instead.)
    "GDAL_NUM_THREADS": "1",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Files beside a raster (.aux.xml) could give it another system, another nodata.
    "GDAL_PAM_ENABLED": "NO",
    # Of remote files nothing is kept once they are closed: else what was seen of a half or missing one would be all that
    # this process ever sees of it, and a scene tried again would fail again (measured).
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
}
_SHIFT_TOLERANCE: Final = 1e-3
"""Of a pixel: rounding in published transforms is a thousand times smaller, a real shift far larger."""
_DRIVERS: Final = ("GTiff", "JP2OpenJPEG")
"""All that imagery comes in. Any other driver may open other files and addresses (VRT, GTI, WMS) or run what a file says."""
_LARGEST_BLOCK: Final = 512 * 2**20
"""Bytes that decoding one block may take: a whole tile in one strip takes 241 MB."""
_FAULTS: Final = (RasterioError, CPLE_BaseError, CRSError, ValueError, ArithmeticError, OSError)
"""What opening and reading a damaged file raises: rasterio's errors, GDAL's own where rasterio passes them on, and what
transforms of no sense give."""
_SAMPLE_BYTES: Final = 2
"""Of a pixel of Sentinel-2."""


def gdal() -> rasterio.Env:
    """Return GDAL's configuration, for the thread that enters it."""
    return rasterio.Env(**_OPTIONS)


class _Placement(NamedTuple):
    """How the raster's pixels lie under the grid's: `factor` grid pixels to a side, the grid beginning at row, column."""

    factor: int
    row: int
    column: int


class Picks:
    """The places of a chunk's pixels in what is read for it, computed once for all bands that lie alike."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._known: dict[tuple[int, int, int, int], NDArray[np.int64]] = {}

    def places(self, factor: int, down: int, right: int, width: int) -> NDArray[np.int64]:
        """Return flat indices into an array `width` wide whose first pixel begins `down` and `right` grid pixels before."""
        key = factor, down, right, width
        if key not in self._known:  # two threads may both compute it: the same
            line = np.arange(CHUNK, dtype=np.int64)
            of_row, of_column = (line + down) // factor * width, (line + right) // factor
            self._known[key] = of_row[self.chunk.pixel // CHUNK] + of_column[self.chunk.pixel & (CHUNK - 1)]
        return self._known[key]


class Raster:
    """One band on a grid, open; reads from several threads take turns."""

    def __init__(self, scene: Scene, name: str, band: Band, grid: Grid, kept: int = KEPT_BYTES) -> None:
        """Open the file's header; `kept`: bytes of blocks for the next windows. Raises SceneError: unreadable, unknown_crs."""
        self._scene_id, self._name, self._href = scene.scene_id, name, band.href
        self._lock = threading.Lock()
        try:
            if band.checksum is not None:
                require(band.href, band.checksum)
            with gdal():
                self._file = opened(band.href)
                self.dtype = np.dtype(self._file.dtypes[0])
                self._require_kind(band)
                stored = self._file.nodata if band.nodata is None else band.nodata
                self.nodata: float = np.nan if stored is None and self.dtype.kind == "f" else stored or 0.0
                self._source, self._placement = self._placed(grid)
                self._blocks = Blocks(self._read, self._source.block_shapes[0], self._source.shape, kept)
        except _FAULTS as error:
            raise self._unreadable(error) from error

    def gather(self, picks: Picks) -> NDArray[Any]:
        """Return (n,) the band at the chunk's pixels, as stored. Raises SceneError: unreadable."""
        chunk, (factor, row, column) = picks.chunk, self._placement
        block = self.read(chunk.row, chunk.column, chunk.height, chunk.width)
        down, right = (row + chunk.row) % factor, (column + chunk.column) % factor
        return block.ravel().take(picks.places(factor, down, right, block.shape[1]))

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[Any]:
        """Return the raster's own pixels under a window of the grid, `nodata` where it has none."""
        return self._under(row, column, height, width, self._read)

    def _under(self, row: int, column: int, height: int, width: int, read: Read) -> NDArray[Any]:
        factor = self._placement.factor
        row, column = row + self._placement.row, column + self._placement.column
        top, left = row // factor, column // factor
        bottom, right = -(-(row + height) // factor), -(-(column + width) // factor)
        there = max(top, 0), max(left, 0), min(bottom, self._source.height), min(right, self._source.width)
        if there == (top, left, bottom, right):
            return read(*there)
        block = np.full((bottom - top, right - left), self.nodata, self.dtype)
        if there[0] < there[2] and there[1] < there[3]:
            block[there[0] - top : there[2] - top, there[1] - left : there[3] - left] = read(*there)
        return block

    def window(self, row: int, column: int, side: int, step: int = 1) -> NDArray[Any]:
        """Return (side / step, side / step) the band at every `step`th pixel of a square window of the grid, as stored.

        Blocks are kept for the windows that come next: give them row by row.
        """
        # A warped raster is read as before: what GDAL gives for a window of it may depend on the window.
        read = self._blocks.read if self._source is self._file else self._read
        block, factor = self._under(row, column, side, side, read), self._placement.factor
        line = np.arange(step // 2, side, step)
        rows = ((row + self._placement.row) % factor + line) // factor
        columns = ((column + self._placement.column) % factor + line) // factor
        picked: NDArray[Any] = block[rows[:, None], columns]
        return picked

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._source is not self._file:
                self._source.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_kind(self, band: Band) -> None:
        """Raise SceneError: unsupported, where numbers would be misread: sums are of digital numbers of 16 bits."""
        is_counted = band.unit in ("reflectance", "class")
        kinds = ("uint8", "uint16") if is_counted else ("uint8", "uint16", "int16", "int32", "float32", "float64")
        if self.dtype.name not in kinds:
            self._file.close()
            raise SceneError(
                self._scene_id,
                "unsupported",
                f"{self._name}: {self._href} holds {self.dtype}; a band of {band.unit} holds {' or '.join(kinds)}",
            )

    def _read(self, top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
        window = Window(left, top, right - left, bottom - top)
        try:
            with self._lock, gdal():
                block: NDArray[Any] = self._source.read(1, window=window)
        except _FAULTS as error:
            raise self._unreadable(error) from error
        return block

    def _placed(self, grid: Grid) -> tuple[Any, _Placement]:
        """Return the raster, or a warped view of it, and how it lies under the grid."""
        system = self._file.crs
        if not system:
            raise SceneError(
                self._scene_id,
                "unknown_crs",
                f"{self._name}: {self._href} says no coordinate system; give a product "
                "that is projected (Sentinel-1: terrain-corrected), or mend its metadata",
            )
        try:
            wanted = CRS.from_user_input(grid.crs)
        except CRSError as error:
            raise SceneError(self._scene_id, "unknown_crs", f"grid in {grid.crs!r}: no known system") from error
        found = self._file.transform
        factor = found.a / grid.pixel_m
        row, column = (found.f - grid.top) / grid.pixel_m, (grid.left - found.c) / grid.pixel_m
        numbers = np.array([factor, row, column])
        is_aligned = np.all(np.abs(numbers - np.round(numbers)) < _SHIFT_TOLERANCE) and round(factor) >= 1
        if is_aligned and system == wanted and (found.b, found.d, found.e) == (0, 0, -found.a):
            return self._file, _Placement(round(factor), round(row), round(column))
        warped = WarpedVRT(
            self._file,
            crs=wanted,
            transform=rasterio.Affine(*grid.transform),
            width=grid.width,
            height=grid.height,
            resampling=Resampling.nearest,
            src_nodata=self.nodata,
            nodata=self.nodata,
        )
        return warped, _Placement(1, 0, 0)

    def _unreadable(self, error: Exception) -> SceneError:
        shown = str(error.__cause__ or error).splitlines()[0][:200]
        return SceneError(
            self._scene_id, "unreadable", f"{self._name}: {self._href} cannot be read: {shown}; fetch it again"
        )


def opened(href: str) -> Any:
    """Open a GeoTIFF or JPEG 2000 at a path or address; its header is read. One without a system is the caller's to check.

    Raises RasterioError, also for files in any other format.
    """
    drivers = sorted(_DRIVERS, reverse=href.partition("?")[0].lower().endswith((".jp2", ".j2k")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for driver in drivers:
            try:
                file = rasterio.open(href, driver=driver)
                break
            except RasterioIOError as error:
                if driver == drivers[-1] or "not recognized" not in str(error):
                    raise
    rows, columns = file.block_shapes[0]
    beside = 1 if file.profile.get("interleave") == "band" else file.count
    if max(file.width, file.height) > LONGEST_SIDE or rows * columns * beside * _SAMPLE_BYTES > _LARGEST_BLOCK:
        shown = (
            f"{file.width} x {file.height} pixels of {file.count} bands in blocks of {columns} x {rows} are too large"
        )
        file.close()
        raise RasterioIOError(shown)
    return file


def grid_of(scene: Scene, name: str) -> Grid:
    """Return the scene's grid: what its metadata say, else the pixels of one of its bands. Raises SceneError."""
    if scene.grid is not None:
        return scene.grid
    href = scene.bands[name].href
    try:
        with gdal(), opened(href) as file:
            if not file.crs:
                raise SceneError(scene.scene_id, "unknown_crs", f"{name}: {href} says no coordinate system")
            at = file.transform
            if (at.b, at.d, at.e) != (0, 0, -at.a) or not file.crs.is_projected:
                raise SceneError(
                    scene.scene_id, "unsupported", f"{name}: {href} is not projected, north up, in square pixels"
                )
            return Grid(file.crs.to_string(), at.c, at.f, at.a, file.width, file.height)
    except _FAULTS as error:
        raise SceneError(scene.scene_id, "unreadable", f"{name}: {href} cannot be read; fetch it again") from error
