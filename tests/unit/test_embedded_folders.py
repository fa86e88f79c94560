"""Where the embedded stack keeps its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack import folders


def test_home_is_chosen_by_the_environment_first() -> None:
    environ = {"PARCELWATCH_HOME": "/srv/pw", "XDG_DATA_HOME": "/home/a/data"}
    assert folders.home_folder(environ, is_root=True) == Path("/srv/pw")
    assert folders.home_folder({"XDG_DATA_HOME": "/home/a/data"}, is_root=False) == Path("/home/a/data/parcelwatch")


def test_roots_programs_lie_where_its_servers_account_can_read() -> None:
    assert folders.cache_folder({"XDG_CACHE_HOME": "/home/a/cache"}, is_root=True) == Path("/var/cache/parcelwatch")
    assert folders.cache_folder({"PARCELWATCH_CACHE": "/srv/cache"}, is_root=True) == Path("/srv/cache")


@pytest.mark.parametrize("variable", ["HOME", "XDG_DATA_HOME"])
def test_a_user_keeps_data_below_the_own_home(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("HOME", "/home/b")
    expected = "/home/b/.local/share/parcelwatch" if variable == "HOME" else "/data/parcelwatch"
    environ = {"XDG_DATA_HOME": "/data"} if variable == "XDG_DATA_HOME" else {}
    assert folders.home_folder(environ, is_root=False) == Path(expected)


def test_servers_run_as_the_caller_unless_that_is_root() -> None:
    assert folders.server_account(is_root=False) == folders.Account(None, None)
    assert folders.server_account(is_root=True).uid not in (None, 0)
