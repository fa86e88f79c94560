"""Messages that once held the stream for good: each is a dead letter, what comes after it is stored, nothing repeats."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from kafka import KafkaProducer

from db import dead_letters
from db.connect import engine
from db.dead_letters import StoredDeadLetter
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream import validation
from ingest.stream.consumer import Consumer
from ingest.stream.dead_letters import redrive
from ingest.stream.messages import encode_arrow, encode_json
from ingest.stream.producer import Sender
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S2
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics
from tests.observations import ROW
from tests.raw_headers import NULL, RawKey, null_values

NOW = datetime(2023, 9, 1, tzinfo=UTC)
JSON = ("content-type", CONTENT_TYPE_JSON.encode())
ARROW = ("content-type", CONTENT_TYPE_ARROW.encode())


def table(*changes: Mapping[str, object]) -> pa.Table:
    return pa.Table.from_pylist([ROW | dict(change) for change in changes], schema=S2.arrow)


def record(**changes: object) -> bytes:
    return encode_json(S2, table(changes).to_pylist())[0]


@dataclass
class World:
    """A database with the season 2023 and parcels 0 to 9, and topics of its own."""

    engine: sa.Engine
    consumer: Consumer
    sender: Sender
    topic: str

    def send(self, value: bytes, *headers: tuple[str, Any]) -> None:
        self.sender.send(self.topic, value, list(headers))

    def letters(self) -> list[StoredDeadLetter]:
        with self.engine.begin() as connection:
            return dead_letters.newest(connection, 100_000)[::-1]

    def n_stored(self) -> object:
        with self.engine.begin() as connection:
            return connection.execute(sa.text("select count(*) from s2_observations")).scalar_one()


@pytest.fixture
def world(dsn: str, bootstrap: str, topic_prefix: str) -> Iterator[World]:
    database = engine(dsn)
    with database.begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        rows = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(10)]
        upsert_parcels(connection, "nl", season, rows, NOW, NOW)
    settings = IngestSettings(topic_prefix=topic_prefix, partitions=1, reject_cap=1.0)
    topics = Topics(bootstrap)
    topics.ensure(dict.fromkeys([*settings.observation_topics, settings.dead_letter_topic], 1))
    topics.close()
    sender, consumer = Sender(bootstrap, 8 * 2**20), Consumer(database, bootstrap, settings, lambda: NOW)
    with null_values():
        yield World(database, consumer, sender, settings.topic("S2"))
    consumer.close()
    sender.close()


def test_hostile_headers_and_values_hold_nothing(world: World) -> None:
    good = record()
    hostile: list[tuple[bytes, list[tuple[str, Any]]]] = [
        (good, [("content-type", NULL)]),
        (good, [("content-type", b"application/json\0")]),
        (good, [("content-type", b"\xff\xfe")]),
        (good, [("content-type", b"x" * 970_000)]),
        (good, [JSON, (RawKey("\xff\xfe"), b"1")]),
        (good, [(RawKey("\xff\xfe"), NULL)]),
        (good.replace(b'"NDVI"', b'"ND\\u0000VI"'), [JSON]),
        (good.replace(b'"NDVI"', b'"\\u001b[31m"'), [JSON]),
        (good.replace(b'"X"', b'"X\\u0000"'), [JSON]),
        (good.replace(b"0.5", b"1e400"), [JSON]),
        (good.replace(b"0.5", b"NaN"), [JSON, ("redriven-from", b"99999")]),
        (good.replace(b"2023-05-01T10:56:21+00:00", b"0001-01-01T00:00:00+14:00"), [JSON]),
        (encode_arrow(table({"season": "2023\0"})), [ARROW]),
    ]
    for value, headers in hostile:
        world.send(value, *headers)
    world.send(encode_arrow(table({"parcel_id": "3"})), ARROW)
    world.sender.flush()
    counts = world.consumer.catch_up()
    assert (counts["messages"], counts["stored"], counts["dead_letters"]) == (len(hostile) + 1, 1, len(hostile))
    letters = [stored.dead_letter for stored in world.letters()]
    assert sorted(dead_letter.message_offset for dead_letter in letters) == list(range(len(hostile)))
    for dead_letter in letters:
        assert len(dead_letter.reason) <= 500
        assert dead_letter.reason.isprintable()
        assert dead_letter.repeats is None
    assert redrive(world.engine, world.sender, None, NOW) == len(hostile)
    assert world.consumer.catch_up()["dead_letters"] == len(hostile) - 1, "one lacked nothing but a readable key"


def test_what_only_the_database_refuses_is_a_letter_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "faults", lambda *_: [])
    rows = table({"parcel_id": "5"})
    never = pa.array([-(2**63)], S2.arrow.field("observed_at").type)
    for number in range(9):
        bad = rows.set_column(rows.column_names.index("observed_at"), S2.arrow.field("observed_at"), never)
        world.send(encode_arrow(bad if number in (3, 7) else table({"parcel_id": str(number)})), ARROW)
    world.sender.flush()
    counts = world.consumer.catch_up()
    assert (counts["messages"], counts["stored"], counts["dead_letters"]) == (9, 7, 2)
    assert [(one.dead_letter.message_offset, one.dead_letter.reason_code) for one in world.letters()] == [
        (3, "malformed"),
        (7, "malformed"),
    ]
    assert "out of range" in world.letters()[0].dead_letter.reason


def test_a_compressed_batch_of_records_that_is_too_large_is_a_letter(world: World, bootstrap: str) -> None:
    kafka = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="gzip", max_request_size=10**8, batch_size=10**8
    )
    kafka.send(world.topic, bytes(40 * 2**20))
    kafka.flush(30)
    kafka.close()
    world.send(encode_arrow(table({"parcel_id": "5"})), ARROW)
    world.sender.flush()
    counts = world.consumer.catch_up()
    assert (counts["messages"], counts["stored"], counts["dead_letters"]) == (2, 1, 1)
    (stored,) = world.letters()
    assert stored.dead_letter.reason_code in ("malformed", "oversized", "unknown_content_type")
    assert len(stored.dead_letter.payload) < 100_000


def test_redrive_ends_where_its_own_rejections_come_back_at_once(world: World) -> None:
    world.send(encode_arrow(table(*({"parcel_id": f"x{nr}"} for nr in range(1_200)))), ARROW)
    world.sender.flush()
    assert world.consumer.catch_up()["dead_letters"] == 1_200
    first = {stored.dead_letter.row_in_message: stored.dead_letter_key for stored in world.letters()}

    class Impatient(Sender):
        """A sender beside whom a consumer is running: what was sent is rejected before the next is."""

        def __init__(self) -> None:
            pass

        def send(self, *arguments: Any, **more: Any) -> None:
            world.sender.send(*arguments, **more)

        def flush(self) -> None:
            world.sender.flush()
            world.consumer.catch_up()

    for again in range(1, 4):
        assert redrive(world.engine, Impatient(), None, NOW) == 1_200
        letters = world.letters()
        assert len(letters) == 1_200 * (again + 1)
        repeats = letters[-1_200:]
        assert {stored.dead_letter.repeats for stored in repeats} == set(first.values()), "the first one, not a chain"
        assert [stored.redriven_at is None for stored in letters] == [False] * 1_200 * again + [True] * 1_200


def test_as_many_seasons_and_collections_as_rows_take_no_longer(world: World) -> None:
    n = 8_000
    world.send(encode_arrow(table(*({"season": f"s{nr}", "collection": f"c{nr}"} for nr in range(n)))), ARROW)
    world.send(encode_arrow(table(*({"collection": f"c{nr}"} for nr in range(n)), {})), ARROW)
    world.sender.flush()
    begun = time.monotonic()
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["dead_letters"]) == (1, 2 * n)
    assert time.monotonic() - begun < 40  # measured: 4 s, all of it the letters


def test_listed_letters_name_what_they_repeat(world: World) -> None:
    world.send(record(parcel_id="new"), JSON)
    world.sender.flush()
    world.consumer.catch_up()
    redrive(world.engine, world.sender, None, NOW)
    world.consumer.catch_up()
    first, again = world.letters()
    assert (first.dead_letter.repeats, again.dead_letter.repeats) == (None, first.dead_letter_key)
    assert json.loads(again.dead_letter.payload) == json.loads(first.dead_letter.payload)
