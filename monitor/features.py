"""Stored observations as the networks take them: channels by their names, pixel sets or means, parcels by index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from db.connect import Connection
from db.pixel_sets import pixel_sets
from db.sensors import POLARISATIONS, SENSORS, Sensor
from db.series import INVALID_PIXEL
from monitor.markers.parts import SPLIT, splits

if TYPE_CHECKING:  # commands that run no network start without torch
    from models.classifier.network import ModalityConfig
    from models.classifier.normalisation import Observations

_SENSOR_OF: Final[Mapping[str, Sensor]] = {"s2": "S2", "s1a": "S1", "s1d": "S1", "s1": "S1"}
"""The sensor of each modality; Sentinel-1's are in the order of `db.series.DIRECTIONS`."""


def split_modalities(s2: NDArray[np.void], s1: NDArray[np.void]) -> dict[str, NDArray[np.void]]:
    """Rows by modality: s2, s1a, s1d, s1 (never averaged over directions)."""
    of_s1 = (name for name, sensor in _SENSOR_OF.items() if sensor == "S1")
    return {"s2": s2} | {name: s1[s1["direction_nr"] == nr] for nr, name in enumerate(of_s1, start=1)}


def observations(
    connection: Connection,
    modality: ModalityConfig,
    rows: NDArray[np.void],
    parcel_keys: NDArray[np.int64],
    starts_on: date,
) -> Observations:
    """Rows of one modality, sorted by parcel, in physical units.

    A modality of more than one pixel reads pixel sets, and the mean as a single pixel where there is none stored.
    """
    sets = pixel_sets(connection, sensor_of(modality.name), rows) if modality.pixels > 1 else None
    return packed(modality, rows, np.searchsorted(parcel_keys, rows["parcel_key"]), starts_on, sets)


def packed(
    modality: ModalityConfig,
    rows: NDArray[np.void],
    parcel: NDArray[np.int64],
    starts_on: date,
    sets: pa.BinaryArray | None = None,
) -> Observations:
    """Rows (N,) of one modality and, if given, their pixel sets; parcel (N,) is the index of each row's, ascending."""
    from models.classifier.normalisation import Observations

    pixels = means(rows, modality.channels)[:, :, None]
    if sets is not None:
        pixels = _with_pixel_sets(pixels, sets, sensor_of(modality.name), modality.channels)
    return Observations(
        pixels=pixels,
        day=season_days(rows["observed_at"], starts_on),
        parcel=parcel,
        orbit=rows["relative_orbit"].astype(np.int16),
    )


def sensor_of(modality: str) -> Sensor:
    """Return the sensor that sees a modality."""
    return _SENSOR_OF[modality]


def season_days(times: NDArray[np.datetime64], starts_on: date) -> NDArray[np.float32]:
    """Days since the season's start, with their fraction."""
    since: NDArray[np.float64] = (times - np.datetime64(starts_on)).astype("m8[us]").astype(np.float64)
    return (since / 86_400e6).astype(np.float32)


def means(rows: NDArray[np.void], channels: Sequence[str]) -> NDArray[np.float32]:
    """Return (N, C) the parcel means of channels: S2 bands and indices as stored, VV, VH and VV-VH in dB."""
    return np.stack([_channel(rows, name) for name in channels], axis=1).astype(np.float32)


def _channel(rows: NDArray[np.void], name: str) -> NDArray[np.float32]:
    if name == "VV-VH":
        return _channel(rows, "VV") - _channel(rows, "VH")
    values: NDArray[np.float32] = rows[name.lower()]
    if name not in POLARISATIONS:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, 10 * np.log10(values), np.nan).astype(np.float32)


def _with_pixel_sets(
    single: NDArray[np.float32], stored: pa.BinaryArray, sensor: Sensor, channels: Sequence[str]
) -> NDArray[np.float32]:
    """Return (N, C, S) pixel sets where stored, else the single mean pixel; NaN fills up."""
    bands, scale = SENSORS[sensor].pixel_bands, SENSORS[sensor].pixel_scale
    is_mean = stored.is_null().to_numpy(zero_copy_only=False)
    sizes = pc.binary_length(stored).fill_null(0).to_numpy() // (2 * len(bands))
    raw = np.full((len(single), len(bands), max(int(sizes.max(initial=1)), 1)), INVALID_PIXEL, np.int16)
    for rows, sets in _by_size(stored, len(bands)):
        raw[rows, :, : sets.shape[2]] = sets
    physical = np.where(raw == INVALID_PIXEL, np.float32(np.nan), raw / np.float32(scale)).astype(np.float32)
    pixels = np.stack([_of_bands(physical, bands, name) for name in channels], axis=1)
    pixels[is_mean, :, :1] = single[is_mean]
    return pixels


def splits_of(stored: pa.BinaryArray) -> NDArray[np.void]:
    """Return (N,) the split of each pixel set of Sentinel-2, as of no set where there is none."""
    bands, found = SENSORS["S2"].pixel_bands, np.zeros(len(stored), SPLIT)
    red, nir = bands.index("B04"), bands.index("B08")
    for rows, sets in _by_size(stored, len(bands)):
        found[rows] = splits(sets[:, red], sets[:, nir])
    return found


def _by_size(stored: pa.BinaryArray, n_bands: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    """Yield rows whose pixel sets are of one size, and these (n, B, S) as they are stored."""
    n = pc.binary_length(stored).fill_null(0).to_numpy() // (2 * n_bands)
    for size in np.unique(n[n > 0]).tolist():
        rows = np.flatnonzero(n == size)
        numbers = b"".join(stored.take(pa.array(rows)).to_pylist())
        yield rows, np.frombuffer(numbers, "<i2").reshape(len(rows), n_bands, size)


def _of_bands(physical: NDArray[np.float32], bands: Sequence[str], name: str) -> NDArray[np.float32]:
    if name == "VV-VH":
        return physical[:, 0] - physical[:, 1]
    if name == "NDVI":
        nir, red = physical[:, bands.index("B08")], physical[:, bands.index("B04")]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (nir - red) / (nir + red)
    return physical[:, bands.index(name)]


Measure = NDArray[np.float64] | Sequence[float | None]
"""(P,) of parcels; NaN or None where it is unknown."""


def geometry(perimeter_m: Measure, area_ha: Measure, fill: Measure) -> NDArray[np.float64]:
    """Return (P, 4) perimeter m, area m2, perimeter / area, fill; NaN where unknown."""
    perimeter, area, share = (np.array(column, np.float64) for column in (perimeter_m, area_ha, fill))
    area = area * 1e4
    return np.stack([perimeter, area, perimeter / area, share], axis=1)
