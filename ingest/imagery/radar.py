"""Sentinel-1: mean backscatter of a parcel in linear power, its spread, coherence, and its pixel set in decibels.

Power is averaged, never decibels: the mean of decibels lies below the decibel of the mean, the more so the stronger
the speckle.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from db.sensors import POLARISATIONS, SENSORS
from ingest.imagery.index import Chunk, ParcelIndex
from ingest.imagery.scene import Band, Scene
from ingest.imagery.sums import Columns, PixelSets, float_sums, integer_sums, spread

COHERENCE: Final = tuple(f"coherence_{name}" for name in POLARISATIONS)
NOISE_FLOOR: Final = 10**-4.5
"""Linear power below which a pixel shows border noise, not the ground: -45 dB (chosen so: the lowest mean of the Dutch
season 2023 is -43 dB, noise along borders is -50 dB and below)."""
_LARGEST: Final = 32767


class RadarSums:
    """Running sums over the pixels of P parcels; a pixel is valid where both polarisations are above the noise floor."""

    def __init__(self, scene: Scene, index: ParcelIndex, nodata: Mapping[str, float]) -> None:
        n_parcels = len(index.n_pixels)
        self._scene, self._nodata = scene, nodata
        self.n_valid = np.zeros(n_parcels, np.int64)
        self.n_seen = self.n_valid  # radar sees through cloud
        self._sums = {name: np.zeros(n_parcels) for name in POLARISATIONS}
        self._squares = {name: np.zeros(n_parcels) for name in POLARISATIONS}
        self._coherence = {
            name: (np.zeros(n_parcels), np.zeros(n_parcels, np.int64)) for name in COHERENCE if name in nodata
        }
        self._sets = PixelSets(index, len(POLARISATIONS))

    def add(self, chunk: Chunk, values: Mapping[str, NDArray[Any]]) -> None:
        """Add a chunk: (n,) numbers of each band at its pixels."""
        scaled = {name: self._scaled(name, values[name]) for name in POLARISATIONS}
        power = {name: power_of(self._scene.bands[name], one) for name, one in scaled.items()}
        is_valid = is_ground(*power.values())
        at, taken = chunk.parcel, chunk.sampled
        pixels = [self._pixel_values(name, one[taken]) for name, one in scaled.items()]
        self._sets.put(chunk, pixels, is_valid[taken])
        self.n_valid[at] += integer_sums(is_valid.view(np.uint8), chunk)
        for name, one in power.items():
            one[~is_valid] = 0.0
            self._sums[name][at] += float_sums(one, chunk)
            self._squares[name][at] += float_sums(np.square(one), chunk)
        for name, (sums, n) in self._coherence.items():
            one = self._scaled(name, values[name])
            is_there = (one >= 0) & (one <= 1)
            sums[at] += float_sums(np.where(is_there, one, 0.0), chunk)
            n[at] += integer_sums(is_there.view(np.uint8), chunk)

    def check(self, rows: NDArray[np.intp]) -> None:
        """Nothing: backscatter has no mark of a whole scene gone wrong."""

    def columns(self, rows: NDArray[np.intp]) -> Columns:
        """Return the contract's columns of parcels with valid pixels."""
        n = self.n_valid[rows]
        columns: Columns = {"n_pixels": n, "pixels": self._sets.column(rows)}
        for name in POLARISATIONS:
            sums, squares = self._sums[name][rows], self._squares[name][rows]
            columns |= {name: sums / n, f"{name}_SD": spread(sums, squares, n)}
        for name, (sums, count) in self._coherence.items():
            columns[name] = np.divide(sums[rows], count[rows], out=np.full(len(rows), np.nan), where=count[rows] > 0)
        return columns

    def _scaled(self, name: str, numbers: NDArray[Any]) -> NDArray[np.float64]:
        return scaled_of(self._scene.bands[name], numbers, self._nodata[name])

    def _pixel_values(self, name: str, values: NDArray[np.float64]) -> NDArray[np.int16]:
        decibels = decibels_of(self._scene.bands[name], values)
        limited = np.clip(np.rint(np.nan_to_num(decibels) * SENSORS["S1"].pixel_scale), -_LARGEST, _LARGEST)
        pixels: NDArray[np.int16] = limited.astype(np.int16)
        return pixels


def scaled_of(band: Band, numbers: NDArray[Any], nodata: float) -> NDArray[np.float64]:
    """Return values in the band's unit, NaN where there is none."""
    scaled: NDArray[np.float64] = numbers * band.scale + band.offset
    scaled[numbers == nodata] = np.nan
    return scaled.astype(np.float64, copy=False)


def power_of(band: Band, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear power of values in the band's unit."""
    if band.unit == "dB":
        power: NDArray[np.float64] = np.power(10.0, values / 10.0)
        return power
    return np.square(values) if band.unit == "amplitude" else values.copy()


def decibels_of(band: Band, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return decibels of values in the band's unit; 0 where power is none."""
    if band.unit == "dB":
        return values
    return (20.0 if band.unit == "amplitude" else 10.0) * np.log10(np.where(values > 0, values, 1.0))


def is_ground(*power: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say where every polarisation shows the ground: its linear power is above the noise floor."""
    valid: NDArray[np.bool_] = np.logical_and.reduce([one > NOISE_FLOOR for one in power])  # NaN is not
    return valid
