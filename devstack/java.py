"""Java and Maven, which Apache Kafka runs on and comes by: those on the path, else Debian's, unpacked as the database is.

CACHE/RECIPE-ARCH/usr/lib/jvm/...    a Java without a screen, on libraries of its own
CACHE/RECIPE-ARCH/usr/share/maven    Maven; it reads the user's settings (~/.m2/settings.xml), so those name the repository
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import struct
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi

from devstack import provision
from devstack.archive import LEFT_OUT, Packages, Progress
from devstack.errors import ProvisionError

MIN_JAVA = 17  # of Kafka 4's broker
ALTERNATIVES = "use the broker in memory (`stack up --broker memory`) or one of your own (PARCELWATCH_BOOTSTRAP)"
RECIPE = "java21-1"  # to be raised when the packages or what is done to them change
PACKAGES = Packages(
    "Java and Maven",
    ("openjdk-21-jre-headless", "maven"),
    # What a broker never does: fonts and pictures, smart cards, NSS; and what runs at installation.
    re.compile(
        rf"{LEFT_OUT.pattern}|ca-certificates|java-common|libjpeg|liblcms|libnss3|libpcsclite|openssl(-provider|$)|util-linux"
    ),
)
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian")


@dataclass(frozen=True)
class Tools:
    """Java, and Maven where it was asked for."""

    java: Path
    maven: Path | None
    environment: Mapping[str, str]
    """What Maven is run with."""


def provide(cache: Path, environ: Mapping[str, str], progress: Progress, needs_maven: bool) -> Tools:
    """Return the tools of this machine, and in place of what lacks those in `cache`, fetched first if they are not there.

    Errors: ProvisionError saying what lacks, what to install and why it could not be fetched.
    """
    java, version = _find_java(environ)
    found = shutil.which("mvn", path=environ.get("PATH", os.defpath)) if needs_maven else None
    maven = Path(found) if found else None
    lacking = []
    if java is None or version < MIN_JAVA:
        lacking.append(f"Java {MIN_JAVA} or later ({'java is missing' if java is None else f'{java} is not'})")
    if needs_maven and maven is None:
        lacking.append("Maven (mvn is missing)")
    if java is not None and not lacking:
        return Tools(java, maven, environ)
    try:
        root = _unpacked(cache, environ, progress)
    except ProvisionError as error:
        raise ProvisionError(
            f"Apache Kafka needs {' and '.join(lacking)}: install default-jre-headless and maven, or {ALTERNATIVES}; "
            f"they could not be fetched: {error}"
        ) from error
    if maven is None and needs_maven:
        maven = root / "usr/share/maven/bin/mvn"
    if java is not None and version >= MIN_JAVA:
        return Tools(java, maven, environ)
    home = _java_home(root)
    if needs_maven:
        _write_trusted(root / "trusted.jks", _authorities())
    trusted = f"-Djavax.net.ssl.trustStore={root / 'trusted.jks'} -Djavax.net.ssl.trustStoreType=JKS"
    options = f"{trusted} {environ.get('MAVEN_OPTS', '')}".strip()  # a trust store of the user's comes last and holds
    return Tools(home / "bin/java", maven, {**environ, "JAVA_HOME": str(home), "MAVEN_OPTS": options})


def _find_java(environ: Mapping[str, str]) -> tuple[Path | None, int]:
    """Return the Java on the path and its version; None and 0 without one that runs."""
    found = shutil.which("java", path=environ.get("PATH", os.defpath))
    if found is None:
        return None, 0
    printed = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', printed.stderr + printed.stdout)
    return Path(found).resolve(), int(version[1]) if version else 0


def _unpacked(cache: Path, environ: Mapping[str, str], progress: Progress) -> Path:
    """Return the folder of Debian's Java and Maven, made first if it is not there."""
    platform = provision.platform(PACKAGES)
    final = cache / f"{RECIPE}-{platform.architecture}"
    if not final.is_dir():
        with provision.writing(cache, progress):
            if not final.is_dir():
                patchelf = provision.find_patchelf(environ)
                partial = provision.unpack(PACKAGES, final, platform, environ, progress)
                provision.trim(partial, UNUSED)
                _point_inside(partial)
                programs = [path for path in (_java_home(partial) / "bin").iterdir() if not path.is_symlink()]
                provision.relink(programs, final, platform, patchelf, own="$ORIGIN/../lib:")
                partial.rename(final)
    return final


def _java_home(root: Path) -> Path:
    """Return the folder of the one Java below `root`, by its own name and not that of a link to it."""
    (found,) = {path.resolve().parents[1] for path in (root / "usr/lib/jvm").glob("java-*/bin/java")}
    return found


def _point_inside(root: Path) -> None:
    """Make the packages' absolute links, such as those to /etc, point to the same place below `root`."""
    for folder, folders, files in os.walk(root):
        for path in (Path(folder) / name for name in (*folders, *files)):
            if path.is_symlink() and (target := path.readlink()).is_absolute():
                path.unlink()
                path.symlink_to(os.path.relpath(root / target.relative_to("/"), folder))


def _authorities() -> list[bytes]:
    """Return the certificates of the authorities that Python trusts on this machine, in DER."""
    context = ssl.create_default_context()
    return context.get_ca_certs(binary_form=True) or ssl.create_default_context(cafile=certifi.where()).get_ca_certs(
        True
    )


def _write_trusted(path: Path, certificates: Iterable[bytes]) -> None:
    """Write certificates as a Java key store (JKS, version 2), which Debian makes at installation."""

    def text(value: str) -> bytes:
        return struct.pack(">H", len(value)) + value.encode("ascii")

    entries = [
        struct.pack(">I", 2)
        + text(f"ca{number}")
        + struct.pack(">Q", 0)
        + text("X.509")
        + struct.pack(">I", len(certificate))
        + certificate
        for number, certificate in enumerate(certificates)
    ]
    data = struct.pack(">III", 0xFEEDFEED, 2, len(entries)) + b"".join(entries)
    digest = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + data)  # the format's
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    partial.write_bytes(data + digest.digest())
    partial.replace(path)
