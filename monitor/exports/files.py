"""Exports as files: GeoParquet and CSV a batch at a time, a GeoPackage by a process of its own.

GeoParquet 1.1.0 (WKB, longitude and latitude), with the metadata of Vecorel 0.1.0 and fiboa 0.3.0. CSV is UTF-8 with the outline as
WKT; text that a spreadsheet would take for a formula begins with an apostrophe.
Sources: geoparquet.org/releases/v1.1.0; vecorel.org/specification/v0.1.0; fiboa.org/specification/v0.3.0.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import shapely
from pyarrow import csv, parquet

from monitor.errors import NotFound
from monitor.exports.table import GEOMETRY, TIME, Export
from terminal.output import inert

Kind = Literal["gpkg", "parquet", "csv"]
KINDS: Final[dict[Kind, str]] = {
    "gpkg": "application/geopackage+sqlite3",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
}
"""Kinds of files by the ends of their names, with their media types."""
VECOREL: Final = "https://vecorel.org/specification/v0.1.0/schema.yaml"
FIBOA: Final = "https://fiboa.org/specification/v0.3.0/schema.yaml"
WKT_DECIMALS: Final = 7
"""A centimetre."""


def parquet_chunks(export: Export) -> Iterator[bytes]:
    """Yield a GeoParquet file, a row group for each batch."""
    selection = export.selection
    column = {"encoding": "WKB", "geometry_types": ["MultiPolygon"]}  # no crs: OGC:CRS84, longitude first
    collection = {
        "schemas": {selection.collection: [VECOREL, FIBOA]},
        "collection": selection.collection,
        "as_known_at": export.known_at.isoformat(),
    }
    schema = export.schema.with_metadata(
        {
            "geo": json.dumps({"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}),
            "collection": json.dumps(collection, ensure_ascii=False),
        }
    )
    sink = _Sink()
    with parquet.ParquetWriter(
        sink, schema, compression="zstd", write_statistics=[name for name in schema.names if name != GEOMETRY]
    ) as writer:
        for batch in export.batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            yield sink.taken()
    yield sink.taken()


def csv_chunks(export: Export) -> Iterator[bytes]:
    """Yield a CSV file."""
    schema = pa.schema([(field.name, _plain(field.type)) for field in export.schema])
    sink = _Sink()
    with csv.CSVWriter(sink, schema) as writer:
        for batch in export.batches:
            columns = [_as_text(column, field) for column, field in zip(batch.columns, batch.schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            yield sink.taken()
    yield sink.taken()


def write_geopackage(export: Export, path: Path) -> None:
    """Write a GeoPackage with the layer `parcels`, by a process that ends with it: GDAL keeps 200 MB.

    Raises:
        NotFound: it cannot be written there.
    """
    search = os.pathsep.join(one or os.curdir for one in sys.path)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", "from monitor.exports.geopackage import main; main()", str(path)],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdin is not None
        try:
            with (
                contextlib.suppress(BrokenPipeError),  # its end says why
                process.stdin as sink,
                pa.ipc.new_stream(sink, export.schema) as writer,
            ):
                for batch in export.batches:
                    writer.write_batch(batch)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise NotFound(f"the GeoPackage cannot be written: {said[-1] if said else 'what writes it came to an end'}")


CHUNKS: Final[dict[Kind, Callable[[Export], Iterator[bytes]]]] = {"parquet": parquet_chunks, "csv": csv_chunks}
"""Kinds of files that are made while they are sent."""


def _as_text(column: pa.Array, field: pa.Field) -> pa.Array:
    """Return a column as it stands in a CSV file."""
    if field.name == GEOMETRY:
        outlines = shapely.from_wkb(column.to_numpy(zero_copy_only=False))
        return pa.array(shapely.to_wkt(outlines, rounding_precision=WKT_DECIMALS), pa.string())
    if field.type == TIME:
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_string(field.type):
        words = column.dictionary_encode()
        harmless = pa.array([inert(word) for word in words.dictionary.to_pylist()], pa.string())
        return harmless.take(words.indices)
    return column


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind in (TIME, pa.binary()) else kind


class _Sink(io.RawIOBase):
    """Keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._taken = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._taken + sum(map(len, self._parts))

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        data = b"".join(self._parts)
        self._taken += len(data)
        self._parts.clear()
        return data
