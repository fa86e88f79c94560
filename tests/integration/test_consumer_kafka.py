"""What only Apache Kafka does to a consumer: transactions, rights, retention, encryption, a restart."""

# ruff: noqa: ARG001 - a fixture that is only asked for must come after the one before it: settings after what denies them

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from kafka.record.util import calc_crc32c

from db.connect import engine
from db.dead_letters import newest
from ingest.errors import BrokerRefuses, RecordsLost
from ingest.stream.consumer import Consumer
from ingest.stream.messages import encode_arrow, encode_json
from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S2
from ingest.stream.settings import IngestSettings
from tests.kafka_server import USERS, KafkaServer
from tests.observations import N_PARCELS, NOW, one_pass, running, season_of_parcels, stored, wait_until

pytestmark = pytest.mark.timeout(60)
HEADERS = [("content-type", CONTENT_TYPE_ARROW.encode())]


@pytest.fixture
def season_dsn(dsn: str) -> str:
    season_of_parcels(dsn)
    return dsn


@pytest.fixture
def settings(topic_prefix: str, apache_kafka: KafkaServer) -> IngestSettings:
    """Settings with topics that exist."""
    made = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.05, partitions=2)
    ObservationProducer(apache_kafka.plain, made).close()
    return made


@pytest.fixture
def transactions(apache_kafka: KafkaServer, topic_prefix: str) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=apache_kafka.plain, transactional_id=f"{topic_prefix}-t")
    producer.init_transactions()
    yield producer
    producer.close(timeout=1)


@pytest.fixture
def denied(apache_kafka: KafkaServer) -> Iterator["Denials"]:
    made = Denials(apache_kafka.plain)
    yield made
    made.lift()


class Denials:
    """Rights that the user `reader` is denied."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._made: list[ACL] = []

    def add(self, kind: ResourceType, name: str, operation: ACLOperation) -> None:
        pattern = ResourcePattern(kind, name)
        self._made += [
            ACL("User:reader", "*", operation, ACLPermissionType.DENY, pattern),
            # An entry closes a resource to all but who is named, so the others are.
            ACL("User:*", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern),
        ]
        self._admin.create_acls(self._made[-2:])

    def lift(self) -> None:
        self._admin.delete_acls(self._made)
        self._admin.close()


@pytest.fixture
def as_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections say that they are the user `reader`."""
    for name, value in {
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_MECHANISM": "PLAIN",
        "SASL_USERNAME": "reader",
        "SASL_PASSWORD": USERS["reader"],
    }.items():
        monkeypatch.setenv(f"PARCELWATCH_KAFKA_{name}", value)


def consumer_of(dsn: str, bootstrap: str, settings: IngestSettings, **changes: object) -> Consumer:
    return Consumer(engine(dsn), bootstrap, settings.model_copy(update=changes), lambda: NOW)


def caught_up(consumer: Consumer) -> int:
    """The rows that a run to the end stores."""
    try:
        return consumer.catch_up()["stored"]
    finally:
        consumer.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("form", [CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON])
def test_batches_that_librdkafka_compresses_are_stored(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, codec: str, form: str
) -> None:
    n_passes = 30
    # Lingering in one partition: several records in a batch.
    with Producer({"bootstrap.servers": apache_kafka.plain, "compression.type": codec, "linger.ms": 100}) as producer:
        for number in range(n_passes):
            rows = one_pass(number)
            values = [encode_arrow(rows)] if form == CONTENT_TYPE_ARROW else encode_json(S2, rows.to_pylist())
            for value in values:
                producer.produce(settings.topic("S2"), value, headers=[("content-type", form.encode())], partition=0)
    assert codec in codecs_on(apache_kafka, settings.topic("S2"))
    consumer = consumer_of(season_dsn, apache_kafka.plain, settings)
    assert caught_up(consumer) == n_passes * N_PARCELS == stored(season_dsn)
    assert consumer.counts["dead_letters"] == 0


def codecs_on(server: KafkaServer, topic: str) -> set[str]:
    """The codecs of the batches that the broker holds of a topic's first partition."""
    data = segment(server, topic).read_bytes()
    return {["none", "gzip", "snappy", "lz4", "zstd"][data[place + 22] & 7] for place, _ in batches(data)}


def segment(server: KafkaServer, topic: str) -> Path:
    """The broker's own file of a topic's first partition."""
    (path,) = (server.folder / "data" / f"{topic}-0").glob("*.log")
    return path


def batches(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where each batch of a file begins and ends."""
    place = 0
    while place + 61 <= len(data) and (size := int.from_bytes(data[place + 8 : place + 12], "big")):
        yield place, place + 12 + size
        place += 12 + size


def test_unknown_codecs_end_the_consumer_in_one_line_and_can_be_passed(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings
) -> None:
    producer = KafkaProducer(bootstrap_servers=apache_kafka.plain)
    for number in range(5):
        producer.send(settings.topic("S2"), encode_arrow(one_pass(number)), headers=HEADERS, partition=0)
        producer.flush()  # a batch each
    producer.close()
    apache_kafka.stop()
    path = segment(apache_kafka, settings.topic("S2"))  # no broker takes such a batch from a client
    data = bytearray(path.read_bytes())
    for codec, (begin, end) in zip((5, 6, 7), list(batches(data))[1:4], strict=True):
        data[begin + 22] |= codec
        data[begin + 17 : begin + 21] = calc_crc32c(memoryview(data)[begin + 21 : end]).to_bytes(4, "big")
    path.write_bytes(data)
    apache_kafka.start()
    for _ in range(2):  # also when it is started again
        consumer = consumer_of(season_dsn, apache_kafka.plain, settings)
        with pytest.raises(
            BrokerRefuses, match=rf"{settings.topic('S2')}/0, offset 1: compression codec 5 .*--accept-gap"
        ):
            consumer.run(threading.Event())
        consumer.close()
        assert stored(season_dsn) == N_PARCELS, "what came before it"
    consumer = consumer_of(season_dsn, apache_kafka.plain, settings, accept_gap=True, reject_cap=1.0)
    assert caught_up(consumer) == N_PARCELS
    with engine(season_dsn).begin() as connection:
        letters = {letter.dead_letter.message_offset: letter.dead_letter.reason for letter in newest(connection, 10)}
    assert set(letters) == {1, 2, 3}
    for offset, reason in letters.items():
        assert f"offsets {offset} to {offset} cannot be read: compression codec {offset + 4}" in reason


def test_rows_of_an_aborted_transaction_are_not_stored(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, transactions: KafkaProducer
) -> None:
    for number, end in enumerate((transactions.abort_transaction, transactions.commit_transaction)):
        transactions.begin_transaction()
        transactions.send(settings.topic("S2"), encode_arrow(one_pass(number)), headers=HEADERS, partition=0)
        transactions.flush()
        end()
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings)) == N_PARCELS
    with engine(season_dsn).begin() as connection:
        passes = connection.execute(sa.text("select distinct observed_at from s2_observations")).scalars().all()
    assert passes == one_pass(1)["observed_at"].unique().to_pylist()


def test_rows_of_an_open_transaction_are_stored_after_its_commit(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, transactions: KafkaProducer
) -> None:
    transactions.begin_transaction()
    transactions.send(settings.topic("S2"), encode_arrow(one_pass(0)), headers=HEADERS, partition=0)
    transactions.flush()
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings)) == 0
    transactions.commit_transaction()
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings)) == N_PARCELS
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings)) == 0  # behind a control record


def test_a_group_that_is_denied_is_named(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, denied: Denials, as_reader: None
) -> None:
    denied.add(ResourceType.GROUP, "closed-group", ACLOperation.READ)
    consumer = consumer_of(season_dsn, apache_kafka.sasl, settings, group_id="closed-group")
    with pytest.raises(BrokerRefuses, match=r"group closed-group is denied; grant this user Read"):
        consumer.run(threading.Event())
    consumer.close()


def test_a_topic_that_may_not_be_read_is_named(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, denied: Denials, as_reader: None
) -> None:
    denied.add(ResourceType.TOPIC, settings.topic("S2"), ACLOperation.READ)
    consumer = consumer_of(season_dsn, apache_kafka.sasl, settings)
    with pytest.raises(BrokerRefuses, match=f"topic {settings.topic('S2')} .*Read"):
        consumer.run(threading.Event())
    consumer.close()


def test_a_topic_that_may_not_be_seen_is_named(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, denied: Denials, as_reader: None
) -> None:
    denied.add(ResourceType.TOPIC, settings.topic("S1"), ACLOperation.ALL)
    consumer = consumer_of(season_dsn, apache_kafka.sasl, settings)
    with pytest.raises(BrokerRefuses, match=f"topic {settings.topic('S1')} .*Describe"):
        consumer.run(threading.Event())
    consumer.close()


def test_dead_letters_that_may_not_be_written_are_named(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, denied: Denials, as_reader: None
) -> None:
    denied.add(ResourceType.TOPIC, settings.dead_letter_topic, ACLOperation.WRITE)
    bad = KafkaProducer(bootstrap_servers=apache_kafka.plain)
    bad.send(settings.topic("S2"), b"{", headers=[("content-type", b"application/json")])
    bad.close()
    consumer = consumer_of(season_dsn, apache_kafka.sasl, settings)
    with pytest.raises(BrokerRefuses, match=f"topic {settings.dead_letter_topic} is denied.*Write"):
        consumer.run(threading.Event())
    consumer.close()


@pytest.mark.parametrize(
    ("listener", "wants"),
    [
        ("sasl", r"wants no TLS with SASL \(PLAIN\): set PARCELWATCH_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT"),
        ("tls", "wants TLS: set PARCELWATCH_KAFKA_SECURITY_PROTOCOL=SSL"),
    ],
)
def test_what_a_listener_wants_is_said(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, listener: str, wants: str
) -> None:
    consumer = consumer_of(season_dsn, getattr(apache_kafka, listener), settings)
    with pytest.raises(BrokerRefuses, match=wants):
        consumer.run(threading.Event())
    consumer.close()


def test_a_wrong_password_is_no_outage(
    season_dsn: str,
    apache_kafka: KafkaServer,
    settings: IngestSettings,
    as_reader: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARCELWATCH_KAFKA_SASL_PASSWORD", "wrong")
    consumer = consumer_of(season_dsn, apache_kafka.sasl, settings)
    with pytest.raises(BrokerRefuses, match="SASL_USERNAME"):
        consumer.run(threading.Event())
    consumer.close()


def test_a_certificate_that_nobody_trusts_is_no_outage(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_KAFKA_SECURITY_PROTOCOL", "SSL")
    consumer = consumer_of(season_dsn, apache_kafka.tls, settings)
    with pytest.raises(BrokerRefuses, match="CA_FILE"):
        consumer.run(threading.Event())
    consumer.close()


@pytest.mark.parametrize("listener", ["sasl", "tls"])
def test_every_client_connects_as_the_settings_say(
    season_dsn: str,
    apache_kafka: KafkaServer,
    settings: IngestSettings,
    listener: str,
    as_reader: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if listener == "tls":
        monkeypatch.setenv("PARCELWATCH_KAFKA_SECURITY_PROTOCOL", "SSL")
        monkeypatch.setenv("PARCELWATCH_KAFKA_CA_FILE", str(apache_kafka.ca_file))
    address = getattr(apache_kafka, listener)
    with ObservationProducer(address, settings) as producer:
        producer.send(one_pass(0))
    consumer = consumer_of(season_dsn, address, settings, group_id=f"{settings.topic_prefix}-{listener}")
    with running(consumer):
        wait_until(lambda: stored(season_dsn) == N_PARCELS)


def test_retention_that_passed_a_consumer_is_counted(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings
) -> None:
    def send(*numbers: int) -> None:
        producer = KafkaProducer(bootstrap_servers=apache_kafka.plain)
        for number in numbers:
            producer.send(settings.topic("S2"), encode_arrow(one_pass(number)), headers=HEADERS, partition=1)
        producer.close()

    send(0)
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings)) == N_PARCELS
    send(1, 2, 3, 4)
    admin = KafkaAdminClient(bootstrap_servers=apache_kafka.plain)
    admin.delete_records({TopicPartition(settings.topic("S2"), 1): 4})
    admin.close()
    consumer = consumer_of(season_dsn, apache_kafka.plain, settings)
    with pytest.raises(RecordsLost, match=rf"{settings.topic('S2')}/1: 3 records were deleted unread .*--accept-gap"):
        consumer.run(threading.Event())
    consumer.close()
    assert caught_up(consumer_of(season_dsn, apache_kafka.plain, settings, accept_gap=True)) == N_PARCELS


def test_the_broker_is_killed_and_comes_back_with_its_records(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings
) -> None:
    with running(consumer_of(season_dsn, apache_kafka.plain, settings)) as consumer:
        with ObservationProducer(apache_kafka.plain, settings) as producer:
            producer.send(one_pass(0))
        wait_until(lambda: stored(season_dsn) == N_PARCELS)
        apache_kafka.kill()
        wait_until(lambda: consumer.counts["broker_waits"] == 1)
        apache_kafka.start()
        with ObservationProducer(apache_kafka.plain, settings) as producer:
            producer.send(one_pass(1))
        wait_until(lambda: stored(season_dsn) == 2 * N_PARCELS)


def test_the_command_ends_in_one_line_where_the_broker_refuses(
    season_dsn: str, apache_kafka: KafkaServer, settings: IngestSettings
) -> None:
    environment = os.environ | {
        "PARCELWATCH_DSN": season_dsn,
        "PARCELWATCH_BOOTSTRAP": apache_kafka.sasl,
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "parcelwatch", "ingest", "run", "--topic-prefix", settings.topic_prefix],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "SASL" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
