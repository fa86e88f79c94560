"""The embedded stack: a database server and a broker of one home folder, started and stopped together.

    HOME/stack/state.json     the password and the last ports; readable by its owner only
    HOME/stack/data/          the database cluster, with its server's pid file
    HOME/stack/broker/        the working folder of the broker in memory, with its pid file
    HOME/stack/kafka/         Apache Kafka's folder, records included
    HOME/stack/*.log, *.conf  logs and configuration

The servers survive the command that starts them. Whether and where they run is read from the processes
themselves, never from the state file, so it is right after any of them, or the command, was killed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from db.fresh import ensure_database
from devstack import broker, folders, kafka, postgres, process
from devstack.archive import Progress
from devstack.errors import StackError
from devstack.provision import Programs, provision

Kind = Literal["memory", "kafka"]
"""Of a broker: one that forgets its records when it stops, or one that keeps them."""
_FOLDERS: Final = {"memory": "broker", "kafka": "kafka"}


@dataclass(frozen=True)
class Stack:
    """How to reach the servers of a stack."""

    home: Path
    dsn: str
    """The product's database."""
    admin_dsn: str
    """The database `postgres`, from which others are created and dropped."""
    bootstrap: str
    cluster_id: str
    """Of this generation of the broker: offsets of another one mean nothing."""


@dataclass(frozen=True)
class Status:
    """What runs of a stack."""

    home: Path
    database: postgres.Server | None
    """None where it is stopped, as for the broker."""
    broker: broker.Server | kafka.Server | None
    stack: Stack | None
    """None unless both run."""
    kind: Kind
    """Of the broker that runs, else of the one that the next `up` starts."""


@dataclass(frozen=True)
class _State:
    """What the next start must know; ports are kept so that addresses stay the same over restarts."""

    password: str
    database_port: int | None = None
    broker_port: int | None = None
    kind: Kind = "memory"


def up(
    home: Path, environ: Mapping[str, str], progress: Progress, fast: bool = False, kind: Kind | None = None
) -> Stack:
    """Start what does not run yet, provisioning the programs and making the database the first time.

    Args:
        home: the home folder, made if missing.
        environ: where the mirror, the cache folder and the PATH are found.
        progress: called with what is being done.
        fast: for data nobody will miss: nothing is forced to disk.
        kind: of the broker; None: as it was, in memory in a new home.
    Errors: StackError, one line for a person.
    """
    home, is_root = home.resolve(), os.geteuid() == 0
    programs = provision(folders.cache_folder(environ, is_root), environ, progress)
    folder, is_new = home / "stack", not home.exists()
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    folders.require_own(home, folder)
    with folders.locked(folder):
        for path in (home, folder) if is_new else (folder,):
            path.chmod(0o711)  # the servers' account passes through and lists nothing
        data = folder / "data"
        account = folders.owner(data) if data.exists() else folders.server_account(is_root)
        _require_access(account, folder, programs)
        state = _load(folder)
        if state is None:
            if data.exists():
                raise StackError(f"{folder} has lost its state.json with the password: restore it, or delete {folder}")
            state = _State(secrets.token_urlsafe(24))
            _save(folder, state)
        if not data.exists():
            progress("initialising the database", None)
            postgres.initialise(programs, data, account, state.password, fast)
        database = postgres.find(data)
        # One that an `up` left as it was killed may not be ready yet.
        if database is None or not postgres.answers(database, state.password, time.monotonic() + postgres.START_S):
            progress("starting the database server", None)
            database = postgres.start(programs, data, account, state.password, state.database_port, fast)
        state = replace(state, kind=kind or state.kind)
        running, messages = _find_broker(folder)
        if messages is not None and running != state.kind:
            raise StackError(
                f"this stack's broker is {running}: `parcelwatch stack down` first, then up with {state.kind}"
            )
        messages = messages or _start_broker(folder, account, state, programs, environ, progress, fast)
        _save(folder, replace(state, database_port=database.port, broker_port=messages.port))
        stack = _addresses(home, state, database, messages)
        ensure_database(stack.admin_dsn, postgres.DATABASE)
    return stack


def status(home: Path) -> Status:
    """Return what runs in a home folder; in one that does not exist nothing does."""
    home = home.resolve()
    folder = home / "stack"
    database, state, (kind, messages) = postgres.find(folder / "data"), _load(folder), _find_broker(folder)
    stack = _addresses(home, state, database, messages) if state and database and messages else None
    return Status(home, database, messages, stack, kind if messages else state.kind if state else "memory")


def database_address(home: Path) -> str | None:
    """Return the connection string of a home's database where its server runs, whatever the broker does."""
    folder = home.resolve() / "stack"
    server, state = postgres.find(folder / "data"), _load(folder)
    return None if server is None or state is None else postgres.dsn(server.port, state.password)


def down(home: Path, delete: bool = False) -> bool:
    """Stop what runs in a home folder; with `delete` its data go too. Whether anything was there.

    Errors: ServerError if a server does not end; nothing is deleted then.
    """
    home = home.resolve()
    folder = home / "stack"
    if not folder.is_dir():
        return False
    folders.require_own(home, folder)
    with folders.locked(folder):
        was_running = postgres.find(folder / "data") or _find_broker(folder)[1]
        broker.stop(folder / _FOLDERS["memory"])
        kafka.stop(folder / _FOLDERS["kafka"])
        postgres.stop(folder / "data", at_once=delete)
        if delete:
            shutil.rmtree(folder)
            if not any(home.iterdir()):
                home.rmdir()
    return delete or was_running is not None


def _find_broker(folder: Path) -> tuple[Kind, broker.Server | kafka.Server | None]:
    """Return the broker that runs in a stack's folder, and its kind."""
    if found := kafka.find(folder / _FOLDERS["kafka"]):
        return "kafka", found
    return "memory", broker.find(folder / _FOLDERS["memory"])


def _start_broker(  # what the two kinds of broker need between them
    folder: Path,
    account: folders.Account,
    state: _State,
    programs: Programs,
    environ: Mapping[str, str],
    progress: Progress,
    fast: bool,
) -> broker.Server | kafka.Server:
    """Start the broker of the kind that the state names."""
    work = folder / _FOLDERS[state.kind]
    if state.kind == "memory":
        progress("starting the broker", None)
        folders.make_for(account, work)
        return broker.start(programs, work, account, state.broker_port)
    java = kafka.provision(folders.cache_folder(environ, os.geteuid() == 0), environ, progress)
    progress("starting Apache Kafka", None)
    return kafka.start(java, work, account, state.broker_port, kafka.FAST if fast else kafka.DURABLE)


def _require_access(account: folders.Account, folder: Path, programs: Programs) -> None:
    """Errors: StackError if the servers' account cannot reach their programs or folder (a parent that is closed)."""
    for path, variable in ((folder, "PARCELWATCH_HOME"), (programs.program("postgres"), "PARCELWATCH_CACHE")):
        test = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
        if subprocess.run(test, check=False, cwd="/", **process.as_account(account)).returncode:
            raise StackError(
                f"user id {account.uid} runs the servers and cannot reach {path}: set {variable} elsewhere"
            )


def _addresses(home: Path, state: _State, database: postgres.Server, messages: broker.Server | kafka.Server) -> Stack:
    """Return the addresses of a running stack."""
    return Stack(
        home=home,
        dsn=postgres.dsn(database.port, state.password),
        admin_dsn=postgres.dsn(database.port, state.password, "postgres"),
        bootstrap=f"{process.LOOPBACK}:{messages.port}",
        cluster_id=messages.cluster_id,
    )


def _load(folder: Path) -> _State | None:
    """Return the state of a stack, None if it has none yet. Errors: StackError if the file is damaged."""
    path = folder / "state.json"
    try:
        return _State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StackError(f"{path} is damaged ({error}): restore it, or delete {folder}") from error


def _save(folder: Path, state: _State) -> None:
    """Write the state whole or not at all."""
    partial = folder / "state.json.partial"
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    with partial.open("w") as handle:
        json.dump(asdict(state), handle, indent=2)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(folder / "state.json")
