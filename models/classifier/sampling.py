"""Training batches from packed seasons: cut at random days, with dates, modalities and pixels left out.

    kept_t = (day_t <= cut_p) and (u_t >= temporal dropout of its modality) and (its modality is not hidden from p)
    day'_t = day_t + shift_p

Source: Garnot, Landrieu and Chehata 2022 (temporal dropout, pixels of a set sampled anew). Added here: the cut, for
        answers at any date, hidden modalities, for answers without them, and the shift, for other years. No loop over
        parcels. Rows and pixels are sampled first and only they are standardised: a season may stay in a mapped file.
Shapes: all parcels' observations and indices (P,) of some to a Batch of those.
Units:  days since the season's start.
Errors: none: a parcel that would lose every date keeps all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Normaliser, Observations, as_tensor, is_valid, standardise
from models.classifier.packed_series import Batch, Series
from models.climatology import nearest_knot

T = TypeVar("T")
AHEAD = 2
"""Batches prepared ahead of the one in use; chosen because one hides the preparation and the second its jitter."""


@dataclass(frozen=True)
class PackedSeries:
    """One modality's observations of all parcels, pixels as stored, and where each parcel's begin."""

    pixels: Tensor
    """(N, C, S) as stored."""
    day: Tensor
    """(N,)"""
    row: Tensor
    """(N,) first row of the tables of statistics for its orbit."""
    knots: int
    """Rows for each orbit, through the season."""
    start: Tensor
    """(P + 1,) first observation of each parcel."""
    tables: tuple[Tensor, Tensor]
    scale: float
    nodata: int | None

    @classmethod
    def of(cls, modality: str, normaliser: Normaliser, observed: Observations, parcels: int) -> PackedSeries:
        """Return a modality whose observations are ascending by parcel."""
        statistics = normaliser.of(modality, observed.pixels.shape[1])
        return cls(
            as_tensor(observed.pixels),
            torch.from_numpy(np.array(observed.day, np.float32)),
            statistics.first_row(observed.orbit),
            statistics.knots,
            torch.from_numpy(np.searchsorted(observed.parcel, np.arange(parcels + 1))),
            statistics.tables(),
            observed.scale,
            observed.nodata,
        )

    def to(self, device: torch.device | str) -> PackedSeries:
        """Return the same on another device."""
        return replace(
            self,
            pixels=self.pixels.to(device),
            day=self.day.to(device),
            row=self.row.to(device),
            start=self.start.to(device),
            tables=(self.tables[0].to(device), self.tables[1].to(device)),
        )

    def rows(self, parcels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (N,) of some parcels' observations, and the index (N,) of each one's parcel among them."""
        counts = self.start[parcels + 1] - self.start[parcels]
        which = torch.repeat_interleave(torch.arange(len(parcels), device=parcels.device), counts)
        first = self.start[parcels] - (counts.cumsum(0) - counts)
        return first[which] + torch.arange(len(which), device=parcels.device), which

    def series(
        self,
        rows: Tensor,
        parcel: Tensor,
        sampled: Callable[[Tensor], Tensor] = lambda raw: raw,
        later: Tensor | None = None,
    ) -> Series:
        """Return the observations at `rows`, standardised.

        Args:
            sampled: picks pixels of the stored ones.
            later: (N,) days by which each is moved, before the mean of its day is applied.
        """
        day = self.day[rows] if later is None else self.day[rows] + later
        row = self.row[rows] + nearest_knot(day, self.knots)
        pixels, valid = standardise(sampled(self.pixels[rows]), row, self.tables, self.scale, self.nodata)
        return Series(pixels, valid, day, parcel)


@dataclass(frozen=True)
class PackedParcels:
    """All parcels with their observations as stored, any subset of which is cut by index and then standardised."""

    series: Mapping[str, PackedSeries]
    geometry: Tensor
    """(P, 4) standardised."""
    first_day: float
    last_day: float

    @classmethod
    def of(
        cls, normaliser: Normaliser, observations: Mapping[str, Observations], geometry: NDArray[np.floating[Any]]
    ) -> PackedParcels:
        """Parcels whose observations are ascending by parcel."""
        days = [one.day for one in observations.values() if len(one.day)]
        return cls(
            {name: PackedSeries.of(name, normaliser, one, len(geometry)) for name, one in observations.items()},
            normaliser.standardised_geometry(geometry),
            min((float(one.min()) for one in days), default=0.0),
            max((float(one.max()) for one in days), default=0.0),
        )

    def __len__(self) -> int:
        return len(self.geometry)

    @property
    def device(self) -> torch.device:
        """Return where batches are made."""
        return self.geometry.device

    @property
    def n_bytes(self) -> int:
        """Size of the pixels."""
        return sum(one.pixels.nbytes for one in self.series.values())

    def to(self, device: torch.device | str) -> PackedParcels:
        """Return the same on another device."""
        series = {name: one.to(device) for name, one in self.series.items()}
        return replace(self, series=series, geometry=self.geometry.to(device))

    def take(self, parcels: Tensor) -> Batch:
        """Return the batch of some parcels with all their observations."""
        series = {name: one.series(*one.rows(parcels)) for name, one in self.series.items()}
        return Batch(series, self.geometry[parcels])


@dataclass(frozen=True)
class Thinning:
    """What a training batch leaves out, besides each modality's temporal dropout."""

    modality_dropout: float = 0.1
    """Share of parcels that a modality is hidden from; one modality, chosen at random, is always spared."""
    whole_season: float = 0.3
    """Share of parcels that keep their whole season; the others are cut at a uniform day."""
    season_shift: float = 3.0
    """Standard deviation of the days by which a parcel's season is moved: another year is earlier or later, and a network
    that learns the calendar by heart fails there (docs/LOG.md)."""


def sample(
    parcels: PackedParcels,
    some: Tensor,
    modalities: tuple[ModalityConfig, ...],
    thinning: Thinning,
    random: torch.Generator,
) -> Batch:
    """Return the training batch of the parcels `some` (P,)."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=some.device)

    rows = {one.name: parcels.series[one.name].rows(some) for one in modalities}
    keep = _kept(parcels, rows, len(some), modalities, thinning, uniform)
    dates = torch.stack([torch.bincount(which[keep[name]], minlength=len(some)) for name, (_, which) in rows.items()])
    is_empty = dates.sum(0) == 0
    later = thinning.season_shift * torch.randn(len(some), generator=random, device=some.device)
    # Where sets are co-located a parcel's places are sampled once, for all dates and modalities, or pixels would not pair.
    is_paired = any(one.is_co_located for one in modalities)
    places = (
        uniform(len(some), max(parcels.series[one.name].pixels.shape[2] for one in modalities)) if is_paired else None
    )
    series = {}
    for modality in modalities:
        one, (mine, which) = parcels.series[modality.name], rows[modality.name]
        chosen = keep[modality.name] | is_empty[which]
        order = None if places is None else places[which[chosen]]
        sampled = partial(_sample_pixels, size=modality.pixels, nodata=one.nodata, uniform=uniform, order=order)
        series[modality.name] = one.series(mine[chosen], which[chosen], sampled, later[which[chosen]])
    return Batch(series, parcels.geometry[some])


def _kept(
    parcels: PackedParcels,
    rows: Mapping[str, tuple[Tensor, Tensor]],
    count: int,
    modalities: tuple[ModalityConfig, ...],
    thinning: Thinning,
    uniform: Callable[..., Tensor],
) -> dict[str, Tensor]:
    """Return which of each modality's observations (N,) stay."""
    span = parcels.last_day - parcels.first_day
    cut = parcels.first_day + span * uniform(count)
    cut = torch.where(uniform(count) < thinning.whole_season, parcels.last_day, cut)
    hidden = uniform(count, len(modalities)) < thinning.modality_dropout
    spared = uniform(count, len(modalities)).argmax(1, keepdim=True)
    hidden = hidden.scatter(1, spared, False)
    keep = {}
    for index, modality in enumerate(modalities):
        mine, which = rows[modality.name]
        is_known = parcels.series[modality.name].day[mine] <= cut[which]
        keep[modality.name] = is_known & (uniform(len(mine)) >= modality.temporal_dropout) & ~hidden[which, index]
    return keep


def _sample_pixels(
    raw: Tensor, size: int, nodata: int | None, uniform: Callable[..., Tensor], order: Tensor | None = None
) -> Tensor:
    """`size` pixels of each stored set (N, C, S); all of a set that has no more.

    Args:
        order: (N, S) those with the largest values are taken; without it at random, valid ones first.
    """
    if raw.shape[2] <= size:
        return raw
    if order is None:
        valid = is_valid(raw, nodata)
        order = uniform(*valid.shape) + valid.float()
    chosen = order[:, : raw.shape[2]].topk(size, dim=1).indices  # (N, size)
    return raw.gather(2, chosen[:, None, :].expand(-1, raw.shape[1], -1))


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device; to a GPU through pinned memory, without waiting for the copy."""
    if batch.geometry.device == device:
        return batch
    series = {
        name: Series(*(one.pin_memory().to(device, non_blocking=True) for one in (s.pixels, s.valid, s.day, s.parcel)))
        for name, s in batch.series.items()
    }
    return Batch(series, batch.geometry.pin_memory().to(device, non_blocking=True))


def ahead(items: Iterable[T], depth: int = AHEAD) -> Iterator[T]:
    """Yield the same items, made by a thread of their own up to `depth` ahead; what goes wrong there is raised here."""
    rest, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, rest, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, rest, end))
            yield item  # type: ignore[misc]
