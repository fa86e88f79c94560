"""A training run, from its configuration to its folder: data, cross-validation, final model, scores, plots."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from models.classifier.crop_model import CropModel
from models.classifier.fitting import Session
from training import run_plots, scores
from training.config import RunConfig
from training.cross_validation import CrossValidation, OnEpoch, cross_validate, kept, train_final
from training.labelled import LabelledParcels
from training.run_folder import RunFolder, write
from training.scores import RunScores
from training.season_models import conventions
from training.sources import Progress, open_source


def run(
    config: RunConfig, now: datetime, session: Session, on_epoch: OnEpoch, reading: Progress | None = None
) -> tuple[RunScores, CropModel | None]:
    """Run a configuration, or goes on with it; its scores, and the final model if one was asked for.

    Args:
        now: noted in the folder.
        session: device and processes; the first process alone writes.
        on_epoch: after each epoch.
        reading: after each patch of PASTIS-R that is cut.

    Raises:
        RunConfigError: the folder holds another run, or the configuration does not fit the data.
        NothingToLearn, SeasonDataError, PastisError, UnknownSeason: the source holds too little, or is not there.
    """
    folder = RunFolder(config.run.folder)
    if session.is_first:
        folder = RunFolder.open(config)
        folder.write_environment(config, now)
    if session.world > 1:
        distributed.barrier()
    data = open_source(config.data, reading)
    known = cross_validate(data, config.model, config.training, folder=folder, session=session, on_epoch=on_epoch)
    final = None
    if config.training.final:

        def last(own: Session) -> CropModel:
            about = data.about or {"source": data.name, "n_training": int(data.is_labelled.sum())}
            about = {**conventions(data.starts_on), **about}
            return replace(train_final(data, config.model, config.training, known, own), about=about)

        final = kept(folder, "final", session, on_epoch, last)
    found = scores.score(known)
    if session.is_first:
        write_results(folder, config, data, known, found)
    return found, final


def ids(data: LabelledParcels) -> NDArray[np.str_]:
    """Return (P,) the source's ids of all parcels, the rows' numbers where it has none; text that needs no pickle."""
    return np.arange(len(data)).astype(str) if data.parcel_ids is None else data.parcel_ids.astype(str)


def write_results(
    folder: RunFolder, config: RunConfig, data: LabelledParcels, known: CrossValidation, found: RunScores
) -> None:
    """Write scores, plots and answers."""
    model, training = config.model, config.training
    modalities = ", ".join(model.modalities) or "all modalities"
    title = (
        f"{data.name}: {modalities}, {model.fusion} fusion, {model.normalisation} normalisation, seed {training.seed}"
    )
    arrays = io.BytesIO()
    np.savez(
        arrays,
        parcel=known.parcel,
        parcel_id=ids(data)[known.parcel],
        fold=known.fold,
        truth=known.truth,
        days=np.array(known.days),
        logits=known.answers.logits,
        newest=known.answers.newest,
        probabilities=known.probabilities,
        is_observed=known.is_observed,
        classes=np.array(known.classes),
    )
    epochs = {one: folder.part(one).epochs() for one in (*(f"fold-{fold}" for fold in training.folds), "final")}
    write(folder.path / "predictions.npz", arrays.getvalue())
    write(folder.path / "metrics.json", scores.to_json(found))
    write(folder.path / "metrics.md", scores.markdown(title, found))
    write(folder.path / "confusion.csv", scores.confusion_csv(found))
    write(folder.path / "confusion.png", run_plots.confusions(found))
    write(folder.path / "curves.png", run_plots.curves({one: done for one, done in epochs.items() if done}))
    write(folder.path / "reliability.png", run_plots.reliabilities(known))
