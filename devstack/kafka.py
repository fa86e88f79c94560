"""The durable broker of the stack: one Apache Kafka node (KRaft), on loopback ports of its own.

CACHE/kafka-VERSION/*.jar         fetched once by Maven from the pinned `kafka.pom.xml`
HOME/stack/kafka/server.properties, broker.pid
HOME/stack/kafka/data/            topics and their records; they survive `stack down`
"""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from devstack import java, process
from devstack.archive import Progress
from devstack.errors import ProvisionError, ServerError
from devstack.folders import Account, make_for, write_for
from devstack.java import ALTERNATIVES
from devstack.provision import writing

VERSION = "4.4.0"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.7.0:copy-dependencies"
START_S = 60.0  # a start takes 4 s on 2 cores; the rest is for recovery after a kill and for a machine under load
STOP_S = 30.0  # flushes what is open
HEAP = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # small, and quick to start
_ONE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",  # the project makes its topics with their partitions
    "group.initial.rebalance.delay.ms": "0",
    # Internal topics: one replica each (the defaults want three nodes), few partitions (fifty by default).
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
}
DURABLE = {"log.flush.interval.messages": "1"}  # no replica has what a crash of the machine would lose
FAST: dict[str, str] = {}


@dataclass(frozen=True)
class Programs:
    """Java, and the folder of the broker's jars."""

    java: Path
    jars: Path


@dataclass(frozen=True)
class Server:
    """A broker that runs."""

    pid: int
    port: int
    cluster_id: str


def provision(cache: Path, environ: Mapping[str, str], progress: Progress) -> Programs:
    """Return Java and the jars in `cache`, fetched first by Maven if they are not there yet.

    Errors: ProvisionError saying what is missing on this machine and what can be used instead.
    """
    jars = cache / f"kafka-{VERSION}"
    tools = java.provide(cache, environ, progress, needs_maven=not jars.is_dir())
    if tools.maven is not None:
        with writing(cache, progress):
            if not jars.is_dir():
                progress(f"fetching Apache Kafka {VERSION} by Maven (43 MB)", None)
                _fetch(tools.maven, jars, tools.environment)
    return Programs(tools.java, jars)


def _fetch(maven: Path, jars: Path, environ: Mapping[str, str]) -> None:
    """Copy the jars under another name until they are whole."""
    partial = jars.with_name(jars.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pom = partial / "pom.xml"
    pom.write_text((resources.files("devstack") / "kafka.pom.xml").read_text())
    command = [str(maven), "-q", "-B", "-f", str(pom), COPY, "-DincludeScope=runtime"]
    result = subprocess.run(
        [*command, f"-DoutputDirectory={partial}"], env=dict(environ), capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line.split("]", 1) for line in (result.stdout + result.stderr).splitlines()]
        said = " ".join(
            text[0].strip() for level, *text in lines if level == "[ERROR" and text
        )  # the reason comes last
        raise ProvisionError(f"Maven could not fetch Apache Kafka ({said[:600] or 'no message'}); {ALTERNATIVES}")
    for path in partial.iterdir():
        path.chmod(0o644)
    partial.chmod(0o755)
    partial.rename(jars)


def find(folder: Path) -> Server | None:
    """Return the broker that runs in `folder`, None if none does."""
    found = process.find(folder / "broker.pid", "java", _mark(folder))
    if found is None:
        return None
    pid, options = found
    return Server(pid, int(options["-Dparcelwatch.port"]), options["-Dparcelwatch.cluster"])


def start(
    programs: Programs, folder: Path, account: Account, port: int | None, settings: Mapping[str, str] = DURABLE
) -> Server:
    """Start the broker, wait until it listens, and return it; its port is `port` if that is free.

    Args:
        programs: Java and the jars.
        folder: the broker's own, made and formatted the first time.
        account: who runs it.
        port: preferred; the addresses of clients stay the same over restarts.
        settings: more properties, or others; "{plain}" and "{controller}" stand for the two listeners.
    Errors: ServerError with the end of the log.
    """
    make_for(account, folder)
    port, control = process.free_port(port), process.free_port()
    plain, controller = f"PLAINTEXT://{process.LOOPBACK}:{port}", f"CONTROLLER://{process.LOOPBACK}:{control}"
    properties = _ONE_NODE | {
        "controller.quorum.voters": f"1@{process.LOOPBACK}:{control}",
        "listeners": f"{plain},{controller}",
        "advertised.listeners": plain,
        "log.dirs": str(folder / "data"),
    }
    properties |= {
        name: value.replace("{plain}", plain).replace("{controller}", controller) for name, value in settings.items()
    }
    path = folder / "server.properties"
    write_for(account, path, "".join(f"{name}={value}\n" for name, value in properties.items()))
    log = folder.with_name("kafka.log")
    cluster = _cluster_id(folder) or _format(programs, folder, account, path)
    program = [str(programs.java), *HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    named = [_mark(folder), f"-Dparcelwatch.port={port}", f"-Dparcelwatch.cluster={cluster}"]
    command = [*program, *named, "-cp", f"{programs.jars}/*", "kafka.Kafka", str(path)]
    pid = process.launch(command, folder, account, log, {"LC_ALL": "C.UTF-8"}, folder / "broker.pid")
    if not process.listens(pid, port, time.monotonic() + START_S):
        raise ServerError(f"the broker did not start; the end of {log}: {process.last_lines(log)}")
    return Server(pid, port, cluster)


def stop(folder: Path) -> None:
    """Stop the broker that runs in `folder`, if any: SIGTERM, which it obeys in order. Errors: ServerError."""
    found = find(folder)
    if found is not None and not process.stop(found.pid, [(signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)]):
        raise ServerError(f"the broker (process {found.pid}) does not stop")


def _mark(folder: Path) -> str:
    """Return the argument that names the folder, which distinguishes brokers."""
    return f"-Dparcelwatch.folder={folder}"


def _cluster_id(folder: Path) -> str | None:
    """Return the id of the data that are there; None before they are formatted."""
    try:
        text = (folder / "data" / "meta.properties").read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"^cluster\.id=(.+)$", text, re.MULTILINE)
    return found[1] if found else None


def _format(programs: Programs, folder: Path, account: Account, properties: Path) -> str:
    """Make the broker's data folder under a cluster id of its own, and return the id."""
    cluster = "-"
    while cluster.startswith("-"):  # it would be taken for an option
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [str(programs.java), *HEAP, "-cp", f"{programs.jars}/*", "kafka.tools.StorageTool"]
    result = subprocess.run(
        [*tool, "format", "--ignore-formatted", "-t", cluster, "-c", str(properties)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        **process.as_account(account),
    )
    if result.returncode:
        lines = (result.stderr + result.stdout).strip().splitlines()
        said = next((line for line in lines if "xception" in line or "rror" in line), "no message")
        raise ServerError(f"the broker's folder could not be formatted: {said[:300]}")
    return _cluster_id(folder) or cluster
