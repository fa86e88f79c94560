"""Servers, databases and data for the tests.

Servers come from the environment (PARCELWATCH_TEST_DSN, PARCELWATCH_TEST_BOOTSTRAP), else from containers
where a Docker engine answers, else from one embedded stack per run. They start with the first test
that asks. Each test that writes gets a database of its own, copied from a migrated template, and a prefix
of its own for topics.

Tests may run side by side (pytest-xdist). The stack and the template are made once, by whichever worker needs
them first, and removed by the process that all workers belong to.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Before torch is imported: on two cores shared with servers its threads wait for each other (94 s of tests became 11).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db import connect
from db.connect import close_engines, engine
from db.recording import take_the_callers_clock
from devstack import process, stack
from devstack.errors import ProvisionError
from devstack.temporary import temporary_home
from tests import kafka_server
from tests.filled_store import fill
from tests.kafka_server import KafkaServer

# No deadline: a shared machine is slow now and then. In CI the same examples every time: a red run can be repeated.
hypothesis.settings.register_profile("parcelwatch", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("parcelwatch")

TESTS = Path(__file__).parent
MEMORY = Path("/dev/shm")
ROOM: Final = 4 << 30  # bytes; chosen as ten times what three runs held together
DATABASE_IMAGE = "timescale/timescaledb-ha:pg17"  # the community edition, with PostGIS
BROKER_IMAGE = "apache/kafka:4.1.0"
CONTAINER_START_S = 120.0  # chosen because a first start of either takes 10 to 30 s on 2 cores


def _keep_in_memory() -> None:
    """Put databases and the files of tests in memory where there is room: on a disk each database is 900 files to write.

    A folder of one's own in TMPDIR stays.
    """
    if Path(os.environ.get("TMPDIR", "/tmp")) != Path("/tmp") or not os.access(MEMORY, os.W_OK):
        return
    mounted = os.statvfs(MEMORY)
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(line[1]) << 10 for line in lines if line[0] == "MemAvailable:")
    if min(mounted.f_bavail * mounted.f_frsize, available) >= ROOM and not mounted.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_keep_in_memory()  # before pytest makes its own folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folders it lies in: unit, integration or e2e, and research."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            for folder in item.path.relative_to(TESTS).parts[:-1]:
                item.add_marker(folder)


@dataclass(frozen=True)
class Run:
    """What the processes of a test run share."""

    stack_home: Path
    template: str
    """Name of the migrated database that the tests' own are copied from."""


RUN: Final = pytest.StashKey[Run]()


def pytest_configure(config: pytest.Config) -> None:
    """Make a home for the embedded stack; a worker of pytest-xdist is told that of its controller."""
    if (given := getattr(config, "workerinput", None)) is not None:
        config.stash[RUN] = Run(Path(given["stack_home"]), given["template"])
        return
    ends = ExitStack()
    config.add_cleanup(ends.close)
    run = Run(ends.enter_context(temporary_home()), f"test_template_{secrets.token_hex(6)}")
    ends.callback(_drop_templates, run.template)
    config.stash[RUN] = run


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a worker of pytest-xdist what it shares with the others."""
    run: Run = node.config.stash[RUN]
    node.workerinput |= {"stack_home": str(run.stack_home), "template": run.template}


@pytest.fixture(scope="session")
def embedded_stack(request: pytest.FixtureRequest) -> stack.Stack:
    """The embedded stack of this run: the first that asks starts it, and it goes when the run ends."""
    return stack.up(request.config.stash[RUN].stack_home, os.environ, _announced(request.config), fast=True)


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of an administrator of a TimescaleDB server with PostGIS."""
    if given := os.environ.get("PARCELWATCH_TEST_DSN"):
        yield given
    elif _docker_answers():
        with _database_container() as dsn:
            yield dsn
    else:
        yield request.getfixturevalue("embedded_stack").admin_dsn


ON_BOTH_BROKERS = {
    "test_consumer.py",
    "test_consumer_groups.py",
    "test_consumer_outages.py",
    "test_kill_consumer.py",
    "test_kill_scene_worker.py",
    "test_scenes.py",
    "test_scenes_work.py",
}
"""Files whose tests run on the broker in memory and on Apache Kafka, unless a broker was given."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the tests of some files each broker in turn."""
    is_given = "PARCELWATCH_TEST_BOOTSTRAP" in os.environ
    if "bootstrap" in metafunc.fixturenames and Path(metafunc.module.__file__).name in ON_BOTH_BROKERS and not is_given:
        metafunc.parametrize("bootstrap", ["memory", "kafka"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def apache_kafka(request: pytest.FixtureRequest) -> Iterator[KafkaServer]:
    """An Apache Kafka of this session; skips, and says why, where it cannot be had."""
    try:
        with kafka_server.running(_announced(request.config)) as server:
            yield server
    except ProvisionError as error:
        pytest.skip(f"Apache Kafka cannot be had, not tested on it: {error}")


@pytest.fixture(scope="session")
def bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """The bootstrap address of a Kafka-protocol broker."""
    if getattr(request, "param", None) == "kafka":
        yield request.getfixturevalue("apache_kafka").plain
    elif given := os.environ.get("PARCELWATCH_TEST_BOOTSTRAP"):
        yield given
    elif _docker_answers():
        with _broker_container() as address:
            yield address
    else:
        yield request.getfixturevalue("embedded_stack").bootstrap


@pytest.fixture(scope="session")
def template_database(request: pytest.FixtureRequest, database_server: str) -> str:
    """The name of a migrated database that nobody may connect to, from which others are copied."""
    from db.migrate import upgrade

    def migrate(made: str) -> None:
        upgrade(made)
        with engine(made).begin() as own:
            take_the_callers_clock(own)  # tests move their clock

    return _template(database_server, request.config.stash[RUN].template, "template0", migrate)


@pytest.fixture(scope="session")
def filled_template(database_server: str, template_database: str) -> str:
    """The name of a copy of it with what `tests.filled_store` knows."""
    return _template(database_server, f"{template_database}_filled", template_database, fill)


def _template(admin_dsn: str, name: str, origin: str, make: Callable[[str], None]) -> str:
    """Make a database from another, unless another worker did; nobody may connect to it then."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtext(%s))", [name])  # one worker makes it, the others wait
        found = "select datallowconn from pg_database where datname = %s"
        state = connection.execute(found, [name]).fetchone()
        if state == (False,):
            return name
        identifier = sql.Identifier(name)
        if state is not None:  # left half made by a worker that died
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier))
        connection.execute(sql.SQL("create database {} template {}").format(identifier, sql.Identifier(origin)))
        make(make_conninfo(admin_dsn, dbname=name))
        close_engines()  # of this database, and of any that the test made
        connection.execute(sql.SQL("alter database {} with allow_connections false").format(identifier))
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
    return name


@pytest.fixture(autouse=True)
def unnamed_connections() -> Iterator[None]:
    """Takes back the name that a command run in this process gave to its connections."""
    yield
    connect._name = connect.APPLICATION_NAME


@pytest.fixture
def dsn(database_server: str, template_database: str) -> Iterator[str]:
    """The connection string of a fresh, migrated database; dropped after the test."""
    with _database(database_server, template_database) as fresh:
        yield fresh


@pytest.fixture
def filled_dsn(database_server: str, filled_template: str) -> Iterator[str]:
    """The same with what `tests.filled_store` knows: two regions with a parcel each."""
    with _database(database_server, filled_template) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def shared_dsn(database_server: str, template_database: str) -> Iterator[str]:
    """The same, shared by the tests of a module, which fill it once and only read."""
    with _database(database_server, template_database) as fresh:
        yield fresh


@pytest.fixture
def empty_dsn(database_server: str) -> Iterator[str]:
    """The connection string of a fresh, empty database; dropped after the test."""
    with _database(database_server) as fresh:
        yield fresh


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test's topics have."""
    return f"test-{secrets.token_hex(6)}-"


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """A function from the name of a folder of real data to its path; skips the test where it is missing."""
    root = Path(os.environ.get("PARCELWATCH_DATA") or TESTS.parent.parent / "shared" / "data")

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"real data missing: {root / name} (PARCELWATCH_DATA names the folder that holds {name})")
        return root / name

    return find


@contextmanager
def _database(admin_dsn: str, template: str = "template0") -> Iterator[str]:
    """A database that exists within the context."""
    name = f"test_{secrets.token_hex(6)}"
    # By files: in memory 0.034 s of processor time with its removal, 0.053 s through the log.
    create = sql.SQL("create database {} template {} strategy file_copy").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
    dsn = make_conninfo(admin_dsn, dbname=name)
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield dsn
    finally:
        close_engines()  # of this database, and of any that the test made
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            connection.execute(drop)


def _drop_templates(name: str) -> None:
    """Drops the templates from a server that outlives the run."""
    if given := os.environ.get("PARCELWATCH_TEST_DSN"):
        with psycopg.connect(given, autocommit=True) as connection:
            for one in (name, f"{name}_filled"):
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(one)))


def _announced(config: pytest.Config) -> Callable[[str, float | None], None]:
    """A progress report that writes each step of a starting stack on the terminal, past pytest's capture."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    seen: set[str] = set()

    def report(what: str, done: float | None) -> None:  # noqa: ARG001
        if what not in seen:
            seen.add(what)
            with capture.global_and_fixture_disabled():
                if reporter is None:  # a worker of pytest-xdist: its standard error is that of the run
                    print(f"embedded stack: {what}", file=sys.stderr, flush=True)
                    return
                reporter.ensure_newline()
                reporter.write_line(f"embedded stack: {what}")

    return report


def _docker_answers() -> bool:
    """Whether a Docker engine answers on this machine."""
    if shutil.which("docker") is None:
        return False
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _database_container() -> Iterator[str]:
    """TimescaleDB (community) and PostGIS in a container."""
    from testcontainers.core.container import DockerContainer

    password = secrets.token_urlsafe(24)
    container = DockerContainer(DATABASE_IMAGE).with_env("POSTGRES_PASSWORD", password).with_exposed_ports(5432)
    # Without background workers: they would hold the template database open.
    with container.with_command("postgres -c timescaledb.max_background_workers=0 -c fsync=off") as started:
        address = f"{started.get_container_host_ip()}:{started.get_exposed_port(5432)}"
        dsn = f"postgresql://postgres:{password}@{address}/postgres"
        deadline = time.monotonic() + CONTAINER_START_S
        while True:
            try:
                psycopg.connect(dsn, connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield dsn


@contextmanager
def _broker_container() -> Iterator[str]:
    """Apache Kafka (KRaft, one node) in a container; its port is chosen first, since it must be advertised."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = process.free_port(None)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    container = DockerContainer(BROKER_IMAGE).with_envs(**settings).with_bind_ports(9092, port)
    started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(int(CONTAINER_START_S))
    with container.waiting_for(started):
        yield f"127.0.0.1:{port}"
