"""A stored season and the same season in memory teach the same; a run on a stored season registers its final model."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from db import observations, registry
from db.connect import engine
from db.parcels import load_parcels
from db.predictions import latest_posteriors
from db.seasons import season_by_name
from db.series import s1_series, s2_series
from ingest.stream.settings import IngestSettings
from models.checkpoint import Checkpoint
from models.classifier.cross_fitted import CrossFitted, classifier_of
from models.classifier.sampling import PackedParcels
from models.classifier.scoring import predict
from monitor.inspection.posterior_course import posterior_course
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.experiments.season_source import labelled
from research.seasons.season_stream import Chain, import_season
from research.simulator import Season, SimulatorConfig, simulate_season
from training import cross_fitting, stored_season
from training.classifier_command import classifier
from training.database_source import DatabaseData
from training.labelled import LabelledParcels
from training.sources import open_source
from training.stored_season import NothingToLearn

NOW = datetime(2025, 12, 1, tzinfo=UTC)
CONFIG = """
[data]
kind = "database"
season = "2025"
collection = "simulated"
min_parcels = 5
scored_on = [2025-06-15, 2025-10-31]

[model]
modalities = ["s2"]
pixel_widths = [8]
decoder = [16]

[training]
epochs = 1
batch = 16
final = true

[run]
folder = "{folder}"
"""


@pytest.fixture
def stored(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Season]:
    """A simulated season in the database that the environment names."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", "nobody:9092")
    season = simulate_season(SimulatorConfig(n_parcels=60, n_pixels=2, s1_every_d=12, s1_orbits=1))
    chain = Chain(dsn, "nobody:9092", IngestSettings(), Worker(dsn, MonitorSettings()))
    known, _ = import_season(chain, season, "simulated", NOW)
    with engine(dsn).begin() as connection:
        key_of = {one.source_id: one.parcel_key for one in load_parcels(connection, known, "simulated")}
        for acquisition in season.acquisitions():
            keys = np.array([key_of[one] for one in acquisition.table["parcel_id"].to_pylist()], np.int64)
            observations.insert(connection, acquisition.sensor.upper(), acquisition.table, keys, NOW)  # type: ignore[arg-type]
    yield season
    engine(dsn).dispose()


def rows(data: LabelledParcels, modality: str) -> NDArray[np.float64]:
    """Day, orbit, pixels, label and geometry of each observation, in the order of the first."""
    one = data.observations[modality]
    flat = np.nan_to_num(one.pixels.reshape(len(one.pixels), -1), nan=-1.0)
    table = np.column_stack([one.day, one.orbit, flat, data.labels[one.parcel], data.geometry[one.parcel]])
    order: NDArray[np.int64] = np.lexsort(table.T[::-1])
    return np.asarray(table[order], np.float64)


def test_a_stored_season_and_one_in_memory_are_the_same(stored: Season) -> None:
    data = open_source(DatabaseData(season="2025", collection="simulated", min_parcels=5))
    names = stored.parcels["crop_name"].where(stored.truth.parcels["is_monitorable"].to_numpy())
    label = names.where(names.isin(data.classes))
    frame = pd.DataFrame({"parcel_id": stored.parcels["parcel_id"], "label": label, "block": "b"})
    replayed = labelled("played", stored, frame.assign(fold=0), [stored.ends_on])
    known = np.flatnonzero(replayed.is_labelled)
    assert replayed.classes == data.classes
    assert [one.channels for one in replayed.modalities] == [one.channels for one in data.modalities]
    for name, one in replayed.observations.items():
        kept = one.take(np.isin(one.parcel, known))
        own = LabelledParcels(
            "",
            {name: kept},
            replayed.geometry,
            replayed.labels,
            replayed.classes,
            (),
            replayed.fold,
            replayed.block,
            (),
            (),
        )
        np.testing.assert_allclose(rows(own, name), rows(data, name), rtol=1e-6)  # outlines were written and read
    assert set(data.fold.tolist()) == {1, 2, 3, 4, 5}


def test_a_collection_that_is_not_stored_is_named(stored: Season) -> None:
    with pytest.raises(NothingToLearn, match=f"no parcel of collection 'elsewhere' in season {stored.name} can be"):
        open_source(DatabaseData(season=stored.name, collection="elsewhere"))


def test_a_run_on_a_stored_season_registers_its_final_model(stored: Season, tmp_path: Path, dsn: str) -> None:
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path / "run"))
    classifier(
        config=tmp_path / "run.toml", season=None, collection=None, folder=None, epochs=None, seed=None, device=None
    )
    with engine(dsn).connect() as connection:
        (model,) = registry.all_models(connection)
        season = season_by_name(connection, stored.name)
    assert model.trained_on["season"] == season.name
    assert model.metrics["days"] == [288.0, 426.0]
    assert (
        model.metrics["parcels"] == model.trained_on["n_training"]
    )  # every parcel was answered by a model of another fold
    assert (tmp_path / "run" / "final" / "model.json").exists()


def test_a_running_season_is_learnt_and_each_parcel_watched_by_the_model_that_did_not_see_it(
    stored: Season, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = list[frozenset[int]]()
    train = cross_fitting.train_calibrated  # type: ignore[attr-defined]

    def stopped_once(config: Any, training: Any, inputs: Any, usable: Any, held: Any, **rest: Any) -> Any:
        if len(learnt) == 1 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        learnt.append(frozenset(np.flatnonzero(usable).tolist()))
        return train(config, training, inputs, usable, held, **rest)

    monkeypatch.setattr(cross_fitting, "train_calibrated", stopped_once)
    asked: dict[str, Any] = {
        "season": stored.name,
        "collection": "simulated",
        "out": tmp_path,
        "min_parcels": 4,
        "epochs": 1,
    }
    with pytest.raises(KeyboardInterrupt):
        classifier(**asked, cross_fit=3, activate_if="accuracy>=0")
    classifier(**asked, cross_fit=3, activate_if="accuracy>=0")
    assert len(learnt) == 3  # the fold that was finished is not learnt again
    worker = Worker(dsn, MonitorSettings())
    while worker.poll(NOW).parcels:
        pass
    with engine(dsn).connect() as connection:
        (row,) = [one for one in registry.all_models(connection) if one.task == "classifier"]
        season = season_by_name(connection, stored.name)
        assert [one[2] for one in registry.active_models(connection)] == [row.model_key]
        model = classifier_of(Checkpoint(*registry.checkpoint(connection, row.model_key)))
        data = stored_season.load(
            connection, season, "simulated", datetime.now(UTC), label_of=lambda one: one.crop_name, min_parcels=4
        )
        keys = np.array([one.parcel_key for one in data.parcels], np.int64)
        got = {one.parcel_key: one for one in latest_posteriors(connection, keys, row.model_key, datetime.now(UTC))}
        parcel = next(one for one in data.parcels if one.parcel_key in got)
        s2, s1 = (read(connection, np.array([parcel.parcel_key]), None) for read in (s2_series, s1_series))
        course = posterior_course(connection, parcel, row.model_key, season.starts_on, s2, s1)
    assert isinstance(model, CrossFitted)
    fold = model.fold_of([one.lon or 0.0 for one in data.parcels], [one.lat or 0.0 for one in data.parcels])
    assert set(fold.tolist()) == {1, 2, 3}
    for one in (1, 2, 3):
        assert not learnt[one - 1] & set(np.flatnonzero(fold == one).tolist())
    assert len(got) > 20
    packed = PackedParcels.of(model.normaliser, data.observations, data.geometry)
    for nr, one in enumerate(fold.tolist()):
        if keys[nr] in got:
            said = predict(model.members[one - 1].network, packed, torch.tensor([nr]), (1e3,))
            expected = model.members[one - 1].temperature.probabilities(said.logits[0], said.newest[0])[0]
            np.testing.assert_allclose(got[keys[nr]].probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(course[-1].detail["probabilities"], got[parcel.parcel_key].probabilities, atol=1e-4)
