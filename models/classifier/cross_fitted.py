"""Classifiers that were taught this season's declarations, each without one part of the land: a parcel is answered by the one
that did not see its block.

    fold(parcel) = of_block[floor(y / side), floor(x / side)]      a block that no fold holds was taught to none: fold 1

One checkpoint holds all: they share the network's configuration and the standardisation (which is of no declaration), and have
weights and a temperature each. States carry the id of the checkpoint, and are of one parcel, so of one of its networks.
Shapes: P parcels, lon and lat (P,), fold (P,) 1..K.
Units:  degrees, metres.
Errors: CheckpointError as `CropModel`; ValueError where the folds of parcels are not given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from models.checkpoint import Checkpoint, CheckpointError, pack, unpack
from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.calibration import Temperature
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ConfigError, PseLtae
from models.classifier.normalisation import Normaliser
from models.classifier.packed_series import Batch, Series

KIND: Final = "pse-ltae-folds"
Part = TypeVar("Part")
METRES_PER_DEGREE: Final = 111_320.0


def cells(lon: ArrayLike, lat: ArrayLike, side_m: float) -> NDArray[np.int64]:
    """Return (P, 2) row and column of the square block of each centroid in degrees (equirectangular: exact enough for a split)."""
    x, y = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    row = np.floor(y * METRES_PER_DEGREE / side_m).astype(np.int64)
    # One scale for each degree of latitude, so that blocks of a row line up and regions far apart are square too.
    column = np.floor(x * METRES_PER_DEGREE * np.cos(np.radians(np.round(y))) / side_m).astype(np.int64)
    return np.stack([row, column], 1)


@dataclass(frozen=True)
class FoldRule:
    """Which fold a parcel is in, by the block of its centroid."""

    side_m: float
    of_block: Mapping[tuple[int, int], int]
    """Fold 1..K of each block that holds a parcel which any of the models learnt from."""

    def fold_of(self, lon: ArrayLike, lat: ArrayLike) -> NDArray[np.int64]:
        """Return (P,) the fold of parcels, whose model learnt from none of their block."""
        found = cells(lon, lat, self.side_m).tolist()
        return np.array([self.of_block.get((row, column), 1) for row, column in found], np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain JSON values."""
        return {"side_m": self.side_m, "of_block": [[*block, fold] for block, fold in sorted(self.of_block.items())]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the rule from what `to_json` gave, read back from JSON."""
        return cls(plain["side_m"], {(row, column): fold for row, column, fold in plain["of_block"]})


@dataclass(frozen=True)
class CrossFitted(CropModel):
    """A classifier of several, of which each parcel is answered by that of its fold. Its own network is that of fold 1."""

    members: tuple[CropModel, ...] = ()
    """By fold, from 1: alike but for weights and temperature."""
    rule: FoldRule = field(default_factory=lambda: FoldRule(1.0, {}))

    @classmethod
    def of(
        cls, members: Sequence[CropModel], rule: FoldRule, scores: Mapping[str, Any], about: Mapping[str, Any]
    ) -> CrossFitted:
        """Return the classifiers of folds 1, 2, ... as one; ValueError where they are not alike."""
        first = members[0]
        if any(one.config != first.config or one.normaliser != first.normaliser for one in members):
            raise ValueError("classifiers of one cross-fitting share configuration and standardisation")
        return cls(first.network, first.normaliser, first.temperature, scores, about, tuple(members), rule)

    def fold_of(self, lon: ArrayLike, lat: ArrayLike) -> NDArray[np.int64]:
        """Return (P,) the fold of parcels with these centroids."""
        return self.rule.fold_of(lon, lat)

    @torch.no_grad()
    def encode(
        self, batch: Batch, states: Mapping[str, State] | None = None, fold: NDArray[np.int64] | None = None
    ) -> dict[str, State]:
        """Return the states of parcels (P,), each by the network of its fold (P,)."""
        start = states or {}

        def part(member: CropModel, rows: Tensor) -> dict[str, State]:
            return member.encode(some(batch, rows), {name: one.take(rows) for name, one in start.items()} or None)

        parts, order = self._parts(fold, part)
        joined = {name: attention_state.concatenate([one[name] for one in parts]) for name in parts[0]}
        return {name: state.take(order.to(self.device)) for name, state in joined.items()}

    @torch.no_grad()
    def posteriors(
        self, states: Mapping[str, State], newest_day: NDArray[Any], fold: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Return calibrated class probabilities (P, K), each by network and temperature of the parcel's fold (P,)."""

        def part(member: CropModel, rows: Tensor) -> NDArray[np.float32]:
            of_rows = {name: one.take(rows) for name, one in states.items()}
            return member.posteriors(of_rows, np.asarray(newest_day)[rows.cpu().numpy()])

        parts, order = self._parts(fold, part)
        return np.asarray(np.concatenate(parts)[order.numpy()], np.float32)

    def _parts(
        self, fold: NDArray[np.int64] | None, part: Callable[[CropModel, Tensor], Part]
    ) -> tuple[list[Part], Tensor]:
        """Return what each fold's model gives of its rows, and the order (P,) that puts all of them together as they came."""
        if fold is None:
            raise ValueError("a cross-fitted classifier needs the folds of the parcels")
        if not len(fold):
            return [part(self.members[0], torch.zeros(0, dtype=torch.int64, device=self.device))], torch.zeros(0).long()
        parts, rows = [], []
        for one in np.unique(fold).tolist():
            rows.append(torch.from_numpy(np.flatnonzero(fold == one)))
            parts.append(part(self.members[one - 1], rows[-1].to(self.device)))
        return parts, torch.argsort(torch.cat(rows))

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> CrossFitted:
        """Return the same models folded, on a device."""
        members = tuple(one.for_inference(device, dtype) for one in self.members)
        return replace(self, network=members[0].network, members=members)

    def to_checkpoint(self) -> Checkpoint:
        """Return all models at rest, as one; CheckpointError where they are folded for inference."""
        plain = [one.to_checkpoint().describe() for one in self.members]  # refuses what is folded
        description = {
            "kind": KIND,
            "config": self.config.to_json(),
            "normaliser": self.normaliser.to_json(),
            "temperatures": [one["temperature"] for one in plain],
            "rule": self.rule.to_json(),
            "scores": dict(self.scores),
            "about": dict(self.about),
        }
        weights = {
            f"{fold}/{name}": tensor
            for fold, one in enumerate(self.members, start=1)
            for name, tensor in one.network.state_dict().items()
        }
        return pack(weights, description)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> CrossFitted:
        """Return the classifiers of a checkpoint, their networks carrying its id.

        Raises:
            CheckpointError: another kind of model, or weights that its configuration does not fit.
        """
        weights, plain = unpack(checkpoint)
        if plain.get("kind") != KIND:
            raise CheckpointError(f"model {plain['model']} is of kind {plain.get('kind')!r}, not {KIND!r}")
        normaliser, members = Normaliser.from_json(plain["normaliser"]), []
        for fold, temperature in enumerate(plain["temperatures"], start=1):
            try:
                network = PseLtae(ClassifierConfig.from_json(plain["config"]), model=plain["model"])
                network.load_state_dict(
                    {name.partition("/")[2]: one for name, one in weights.items() if name.startswith(f"{fold}/")}
                )
            except (ConfigError, RuntimeError) as error:
                raise CheckpointError(f"fold {fold} of model {plain['model']} cannot be read: {error}") from error
            members.append(CropModel(network.eval(), normaliser, Temperature.from_json(temperature)))
        return cls.of(members, FoldRule.from_json(plain["rule"]), plain["scores"], plain["about"])


def classifier_of(checkpoint: Checkpoint) -> CropModel:
    """Return the crop classifier of a checkpoint, of whichever kind; CheckpointError where it is none."""
    kind = checkpoint.describe().get("kind")
    return (CrossFitted if kind == KIND else CropModel).from_checkpoint(checkpoint)


def some(batch: Batch, rows: Tensor) -> Batch:
    """Return the batch of some parcels (M,), ascending."""
    place = torch.full((len(batch),), -1, dtype=torch.int64, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    series = {}
    for name, one in batch.series.items():
        mine = one.take(place[one.parcel] >= 0)
        series[name] = Series(mine.pixels, mine.valid, mine.day, place[mine.parcel])
    return Batch(series, batch.geometry[rows])
