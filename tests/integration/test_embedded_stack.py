"""The embedded stack under use and abuse, in homes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.errors import DatabaseUnavailable
from devstack import process, stack
from devstack.addresses import Broker, resolve_broker, resolve_dsn
from devstack.archive import silent
from devstack.errors import FolderUnavailable, StackError
from devstack.temporary import is_kept, kept_again, kept_stack, temporary_stack

REPOSITORY = Path(__file__).parents[2]
UP = "import os, pathlib, sys; from devstack import stack, archive; "
UP += "print(stack.up(pathlib.Path(sys.argv[1]), os.environ, archive.silent, fast=True))"


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
    return lambda: stack.up(home, os.environ, silent, fast=True)


def run(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Python code in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    environ = {**os.environ, **environment}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def stackline(home: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of `parcelwatch stack` with this home."""
    ran = run("from devstack.commands import app; app()", *arguments, PARCELWATCH_HOME=str(home))
    output, _ = ran.communicate(timeout=120)
    return ran.returncode, output


def pids(home: Path) -> tuple[int, int]:
    found = stack.status(home)
    assert found.database is not None
    assert found.broker is not None
    return found.database.pid, found.broker.pid


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_up_is_idempotent_and_down_stops_what_up_started(home: Path, up: Callable[[], stack.Stack]) -> None:
    first = up()
    before = pids(home)
    assert up() == first
    assert pids(home) == before
    assert stack.down(home)
    assert not any(process.is_alive(pid) for pid in before)
    assert stack.status(home).stack is None
    assert not stack.down(home)
    assert up().dsn == first.dsn  # same port, same password
    assert stack.down(home, delete=True)
    assert not home.exists()


def test_it_has_what_the_schema_needs(up: Callable[[], stack.Stack]) -> None:
    with psycopg.connect(up().dsn) as connection:
        connection.execute("create extension timescaledb; create extension postgis")
        connection.execute("create table o (at timestamptz not null, v float4)")
        connection.execute("select create_hypertable('o', by_range('at', interval '30 days'))")
        connection.execute(
            "insert into o select '2024-01-01'::timestamptz + i * interval '1 day', i from generate_series(0, 99) i"
        )
        rows = connection.execute(
            "select time_bucket('50 days', at) b, last(v, at) from o group by b order by b"
        ).fetchall()
        assert [value for _, value in rows][-1] == 99.0
        point = "st_transform(st_setsrid(st_point(5.7, 52.7), 4326), 32631)"  # needs PROJ's data
        assert connection.execute(f"select st_x({point})::int, st_y({point})::int").fetchone() == (682434, 5842319)
        assert connection.execute("show timezone").fetchone() == ("UTC",)


@pytest.mark.parametrize("victim", ["postmaster", "broker", "both"])
def test_up_after_a_kill_has_the_data_and_a_new_life_of_the_broker(
    home: Path, up: Callable[[], stack.Stack], victim: str
) -> None:
    first = up()
    with psycopg.connect(first.dsn, autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
        database, messages = pids(home)
        if victim != "broker":
            os.kill(database, signal.SIGKILL)  # while a session holds its memory
        if victim != "postmaster":
            os.kill(messages, signal.SIGKILL)
        assert wait_for(lambda: stack.status(home).stack is None)
        second = up()
    with psycopg.connect(second.dsn) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)
    assert (second.dsn, second.bootstrap) == (first.dsn, first.bootstrap)
    assert (second.cluster_id == first.cluster_id) == (victim == "postmaster")


def test_up_after_its_own_kill_at_any_moment(home: Path, up: Callable[[], stack.Stack]) -> None:
    for delay_s in (0.3, 0.5, 0.7, 0.9, 1.1, 1.4):  # a first `up` takes about 1.5 s, imports included
        starting = run(UP, str(home))
        time.sleep(delay_s)
        starting.kill()
        starting.communicate()
    started = up()
    psycopg.connect(started.dsn).close()
    servers = [path for path in Path("/proc").glob("[0-9]*/cmdline") if home.parent.name.encode() in _read(path)]
    assert {int(path.parent.name) for path in servers} >= set(pids(home))
    stack.down(home, delete=True)
    assert not [path for path in servers if process.is_alive(int(path.parent.name))], "an `up` left an orphan"


def test_two_at_once_give_one_stack(home: Path) -> None:
    both = [run(UP, str(home)) for _ in range(2)]
    printed = {each.communicate(timeout=120)[0].strip().splitlines()[-1] for each in both}
    assert len(printed) == 1
    assert printed.pop().startswith("Stack(")


def test_a_port_taken_meanwhile_is_left_for_another(
    up: Callable[[], stack.Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind((process.LOOPBACK, 0))
        taken = other.getsockname()[1]
        choices = iter([taken, process.free_port(), taken, process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda preferred: next(choices))  # noqa: ARG005
        started = up()
        assert f":{taken}" not in started.dsn + started.bootstrap
        assert next(choices, None) is None


def test_down_leaves_a_stranger_with_a_recycled_pid_alone(home: Path, up: Callable[[], stack.Stack]) -> None:
    up()
    for pid in pids(home):
        os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (home / "stack/broker/broker.pid").write_text(f"{stranger.pid}\n")
        (home / "stack/data/postmaster.pid").write_text(f"{stranger.pid}\n{home}/stack/data\n1\n1\n")
        assert not stack.down(home)
        assert stranger.poll() is None
        up()  # nor does it keep the server from starting
        assert stranger.poll() is None
        stranger.kill()


def test_each_server_is_found_while_the_other_is_down(
    home: Path, up: Callable[[], stack.Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = up()
    monkeypatch.setenv("PARCELWATCH_HOME", str(home))
    for name in ("PARCELWATCH_DSN", "PARCELWATCH_BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)
    database, messages = pids(home)
    os.kill(messages, signal.SIGKILL)
    assert wait_for(lambda: not process.is_alive(messages))
    assert resolve_dsn() == started.dsn
    with pytest.raises(DatabaseUnavailable, match="no broker"):
        resolve_broker()
    again = up()
    os.kill(database, signal.SIGKILL)
    assert wait_for(lambda: not process.is_alive(database))
    assert resolve_broker() == Broker(again.bootstrap, again.cluster_id)
    with pytest.raises(DatabaseUnavailable, match="no database"):
        resolve_dsn()


def test_a_damaged_or_lost_state_is_said_in_one_line(home: Path, up: Callable[[], stack.Stack]) -> None:
    up()
    stack.down(home)
    (home / "stack/state.json").write_text("{")
    with pytest.raises(StackError, match=r"state\.json is damaged"):
        up()
    (home / "stack/state.json").unlink()
    with pytest.raises(StackError, match=r"lost its state\.json"):
        up()


def test_only_the_password_opens_it(up: Callable[[], stack.Stack]) -> None:
    dsn = up().dsn
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(dsn, password="wrong"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(make_conninfo(dsn, password=""))
    with psycopg.connect(dsn) as connection:
        methods = connection.execute("select distinct auth_method from pg_hba_file_rules").fetchall()
    assert methods == [("scram-sha-256",)]


def test_the_password_is_in_no_command_line_or_open_file(home: Path, up: Callable[[], stack.Stack]) -> None:
    password = psycopg.conninfo.conninfo_to_dict(up().dsn)["password"]
    assert str(password) in (home / "stack/state.json").read_text()
    for path in (home / "stack").rglob("*"):
        if path.is_file() and str(password).encode() in path.read_bytes():
            assert path.stat().st_mode & 0o077 == 0, path
    assert not any(str(password).encode() in _read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def test_it_listens_on_the_loopback_address_only(home: Path, up: Callable[[], stack.Stack]) -> None:
    up()
    for pid in pids(home):
        sockets = set()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
        tables = {
            name: Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "unix")
        }
        listening = [line.split() for name in ("tcp", "tcp6") for line in tables[name] if line.split()[3] == "0A"]
        addresses = [fields[1].split(":")[0] for fields in listening if fields[9] in sockets]
        assert addresses == ["0100007F"]  # 127.0.0.1
        named = [line.split() for line in tables["unix"] if len(line.split()) > 7]
        assert not [fields for fields in named if fields[6] in sockets]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, None])
def test_a_temporary_stack_ends_with_its_process(home: Path, ending: signal.Signals | None) -> None:
    home.mkdir()
    home.chmod(0o711)
    wait = "sys.exit(3)" if ending is None else "time.sleep(60)"
    code = (
        "import os, signal, sys, time; from devstack import archive; from devstack.temporary import temporary_stack\n"
    )
    code += (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests in the background are started without it
    )
    code += f"with temporary_stack(os.environ, archive.silent) as s: print(s.home, flush=True); {wait}"
    running = run(code, TMPDIR=str(home))
    assert running.stdout is not None
    temporary = Path(running.stdout.readline().strip())
    if ending is not None:
        assert stack.status(temporary).stack is not None
        running.send_signal(ending)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert list(home.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    home.chmod(0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    code = "import os, time; from devstack import archive; from devstack.temporary import temporary_stack\n"
    code += "with temporary_stack(os.environ, archive.silent) as s: print(s.home, flush=True); time.sleep(60)"
    running = run(code, TMPDIR=str(home))
    assert running.stdout is not None
    abandoned = Path(running.stdout.readline().strip())
    with temporary_stack(os.environ, silent):
        assert stack.status(abandoned).stack is not None, "a stack in use was removed"
    left = pids(abandoned)
    running.kill()
    running.communicate()
    with temporary_stack(os.environ, silent) as fresh:
        assert list(home.iterdir()) == [fresh.home]
        assert not any(process.is_alive(pid) for pid in left)


def test_a_kept_stack_is_there_again_and_what_failed_is_not(home: Path) -> None:
    with pytest.raises(StackError, match="nothing is kept"), kept_again(home, os.environ, silent):
        pass
    with kept_stack(home, os.environ, silent) as made, psycopg.connect(made.dsn, autocommit=True) as connection:
        connection.execute("create table seen as select 42 as value")
        with pytest.raises(FolderUnavailable, match="in use"), kept_stack(home, os.environ, silent):
            pass
    assert is_kept(home)
    assert stack.status(home).database is None
    with kept_again(home, os.environ, silent) as again, psycopg.connect(again.dsn) as connection:
        assert connection.execute("select value from seen").fetchone() == (42,)
    assert stack.status(home).database is None
    with pytest.raises(KeyboardInterrupt), kept_stack(home, os.environ, silent):
        raise KeyboardInterrupt
    assert not is_kept(home)
    assert not (home / "stack").exists()


def test_command_line(home: Path) -> None:
    assert stackline(home, "status")[0] == 1
    code, output = stackline(home, "psql")
    assert (code, output) == (1, "error: the stack is not up: start it with `parcelwatch stack up`\n")
    assert stackline(home, "up", "--fast")[0] == 0
    code, output = stackline(home, "status")
    assert code == 0
    assert "@" not in output  # no password without --env
    assert "postgresql://" in stackline(home, "status", "--env")[1]
    assert stackline(home, "psql", "--", "-Atc", "select 6 * 7") == (0, "42\n")
    assert stackline(home, "down", "--delete") == (0, "Stopped and deleted.\n")
    assert stackline(home, "down") == (0, "Nothing was running.\n")


def test_an_impossible_home_is_one_line_and_exit_code_1(home: Path) -> None:
    code, output = stackline(Path("/proc/nowhere"), "up")
    assert code == 1
    assert len(output.splitlines()) == 1
    if os.geteuid() == 0:  # only then do the servers run as another user
        home.mkdir()
        home.chmod(0o700)
        code, output = stackline(home, "up")
        assert code == 1
        assert "PARCELWATCH_HOME" in output


def _read(path: Path) -> bytes:
    """The bytes of a file of /proc, none if its process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
