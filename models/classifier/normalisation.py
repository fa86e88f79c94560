"""Standardisation of observations: per modality, and for radar per relative orbit, from training parcels only.

    x' = (x - mean_c) / sd_c      geometry: log(perimeter), log(area), log(perimeter / area), fill, then the same
    a' = (x - mean_c(day)) / sd_c(departures)        a second time, where anomalies are wanted (models.climatology)

Source: Garnot, Landrieu and Chehata 2022 (statistics of the training folds); per orbit because incidence angles, and so
        backscatter, differ between relative orbits. Logarithms because sizes of parcels spread over three decades.
        Anomalies because all fields green up together: what separates crops in spring is small beside the season.
Shapes: pixels (N, C, S), geometry (P, 4).
Units:  S2 reflectance 0..1 or indices, S1 dB; perimeter m, area m2.
Errors: ValueError for channels that the statistics do not know, or no training observation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.packed_series import Batch, Series
from models.climatology import Climatology, DaySums, nearest_knot

# An orbit needs this many pixels to have statistics of its own: the sd is then known to 7 % (1 / sqrt(2 n)).
LEAST_PIXELS_OF_ORBIT = 100
# Below this spread a channel is constant and only its mean is taken off (float32 noise of a unit-sized channel).
LEAST_SD = 1e-6
# A standardised value beyond this is a fault of the data; chosen because 10 sd does not occur in clean data.
CLIP = 10.0
# Numbers of a chunk that statistics are taken from at once: 2**24 are 128 MiB of float64, little beside a season mapped.
CHUNK = 2**24


@dataclass(frozen=True)
class Observations:
    """The observations of one modality, packed, as read from a database or a file; never written to.

    Pixels are float32 in physical units, or integers as stored (then often a numpy memmap): physical = pixels x scale.
    """

    pixels: NDArray[np.float32] | NDArray[np.int16]
    """(N, C, S); NaN, of integers `nodata`, in any channel makes a pixel invalid."""
    day: NDArray[np.float32]
    """(N,) days since the season's start."""
    parcel: NDArray[np.int64]
    """(N,) index of the parcel, ascending."""
    orbit: NDArray[np.int16]
    """(N,) relative orbit; 0 where unknown."""
    scale: float = 1.0
    """Physical units of one stored unit; 1 for floats."""
    nodata: int | None = None
    """What an invalid pixel of integers holds; None: all are valid."""

    def take(self, rows: NDArray[Any]) -> Observations:
        """Return the observations at `rows`: indices or a boolean mask (N,)."""
        return replace(
            self, pixels=self.pixels[rows], day=self.day[rows], parcel=self.parcel[rows], orbit=self.orbit[rows]
        )

    def physical(self, rows: NDArray[Any] | slice = slice(None)) -> NDArray[np.float32]:
        """Pixels (n, C, S) of some rows in physical units, NaN where invalid."""
        raw = self.pixels[rows]
        values = raw.astype(np.float32) * np.float32(self.scale)
        return values if self.nodata is None else np.where(raw == self.nodata, np.float32(np.nan), values)


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of channels."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """Return the statistics of what was counted.

        Raises:
            ValueError: nothing was.
        """
        if not moments.count:
            raise ValueError("no training observation to take channel statistics from")
        sd = np.sqrt(moments.squares / moments.count)
        return cls(tuple(moments.mean.tolist()), tuple(np.where(sd > LEAST_SD, sd, 1.0).tolist()))


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of rows, float64: what statistics over chunks are merged from."""

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """Return the moments of rows (M, C)."""
        mean = rows.mean(0, dtype=np.float64) if len(rows) else np.zeros(rows.shape[1])
        return cls(len(rows), mean, np.square(rows - mean).sum(0))

    def __add__(self, other: Moments) -> Moments:
        """Both together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        gap, share = other.mean - self.mean, other.count / max(count, 1)
        squares = self.squares + other.squares + np.square(gap) * self.count * share
        return Moments(count, self.mean + gap * share, squares)


@dataclass(frozen=True)
class ModalityStatistics:
    """The statistics of a modality and of its relative orbits; an orbit not seen takes the modality's."""

    overall: ChannelStatistics
    orbits: Mapping[int, ChannelStatistics] = field(default_factory=dict)
    seasonal: tuple[Climatology, ...] = ()
    """The modality's, then each orbit's, of equally many knots; empty: channels are given once, without anomalies."""

    def tables(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (1 + orbits, C): the modality's, then each orbit's.

        With anomalies (knots (1 + orbits), 2 C): of each its knots, the channels as they are and then as departures.
        """
        known = [self.overall, *self.orbits.values()]
        if not self.seasonal:
            return torch.tensor([one.mean for one in known]), torch.tensor([one.sd for one in known])
        pairs = [(one, at, of.sd) for one, of in zip(known, self.seasonal, strict=True) for at in of.mean]
        mean, sd = [one.mean + at for one, at, _ in pairs], [one.sd + left for one, _, left in pairs]
        return torch.tensor(mean), torch.tensor(sd)

    @property
    def knots(self) -> int:
        """Rows of the tables for each orbit: those of its climatology, 1 without anomalies."""
        return len(self.seasonal[0].mean) if self.seasonal else 1

    def first_row(self, orbit: NDArray[np.int16]) -> Tensor:
        """Return the first row (N,) of the tables of each observation's orbit (N,); that of its day is `nearest_knot` further."""
        which = np.zeros(len(orbit), np.int64)
        for index, number in enumerate(self.orbits, start=1):
            which[orbit == number] = index
        return torch.from_numpy(which * self.knots)


def standardise(
    raw: Tensor, row: Tensor, tables: tuple[Tensor, Tensor], scale: float, nodata: int | None
) -> tuple[Tensor, Tensor]:
    """Stored pixels (N, C, S) in standard deviations, 0 where invalid, and which are valid (N, S).

    Tables of twice as many channels give them twice: (N, 2 C, S).

    Args:
        row: (N,) the row of the tables that each observation takes.
        tables: means and standard deviations (R, C or 2 C) in physical units.
    """
    valid = is_valid(raw, nodata)
    mean, sd = tables
    # In stored units: scaling two numbers of a channel is cheaper than scaling its pixels.
    values = raw.float().repeat(1, mean.shape[1] // raw.shape[1], 1) if mean.shape[1] != raw.shape[1] else raw.float()
    pixels = (values - (mean / scale)[row, :, None]).div_((sd / scale)[row, :, None]).clamp_(-CLIP, CLIP)
    return pixels if bool(valid.all()) else pixels.masked_fill_(~valid[:, None, :], 0.0), valid


def is_valid(raw: Tensor, nodata: int | None) -> Tensor:
    """Return which pixels (N, S) of stored ones (N, C, S) hold every channel."""
    if raw.is_floating_point():
        return raw.isfinite().all(dim=1)
    return raw.new_ones(raw.shape[0], raw.shape[2], dtype=torch.bool) if nodata is None else (raw != nodata).all(dim=1)


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
        anomalies: Sequence[str] = (),
    ) -> Normaliser:
        """Return the statistics of the training parcels: mask (P,) of geometry (P, 4).

        Args:
            per_orbit: modalities that have statistics of each orbit too.
            anomalies: modalities whose channels are given a second time, as departures from the day's mean.
        """
        return cls(
            {
                name: _modality(one, training[one.parcel], name in per_orbit, name in anomalies)
                for name, one in observations.items()
            },
            _geometry_statistics(geometry[training]),
        )

    def series(self, modality: str, observations: Observations) -> Series:
        """Return one modality's observations as the network takes them.

        Raises:
            ValueError: no statistics of this modality, or of other channels.
        """
        statistics = self.of(modality, observations.pixels.shape[1])
        day = torch.from_numpy(np.asarray(observations.day, np.float32))
        row = statistics.first_row(observations.orbit) + nearest_knot(day, statistics.knots)
        pixels, valid = standardise(
            as_tensor(observations.pixels), row, statistics.tables(), observations.scale, observations.nodata
        )
        return Series(
            pixels,
            valid,
            torch.from_numpy(np.asarray(observations.day, np.float32)),
            torch.from_numpy(np.asarray(observations.parcel, np.int64)),
        )

    def of(self, modality: str, channels: int) -> ModalityStatistics:
        """Return the statistics of a modality of so many channels; ValueError if there are none."""
        if modality not in self.modalities:
            raise ValueError(f"no statistics of modality {modality!r}, only of {', '.join(self.modalities)}")
        known = self.modalities[modality]
        if channels != len(known.overall.mean):
            raise ValueError(f"{channels} channels given, statistics are of {len(known.overall.mean)}")
        return known

    def standardised_geometry(self, geometry: NDArray[np.floating[Any]]) -> Tensor:
        """Geometry (P, 4) in standard deviations, zeros where unknown."""
        plain = (_logarithmic(geometry) - np.array(self.geometry.mean)) / np.array(self.geometry.sd)
        return torch.from_numpy(np.nan_to_num(plain).clip(-CLIP, CLIP).astype(np.float32))

    def batch(self, observations: Mapping[str, Observations], geometry: NDArray[np.floating[Any]]) -> Batch:
        """Parcels as the network takes them: geometry (P, 4) in m, m2, 1/m, share."""
        series = {name: self.series(name, one) for name, one in observations.items()}
        return Batch(series, self.standardised_geometry(geometry))

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Normaliser:
        """Return the statistics from what `to_json` gave, read back from JSON."""
        return cls(
            {
                name: ModalityStatistics(
                    _statistics(one["overall"]),
                    {int(orbit): _statistics(of) for orbit, of in one["orbits"].items()},
                    tuple(Climatology.from_json(of) for of in one.get("seasonal", ())),
                )
                for name, one in plain["modalities"].items()
            },
            _statistics(plain["geometry"]),
        )


def _statistics(plain: Mapping[str, Any]) -> ChannelStatistics:
    return ChannelStatistics(tuple(plain["mean"]), tuple(plain["sd"]))


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return the array's own memory as a tensor, also that of a file mapped read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)  # nobody writes to it
        return torch.from_numpy(array)


def _modality(
    observations: Observations, is_training: NDArray[np.bool_], per_orbit: bool, has_anomalies: bool
) -> ModalityStatistics:
    """Statistics of the training observations (mask (N,)), a chunk at a time."""
    used = np.flatnonzero(is_training)
    _, channels, size = observations.pixels.shape
    moments: dict[int, Moments] = {}
    sums: dict[int, DaySums] = {}
    last = float(observations.day[used].max()) if len(used) else 0.0
    # At least one chunk, so that nothing to count is an error in one place only.
    for some in np.array_split(used, max(1, -(-len(used) * channels * size // CHUNK))):
        rows = observations.physical(some).transpose(0, 2, 1)  # (n, S, C)
        valid = np.isfinite(rows).all(axis=2)  # (n, S)
        orbit = np.broadcast_to(observations.orbit[some, None], valid.shape)[valid]
        rows = rows[valid]  # (M, C)
        day = np.broadcast_to(observations.day[some, None], valid.shape)[valid]
        for number in np.unique(orbit).tolist() if per_orbit else [0]:
            mine = orbit == number if per_orbit else np.ones(len(rows), bool)
            own = Moments.of(rows[mine])
            moments[number] = moments[number] + own if number in moments else own
            if has_anomalies:
                seen = DaySums.of(rows[mine], day[mine], last)
                sums[number] = sums[number] + seen if number in sums else seen
    known = {one: ChannelStatistics.of(own) for one, own in moments.items() if own.count >= LEAST_PIXELS_OF_ORBIT}
    total = sum(moments.values(), Moments.of(np.zeros((0, channels))))
    orbits = known if per_orbit else {}
    overall = ChannelStatistics.of(total)
    if not has_anomalies:
        return ModalityStatistics(overall, orbits)
    of_all = sum(sums.values(), DaySums.of(np.zeros((0, channels)), np.zeros(0), last))
    seasonal = tuple(Climatology.of(one) for one in (of_all, *(sums[number] for number in orbits)))
    return ModalityStatistics(overall, orbits, seasonal)


def _geometry_statistics(geometry: NDArray[np.floating[Any]]) -> ChannelStatistics:
    rows = _logarithmic(geometry)
    known = rows[np.isfinite(rows).all(axis=1)]
    if len(known):
        return ChannelStatistics.of(Moments.of(known))
    # Parcels without a known geometry are zeros after standardisation: any statistics do.
    return ChannelStatistics((0.0,) * rows.shape[1], (1.0,) * rows.shape[1])


def _logarithmic(geometry: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sizes as logarithms, the fill as it is; NaN where a size is not positive."""
    sizes = np.asarray(geometry, np.float64).copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes[:, :3] = np.log(np.where(sizes[:, :3] > 0, sizes[:, :3], np.nan))
    return sizes
