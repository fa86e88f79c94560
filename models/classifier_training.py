"""Training of the crop classifier on packed observations in memory.

    loss = CE(fused) + 0.5 sum_m CE(modality m)      over seasons cut at a random day

Source: Garnot, Landrieu and Chehata 2022: auxiliary losses 0.5, temporal dropout 0.4 / 0.2, Adam 1e-3. Added here:
        random truncation, for answers at any date, and dropout of whole modalities, for answers without them.
Shapes: P parcels, labels (P,), masks (P,); observations packed (models.normalise.Observations).
Units:  observations physical, days since the season's start.
Errors: ValueError for masks or labels that leave nothing to learn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.calibrate import Temperature, expected_calibration_error, fit_temperature
from models.classifier import ClassifierConfig, Output, PseLtae
from models.crop_model import CropModel
from models.normalise import Normaliser, Observations
from models.sampling import PackedParcels, Thinning, draw
from models.series import Batch
from models.streaming import State

# Share of the steps in which the learning rate rises; chosen because batch norms settle within a few epochs.
WARM_UP = 0.2

Progress = Callable[[int, int, float], None]
"""Called after each epoch with (epoch from 1, epochs, mean loss)."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained."""

    evaluation_days: tuple[float, ...]
    """Days of the season at which validation parcels are scored; also the knots of the temperature."""
    epochs: int = 100
    batch: int = 64
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule. The published constant 1e-3 scores 0.02 less on the Dutch parcels (macro-F1)."""
    auxiliary_weight: float = 0.5
    thinning: Thinning = field(default_factory=Thinning)
    balance: float = 0.5
    """Class weights are count^-balance: 0 counts parcels alike, 1 classes alike."""
    validate_every: int = 5
    """Epochs from one validation to the next."""
    seed: int = 0


def train_classifier(
    config: ClassifierConfig,
    training: TrainingConfig,
    observations: Mapping[str, Observations],
    geometry: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    is_training: NDArray[np.bool_],
    is_validation: NDArray[np.bool_],
    *,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> CropModel:
    """A classifier of labels (P,) learnt from the training parcels, chosen and calibrated on the validation parcels.

    Args:
        geometry: (P, 4) perimeter m, area m2, perimeter / area, fill.
        labels: (P,) index into config.classes; what lies outside the two masks is not looked at.
        is_training: (P,) bool; take whole spatial blocks, else scores flatter.
        is_validation: (P,) bool, disjoint; without any, the last epoch is taken and the temperature is 1.

    Raises:
        ValueError: the masks overlap, or fewer than two training parcels or classes are left.
    """
    _check(config, labels, is_training, is_validation)
    wanted = {one.name: observations[one.name] for one in config.modalities}
    per_orbit = [one.name for one in config.modalities if one.is_per_orbit]
    normaliser = Normaliser.fit(wanted, geometry, is_training, per_orbit)
    parcels = PackedParcels.of(normaliser.batch(wanted, geometry).to(device))
    members, held_out = (torch.from_numpy(np.flatnonzero(one)).to(device) for one in (is_training, is_validation))
    validation, validation_labels = parcels.take(held_out), labels[is_validation]
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)  # initial weights and dropout
        network = PseLtae(config).to(device)
        target = torch.from_numpy(labels).to(device)
        network.load_state_dict(
            _fit(network, training, parcels, target, members, validation, validation_labels, progress)
        )
    temperature, scores = _score(network.eval(), validation, validation_labels, training.evaluation_days)
    return CropModel(network.cpu(), normaliser, temperature, scores)


def _fit(
    network: PseLtae,
    training: TrainingConfig,
    parcels: PackedParcels,
    target: Tensor,
    members: Tensor,
    validation: Batch,
    validation_labels: NDArray[np.int64],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """The weights of the epoch that validated best, the last one where there is no validation parcel."""
    device = target.device
    random = torch.Generator(device).manual_seed(training.seed)
    weight = _class_weight(target[members], len(network.config.classes), training.balance)
    steps = -(-len(members) // training.batch)
    optimiser = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.learning_rate, total_steps=training.epochs * steps, pct_start=WARM_UP
    )
    best_score, best = -1.0, copy.deepcopy(network.state_dict())
    for epoch in range(1, training.epochs + 1):
        network.train()
        total = 0.0
        for some in members[torch.randperm(len(members), generator=random, device=device)].chunk(steps):
            batch = draw(parcels, some, network.config.modalities, training.thinning, random)
            loss = _loss(network(batch), target[some], weight, training.auxiliary_weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(some)
        if len(validation) and (epoch % training.validate_every == 0 or epoch == training.epochs):
            logits = logits_at(network.eval(), validation, training.evaluation_days)
            score = float(np.mean([macro_f1(validation_labels, one.argmax(1)) for one in logits]))
            if score >= best_score:
                best_score, best = score, copy.deepcopy(network.state_dict())
        if progress is not None:
            progress(epoch, training.epochs, total / len(members))
    return best if len(validation) else network.state_dict()


def _loss(output: Output, target: Tensor, weight: Tensor, auxiliary_weight: float) -> Tensor:
    """Cross entropy of the fused logits and, over parcels that have the modality, of each modality's."""
    loss = functional.cross_entropy(output.logits, target, weight)
    for name, logits in output.auxiliary.items():
        seen = output.is_seen[name]
        each = functional.cross_entropy(logits, target, weight, reduction="none") * seen
        loss = loss + auxiliary_weight * each.sum() / (weight[target] * seen).sum().clamp(min=1e-6)
    return loss


def _class_weight(target: Tensor, classes: int, balance: float) -> Tensor:
    """Weights (K,) count^-balance with mean 1 over parcels; 0 for a class without a training parcel."""
    count = torch.bincount(target, minlength=classes).float()
    weight = torch.where(count > 0, count.clamp(min=1) ** -balance, 0.0)
    return weight / weight[target].mean()


@torch.no_grad()
def logits_at(network: PseLtae, batch: Batch, days: tuple[float, ...]) -> NDArray[np.float32]:
    """Logits (D, P, K) with what was known at the end of each of the days, ascending: one pass over the season."""
    states: dict[str, State] | None = None
    since, logits = -np.inf, []
    for day in days:
        news = {name: one.take((one.day > since) & (one.day <= day)) for name, one in batch.series.items()}
        states = network.encode(Batch(news, batch.geometry), states)
        logits.append(network.decode(states).cpu().numpy())
        since = day
    return np.stack(logits)


def newest_days(batch: Batch, days: tuple[float, ...]) -> NDArray[np.float64]:
    """The day (D, P) of each parcel's newest observation known at the end of each of the days; 0 before the first."""
    newest = np.zeros((len(days), len(batch)))
    for one in batch.series.values():
        parcel, day = one.parcel.cpu().numpy(), one.day.cpu().numpy()
        for row, until in zip(newest, days, strict=True):
            np.maximum.at(row, parcel[day <= until], day[day <= until])
    return newest


def macro_f1(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """The mean F1 of the classes that occur in labels or predictions."""
    classes = int(max(labels.max(), predicted.max())) + 1
    right = np.bincount(labels[labels == predicted], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * right[either > 0] / either[either > 0]).mean())


def _score(
    network: PseLtae, validation: Batch, labels: NDArray[np.int64], days: tuple[float, ...]
) -> tuple[Temperature, dict[str, Any]]:
    """The temperature, and scores at each evaluation day, on validation parcels."""
    if not len(validation):
        return Temperature(), {}
    logits, newest = logits_at(network, validation, days), newest_days(validation, days)
    temperature = fit_temperature(
        logits.reshape(-1, logits.shape[-1]), newest.ravel(), np.tile(labels, len(days)), sorted(set(days))
    )
    return temperature, {
        "parcels": len(labels),
        "days": list(days),
        "macro_f1": [macro_f1(labels, one.argmax(1)) for one in logits],
        "accuracy": [float((one.argmax(1) == labels).mean()) for one in logits],
        "calibration_error": [
            expected_calibration_error(temperature.probabilities(one, day), labels)
            for one, day in zip(logits, newest, strict=True)
        ],
    }


def _check(
    config: ClassifierConfig, labels: NDArray[Any], is_training: NDArray[np.bool_], is_validation: NDArray[np.bool_]
) -> None:
    if (is_training & is_validation).any():
        raise ValueError("training and validation parcels overlap: scores would flatter")
    used = labels[is_training | is_validation]
    if len(used) and (used.min() < 0 or used.max() >= len(config.classes)):
        raise ValueError(f"labels go from {used.min()} to {used.max()}, the model has {len(config.classes)} classes")
    if is_training.sum() < 2 or len(set(labels[is_training].tolist())) < 2:
        raise ValueError("a classifier needs training parcels of at least two classes")
