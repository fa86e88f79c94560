"""Parcel files as agencies publish them: GeoPackage, GeoJSON, shapefile (each also zipped) and GeoParquet.

A file's kind follows from its contents, never from its name alone. It is read by a process of its own
(`ingest.parcels.reader`) with limits of memory and time. Features come in Arrow batches, only the columns asked for, so that a
country's file needs no more memory than its geometries.
"""

import json
import lzma
import os
import re
import shutil
import sys
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, Final, Literal

import pyarrow as pa
import pyproj

from ingest.errors import IngestError
from ingest.parcels.reader import ERROR, RETRY, environment
from terminal.output import printable

Kind = Literal["gpkg", "shp", "geojson", "parquet", "zip"]

BEGINNINGS: Final[dict[bytes, Kind]] = {
    b"SQLite format 3\0": "gpkg",
    b"\0\0\x27\x0a": "shp",
    b"PAR1": "parquet",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
UNREADABLE: Final = {".zip": "not a zip archive, or damaged", ".parquet": "not a readable parquet file"}
MEMBER_SUFFIXES: Final = {".gpkg", ".shp", ".geojson", ".json", ".parquet", ".geoparquet"}
SHAPEFILE_PARTS: Final = (".shp", ".shx", ".dbf", ".prj", ".cpg")
BATCH_PARCELS: Final = 8192
"""Features per batch: some 10 MB of vertices, chosen because larger batches read no faster."""
MAX_SILENT_S: Final = 120.0
"""Seconds for one answer of the reading process (chosen as 100 times what 8192 features take)."""
MAX_UNPACKED: Final = 64 << 30
MAX_INFLATION: Final = 200
"""Bytes unpacked from an archive: at most 64 GB, and 200 times its size where that is over 1 GB (shapefiles have 10)."""
MAX_NAMED: Final = 60
"""Columns that a message lists."""


class ParcelFileError(IngestError):
    """A parcel file cannot be imported as asked; nothing was written, the message says what to change."""

    def __init__(self, message: str) -> None:
        """Take the message; what a file says in it is made printable."""
        super().__init__(printable(message))


@dataclass(frozen=True, slots=True)
class ParcelFile:
    """A layer of parcels that can be read: what the reader opens, its columns, CRS (None if unsaid) and length."""

    path: Path
    source: str
    kind: Kind
    layer: str | None
    columns: tuple[str, ...]
    key: str | None
    """Name of the layer's own key, which is no column: a GeoPackage's primary key, GeoJSON's feature ids."""
    crs: pyproj.CRS | None
    crs_fault: str | None
    """Why the system that the file says cannot be used."""
    n_parcels: int
    unpacked: "_Folder | None"
    """Keeps what was unpacked or linked for the reader."""

    def known(self, column: str) -> bool:
        """Return whether a column can be read; `fid` is another name of the layer's own key."""
        return column in self.columns or (self.key is not None and column in (self.key, "fid"))

    def listed(self) -> str:
        """Return the columns for a message, the layer's own key last."""
        key = "" if self.key is None else f", and the layer's own key {self.key}"
        return listed(self.columns) + key


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Some features: text of each column asked for, and WKB (None where the feature has no geometry, empty if damaged)."""

    texts: dict[str, list[str | None]]
    wkb: list[bytes | None]


def listed(names: Sequence[str]) -> str:
    """Return names for a message, not more than people read."""
    shown = ", ".join(name if len(name) <= MAX_NAMED else name[:MAX_NAMED] + "..." for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown}, ... ({len(names)} in all)"


def open_parcel_file(path: Path, layer: str | None = None) -> ParcelFile:
    """Return the layer of a parcel file, described; raises ParcelFileError if it cannot be read or is empty."""
    if not path.is_file():
        raise ParcelFileError(f"{path}: no such file")
    kind, source, folder = _source(path)
    request = {"task": "describe", "source": str(source), "kind": kind, "layer": layer}
    try:
        found = _described(request)
    except ParcelFileError as error:
        raise ParcelFileError(f"{path}: {error}") from error
    if not found["n_parcels"]:
        raise ParcelFileError(f"{path}: holds no parcels")
    return ParcelFile(
        path=path,
        source=str(source),
        kind=kind,
        layer=found["layer"],
        columns=tuple(found["columns"]),
        key=found["key"],
        crs=None if found["crs"] is None else pyproj.CRS.from_user_input(found["crs"]),
        crs_fault=found["crs_fault"],
        n_parcels=int(found["n_parcels"]),
        unpacked=folder,
    )


def _described(request: Mapping[str, object]) -> dict[str, Any]:
    """Return the answer of the reading process; started again where its GDAL has drivers that nobody named."""
    for attempt in (1, 2):
        try:
            with _reader(request) as (answer, silence):
                silence.begin()
                found: dict[str, Any] = json.loads(answer.read() or b"null")
            return found
        except ParcelFileError as error:
            if attempt == 2 or not str(error).startswith(RETRY):
                raise
            _drivers_left_out.append(str(error).removeprefix(RETRY))
    raise AssertionError("the second attempt returns or raises")


def read_features(file: ParcelFile, columns: Sequence[str], batch_size: int = BATCH_PARCELS) -> Iterator[FeatureBatch]:
    """Yield the features of a file in its order; raises ParcelFileError for columns that it lacks and for damage."""
    if unknown := [column for column in columns if not file.known(column)]:
        raise ParcelFileError(f"{file.path}: no column {', '.join(unknown)}; there are: {file.listed()}")
    wanted = list(dict.fromkeys(columns))
    request = {
        "task": "read",
        "source": file.source,
        "kind": file.kind,
        "layer": file.layer,
        "key": file.key,
        "columns": [column if column in file.columns or file.key is None else file.key for column in wanted],
        "batch_size": batch_size,
        "size": file.path.stat().st_size,
    }
    n_read = 0
    try:
        with _reader(request) as (answer, silence):
            silence.begin()
            with pa.ipc.open_stream(answer) as stream:
                for batch in stream:
                    silence.end()
                    n_read += batch.num_rows
                    yield FeatureBatch(
                        texts={name: batch.column(i).to_pylist() for i, name in enumerate(wanted)},
                        wkb=batch.column("wkb").to_pylist(),
                    )
                    silence.begin()
    except ParcelFileError as error:
        raise ParcelFileError(f"{file.path}: {error}") from error
    if n_read != file.n_parcels:
        raise ParcelFileError(f"{file.path}: damaged: {n_read} of {file.n_parcels} parcels can be read")


# What is opened -------------------------------------------------------------------------------


class _Folder:
    """A temporary folder that goes with the last reference to it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="parcelwatch-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _source(path: Path) -> tuple[Kind, Path, _Folder | None]:
    """Return the kind of a file by its contents, what the reader is to open, and the folder that this lies in."""
    kind = _kind(path)
    if kind == "zip":
        folder = _Folder()
        member = _unpack(path, folder.path)
        kind = _kind(member, f"{path}, {member.name}")
        if kind == "zip":
            raise ParcelFileError(f"{path}: an archive inside an archive; unpack it")
        return kind, member, folder
    if kind == "shp":
        # Links to what belongs to it, so that nothing else beside it is read.
        folder = _Folder()
        for part in path.resolve().parent.iterdir():
            if part.stem == path.stem and part.suffix.lower() in SHAPEFILE_PARTS and part.is_file():
                (folder.path / f"{path.stem}{part.suffix.lower()}").symlink_to(part)
        return kind, folder.path / f"{path.stem}.shp", folder
    return kind, path.resolve(), None


def _kind(path: Path, called: str = "") -> Kind:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ParcelFileError(f"{called or path}: cannot be read: {error.strerror}") from error
    for beginning, kind in BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "geojson"
    if not head.strip(b"\0"):
        raise ParcelFileError(f"{called or path}: not a readable parcel file: it is empty")
    reason = UNREADABLE.get(path.suffix.lower().replace(".geoparquet", ".parquet"), "not a readable parcel file")
    raise ParcelFileError(
        f"{called or path}: {reason}: it does not begin like a GeoPackage, shapefile, GeoJSON, GeoParquet or zip archive"
    )


def _unpack(path: Path, folder: Path) -> Path:
    """Write the one parcel file of an archive into a folder, in whatever folder it lies there; return its path."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not (info.is_dir() or info.filename.startswith("__MACOSX"))]
            members = [info for info in files if Path(info.filename).suffix.lower() in MEMBER_SUFFIXES]
            if len(members) != 1:
                found = listed([info.filename for info in members]) if members else "none"
                raise ParcelFileError(f"{path}: must hold one GeoPackage, shapefile or GeoJSON, found {found}")
            chosen = Path(members[0].filename)
            stem = chosen.stem if re.fullmatch(r"[\w .()-]{1,100}", chosen.stem) else "parcels"
            parts = SHAPEFILE_PARTS if chosen.suffix.lower() == ".shp" else (chosen.suffix.lower(),)
            budget = min(MAX_UNPACKED, max(1 << 30, MAX_INFLATION * path.stat().st_size))
            for info in files:
                inside = Path(info.filename)
                if inside.with_suffix("") == chosen.with_suffix("") and inside.suffix.lower() in parts:
                    budget -= _write_member(archive, info, folder / f"{stem}{inside.suffix.lower()}", budget)
            return folder / f"{stem}{chosen.suffix.lower()}"
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ParcelFileError(f"{path}: cannot be unpacked: {error.strerror}") from error
        raise ParcelFileError(f"{path}: not a zip archive, or damaged: {error}") from error
    except (NotImplementedError, RuntimeError) as error:  # a method that Python lacks; a password
        raise ParcelFileError(f"{path}: {error}; unpack it, and import what it holds") from error


def _write_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, budget: int) -> int:
    """Write a member of an archive and return its length; raises ParcelFileError above the budget of bytes."""
    written = 0
    with archive.open(info) as source, target.open("wb") as made:
        while chunk := source.read(1 << 20):
            written += len(chunk)
            if written > budget:
                raise ParcelFileError(f"{archive.filename}: unpacks to more than {MAX_INFLATION} times its size")
            made.write(chunk)
    return written


# The reading process --------------------------------------------------------------------------


class _Silence:
    """Ends a process that does not answer in time."""

    def __init__(self, process: "Popen[bytes]") -> None:
        self._process, self._timer, self.is_over = process, threading.Timer(0, lambda: None), False

    def begin(self) -> None:
        self._timer = threading.Timer(MAX_SILENT_S, self._end_process)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        self._timer.cancel()

    def _end_process(self) -> None:
        self.is_over = True
        self._process.kill()


_drivers_left_out: list[str] = []
"""What this machine's GDAL has beyond the drivers that `ingest.parcels.reader` knows of."""


@contextmanager
def _reader(request: Mapping[str, object]) -> Iterator[tuple[IO[bytes], _Silence]]:
    """Run the reading process; raises ParcelFileError, without the file's name, where it fails.

    What it writes is only half read where it fails, so errors of reading that come of it are its failure too.
    """
    variables = {**os.environ, **environment(), "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    variables["OGR_SKIP"] = ",".join([variables["OGR_SKIP"], *_drivers_left_out])
    with tempfile.TemporaryFile() as errors:
        process = Popen(
            [sys.executable, "-c", "from ingest.parcels.reader import main; main()"],
            env=variables,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
        )
        silence = _Silence(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as asked:
                asked.write(json.dumps(request).encode())
            yield process.stdout, silence
            process.wait()
            if process.returncode:
                raise EOFError
        except (EOFError, ValueError, BrokenPipeError, pa.ArrowException, OSError) as error:
            process.kill()
            raise ParcelFileError(_failure(process, silence, errors)) from error
        finally:
            silence.end()
            process.kill()
            process.wait()
            process.stdout.close()


def _failure(process: "Popen[bytes]", silence: _Silence, errors: IO[bytes]) -> str:
    process.wait()
    if silence.is_over:
        return f"damaged: it took more than {MAX_SILENT_S:.0f} s to read {BATCH_PARCELS:,} parcels of it"
    errors.seek(0)
    lines = errors.read()[-100_000:].decode(errors="replace").splitlines()
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return said[-1][:500] if said else "damaged: what reads such files came to an end on it"
