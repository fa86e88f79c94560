"""Ingest and monitors at once, on a real clock, with clocks that differ and processes that are killed: as one after the other.

Two stores are filled from the same topics. One is ingested whole and then worked off at once. Into the other, consumers and
monitors run at the same time as processes of their own, and some are killed. At the end both must believe the same, and what was
answered "as known at" random times meanwhile must be answered again.

PARCELWATCH_BOTH_SIDES_PARCELS, _MONITORS, _SECONDS and _KILLS make it larger (60 parcels, 2 monitors, half a minute and
3 kills by default); PARCELWATCH_TEST_BOOTSTRAP names another broker.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
import torch
from psycopg import sql

from db import recording, registry, work
from db.connect import engine
from ingest.stream.consumer import Consumer
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.training import GapTrainingConfig, fit_gaps
from monitor.schedule import once
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.seasons.season_stream import Chain, import_season
from research.simulator import Season, SimulatorConfig, simulate_season
from training import season_models

ROOT = Path(__file__).parents[2]
N_PARCELS = int(os.environ.get("PARCELWATCH_BOTH_SIDES_PARCELS", "60"))
N_MONITORS = int(os.environ.get("PARCELWATCH_BOTH_SIDES_MONITORS", "2"))
SECONDS = float(os.environ.get("PARCELWATCH_BOTH_SIDES_SECONDS", "30"))
SKEW_S = 30
N_KILLS = int(os.environ.get("PARCELWATCH_BOTH_SIDES_KILLS", "3"))
PATIENCE_S = 60 + 4 * SECONDS
COLLECTION = "simulated"

# The commands by themselves, with a clock that is set wrong.
CONSUMER = """
import logging, signal, sys, threading
from datetime import UTC, datetime, timedelta
from db.connect import engine
from ingest.stream.consumer import Consumer
from ingest.stream.settings import IngestSettings
logging.basicConfig(level=logging.INFO)
dsn, bootstrap, group, skew = sys.argv[1:]
settings = IngestSettings(group_id=group)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
Consumer(engine(dsn), bootstrap, settings, lambda: datetime.now(UTC) + timedelta(seconds=int(skew))).run(stop)
"""
MONITOR = """
import logging, sys
from datetime import UTC, datetime, timedelta
import torch
from monitor.schedule import run
from monitor.settings import MonitorSettings
logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)
dsn, skew = sys.argv[1:]
run(dsn, MonitorSettings(), lambda: datetime.now(UTC) + timedelta(seconds=int(skew)))
"""


@pytest.fixture(scope="module")
def season() -> Season:
    config = SimulatorConfig(
        year=2025, seed=3, n_parcels=N_PARCELS, n_pixels=8, s1_every_d=12, s1_orbits=1, regions=("centre",)
    )
    return simulate_season(config)


@pytest.fixture(scope="module")
def models(season: Season) -> tuple[CropModel, Any]:
    """Models that learned nothing or little, but are sure of it: that both stores believe the same is what counts."""
    torch.manual_seed(5)
    codes = sorted(set(season.parcels["crop_code"]))
    modalities = (
        ModalityConfig("s2", ("B04", "B08", "NDVI"), pixels=4),
        ModalityConfig("s1a", ("VV", "VH"), is_per_orbit=True, pixels=1),
        ModalityConfig("s1d", ("VV", "VH"), is_per_orbit=True, pixels=1),
    )
    network = PseLtae(ClassifierConfig(modalities, tuple(codes)))
    assert network.decoder is not None
    last = list(network.decoder.children())[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight *= 30
    random_ = np.random.default_rng(0)
    known = {
        one.name: Observations(
            random_.normal(0.4, 0.2, (60, len(one.channels), 1)).astype(np.float32),
            np.zeros(60, np.float32),
            np.zeros(60, np.int64),
            np.full(60, 15, np.int16),
        )
        for one in modalities
    }
    normaliser = Normaliser.fit(known, np.array([[400.0, 1e4, 0.04, 0.9]]), np.array([True]), ["s1a", "s1d"])
    classifier = CropModel(network.eval(), normaliser, about={"class_of": {code: code for code in codes}})
    day = np.tile(np.arange(0, 360, 6.0), 24)
    parcel, green = np.repeat(np.arange(24), 60), 0.2 + 0.6 * np.exp(-(((day - 240) / 50) ** 2))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), -12 + 4 * green, -20 + 6 * green)
    config = GapTrainingConfig(
        network=GapConfig(is_causal=False, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2),
        n_members=1,
        n_updates=40,
    )
    return classifier, fit_gaps(sar, ClearSeries(parcel, day + 1, green), np.arange(24) // 2, config)[0]


@contextmanager
def store(dsn: str, season: Season, models: tuple[CropModel, Any], folder: Path) -> Iterator[str]:
    """A store of its own, on the database's clock, with the season's parcels and both models active."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update recording set clock = 'database'")
    now = datetime.now(UTC)
    chain = Chain(dsn, "nobody:9092", IngestSettings(), Worker(dsn, MonitorSettings()))
    stored, _ = import_season(chain, season, COLLECTION, now)
    classifier, curve = models
    with engine(dsn).begin() as connection:
        for task, checkpoint in (
            ("classifier", classifier.to_checkpoint()),
            ("ndvi", season_models.ndvi_checkpoint(curve, {}, {})),
        ):
            key = season_models.save(connection, task, checkpoint, folder / task, now)  # type: ignore[arg-type]
            registry.activate(connection, stored.season_key, COLLECTION, key, now)
    yield dsn


@pytest.fixture
def second_dsn(database_server: str, template_database: str) -> Iterator[str]:
    from tests.conftest import _database

    with _database(database_server, template_database) as fresh:
        yield fresh


@dataclass
class Processes:
    """Consumers and monitors, some killed and begun again."""

    commands: dict[str, list[str]]
    folder: Path
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    n_killed: int = 0

    def begin(self, name: str) -> None:
        """Start a process; its log is appended to."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", *self.commands[name]], cwd=ROOT, env=self.environment, stderr=log, stdout=log
            )

    def kill(self, name: str) -> None:
        """Kill a process and begin it again."""
        self.running[name].kill()
        self.running[name].wait()
        self.n_killed += 1
        self.begin(name)

    def end(self) -> None:
        """Ask all to end; they must do it in order."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            assert process.wait(60) == 0, self.log(name)

    def log(self, name: str) -> str:
        """What a process wrote."""
        return (self.folder / f"{name}.log").read_text()


ANSWER = """
    select answer from (select to_jsonb(h) as answer from parcel_history(%(parcel)s, as_known_at => %(at)s) h) a order by answer::text
"""


@dataclass
class Asker:
    """Asks as known at random times of random parcels while both sides run; asks again at the end."""

    dsn: str
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, datetime, list[Any]]] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self) -> None:
        """Ask until told to stop."""
        chance = random.Random(1)
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                parcels = [key for (key,) in connection.execute("select parcel_key from parcels")]
                while not self.stop.is_set():
                    row = connection.execute("select clock_timestamp()").fetchone()
                    assert row is not None
                    at = row[0] - timedelta(seconds=chance.choice([0, 0, 0, 0.1, 1, 10]))
                    parcel = chance.choice(parcels)
                    self.answers.append((parcel, at, self._ask(connection, parcel, at)))
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failure = error

    def check(self) -> int:
        """Ask everything again; returns how many answers there were that were not empty."""
        assert self.failure is None, self.failure
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for parcel, at, answer in self.answers:
                again = self._ask(connection, parcel, at)
                differ = [row for row in again if row not in answer] + [row for row in answer if row not in again]
                assert not differ, (parcel, at, differ[:3])
        return sum(bool(answer) for _, _, answer in self.answers)

    @staticmethod
    def _ask(connection: psycopg.Connection[Any], parcel: int, at: datetime) -> list[Any]:
        return [row for (row,) in connection.execute(ANSWER, {"parcel": parcel, "at": at})]


BELIEFS = {
    "posteriors": """
        select source_id, observed_to::text, n_s2, n_s1a, n_s1d, probabilities from parcels cross join lateral (
            select * from posteriors p where p.parcel_key = parcels.parcel_key order by recorded_at desc limit 1) newest""",
    # The posterior of an acquisition that was withdrawn later stays on record where it was known in between.
    "courses": """
        with observed as (
            select distinct parcel_key, observed_at from parcels cross join lateral (
                select observed_at from s1_known(parcel_key, '1900-01-01', '2100-01-01')
                union all select observed_at from s2_known(parcel_key, '1900-01-01', '2100-01-01')) o)
        select distinct on (source_id, observed_to) source_id, observed_to::text, n_s2, n_s1a, n_s1d, probabilities
        from parcels join posteriors p using (parcel_key) join observed o on (o.parcel_key, o.observed_at) = (p.parcel_key, p.observed_to)
        order by source_id, observed_to, p.recorded_at desc""",
    "curves": """
        select source_id, day::text, origin::text, mode::text, array[ndvi, ndvi_sd] from parcels
        cross join lateral ndvi_known(parcel_key, '1900-01-01', '2100-01-01')""",
    "phenology": """
        select source_id, outcome::text, reason, sos::text, pos::text, eos::text, array[0.0] from parcels cross join lateral (
            select * from phenology p where p.parcel_key = parcels.parcel_key order by recorded_at desc limit 1) newest""",
    "markers": """
        select source_id, marker, status::text, value::text, day::text, confidence::text, array[0.0] from latest_markers""",
    "findings": """
        select source_id, rule, outcome::text, colour::text, departed_on::text, array[0.0] from parcels cross join lateral (
            select distinct on (rule) * from findings f where f.parcel_key = parcels.parcel_key order by rule, recorded_at desc) newest""",
    "alerts": """
        select source_id, rule, state::text, colour::text, departed_on::text, (confirmed_at is not null)::text, array[0.0]
        from parcels join alerts using (parcel_key) where closed_at is null""",
}


def beliefs(dsn: str, what: str) -> dict[tuple[Any, ...], list[float]]:
    with psycopg.connect(dsn) as connection:
        return {tuple(row[:-1]): row[-1] for row in connection.execute(sql.SQL(BELIEFS[what]))}


def same(one: str, other: str) -> dict[str, float]:
    """The largest difference of numbers; what is no number must be equal."""
    largest = {}
    for what in BELIEFS:
        ours, theirs = beliefs(one, what), beliefs(other, what)
        assert ours, f"no {what}" if what != "alerts" else "no alerts: the test would prove nothing of them"
        differ = sorted(map(str, ours.keys() ^ theirs.keys()))
        assert not differ, f"{len(differ)} {what} of {len(ours)} differ, as {differ[:6]}"
        largest[what] = max(float(np.max(np.abs(np.subtract(ours[key], theirs[key])))) for key in ours)
    return largest


def unrest(dsn: str, n_sent: int) -> str | None:
    """What is still to be done: everything sent is stored, nothing is pending and the leader has seen it all, or else."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("""
            select (select count(*) from s1_observations) + (select count(*) from s2_observations),
                   (select count(*) from pending_work),
                   (select n_observations from crop_progress order by recorded_at desc limit 1),
                   (select sum(parcels) from scene_ledger join scenes using (scene_key)
                    join seasons on observed_at >= starts_on and observed_at < ends_on + 1 where sensor = 'S2')""").fetchone()
    assert row is not None
    stored, pending, led, to_lead = row
    if stored == n_sent and pending == 0 and led == to_lead:
        return None
    return f"{stored} of {n_sent} stored, {pending} pending, the leader has seen {led} of {to_lead}"


def test_both_sides_at_once_believe_what_they_believe_one_after_the_other(
    dsn: str,
    second_dsn: str,
    bootstrap: str,
    topic_prefix: str,
    season: Season,
    models: tuple[CropModel, Any],
    tmp_path: Path,
) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, producer_bytes=60_000)
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    environment = os.environ | {
        "PARCELWATCH_INGEST_TOPIC_PREFIX": topic_prefix,
        "PARCELWATCH_INGEST_FLUSH_SECONDS": "0.2",
        "PARCELWATCH_MONITOR_INTERVAL_S": "0.2",
        "PARCELWATCH_MONITOR_LEAD_S": "2",
        "PARCELWATCH_MONITOR_BATCH": "64",
        "PYTHONPATH": str(ROOT),
    }
    with store(dsn, season, models, tmp_path / "a"), store(second_dsn, season, models, tmp_path / "b"):
        commands = {
            f"consumer-{nr}": [CONSUMER, second_dsn, bootstrap, topic_prefix, str((-SKEW_S, SKEW_S)[nr])]
            for nr in range(2)
        } | {
            f"monitor-{nr}": [MONITOR, second_dsn, str((-SKEW_S, SKEW_S, 0, SKEW_S)[nr % 4])]
            for nr in range(N_MONITORS)
        }
        processes, asker = Processes(commands, tmp_path, environment), Asker(second_dsn)
        asking = threading.Thread(target=asker.run)
        try:
            acquisitions = list(season.acquisitions())
            # Some come late: up to a fortnight of acquisitions is out of order.
            places = sorted(range(len(acquisitions)), key=lambda nr: nr + chance.choice([0, 0, 0, 10]))
            acquisitions = [acquisitions[nr] for nr in places]
            with ObservationProducer(bootstrap, settings) as producer:
                for name in commands:
                    processes.begin(name)
                asking.start()
                n_sent, kills = 0, sorted(chance.sample(range(len(acquisitions)), N_KILLS))
                for nr, acquisition in enumerate(acquisitions):
                    producer.send(acquisition.table)
                    producer.flush()
                    n_sent += acquisition.table.num_rows
                    if nr in kills:
                        processes.kill(chance.choice(list(commands)))
                    time.sleep(SECONDS / len(acquisitions))
            deadline = time.monotonic() + PATIENCE_S
            while what := unrest(second_dsn, n_sent):
                assert time.monotonic() < deadline, (what, {name: processes.log(name)[-2000:] for name in commands})
                time.sleep(0.5)
            processes.end()
        finally:
            asker.stop.set()
            for process in processes.running.values():
                process.kill()
                process.wait()
        asking.join(60)
        for name in commands:
            assert "Traceback" not in processes.log(name), processes.log(name)
        with closing(Consumer(engine(dsn), bootstrap, settings, lambda: datetime.now(UTC))) as consumer:
            assert consumer.catch_up()["stored"] == n_sent
        worker = Worker(dsn, MonitorSettings())
        once(worker, datetime.now(UTC))
        assert unrest(dsn, n_sent) is None
        largest = same(dsn, second_dsn)
        assert max(largest.values()) <= 1e-5, largest
        assert asker.check() > 20
        assert processes.n_killed == N_KILLS


def test_a_store_that_takes_seconds_to_commit_is_waited_for(dsn: str) -> None:
    """Who asks as known at a time while a transaction from before it is in progress gets what it commits."""
    with engine(dsn).begin() as connection:
        recording.take_the_databases_clock(connection)
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as reader:
        writer.execute("insert into regions (code) values ('r')")
        writer.execute("select recording_begins(now())")
        begun = time.monotonic()
        threading.Timer(1.0, writer.commit).start()
        reader.execute("select settled(clock_timestamp())")
        assert time.monotonic() - begun > 0.9
        assert reader.execute("select count(*) from regions").fetchone() == (1,)
        writer.execute("select recording_begins(now())")
        reader.execute("set statement_timeout = '300ms'")
        reader.execute("select settled(clock_timestamp() - interval '1 minute')")  # nothing can be recorded so long ago
        with pytest.raises(psycopg.errors.QueryCanceled):
            reader.execute("select settled(clock_timestamp())")


def test_an_answer_as_known_at_a_time_has_every_chunk(dsn: str) -> None:
    """Answers asked while chunks are being made, on plans that their connection keeps, are answered again."""
    with engine(dsn).begin() as connection:
        recording.take_the_databases_clock(connection)
    stop = threading.Event()
    asked: list[tuple[LiteralString, tuple[Any, ...], tuple[Any, ...] | None]] = []
    stored = """
        insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at,
                                     recorded_at, scene_key, direction, radiometry)
        values (1, timestamptz '2000-01-01Z' + %s * interval '100 days', 15, 0, false, 10, %s, %s, 1, 'ascending', 'sigma0')"""

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for nr in range(1000):
                with connection.transaction():
                    at = connection.execute("select recording_begins(now())").fetchone()
                    assert at is not None
                    connection.execute(stored, (nr, *at, *at))
                if stop.wait(0.02):
                    break

    def ask(query: LiteralString) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                at = connection.execute("select clock_timestamp()").fetchone()
                assert at is not None
                asked.append((query, at, connection.execute(query, at).fetchone()))

    queries: tuple[LiteralString, ...] = (
        "select count(*) from parcel_history(1, as_known_at => %s)",
        "select count(*) from s1_known(1, '-infinity', 'infinity', %s)",
    )
    threads = [threading.Thread(target=write), *(threading.Thread(target=ask, args=(query,)) for query in queries)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    stop.set()
    for thread in threads:
        thread.join()
    with psycopg.connect(dsn, autocommit=True) as later:
        wrong = [(query, at) for query, at, answer in asked if later.execute(query, at).fetchone() != answer]
    assert len(asked) > 50
    assert not wrong, f"{len(wrong)} of {len(asked)}, as {wrong[:2]}"


def test_times_of_recording_only_rise(dsn: str) -> None:
    """Also from many writers, where the clock is set back, and for rows that want an order among themselves."""
    with engine(dsn).begin() as connection:
        recording.take_the_databases_clock(connection)
    given: list[tuple[datetime, int]] = []
    lock = threading.Lock()

    def write() -> None:
        for _ in range(50):
            with engine(dsn).begin() as connection:
                at = recording.begin(connection, datetime(2000, 1, 1, tzinfo=UTC), 3)
                with lock:
                    given.append((at, 3))

    writers = [threading.Thread(target=write) for _ in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert len(given) == 200
    ordered = sorted(at for at, _ in given)
    assert all(b - a >= timedelta(microseconds=3) for a, b in pairwise(ordered))
    with engine(dsn).begin() as connection:  # as after a failover to a machine whose clock is behind
        connection.execute(
            sa.text("select setval('recording_high_water', last_value + 3600000000) from recording_high_water")
        )
        assert recording.begin(connection, datetime.now(UTC)) > ordered[-1] + timedelta(minutes=59)


def test_two_workers_share_one_backlog_and_several_collections(dsn: str) -> None:
    """What one holds the other leaves, also where all of the oldest work is in the other's hands; no collection starves."""
    with engine(dsn).begin() as connection:
        connection.execute(sa.text("insert into regions (code) values ('r')"))
        connection.execute(
            sa.text("insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')")
        )
        connection.execute(
            sa.text("""insert into parcels (collection, season_key, source_id, region_key, recorded_at)
                       select c, 1, n::text, 1, now() from unnest(array['a', 'b']) c, generate_series(1, 40) n""")
        )
        connection.execute(
            sa.text("""insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
                       values ('m', 'ndvi', '{}', '{}', '{}', '', '', now())""")
        )
        for collection in ("a", "b"):
            registry.activate(connection, 1, collection, 1, datetime.now(UTC))
        # 100 marks a parcel: the first 50 * 4 marks are of two parcels.
        connection.execute(
            sa.text("""insert into pending_work (season_key, collection, parcel_key, recorded_at, task)
                       select season_key, collection, parcel_key, now(), 'rules'
                       from parcels, generate_series(1, 100) order by parcel_key""")
        )
    now, snapshot = datetime.now(UTC), {"isolation_level": "REPEATABLE READ"}
    with (
        engine(dsn).connect().execution_options(**snapshot) as one,
        engine(dsn).connect().execution_options(**snapshot) as two,
    ):
        first, second = work.claim(one, 4, now), work.claim(two, 4, now)
        assert first is not None
        assert second is not None
        assert (first.collection, second.collection) == ("a", "a")
        assert not set(first.parcel_keys) & set(second.parcel_keys)
        third = work.claim(one, 4, now, (1, "a"))
        assert third is not None
        assert third.collection == "b"
        for taken in (first, third):
            work.done(one, taken)
        two.rollback()
        assert work.claim(two, 1, now) is not None  # its snapshot is from before the others are done
        one.commit()
        with pytest.raises(sa.exc.OperationalError, match="could not serialize"):
            work.claim(two, 100, now)
