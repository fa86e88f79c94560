"""The packed form of observations: one row per observation of one parcel, no date is ever padded.

    Batch of P parcels = for each modality a Series of N observations + geometry (P, 4)

Chosen because: seasons are ragged; a padded date costs time and, through any statistic over dates, leaks into results.
Shapes: pixels (N, C, S), valid (N, S), day (N,), parcel (N,); N observations, C channels, S pixels of a set.
Units:  pixels standardised (models.classifier.normalisation), day in days since the season starts.
Errors: ValueError if the first dimensions differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Series:
    """The observations of one modality for a batch of parcels, ready for the network."""

    pixels: Tensor
    """(N, C, S) float32, standardised; what invalid pixels hold is ignored but must be finite."""
    valid: Tensor
    """(N, S) bool, pixels that were seen clearly."""
    day: Tensor
    """(N,) float32, days since the season's start."""
    parcel: Tensor
    """(N,) int64, index of the parcel in the batch, ascending."""

    def __post_init__(self) -> None:
        rows = self.pixels.shape[0]
        shapes = [tuple(one.shape) for one in (self.pixels, self.valid, self.day, self.parcel)]
        if self.pixels.ndim != 3 or shapes[1:] != [(rows, self.pixels.shape[2]), (rows,), (rows,)]:
            raise ValueError(f"a series needs pixels (N, C, S), valid (N, S), day (N,), parcel (N,); got {shapes}")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def take(self, rows: Tensor) -> Series:
        """Return the observations at `rows`: indices or a boolean mask (N,)."""
        return Series(self.pixels[rows], self.valid[rows], self.day[rows], self.parcel[rows])

    def informative(self) -> Series:
        """Return the observations with at least one valid pixel."""
        has_pixel = self.valid.any(dim=1)
        return self if bool(has_pixel.all()) else self.take(has_pixel)

    def to(self, device: torch.device | str) -> Series:
        """Return the same observations on another device."""
        return Series(self.pixels.to(device), self.valid.to(device), self.day.to(device), self.parcel.to(device))


@dataclass(frozen=True)
class Batch:
    """A batch of parcels: the series of each modality and the parcels' geometry. Labels are kept apart."""

    series: Mapping[str, Series]
    geometry: Tensor
    """(P, G) float32, standardised geometric features (published: 4); zeros where unknown."""

    def __len__(self) -> int:
        return self.geometry.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on another device."""
        return Batch({name: one.to(device) for name, one in self.series.items()}, self.geometry.to(device))

    def observed(self, modality: str) -> Tensor:
        """Return (P,) bool, parcels with an observation of the modality, of at least one valid pixel."""
        seen = torch.zeros(len(self), dtype=torch.bool, device=self.geometry.device)
        return seen.index_fill(0, self.series[modality].informative().parcel, True) if modality in self.series else seen

    def until(self, day: float) -> Batch:
        """Return what was known of these parcels at the end of `day`: later observations left out."""
        return Batch({name: one.take(one.day <= day) for name, one in self.series.items()}, self.geometry)
