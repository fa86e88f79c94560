"""The embedded database server: one cluster in a folder of its own, on one loopback port.

Every connection gives a password (SCRAM); there is no socket file and no trusted address.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from db import connect
from devstack import process
from devstack.errors import ServerError
from devstack.folders import Account
from devstack.provision import Programs

ROLE = DATABASE = "parcelwatch"
START_S = 60.0  # recovery after a crash replays at most max_wal_size; a start without takes about 0.3 s
STOP_S = 60.0  # a clean stop writes at most shared_buffers
ZONES = Path("/usr/share/zoneinfo")  # fixed in Debian's build of PostgreSQL
ACCESS = f"host all all {process.LOOPBACK}/32 scram-sha-256\n"

# An eighth of the memory, which the models and the broker share: 256 MB hold the states of 10,000 parcels in season, 1 GB those of 40,000.
_BUFFERS_MB = min(max(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**23, 128), 1024)

# Sized for 2 cores; PostgreSQL's documentation, chapter 19.
SETTINGS = {
    "listen_addresses": process.LOOPBACK,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "60",
    "shared_buffers": f"{_BUFFERS_MB}MB",
    "effective_cache_size": f"{4 * _BUFFERS_MB}MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_worker_processes": "4",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "1",
    "jit": "off",  # its library is not provisioned
    "random_page_cost": "1.1",  # solid-state disks
    "wal_compression": "lz4",
    "wal_level": "minimal",  # nothing replicates from here
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "max_locks_per_transaction": "256",  # one lock per chunk a query touches
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # This edition has no background jobs, and its scheduler would hold template databases open.
    "timescaledb.max_background_workers": "0",
}
# For data that nobody will miss: a crash of the machine loses them. A killed server still does not, which
# tests rely on; `synchronous_commit = off` would, and without fsync it gains nothing.
FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Server:
    """A database server that runs."""

    pid: int
    port: int


def initialise(programs: Programs, data: Path, account: Account, password: str, fast: bool) -> None:
    """Make an empty cluster in `data`; under another name until it is whole.

    Errors: ServerError with the reason of `initdb`.
    """
    for leftover in data.parent.glob("data-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    # A new name each time: the initdb of a killed process may still be writing to the old one.
    partial = Path(tempfile.mkdtemp(dir=data.parent, prefix="data-", suffix=".partial"))
    if account.uid is not None and account.gid is not None:
        os.chown(partial, account.uid, account.gid)
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as secret:
        secret.write(password)
        secret.flush()
        if account.uid is not None and account.gid is not None:
            os.chown(secret.name, account.uid, account.gid)
        command = [str(programs.program("initdb")), "--pgdata=.", f"--username={ROLE}", f"--pwfile={secret.name}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        command += ["--no-sync"] if fast else ["--data-checksums"]
        made = subprocess.run(
            command,
            cwd=partial,
            env=programs.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **process.as_account(account),
        )
    if made.returncode:
        lines = made.stdout.strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line or "FATAL" in line), lines[-1])
        raise ServerError(f"the database could not be initialised in {data.parent}: {said}")
    partial.rename(data)


def find(data: Path) -> Server | None:
    """Return the server that runs on `data`, None if none does."""
    found = process.find(data / "postmaster.pid", "postgres", str(data))
    return Server(found[0], int(found[1]["--port"])) if found else None


def start(programs: Programs, data: Path, account: Account, password: str, port: int | None, fast: bool) -> Server:
    """Start the server on `data`, wait until it answers, and return it; its port is `port` if that is free.

    Its configuration and log lie beside `data`, where its account cannot write. Tries again while orphans of
    a killed server still hold its memory, or if another program takes the port.
    Errors: ServerError with the end of the log.
    """
    if not (ZONES / "UTC").exists():
        raise ServerError(f"the database server needs the time zones of {ZONES}: install the package tzdata")
    deadline = time.monotonic() + START_S
    log = data.with_name("postgres.log")
    configuration, access = data.with_name("postgresql.conf"), data.with_name("pg_hba.conf")
    settings = SETTINGS | (FAST_SETTINGS if fast else {}) | {"hba_file": str(access)}
    access.write_text(ACCESS)
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    configuration.write_text("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
    for path in (access, configuration):
        path.chmod(0o644)
    while True:
        _remove_stale_lock(data)
        port = process.free_port(port)
        command = [str(programs.program("postgres")), "-D", str(data), f"--config-file={configuration}"]
        command += [f"--port={port}"]
        pid = process.launch(command, data, account, log, programs.environment)
        server = Server(pid, port)
        if answers(server, password, deadline):
            return server
        said = process.last_lines(log)
        if "in use" not in said or time.monotonic() > deadline:  # the port, or the memory of orphans
            raise ServerError(f"the database server did not start; the end of {log}: {said}")
        time.sleep(0.5)


def answers(server: Server, password: str, deadline: float) -> bool:
    """Return whether the server answers before it ends or the deadline (of the monotonic clock) passes."""
    while process.is_alive(server.pid) and time.monotonic() < deadline:
        if connect.answers(dsn(server.port, password, "postgres")):
            return True
        time.sleep(0.05)
    return False


def stop(data: Path, at_once: bool) -> None:
    """Stop the server that runs on `data`, if any; `at_once` leaves the checkpoint to the next start.

    Errors: ServerError if it does not end.
    """
    found = find(data)
    if found is None:
        return
    fast, immediate = (signal.SIGINT, STOP_S), (signal.SIGQUIT, STOP_S)
    if not process.stop(found.pid, [immediate] if at_once else [fast, immediate]):
        raise ServerError(f"the database server (process {found.pid}) does not stop")


def dsn(port: int, password: str, database: str = DATABASE) -> str:
    """Return the address of a database of the server, as a URI."""
    return f"postgresql://{ROLE}:{password}@{process.LOOPBACK}:{port}/{database}"


def _remove_stale_lock(data: Path) -> None:
    """Remove the pid file of a server that was killed: its pid may be a stranger's by now, which stops a start."""
    if find(data) is None:
        (data / "postmaster.pid").unlink(missing_ok=True)
