"""Posteriors folded in any order of arrival are those of a full recomputation, on the real tables."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from db import alerts, observations, registry, states, work
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.pixel_sets import pixel_sets
from db.predictions import latest_posteriors
from db.seasons import Season, ensure_season
from db.series import s1_series, s2_series
from db.states import OF_NO_MODEL
from ingest.stream.schemas import S1, S2, ObservationSchema
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations

from monitor.features import geometry, observations as features, season_days, split_modalities, splits_of  # isort: skip
from monitor.season_series import SeasonSeries
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from training.season_models import save

START, NOW = date(2025, 1, 1), datetime(2025, 12, 1, tzinfo=UTC)
N_PARCELS = 5
MODALITIES = (
    ModalityConfig("s2", ("B04", "B08", "NDVI"), pixels=8),
    ModalityConfig("s1a", ("VV", "VH"), is_per_orbit=True, pixels=1),
    ModalityConfig("s1d", ("VV", "VH", "VV-VH"), is_per_orbit=True, pixels=1),
)


@dataclass(frozen=True)
class Arrival:
    """An observation as it arrives."""

    parcel: int
    sensor: str
    day: int
    orbit: int
    revision: int = 0
    is_withdrawn: bool = False
    value: float = 0.5


def arrivals() -> st.SearchStrategy[list[Arrival]]:
    one = st.builds(
        Arrival,
        parcel=st.integers(0, N_PARCELS - 1),
        sensor=st.sampled_from(["S2", "S1"]),
        day=st.integers(0, 330),
        orbit=st.sampled_from([15, 37]),
        revision=st.sampled_from([0, 0, 0, 0, 1, 2]),
        is_withdrawn=st.booleans().map(lambda b: b),
        value=st.floats(0.05, 0.9),
    )
    unique = st.lists(
        one, min_size=1, max_size=40, unique_by=lambda a: (a.parcel, a.sensor, a.day, a.orbit, a.revision)
    )
    # Only a revision can withdraw.
    return unique.map(
        lambda many: [a if a.revision else Arrival(**{**a.__dict__, "is_withdrawn": False}) for a in many]
    )


def table(schema: ObservationSchema, many: list[Arrival]) -> pa.Table:
    random = np.random.default_rng(7)
    rows = []
    for a in many:
        observed = datetime(2025, 1, 1, 10, 30, tzinfo=UTC) + timedelta(days=a.day)
        row = dict.fromkeys(schema.arrow.names) | {
            "collection": "test",
            "season": "2025",
            "parcel_id": f"p{a.parcel}",
            "observed_at": observed,
            "available_at": observed + timedelta(hours=5),
            "scene_id": f"{a.sensor}-{a.day}-{a.orbit}-{a.revision}",
            "platform": "X1A",
            "relative_orbit": a.orbit,
            "revision": a.revision,
            "is_withdrawn": a.is_withdrawn,
        }
        value = None if a.is_withdrawn else a.value
        if a.sensor == "S2":
            row |= {"B04": value, "B08": value and value / 2, "NDVI": value, "n_clear": 0 if a.is_withdrawn else 3}
            if value and a.day % 2:  # some observations come without a pixel set
                row["pixels"] = random.integers(100, 5000, (10, 1 + a.day % 5)).astype("<i2").tobytes()
        else:
            row |= {
                "VV": value,
                "VH": value and value / 4,
                "n_pixels": 3,
                "radiometry": "gamma0",
                "direction": "ascending" if a.orbit == 15 else "descending",
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.arrow)


def store(connection: sa.Connection, keys: NDArray[np.int64], many: list[Arrival], now: datetime) -> None:
    for sensor, schema in (("S2", S2), ("S1", S1)):
        own = [a for a in many if a.sensor == sensor]
        if own:
            observations.insert(connection, sensor, table(schema, own), keys[[a.parcel for a in own]], now)  # type: ignore[arg-type]


@pytest.fixture
def season(dsn: str) -> Iterator[tuple[str, Season]]:
    with engine(dsn).begin() as connection:
        stored = ensure_season(connection, "2025", START, date(2025, 12, 31))
        rows = [ParcelRow(f"p{i}", "r", None, 1.0 + i, 400.0, 0.9, None, "1", "wheat") for i in range(N_PARCELS)]
        upsert_parcels(connection, "test", stored, rows, NOW, NOW)
    yield dsn, stored
    engine(dsn).dispose()


@pytest.fixture(scope="module", params=["late", "mid", "decision"])
def model(request: pytest.FixtureRequest) -> CropModel:
    return taught(ClassifierConfig(MODALITIES, ("wheat", "maize", "grass"), fusion=request.param))


def taught(config: ClassifierConfig) -> CropModel:
    torch.manual_seed(3)
    network = PseLtae(config)
    random = np.random.default_rng(0)
    known = {
        one.name: Observations(
            random.normal(0.4, 0.2, (60, len(one.channels), 1)).astype(np.float32),
            np.zeros(60, np.float32),
            np.zeros(60, np.int64),
            np.full(60, 15, np.int16),
        )
        for one in config.modalities
    }
    shape = np.tile([[400.0, 1e4, 0.04, 0.9]], (1, 1))
    normaliser = Normaliser.fit(known, shape, np.array([True]), ["s1a", "s1d"])
    made = CropModel(network.eval(), normaliser)
    return CropModel.from_checkpoint(made.to_checkpoint())


def recomputed(connection: sa.Connection, model: CropModel, keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """Posteriors of the whole season at once, from what is stored now, without folded norms or states."""
    series = split_modalities(s2_series(connection, keys, NOW), s1_series(connection, keys, NOW))
    shape = geometry([400.0] * N_PARCELS, [1.0 + i for i in range(N_PARCELS)], [0.9] * N_PARCELS)
    batch = model.batch({m.name: features(connection, m, series[m.name], keys, START) for m in MODALITIES}, shape)
    newest = np.full(N_PARCELS, np.datetime64("2025-01-01", "us"))
    for m in MODALITIES:
        np.maximum.at(newest, np.searchsorted(keys, series[m.name]["parcel_key"]), series[m.name]["observed_at"])
    return model.posteriors(model.encode(batch), season_days(newest, START))


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking on real tables takes minutes
)
@given(many=arrivals(), cuts=st.lists(st.integers(0, 40), max_size=4), batch=st.sampled_from([1, 2, 512]))
def test_any_order_of_arrival_gives_the_posteriors_of_a_full_recomputation(
    season: tuple[str, Season],
    model: CropModel,
    many: list[Arrival],
    cuts: list[int],
    batch: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dsn, stored = season
    with engine(dsn).begin() as connection:
        tables = (
            "s1_observations, s2_observations, pixel_sets, pending_work, encoder_states, posteriors, model_activations"
        )
        # Curves too: without an NDVI model they are those of the smoother, and the next example records at the same times.
        connection.execute(sa.text(f"truncate {tables}, findings, ndvi_months, phenology, markers"))
        key = save(connection, "classifier", model.to_checkpoint(), tmp_path_factory.mktemp("model"), NOW)
        registry.activate(connection, stored.season_key, "test", key, NOW)
        rows = connection.execute(sa.text("select parcel_key from parcels order by source_id"))
        keys = np.array([row.parcel_key for row in rows], np.int64)
    worker = Worker(dsn, MonitorSettings(batch=batch))
    moment = NOW - timedelta(days=30)
    bounds = sorted({0, len(many), *(cut for cut in cuts if cut < len(many))})
    for first, last in pairwise(bounds):
        moment += timedelta(days=1)
        with engine(dsn).begin() as connection:
            store(connection, keys, many[first:last], moment)
        counts = worker.poll(moment)
        assert counts.postponed == 0
    with engine(dsn).connect() as connection:
        assert connection.execute(sa.text("select count(*) from pending_work")).scalar() == 0
        expected = recomputed(connection, model, keys)
        current = {
            m: np.unique(rows["parcel_key"])
            for m, rows in split_modalities(s2_series(connection, keys, NOW), s1_series(connection, keys, NOW)).items()
        }
        observed = np.unique(np.concatenate([current[m.name] for m in MODALITIES]))
        got = {row.parcel_key: row for row in latest_posteriors(connection, keys, key, NOW)}
        check_splits(connection, keys)
    assert set(observed.tolist()) <= set(got)
    for index in np.searchsorted(keys, observed):
        np.testing.assert_allclose(got[int(keys[index])].probabilities, expected[index], atol=1e-5)


def check_splits(connection: sa.Connection, keys: NDArray[np.int64]) -> None:
    """What is carried of pixel sets is what is stored says, whatever came when."""
    s2 = s2_series(connection, keys, NOW)
    carried, has = SeasonSeries.carried(keys, states.load(connection, keys, [OF_NO_MODEL]).get((OF_NO_MODEL, "series")))
    assert has[np.searchsorted(keys, np.unique(s2["parcel_key"]))].all()
    expected = splits_of(pixel_sets(connection, "S2", s2))
    np.testing.assert_array_equal(carried.views["split"], expected[np.isfinite(s2["ndvi"])])


@pytest.mark.parametrize("pixels", [1, 8])
def test_two_parts_of_a_parcel_are_found_whatever_the_classifier_reads(
    season: tuple[str, Season], pixels: int, tmp_path: object
) -> None:
    """A view a poll; one of 16 pixels is dark on a fifth parcel, as many as differ on the first."""
    dsn, stored = season
    modalities = (ModalityConfig("s2", ("B04", "B08"), pixels=pixels), *MODALITIES[1:])
    _, keys = activated(dsn, stored, taught(ClassifierConfig(modalities, ("wheat", "maize"))), tmp_path)
    worker = Worker(dsn, MonitorSettings())
    for nr, day in enumerate(range(100, 150, 10)):
        many = [Arrival(parcel, "S2", day, 15) for parcel in (0, 4)]
        rows = table(S2, many).to_pylist()
        for row, n_dark in zip(rows, (6, 1), strict=True):
            sets = np.full((10, 16), 3000, "<i2")
            sets[2], sets[2, :n_dark] = 400, 2000  # B04
            row["pixels"] = sets.tobytes()
        now = NOW - timedelta(days=9 - nr)
        with engine(dsn).begin() as connection:
            observations.insert(connection, "S2", pa.Table.from_pylist(rows, schema=S2.arrow), keys[[0, 4]], now)
        assert worker.poll(now).postponed == 0
    with engine(dsn).connect() as connection:
        check_splits(connection, keys)
        newest = alerts.latest_departures(connection, keys.tolist(), "parts")
    finding, other = (newest[int(keys[nr])] for nr in (0, 4))
    assert (other.outcome, other.colour) == ("OK", "green")
    assert (finding.colour, finding.departed_on) == ("yellow", START + timedelta(days=100))
    assert (finding.evidence["kind"], finding.evidence["share"]) == ("two_parts", 0.38)


def activated(dsn: str, stored: Season, model: CropModel, folder: object) -> tuple[int, NDArray[np.int64]]:
    """Let a model watch the season; return its key and those of the parcels."""
    with engine(dsn).begin() as connection:
        key = save(connection, "classifier", model.to_checkpoint(), folder, NOW)  # type: ignore[arg-type]
        registry.activate(connection, stored.season_key, "test", key, NOW)
        rows = connection.execute(sa.text("select parcel_key from parcels order by source_id"))
        return key, np.array(rows.scalars().all(), np.int64)


def test_dropped_states_are_rebuilt_and_nothing_changes(
    season: tuple[str, Season], model: CropModel, tmp_path: object
) -> None:
    dsn, stored = season
    many = [Arrival(0, "S2", day, 15, value=0.1 + day / 400) for day in range(0, 200, 7)]
    key, keys = activated(dsn, stored, model, tmp_path)
    with engine(dsn).begin() as connection:
        store(connection, keys, many[:-1], NOW)
    worker = Worker(dsn, MonitorSettings())
    worker.poll(NOW)
    with engine(dsn).begin() as connection:
        connection.execute(sa.text("delete from encoder_states"))
        store(connection, keys, many[-1:], NOW + timedelta(days=1))
    counts = worker.poll(NOW + timedelta(days=1))
    assert counts.observations == len(many)  # the whole season went through the network again
    with engine(dsn).connect() as connection:
        expected = recomputed_one(connection, model, keys)
        got = latest_posteriors(connection, keys[:1], key, NOW + timedelta(days=2))[0]
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-5)
    with engine(dsn).begin() as connection:
        store(connection, keys, [Arrival(0, "S2", 300, 15)], NOW + timedelta(days=2))
    assert worker.poll(NOW + timedelta(days=2)).observations == 1  # and now only what is new


def recomputed_one(connection: sa.Connection, model: CropModel, keys: NDArray[np.int64]) -> NDArray[np.float32]:
    s2 = s2_series(connection, keys, NOW + timedelta(days=2))
    series = split_modalities(s2, s1_series(connection, keys, NOW))
    shape = geometry([400.0] * N_PARCELS, [1.0 + i for i in range(N_PARCELS)], [0.9] * N_PARCELS)
    batch = model.batch({m.name: features(connection, m, series[m.name], keys, START) for m in MODALITIES}, shape)
    newest = np.full(N_PARCELS, s2["observed_at"].max())
    one: NDArray[np.float32] = model.posteriors(model.encode(batch), season_days(newest, START))[0]
    return one


def test_a_poisoned_parcel_is_postponed_alone(season: tuple[str, Season], model: CropModel, tmp_path: object) -> None:
    dsn, stored = season
    key, keys = activated(dsn, stored, model, tmp_path)
    with engine(dsn).begin() as connection:
        store(connection, keys, [Arrival(p, "S2", 10, 15) for p in range(N_PARCELS)], NOW)
        # A state that cannot be read: its count is right, its bytes are not.
        connection.execute(
            sa.text("""insert into encoder_states (parcel_key, model_key, modality, n_folded, observed_to, state)
                       values (:parcel, :model, :sequence, 0, :now, 'broken')"""),
            {"parcel": int(keys[2]), "model": key, "now": NOW, "sequence": model.config.sequences[0]},
        )
    worker = Worker(dsn, MonitorSettings())
    counts = worker.poll(NOW)
    assert (counts.parcels, counts.postponed) == (N_PARCELS - 1, 1)
    with engine(dsn).connect() as connection:
        left = connection.execute(sa.text("select parcel_key, attempts, last_error from pending_work")).one()
        assert (left.parcel_key, left.attempts) == (int(keys[2]), 1)
        assert "state" in left.last_error
        assert work.claim(connection, 10, NOW) is None  # not before its pause is over
        assert work.claim(connection, 10, NOW + timedelta(hours=1)) is not None


def test_what_is_stored_of_a_parcel_that_is_made_fit_meanwhile_is_folded(
    season: tuple[str, Season], model: CropModel, tmp_path: object
) -> None:
    """A consumer saw the parcel as unfit and marks nothing; the import that makes it fit waits for it, and asks for all."""
    dsn, stored = season
    row = ParcelRow("p9", "r", None, 1.0, 400.0, 0.9, "too small", "1", "wheat")
    with engine(dsn).begin() as connection:
        key = save(connection, "classifier", model.to_checkpoint(), tmp_path, NOW)  # type: ignore[arg-type]
        registry.activate(connection, stored.season_key, "test", key, NOW)
        upsert_parcels(connection, "test", stored, [row], NOW, NOW)
        p9 = connection.execute(sa.text("select parcel_key from parcels where source_id = 'p9'")).scalar_one()

    def make_fit() -> None:
        with engine(dsn).begin() as connection:
            upsert_parcels(connection, "test", stored, [replace(row, not_monitorable_reason=None)], NOW, NOW)

    with engine(dsn).begin() as consumer:
        store(consumer, np.array([p9]), [Arrival(0, "S2", 10, 15)], NOW)
        importing = threading.Thread(target=make_fit)
        importing.start()
        importing.join(1)
        assert importing.is_alive()
    importing.join(30)
    assert Worker(dsn, MonitorSettings()).poll(NOW).observations == 1


def test_a_first_revision_that_is_withdrawn_is_no_observation(
    season: tuple[str, Season], model: CropModel, tmp_path: object
) -> None:
    """Day by day and in order, so that nothing but the pending rows is read."""
    dsn, stored = season
    key, keys = activated(dsn, stored, model, tmp_path)
    worker, folded = Worker(dsn, MonitorSettings()), []
    for nr, day in enumerate(range(0, 70, 7)):
        now = NOW - timedelta(days=20 - nr)
        with engine(dsn).begin() as connection:
            store(connection, keys, [Arrival(0, "S2", day, 15, is_withdrawn=day == 35, value=0.2 + day / 400)], now)
        counts = worker.poll(now)
        assert counts.postponed == 0
        folded.append(counts.observations)
    assert folded == [1, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    with engine(dsn).connect() as connection:
        got = latest_posteriors(connection, keys[:1], key, NOW + timedelta(days=2))[0]
        np.testing.assert_allclose(got.probabilities, recomputed_one(connection, model, keys), atol=1e-5)
    assert got.n_observations["s2"] == 9
