"""Training batches from packed seasons: cut at random days, with dates, modalities and pixels left out.

    kept_t = (day_t <= cut_p) and (u_t >= temporal dropout of its modality) and (its modality is not hidden from p)

Source: Garnot, Landrieu and Chehata 2022 (temporal dropout, pixels of a set drawn anew). Added here: the cut, for
        answers at any date, and hidden modalities, for answers without them. No loop over parcels.
Shapes: a Batch of all parcels and indices (P,) of some to a Batch of those.
Units:  days since the season's start.
Errors: none: a parcel that would lose every date keeps all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.classifier import ModalityConfig
from models.series import Batch, Series


@dataclass(frozen=True)
class PackedParcels:
    """A batch of all parcels, and where each parcel's observations start, so that any subset is cut by index."""

    batch: Batch
    start: Mapping[str, Tensor]
    """(P + 1,) int64 for each modality."""
    first_day: float
    last_day: float

    @classmethod
    def of(cls, batch: Batch) -> PackedParcels:
        """The parcels of a batch, whose observations are ascending by parcel."""
        bounds = torch.arange(len(batch) + 1, device=batch.geometry.device)
        days = [one.day for one in batch.series.values() if len(one)]
        return cls(
            batch,
            {name: torch.searchsorted(one.parcel, bounds) for name, one in batch.series.items()},
            min((float(one.min()) for one in days), default=0.0),
            max((float(one.max()) for one in days), default=0.0),
        )

    def rows(self, modality: str, parcels: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (N,) of some parcels' observations, and the index (N,) of each one's parcel among them."""
        start = self.start[modality]
        counts = start[parcels + 1] - start[parcels]
        which = torch.repeat_interleave(torch.arange(len(parcels), device=parcels.device), counts)
        first = start[parcels] - (counts.cumsum(0) - counts)
        return first[which] + torch.arange(len(which), device=parcels.device), which

    def take(self, parcels: Tensor) -> Batch:
        """The batch of some parcels with all their observations."""
        series = {}
        for name, one in self.batch.series.items():
            rows, which = self.rows(name, parcels)
            series[name] = Series(one.pixels[rows], one.valid[rows], one.day[rows], which)
        return Batch(series, self.batch.geometry[parcels])


@dataclass(frozen=True)
class Thinning:
    """What a training batch leaves out, besides each modality's temporal dropout."""

    modality_dropout: float = 0.1
    """Share of parcels that a modality is hidden from; one modality, drawn anew, is always spared."""
    whole_season: float = 0.3
    """Share of parcels that keep their whole season; the others are cut at a uniform day."""


def draw(
    parcels: PackedParcels,
    some: Tensor,
    modalities: tuple[ModalityConfig, ...],
    thinning: Thinning,
    random: torch.Generator,
) -> Batch:
    """The training batch of the parcels `some` (P,)."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=some.device)

    rows = {one.name: parcels.rows(one.name, some) for one in modalities}
    keep = _kept(parcels, rows, len(some), modalities, thinning, uniform)
    dates = torch.stack([torch.bincount(which[keep[name]], minlength=len(some)) for name, (_, which) in rows.items()])
    is_empty = dates.sum(0) == 0
    series = {}
    for modality in modalities:
        all_rows, which = rows[modality.name]
        chosen = keep[modality.name] | is_empty[which]
        one, mine = parcels.batch.series[modality.name], all_rows[chosen]
        pixels, valid = _draw_pixels(one.pixels[mine], one.valid[mine], modality.pixels, uniform)
        series[modality.name] = Series(pixels, valid, one.day[mine], which[chosen])
    return Batch(series, parcels.batch.geometry[some])


def _kept(
    parcels: PackedParcels,
    rows: Mapping[str, tuple[Tensor, Tensor]],
    count: int,
    modalities: tuple[ModalityConfig, ...],
    thinning: Thinning,
    uniform: Callable[..., Tensor],
) -> dict[str, Tensor]:
    """Which of each modality's observations (N,) stay."""
    span = parcels.last_day - parcels.first_day
    cut = parcels.first_day + span * uniform(count)
    cut = torch.where(uniform(count) < thinning.whole_season, parcels.last_day, cut)
    hidden = uniform(count, len(modalities)) < thinning.modality_dropout
    spared = uniform(count, len(modalities)).argmax(1, keepdim=True)
    hidden = hidden.scatter(1, spared, False)
    keep = {}
    for index, modality in enumerate(modalities):
        mine, which = rows[modality.name]
        is_known = parcels.batch.series[modality.name].day[mine] <= cut[which]
        keep[modality.name] = is_known & (uniform(len(mine)) >= modality.temporal_dropout) & ~hidden[which, index]
    return keep


def _draw_pixels(pixels: Tensor, valid: Tensor, size: int, uniform: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """`size` pixels of each set, valid ones first; all of a set that has no more."""
    if valid.shape[1] <= size:
        return pixels, valid
    order = (uniform(*valid.shape) + valid.float()).topk(size, dim=1).indices  # (N, size)
    return pixels.gather(2, order[:, None, :].expand(-1, pixels.shape[1], -1)), valid.gather(1, order)
