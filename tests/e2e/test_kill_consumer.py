"""`parcelwatch ingest run` is killed at random moments of a replay, five on each broker: every observation is stored once."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from kafka import TopicPartition

from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import S1, S2
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics

N_PARCELS, N_PASSES, N_KILLS = 500, 40, 5
ROWS_PER_MESSAGE = 20
PATIENCE_S = 60.0
# The command by itself: the whole command line also imports the networks, seconds for each of the starts.
COMMAND = [sys.executable, "-c", "import sys; from ingest.stream.commands import app; app()", "run"]
NOW = datetime(2023, 1, 1, tzinfo=UTC)


def one_pass(number: int) -> pa.Table:
    """Every parcel in one pass, S2 and S1 in turn; parcel 0 of every fourth pass has an NDVI or VV that cannot be."""
    passed = datetime(2023, 3, 1, 10, tzinfo=UTC) + timedelta(days=number)
    schema, is_bad = (S1 if number % 2 else S2), number % 4 < 2
    identity = {
        "collection": "nl",
        "season": "2023",
        "observed_at": passed,
        "available_at": passed,
        "scene_id": f"scene-{number}",
        "relative_orbit": 51,
        "revision": 0,
        "is_withdrawn": False,
    }
    rows = []
    for parcel in range(N_PARCELS):
        value = 7e9 if is_bad and parcel == 0 else (parcel + 1) / (N_PARCELS + 1)
        own = (
            {"platform": "S2A", "NDVI": value, "n_clear": parcel, "pixels": parcel.to_bytes(2, "little") * 20}
            if schema is S2
            else {
                "platform": "S1A",
                "direction": "ascending",
                "radiometry": "sigma0",
                "VV": value,
                "VH": 0.01,
                "n_pixels": parcel,
            }
        )
        rows.append(identity | own | {"parcel_id": str(parcel)})
    return pa.Table.from_pylist(rows, schema=schema.arrow)


@contextmanager
def consumer(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command, killed at the end if it still runs."""
    process = subprocess.Popen(COMMAND, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def environment(dsn: str, bootstrap: str, topic_prefix: str) -> dict[str, str]:
    """A season with parcels, and the environment in which the command stores its observations."""
    with engine(dsn).begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        rows = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(N_PARCELS)]
        upsert_parcels(connection, "nl", season, rows, NOW, NOW)
    return os.environ | {
        "PARCELWATCH_DSN": dsn,
        "PARCELWATCH_BOOTSTRAP": bootstrap,
        "PARCELWATCH_INGEST_TOPIC_PREFIX": topic_prefix,
        "PARCELWATCH_INGEST_FLUSH_SECONDS": "0.02",
        "PYTHONPATH": str(Path.cwd()),
    }


def consumed(dsn: str) -> int:
    with engine(dsn).begin() as connection:
        return int(
            connection.execute(sa.text("select coalesce(sum(next_offset), 0) from consumed_offsets")).scalar_one()
        )


def test_killed_at_random_moments(dsn: str, bootstrap: str, topic_prefix: str, environment: dict[str, str]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    settings = IngestSettings(topic_prefix=topic_prefix, producer_bytes=10_000)
    parts = [
        one_pass(number).slice(start, ROWS_PER_MESSAGE)
        for number in range(N_PASSES)
        for start in range(0, N_PARCELS, ROWS_PER_MESSAGE)
    ]
    share = len(parts) // N_KILLS
    with ObservationProducer(bootstrap, settings) as producer:
        for kill in range(N_KILLS):
            with consumer(environment) as process:
                before, deadline = consumed(dsn), time.monotonic() + PATIENCE_S
                producer.send(parts[kill * share])
                producer.flush()
                while consumed(dsn) == before:  # it has started, and has committed something
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                threading.Timer(chance.uniform(0, 0.5), process.kill).start()
                for part in parts[kill * share + 1 : (kill + 1) * share]:
                    producer.send(part)
                    producer.flush()
                    time.sleep(0.01)
                assert process.wait(PATIENCE_S) == -signal.SIGKILL

    done = subprocess.run(
        [*COMMAND, "--until-end"], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert_each_once(dsn)
    assert_offsets_are_at_the_end(dsn, bootstrap)


def assert_each_once(dsn: str) -> None:
    """Every observation is stored once with its values and all that belongs to it, every bad one is a letter once."""
    n_bad, n_rows = N_PASSES // 2, N_PASSES * N_PARCELS
    with engine(dsn).begin() as connection:

        def one(query: str) -> object:
            return connection.execute(sa.text(query)).scalar_one()

        assert one("select count(*) from s2_observations") == (n_rows - n_bad) // 2
        assert one("select count(*) from s1_observations") == (n_rows - n_bad) // 2
        assert one("select count(*) from pixel_sets") == (n_rows - n_bad) // 2
        assert one("select count(*) from pending_work") == n_rows - n_bad
        assert one("select count(distinct (parcel_key, observed_at)) from pending_work") == n_rows - n_bad
        assert one("select sum(parcels) from scene_ledger") == n_rows - n_bad
        assert one("select count(*) from dead_letters where reason_code = 'out_of_range'") == n_bad
        assert one("select count(*) from dead_letters") == n_bad
        wrong = f"""select count(*) from {{}} join parcels using (parcel_key)
                    where {{}} is distinct from ((source_id::int + 1) / {N_PARCELS + 1}::float)::real"""
        assert one(wrong.format("s2_observations", "ndvi")) == 0
        assert one(wrong.format("s1_observations", "vv")) == 0
        assert (
            one(
                "select count(*) from pixel_sets join parcels using (parcel_key) where get_byte(pixels, 0) <> source_id::int % 256"
            )
            == 0
        )


def assert_offsets_are_at_the_end(dsn: str, bootstrap: str) -> None:
    with engine(dsn).begin() as connection:
        rows = connection.execute(sa.text("select topic, partition, next_offset from consumed_offsets"))
        found = {TopicPartition(topic, partition): offset for topic, partition, offset in rows}
    topics = Topics(bootstrap)
    ends = {partition: end for partition, (_, end) in topics.bounds(list(found)).items()}
    topics.close()
    assert found == ends
    assert sum(ends.values()) == N_PASSES * N_PARCELS // ROWS_PER_MESSAGE


def test_sigterm_finishes_the_batch_in_hand(
    dsn: str, bootstrap: str, topic_prefix: str, environment: dict[str, str]
) -> None:
    environment["PARCELWATCH_INGEST_FLUSH_SECONDS"] = "1000"
    with (
        ObservationProducer(bootstrap, IngestSettings(topic_prefix=topic_prefix)) as producer,
        consumer(environment) as process,
    ):
        deadline = time.monotonic() + PATIENCE_S
        while _begun(dsn) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        producer.send(one_pass(2))
        producer.flush()
        time.sleep(2)  # taken from the broker, and not old enough to be stored
        assert consumed(dsn) == 0
        process.terminate()
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "stored=500" in output
    assert consumed(dsn) > 0
    with engine(dsn).begin() as connection:
        assert connection.execute(sa.text("select count(*) from s2_observations")).scalar_one() == N_PARCELS


def _begun(dsn: str) -> int:
    with engine(dsn).begin() as connection:
        return int(connection.execute(sa.text("select count(*) from consumed_offsets")).scalar_one())
