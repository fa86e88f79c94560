"""The product works where neither `research` nor what only it depends on is installed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

import parcelwatch

ROOT = Path(__file__).parents[2]
PRODUCT = ("db", "devstack", "ingest", "models", "monitor", "terminal", "training", "web")
COMMANDS: Final = [name for name, place in parcelwatch.COMMANDS.items() if not place.module.startswith("research.")]
_BLOCKED: Final = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing())
"""
_IMPORT_ALL: Final = """
for package in sys.argv[2:]:
    for one in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(one.name)
        print(one.name)
"""
_RUN: Final = """
import parcelwatch
sys.argv[1:] = sys.argv[2:]
parcelwatch.main()
"""


BORROWED: Final = {
    "research.experiments.published_form",
    "research.experiments.published_segmentation",
    "research.experiments.season_source",
    "research.seasons.season_stream",
    "research.simulator",
    "research.simulator.rasters",
}
"""What tests of the product use of research: a season to work on, its scenes, and the reference implementations of the networks."""


def _borrowed(test: str) -> set[str]:
    return set(re.findall(r"^\s*(?:from|import) (research\b[\w.]*)", test, re.MULTILINE))


def test_tests_of_research_lie_apart() -> None:
    tests = set((ROOT / "tests").rglob("test_*.py")) - set((ROOT / "tests" / "research").rglob("*.py"))
    borrowed = {path.name: _borrowed(path.read_text(encoding="utf-8")) - BORROWED for path in tests}
    assert {name: modules for name, modules in borrowed.items() if modules} == {}
    assert _borrowed("from research.bench import gapfill\n    import research.seasons") == {
        "research.bench",
        "research.seasons",
    }


def _distributions(group: list[str]) -> set[str]:
    return {line.split("[")[0].split(">")[0].split("=")[0].strip().lower() for line in group}


def _missing() -> str:
    """Return the import names of the extra `research` and of the package itself, joined by commas."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = _distributions(project["optional-dependencies"]["research"])
    assert not extra & _distributions(project["dependencies"])
    found = {name for name, of in packages_distributions().items() if {one.lower() for one in of} & extra}
    assert {"geopandas", "sklearn", "gpytorch"} <= found
    return ",".join(sorted(found | {"research"}))


def _python(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _BLOCKED + program, _missing(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)


def test_every_module_of_the_product_is_imported_without_research() -> None:
    done = _python(_IMPORT_ALL, *PRODUCT)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = set(done.stdout.split())
    assert {"ingest.stream.consumer", "monitor.worker", "training.season_models", "db.history"} <= modules


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_the_product_answers_without_research(name: str) -> None:
    done = _python(_RUN, name, "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout


def test_a_command_of_research_names_the_extra_in_one_line() -> None:
    done = _python(_RUN, "demo")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "-e '.[research]'" in line


def test_what_is_missing_is_missing() -> None:
    done = _python("import sklearn")
    assert "No module named 'sklearn'" in done.stderr
