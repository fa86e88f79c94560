"""The grid that the experiments share: model x trial x seed, each trained once, its answers kept.

    RUNS/settings.json            the series and how each model is trained, without the seed
    RUNS/MODEL-TRIAL-SEED/        weights.pt, model.json (updates, processor seconds, loss), answer.npz: the daily
                                  reconstruction of the trial's scored parcels from SAR alone

answer.npz is written last: a run that was stopped begins anew with the first training that is not finished.
Shapes: curves (P_test, D).
Units:  days since the season's start; processor seconds of this process.
Errors: ExperimentError for a folder of other series or settings; TrainingDataError where there is nothing to learn.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import pack
from models.ndvi.inputs import Bools, Floats, Ints
from models.ndvi.published.mcnn_seq import count_parameters
from models.ndvi.published.networks import build_network, network_name
from models.ndvi.published.reconstruction import NdviTrainingConfig
from models.ndvi.published.training import train_ndvi
from research.experiments.ndvi.sources import ScoredSeries
from research.experiments.ndvi.splits import Trial
from research.experiments.schemes import ExperimentError
from training.run_folder import has_learnt, write

LOSS_EVERY = 50
"""Updates whose mean loss is kept (chosen because a run of thousands then keeps a curve of a hundred points)."""
RATE_UPDATES = 10
"""Updates that say how many a budget of processor time allows, after two to warm up."""
WARM_UPDATES = 2


@dataclass(frozen=True)
class Answer:
    """What a trained model says of the parcels of a trial."""

    parcel: Ints
    """(P_test,) ascending: the scored ones that were held back."""
    first_day: int
    curve: Floats
    """(P_test, D) NDVI of each day from `first_day`; NaN where no SAR is near."""
    n_updates: int
    seconds: float
    """Processor time of the training."""

    def at(self, parcel: Ints, day: Ints) -> Floats:
        """Return NDVI at days of parcels that are in it."""
        return np.asarray(self.curve[np.searchsorted(self.parcel, parcel), day - self.first_day], dtype=np.float64)


@dataclass(frozen=True)
class Runs:
    """Trainings on one set of series, kept in a folder."""

    folder: Path
    data: ScoredSeries
    configs: Mapping[str, NdviTrainingConfig]
    """How each model, by the name of its rows, is trained; a run sets the seed."""
    device: str = "cpu"
    report: Callable[[str, float], None] = lambda _what, _share: None

    def open(self) -> Runs:
        """Make the folder, or check that its runs were of these series and settings; models may be added.

        Raises:
            ExperimentError: they were of others.
        """
        path, asked = self.folder / "settings.json", self._settings()
        known: dict[str, Any] = {"data": asked["data"], "models": {}}
        if path.exists() and has_learnt(self.folder):
            known = json.loads(path.read_text())
        both = asked["models"].keys() & known["models"].keys()
        pairs = [
            ("data", asked["data"], known["data"]),
            *((one, asked["models"][one], known["models"][one]) for one in both),
        ]
        if differ := [
            f"{part} {key}" for part, own, old in pairs for key in {**old, **own} if own.get(key) != old.get(key)
        ]:
            raise ExperimentError(
                f"{self.folder} holds runs of other settings ({', '.join(differ)}): give another --out"
            )
        write(path, json.dumps({"data": known["data"], "models": known["models"] | asked["models"]}, indent=1))
        return self

    def answer(self, model: str, trial: Trial, seed: int) -> Answer:
        """Return the answer of a run: read if it was trained before, else trained and kept.

        Raises:
            TrainingDataError: nothing is left to learn from.
        """
        own = self.folder / re.sub(r"[^A-Za-z0-9]+", "-", f"{model} {trial.name} {seed}").lower()
        if not (own / "answer.npz").exists():
            self._train(own, model, trial, seed)
        with np.load(own / "answer.npz") as kept:
            return Answer(
                kept["parcel"],
                int(kept["first_day"]),
                kept["curve"].astype(np.float64),
                int(kept["n_updates"]),
                float(kept["seconds"]),
            )

    def answers(self, trials: Sequence[Trial], seeds: Sequence[int]) -> dict[tuple[str, str, int], Answer]:
        """Return the answers of every model, trial (by name) and seed, reporting how far it is."""
        asked = [(model, trial, seed) for seed in seeds for trial in trials for model in self.configs]
        found = {}
        for nr, (model, trial, seed) in enumerate(asked):
            self.report(f"{model}, {trial.name}, seed {seed}", nr / len(asked))
            found[model, trial.name, seed] = self.answer(model, trial, seed)
        return found

    def n_parameters(self, model: str) -> int:
        """Return trainable numbers of a model's network."""
        return count_parameters(build_network(self.configs[model].network))

    def _train(self, folder: Path, name: str, trial: Trial, seed: int) -> None:
        series, config = self.data.series, replace(self.configs[name], seed=seed)
        is_learned = series.is_trained & ~trial.is_test
        keep = is_learned[series.clear.parcel] & (True if trial.is_view_kept is None else trial.is_view_kept)
        losses: list[float] = []
        begun = time.process_time()
        model, _ = train_ndvi(
            series.sar.rows(is_learned[series.sar.parcel]),
            series.clear.rows(keep),
            series.n_parcels,
            np.zeros(series.n_parcels, bool),
            config,
            lambda _update, loss: losses.append(loss),
            self.device,
        )
        seconds = time.process_time() - begun
        parcel = self.answered(trial.is_test)
        days = self.days
        daily = model.daily(series.sar.rows(trial.is_test[series.sar.parcel]), series.n_parcels)
        curve = model.retrospective(daily, parcel, days) if len(parcel) else np.zeros((0, len(days)))
        config_json, weights = model.state()
        about = {
            "updates": config.n_updates,
            "seconds": round(seconds, 1),
            "trial": trial.name,
            "loss": [round(float(np.mean(one)), 6) for one in _chunks(losses)],
        }
        kept = pack(weights, {"kind": network_name(config.network), "config": config_json, "about": about})
        write(folder / "weights.pt", kept.weights)
        write(folder / "model.json", kept.description)
        whole = io.BytesIO()
        np.savez(
            whole,
            parcel=parcel,
            first_day=days[0],
            curve=curve.astype(np.float32),
            n_updates=config.n_updates,
            seconds=seconds,
        )
        write(folder / "answer.npz", whole.getvalue())

    @property
    def days(self) -> Ints:
        """Return (D,) the days that are answered: from the first clear view of the scored parcels to the last."""
        day = np.floor(self.data.series.clear.day[self.data.series.is_scored[self.data.series.clear.parcel]]).astype(
            np.int64
        )
        return np.arange(day.min(), day.max() + 1)

    def answered(self, is_test: Bools) -> Ints:
        """Return the scored parcels of a trial that have any SAR, ascending."""
        has_sar = np.zeros(self.data.series.n_parcels, bool)
        has_sar[self.data.series.sar.parcel] = True
        return np.flatnonzero(self.data.series.is_scored & is_test & has_sar)

    def _settings(self) -> dict[str, Any]:
        series = self.data.series
        data = {
            "name": series.name,
            self.data.unit: series.n_parcels,
            "scored": int(series.is_scored.sum()),
            "trained": int(series.is_trained.sum()),
            "radar": len(series.sar.day),
            "views": len(series.clear.day),
        }
        models = {
            name: {key: value for key, value in config.to_json().items() if key != "seed"}
            for name, config in self.configs.items()
        }
        return {"data": data, "models": json.loads(json.dumps(models))}  # as they are read back


def within(
    seconds: float, data: ScoredSeries, configs: Mapping[str, NdviTrainingConfig], folder: Path
) -> dict[str, NdviTrainingConfig]:
    """Return the configurations with as many updates as that much processor time of this machine allows each.

    A rate is measured once for a folder and kept there, so that a run goes on with the numbers that it began with.
    """
    path = folder / "budget.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, config in configs.items():
        if name not in known or known[name]["seconds"] != seconds:
            known[name] = {"seconds": seconds, "n_updates": max(1, int(seconds / seconds_per_update(data, config)))}
    write(path, json.dumps(known, indent=1))
    return {name: replace(config, n_updates=known[name]["n_updates"]) for name, config in configs.items()}


def seconds_per_update(data: ScoredSeries, config: NdviTrainingConfig) -> float:
    """Return processor seconds of one update of a model, measured on a few."""
    at: list[float] = []
    series = data.series
    train_ndvi(
        series.sar,
        series.clear,
        series.n_parcels,
        np.zeros(series.n_parcels, bool),
        replace(config, n_updates=WARM_UPDATES + RATE_UPDATES),
        lambda _update, _loss: at.append(time.process_time()),
    )
    return (at[-1] - at[WARM_UPDATES - 1]) / (len(at) - WARM_UPDATES)


def _chunks(losses: Sequence[float]) -> list[Sequence[float]]:
    return [losses[start : start + LOSS_EVERY] for start in range(0, len(losses), LOSS_EVERY)]
