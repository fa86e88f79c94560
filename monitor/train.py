"""Training from the store: a season in, a registered checkpoint out."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import registry
from db.registry import Task
from models.checkpoint import Checkpoint
from models.classifier import ClassifierConfig
from models.classifier_training import Progress, TrainingConfig, train_classifier
from models.crop_model import CropModel
from monitor.training_data import TrainingData, hold_out

EVALUATION_SHARES = (0.35, 0.5, 0.65, 0.8, 1.0)
"""Shares of the season at which a classifier is scored when no dates are given."""
VALIDATION_SHARE = 0.2


def classifier(
    data: TrainingData, *, evaluation_dates: tuple[date, ...] = (), is_usable: NDArray[np.bool_] | None = None,
    epochs: int | None = None, seed: int = 0, progress: Progress | None = None, device: str = "cpu",
) -> CropModel:  # fmt: skip
    """A crop classifier of a season.

    Args:
        is_usable: (P,) parcels that may be trained and validated on; the others are not looked at (a test fold).
        evaluation_dates: dates of the season at which validation scores are taken and the temperature is fitted.
    """
    usable = np.ones(len(data.labels), bool) if is_usable is None else is_usable
    days = _days(data, evaluation_dates)
    validation = np.zeros(len(usable), bool)
    validation[usable] = hold_out(data.blocks[usable], data.labels[usable], VALIDATION_SHARE, seed)
    training = TrainingConfig(evaluation_days=days, seed=seed)
    model = train_classifier(
        ClassifierConfig(modalities=data.modalities, classes=data.classes),
        training if epochs is None else replace(training, epochs=epochs),
        data.observations, data.geometry, data.labels, usable & ~validation, validation, progress=progress, device=device,
    )  # fmt: skip
    return replace(
        model, about=about(data, n_training=int((usable & ~validation).sum()), n_validation=int(validation.sum()))
    )


def about(data: TrainingData, **counts: int) -> dict[str, object]:
    """Where a model comes from: season, collection, days of data, counts, the class of each crop code."""
    times = np.concatenate([data.s2["observed_at"], data.s1["observed_at"]])
    return {
        "season": data.season.name, "collections": sorted({p.collection for p in data.parcels}),
        "observed_from": str(times.min())[:10], "observed_to": str(times.max())[:10],
        "class_of": dict(data.class_of), **counts,
    }  # fmt: skip


def save(
    connection: sa.Connection, task: Task, checkpoint: Checkpoint, parts: Mapping[str, str], folder: Path, now: datetime
) -> int:
    """Writes a checkpoint to `folder` (weights.pt, model.json) and registers it; returns its key.

    Args:
        parts: which entries of the description are the columns config, metrics and trained_on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.pt").write_bytes(checkpoint.weights)
    (folder / "model.json").write_text(checkpoint.description)
    plain = checkpoint.describe()
    return registry.register(
        connection, model_id=checkpoint.model, task=task, description=checkpoint.description, weights=checkpoint.weights,
        config=plain[parts["config"]], metrics=plain[parts["metrics"]], trained_on=plain[parts["trained_on"]], now=now,
    )  # fmt: skip


PARTS: Mapping[str, str] = {"config": "config", "metrics": "scores", "trained_on": "about"}


def _days(data: TrainingData, dates: tuple[date, ...]) -> tuple[float, ...]:
    """Days of the season; a date means its end, when all of that day is known."""
    if dates:
        return tuple(float((one - data.season.starts_on).days + 1) for one in sorted(dates))
    length = (data.season.ends_on - data.season.starts_on).days
    return tuple(float(round(share * length)) for share in EVALUATION_SHARES)
