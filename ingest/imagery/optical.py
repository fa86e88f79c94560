"""Sentinel-2: what of a parcel is clear, its mean reflectances and indices, its pixel set.

A pixel is clear where SCL shows the ground and every band has a number: one mask for all bands, so that means, NDVI and
pixel set speak of the same pixels. Sums are of digital numbers, exact; scale and offset come last.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from db.sensors import S2_BANDS, SENSORS
from ingest.imagery import indices
from ingest.imagery.errors import SceneError
from ingest.imagery.index import Chunk, ParcelIndex
from ingest.imagery.scene import SCL, Band, Scene
from ingest.imagery.sums import Columns, PixelSets, float_sums, integer_sums, spread

_LARGEST: Final = 32767
SMALLEST: Final = 1
"""What processing writes where a band's value would be below what it can store, as along the swath's edge: no value."""
MOST_NEGATIVE: Final = 0.5
"""Share of parcels with a negative mean in B02 or B04 above which an offset was taken off twice: such products then show
half of all values below 0 (Earth Search's issue 71), true ones only deep water and shadow."""


class OpticalSums:
    """Running sums over the pixels of P parcels."""

    def __init__(
        self, scene: Scene, index: ParcelIndex, nodata: Mapping[str, float], clear_classes: Collection[int]
    ) -> None:
        n_parcels = len(index.n_pixels)
        self._scene, self._n_pixels = scene, index.n_pixels
        self._nodata = [int(nodata[name]) for name in S2_BANDS]
        self._is_ground = np.isin(np.arange(256), list(clear_classes))
        self.n_seen, self.n_valid = np.zeros(n_parcels, np.int64), np.zeros(n_parcels, np.int64)
        self._sums = np.zeros((len(S2_BANDS), n_parcels), np.int64)
        self._ndvi, self._ndvi_squares = np.zeros(n_parcels), np.zeros(n_parcels)
        self._pixel_of = [_pixel_values(scene.bands[name]) for name in S2_BANDS]
        self._sets = PixelSets(index, len(S2_BANDS))
        self._has_bands = self._has_classes = False

    def add(self, chunk: Chunk, values: Mapping[str, NDArray[Any]]) -> None:
        """Add a chunk: (n,) numbers of each band at its pixels."""
        numbers = [values[name].astype(np.uint16, copy=False) for name in S2_BANDS]
        has_value = np.logical_and.reduce(
            [(one != none) & (one > SMALLEST) for one, none in zip(numbers, self._nodata, strict=True)]
        )
        classes = values[SCL].astype(np.uint8, copy=False)
        self._has_bands |= bool(has_value.any())
        self._has_classes |= bool(classes.any())
        is_seen = has_value & (classes != 0)
        is_clear = has_value & self._is_ground[classes]
        at = chunk.parcel
        self.n_seen[at] += integer_sums(is_seen.view(np.uint8), chunk)
        self.n_valid[at] += integer_sums(is_clear.view(np.uint8), chunk)
        for row, one in enumerate(numbers):
            self._sums[row, at] += integer_sums(one * is_clear, chunk)
        red, nir = (self._reflectance(name, values[name].astype(np.float32)) for name in ("B04", "B08"))
        ndvi = indices.ndvi(red, nir).astype(np.float64) * is_clear
        self._ndvi[at] += float_sums(ndvi, chunk)
        self._ndvi_squares[at] += float_sums(np.square(ndvi), chunk)
        taken = chunk.sampled
        self._sets.put(
            chunk, [table[one[taken]] for table, one in zip(self._pixel_of, numbers, strict=True)], is_clear[taken]
        )

    def check(self, rows: NDArray[np.intp]) -> None:
        """Raise SceneError where the scene as a whole cannot be true: empty_scl, implausible."""
        if self._has_bands and not self._has_classes:
            raise SceneError(
                self._scene.scene_id,
                "empty_scl",
                "SCL has no class at any parcel though the bands have values; "
                "fetch it again, or use another processing",
            )
        mean = self._means(rows)
        if len(rows) and np.mean((mean["B02"] < 0) | (mean["B04"] < 0)) > MOST_NEGATIVE:
            raise SceneError(
                self._scene.scene_id,
                "implausible",
                f"most parcels have negative reflectance with offset "
                f"{self._scene.bands['B04'].offset:g}; was it taken off already? Mend the item, then add it",
            )

    def columns(self, rows: NDArray[np.intp]) -> Columns:
        """Return the contract's columns of parcels with clear pixels."""
        n, mean = self.n_valid[rows], self._means(rows)
        return {
            **mean,
            "NDVI": self._ndvi[rows] / n,
            "NDVI_SD": spread(self._ndvi[rows], self._ndvi_squares[rows], n),
            **indices.of_means(mean),
            "n_clear": n,
            "clear_fraction": n / self._n_pixels[rows],
            "pixels": self._sets.column(rows),
        }

    def _means(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        n = self.n_valid[rows]
        return {
            name: self._reflectance(name, self._sums[row, rows] / n).astype(np.float32)
            for row, name in enumerate(S2_BANDS)
        }

    def _reflectance(self, name: str, numbers: NDArray[np.floating]) -> NDArray[np.floating]:
        band = self._scene.bands[name]
        scaled: NDArray[np.floating] = numbers * numbers.dtype.type(band.scale) + numbers.dtype.type(band.offset)
        return scaled


def _pixel_values(band: Band) -> NDArray[np.int16]:
    """Return what a pixel set holds for each of the 65,536 numbers a pixel can have."""
    scaled = (np.arange(2**16) * band.scale + band.offset) * SENSORS["S2"].pixel_scale
    values: NDArray[np.int16] = np.clip(np.rint(scaled), -_LARGEST, _LARGEST).astype(np.int16)
    return values
