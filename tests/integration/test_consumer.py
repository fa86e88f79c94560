"""The consumer on a real database and broker: each observation once, whatever is sent and whoever else consumes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from psycopg import OperationalError

from db.connect import engine
from db.errors import DatabaseUnavailable
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season, widen_season
from ingest.errors import BrokerRefuses, FencedOut, RecordsLost, TooManyRejected
from ingest.stream.consumer import Consumer
from ingest.stream.dead_letters import redrive
from ingest.stream.messages import encode_arrow
from ingest.stream.outage import Outage
from ingest.stream.producer import ObservationProducer, Sender
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S1, S2, ObservationSchema
from ingest.stream.settings import IngestSettings
from ingest.stream.source import Source
from ingest.stream.topics import Topics
from ingest.stream.validation import Validated

NOW = datetime(2023, 9, 1, tzinfo=UTC)
PASS = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
LATER = timedelta(hours=6)

IDENTITY: dict[str, object] = {
    "collection": "nl",
    "season": "2023",
    "parcel_id": "0",
    "observed_at": PASS,
    "available_at": PASS + LATER,
    "scene_id": "X_1",
    "platform": "S2A",
    "relative_orbit": 51,
    "revision": 0,
    "is_withdrawn": False,
}
GOOD: dict[str, dict[str, object]] = {
    S2.id: IDENTITY | {"B02": 0.03, "NDVI": 0.5, "n_clear": 2, "clear_fraction": 1.0, "pixels": bytes(40)},
    S1.id: IDENTITY
    | {
        "platform": "S1A",
        "scene_id": "Y_1",
        "direction": "ascending",
        "radiometry": "sigma0",
        "VV": 0.1,
        "VH": 0.02,
        "n_pixels": 9,
        "coherence_VV": 0.4,
        "coherence_with": PASS - timedelta(days=12),
    },
}


def table(schema: ObservationSchema, *changes: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([GOOD[schema.id] | change for change in changes], schema=schema.arrow)


def season_of(n_parcels: int, n_passes: int, schema: ObservationSchema = S2) -> pa.Table:
    """Every parcel in every pass, five days apart."""
    return table(
        schema,
        *(
            {
                "parcel_id": str(parcel),
                "observed_at": PASS + timedelta(days=5 * nr),
                "scene_id": f"{schema.sensor}_{nr}",
                "available_at": PASS + timedelta(days=5 * nr) + LATER,
            }
            for nr in range(n_passes)
            for parcel in range(n_parcels)
        ),
    )


@dataclass
class World:
    """A database with the season 2023 and parcels 0 to 99, of which 99 is not monitorable, and topics of its own."""

    engine: sa.Engine
    bootstrap: str
    settings: IngestSettings
    producer: ObservationProducer
    consumer: Consumer

    def another_consumer(self, **changes: object) -> Consumer:
        return Consumer(self.engine, self.bootstrap, self.settings.model_copy(update=changes), lambda: NOW)

    def send(self, rows: pa.Table) -> None:
        self.producer.send(rows)
        self.producer.flush()

    def one(self, query: str) -> object:
        with self.engine.begin() as connection:
            return connection.execute(sa.text(query)).scalar_one()

    def all(self, query: str) -> list[tuple[object, ...]]:
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]

    def counts(self) -> tuple[object, ...]:
        """Rows stored: S2, S1, pixel sets, pending work, ledger, dead letters."""
        return self.all("""
            select (select count(*) from s2_observations), (select count(*) from s1_observations),
                   (select count(*) from pixel_sets), (select count(*) from pending_work),
                   (select coalesce(sum(parcels), 0)::int from scene_ledger), (select count(*) from dead_letters)""")[0]

    def dead_letters_on_topic(self) -> list[tuple[dict[str, str], bytes]]:
        kafka = KafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=None, auto_offset_reset="earliest", consumer_timeout_ms=1000
        )
        kafka.assign([TopicPartition(self.settings.dead_letter_topic, 0)])
        found = [({name: value.decode() for name, value in record.headers}, record.value) for record in kafka]
        kafka.close()
        return found


@pytest.fixture
def world(dsn: str, bootstrap: str, topic_prefix: str) -> Iterator[World]:
    database = engine(dsn)
    with database.begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        reasons = [None] * 99 + ["too small"]
        rows = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, why, None, None) for nr, why in enumerate(reasons)]
        upsert_parcels(connection, "nl", season, rows, NOW, NOW)
    settings = IngestSettings(topic_prefix=topic_prefix, partitions=2)
    producer = ObservationProducer(bootstrap, settings)
    consumer = Consumer(database, bootstrap, settings, lambda: NOW)
    yield World(database, bootstrap, settings, producer, consumer)
    consumer.close()
    producer.close()


def test_what_follows_is_fetched_while_a_batch_is_stored(world: World) -> None:
    for nr in range(8):  # more messages than partitions, and a fetch brings one of each
        world.send(season_of(10, nr + 1))
    narrow = world.settings.model_copy(update={"max_message_bytes": 1})
    source = Source(world.bootstrap, narrow, lambda _, partitions: dict.fromkeys(partitions, 0))
    try:
        wait_until(lambda: 0 < len(source.poll(0.25)) < 8)
        fetcher = source._kafka._fetcher
        wait_until(lambda: any(fetch.partition_data.records for fetch in fetcher._completed_fetches))
    finally:
        source.close()


def test_the_next_batch_is_taken_while_one_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = world.another_consumer(flush_messages=1)
    world.send(season_of(3, 1))
    write, is_polled = narrow._store.write, threading.Event()

    def write_once_more_is_in_hand(*given: Any) -> Any:
        assert is_polled.wait(30)
        return write(*given)

    monkeypatch.setattr(narrow._store, "write", write_once_more_is_in_hand)
    source = narrow._opened()
    wait_until(lambda: narrow._take_and_flush(source, 0.1))
    world.send(season_of(6, 2).slice(6))
    narrow._settings = world.settings  # the next is not due yet
    wait_until(lambda: narrow._take_and_flush(source, 0.1))
    assert world.counts() == (0, 0, 0, 0, 0, 0)
    is_polled.set()
    narrow._flush(source)
    assert world.counts() == (9, 0, 9, 9, 9, 0)
    narrow.close()


@pytest.mark.parametrize(
    "error", [OperationalError("the connection is lost"), BrokerRefuses("no right to write")], ids=repr
)
def test_what_was_taken_while_a_batch_failed_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    narrow = world.another_consumer(flush_messages=1)
    write, failing, stop = narrow._store.write, [error], threading.Event()
    world.send(season_of(3, 1))

    def write_or_fail(database: sa.Engine, validated: Validated, *given: Any) -> Any:
        if failing:
            for number in range(1, 6):
                world.send(season_of(3, number + 1).slice(3 * number))
            wait_until(lambda: bool(narrow._batch) and narrow._batch[0] not in validated.messages)
            raise failing.pop()
        return write(database, validated, *given)

    def end_at_once(*_: object) -> bool:
        stop.set()
        return True

    monkeypatch.setattr(narrow._store, "write", write_or_fail)
    monkeypatch.setattr(Outage, "wait", end_at_once)
    with suppress(BrokerRefuses, DatabaseUnavailable):
        narrow.run(stop)
    assert not failing
    assert world.counts() == (0, 0, 0, 0, 0, 0)
    assert narrow.catch_up()["stored"] == 18
    assert world.counts() == (18, 0, 18, 18, 18, 0)
    narrow.close()


def test_both_forms_of_both_sensors_are_stored_with_all_that_belongs_to_them(world: World) -> None:
    world.producer.send(season_of(99, 3))
    world.producer.send_records(S2, season_of(1, 4).slice(3).to_pylist())
    world.producer.send(season_of(50, 2, S1))
    world.producer.flush()
    counts = world.consumer.catch_up()
    assert (counts["rows"], counts["stored"], counts["pending"], counts["dead_letters"]) == (398, 398, 398, 0)
    assert world.counts() == (298, 100, 298, 398, 398, 0)
    assert world.all(
        "select n_clear, ndvi::text, b02::text, clear_fraction, b8a, revision, recorded_at from s2_observations limit 1"
    ) == [(2, "0.5", "0.03", 1.0, None, 0, NOW)]
    assert world.all("""
        select sensor::text, platform, relative_orbit, observed_at, available_at, direction::text, radiometry::text, vv::text,
               coherence_with from s1_observations join scenes using (scene_key, relative_orbit, observed_at, available_at)
        where observed_at = '2023-05-01 10:56:21Z' limit 1""") == [
        ("S1", "S1A", 51, PASS, PASS + LATER, "ascending", "sigma0", "0.1", PASS - timedelta(days=12))
    ]
    assert world.all(
        "select scene_id, outcome, parcels from scene_ledger join scenes using (scene_key) order by 1"
    ) == [
        ("S1_0", "stored", 50),
        ("S1_1", "stored", 50),
        ("S2_0", "stored", 99),
        ("S2_1", "stored", 99),
        ("S2_2", "stored", 99),
        ("S2_3", "stored", 1),
    ]
    assert world.one("select count(*) from pixel_sets where length(pixels) = 40 and sensor = 'S2'") == 298
    assert world.one("select sum(next_offset) from consumed_offsets") == counts["messages"]


def test_pending_work_is_of_its_rows_season_and_collection(world: World) -> None:
    with world.engine.begin() as connection:
        for name, collection in (("2023", "be"), ("2024", "nl")):
            season = ensure_season(connection, name, date(int(name), 1, 1), date(int(name), 12, 31))
            row = ParcelRow("0", "r", None, 1.0, 400.0, 0.9, None, None, None)
            upsert_parcels(connection, collection, season, [row], NOW, NOW)
    world.send(table(S2, {"parcel_id": "99"}))  # not monitorable, alone in its batch
    assert world.consumer.catch_up()["pending"] == 0
    after = {"observed_at": datetime(2023, 12, 1, tzinfo=UTC), "available_at": datetime(2023, 12, 2, tzinfo=UTC)}
    consumer = Consumer(world.engine, world.bootstrap, world.settings, lambda: datetime(2024, 1, 1, tzinfo=UTC))
    world.send(
        table(S2, {}, {"collection": "be"}, after | {"season": "2024"}, {"parcel_id": "99", "relative_orbit": 8})
    )
    assert consumer.catch_up()["pending"] == 3
    consumer.close()
    assert (
        world.all("""
        select name, w.collection, p.collection, p.season_key = w.season_key
        from pending_work w join parcels p using (parcel_key) join seasons s on s.season_key = w.season_key order by 1, 2""")
        == [("2023", "be", "be", True), ("2023", "nl", "nl", True), ("2024", "nl", "nl", True)]
    )


def test_catching_up_with_nothing_changes_nothing(world: World) -> None:
    assert not +world.consumer.catch_up()
    world.send(season_of(2, 1))
    assert world.consumer.catch_up()["stored"] == 2
    assert not +world.consumer.catch_up()
    assert world.counts() == (2, 0, 2, 2, 2, 0)


def test_a_replay_equals_once(world: World) -> None:
    world.send(season_of(60, 2))
    world.consumer.catch_up()
    before = world.all("select * from s2_observations order by 1, 2"), world.counts()
    world.send(season_of(60, 2))
    world.producer.send_records(S2, season_of(60, 1).to_pylist())
    world.producer.flush()
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["replayed"], counts["pending"]) == (0, 180, 0)
    assert (world.all("select * from s2_observations order by 1, 2"), world.counts()) == before


def test_what_is_new_among_replays_is_stored(world: World) -> None:
    world.send(season_of(60, 2))
    world.consumer.catch_up()
    world.send(season_of(80, 3))
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["replayed"], counts["pending"]) == (240 - 120, 120, 120)
    assert world.counts() == (240, 0, 240, 240, 240, 0)


def test_twins_in_one_batch_are_stored_once(world: World) -> None:
    world.send(table(S2, {}, {"parcel_id": "1"}, {}))
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["replayed"], counts["dead_letters"]) == (2, 1, 0)
    assert world.counts() == (2, 0, 2, 2, 2, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"NDVI": 0.6},
        {"NDVI": None},
        {"pixels": bytes(39) + b"\1"},
        {"pixels": None},
        {"is_withdrawn": True},
        {"scene_id": "Z"},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_one_batch", [True, False])
def test_other_values_under_a_stored_key_are_not_dropped(
    world: World, change: dict[str, object], is_one_batch: bool
) -> None:
    world.send(table(S2, {}, *([change] if is_one_batch else [])))
    world.consumer.catch_up()
    if not is_one_batch:
        world.send(table(S2, change, {"parcel_id": "5"}))
        world.consumer.catch_up()
    assert world.all("select reason_code, reason from dead_letters") == [
        ("conflicts_with_stored", "the observation is stored with other values; send revision 1")
    ]
    assert world.all("select ndvi, revision from s2_observations where parcel_key = 1") == [(0.5, 0)]
    assert world.all("select pixels from pixel_sets where parcel_key = 1") == [(bytes(40),)]


def test_revisions_and_withdrawals_are_new_rows(world: World) -> None:
    world.send(table(S2, {}))
    world.consumer.catch_up()
    world.send(
        table(S2, {"revision": 1, "NDVI": 0.6}, {"revision": 2, "is_withdrawn": True, "NDVI": None, "B02": None})
    )
    assert world.consumer.catch_up()["pending"] == 2
    assert world.all("select revision, is_withdrawn, ndvi::text from s2_observations order by 1") == [
        (0, False, "0.5"),
        (1, False, "0.6"),
        (2, True, None),
    ]
    assert world.one("select count(*) from s2_known(1, '-infinity', 'infinity')") == 0


def test_a_parcel_that_cannot_be_monitored_is_stored_and_not_pending(world: World) -> None:
    world.send(table(S2, {"parcel_id": "98"}, {"parcel_id": "99"}))
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["pending"]) == (2, 1)


def test_bad_rows_are_letters_in_table_and_topic_and_the_rest_is_stored(world: World) -> None:
    world.send(
        table(
            S2,
            {},
            {"parcel_id": "x"},
            {"season": "1999"},
            {"NDVI": 2.0},
            {"parcel_id": "1"},
            {"collection": "be"},
            {"parcel_id": "2", "observed_at": PASS - timedelta(days=400), "available_at": PASS},
        )
    )
    sender = Sender(world.bootstrap, 2**20)
    sender.send(world.settings.topic("S1"), b"{}", [("content-type", CONTENT_TYPE_JSON.encode())])
    sender.send(world.settings.topic("S1"), b"\0" * 100, [])
    sender.flush()
    sender.close()
    counts = world.consumer.catch_up()
    assert (counts["rows"], counts["stored"], counts["dead_letters"]) == (9, 2, 7)
    stored = world.all("select row_in_message, reason_code, content_type from dead_letters order by 1, 2")
    assert stored == [
        (-1, "unknown_content_type", None),
        (-1, "unknown_schema", CONTENT_TYPE_JSON),
        (1, "unknown_parcel", CONTENT_TYPE_ARROW),
        (2, "unknown_season", CONTENT_TYPE_ARROW),
        (3, "out_of_range", CONTENT_TYPE_ARROW),
        (5, "unknown_parcel", CONTENT_TYPE_ARROW),
        (6, "outside_season", CONTENT_TYPE_ARROW),
    ]
    told = world.dead_letters_on_topic()
    assert sorted(headers["reason-code"] for headers, _ in told) == sorted(str(code) for _, code, _ in stored)
    assert any(payload == b"\0" * 100 and "content-type" in headers["reason"] for headers, payload in told)
    assert world.one("select reason from dead_letters where row_in_message = 1") == (
        "parcel 'x' is not in collection 'nl' of season '2023'; import it, then redrive"
    )


def test_letters_come_back_after_their_parcels_were_imported(world: World) -> None:
    world.send(table(S2, {"parcel_id": "new"}, {"NDVI": 7.0}))
    world.consumer.catch_up()
    with world.engine.begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        upsert_parcels(
            connection, "nl", season, [ParcelRow("new", "r", None, 1.0, 1.0, 1.0, None, None, None)], NOW, NOW
        )
    sender = Sender(world.bootstrap, 2**20)
    assert redrive(world.engine, sender, "unknown_parcel", NOW) == 1
    assert redrive(world.engine, sender, "unknown_parcel", NOW) == 0
    sender.close()
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["dead_letters"]) == (1, 0)
    assert world.all("select reason_code, redriven_at from dead_letters order by 1") == [
        ("out_of_range", None),
        ("unknown_parcel", NOW),
    ]


def test_a_running_consumer_sees_that_a_season_was_widened(world: World) -> None:
    autumn = PASS - timedelta(days=200)
    late = table(S2, {"parcel_id": "2", "observed_at": autumn, "available_at": autumn + LATER})
    world.send(late)
    world.consumer.catch_up()
    assert str(world.one("select reason from dead_letters")).endswith(
        "or widen that one (parcelwatch parcels season 2023), then redrive"
    )
    with world.engine.begin() as connection:
        widen_season(connection, "2023", date(2022, 9, 1), None)
    sender = Sender(world.bootstrap, 2**20)
    assert redrive(world.engine, sender, "outside_season", NOW) == 1
    sender.close()
    assert world.consumer.catch_up()["stored"] == 1


def test_a_flood_of_bad_rows_stops_before_it_is_consumed(world: World) -> None:
    world.send(season_of(90, 1))
    world.consumer.catch_up()
    offsets = world.all("select * from consumed_offsets order by topic, partition")
    world.send(table(S2, *({"parcel_id": str(nr), "NDVI": 5.0} for nr in range(600)), {"parcel_id": "91"}))
    with pytest.raises(TooManyRejected, match=r"600 of 601 \(out_of_range 600\).*NDVI: 5 is not within"):
        world.consumer.catch_up()
    assert world.all("select * from consumed_offsets order by topic, partition") == offsets
    assert world.counts() == (90, 0, 90, 90, 90, 0)
    assert world.dead_letters_on_topic() == []
    lenient = world.another_consumer(reject_cap=1.0)
    assert lenient.catch_up()["dead_letters"] == 600
    lenient.close()


def test_a_zombie_cannot_store_twice(world: World) -> None:
    zombie = world.consumer
    zombie.catch_up()
    world.send(season_of(70, 1))
    source = zombie._opened()
    while sum(len(message.value) for message in zombie._batch) == 0:
        zombie._take(source.poll(0.1))
    other = world.another_consumer()
    assert other.catch_up()["stored"] == 70
    with pytest.raises(FencedOut):
        zombie._flush(source)
    zombie.close()
    assert not +zombie.catch_up()
    assert world.counts() == (70, 0, 70, 70, 70, 0)
    other.close()


def test_a_fenced_consumer_stores_nothing_even_where_rows_are_new(world: World) -> None:
    world.consumer.catch_up()
    world.send(season_of(3, 1))
    with world.engine.begin() as connection:
        connection.execute(sa.text("update consumed_offsets set next_offset = next_offset + 1"))
    with pytest.raises(FencedOut):
        world.consumer.catch_up()
    assert world.counts() == (0, 0, 0, 0, 0, 0)


def test_ingest_waits_for_no_worker(world: World) -> None:
    world.send(season_of(20, 1))
    catching_up = threading.Thread(target=world.consumer.catch_up)
    with world.engine.connect() as worker, worker.begin():
        worker.execute(sa.text("select * from parcels for no key update"))
        catching_up.start()
        catching_up.join(30)
        is_held_up = catching_up.is_alive()
    catching_up.join()
    assert not is_held_up
    assert world.counts() == (20, 0, 20, 20, 20, 0)


def test_a_topic_made_anew_begins_at_its_start(world: World) -> None:
    world.send(season_of(10, 1))
    world.consumer.catch_up()
    world.consumer.close()
    admin = KafkaAdminClient(bootstrap_servers=world.bootstrap)
    admin.delete_topics(list(world.settings.observation_topics))
    admin.close()
    with ObservationProducer(world.bootstrap, world.settings) as producer:
        producer.send(season_of(10, 2))
    counts = world.consumer.catch_up()
    assert (counts["stored"], counts["replayed"]) == (10, 10)
    assert world.one("select count(distinct stream) from consumed_offsets") == 4


def test_records_deleted_unread_stop_the_consumer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(season_of(40, 1))
    world.consumer.catch_up()
    world.consumer.close()
    told = Topics.bounds

    def after_retention(self: Topics, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return {partition: (end + 5, end + 5) for partition, (_, end) in told(self, partitions).items()}

    with monkeypatch.context() as patch:
        patch.setattr(Topics, "bounds", after_retention)
        with pytest.raises(RecordsLost, match=r"offset \d+ comes next.*--accept-gap"):
            world.consumer.catch_up()
    assert not +world.consumer.catch_up()


def test_a_gap_can_be_accepted(world: World) -> None:
    world.consumer.catch_up()
    world.consumer.close()
    with world.engine.begin() as connection:
        connection.execute(sa.text("update consumed_offsets set next_offset = 1000"))
    bold = world.another_consumer(accept_gap=True)
    bold.catch_up()
    world.send(season_of(40, 2))
    assert bold.catch_up()["stored"] == 80
    bold.close()


def test_a_consumer_that_begins_within_a_batch_of_records_reads_the_rest(world: World) -> None:
    """One request holds all these records, and the embedded broker tells a wrong end of it."""
    world.producer.send_records(S2, season_of(99, 3).to_pylist())
    world.producer.flush()
    assert world.consumer.catch_up()["stored"] == 297
    world.consumer.close()
    assert not +world.consumer.catch_up()
    world.consumer.close()
    with world.engine.begin() as connection:
        connection.execute(sa.text("update consumed_offsets set next_offset = next_offset - 7 where next_offset > 0"))
    assert world.consumer.catch_up()["replayed"] == 14
    assert world.counts() == (297, 0, 297, 297, 297, 0)


def test_a_table_larger_than_a_message_is_sent_as_several(world: World) -> None:
    with ObservationProducer(world.bootstrap, world.settings.model_copy(update={"producer_bytes": 10_000})) as producer:
        assert producer.send(season_of(99, 8)) > 5
    counts = world.consumer.catch_up()
    assert counts["stored"] == 99 * 8
    assert counts["messages"] > 5


def test_a_payload_too_large_for_the_topic_is_whole_in_the_table(world: World) -> None:
    rows = table(S2, {"pixels": bytes(100_000)})
    world.send(rows)
    tight = world.another_consumer(producer_bytes=10_000)
    assert tight.catch_up()["dead_letters"] == 1
    assert world.one("select payload from dead_letters") == encode_arrow(rows)
    ((headers, payload),) = world.dead_letters_on_topic()
    assert (headers["payload"], payload) == ("in the table only", b"")
    tight.close()


def test_a_group_shares_the_partitions_and_stores_each_once(world: World) -> None:
    """A second member joins while the first consumes; the rebalance takes partitions away in the middle (about 30 s here)."""
    members = [world.another_consumer(group_id=world.settings.topic_prefix, flush_seconds=0.05) for _ in range(2)]
    stop, threads = threading.Event(), list[threading.Thread]()
    world.send(season_of(99, 2))
    for member in members:
        threads.append(threading.Thread(target=member.run, args=(stop,)))
        threads[-1].start()
        wait_until(lambda: world.one("select count(*) from s2_observations") == 198)
    for number in range(2, 8):
        world.send(season_of(99, 8).slice(99 * number, 99))
        time.sleep(0.2)
    wait_until(lambda: world.one("select count(*) from s2_observations") == 8 * 99)
    stop.set()
    for thread in threads:
        thread.join(60)
    for member in members:
        member.close()
    assert world.counts() == (8 * 99, 0, 8 * 99, 8 * 99, 8 * 99, 0)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
