"""Fitting a network of pixels, epoch by epoch, and its scores.

    segmentation  CE(fused) + 0.5 sum_m CE(modality m), void left out            score: mIoU
    panoptic      centre + size + class + shape (models.segmentation.losses)     score: PQ

Every epoch draws from seeds of its own (seed, epoch, rank), so an epoch depends on the weights and the optimiser before it and on nothing
else: stopped at any time and gone on with, a fit ends with the weights of one that was not stopped. Processes share each batch: means are
over the whole of it, gradients are added up, and after each epoch the running statistics of the batch norms are averaged; within a step a
batch norm sees the part of its own process.
Source: Garnot, Landrieu and Chehata 2022, section 4.2: Adam, the epoch that validates best is taken.
Errors: none of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from models.segmentation.losses import losses
from models.segmentation.network import AUXILIARY, Batch, PanopticNetwork, SegmentationNetwork, loss_of, without_dates
from models.segmentation.paps import panoptic
from models.segmentation.scoring import (
    Counts,
    PanopticCounts,
    Void,
    boundary_iou,
    confusion,
    mean_iou,
    object_f1,
    panoptic_counts,
)
from training.patches import TURNS, Loaded, Loading
from training.segmentation_config import SegmentationRun

Network = SegmentationNetwork | PanopticNetwork
State = dict[str, Any]
"""Tensors, numbers and containers of them: what `torch.load(weights_only=True)` reads back."""


@dataclass(frozen=True)
class Epoch:
    """The figures reported after an epoch."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over training patches."""
    learning_rate: float
    score: float | None = None
    """mIoU or PQ on the validation patches; None: not validated after this epoch."""


class Fitting:
    """One fit: the network and all that changes with it."""

    def __init__(
        self,
        network: Network,
        run: SegmentationRun,
        loading: Loading,
        rows: NDArray[np.int64],
        state: State | None = None,
    ) -> None:
        self.device = torch.device(run.training.device)
        self.network, self.run, self.loading, self.rows = network.to(self.device), run, loading, rows
        self.shared: nn.Module = self.network
        if loading.world > 1:
            # Where no process has a candidate, nothing of the heads of fields has a gradient.
            self.shared = nn.parallel.DistributedDataParallel(
                self.network, forward_sync_buffers=False, find_unused_parameters=run.task == "panoptic"
            )
        self.optimiser = torch.optim.Adam(network.parameters(), run.rate(1))
        self.epoch, self.best_score, self.best = 0, -math.inf, copy.deepcopy(network.state_dict())
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.epoch, self.best_score, self.best = state["epoch"], state["best_score"], state["best"]

    def fit(self, validation: NDArray[np.int64], on_epoch: Callable[[Epoch, Callable[[], State]], None]) -> Network:
        """Fit to the end; return the network, in evaluation mode, with the weights that validated best."""
        training = self.run.training
        while self.epoch < training.epochs:
            self.epoch += 1
            loss, score = self._learn(), None
            if self.epoch % training.validate_every == 0 or self.epoch == training.epochs:
                score = scored(self.network, self.loading, validation, self.run).score
                worth = -1.0 if math.isnan(score) else score  # NaN: no class is anywhere
                if worth >= self.best_score:
                    self.best_score, self.best = worth, copy.deepcopy(self.network.state_dict())
            on_epoch(Epoch(self.epoch, training.epochs, loss, self.run.rate(self.epoch), score), self.state)
        self.network.load_state_dict(self.best)
        return self.network.eval()

    def state(self) -> State:
        """Return all that the next epoch depends on, and the best weights so far."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "best_score": self.best_score,
        }

    def _learn(self) -> float:
        """Fit one epoch; return the mean loss."""
        self.shared.train()
        rank, world, size = self.loading.rank, self.loading.world, self.loading.batch
        torch.manual_seed(self._seed(1, rank))  # dropout
        random = torch.Generator().manual_seed(self._seed(2, rank))
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self._seed(3)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.run.rate(self.epoch)
        total = torch.zeros((), device=self.device)
        turns = torch.randint(TURNS, (len(order),), generator=torch.Generator().manual_seed(self._seed(4))).tolist()
        rows = self.rows[order.numpy()].tolist()
        for step, loaded in enumerate(self.loading.batches(rows, turns if self.run.training.augment else None)):
            patches = min(size, len(self.rows) - step * size)
            loss = self._loss(loaded.to(self.device), random, has_part=rank < patches)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total += loss.detach() * patches
        if world > 1:
            for tensor in (total, *(one for one in self.network.buffers() if one.is_floating_point())):
                distributed.all_reduce(tensor)
                tensor /= world
        return float(total) / len(self.rows)

    def _loss(self, loaded: Loaded, random: torch.Generator, *, has_part: bool = True) -> Tensor:
        """Return the loss of a batch; of several processes: what has the batch's as its mean over them."""
        model, batch = self.run.model, loaded.batch
        if model.temporal_dropout:
            batch = without_dates(batch, self.network.config, random)
        with autocast(self.run):
            if isinstance(self.network, SegmentationNetwork):
                weight = AUXILIARY if model.auxiliary else 0.0
                parts = loss_of(self.shared(batch), loaded.classes, weight, self.loading.patches.void)[None]
                counts = (loaded.classes != self.loading.patches.void).sum()[None]
            else:
                assert loaded.truth is not None
                found = losses(self.shared(batch, loaded.truth.zones), loaded.truth, self.loading.patches.void)
                parts, counts = found.parts, found.counts
        if self.loading.world == 1:
            return parts.sum()
        whole = counts * has_part
        distributed.all_reduce(whole)
        # As in the losses, a mean over nothing is over one.
        weight_of = counts.clamp(min=1) * has_part * self.loading.world / whole.clamp(min=1)
        return (parts * weight_of).sum()

    def _seed(self, what: int, rank: int = 0) -> int:
        return int(np.random.SeedSequence([self.run.training.seed, self.epoch, what, rank]).generate_state(1)[0])


def autocast(run: SegmentationRun) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 on a GPU, if asked for."""
    kind = torch.device(run.training.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" and run.training.precision == "mixed")


@dataclass(frozen=True)
class Scores:
    """Counts of a set, of a task."""

    confusion: NDArray[np.int64] | None = None
    """(K, K) of segmentation."""
    panoptic: tuple[PanopticCounts, ...] = ()
    """Void as corrected, and uncorrected."""
    objects: Counts = field(default_factory=lambda: Counts(0, 0.0))
    boundaries: Counts = field(default_factory=lambda: Counts(0, 0.0))

    def __add__(self, other: Scores) -> Scores:
        """Return the counts of both sets."""
        if self.confusion is not None and other.confusion is not None:
            return Scores(self.confusion + other.confusion)
        if not self.panoptic:
            return other
        counts = tuple(a + b for a, b in zip(self.panoptic, other.panoptic, strict=True))
        return Scores(None, counts, self.objects + other.objects, self.boundaries + other.boundaries)

    @property
    def score(self) -> float:
        """Return mIoU or PQ."""
        return float(next(iter(self.metrics().values())))

    def metrics(self) -> dict[str, float]:
        """Return the scores by name, the one that chooses the epoch first."""
        if self.confusion is not None:
            hits, known = np.diag(self.confusion).sum(), self.confusion.sum()
            return {"mIoU": mean_iou(self.confusion), "accuracy": float(hits / known) if known else math.nan}
        corrected, raw = (one.quality() for one in self.panoptic)
        return {
            "PQ": corrected.pq,
            "SQ": corrected.sq,
            "RQ": corrected.rq,
            "PQ (void uncorrected)": raw.pq,
            "SQ (void uncorrected)": raw.sq,
            "RQ (void uncorrected)": raw.rq,
            "F1 of objects": self.objects.score,
            "boundary IoU": self.boundaries.score,
        }


TREATMENTS: tuple[Void, ...] = ("pixels", "uncorrected")


def panoptic_scores(
    fields: NDArray[np.int64],
    classes: NDArray[np.int64],
    true: NDArray[np.int64],
    true_classes: NDArray[np.int64],
    void: int,
) -> Scores:
    """Return the counts of the fields and classes (H, W) of one patch."""
    is_void = true_classes == void
    counts = tuple(
        panoptic_counts(fields, classes, true, true_classes, void + 1, void=void, treatment=one) for one in TREATMENTS
    )
    return Scores(None, counts, object_f1(fields, true, is_void), boundary_iou(fields, true, is_void))


class Predicted(NamedTuple):
    """What a network says of B patches."""

    classes: NDArray[np.int64]
    """(B, H, W); background where a panoptic network finds no field."""
    fields: NDArray[np.int64] | None
    """(B, H, W) fields numbered from 1, 0 where there is none; None of segmentation."""

    def counts(self, loaded: Loaded, void: int) -> list[Scores]:
        """Return the counts of each patch against its truth."""
        true = loaded.classes.numpy()
        if self.fields is None:
            return [Scores(confusion(*one, void, void)) for one in zip(self.classes, true, strict=True)]
        each = zip(self.fields, self.classes, loaded.instances.numpy(), true, strict=True)
        return [panoptic_scores(*one, void) for one in each]


@torch.inference_mode()
def predicted(network: Network, batch: Batch, run: SegmentationRun) -> Predicted:
    """Return what a network in evaluation mode says of a batch, which may be on another device."""
    device = next(network.parameters()).device
    with autocast(run):
        answer = network({name: one.to(device) for name, one in batch.items()})
    if isinstance(network, SegmentationNetwork):
        return Predicted(answer.logits.argmax(1).cpu().numpy(), None)
    fields = panoptic(answer, network.head.config)
    return Predicted(fields.class_scores(answer).argmax(1).cpu().numpy(), fields.instances.cpu().numpy())


def scored(network: Network, loading: Loading, rows: Sequence[int] | NDArray[np.int64], run: SegmentationRun) -> Scores:
    """Return the counts of a network on patches, all dates given, added up over processes; it is left in evaluation mode."""
    network.eval()
    found: list[Scores] = []
    own = [int(one) for one in rows[loading.rank :: loading.world]]
    for loaded in replace(loading, rank=0, world=1).batches(own):
        found += predicted(network, loaded.batch, run).counts(loaded, loading.patches.void)
    if loading.world > 1:
        gathered: list[Any] = [None] * loading.world
        distributed.all_gather_object(gathered, found)
        found = [one for part in gathered for one in part]
    return sum(found[1:], found[0])
