"""Training of the crop classifier on packed observations, in memory or in mapped files, by one process or by several.

    loss = CE(fused) + 0.5 sum_m CE(modality m)      over seasons cut at a random day

Source: Garnot, Landrieu and Chehata 2022: auxiliary losses 0.5, temporal dropout 0.4 / 0.2, Adam 1e-3. Added here:
        random truncation, for answers at any date, and dropout of whole modalities, for answers without them.
Shapes: P parcels, labels (P,), masks (P,); observations packed (models.classifier.normalisation.Observations).
Units:  observations physical or stored, days since the season's start.
Errors: ValueError for masks or labels that leave nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.calibration import Temperature, expected_calibration_error, fit_temperature
from models.classifier.crop_model import CropModel
from models.classifier.fitting import Epoch, Fitting, Session, State
from models.classifier.fitting import TrainingConfig as TrainingConfig
from models.classifier.label_noise import confusion_of
from models.classifier.network import ClassifierConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from models.classifier.sampling import PackedParcels
from models.classifier.scoring import Predictions, macro_f1, mean_iou, predict
from models.classifier.scoring import logits_at as logits_at
from models.classifier.scoring import newest_days as newest_days

Progress = Callable[[int, int, float], None]
"""Called after each epoch with (epoch from 1, epochs, mean loss)."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Inputs:
    """What is learnt from."""

    observations: Mapping[str, Observations]
    geometry: NDArray[np.floating[Any]]
    """(P, 4) perimeter m, area m2, perimeter / area, fill."""
    labels: NDArray[np.int64]
    """(P,) index into the classes; ignored outside the masks of a training."""
    normaliser: Normaliser | None = None
    """The standardisation to take; None: that of the training parcels."""


# More than six: the arrays of a training set as a caller has them; `train_calibrated` takes them as `inputs`.
def train_classifier(
    config: ClassifierConfig,
    training: TrainingConfig,
    observations: Mapping[str, Observations],
    geometry: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    is_training: Mask,
    is_validation: Mask,
    *,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> CropModel:
    """Return a classifier of labels (P,) learnt from the training parcels, chosen and calibrated on the validation parcels.

    Args:
        geometry: (P, 4) perimeter m, area m2, perimeter / area, fill.
        labels: (P,) index into config.classes; ignored outside the two masks.
        is_training: (P,) bool; take whole spatial blocks, else scores flatter.
        is_validation: (P,) bool, disjoint; without any, the last epoch is taken and the temperature is 1.

    Raises:
        ValueError: the masks overlap, or fewer than two training parcels or classes are left.
    """
    if (is_training & is_validation).any():
        raise ValueError("training and validation parcels overlap: scores would flatter")
    report = (lambda epoch, _: progress(epoch.number, epoch.of, epoch.loss)) if progress is not None else None
    session = Session(torch.device(device), on_epoch=report)
    inputs = Inputs(observations, geometry, labels)
    held_out = [is_validation] if is_validation.any() else []
    usable = is_training | is_validation
    return train_calibrated(config, training, inputs, usable, held_out, is_refitted=not held_out, session=session)


# More than six: configuration, data, the two masks and where it runs are independent of each other.
def train_calibrated(
    config: ClassifierConfig,
    training: TrainingConfig,
    inputs: Inputs,
    usable: Mask,
    held_out: Sequence[Mask],
    *,
    is_refitted: bool,
    session: Session | None = None,
) -> CropModel:
    """Return a classifier with its temperature and scores from parcels that were held out.

    For each of the masks a network is trained on what else is usable and asked for those parcels; the temperature and the
    scores are of all the answers together (one mask: a validation set; masks that part the parcels: cross-fitting). Then,
    if wanted, one more is trained on all that is usable, for as many epochs. It is taken at its last epoch, and so the others
    are then: at the epoch that answers the held-out parcels best a network is surer with reason than at the last one.

    Args:
        usable: (P,) parcels that may be trained and validated on; the others are ignored (a test fold).
        held_out: masks (P,) of usable parcels; none: the temperature is 1.
        is_refitted: without, there is one mask and its network is the result.

    Raises:
        ValueError: fewer than two training parcels or classes are left, or no network would be the result.
    """
    session = session or Session()
    if not is_refitted and len(held_out) != 1:
        raise ValueError(f"{len(held_out)} held-out sets without a refit: exactly one leaves a model")
    earlier: State = session.state or {"answers": []}
    answers = [Predictions(one["logits"].numpy(), one["newest"].numpy()) for one in earlier["answers"]]
    nothing = np.zeros_like(usable)
    rounds = [*held_out, *([nothing] if is_refitted else [])]
    for number in range(len(answers), len(rounds)):
        held, done = rounds[number], [_tensors(one) for one in answers]

        def report(epoch: Epoch, state: Callable[[], State], number: int = number, done: list[State] = done) -> None:
            if session.on_epoch is not None:
                of_rounds = replace(epoch, round=number + 1, rounds=len(rounds))
                session.on_epoch(of_rounds, lambda: {"answers": done, "fitting": state()})

        is_begun = number == len(earlier["answers"])
        own = replace(session, on_epoch=report, state=earlier.get("fitting") if is_begun else None)
        masks = usable & ~held, held
        network, normaliser, said = _trained(config, training, inputs, *masks, own, is_selected=not is_refitted)
        if said is not None:
            answers.append(said)
    labels = np.concatenate([inputs.labels[one] for one in held_out]) if held_out else np.zeros(0, np.int64)
    joined = Predictions.joined(answers) if answers and session.is_first else None
    temperature, scores = calibrated(joined, labels, training.evaluation_days, training.wrong_labels)
    return CropModel(network, normaliser, temperature, scores)


def calibrated(
    answers: Predictions | None, labels: NDArray[np.int64], days: tuple[float, ...], wrong_labels: float = 0.0
) -> tuple[Temperature, dict[str, Any]]:
    """Return the temperature, and scores at each of the days, of answers for parcels that the networks did not see.

    Args:
        wrong_labels: share of the labels that are expected to be wrong.
    """
    if answers is None or not len(labels):
        return Temperature(), {}
    k = answers.logits.shape[-1]
    confusion = confusion_of(labels, k, wrong_labels) if wrong_labels > 0 else None
    temperature = fit_temperature(
        answers.logits.reshape(-1, k), answers.newest.ravel(), np.tile(labels, len(days)), sorted(set(days)), confusion
    )
    return temperature, {
        "parcels": len(labels),
        "days": list(days),
        "macro_f1": [macro_f1(labels, one.argmax(1)) for one in answers.logits],
        "miou": [mean_iou(labels, one.argmax(1)) for one in answers.logits],
        "accuracy": [float((one.argmax(1) == labels).mean()) for one in answers.logits],
        "calibration_error": [
            expected_calibration_error(temperature.probabilities(one, day), labels)
            for one, day in zip(answers.logits, answers.newest, strict=True)
        ],
    }


def standardised(config: ClassifierConfig, inputs: Inputs, is_training: Mask) -> tuple[Normaliser, PackedParcels]:
    """Return the standardisation that a configuration asks for, from the training parcels, and all parcels packed with it."""
    wanted = {one.name: inputs.observations[one.name] for one in config.modalities}
    per_orbit = [one.name for one in config.modalities if one.is_per_orbit]
    anomalies = [one.name for one in config.modalities if one.has_anomalies]
    normaliser = inputs.normaliser or Normaliser.fit(wanted, inputs.geometry, is_training, per_orbit, anomalies)
    return normaliser, PackedParcels.of(normaliser, wanted, inputs.geometry)


# More than six: as `train_calibrated`, of one of its trainings.
def _trained(
    config: ClassifierConfig,
    training: TrainingConfig,
    inputs: Inputs,
    is_training: Mask,
    is_held: Mask,
    session: Session,
    *,
    is_selected: bool,
) -> tuple[PseLtae, Normaliser, Predictions | None]:
    """Return a network in evaluation mode on the CPU, its standardisation, and what it says of the held-out parcels."""
    _check(config, inputs.labels, is_training, is_held, session)
    normaliser, packed = standardised(config, inputs, is_training)
    parcels = session.placed(packed)
    members, held = (torch.from_numpy(np.flatnonzero(one)).to(parcels.device) for one in (is_training, is_held))
    device, days, labels = session.device, training.evaluation_days, inputs.labels[is_held]

    def said(network: PseLtae) -> Predictions:
        return predict(network, parcels, held, days, device)

    def validated(network: PseLtae) -> dict[str, float]:
        answers = [one.argmax(1) for one in said(network).logits]
        scores = {"macro_f1": macro_f1, "miou": mean_iou}
        return {name: float(np.mean([score(labels, one) for one in answers])) for name, score in scores.items()}

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)  # initial weights
        network, target = PseLtae(config).to(device), torch.from_numpy(inputs.labels)
        fitting = Fitting(network, training, parcels, target, members, session)
        network = fitting.run(validated if len(held) else None, is_selected=is_selected)
    answers = said(network) if len(held) and session.is_first else None
    return network.cpu(), normaliser, answers


def _tensors(answers: Predictions) -> dict[str, Tensor]:
    """Answers as a checkpoint holds them."""
    return {"logits": torch.from_numpy(answers.logits), "newest": torch.from_numpy(answers.newest)}


def _check(config: ClassifierConfig, labels: NDArray[Any], is_training: Mask, is_held: Mask, session: Session) -> None:
    used = labels[is_training | is_held]
    if len(used) and (used.min() < 0 or used.max() >= len(config.classes)):
        raise ValueError(f"labels go from {used.min()} to {used.max()}, the model has {len(config.classes)} classes")
    if is_training.sum() < 2 * session.world or len(set(labels[is_training].tolist())) < 2:
        raise ValueError("a classifier needs training parcels of at least two classes")
