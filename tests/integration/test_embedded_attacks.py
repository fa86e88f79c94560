"""What another user of the machine can plant in a folder that everyone may write to, and what comes of it: nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from devstack import folders, process, stack
from devstack.archive import silent
from devstack.errors import StackError
from devstack.temporary import temporary_home

STRANGER = 65534


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's temporary folder."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user whose files a stranger cannot write."""
    folder = tmp_path / "precious"
    (folder / "stack/data").mkdir(parents=True)
    for name in (".owner", "stack/.lock", "stack/data/rows", "state"):
        (folder / name).write_text(f"{name}\n")
    folder.chmod(0o700)
    return folder


def contents(folder: Path) -> dict[str, tuple[str, int, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_text() if path.is_file() else "",
            path.stat().st_mode,
            path.stat().st_uid,
        )
        for path in (folder, *sorted(folder.rglob("*")))
    }


def as_stranger(folder: Path) -> None:
    """Gives what was planted to another user; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


def test_clean_up_leaves_another_users_folder_and_what_its_links_lead_to(shared: Path, precious: Path) -> None:
    planted, before = shared / "parcelwatch-stack-planted", contents(precious)
    (planted / "stack").mkdir(parents=True)
    (planted / ".owner").symlink_to(precious / ".owner")
    (planted / "stack/.lock").symlink_to(precious / "state")
    (planted / "stack/data").symlink_to(precious / "stack/data")
    as_stranger(planted)
    with temporary_home():
        pass
    assert contents(precious) == before
    assert (planted / "stack/.lock").is_symlink()


@pytest.mark.parametrize("name", [".owner", "stack/.lock"])
def test_clean_up_follows_no_link_in_an_own_folder(shared: Path, precious: Path, name: str) -> None:
    planted, before = shared / "parcelwatch-stack-own", contents(precious)
    (planted / "stack").mkdir(parents=True)
    (planted / ".owner").touch()
    (planted / name).unlink(missing_ok=True)
    (planted / name).symlink_to(precious / "state")
    with temporary_home():
        pass
    assert contents(precious) == before


def test_clean_up_follows_no_link_to_a_folder(shared: Path, precious: Path) -> None:
    before = contents(precious)
    (shared / "parcelwatch-stack-link").symlink_to(precious)
    with temporary_home():
        pass
    assert contents(precious) == before


def test_clean_up_does_not_wait_for_a_pipe(shared: Path) -> None:
    planted = shared / "parcelwatch-stack-pipe"
    planted.mkdir()
    os.mkfifo(planted / ".owner")
    with temporary_home():
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/.lock").symlink_to(precious / "state")
    with (
        pytest.raises(StackError, match=r"cache/\.lock is no plain file: remove it"),
        folders.locked(tmp_path / "cache"),
    ):
        pass
    assert (precious / "state").read_text() == "state\n"


@pytest.mark.parametrize("do", ["up", "down"])
def test_a_stack_that_is_a_link_is_refused(shared: Path, precious: Path, do: str) -> None:
    home, before = shared / "home", contents(precious)
    home.mkdir()
    (home / "stack").symlink_to(precious / "stack")
    with pytest.raises(StackError, match=r"is no folder of its own: .*PARCELWATCH_HOME"):
        stack.up(home, os.environ, silent) if do == "up" else stack.down(home, delete=True)
    assert contents(precious) == before


@pytest.mark.parametrize("do", ["up", "down"])
@pytest.mark.parametrize("whose", ["home", "stack"])
def test_a_stack_in_another_users_hands_is_refused(shared: Path, precious: Path, do: str, whose: str) -> None:
    home, before = shared / "home", contents(precious)
    (home / "stack").mkdir(parents=True)
    (home / "stack/broker").symlink_to(precious)
    if whose == "home":
        as_stranger(home)
        os.chown(home / "stack", 0, 0)
    else:
        as_stranger(home / "stack")
    with pytest.raises(StackError, match=f"belongs to user id {STRANGER}: .*PARCELWATCH_HOME"):
        stack.up(home, os.environ, silent) if do == "up" else stack.down(home, delete=True)
    assert contents(precious) == before


def test_a_stack_that_others_may_write_to_is_refused(shared: Path) -> None:
    (shared / "home/stack").mkdir(parents=True)
    (shared / "home/stack").chmod(0o777)
    with pytest.raises(StackError, match=r"may be written by others: .*PARCELWATCH_HOME"):
        stack.up(shared / "home", os.environ, silent)


def test_a_file_for_the_servers_is_written_anew(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "broker").mkdir()
    path = tmp_path / "broker/server.properties"
    path.symlink_to(precious / "state")
    folders.write_for(folders.Account(os.geteuid(), os.getegid()), path, "port=1\n")
    assert (precious / "state").read_text() == "state\n"
    assert not path.is_symlink()
    assert path.read_text() == "port=1\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_pid_file_that_is_a_link_or_a_pipe_names_no_process(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(f"{os.getpid()}\n")
    program, *arguments = Path("/proc/self/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    assert process.find(tmp_path / "real", Path(program).name, arguments[0]) is not None
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        assert process.find(tmp_path / name, Path(program).name, arguments[0]) is None
