"""A classifier from the running season's own declarations: as many models as folds of blocks, each taught by the other folds.

    ROOT/asked.json     what is trained, and the time as known at which the season is read, whenever it goes on
    ROOT/fold-K/        as in the folder of a run (training.run_folder)

So a training that was stopped goes on with the same data, and observations that came meanwhile wait for the next one.
Shapes: P parcels, K folds.
Units:  days since the season's start.
Errors: RunConfigError for what cannot be trained.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier.cross_fitted import CrossFitted, FoldRule, cells
from models.classifier.fitting import Session, TrainingConfig
from models.classifier.network import ClassifierConfig
from models.classifier.normalisation import Normaliser
from models.classifier.sampling import PackedParcels
from models.classifier.scoring import Predictions, predict
from models.classifier.training import Inputs, calibrated, train_calibrated
from training.cross_validation import OnEpoch, kept
from training.errors import RunConfigError
from training.folds import blocked_folds
from training.run_folder import RunFolder, write
from training.season_models import EVALUATION_SHARES, VALIDATION_SHARE, about
from training.stored_season import BLOCK_M, TrainingData, hold_out


@dataclass(frozen=True)
class CrossFit:
    """How a season's own declarations are learnt."""

    folds: int
    wrong_labels: float
    """Share of wrong declarations that the training allows for."""
    epochs: int | None
    seed: int
    device: str = "cpu"

    def as_known_at(self, root: Path, now: datetime, **of_season: Any) -> datetime:
        """Return the time as known at which the season is read: that of a training which was stopped, else now.

        Args:
            of_season: what else makes a training this one; where it differs, what is in `root` is given up.
        """
        path = root / "asked.json"
        asked = {**of_season, "folds": self.folds, "wrong_labels": self.wrong_labels, "epochs": self.epochs}
        asked["seed"] = self.seed
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("asked") == asked:
            return datetime.fromisoformat(known["as_known_at"])
        shutil.rmtree(root, ignore_errors=True)
        write(path, json.dumps({"asked": asked, "as_known_at": now.isoformat()}))
        return now


def cross_fitted(data: TrainingData, asked: CrossFit, root: Path, on_epoch: OnEpoch | None = None) -> CrossFitted:
    """Return one classifier of a model for each fold, with scores of each parcel under the model that did not see its block.

    Raises:
        RunConfigError: fewer blocks than folds, or a fold that leaves too little to learn from.
    """
    names = [data.classes[one] for one in data.labels]
    fold = np.array(blocked_folds(data.blocks.astype(str).tolist(), names, asked.folds), np.int64) + 1
    if len(set(fold.tolist())) < asked.folds:
        raise RunConfigError(
            f"--cross-fit {asked.folds}: the parcels lie in {len(set(data.blocks.tolist()))} blocks only"
        )
    config, inputs = _shared(data)
    days = running_days(data)
    training = TrainingConfig(days, seed=asked.seed, wrong_labels=asked.wrong_labels)
    training = training if asked.epochs is None else replace(training, epochs=asked.epochs)
    session, members = Session(torch.device(asked.device)), []
    packed = PackedParcels.of(inputs.normaliser, data.observations, data.geometry)  # type: ignore[arg-type]
    said, truth = [], []
    for one in range(1, asked.folds + 1):
        usable, held = fold != one, np.zeros(len(fold), bool)
        held[usable] = hold_out(data.blocks[usable], data.labels[usable], VALIDATION_SHARE, asked.seed)

        def train(own: Session, usable: NDArray[np.bool_] = usable, held: NDArray[np.bool_] = held) -> Any:
            try:
                return train_calibrated(config, training, inputs, usable, [held], is_refitted=True, session=own)
            except ValueError as error:
                raise RunConfigError(f"--cross-fit {asked.folds}: {error}") from error

        member = kept(RunFolder(root), f"fold-{one}", session, on_epoch, train)
        mine = np.flatnonzero(~usable)
        said.append(predict(member.network, packed, torch.from_numpy(mine), days, session.device))
        truth.append(data.labels[mine])
        members.append(replace(member, network=member.network.cpu()))
    _, scores = calibrated(Predictions.joined(said), np.concatenate(truth), days, asked.wrong_labels)
    origin = about(data, n_training=len(fold)) | {"cross_fitted": asked.folds, "wrong_labels": asked.wrong_labels}
    return CrossFitted.of(members, _rule(data, fold), scores, origin)


def running_days(data: TrainingData) -> tuple[float, ...]:
    """Return the days at which a running season is scored: shares of what has passed until the last observation."""
    last = max(float(one.day.max()) for one in data.observations.values() if len(one.day))
    return tuple(sorted({float(np.ceil(share * last)) for share in EVALUATION_SHARES}))


def _shared(data: TrainingData) -> tuple[ClassifierConfig, Inputs]:
    """Return what the models of all folds share. The standardisation is of all parcels: no declaration is in it."""
    config = ClassifierConfig(modalities=data.modalities, classes=data.classes)
    per_orbit = [one.name for one in data.modalities if one.is_per_orbit]
    anomalies = [one.name for one in data.modalities if one.has_anomalies]
    everyone = np.ones(len(data.labels), bool)
    normaliser = Normaliser.fit(data.observations, data.geometry, everyone, per_orbit, anomalies)
    # As it is read back from a folder: the models of one checkpoint share it to the bit.
    normaliser = Normaliser.from_json(json.loads(json.dumps(normaliser.to_json())))
    return config, Inputs(data.observations, data.geometry, data.labels, normaliser)


def _rule(data: TrainingData, fold: NDArray[np.int64]) -> FoldRule:
    lon, lat = [one.lon or 0.0 for one in data.parcels], [one.lat or 0.0 for one in data.parcels]
    of_block = {
        (row, column): one for (row, column), one in zip(cells(lon, lat, BLOCK_M).tolist(), fold.tolist(), strict=True)
    }
    return FoldRule(BLOCK_M, of_block)
