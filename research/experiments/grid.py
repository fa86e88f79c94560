"""The grid that the experiments share: scheme x enhancement x seed x fold, each trained once, models and predictions kept.

    RUNS/settings.json                          the data and the training, without seeds, folds and schemes
    RUNS/SCHEME-ENHANCEMENT-SEED-FOLD/          weights.pt, model.json
    RUNS/SCHEME-ENHANCEMENT-SEED-FOLD.npz       days (D,), probabilities (D, P_test, K)

Chosen because: a table is made of a hundred runs, and a run that is finished is never worth repeating.
Shapes: D days, P_test labelled parcels of the test fold, K classes.
Units:  days since the season's start.
Errors: ExperimentError for a folder of other data or settings; RunConfigError for a fold that cannot be trained.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier.crop_model import CropModel
from models.classifier.fitting import Session
from models.classifier.network import FusionNetwork
from models.classifier.training import Inputs, train_calibrated
from research.experiments.forest import averaged, forest
from research.experiments.schemes import FOREST, Enhancement, ExperimentError, Scheme
from training.config import ModelConfig, TrainingSection
from training.cross_validation import answer, chosen, network_config, train_fold, training_config
from training.labelled import LabelledParcels
from training.run_folder import OnEpoch, Part, has_learnt, write

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
"""What is being done, and the share of it that is done."""


@dataclass(frozen=True)
class Run:
    """One training."""

    scheme: Scheme
    enhancement: Enhancement
    seed: int
    fold: int

    @property
    def key(self) -> str:
        """Its name as a file."""
        words = f"{self.scheme.name} {self.enhancement.name} {self.seed} {self.fold}"
        return re.sub(r"[^A-Za-z0-9]+", "-", words).lower()


@dataclass(frozen=True)
class Grid:
    """Runs on one source, kept in a folder."""

    folder: Path
    data: LabelledParcels
    common: tuple[ModelConfig, TrainingSection] = field(default_factory=lambda: (ModelConfig(), TrainingSection()))
    """How every run is trained; a run says its own scheme, enhancement and seed."""
    report: Progress = lambda _what, _share: None

    def open(self) -> Grid:
        """Make the folder, or check that its runs were of these data and settings.

        Raises:
            ExperimentError: they were of others.
        """
        path, settings = self.folder / "settings.json", self._settings()
        if path.exists() and has_learnt(self.folder) and (known := json.loads(path.read_text())) != settings:
            differ = [
                f"{part} {key}" for part, own in settings.items() for key in own if own[key] != known[part].get(key)
            ]
            raise ExperimentError(
                f"{self.folder} holds runs of other settings ({', '.join(differ)}): give another --out"
            )
        write(path, json.dumps(settings, indent=1))
        return self

    def configured(self, run: Run) -> tuple[ModelConfig, TrainingSection]:
        """Return the configuration of a run."""
        (model, training), enhancement = self.common, run.enhancement
        own = {
            "modalities": run.scheme.modalities,
            "fusion": run.scheme.fusion,
            "auxiliary": enhancement.is_auxiliary,
            "temporal_dropout": enhancement.has_temporal_dropout,
        }
        return model.model_copy(update=own), training.model_copy(update={"seed": run.seed})

    @property
    def device(self) -> str:
        """Return where networks are trained."""
        return self.common[1].device

    @cached_property
    def averaged(self) -> LabelledParcels:
        """Return the data as the forest takes them."""
        return averaged(self.data)

    def masks(self, run: Run) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return parcels (P,) that may be learnt from, and those of the test fold."""
        is_test = self.data.fold == run.fold
        return self.data.is_labelled & ~is_test, self.data.is_labelled & is_test

    def fit(self, run: Run, on_epoch: OnEpoch, epochs: int | None = None) -> CropModel:
        """Train a run anew on all that may be learnt from, nothing held out: to watch it learn.

        Args:
            on_epoch: called after each epoch, with a function that gives the weights among the state.
            epochs: instead of the configuration's.
        """
        model, training = self.configured(run)
        seen = chosen(self.data, model)
        how = training_config(seen, model, training.model_copy(update={"epochs": epochs or training.epochs}))
        inputs = Inputs(seen.observations, seen.geometry, seen.labels)
        session = Session(torch.device(self.device), on_epoch=on_epoch)
        usable = self.masks(run)[0]
        return train_calibrated(network_config(seen, model), how, inputs, usable, [], is_refitted=True, session=session)

    def model(self, run: Run) -> CropModel:
        """Return the model of a run: read if it was trained before, else trained and kept."""
        part = Part(self.folder / run.key)
        if not part.is_finished:
            part.finish(train_fold(self.data, *self.configured(run), run.fold))
        return part.model()

    def predictions(self, run: Run, days: Sequence[float]) -> Floats:
        """Return calibrated probabilities (D, P_test, K) of the test parcels as known at the end of each day, ascending."""
        path, known = self.folder / f"{run.key}.npz", dict[float, Floats]()
        if path.exists():
            with np.load(path) as stored:
                known = dict(zip(stored["days"].tolist(), stored["probabilities"], strict=True))
        if missing := sorted(set(days) - set(known)):
            known |= dict(zip(missing, self._predict(run, missing), strict=True))
            whole = io.BytesIO()
            np.savez(whole, days=np.array(sorted(known)), probabilities=np.stack([known[day] for day in sorted(known)]))
            write(path, whole.getvalue())
        return np.stack([known[day] for day in days])

    def kept(self, name: str, work: Callable[[], Floats]) -> Floats:
        """Return the array of that name: read if it was made before, else made and kept."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            whole = io.BytesIO()
            np.save(whole, work())
            write(path, whole.getvalue())
        return np.asarray(np.load(path))

    def predict(self, run: Run, data: LabelledParcels, days: Sequence[float], model: CropModel | None = None) -> Floats:
        """Return the same of `data`, in which the parcels may have other observations than they were trained with; not kept."""
        trained = model or self.model(run)
        return answer(trained, data, *self.configured(run), run.fold, days=days, device=self.device).probabilities

    def pooled(
        self, scheme: Scheme, enhancement: Enhancement, seed: int, folds: Sequence[int], days: Sequence[float]
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return truth (P,) and probabilities (D, P, K) of the folds' labelled parcels, each by the model that did not see it."""
        runs = [Run(scheme, enhancement, seed, fold) for fold in folds]
        truth = [self.data.labels[self.masks(run)[1]] for run in runs]
        return np.concatenate(truth), np.concatenate([self.predictions(run, days) for run in runs], axis=1)

    def _predict(self, run: Run, days: Sequence[float]) -> Floats:
        if run.scheme.name == FOREST:
            return np.stack([forest(self.averaged, *self.masks(run), day, run.seed) for day in days])
        return self.predict(run, self.data, days)

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Return what all runs of a folder have in common, JSON values."""
        counts = {name: len(one.parcel) for name, one in self.data.observations.items()}
        model, training = self.common
        own = {"modalities", "fusion", "auxiliary", "temporal_dropout"}
        return {
            "data": {"name": self.data.name, "parcels": len(self.data), "classes": list(self.data.classes), **counts},
            "model": model.model_dump(mode="json", exclude=own),
            "training": training.model_dump(mode="json", exclude={"seed", "folds", "final", "device"}),
        }


def n_parameters(network: FusionNetwork) -> int:
    """Return parameters that the fused logits need: without the decoders that only auxiliary supervision trains."""
    is_needed = network.config.scheme == "decision"
    return sum(
        one.numel() for name, one in network.named_parameters() if is_needed or not name.startswith("auxiliary.")
    )
