"""Server processes that outlive the command that started them, found again by their pid and arguments.

A pid alone may belong to a stranger after a crash or a reboot. A server is ours when the process of that
pid has the arguments we gave it; only then is it signalled. (Its working folder would show it as well, but
root in a container may not read that of another user's process.)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from devstack.errors import StackError
from devstack.folders import Account, open_plain

LOOPBACK = "127.0.0.1"
_POLL_S = 0.02  # chosen because it is short beside the second that a server takes to start


class Identity(TypedDict, total=False):
    """Who a program runs as, as `subprocess` names it."""

    user: int
    group: int
    extra_groups: list[int]


def launch(
    command: Sequence[str],
    folder: Path,
    account: Account,
    log: Path,
    environment: Mapping[str, str],
    pid_file: Path | None = None,
) -> int:
    """Start a server in a session of its own, child of nobody, and return its pid.

    A shell between us and it leaves no zombie and no pipe behind. With `pid_file` the server's own shell
    writes its pid before it becomes the server, so no kill can fall between the two.
    """
    program = list(command)
    if pid_file is not None:
        program = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(pid_file), *command]
    with log.open("ab") as output:
        started = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&2 </dev/null & echo $!', "sh", *program],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            check=True,
            **as_account(account),
        )
    return int(started.stdout)


def as_account(account: Account) -> Identity:
    """Return the arguments that make `subprocess` run a program as an account."""
    if account.uid is None or account.gid is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def find(pid_file: Path, program: str, argument: str) -> tuple[int, dict[str, str]] | None:
    """Return the pid in the first line of `pid_file` and its `--name=value` options, if it is a `program` given `argument`."""
    try:
        with os.fdopen(open_plain(pid_file, os.O_RDONLY)) as handle:  # the servers' account could plant a pipe
            pid = int(handle.readline(32))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, ValueError, StackError):  # no such file or process, or a torn file; a zombie has no arguments
        return None
    if Path(arguments[0]).name != program or argument not in arguments:
        return None
    return pid, {name: value for name, is_option, value in (each.partition("=") for each in arguments) if is_option}


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def stop(pid: int, signals: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Send each signal in turn, waiting its seconds for the process to end; whether it ended."""
    for number, seconds in signals:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_alive(pid):
                return True
            time.sleep(_POLL_S)
    return not is_alive(pid)


def free_port(preferred: int | None = None) -> int:
    """Return a TCP port nobody listens on at the loopback address: `preferred` if it is free, else any."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port at the loopback address")


def listens(pid: int, port: int, deadline: float) -> bool:
    """Return whether a server accepts connections before it ends or the deadline (of the monotonic clock) passes."""
    while is_alive(pid) and time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            time.sleep(0.05)  # a server that lost the port to another program ends at once
            return is_alive(pid)
    return False


def last_lines(log: Path, count: int = 6) -> str:
    """Return the end of a server's log, on one line."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-count:]) or "(empty)"
