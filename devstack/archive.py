"""Debian packages: which ones the database server comes in, from where, and how any are fetched.

`apt-get` does the work with folders of its own, so the machine's package state is neither read nor
changed: an empty status file, its own lists and cache, one source. It checks the archive's signature
against the Debian keyring and every file's hash against the signed index.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import ProvisionError

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the fraction of it that is done (None: not known)."""

ALTERNATIVES = "use Docker (docker compose up -d) or servers of your own (PARCELWATCH_DSN and PARCELWATCH_BOOTSTRAP)"
SUITE = "trixie"  # the first Debian release with TimescaleDB for PostgreSQL 17 and PostGIS 3.5
WANTED = ("postgresql-17", "postgresql-17-timescaledb", "postgresql-17-postgis-3", "postgresql-17-postgis-3-scripts")
# Dependencies that this server never loads, and with them all that only they need: query compilation
# (libllvm, 35 MB), rasters (libgdal), 3-D geometry (libsfcgal), Debian's cluster scripts in perl, and what
# the scripts that run at installation ask for; they are not run here.
LEFT_OUT = re.compile(
    r"libllvm|libgdal|libsfcgal|perl|postgresql-common|postgresql-client-common|ssl-cert|debconf|locales"
    r"|libpam-modules|tzdata|sensible-utils|readline-common|gcc-\d+-base"
)


@dataclass(frozen=True)
class Packages:
    """What is fetched: packages with all they depend on, save what a pattern leaves out."""

    what: str
    """For people."""
    wanted: tuple[str, ...]
    left_out: re.Pattern[str]


SERVER = Packages("the database server", WANTED, LEFT_OUT)
# An archive of Debian itself: its address ends in /debian, or is the mirror list of Debian's cloud images.
_DEBIAN_ARCHIVE = re.compile(r"(/debian/?|/debian\.list)$")


def silent(what: str, done: float | None) -> None:
    """The progress report that nobody sees."""


@dataclass(frozen=True)
class Apt:
    """`apt-get` and `apt-cache` confined to one folder, reading one signed source."""

    folder: Path
    architecture: str
    mirror: str
    keyrings: tuple[Path, ...]

    def prepare(self) -> None:
        """Write the folders, the empty status file and the source that apt is confined to."""
        self.folder.chmod(0o755)  # root's apt downloads as a user of its own
        for part in ("lists/partial", "cache/archives/partial", "debs"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "status").touch()
        signed_by = ",".join(str(path) for path in self.keyrings)
        source = f"deb [arch={self.architecture} signed-by={signed_by}] {self.mirror} {SUITE} main\n"
        (self.folder / "sources.list").write_text(source)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of an apt program with its options."""
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Status-Fd": "1",
            "APT::Update::Error-Mode": "any",  # otherwise an index that could not be fetched is only a warning
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::AllowInsecureRepositories": "false",  # whatever this machine's own settings say
            "APT::Get::AllowUnauthenticated": "false",
            "Dir::State": self.folder,
            "Dir::State::lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",  # container images switch it off; it halves the time
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        return [program, *(f"-o{key}={value}" for key, value in options.items()), *arguments]

    def run(self, *arguments: str, program: str = "apt-get", progress: Callable[[float], None] | None = None) -> str:
        """Run an apt program in `debs` and return what it printed.

        Errors: ProvisionError with apt's first error line.
        """
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        printed: list[str] = []
        with subprocess.Popen(
            self.command(program, *arguments),
            cwd=self.folder / "debs",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if status := re.match(r"dlstatus:\d+:([\d.]+):", line):
                    if progress is not None:
                        progress(float(status[1]) / 100)
                else:
                    printed.append(line)
        text = "".join(printed)
        if process.returncode:
            said = next((line[2:].strip() for line in printed if line.startswith("E:")), text.strip()[-300:])
            raise ProvisionError(f"the Debian archive {self.mirror} failed ({said}); {ALTERNATIVES}")
        return text


def fetch(apt: Apt, packages: Packages, progress: Progress) -> list[Path]:
    """Return the downloaded packages, without what is left out.

    Errors: ProvisionError if the archive does not answer, is not signed by Debian or lacks a package.
    """
    apt.prepare()
    progress("reading Debian's package index", None)
    apt.run("update", progress=lambda done: progress("reading Debian's package index", done))
    simulated = apt.run("install", "--simulate", "--no-install-recommends", *packages.wanted)
    candidates = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
    records = list(parse_records(apt.run("show", "--no-all-versions", *candidates, program="apt-cache")))
    names = closure(packages.wanted, records, packages.left_out)
    megabytes = sum(int(record["Size"]) for record in records if record["Package"] in names) / 1e6
    what = f"downloading {len(names)} Debian packages ({megabytes:.0f} MB)"
    apt.run("download", *sorted(names), progress=lambda done: progress(what, done))
    return sorted((apt.folder / "debs").glob("*.deb"))


def closure(
    wanted: Iterable[str], records: Iterable[Mapping[str, str]], left_out: re.Pattern[str] = LEFT_OUT
) -> set[str]:
    """Return the names of the wanted packages and of all they depend on, not passing through `left_out`."""
    by_name = {record["Package"]: record for record in records}
    provider = {name: name for name in by_name}
    for name, record in by_name.items():
        for provided in _alternatives(record.get("Provides", "")):
            provider.setdefault(provided, name)
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found or left_out.match(name):
            continue
        found.add(name)
        for field in ("Pre-Depends", "Depends"):
            for group in by_name[name].get(field, "").split(","):
                known = (provider[choice] for choice in _alternatives(group, "|") if choice in provider)
                waiting.extend(list(known)[:1])
    return found


def parse_records(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a Debian control file as field to value; continued lines are joined."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        joined = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
        record = dict(re.findall(r"^([A-Za-z][\w-]*):[ \t]*(.*)$", joined, re.MULTILINE))
        if record:
            yield record


def find_mirror(environ: Mapping[str, str], etc_apt: Path) -> str:
    """Return the address of a Debian archive: `PARCELWATCH_DEBIAN_MIRROR`, else the one this machine installs from.

    Errors: ProvisionError if the machine has no Debian source (another distribution).
    """
    if mirror := environ.get("PARCELWATCH_DEBIAN_MIRROR"):
        return mirror
    for address in _addresses(etc_apt):
        if _DEBIAN_ARCHIVE.search(address):
            return address
    raise ProvisionError(
        f"no Debian archive among the apt sources in {etc_apt}: "
        f"set PARCELWATCH_DEBIAN_MIRROR to the address of one, or {ALTERNATIVES}"
    )


def find_keyrings(roots: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files that hold the Debian archive's public keys, the first folder that has any.

    Errors: ProvisionError if there is none: nothing unsigned is ever unpacked.
    """
    for root in roots:
        if found := sorted(root.glob("debian-archive-keyring.*"))[:1] or sorted(root.glob("debian-archive-*")):
            return tuple(found)
    raise ProvisionError(f"no Debian keyring on this machine: install debian-archive-keyring, or {ALTERNATIVES}")


def _addresses(etc_apt: Path) -> Iterator[str]:
    """Yield the archive addresses of the enabled binary sources with a `main` component, in apt's order."""
    parts = etc_apt / "sources.list.d"
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            for record in parse_records(text):
                fields = {key.lower(): value.split() for key, value in record.items()}
                enabled = fields.get("enabled", ["yes"])[0].lower() not in ("no", "false", "off", "0")
                if enabled and "deb" in fields.get("types", []) and "main" in fields.get("components", []):
                    yield from fields.get("uris", [])
        else:
            for line in text.splitlines():
                match = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+\S+\s+(.*)", line)
                if match and "main" in match[2].split("#")[0].split():
                    yield match[1]


def _alternatives(field: str, separator: str = ",") -> Iterator[str]:
    """Yield the bare package names of a relation field, without versions and architectures."""
    for relation in field.split(separator):
        if name := re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", relation):
            yield name[1]
