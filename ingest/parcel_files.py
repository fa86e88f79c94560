"""Parcel files as agencies publish them: GeoPackage, GeoJSON, shapefile (each also zipped) and GeoParquet.

Features are read in Arrow batches, only the columns asked for, so that a country's file needs no more memory
than its geometries.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
import pyproj
from pyogrio.errors import DataLayerError, DataSourceError

from ingest.errors import IngestError

PARQUET_SUFFIXES: Final = {".parquet", ".geoparquet"}
MEMBER_SUFFIXES: Final = {".gpkg", ".shp", ".geojson", ".json"}
BATCH_PARCELS: Final = 8192
"""Features per batch: some 10 MB of vertices, chosen because larger batches read no faster."""


class ParcelFileError(IngestError):
    """A parcel file cannot be imported as asked; nothing was written, the message says what to change."""


@dataclass(frozen=True, slots=True)
class ParcelFile:
    """A layer of parcels that can be read: what the reader opens, its columns, CRS (None if unsaid) and length."""

    path: Path
    source: str
    layer: str | None
    columns: tuple[str, ...]
    crs: pyproj.CRS | None
    n_parcels: int


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Some features: text of each column asked for, and WKB (None where the feature has no geometry)."""

    texts: dict[str, list[str | None]]
    wkb: list[bytes | None]


def open_parcel_file(path: Path, layer: str | None = None) -> ParcelFile:
    """The layer of a parcel file, described; raises ParcelFileError if it cannot be read or is empty."""
    if not path.is_file():
        raise ParcelFileError(f"{path}: no such file")
    file = _open_parquet(path) if path.suffix.lower() in PARQUET_SUFFIXES else _open_vector(path, layer)
    if file.n_parcels == 0:
        raise ParcelFileError(f"{path}: holds no parcels")
    return file


def read_features(file: ParcelFile, columns: Sequence[str], batch_size: int = BATCH_PARCELS) -> Iterator[FeatureBatch]:
    """The features of a file in its order; raises ParcelFileError for columns that it lacks and for damage."""
    if unknown := [column for column in columns if column not in file.columns]:
        raise ParcelFileError(f"{file.path}: no column {', '.join(unknown)}; there are: {', '.join(file.columns)}")
    wanted = list(dict.fromkeys(columns))
    try:
        if file.path.suffix.lower() in PARQUET_SUFFIXES:
            yield from _read_parquet(file, wanted, batch_size)
        else:
            yield from _read_vector(file, wanted, batch_size)
    except (DataSourceError, DataLayerError, pa.ArrowException, OSError, RuntimeError) as error:
        raise ParcelFileError(f"{file.path}: damaged: {_first_line(error)}") from error


def _open_vector(path: Path, layer: str | None) -> ParcelFile:
    source = _zip_member(path) if path.suffix.lower() == ".zip" else str(path)
    try:
        layers = [name for name, geometry_type in pyogrio.list_layers(source) if geometry_type is not None]
        if layer is None and len(layers) != 1:
            raise ParcelFileError(
                f"{path}: has {len(layers)} layers with geometry ({', '.join(layers)}); choose one with --layer"
                if layers else f"{path}: no layer has geometry"
            )  # fmt: skip
        if layer is not None and layer not in layers:
            raise ParcelFileError(f"{path}: no layer {layer}; there are: {', '.join(layers)}")
        chosen = layers[0] if layer is None else layer
        info = pyogrio.read_info(source, layer=chosen, force_feature_count=True)
    except (DataSourceError, DataLayerError) as error:
        raise ParcelFileError(f"{path}: not a readable parcel file: {_first_line(error)}") from error
    return ParcelFile(
        path=path, source=source, layer=chosen, columns=tuple(str(field) for field in info["fields"]),
        crs=pyproj.CRS.from_user_input(info["crs"]) if info["crs"] else None, n_parcels=int(info["features"]),
    )  # fmt: skip


def _zip_member(path: Path) -> str:
    """GDAL's name of the one parcel file inside an archive, in whatever folder it lies there."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ParcelFileError(f"{path}: not a zip archive, or damaged") from error
    names = [name for name in names if not name.startswith("__MACOSX")]
    members = [name for name in names if Path(name).suffix.lower() in MEMBER_SUFFIXES]
    if len(members) != 1:
        found = ", ".join(members) if members else "none"
        raise ParcelFileError(f"{path}: must hold one GeoPackage, shapefile or GeoJSON, found {found}")
    return f"/vsizip/{path.resolve()}/{members[0]}"


def _read_vector(file: ParcelFile, columns: list[str], batch_size: int) -> Iterator[FeatureBatch]:
    opened = pyogrio.open_arrow(file.source, layer=file.layer, columns=columns, batch_size=batch_size, use_pyarrow=True)
    with opened as (meta, reader):
        geometry_name = meta["geometry_name"] or "wkb_geometry"
        for batch in reader:
            yield _features(batch, columns, geometry_name)


def _open_parquet(path: Path) -> ParcelFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ParcelFileError(f"{path}: not a readable parquet file: {_first_line(error)}") from error
    with file:
        geometry_name, described = _geo_metadata(path, file.schema_arrow)
        # Without a "crs" the GeoParquet specification means longitude and latitude; null means unknown.
        given = described.get("crs", "OGC:CRS84")
        return ParcelFile(
            path=path, source=str(path), layer=None,
            columns=tuple(name for name in file.schema_arrow.names if name != geometry_name),
            crs=pyproj.CRS.from_user_input(given) if given else None, n_parcels=file.metadata.num_rows,
        )  # fmt: skip


def _geo_metadata(path: Path, schema: pa.Schema) -> tuple[str, dict[str, object]]:
    """The name of the geometry column and what GeoParquet's metadata says of it."""
    geo = (schema.metadata or {}).get(b"geo")
    if geo is None:
        raise ParcelFileError(f"{path}: no GeoParquet metadata, so no geometry")
    try:
        document = json.loads(geo)
        name = document["primary_column"]
        described: dict[str, object] = document["columns"][name]
    except (ValueError, KeyError, TypeError) as error:
        raise ParcelFileError(f"{path}: its GeoParquet metadata cannot be understood") from error
    if described.get("encoding") != "WKB":
        raise ParcelFileError(f"{path}: geometry is encoded as {described.get('encoding')}; only WKB is read")
    return str(name), described


def _read_parquet(file: ParcelFile, columns: list[str], batch_size: int) -> Iterator[FeatureBatch]:
    with pq.ParquetFile(file.path) as reader:
        geometry_name, _ = _geo_metadata(file.path, reader.schema_arrow)
        for batch in reader.iter_batches(batch_size=batch_size, columns=[*columns, geometry_name]):
            yield _features(batch, columns, geometry_name)


def _features(batch: pa.RecordBatch, columns: list[str], geometry_name: str) -> FeatureBatch:
    return FeatureBatch(
        texts={column: _as_text(batch.column(column)) for column in columns},
        wkb=batch.column(geometry_name).to_pylist(),
    )


def _as_text(column: pa.Array) -> list[str | None]:
    """A column as trimmed text, blanks as None; numbers stored as floats (a habit of GIS files) lose their `.0`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        given = numbers[~np.isnan(numbers)]
        if np.all((given == np.floor(given)) & (np.abs(given) < 2**53)):
            column = pa.array(numbers, from_pandas=True).cast(pa.int64())
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return [text or None for text in texts.to_pylist()]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
