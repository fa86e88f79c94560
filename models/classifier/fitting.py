"""Fitting the classifier's weights, epoch by epoch: goes on where it was stopped, on one device or with other processes.

    loss = CE(fused) + w sum_m CE(modality m)         each CE weighted by count^-balance of the classes

Every epoch samples from seeds of its own (seed, epoch, rank), so an epoch depends on the weights before it and on nothing
else: stopped and gone on with, a fit ends with the weights of one that was not stopped. Processes share each batch; their
gradients are averaged, and after each epoch the running statistics of the batch norms.
Source: Garnot, Landrieu and Chehata 2022; one-cycle schedule, Smith and Topin 2019.
Shapes: P parcels, target (P,), members (M,) indices of those to learn from.
Units:  days since the season's start.
Errors: none of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from models.classifier.label_noise import as_labelled, confusion_of
from models.classifier.network import Output, PseLtae
from models.classifier.packed_series import Batch
from models.classifier.sampling import PackedParcels, Thinning, ahead, moved, sample

# Share of the steps in which the learning rate rises; chosen because batch norms settle within a few epochs.
WARM_UP = 0.2
# Share of a GPU's free memory that the pixels may take; chosen because a batch and its activations need far less.
RESIDENT = 0.5

State = dict[str, Any]
"""Tensors, numbers and containers of them: what `torch.load(weights_only=True)` reads back."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained."""

    evaluation_days: tuple[float, ...]
    """Days of the season at which validation parcels are scored; also the knots of the temperature."""
    epochs: int = 100
    batch: int = 64
    """Parcels of a step, of all processes together."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule. The published constant 1e-3 scores 0.02 less on the Dutch parcels (macro-F1)."""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    auxiliary_weight: float = 0.5
    thinning: Thinning = field(default_factory=Thinning)
    balance: float = 0.5
    """Class weights are count^-balance: 0 counts parcels alike, 1 classes alike."""
    select_by: Literal["macro_f1", "miou"] = "macro_f1"
    """The validation score, its mean over the evaluation days, that chooses the epoch."""
    validate_every: int = 5
    """Epochs from one validation to the next."""
    seed: int = 0
    wrong_labels: float = 0.0
    """Share of the labels that are expected to be wrong; loss and temperature allow for them (models.classifier.label_noise)."""


@dataclass(frozen=True)
class Epoch:
    """The figures reported after an epoch."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over training parcels (of this process)."""
    learning_rate: float
    """Of its last step."""
    macro_f1: float | None = None
    """On the validation parcels, mean of the evaluation days; None: not validated after this epoch."""
    miou: float | None = None
    round: int = 1
    """From 1: each held-out set, and the last fit on all parcels, are a round."""
    rounds: int = 1


@dataclass(frozen=True)
class Session:
    """Where a training runs, with which processes, what it reports to, and the state it resumes from."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    """Processes of the group that torch.distributed was started with; 1: alone."""
    on_epoch: Callable[[Epoch, Callable[[], State]], None] | None = None
    """Called after each epoch, in the first process only, with a function that returns the state to resume from."""
    state: State | None = None

    @property
    def is_first(self) -> bool:
        """Say whether this process validates and reports."""
        return self.rank == 0

    def placed(self, parcels: PackedParcels) -> PackedParcels:
        """Return the parcels on the GPU where they fit, else where they are."""
        if self.device.type != "cuda":
            return parcels
        free, _ = torch.cuda.mem_get_info(self.device)
        return parcels.to(self.device) if parcels.n_bytes < RESIDENT * free else parcels


class Fitting:
    """One fit: the network and all that changes with it."""

    def __init__(
        self,
        network: PseLtae,
        training: TrainingConfig,
        parcels: PackedParcels,
        target: Tensor,
        members: Tensor,
        session: Session,
    ) -> None:
        self.network, self.training, self.session = network, training, session
        self.parcels, self.members, self.target = parcels, members, target.to(session.device)
        learnt = self.target[members.to(session.device)]
        classes, share = len(network.config.classes), training.wrong_labels
        self.weight = class_weight(learnt, classes, training.balance)
        wrong = confusion_of(learnt.cpu().numpy(), classes, share) if share > 0 else None
        self.confusion = None if wrong is None else torch.from_numpy(wrong).to(session.device)
        self.steps = -(-len(members) // training.batch)
        self.optimiser = torch.optim.Adam(network.parameters(), training.learning_rate, fused=True)
        self.schedule = _schedule(self.optimiser, training, self.steps)
        self.epoch, self.best_score, self.best = 0, -1.0, copy.deepcopy(network.state_dict())
        # Without auxiliary losses the modalities' own heads have no gradient.
        self.shared: nn.Module = (
            network
            if session.world == 1
            else nn.parallel.DistributedDataParallel(
                network, forward_sync_buffers=False, find_unused_parameters=training.auxiliary_weight == 0
            )
        )
        if session.state is not None:
            self.restore(session.state)

    def run(self, validate: Callable[[PseLtae], dict[str, float]] | None, *, is_selected: bool) -> PseLtae:
        """Fit to the end; the network, in evaluation mode, with its last weights, or if selected those that validated best."""
        training = self.training
        while self.epoch < training.epochs:
            self.epoch += 1
            loss = self._learn()
            scores: dict[str, float] = {}
            is_due = self.epoch % training.validate_every == 0 or self.epoch == training.epochs
            if self.session.is_first and validate is not None and is_due:
                scores = validate(self.network.eval())
                if is_selected and scores[training.select_by] >= self.best_score:
                    self.best_score, self.best = scores[training.select_by], copy.deepcopy(self.network.state_dict())
            if self.session.is_first and self.session.on_epoch is not None:
                rate, known = float(self.schedule.get_last_lr()[0]), (scores.get("macro_f1"), scores.get("miou"))
                self.session.on_epoch(Epoch(self.epoch, training.epochs, loss, rate, *known), self.state)
        if validate is not None and is_selected:
            self.network.load_state_dict(self.best)
            if self.session.world > 1:
                for tensor in self.network.state_dict().values():
                    distributed.broadcast(tensor, 0)
        return self.network.eval()

    def state(self) -> State:
        """Return all that the next epoch depends on, and the best weights so far."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "best_score": self.best_score,
        }

    def restore(self, state: State) -> None:
        """Goes back to a state."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best_score, self.best = state["epoch"], state["best_score"], copy.deepcopy(state["best"])

    def _learn(self) -> float:
        """Return one epoch; the mean loss."""
        self.shared.train()
        torch.manual_seed(self._seed(self.session.rank, 1))  # dropout
        total, count = torch.zeros((), device=self.session.device), 0
        batches = self._batches()
        is_far = self.parcels.device.type != self.session.device.type
        for batch, target in ahead(batches) if is_far else batches:
            loss = loss_of(self.shared(batch), target, self.weight, self.training.auxiliary_weight, self.confusion)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.schedule.step()
            total += loss.detach() * len(target)
            count += len(target)
        if self.session.world > 1:
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.session.world
        return float(total) / count

    def _batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield this process's part of every batch of an epoch, on the session's device."""
        device, session = self.parcels.device, self.session
        order = torch.randperm(len(self.members), generator=torch.Generator().manual_seed(self._seed(0, 2)))
        random = torch.Generator(device).manual_seed(self._seed(session.rank, 3))
        for part in self.members[order.to(device)].tensor_split(self.steps):
            some = part[session.rank :: session.world]
            batch = sample(self.parcels, some, self.network.config.modalities, self.training.thinning, random)
            yield moved(batch, session.device), self.target[some.to(session.device)]

    def _seed(self, rank: int, what: int) -> int:
        return int(np.random.SeedSequence([self.training.seed, self.epoch, rank, what]).generate_state(1)[0])


def loss_of(
    output: Output, target: Tensor, weight: Tensor, auxiliary_weight: float, confusion: Tensor | None = None
) -> Tensor:
    """Cross entropy of the fused logits and, over parcels that have the modality, of each modality's.

    Args:
        confusion: (K, K) of labels of which some are wrong; None: all are right.
    """
    loss = functional.cross_entropy(as_labelled(output.logits, confusion), target, weight)
    if auxiliary_weight == 0:
        return loss
    for name, logits in output.auxiliary.items():
        seen = output.is_seen[name]
        each = functional.cross_entropy(as_labelled(logits, confusion), target, weight, reduction="none") * seen
        loss = loss + auxiliary_weight * each.sum() / (weight[target] * seen).sum().clamp(min=1e-6)
    return loss


def class_weight(target: Tensor, classes: int, balance: float) -> Tensor:
    """Weights (K,) count^-balance with mean 1 over parcels; 0 for a class without a training parcel."""
    count = torch.bincount(target, minlength=classes).float()
    weight = torch.where(count > 0, count.clamp(min=1) ** -balance, 0.0)
    return weight / weight[target].mean()


def _schedule(
    optimiser: torch.optim.Optimizer, training: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    total = training.epochs * steps
    if training.schedule == "constant" or total < 3:  # two steps cannot rise and fall
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    # The rising phase has pct_start * total - 1 intervals, by which torch divides: never fewer than one.
    rising = max(WARM_UP, 2 / total)
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, total_steps=total, pct_start=rising)
