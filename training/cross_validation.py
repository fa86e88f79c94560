"""Cross-validation of the classifier on labelled parcels: every parcel is answered by the model that did not see its fold.

    validation "fold"     the published rotation: test fold k, validation k - 1, training the other three
    validation "blocks"   a fifth of the other four folds held out in whole blocks (inner_folds: each part in turn)

Held-out parcels choose the epoch and give the temperature; with `refit` one more network learns from them too. Statistics
are of the training parcels only. A parcel of which nothing was observed by a day has the class frequencies of what was
learnt from.
Shapes: D days, P labelled parcels of the folds that were run, K classes.
Units:  days since the season's start.
Errors: RunConfigError for a fold that cannot be trained or tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from models.classifier.crop_model import CropModel
from models.classifier.fitting import Epoch, Session, State, TrainingConfig
from models.classifier.ltae import LtaeConfig
from models.classifier.network import ClassifierConfig
from models.classifier.sampling import PackedParcels, Thinning
from models.classifier.scoring import Predictions, predict
from models.classifier.training import Inputs, calibrated, train_calibrated
from training.config import ModelConfig, Normalisation, TrainingSection
from training.errors import RunConfigError
from training.folds import blocked_folds
from training.labelled import LabelledParcels, masks
from training.metrics import Pooled
from training.run_folder import RunFolder
from training.season_models import VALIDATION_SHARE, conventions
from training.stored_season import hold_out

NORMS: Mapping[Normalisation, Literal["none", "date", "season"]] = {
    "streaming": "none",
    "streaming-date": "date",
    "published": "season",
}
AUXILIARY_WEIGHT = 0.5  # Garnot, Landrieu and Chehata 2022
Mask = NDArray[np.bool_]
OnEpoch = Callable[[str, Epoch], None]
"""Called after each epoch with the name of the model, "fold-1" to "fold-5" or "final", and the epoch."""


@dataclass(frozen=True)
class CrossValidation:
    """The answers for the labelled parcels of the folds that were run, and the models that gave them."""

    classes: tuple[str, ...]
    days: tuple[float, ...]
    day_names: tuple[str, ...]
    parcel: NDArray[np.int64]
    """(P,) row of the labelled parcels."""
    fold: NDArray[np.int64]
    """(P,) in which each was tested."""
    truth: NDArray[np.int64]
    """(P,)"""
    answers: Predictions
    """Uncalibrated."""
    probabilities: NDArray[np.float64]
    """(D, P, K) calibrated; class frequencies where nothing was observed."""
    is_observed: NDArray[np.bool_]
    """(D, P)"""
    models: Mapping[int, CropModel]
    """By test fold."""

    def pooled(self, day: int) -> Pooled:
        """Return the answers of the day-th scored day, as `training.metrics` takes them."""
        return Pooled(self.truth, self.probabilities[day], self.is_observed[day], self.classes)

    @classmethod
    def joined(cls, parts: Sequence[CrossValidation]) -> CrossValidation:
        """Several folds together."""
        first, answers = parts[0], Predictions.joined([one.answers for one in parts])
        parcel, fold, truth = (
            np.concatenate(one) for one in zip(*((own.parcel, own.fold, own.truth) for own in parts), strict=True)
        )
        return replace(
            first,
            parcel=parcel,
            fold=fold,
            truth=truth,
            answers=answers,
            probabilities=np.concatenate([one.probabilities for one in parts], axis=1),
            is_observed=np.concatenate([one.is_observed for one in parts], axis=1),
            models={fold: model for one in parts for fold, model in one.models.items()},
        )


def cross_validate(
    data: LabelledParcels,
    model: ModelConfig,
    training: TrainingSection,
    *,
    folder: RunFolder | None = None,
    session: Session | None = None,
    on_epoch: OnEpoch | None = None,
) -> CrossValidation:
    """Train and tests every fold of the configuration.

    Args:
        folder: keeps models and progress; what it holds is not trained again. Several processes need one.
        session: device and processes; None: this process, on `training.device`.
        on_epoch: after each epoch.

    Raises:
        RunConfigError: a fold has no parcel to test, or too few to train on.
    """
    session = session or Session(torch.device(training.device))
    parts = []
    for fold in training.folds:

        def train(own: Session, fold: int = fold) -> CropModel:
            return train_fold(data, model, training, fold, own)

        trained = kept(folder, f"fold-{fold}", session, on_epoch, train)
        parts.append(answer(trained, data, model, training, fold, device=session.device))
    return CrossValidation.joined(parts)


def train_fold(
    data: LabelledParcels, model: ModelConfig, training: TrainingSection, fold: int, session: Session | None = None
) -> CropModel:
    """Return the model of one test fold, which it never reads.

    Raises:
        RunConfigError: there is too little to train on.
    """
    seen = chosen(data, model)
    usable, held_out = split(data, training, fold)
    inputs = Inputs(seen.observations, seen.geometry, seen.labels)
    try:
        trained = train_calibrated(
            network_config(seen, model),
            training_config(data, model, training),
            inputs,
            usable,
            held_out,
            is_refitted=training.refit,
            session=session or Session(torch.device(training.device)),
        )
        return replace(trained, about=conventions(data.starts_on))
    except ValueError as error:
        raise RunConfigError(f"{data.name}, test fold {fold}: {error}") from error


def train_final(
    data: LabelledParcels, model: ModelConfig, training: TrainingSection, known: CrossValidation, session: Session
) -> CropModel:
    """Return a model of all folds, its temperature and scores from the answers of the cross-validation."""
    seen = chosen(data, model)
    days = training_config(data, model, training)
    inputs = Inputs(seen.observations, seen.geometry, seen.labels)
    trained = train_calibrated(
        network_config(seen, model), days, inputs, data.is_labelled, [], is_refitted=True, session=session
    )
    temperature, scores = calibrated(known.answers, known.truth, known.days, training.wrong_labels)
    return replace(trained, temperature=temperature, scores=scores)


def answer(  # the parts of a run's configuration, a fold, and what it is asked
    trained: CropModel,
    data: LabelledParcels,
    model: ModelConfig,
    training: TrainingSection,
    fold: int,
    *,
    days: Sequence[float] = (),
    device: torch.device | str = "cpu",
) -> CrossValidation:
    """Return what the model of a fold says of its parcels, of which `data` may hold other observations than it was trained with.

    Args:
        days: ascending; none: the scored ones.

    Raises:
        RunConfigError: the fold has no labelled parcel.
    """
    asked = tuple(days) or data.scored_on
    seen, members = chosen(data, model), np.flatnonzero(data.is_labelled & (data.fold == fold))
    if not len(members):
        raise RunConfigError(f"{data.name}: fold {fold} has no labelled parcel to test")
    packed = PackedParcels.of(trained.normaliser, seen.observations, seen.geometry)
    said = predict(trained.network, packed, torch.from_numpy(members), asked, device)
    calibrated_ = [trained.temperature.probabilities(*one) for one in zip(said.logits, said.newest, strict=True)]
    usable, held_out = split(data, training, fold)
    learnt = usable if training.refit else usable & ~held_out[0]
    prior = np.bincount(data.labels[learnt], minlength=len(data.classes)) / learnt.sum()
    is_observed = np.stack([seen.observed_by(day)[members] for day in asked])
    names = data.day_names if asked == data.scored_on else tuple(f"day {day:.0f}" for day in asked)
    return CrossValidation(
        data.classes,
        asked,
        names,
        members,
        data.fold[members],
        data.labels[members],
        said,
        np.where(is_observed[..., None], np.stack(calibrated_), prior),
        is_observed,
        {fold: trained},
    )


def split(data: LabelledParcels, training: TrainingSection, fold: int) -> tuple[Mask, list[Mask]]:
    """Return the parcels (P,) that the model of a test fold may learn from, and those held out for validation, a mask a round."""
    is_training, is_validation, _ = masks(data, fold)
    usable = is_training | is_validation
    if training.validation == "fold":
        return usable, [is_validation]
    rows = np.flatnonzero(usable)
    block, labels = data.block[rows], data.labels[rows]
    if training.inner_folds == 1:
        parts = [hold_out(block, labels, VALIDATION_SHARE, training.seed)] if len(rows) else []
    else:
        names = [data.classes[one] for one in labels]
        part = np.array(blocked_folds(block.astype(str).tolist(), names, training.inner_folds))
        parts = [part == one for one in range(training.inner_folds)]
    held_out = []
    for part in parts:
        mask = np.zeros_like(usable)
        mask[rows[part]] = True
        held_out.append(mask)
    return usable, held_out


def chosen(data: LabelledParcels, model: ModelConfig) -> LabelledParcels:
    """Return the parcels as the model sees them; all modalities where none is named.

    Raises:
        RunConfigError: a modality that the source does not have.
    """
    try:
        return data.of(model.modalities) if model.modalities else data
    except ValueError as error:
        raise RunConfigError(f"[model] modalities: {error}") from error


def network_config(seen: LabelledParcels, model: ModelConfig) -> ClassifierConfig:
    """Return the network of a configuration for these modalities and classes."""
    can_depart = model.anomalies and model.normalisation != "published"
    modalities = (
        replace(one, pixels=min(one.pixels, model.pixels), has_anomalies=one.has_anomalies and can_depart)
        for one in seen.modalities
    )
    return ClassifierConfig(
        tuple(one if model.temporal_dropout else replace(one, temporal_dropout=0.0) for one in modalities),
        seen.classes,
        pixel_widths=model.pixel_widths,
        ltae=LtaeConfig(
            inputs=model.embedding, width=model.attention, outputs=model.embedding, norm=NORMS[model.normalisation]
        ),
        decoder=model.decoder,
        fusion=model.fusion,
    )


def training_config(data: LabelledParcels, model: ModelConfig, training: TrainingSection) -> TrainingConfig:
    """Return how the network is trained; validation scores and knots of the temperature are at the scored days."""
    return TrainingConfig(
        data.scored_on,
        training.epochs,
        training.batch,
        training.learning_rate,
        training.schedule,
        AUXILIARY_WEIGHT if model.auxiliary else 0.0,
        Thinning(training.modality_dropout, training.whole_season, training.season_shift),
        training.balance,
        training.select_by,
        training.validate_every,
        training.seed,
        training.wrong_labels,
    )


def kept(
    folder: RunFolder | None,
    name: str,
    session: Session,
    on_epoch: OnEpoch | None,
    train: Callable[[Session], CropModel],
) -> CropModel:
    """Return the model of that name in the folder; trained, from where it was stopped, if it is not there."""

    def report(epoch: Epoch, _: Callable[[], State]) -> None:
        if on_epoch is not None:
            on_epoch(name, epoch)

    if folder is None:
        return train(replace(session, on_epoch=report))
    own = folder.part(name)
    # The first process alone reads the folder, so that all do the same whatever is written meanwhile.
    found: list[Any] = [own.is_finished, own.state()] if session.is_first else [None, None]
    if session.world > 1:
        distributed.broadcast_object_list(found, 0)
    is_finished, state = found
    if not is_finished:
        trained = train(replace(session, state=state, on_epoch=own.keeping(report)))
        if session.is_first:
            own.finish(trained)
        if session.world > 1:
            distributed.barrier()
    return own.model()
