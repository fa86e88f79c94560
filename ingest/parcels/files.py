"""Parcel files as agencies publish them: GeoPackage, GeoJSON, shapefile (each also zipped) and GeoParquet.

A file's kind follows from its contents, never from its name alone. It is read by a process of its own
(`ingest.parcels.reader`) with limits of memory and time. Features come in Arrow batches, only the columns asked for, so that a
country's file needs no more memory than its geometries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyproj

from ingest.parcels.errors import ParcelFileError
from ingest.parcels.opening import Folder, Kind, source_of
from ingest.parcels.reader_process import BATCH_PARCELS, described, reading
from ingest.parcels.texts import listed


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
    unpacked: Folder | None
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


def open_parcel_file(path: Path, layer: str | None = None) -> ParcelFile:
    """Return the layer of a parcel file, described; raises ParcelFileError if it cannot be read or is empty."""
    if not path.is_file():
        raise ParcelFileError(f"{path}: no such file")
    kind, source, folder = source_of(path)
    request = {"task": "describe", "source": str(source), "kind": kind, "layer": layer}
    try:
        found = described(request)
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
        with reading(request) as (answer, silence):
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
