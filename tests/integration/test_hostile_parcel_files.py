"""Thousands of mutated parcel files to the database: each is stored or refused in a line, in bounded time and memory."""

import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

import ingest.parcels.reader_process
from db.connect import engine
from db.seasons import ensure_season
from ingest.parcels.columns import ParcelColumns
from ingest.parcels.declared import ImportOptions
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.importer import import_parcels
from ingest.parcels.reader import environment
from tests.mutated_parcel_files import mutated_file

N_FILES = int(os.environ.get("PARCELWATCH_FUZZ") or 80)
"""Files that are tried; PARCELWATCH_FUZZ=10000 for as many as the issue asks."""
SEED = 20_240_501
MEMORY = 1 << 30
SECONDS = 30
NOW = datetime(2024, 5, 1, tzinfo=UTC)
OPTIONS = ImportOptions(columns=ParcelColumns(id=("pid",), crop_code="crop"), crs="EPSG:32631")


class Forked:
    """Stands in for `subprocess.Popen`: has the request answered by `tests.forked_reader`."""

    server: ClassVar["subprocess.Popen[str]"]
    folder: ClassVar[Path]
    signals: ClassVar[Counter[int]] = Counter()
    memory_kb: ClassVar[int] = 0

    def __init__(self, _command: object, stderr: Any, **_: object) -> None:
        self._errors, self._asked = stderr, b""
        self.stdin = self
        self.stdout = io.BytesIO()
        self.returncode = 0

    def __enter__(self) -> "Forked":
        return self

    def write(self, request: bytes) -> None:
        self._asked += request

    def __exit__(self, *_: object) -> None:
        out, errors = self.folder / "out", self.folder / "errors"
        asked = {
            "request": self._asked.decode(),
            "out": str(out),
            "errors": str(errors),
            "memory": MEMORY,
            "seconds": SECONDS,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        self.returncode = answer["code"]
        if self.returncode < 0:
            self.signals[-self.returncode] += 1
        type(self).memory_kb = max(self.memory_kb, answer["memory_kb"])
        self.stdout = io.BytesIO(out.read_bytes())
        self._errors.write(errors.read_bytes())

    def wait(self) -> int:
        return self.returncode

    def kill(self) -> None:
        """Do nothing: the process has ended."""


@pytest.fixture
def forked(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Forked]]:
    variables = {**os.environ, **environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.forked_reader"]
    Forked.folder = tmp_path_factory.mktemp("answers")
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as server:
        Forked.server = server
        monkeypatch.setattr(ingest.parcels.reader_process, "Popen", Forked)
        yield Forked
        assert server.stdin is not None
        server.stdin.close()


@pytest.mark.timeout(3 * 3600)
def test_every_mutated_file_is_stored_or_refused_in_a_line(forked: type[Forked], dsn: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    counts: Counter[str] = Counter()
    lines: list[str] = []
    before_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    slowest, begun = 0.0, time.monotonic()
    database = engine(dsn)
    with database.begin() as connection:
        season = ensure_season(connection, "2024", date(2024, 1, 1), date(2024, 12, 31))
    for number in range(N_FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = mutated_file(number, folder, chance)
        started = time.monotonic()
        try:
            with database.begin() as connection:
                report = import_parcels(connection, path, f"c{number}", season, OPTIONS, NOW)
                json.dumps(report.to_dict())
            found = report.found
            assert found.parcels == found.monitorable + sum(found.not_monitorable.values())
            assert report.changed.new == found.parcels
            counts["stored"] += 1
        except ParcelFileError as error:
            counts["refused"] += 1
            lines.append(str(error))
        except Exception as error:
            raise AssertionError(f"file {number} ({path.name}): {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.monotonic() - started)
        for made in folder.iterdir():
            made.unlink()
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{N_FILES} files in {time.monotonic() - begun:.0f} s: {dict(counts)}, readers ended by signals {dict(forked.signals)}, "
        f"slowest {slowest:.1f} s, memory {memory_gb:.2f} GB, readers {forked.memory_kb / 2**20:.2f} GB"
    )
    assert [line for line in lines if not line.isprintable() or len(line) > 5_000] == []
    assert slowest < SECONDS
    # What other tests of this process took before does not count.
    assert memory_gb - before_gb < 0.75
    assert forked.memory_kb < 1.5 * 2**20
    assert counts["stored"] > N_FILES / 10
    assert counts["refused"] > N_FILES / 10
