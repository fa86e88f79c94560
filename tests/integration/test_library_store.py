"""The door for Python on a store: a registered model by key and by id, a parcel's history as a DataFrame."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from db import observations
from db.connect import engine
from db.parcels import load_parcels
from ingest.stream.settings import IngestSettings
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.training import GapTrainingConfig, fit_gaps
from monitor.errors import NotFound
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from parcelwatch import load_model, parcel_history
from research.seasons.season_stream import Chain, import_season
from research.simulator import SimulatorConfig, simulate_season
from training.season_models import conventions, ndvi_checkpoint, save

NOW = datetime(2025, 12, 1, tzinfo=UTC)


def test_a_parcels_history_is_a_frame(dsn: str) -> None:
    season = simulate_season(SimulatorConfig(n_parcels=40, n_pixels=2, s1_every_d=12, s1_orbits=1))
    chain = Chain(dsn, "nobody:9092", IngestSettings(), Worker(dsn, MonitorSettings()))
    known, _ = import_season(chain, season, "simulated", NOW)
    with engine(dsn).begin() as connection:
        key_of = {one.source_id: one.parcel_key for one in load_parcels(connection, known, "simulated")}
        acquisition = next(one for one in season.acquisitions() if one.sensor.upper() == "S2" and one.table.num_rows)
        ids = acquisition.table["parcel_id"].to_pylist()
        keys = np.array([key_of[one] for one in ids], np.int64)
        observations.insert(connection, "S2", acquisition.table, keys, NOW)
    found = parcel_history(ids[0], dsn=dsn)
    assert len(set(found["kind"])) >= 2  # the declaration, too
    row = found[found["kind"] == "s2"].iloc[0]
    assert row["ndvi"] == pytest.approx(acquisition.table["NDVI"][0].as_py(), abs=1e-6)
    assert found["at"].is_monotonic_increasing
    assert "s2" not in set(parcel_history(ids[0], as_known_at="2025-01-01", dsn=dsn)["kind"])
    with pytest.raises(NotFound, match="no parcel 'none' is stored"):
        parcel_history("none", dsn=dsn)
    engine(dsn).dispose()


def test_a_registered_model_is_loaded_by_key_and_by_id(dsn: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    random, parcel, day = np.random.default_rng(0), np.repeat(np.arange(20), 20), np.tile(np.arange(20) * 6.0, 20)
    n = len(day)
    sar = SarSeries(parcel, day, np.full(n, 37), np.ones(n, bool), random.normal(-12, 1, n), random.normal(-18, 1, n))
    clear = ClearSeries(parcel, day, random.uniform(0.2, 0.8, n))
    config = GapTrainingConfig.chosen({"n_updates": 1, "n_members": 1, "batch_size": 4})
    model, _ = fit_gaps(sar, clear, np.arange(20), config)
    checkpoint = ndvi_checkpoint(model, {}, conventions(date(2025, 1, 1)))
    with engine(dsn).begin() as connection:
        key = save(connection, "ndvi", checkpoint, tmp_path, NOW)
    for name in (key, str(key), checkpoint.model[:12], tmp_path):
        assert load_model(name, dsn).description["model"] == checkpoint.model
    with pytest.raises(NotFound, match="no registered model answers to 'zz'"):
        load_model("zz", dsn)
    engine(dsn).dispose()
