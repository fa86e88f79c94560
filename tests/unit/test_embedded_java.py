"""Java and Maven: which are taken, and what is said where there are none."""

from pathlib import Path

import pytest

from devstack import java, kafka
from devstack.archive import silent
from devstack.errors import ProvisionError


def program(folder: Path, name: str, printed: str = "") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{printed}' >&2\n")
    path.chmod(0o755)
    return path


def test_those_of_the_path_are_taken(tmp_path: Path) -> None:
    found = program(tmp_path, "java", 'openjdk version "17.0.2" 2022-01-18')
    maven = program(tmp_path, "mvn")
    environ = {"PATH": str(tmp_path)}
    assert java.provide(tmp_path / "cache", environ, silent, needs_maven=True) == java.Tools(found, maven, environ)
    maven.unlink()
    assert java.provide(tmp_path / "cache", environ, silent, needs_maven=False) == java.Tools(found, None, environ)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("version", "has_maven", "lacking"),
    [
        (None, True, r"Java 17 or later \(java is missing\): "),
        (None, False, r"Java 17 or later \(java is missing\) and Maven \(mvn is missing\): "),
        ("21.0.1", False, r"Maven \(mvn is missing\): "),
        ("11.0.2", True, r"Java 17 or later \(.*/java is not\): "),
        ("1.8.0_392", True, r"Java 17 or later \(.*/java is not\): "),
        ("", True, r"Java 17 or later \(.*/java is not\): "),
    ],
)
def test_what_lacks_is_said_in_one_line(tmp_path: Path, version: str | None, has_maven: bool, lacking: str) -> None:
    if version is not None:
        program(tmp_path, "java", f'openjdk version "{version}"' if version else "Error: could not be started")
    if has_maven:
        program(tmp_path, "mvn")
    with pytest.raises(ProvisionError, match=f"^Apache Kafka needs {lacking}") as raised:
        java.provide(tmp_path / "cache", {"PATH": str(tmp_path)}, silent, needs_maven=True)
    line = str(raised.value)
    assert "\n" not in line
    for part in ("default-jre-headless", "--broker memory", "they could not be fetched", "apt-get is missing"):
        assert part in line


def test_why_maven_fails_is_said_in_one_line(tmp_path: Path) -> None:
    program(tmp_path, "java", 'openjdk version "21.0.1"')
    maven = program(tmp_path, "mvn")
    maven.write_text(
        "#!/bin/sh\necho '[INFO] x'; echo '[ERROR] Plugin p lacks:'; echo '[ERROR] \ttransfer failed'; exit 1\n"
    )
    with pytest.raises(ProvisionError) as raised:
        kafka.provision(tmp_path / "cache", {"PATH": f"{tmp_path}:/usr/bin:/bin"}, silent)
    assert str(raised.value).startswith("Maven could not fetch Apache Kafka (Plugin p lacks: transfer failed); use ")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "cache" / f"kafka-{kafka.VERSION}").exists()


def test_links_to_the_machine_lead_into_the_folder(tmp_path: Path) -> None:
    for name in ("etc/java/security", "usr/lib/jvm/conf", "usr/share"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/java/java.security").write_text("ours")
    (tmp_path / "usr/lib/jvm/conf/java.security").symlink_to("/etc/java/java.security")
    (tmp_path / "usr/lib/jvm/security").symlink_to("/etc/java/security")
    (tmp_path / "usr/share/conf").symlink_to("../lib/jvm/conf")
    java._point_inside(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "usr/lib/jvm/conf/java.security").read_text() == "ours"
    assert (moved / "usr/lib/jvm/security").resolve() == moved / "etc/java/security"
    assert (moved / "usr/share/conf").readlink() == Path("../lib/jvm/conf")
    assert (moved / "usr/share/conf/java.security").is_file()
