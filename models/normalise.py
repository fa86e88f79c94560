"""Standardisation of observations: per modality, and for radar per relative orbit, from training parcels only.

    x' = (x - mean_c) / sd_c      geometry: log(perimeter), log(area), log(perimeter / area), fill, then the same

Source: Garnot, Landrieu and Chehata 2022 (statistics of the training folds); per orbit because incidence angles, and so
        backscatter, differ between relative orbits. Logarithms because sizes of parcels spread over three decades.
Shapes: pixels (N, C, S), geometry (P, 4).
Units:  S2 reflectance 0..1 or indices, S1 dB; perimeter m, area m2.
Errors: ValueError for channels that the statistics do not know, or no training observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from models.series import Batch, Series

# An orbit needs this many pixels to have statistics of its own: the sd is then known to 7 % (1 / sqrt(2 n)).
LEAST_PIXELS_OF_ORBIT = 100
# Below this spread a channel is constant and only its mean is taken off (float32 noise of a unit-sized channel).
LEAST_SD = 1e-6
# A standardised value beyond this is a fault of the data; chosen because 10 sd does not occur in clean data.
CLIP = 10.0


@dataclass(frozen=True)
class Observations:
    """The observations of one modality in physical units, packed, as read from a database or a file."""

    pixels: NDArray[np.float32]
    """(N, C, S); NaN in any channel makes a pixel invalid."""
    day: NDArray[np.float32]
    """(N,) days since the season's start."""
    parcel: NDArray[np.int64]
    """(N,) index of the parcel, ascending."""
    orbit: NDArray[np.int16]
    """(N,) relative orbit; 0 where unknown."""

    def take(self, rows: NDArray[Any]) -> Observations:
        """The observations at `rows`: indices or a boolean mask (N,)."""
        return Observations(self.pixels[rows], self.day[rows], self.parcel[rows], self.orbit[rows])


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of channels."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """The statistics of rows (M, C), float64 inside.

        Raises:
            ValueError: there is no row.
        """
        if not len(rows):
            raise ValueError("no training observation to take channel statistics from")
        sd = rows.std(0, dtype=np.float64)
        return cls(tuple(rows.mean(0, dtype=np.float64).tolist()), tuple(np.where(sd > LEAST_SD, sd, 1.0).tolist()))


@dataclass(frozen=True)
class ModalityStatistics:
    """The statistics of a modality and of its relative orbits; an orbit not seen takes the modality's."""

    overall: ChannelStatistics
    orbits: Mapping[int, ChannelStatistics] = field(default_factory=dict)

    def standardise(self, pixels: NDArray[np.float32], orbit: NDArray[np.int16]) -> NDArray[np.float32]:
        """Pixels (N, C, S) in units of standard deviations; NaN stays NaN."""
        known = [self.overall, *self.orbits.values()]
        if pixels.shape[1] != len(self.overall.mean):
            raise ValueError(f"{pixels.shape[1]} channels given, statistics are of {len(self.overall.mean)}")
        which = np.zeros(len(orbit), np.int64)
        for index, number in enumerate(self.orbits, start=1):
            which[orbit == number] = index
        mean = np.array([one.mean for one in known], np.float32)[which]
        sd = np.array([one.sd for one in known], np.float32)[which]
        return np.asarray(np.clip((pixels - mean[..., None]) / sd[..., None], -CLIP, CLIP), np.float32)


@dataclass(frozen=True)
class Normaliser:
    """The standardisation of every modality and of geometry. Round trip: `from_json(normaliser.to_json())`."""

    modalities: Mapping[str, ModalityStatistics]
    geometry: ChannelStatistics

    @classmethod
    def fit(
        cls,
        observations: Mapping[str, Observations],
        geometry: NDArray[np.floating[Any]],
        training: NDArray[Any],
        per_orbit: Sequence[str] = (),
    ) -> Normaliser:
        """The statistics of the training parcels: mask (P,) of geometry (P, 4); modalities `per_orbit` have both."""
        return cls(
            {name: _modality(one.take(training[one.parcel]), name in per_orbit) for name, one in observations.items()},
            _geometry_statistics(geometry[training]),
        )

    def series(self, modality: str, observations: Observations) -> Series:
        """One modality's observations as the network takes them."""
        if modality not in self.modalities:
            raise ValueError(f"no statistics of modality {modality!r}, only of {', '.join(self.modalities)}")
        pixels = self.modalities[modality].standardise(observations.pixels, observations.orbit)
        valid = np.asarray(np.isfinite(pixels).all(axis=1))
        return Series(
            torch.from_numpy(np.where(valid[:, None, :], pixels, np.float32(0))),
            torch.from_numpy(valid),
            torch.from_numpy(np.asarray(observations.day, np.float32)),
            torch.from_numpy(np.asarray(observations.parcel, np.int64)),
        )

    def batch(self, observations: Mapping[str, Observations], geometry: NDArray[np.floating[Any]]) -> Batch:
        """Parcels as the network takes them: geometry (P, 4) in m, m2, 1/m, share."""
        statistics = self.geometry
        plain = (_logarithmic(geometry) - np.array(statistics.mean)) / np.array(statistics.sd)
        return Batch(
            {name: self.series(name, one) for name, one in observations.items()},
            torch.from_numpy(np.nan_to_num(plain).clip(-CLIP, CLIP).astype(np.float32)),
        )

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Normaliser:
        """The statistics from what `to_json` gave, read back from JSON."""
        return cls(
            {
                name: ModalityStatistics(
                    _statistics(one["overall"]), {int(orbit): _statistics(of) for orbit, of in one["orbits"].items()}
                )
                for name, one in plain["modalities"].items()
            },
            _statistics(plain["geometry"]),
        )


def _statistics(plain: Mapping[str, Any]) -> ChannelStatistics:
    return ChannelStatistics(tuple(plain["mean"]), tuple(plain["sd"]))


def _modality(observations: Observations, per_orbit: bool) -> ModalityStatistics:
    rows = observations.pixels.transpose(0, 2, 1)  # (N, S, C)
    valid = np.isfinite(rows).all(axis=2)  # (N, S)
    orbit = np.broadcast_to(observations.orbit[:, None], valid.shape)[valid]
    rows = rows[valid]  # (M, C)
    numbers, counts = np.unique(orbit, return_counts=True)
    own = numbers[counts >= LEAST_PIXELS_OF_ORBIT] if per_orbit else numbers[:0]
    return ModalityStatistics(
        ChannelStatistics.of(rows), {int(one): ChannelStatistics.of(rows[orbit == one]) for one in own}
    )


def _geometry_statistics(geometry: NDArray[np.floating[Any]]) -> ChannelStatistics:
    rows = _logarithmic(geometry)
    known = rows[np.isfinite(rows).all(axis=1)]
    if len(known):
        return ChannelStatistics.of(known)
    # Parcels without a known geometry are zeros after standardisation: any statistics do.
    return ChannelStatistics((0.0,) * rows.shape[1], (1.0,) * rows.shape[1])


def _logarithmic(geometry: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sizes as logarithms, the fill as it is; NaN where a size is not positive."""
    sizes = np.asarray(geometry, np.float64).copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes[:, :3] = np.log(np.where(sizes[:, :3] > 0, sizes[:, :3], np.nan))
    return sizes
