"""The product's classifier, taught by the declarations of another seed's season, and its posterior after each acquisition.

Acquisitions are folded into the parcels' states in the order in which they became available; a state does not depend on the order,
so it is what the product would have made of all that was known. A revision or withdrawal of a pass that was folded before is left
out (2 % and 0.4 % of the products); the product would rebuild the state.
Shapes: P parcels, K classes.
Units:  as models.classifier.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from models.classifier.crop_model import CropModel
from models.classifier.fitting import Epoch, Session, TrainingConfig
from models.classifier.network import ClassifierConfig
from models.classifier.training import Inputs, train_calibrated
from monitor.alerts.neighbours import Ints
from monitor.alerts.rules import Posteriors
from monitor.features import packed, season_days, split_modalities
from research.experiments.season_source import labelled, rows_of, shape_of
from research.seasons.outcome import DemoSettings
from research.simulator import Acquisition, Season
from training.folds import blocked_folds
from training.season_models import VALIDATION_SHARE
from training.stored_season import blocks, hold_out

MIN_PARCELS: Final = 12
"""A crop that fewer parcels declare is not taught (`stored_season.load`)."""


def train(season: Season, epochs: int, report: Callable[[int, int, float], None]) -> CropModel:
    """Return a classifier of the declared crops of a season, as the demonstration trains it: calibrated on blocks held out."""
    data = labelled(season.name, season, _labels(season), DemoSettings(year=season.config.year).scored_on, 16)
    held = np.zeros(len(data), bool)
    usable = data.is_labelled
    held[usable] = hold_out(data.block[usable], data.labels[usable], VALIDATION_SHARE, 0)

    def on_epoch(epoch: Epoch, _: object) -> None:
        report((epoch.round - 1) * epoch.of + epoch.number, epoch.rounds * epoch.of, epoch.loss)

    return train_calibrated(
        ClassifierConfig(modalities=data.modalities, classes=data.classes),
        TrainingConfig(evaluation_days=data.scored_on, epochs=epochs),
        Inputs(data.observations, data.geometry, data.labels),
        usable,
        [held],
        is_refitted=True,
        session=Session(torch.device("cpu"), on_epoch=on_epoch),
    )


def _labels(season: Season) -> pd.DataFrame:
    """Return the declared crop of each monitorable parcel, blocks and folds."""
    frame, centre = season.parcels, season.parcels.geometry.to_crs(3857).centroid.to_crs(4326)
    is_monitorable = season.truth.parcels["is_monitorable"].to_numpy(bool)
    declared = frame["crop_name"].where(is_monitorable)
    counts = declared.value_counts()
    label = [name if counts.get(name, 0) >= MIN_PARCELS else None for name in declared]
    block = blocks(centre.x, centre.y).astype(str).tolist()
    labels = pd.DataFrame({"parcel_id": frame["parcel_id"], "block": block, "fold": blocked_folds(block, label)})
    labels["label"] = pd.Series(label, dtype=object)
    return labels


@dataclass(frozen=True)
class Course:
    """The posteriors after one acquisition, of the parcels in it."""

    known_on: date
    parcels: Ints
    posteriors: Posteriors


@dataclass
class Courses:
    """Posteriors of a season, acquisition by acquisition."""

    model: CropModel
    season: Season
    found: list[Course] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.season.parcels)
        self._geometry = shape_of(self.season.parcels)
        self._index = pd.Index(self.season.parcels["parcel_id"])
        self._states = self.model.network.initial_states(n)
        self._newest = np.full(n, np.datetime64("1970-01-01"), "M8[us]")
        self._n = np.zeros(n, np.int64)

    def add(self, acquisition: Acquisition, _parcels: Ints) -> None:
        """Fold an acquisition into the states of its parcels and keep their posteriors."""
        if acquisition.table["revision"][0].as_py() > 0:
            return
        rows, sets = rows_of([acquisition], "S2" if acquisition.sensor == "s2" else "S1", self._index)
        parcels = rows["parcel_key"].astype(np.int64)
        none = rows[:0]
        series = split_modalities(*((rows, none) if acquisition.sensor == "s2" else (none, rows)))
        name = next(name for name, one in series.items() if len(one))
        config = next(one for one in self.model.config.modalities if one.name == name)
        pixels = pa.array(sets.tolist(), pa.binary()) if config.pixels > 1 else None
        starts_on = self.season.starts_on
        observations = packed(config, rows, np.arange(len(rows)), starts_on, pixels)
        of = torch.from_numpy(parcels)
        batch = self.model.batch({name: observations}, self._geometry[parcels])
        after = self.model.encode(batch, {key: state.take(of) for key, state in self._states.items()})
        for key, state in self._states.items():
            state.m[of], state.s[of], state.v[of] = after[key].m, after[key].s, after[key].v
        self._newest[parcels] = np.maximum(self._newest[parcels], rows["observed_at"])
        self._n[parcels] += 1
        newest = self._newest[parcels]
        probabilities = self.model.posteriors(after, season_days(newest, starts_on))
        posteriors = Posteriors(
            self.model.config.classes, probabilities, self._n[parcels].copy(), newest.astype("M8[D]")
        )
        self.found.append(Course(acquisition.available_at.date(), parcels, posteriors))
