"""Which packages are fetched, and from where."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.archive import closure, find_keyrings, find_mirror, parse_records
from devstack.errors import ProvisionError

DEB822 = """\
Types: deb
# a comment in the stanza
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.fixture
def etc_apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sources.list.d/debian.sources", DEB822, "http://mirror.example/debian"),
        ("sources.list", "deb http://mirror.example/debian/ bookworm main\n", "http://mirror.example/debian/"),
        (
            "sources.list",
            "deb [arch=amd64 trusted=no] http://m.example/debian stable main contrib",
            "http://m.example/debian",
        ),
        (
            "sources.list.d/a.list",
            "deb mirror+file:/etc/mirrors/debian.list sid main # x",
            "mirror+file:/etc/mirrors/debian.list",
        ),
    ],
)
def test_mirror_comes_from_the_machines_sources(etc_apt: Path, name: str, text: str, expected: str) -> None:
    (etc_apt / name).write_text(text)
    assert find_mirror({}, etc_apt) == expected


@pytest.mark.parametrize(
    "text",
    [
        "deb http://mirror.example/ubuntu jammy main",
        "# deb http://mirror.example/debian bookworm main",
        "deb-src http://mirror.example/debian bookworm main",
        "deb http://vendor.example/linux/debian bookworm stable",
        "deb http://vendor.example/debian/12/prod bookworm main",
        "",
    ],
)
def test_other_archives_are_not_taken_for_debian(etc_apt: Path, text: str) -> None:
    (etc_apt / "sources.list").write_text(text)
    (etc_apt / "sources.list.d" / "off.sources").write_text(f"Enabled: no\n{DEB822}")
    with pytest.raises(ProvisionError, match=r"PARCELWATCH_DEBIAN_MIRROR.*Docker"):
        find_mirror({}, etc_apt)


def test_mirror_of_the_environment_comes_first(etc_apt: Path) -> None:
    (etc_apt / "sources.list").write_text("deb http://mirror.example/debian bookworm main")
    assert find_mirror({"PARCELWATCH_DEBIAN_MIRROR": "http://near.example/d"}, etc_apt) == "http://near.example/d"


def test_nothing_is_fetched_without_a_keyring(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="debian-archive-keyring"):
        find_keyrings([tmp_path])
    (tmp_path / "debian-archive-trixie-stable.asc").touch()
    assert find_keyrings([tmp_path]) == (tmp_path / "debian-archive-trixie-stable.asc",)
    (tmp_path / "debian-archive-keyring.pgp").touch()
    assert find_keyrings([tmp_path]) == (tmp_path / "debian-archive-keyring.pgp",)


def test_closure_follows_dependencies_and_stops_at_what_is_left_out() -> None:
    records = parse_records(
        """\
Package: server
Depends: libc (>= 2.3), mailer | lib-two:any, libllvm19, absent
Description: first line
 Depends: not-a-field

Package: libc
Pre-Depends: base

Package: base

Package: lib-two-t64
Provides: lib-two (= 1.0), other
Depends: server

Package: libllvm19
Depends: only-for-llvm

Package: only-for-llvm
"""
    )
    assert closure(["server"], records) == {"server", "libc", "base", "lib-two-t64"}
