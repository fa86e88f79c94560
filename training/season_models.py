"""Training from the store: a season in, a registered checkpoint out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from db import registry
from db.connect import Connection
from db.registry import Task
from db.seasons import Season
from models.checkpoint import Checkpoint, pack
from models.classifier.crop_model import CropModel
from models.classifier.fitting import Epoch, Session, TrainingConfig
from models.classifier.network import ClassifierConfig
from models.classifier.training import Inputs, Progress, train_calibrated
from models.ndvi import gap_filler
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.published.networks import network_name
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from models.ndvi.published.training import train_ndvi
from models.ndvi.training import GapTrainingConfig, fit_gaps
from monitor.season_series import curve_series
from training.stored_season import TrainingData, hold_out

GAP_FILLING = gap_filler.KIND
EVALUATION_SHARES = (0.35, 0.5, 0.65, 0.8, 1.0)
"""Shares of the season at which a classifier is scored when no dates are given."""
VALIDATION_SHARE = 0.2
UNITS: Mapping[str, str] = {
    "s2": "surface reflectance 0..1, indices -1..1",
    "s1": "dB of the mean power",
    "geometry": "perimeter m, area m2, perimeter / area 1/m, share of the bounding box",
    "day": "days since starts_on, 00:00 UTC",
}
"""Of what a model reads; its description states them."""


def classifier(  # the data, and options of one training that have defaults
    data: TrainingData,
    *,
    evaluation_dates: tuple[date, ...] = (),
    is_usable: NDArray[np.bool_] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    is_refitted: bool = True,
    progress: Progress | None = None,
    device: str = "cpu",
) -> CropModel:
    """Return a crop classifier of a season.

    Trained first without some blocks, which give its scores and its temperature; then, unless `is_refitted` is false, once more with
    them, for as many epochs: on Dutch parcels the blocks held out cost 0.03 of macro-F1 in spring (docs/LOG.md).

    Args:
        is_usable: (P,) parcels that may be trained and validated on; the others are not used (a test fold).
        evaluation_dates: dates of the season at which validation scores are taken and the temperature is fitted.
    """
    usable = np.ones(len(data.labels), bool) if is_usable is None else is_usable
    held = np.zeros(len(usable), bool)
    held[usable] = hold_out(data.blocks[usable], data.labels[usable], VALIDATION_SHARE, seed)
    config = ClassifierConfig(modalities=data.modalities, classes=data.classes)
    training = TrainingConfig(evaluation_days=evaluation_days(data.season, evaluation_dates), seed=seed)
    training = training if epochs is None else replace(training, epochs=epochs)

    def report(epoch: Epoch, _: object) -> None:
        if progress is not None:
            progress((epoch.round - 1) * epoch.of + epoch.number, epoch.rounds * epoch.of, epoch.loss)

    model = train_calibrated(
        config,
        training,
        Inputs(data.observations, data.geometry, data.labels),
        usable,
        [held],
        is_refitted=is_refitted,
        session=Session(torch.device(device), on_epoch=report),
    )
    counts = {
        "n_training": int(usable.sum() if is_refitted else (usable & ~held).sum()),
        "n_validation": int(held.sum()),
    }
    return replace(model, about=about(data, **counts))


def ndvi(
    data: TrainingData,
    *,
    is_usable: NDArray[np.bool_] | None = None,
    config: GapTrainingConfig | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> tuple[GapModel, dict[str, float]]:
    """Train the gap filler of a season's NDVI; return it, and its scores on blocks that the answering network left out.

    The scores are those of `GapScores`, with the counts `n_views` and `n_fields` that they were taken on.

    Args:
        is_usable: (P,) parcels that may be trained and validated on; the others are not used (a test fold).
        progress: called with (update, loss).

    Raises:
        TrainingDataError: there is no SAR or no clear view to learn from.
    """
    sar, clear = _series(data, is_usable)
    model, scores = fit_gaps(sar, clear, data.blocks, config, progress, device)
    return model, scores.flat() | {"n_views": scores.n_views, "n_fields": scores.n_fields}


def radar_alone(
    data: TrainingData,
    *,
    config: NdviTrainingConfig,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> tuple[SarToNdvi, dict[str, float]]:
    """Return a network of the paper, which knows no clear view, and its scores on held-out blocks.

    Raises:
        TrainingDataError: there is no SAR or no clear view to learn from.
    """
    held = hold_out(data.blocks, data.labels, VALIDATION_SHARE, seed)
    network, scores = train_ndvi(*_series(data, None), len(held), held, config, progress, device)
    return network, {} if scores is None else {"r2": scores.r2, "rmse": scores.rmse, "n": scores.n}


def _series(data: TrainingData, is_usable: NDArray[np.bool_] | None) -> tuple[SarSeries, ClearSeries]:
    keys = np.array([p.parcel_key for p in data.parcels], np.int64)
    sar, clear = curve_series(data.s2, data.s1, keys, data.season.starts_on)
    if is_usable is None:
        return sar, clear
    return sar.rows(is_usable[sar.parcel]), clear.rows(is_usable[clear.parcel])


def ndvi_checkpoint(
    model: GapModel | SarToNdvi, scores: Mapping[str, float], trained_on: Mapping[str, object]
) -> Checkpoint:
    """Return an NDVI model at rest."""
    config, weights = model.state()
    kind = GAP_FILLING if isinstance(model, GapModel) else network_name(model.config.network)
    return pack(
        weights, {"kind": kind, "config": config | {"kind": kind}, "scores": dict(scores), "about": dict(trained_on)}
    )


def ndvi_choices(model: str, choices: Mapping[str, Any]) -> GapTrainingConfig | NdviTrainingConfig:
    """Return how an NDVI model is trained: the defaults of its name with a file's choices; ValueError or TypeError names what is wrong."""
    return GapTrainingConfig.chosen(choices) if model == GAP_FILLING else NdviTrainingConfig.chosen(model, choices)


def about(data: TrainingData, **counts: int) -> dict[str, object]:
    """Return where a model comes from: season, day 0, units, collection, days of data, counts, the class of each crop code."""
    times = np.concatenate([data.s2["observed_at"], data.s1["observed_at"]])
    return {
        "season": data.season.name,
        **conventions(data.season.starts_on),
        "collections": sorted({p.collection for p in data.parcels}),
        "observed_from": str(times.min())[:10],
        "observed_to": str(times.max())[:10],
        "class_of": dict(data.class_of),
        **counts,
    }


def conventions(starts_on: date | None) -> dict[str, object]:
    """Return the units of what a model reads and its day 0, as its description states them; day 0 only where it is known."""
    return {"units": dict(UNITS)} | ({} if starts_on is None else {"starts_on": starts_on.isoformat()})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint as weights.pt and model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.pt").write_bytes(checkpoint.weights)
    (folder / "model.json").write_text(checkpoint.description)


def save(connection: Connection, task: Task, checkpoint: Checkpoint, folder: Path, now: datetime) -> int:
    """Write a checkpoint to `folder` (weights.pt, model.json) and registers it; returns its key."""
    write(checkpoint, folder)
    plain = checkpoint.describe()
    return registry.register(
        connection,
        model_id=checkpoint.model,
        task=task,
        description=checkpoint.description,
        weights=checkpoint.weights,
        config=plain["config"],
        metrics=plain["scores"],
        trained_on=plain["about"],
        now=now,
    )


def evaluation_days(season: Season, dates: tuple[date, ...] = ()) -> tuple[float, ...]:
    """Days of the season; a date means its end, when all of that day is known. No dates: shares of the season."""
    if dates:
        return tuple(float((one - season.starts_on).days + 1) for one in sorted(dates))
    length = (season.ends_on - season.starts_on).days
    return tuple(float(round(share * length)) for share in EVALUATION_SHARES)
