"""Commands start at once: what the import of a group brings in with it, in an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import parcelwatch

_HEAVY: Final = ("torch", "scipy", "sklearn", "matplotlib", "pandas", "geopandas", "h5py", "apscheduler")
"""Libraries of training, of research and of the monitor's work."""
_ARRAYS: Final = ("rasterio", "shapely", "pyproj", "pyarrow", "numpy", "kafka")
"""Libraries of files, arrays and messages."""
_OF_CHANNELS: Final = (
    *_HEAVY,
    "rasterio",
    "shapely",
    "pyproj",
    "pyarrow",
    "kafka",
    "apprise",
    "requests",
    "feedgen",
    "lxml",
    "icalendar",
    "cloudevents",
    "standardwebhooks",
    "alembic",
    "ingest",
    "models",
    "research",
    "training",
)
_FORBIDDEN: Final = {
    # Polls the broker and writes rows: Arrow, the broker's client and the driver are its whole need.
    "ingest": (*_HEAVY, "rasterio", "shapely", "pyproj", "alembic", "research", "training", "monitor", "models"),
    # Starts servers: knows neither observations nor files.
    "stack": (*_HEAVY, *_ARRAYS, "alembic", "ingest", "models", "monitor", "research", "training"),
    # Migrates: Alembic, and nothing that reads or writes rows.
    "db": (*_HEAVY, *_ARRAYS, "ingest", "models", "monitor", "research", "training"),
    # Reads agencies' files: no broker, no scenes.
    "parcels": (*_HEAVY, "rasterio", "kafka", "alembic", "research", "training", "monitor", "models"),
    # Asks the database.
    "status": (*_HEAVY, *_ARRAYS, "alembic", "ingest", "models", "research", "training"),
    "alerts": (
        *_HEAVY,
        "rasterio",
        "shapely",
        "pyproj",
        "pyarrow",
        "kafka",
        "alembic",
        "ingest",
        "models",
        "research",
        "training",
    ),
    # Reads a policy and stores it; a trial imports what it needs by itself.
    "policy": ("torch", "sklearn", "matplotlib", "pandas", "rasterio", "kafka", "ingest", "research", "training"),
    # Checks arguments; what a training or an evaluation needs is imported once they hold.
    "models": _HEAVY,
    "evaluate": _HEAVY,
    # Asks the database; each channel's library is imported when a message goes over it.
    "subscriptions": _OF_CHANNELS,
    "deliveries": _OF_CHANNELS,
}
_PROGRAM: Final = (
    "import sys, parcelwatch; parcelwatch.load(sys.argv[1]); print(*{name.split('.')[0] for name in sys.modules})"
)


def _imported(group: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, group], capture_output=True, text=True, timeout=120, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize("group", _FORBIDDEN)
def test_a_group_imports_only_what_its_commands_need(group: str) -> None:
    assert _imported(group) & set(_FORBIDDEN[group]) == set()


def test_the_test_sees_what_a_group_imports() -> None:
    assert {"ingest", "pyarrow", "kafka"} <= _imported("ingest")
    assert _FORBIDDEN.keys() <= parcelwatch.COMMANDS.keys()


_REFUSING: Final = """
import sys, parcelwatch
try:
    parcelwatch.main()
except SystemExit as ended:
    print(ended.code, 'torch' in sys.modules)
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate events series events --kind harvest", "--kind harvest: no marker finds it; one of mowing, grazing"),
        ("evaluate events nowhere events", "nowhere: no such file"),
        ("evaluate declarations here --on 2025-02-30", "--on: day is out of range for month; YYYY-MM-DD is needed"),
        ("evaluate convert jrc-cbm nowhere out", "nowhere/gtdir/FOIinfo.csv: no such file"),
        ("models train classifier --season 2025", "name a stored season with --season and --collection, or a file"),
        ("models train classifier --season 2025 --collection nl --device moon", "device 'moon': cpu, cuda or cuda:N"),
        (
            "models train classifier --season 2025 --collection nl --cross-fit 3 --activate-if good",
            "--activate-if 'good'",
        ),
        (
            "models train ndvi --season 2025 --collection nl --model gap",
            "--model gap: one of gap-filling, mcnn-seq, rnn",
        ),
        ("models train ndvi --season 2025", "name a stored season with --season and --collection, or a --config"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_line_before_networks_are_imported(
    line: str, said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _REFUSING, *line.split()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path, env=_env())
    assert run.stderr.startswith(f"parcelwatch: {said}")
    assert run.stderr.count("\n") == 1
    assert run.stdout == "1 False\n"


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(parcelwatch.__file__).parent)}
