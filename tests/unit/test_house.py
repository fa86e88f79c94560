"""The house itself: flat names are ours, and the command line answers in one line."""

import importlib
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "db",
    "devstack",
    "ingest",
    "migrations",
    "models",
    "monitor",
    "parcelwatch",
    "research",
    "terminal",
    "training",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_flat_name_is_the_checkouts_own(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)
    assert set(packages_distributions().get(name, ["parcelwatch"])) == {"parcelwatch"}


def test_every_dependency_is_locked() -> None:
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = wanted["project"]["dependencies"] + wanted["dependency-groups"]["dev"]
    lines += wanted["project"]["optional-dependencies"]["research"]
    locked = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "requirements.lock").read_text().splitlines()
    }
    for line in lines:
        name = line.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower().replace("_", "-")
        assert name in locked, f"{name} is not in requirements.lock"


@pytest.mark.parametrize(
    "package", ["devstack", "ingest", "models", "monitor", "research", "terminal", "training", "web"]
)
def test_only_db_holds_sql(package: str) -> None:
    # A GeoPackage is a file that is an SQLite database; the peers of bench.ingest and bench.queries
    # are the server's own COPY and its plain tables; bench.api makes a store and a login of its own.
    bench = ROOT / "research/bench"
    others = {ROOT / "ingest/parcels/geopackage.py", bench / "api.py", bench / "ingest.py", bench / "queries.py"}
    for path in set((ROOT / package).rglob("*.py")) - others:
        source = path.read_text()
        for sign in ("sa.text(", "sa.select(", ".execute(", "cursor("):
            assert sign not in source, f"{path.relative_to(ROOT)} speaks SQL: move it to db/"


@pytest.mark.parametrize(
    "package", ["db", "devstack", "ingest", "models", "monitor", "research", "terminal", "training"]
)
def test_commands_print_through_one_console(package: str) -> None:
    """Others cut tables in files, obey markup in names, or both."""
    for path in (ROOT / package).rglob("*.py"):
        assert path == ROOT / "terminal/output.py" or not re.search(r"(?<!Wide)\bConsole\(", path.read_text()), path
