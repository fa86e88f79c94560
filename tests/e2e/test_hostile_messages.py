"""Mutated messages through a broker into the database: each is stored or a dead letter, in a consumer that stays small.

`PARCELWATCH_FUZZ=100000` sends as many (the whole of it takes about half an hour on two cores).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from kafka import KafkaConsumer, TopicPartition

from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream import record_batches
from ingest.stream.producer import Sender
from ingest.stream.record_batches import message_of
from ingest.stream.schemas import CONTENT_TYPE_ARROW, S2
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics
from ingest.stream.validation import Message, validate
from tests.mutations import N_PARCELS, PASS, arrow_table, message
from tests.raw_headers import null_values

N_MESSAGES = int(os.environ.get("PARCELWATCH_FUZZ", "3000"))
AT_ONCE = 2_000
MOST_MEMORY_MB = 1_000
PATIENCE_S = 120.0
COMMAND = [sys.executable, "-c", "import sys; from ingest.stream.commands import app; app()", "run"]
NOW = datetime(2023, 1, 1, tzinfo=UTC)


@dataclass
class Chain:
    """A consumer that runs as a process, and what it reads from and writes to."""

    process: subprocess.Popen[str]
    engine: sa.Engine
    bootstrap: str
    settings: IngestSettings

    def wait_for(self, n_messages: int) -> None:
        """Waits until so many messages are consumed."""
        deadline = time.monotonic() + PATIENCE_S
        while self.one("select coalesce(sum(next_offset), 0) from consumed_offsets") < n_messages:
            assert self.process.poll() is None, self.process.communicate()[1][-4_000:]
            assert time.monotonic() < deadline, "the stream does not move"
            time.sleep(0.1)

    def one(self, query: str) -> int:
        with self.engine.begin() as connection:
            return int(connection.execute(sa.text(query)).scalar_one())

    def all(self, query: str) -> list[tuple[object, ...]]:
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]

    def peak_mb(self) -> float:
        """The most memory that the process ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def messages(self) -> Iterator[Message]:
        """All messages of the topics."""
        kafka = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=2_000,
            max_partition_fetch_bytes=8 * 2**20,
        )
        record_batches.bound(kafka, self.settings.max_batch_bytes, self.settings.flush_bytes, True)
        kafka.assign([TopicPartition(topic, 0) for topic in self.settings.observation_topics])
        yield from map(message_of, kafka)
        kafka.close()


@contextmanager
def running(dsn: str, bootstrap: str, topic_prefix: str) -> Iterator[Chain]:
    """A season with parcels, topics of one partition, and the consumer on them."""
    with engine(dsn).begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        rows = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(N_PARCELS)]
        upsert_parcels(connection, "nl", season, rows, NOW, NOW)
    settings = IngestSettings(topic_prefix=topic_prefix, partitions=1)
    topics = Topics(bootstrap)
    topics.ensure(dict.fromkeys([*settings.observation_topics, settings.dead_letter_topic], 1))
    topics.close()
    environment = os.environ | {
        "PARCELWATCH_DSN": dsn,
        "PARCELWATCH_BOOTSTRAP": bootstrap,
        "PARCELWATCH_INGEST_TOPIC_PREFIX": topic_prefix,
        "PARCELWATCH_INGEST_REJECT_CAP": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    process = subprocess.Popen(COMMAND, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process, null_values():
        try:
            yield Chain(process, engine(dsn), bootstrap, settings)
        finally:
            process.kill()


def stored_keys(chain: Chain) -> set[tuple[object, ...]]:
    return set(
        chain.all("""
            select sensor::text, source_id, observed_at, relative_orbit, revision from parcels join (
                select 'S2' as sensor, parcel_key, observed_at, relative_orbit, revision from s2_observations union all
                select 'S1', parcel_key, observed_at, relative_orbit, revision from s1_observations) o using (parcel_key)""")
    )


def letters_of(chain: Chain) -> Counter[tuple[object, ...]]:
    return Counter(chain.all("select topic, message_offset, row_in_message from dead_letters"))


@pytest.mark.timeout(max(300, N_MESSAGES // 20))
def test_every_mutated_message_is_stored_or_a_dead_letter(dsn: str, bootstrap: str, topic_prefix: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    with running(dsn, bootstrap, topic_prefix) as chain:
        sender = Sender(bootstrap, 8 * 2**20)
        for start in range(0, N_MESSAGES, AT_ONCE):
            until = min(start + AT_ONCE, N_MESSAGES)
            for number in range(start, until):
                value, headers = message(number, chance)
                sender.send(chance.choice(chain.settings.observation_topics), value, headers)
            sender.flush()
            chain.wait_for(max(0, until - 5 * AT_ONCE))  # never too far ahead: the broker holds it all in memory
        sender.close()
        chain.wait_for(N_MESSAGES)
        peak = chain.peak_mb()
        chain.process.send_signal(signal.SIGTERM)
        output, errors = chain.process.communicate(timeout=PATIENCE_S)
        assert chain.process.returncode == 0, errors[-4_000:]
        assert "Traceback" not in errors
        assert f"messages={N_MESSAGES}" in output.split()
        assert peak < MOST_MEMORY_MB
        assert_each_is_accounted_for(chain)
    print(f"{N_MESSAGES} messages, {' '.join(output.split())}, peak {peak:.0f} MB")


def assert_each_is_accounted_for(chain: Chain) -> None:
    """Every row of every message is in the database, or a letter has its place."""
    letters, stored = letters_of(chain), stored_keys(chain)
    assert max(letters.values()) == 1
    n_messages = n_good = 0
    for one in chain.messages():
        validated = validate([one], chain.settings, datetime.now(UTC))
        places = [rejection.row for rejection in validated.rejections]
        for place in places:
            assert (one.topic, one.offset, place) in letters, (one.topic, one.offset, place)
        for rows in validated.rows:
            names = ["parcel_id", "observed_at", "relative_orbit", "revision"]
            n_good += rows.table.num_rows
            for row, place in zip(rows.table.select(names).to_pylist(), rows.row_in_message.tolist(), strict=True):
                is_stored = (rows.schema.sensor, *row.values()) in stored
                whole = (one.topic, one.offset, -1) in letters
                assert is_stored or whole or (one.topic, one.offset, place) in letters, (one.topic, one.offset, place)
        n_messages += 1
    assert n_messages == N_MESSAGES
    assert n_good > N_MESSAGES // 10, "mutations leave some alone"


def test_legal_messages_that_are_large_once_decoded_fit_into_memory(
    dsn: str, bootstrap: str, topic_prefix: str
) -> None:
    n_messages = 60 if N_MESSAGES < 100_000 else 400
    with running(dsn, bootstrap, topic_prefix) as chain:
        sender = Sender(bootstrap, 8 * 2**20)
        for number in range(n_messages):
            rows = arrow_table(S2, 0, 45)
            passed = pa.array([PASS + timedelta(minutes=number)] * 45, S2.arrow.field("observed_at").type)
            for name, column in (
                ("observed_at", passed),
                ("available_at", passed),
                ("pixels", pa.array([bytes(81_920)] * 45)),
            ):
                rows = rows.set_column(rows.column_names.index(name), S2.arrow.field(name), column)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
                writer.write_table(rows)
            sender.send(
                chain.settings.topic("S2"), bytes(sink.getvalue()), [("content-type", CONTENT_TYPE_ARROW.encode())]
            )
        sender.flush()
        sender.close()
        chain.wait_for(n_messages)
        assert chain.one("select count(*) from s2_observations") == 45 * n_messages
        assert chain.peak_mb() < MOST_MEMORY_MB
        print(f"peak {chain.peak_mb():.0f} MB")
