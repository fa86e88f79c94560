"""The embedded broker: Tansu, a Kafka-protocol broker in one process that keeps its records in memory.

Offsets start again at 0 with each start. Each start therefore makes a fresh cluster id, which clients read
in the cluster's metadata (`KafkaAdminClient.describe_cluster()["cluster_id"]`).
"""

from __future__ import annotations

import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from devstack import process
from devstack.errors import ServerError
from devstack.folders import Account
from devstack.provision import Programs

START_S = 20.0  # a start takes a few milliseconds; the rest is for a machine under load
STOP_S = 5.0  # nothing is written at the end


@dataclass(frozen=True)
class Server:
    """A broker that runs."""

    pid: int
    port: int
    cluster_id: str


def find(folder: Path) -> Server | None:
    """Return the broker that runs in `folder`, None if none does."""
    found = process.find(folder / "broker.pid", "tansu", _storage(folder))
    if found is None:
        return None
    pid, options = found
    return Server(pid, int(options["--listener-url"].rpartition(":")[2]), options["--cluster-id"])


def start(programs: Programs, folder: Path, account: Account, port: int | None) -> Server:
    """Start a broker, wait until it listens, and return it; its port is `port` if that is free.

    Errors: ServerError with the end of the log.
    """
    deadline = time.monotonic() + START_S
    log = folder.with_name("broker.log")
    while True:
        port = process.free_port(port)
        cluster = secrets.token_hex(8)
        url = f"tcp://{process.LOOPBACK}:{port}"
        command = [str(programs.broker), "broker", f"--cluster-id={cluster}", _storage(folder)]
        command += [f"--listener-url={url}", f"--advertised-listener-url={url}"]
        pid = process.launch(command, folder, account, log, {}, folder / "broker.pid")
        if process.listens(pid, port, deadline):
            return Server(pid, port, cluster)
        if time.monotonic() > deadline:
            raise ServerError(f"the broker did not start; the end of {log}: {process.last_lines(log)}")
        time.sleep(0.2)


def stop(folder: Path) -> None:
    """Stop the broker that runs in `folder`, if any. Errors: ServerError if it does not end."""
    found = find(folder)
    if found is not None and not process.stop(found.pid, [(signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)]):
        raise ServerError(f"the broker (process {found.pid}) does not stop")


def _storage(folder: Path) -> str:
    """Return the argument that keeps records in memory; it names the folder, which distinguishes brokers."""
    return f"--storage-engine=memory://{quote(str(folder), safe='')}/"
