"""Apache Kafka in the embedded stack: it stops in order, keeps its records, and comes with a Java of its own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.connect import engine
from devstack import folders, java, kafka, process, stack
from devstack.archive import silent
from devstack.errors import ProvisionError, StackError
from ingest.stream.consumer import Consumer
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings
from tests.observations import N_PARCELS, NOW, one_pass, season_of_parcels, stored

SETTINGS = IngestSettings(topic_prefix="kept", partitions=2)
CLEAN = ".kafka_cleanshutdown"  # Kafka's own mark: at the next start no log is recovered


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that the servers' account can reach (pytest's own folders are closed to it)."""
    parent = Path(tempfile.mkdtemp(prefix="parcelwatch-test-"))
    parent.chmod(0o711)
    yield parent / "home"
    stack.down(parent / "home", delete=True)
    shutil.rmtree(parent)


@pytest.fixture
def up(home: Path) -> Callable[[], stack.Stack]:
    """A function that starts the stack, at first with Apache Kafka; skips, and says why, where it cannot be had."""

    def start() -> stack.Stack:
        try:
            return stack.up(home, os.environ, silent, fast=True, kind=None if home.exists() else "kafka")
        except ProvisionError as error:
            pytest.skip(f"Apache Kafka cannot be had, not tested: {error}")

    return start


def send(found: stack.Stack, *numbers: int) -> None:
    with ObservationProducer(found.bootstrap, SETTINGS) as producer:
        for number in numbers:
            producer.send(one_pass(number))


def newly_stored(found: stack.Stack, dsn: str) -> int:
    """The rows that a consumer of its own stores up to the end."""
    consumer = Consumer(engine(dsn), found.bootstrap, SETTINGS, lambda: NOW)
    try:
        return consumer.catch_up()["stored"]
    finally:
        consumer.close()


def test_records_outlive_the_stack_and_the_consumer_goes_on(
    home: Path, up: Callable[[], stack.Stack], dsn: str
) -> None:
    season_of_parcels(dsn)
    first = up()
    send(first, 0, 1)
    assert newly_stored(first, dsn) == 2 * N_PARCELS
    send(first, 2, 3, 4)  # nobody has read these
    broker = stack.status(home).broker
    assert broker is not None
    assert stack.down(home)
    assert not process.is_alive(broker.pid)
    assert stack.status(home).kind == "kafka"
    second = up()
    assert (second.bootstrap, second.cluster_id) == (first.bootstrap, first.cluster_id)
    assert newly_stored(second, dsn) == 3 * N_PARCELS
    send(second, 5)
    assert newly_stored(second, dsn) == N_PARCELS
    assert stored(dsn) == 6 * N_PARCELS


def test_it_stops_in_order_and_records_outlive_a_kill_too(home: Path, up: Callable[[], stack.Stack], dsn: str) -> None:
    season_of_parcels(dsn)
    data = home / "stack/kafka/data"
    send(up(), 0)
    assert not (data / CLEAN).exists()
    stack.down(home)
    assert (data / CLEAN).exists(), "the broker was killed, or ended before its logs were closed"
    up()
    found = kafka.find(home / "stack/kafka")
    assert found is not None
    os.kill(found.pid, 9)
    while process.is_alive(found.pid):
        pass
    assert not (data / CLEAN).exists()
    assert newly_stored(up(), dsn) == N_PARCELS


def test_a_broker_of_the_other_kind_is_not_started_beside_it(home: Path, up: Callable[[], stack.Stack]) -> None:
    up()
    with pytest.raises(StackError, match="this stack's broker is kafka: `parcelwatch stack down` first"):
        stack.up(home, os.environ, silent, kind="memory")


def test_java_and_maven_come_from_debian_where_the_path_has_none(tmp_path: Path) -> None:
    for folder in os.get_exec_path():
        for path in Path(folder).glob("*"):
            if path.name not in ("java", "mvn") and not (tmp_path / path.name).is_symlink():
                (tmp_path / path.name).symlink_to(path)
    cache = folders.cache_folder(os.environ, os.geteuid() == 0)
    try:
        tools = java.provide(cache, {**os.environ, "PATH": str(tmp_path)}, silent, needs_maven=True)
    except ProvisionError as error:
        pytest.skip(f"Java cannot be had, not tested: {error}")
    assert tools.java.is_relative_to(cache)
    assert tools.maven is not None
    assert tools.maven.is_relative_to(cache)

    def printed(*command: str | Path) -> str:
        return subprocess.run(
            command,
            env=dict(tools.environment),
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    assert 'version "21' in printed(tools.java, "-version")
    assert str(tools.java.parents[1]) in printed(tools.maven, "-v"), "Maven runs on another Java"
    store: list[str | Path] = [
        "-keystore",
        tools.maven.parents[4] / "trusted.jks",
        "-storetype",
        "JKS",
        "-storepass",
        "changeit",
    ]
    listed = printed(tools.java.with_name("keytool"), "-list", *store)
    assert f"contains {len(java._authorities())} entries" in listed
