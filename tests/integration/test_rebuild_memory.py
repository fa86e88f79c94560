"""What a rebuild takes in memory depends neither on the size of pixel sets nor on how many observations a batch has."""

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch

from db import registry, work
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.pixel_sets import pixel_sets, pixel_sets_within
from db.seasons import ensure_season
from db.series import s2_series
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from tests.measured_worker import STATUS
from training.season_models import save

NOW = datetime(2025, 12, 1, tzinfo=UTC)
MOST_MB = 350.0
"""Chosen because: 190 to 240 MB were measured."""


def crop_model(pixels: int) -> CropModel:
    modalities = (ModalityConfig("s2", ("B04", "B08", "NDVI"), pixels=pixels), ModalityConfig("s1a", ("VV", "VH")))
    torch.manual_seed(3)
    network = PseLtae(ClassifierConfig(modalities, ("wheat", "maize")))
    random, n = np.random.default_rng(0), np.zeros(60)
    known = {
        one.name: Observations(
            random.normal(0.4, 0.2, (60, len(one.channels), 1)).astype(np.float32),
            n.astype(np.float32),
            n.astype(np.int64),
            n.astype(np.int16),
        )
        for one in modalities
    }
    return CropModel(network.eval(), Normaliser.fit(known, np.array([[400.0, 1e4, 0.04, 0.9]]), np.array([True])))


def season(connection: sa.Connection, n_parcels: int, dates: int, pixels: int, model: CropModel, folder: Path) -> None:
    """Store a season of parcels that are all to be rebuilt; of each date a pixel set where `pixels` is not 0."""
    stored = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
    rows = [ParcelRow(f"p{nr}", "r", None, 1.0, 400.0, 0.9, None, "1", "wheat") for nr in range(n_parcels)]
    upsert_parcels(connection, "test", stored, rows, NOW, NOW)
    for statement in (
        """insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
                                        recorded_at, scene_key, ndvi, b04, b08)
           select parcel_key, at, 8, 0, false, 9, at, at, 1, 0.5, 0.1, 0.3
           from parcels, generate_series(0, :dates - 1) nr, lateral (select timestamptz '2025-01-02' + nr * interval '1 day' as at) t""",
        """insert into pixel_sets select parcel_key, observed_at, 'S2', relative_orbit, revision, decode(repeat('e803', :numbers), 'hex')
           from s2_observations where :numbers > 0""",
        "analyze s2_observations",
        "analyze pixel_sets",
    ):
        connection.execute(sa.text(statement), {"dates": dates, "numbers": 10 * pixels})
    key = save(connection, "classifier", model.to_checkpoint(), folder, NOW)
    registry.activate(connection, stored.season_key, "test", key, NOW)
    work.mark_season(connection, stored.season_key, "test", "classifier", NOW)


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how large a process was")
@pytest.mark.parametrize(
    ("n_parcels", "dates", "pixels"),
    [
        pytest.param(32, 100, 4096, id="a quarter of a gigabyte of pixel sets"),
        pytest.param(512, 150, 0, id="seventy-seven thousand acquisitions"),
    ],
)
def test_the_memory_of_a_rebuild_is_bounded(dsn: str, tmp_path: Path, n_parcels: int, dates: int, pixels: int) -> None:
    with engine(dsn).begin() as connection:
        season(connection, n_parcels, dates, pixels, crop_model(64 if pixels else 1), tmp_path)
    command = [sys.executable, "-m", "tests.measured_worker", dsn, str(n_parcels)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST_MB


def test_pixel_sets_beyond_a_bound_are_not_read_but_measured(dsn: str, tmp_path: Path) -> None:
    with engine(dsn).begin() as connection:
        season(connection, 4, 10, 6, crop_model(6), tmp_path)
        connection.execute(sa.text("delete from pixel_sets where parcel_key = 2"))
        every = s2_series(connection, np.arange(1, 5), None)
        for rows in (every, every[::7], every[[0, 13, 26, 39]]):  # each parcel at times of its own, too
            sizes, sets = pixel_sets_within(connection, "S2", rows, 10 * 120)
            assert sizes.tolist() == np.where(rows["parcel_key"] == 2, 0, 120).tolist()
            assert (sets is None) == (len(rows) > 10)
            assert [one.as_py() for one in pixel_sets(connection, "S2", rows)] == [
                None if key == 2 else b"\xe8\x03" * 60 for key in rows["parcel_key"]
            ]
