"""Patches of images with a class and a field for each pixel: what a source of them is, and batches streamed from it.

Statistics are those of the training folds. Patches are read when their batch is due, in several processes, and a few batches ahead: memory
holds those alone, whatever the size of the set. Test fold t is validated on the fold before it, as published.
Shapes: images (T, C, H, W), days (T,), maps (H, W); batches (B, T, C, H, W), padded to the most dates.
Units:  days since the season's start.
Errors: UserError of the source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.segmentation.losses import Truth, truth
from models.segmentation.network import Batch, ImageSeries, ModalityConfig
from models.segmentation.targets import targets
from training.sources import Section

FOLDS = (1, 2, 3, 4, 5)
AHEAD = 2
"""Batches that each process reads ahead."""


class Statistics(NamedTuple):
    """Mean and standard deviation (C,) of a modality's channels."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]


@dataclass(frozen=True)
class Patch:
    """A patch as it was read."""

    images: dict[str, NDArray[np.float32]]
    """By modality, (T, C, H, W); NaN where there is no value."""
    days: dict[str, NDArray[np.float32]]
    """(T,)."""
    classes: NDArray[np.int64]
    """(H, W)."""
    instances: NDArray[np.int64]
    """(H, W) a number for each field, 0 where there is none."""


@dataclass(frozen=True)
class PatchSet:
    """Patches of a source, read when they are wanted; it travels to other processes."""

    name: str
    modalities: tuple[ModalityConfig, ...]
    classes: tuple[str, ...]
    """Of pixels, background first, without void."""
    void: int
    """The class of what is not scored: the one after the last."""
    fold: NDArray[np.int64]
    """(N,) 1 to 5."""
    read: Callable[[int, Sequence[str]], Patch]
    """Of a patch's row and names of modalities."""
    statistics: Callable[[Sequence[int]], Mapping[str, Statistics]]
    """Of folds, by modality."""
    starts_on: date
    """Day 0."""


class PatchSource(Section, ABC):
    """The table [data] of a file of `models train segmentation | panoptic`."""

    kind: str

    @abstractmethod
    def open(self) -> PatchSet:
        """Return the patches; raises UserError where the source is not there or holds what cannot be used."""


class Loaded(NamedTuple):
    """A batch."""

    batch: Batch
    classes: Tensor
    """(B, H, W)."""
    instances: Tensor
    """(B, H, W)."""
    truth: Truth | None
    """Targets of fields, where they were asked for."""

    def to(self, device: torch.device) -> Loaded:
        """Return the same on a device."""
        batch = {name: one.to(device) for name, one in self.batch.items()}
        fields = None if self.truth is None else self.truth.to(device)
        return Loaded(batch, self.classes.to(device), self.instances.to(device), fields)


@dataclass(frozen=True)
class Loading:
    """How patches become batches."""

    patches: PatchSet
    names: tuple[str, ...]
    """Modalities."""
    statistics: Mapping[str, Statistics]
    batch: int
    workers: int = 0
    """Processes that read; 0: this one."""
    has_fields: bool = False
    """Targets of fields are made."""
    rank: int = 0
    """Which of the processes this is, each of which reads its part of every batch."""
    world: int = 1

    def batches(self, rows: Sequence[int]) -> Iterator[Loaded]:
        """Yield this process's part of the batches of the patches in this order.

        A last batch of fewer patches than processes is given whole to those that have no part of it, for none may miss a step.
        """
        starts = range(0, len(rows), self.batch)
        whole = [list(range(start, min(start + self.batch, len(rows)))) for start in starts]
        loader: DataLoader[Any] = DataLoader(
            _Rows(self, tuple(rows)),
            batch_sampler=[one[self.rank :: self.world] or one for one in whole],
            collate_fn=collate,
            num_workers=self.workers,
            prefetch_factor=AHEAD if self.workers else None,
            # A generator of its own: reading ahead must not draw from the network's.
            generator=torch.Generator().manual_seed(0),
        )
        yield from loader

    def sample(self, row: int) -> Loaded:
        """Return a patch as a batch of one, standardised; 0, the mean, where there is no value."""
        patch = self.patches.read(row, self.names)
        batch = {}
        for name in self.names:
            mean, sd = (one[:, None, None] for one in self.statistics[name])
            images = np.nan_to_num((patch.images[name] - mean) / sd, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            day = torch.from_numpy(patch.days[name])[None]
            batch[name] = ImageSeries(torch.from_numpy(images)[None], day, torch.ones_like(day, dtype=torch.bool))
        made = targets(patch.instances, patch.classes, self.patches.void) if self.has_fields else None
        instances = patch.instances if made is None else made.instances
        fields = None if made is None else truth([made])
        return Loaded(batch, torch.from_numpy(patch.classes)[None], torch.from_numpy(instances)[None], fields)


class _Rows(Dataset[Loaded]):
    """The patches of an epoch."""

    def __init__(self, loading: Loading, rows: tuple[int, ...]) -> None:
        self.loading, self.rows = loading, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Loaded:
        return self.loading.sample(self.rows[index])


def collate(samples: Sequence[Loaded]) -> Loaded:
    """Return batches of one as one batch, those of fewer dates padded with zeros."""
    batch = {}
    for name in samples[0].batch:
        series = [one.batch[name] for one in samples]
        most = max(one.day.shape[1] for one in series)
        batch[name] = ImageSeries(
            torch.cat([_padded(one.images, most) for one in series]),
            torch.cat([_padded(one.day, most) for one in series]),
            torch.cat([_padded(one.valid, most) for one in series]),
        )
    fields = [one.truth for one in samples if one.truth is not None]
    names = ("heatmap", "instances", "zones", "sizes", "classes")
    return Loaded(
        batch,
        torch.cat([one.classes for one in samples]),
        torch.cat([one.instances for one in samples]),
        Truth(*(torch.cat([getattr(one, name) for one in fields]) for name in names)) if fields else None,
    )


def _padded(rows: Tensor, dates: int) -> Tensor:
    """Return (1, T, ...) with zeros up to so many dates."""
    more = dates - rows.shape[1]
    return torch.cat([rows, rows.new_zeros(1, more, *rows.shape[2:])], 1) if more else rows


def rows_of(patches: PatchSet, test: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on, to validate on and to test on, of a test fold: train / val / test 123 / 4 / 5 and so on."""
    validation = (test - 2) % len(FOLDS) + 1
    of_fold = (~np.isin(patches.fold, (validation, test)), patches.fold == validation, patches.fold == test)
    return tuple(np.flatnonzero(one) for one in of_fold)  # type: ignore[return-value]


def training_folds(test: int) -> tuple[int, ...]:
    """Return the three folds to train on."""
    return tuple(fold for fold in FOLDS if fold not in (test, (test - 2) % len(FOLDS) + 1))
