"""The process that reads a parcel file: GDAL, Arrow and GEOS on bytes of unknown origin, within limits.

    parcel_files ── request (JSON, stdin) ──> here ── description (JSON) or features (Arrow stream) ──> parcel_files

A file that crashes a library, or makes it take memory without end, ends this process and not the importer. GDAL knows
only the drivers named here and has no network: a parcel file is never a way to other files or to addresses.
"""

import json
import os
import re
import resource
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ingest.errors import ReadError
from ingest.parcels.crs import usable_crs
from ingest.parcels.geojson import feature_id, features_of, first_feature, geojson_crs, has_ids
from ingest.parcels.geopackage import read_schema
from ingest.parcels.values import as_text

if TYPE_CHECKING:  # imported after the limits are set, in `main`
    import pyarrow as pa

ERROR: Final = "parcel file: "
"""Begins the line of standard error that says why a file is not read."""

RETRY: Final = "drivers to leave out: "

DRIVERS: Final = frozenset({"GPKG", "ESRI Shapefile", "GeoJSON"})

NOT_LOADED: Final = (
    "ADBC,AIVector,AVCBin,AVCE00,AmigoCloud,CSV,CSW,Carto,DGN,DXF,EDIGEO,EEDA,ESRIJSON,Elasticsearch,FlatGeobuf,GDALG,"
    "GML,GPSBabel,GPX,GTFS,GeoJSONSeq,GeoRSS,HTTP,Idrisi,JML,JSONFG,KML,LIBKML,LVBAG,MBTiles,MEM,MVT,MapInfo File,"
    "MapML,MiraMonVector,NGW,OAPIF,ODS,OGCAPI,OGR_GMT,OGR_PDS,OGR_VRT,OSM,OpenFileGDB,PCIDSK,PDF,PDS4,PGDUMP,PLSCENES,"
    "PMTiles,S57,SQLite,SXF,Selafin,TopoJSON,VDV,VFK,VICAR,WAsP,WFS,XLSX"
)
"""GDAL 3.12's other vector drivers; those of another version are found when it starts."""

MAX_MEMORY: Final = 4 << 30
"""Bytes (chosen as four times what a country's file takes: 8192 outlines of 10,000 vertices are 1.3 GB)."""
MAX_CPU_S: Final = 4 * 3600
"""Ends this process where its parent could not (chosen: far above the minutes that a country's file takes)."""
MAX_WKB: Final = 4 << 20
"""Bytes of one outline, 260,000 vertices: a longer one is not taken apart (the longest seen has some 30,000)."""
MAX_BATCH: Final = 64 << 20
"""Bytes handed on at once, about."""
FREE_BYTES: Final = 512 << 20
MAX_EXPANSION: Final = 100
"""Bytes of features for each byte of the file, once they are over FREE_BYTES: compressed GeoJSON has some 10."""
ACTIVE_SQL: Final = re.compile(r"(?<!gpkg_)\b(?:ogr|gdal)_|\bgeocode", re.IGNORECASE)
"""Functions by which GDAL's SQL reaches other files and addresses."""


class _Unneeded:
    """Hides what pyogrio would import and nothing here uses: more than half of the time that this process takes."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name in ("geopandas", "pandas"):
            raise ModuleNotFoundError(name=name)


def main() -> None:
    """Answer the request on standard input; exit code 1 and a line that begins with ERROR where it cannot be read."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    sys.setrecursionlimit(500)
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, _Unneeded())
    task = request.pop("task")
    kind = "parquet" if request["kind"] == "parquet" else "parcel"
    what = "damaged" if task == "read" else f"not a readable {kind} file"
    try:
        _only_drivers()
        if task == "describe":
            describe(**request)
        else:
            read(**request)
    except ReadError as error:
        _stop(str(error))
    except (MemoryError, RecursionError):
        _stop(f"it needs more than {MAX_MEMORY >> 30} GB to be read")
    except Exception as error:  # noqa: BLE001  # the outermost frame of the process: any failure is one line
        _stop(f"{what}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")


def _stop(why: str) -> None:
    sys.stderr.buffer.write(f"\n{ERROR}{why}\n".encode(errors="replace"))
    sys.stderr.flush()
    os._exit(1)  # libraries in a bad state are not asked to clean up


def environment() -> dict[str, str]:
    """Return the variables that this process starts with: the drivers left out, and a proxy where nothing listens."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy", "ALL_PROXY", "GDAL_HTTP_PROXY"), "127.0.0.1:9")
    return {
        "OGR_SKIP": NOT_LOADED,
        "PROJ_NETWORK": "OFF",
        "no_proxy": "",
        "OGR_SQLITE_ALLOW_EXTERNAL_ACCESS": "NO",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        **nowhere,
    }


def _only_drivers() -> None:
    """Raise ReadError that begins with RETRY and names the drivers that this GDAL has beyond the known ones."""
    import pyogrio

    if unknown := set(pyogrio.list_drivers()) - DRIVERS:
        raise ReadError(RETRY + ",".join(sorted(unknown)))


# A description --------------------------------------------------------------------------------


def describe(source: str, kind: str, layer: str | None) -> None:
    """Write the layer, its columns, own key, coordinate system and length as JSON."""
    found = _describe_parquet(source) if kind == "parquet" else _describe_vector(source, kind, layer)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


def _describe_vector(source: str, kind: str, layer: str | None) -> dict[str, object]:
    import pyogrio
    from pyogrio.errors import CRSError

    if kind == "gpkg":
        _refuse_active_schema(source)
    layers = [str(name) for name, geometry_type in pyogrio.list_layers(source) if geometry_type is not None]
    if layer is None and len(layers) != 1:
        has = f"has {len(layers)} layers with geometry ({', '.join(layers)}); choose one with --layer"
        raise ReadError(has if layers else "no layer has geometry")
    if layer is not None and layer not in layers:
        raise ReadError(f"no layer {layer}; there are: {', '.join(layers)}")
    chosen = layers[0] if layer is None else layer
    crs_fault = None
    try:
        info = pyogrio.read_info(source, layer=chosen, force_feature_count=True)
    except CRSError:
        crs_fault = "its coordinate system cannot be understood"
        Path(source).with_suffix(".prj").unlink(missing_ok=True)  # a link of ours, not the file
        info = pyogrio.read_info(source, layer=chosen, force_feature_count=True)
    crs = info["crs"]
    if kind == "geojson":
        crs, crs_fault = geojson_crs(source, crs)
    if crs_fault is None and crs is not None:
        crs, crs_fault = usable_crs(crs)
    columns = list(dict.fromkeys(str(name) for name in info["fields"]))
    key = str(info["fid_column"]) or None if kind == "gpkg" else None
    if kind == "geojson" and has_ids(source):
        key = "fid" if "id" in columns and first_feature(source).get("properties", {}).get("id") is not None else "id"
        columns = [name for name in columns if name != key]
    return {
        "layer": chosen,
        "columns": columns,
        "key": key,
        "crs": crs,
        "crs_fault": crs_fault,
        "n_parcels": int(info["features"]),
    }


def _describe_parquet(source: str) -> dict[str, object]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        geometry_name, described = _geo_metadata(file.schema_arrow)
        # Without a "crs" the GeoParquet specification means longitude and latitude; null means unknown.
        given = described.get("crs", "OGC:CRS84")
        crs, crs_fault = usable_crs(given) if given else (None, None)
        return {
            "layer": None,
            "columns": [name for name in file.schema_arrow.names if name != geometry_name],
            "key": None,
            "crs": crs,
            "crs_fault": crs_fault,
            "n_parcels": file.metadata.num_rows,
        }


def _geo_metadata(schema: "pa.Schema") -> tuple[str, dict[str, Any]]:
    """Return the name of the geometry column and what GeoParquet's metadata says of it."""
    geo = (schema.metadata or {}).get(b"geo")
    if geo is None:
        raise ReadError("no GeoParquet metadata, so no geometry")
    try:
        document = json.loads(geo)
        name = document["primary_column"]
        described: dict[str, Any] = document["columns"][name]
        encoding = described.get("encoding")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReadError("its GeoParquet metadata cannot be understood") from error
    if encoding != "WKB":
        raise ReadError(f"geometry is encoded as {encoding}; only WKB is read")
    if name not in schema.names:
        raise ReadError(f"its GeoParquet metadata names a column {name} that is not there")
    return str(name), described


def _refuse_active_schema(source: str) -> None:
    """Refuse a GeoPackage whose tables are programs: virtual tables, views as layers, SQL that reaches outside.

    Raises ReadError, also where it is no database.
    """
    try:
        schema = read_schema(source)
    except sqlite3.Error as error:
        raise ReadError(f"not a readable parcel file: {error}") from error
    for kind, name, sql in schema.objects:
        is_module = re.match(r"\s*create\s+virtual\s+table\b", sql, re.IGNORECASE)
        if is_module and not re.search(r"\busing\s+[\"\[`]?rtree\b", sql, re.IGNORECASE):
            raise ReadError(f"its table {name} is a virtual table, which could read other files; export it as a table")
        if kind == "view" and (name in schema.layers or str(name).lower().startswith(("gpkg_", "sqlite_"))):
            raise ReadError(f"its layer {name} is a view; export it as a table")
        if ACTIVE_SQL.search(sql):
            raise ReadError(f"its {kind} {name} calls functions that could read other files")


# Features -------------------------------------------------------------------------------------


def read(  # the fields of the request that the parent process sends
    source: str, kind: str, layer: str | None, columns: list[str], key: str | None, batch_size: int, size: int
) -> None:
    """Write the columns as text and the outlines as WKB in Arrow batches; `size` is that of the file as given."""
    import pyarrow as pa

    batches = (
        _read_parquet(source, columns, batch_size)
        if kind == "parquet"
        else _read_vector(source, kind, layer, columns, key, batch_size)
    )
    schema = pa.schema([*((f"c{i}", pa.string()) for i in range(len(columns))), ("wkb", pa.binary())])
    total = 0
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        for texts, wkb in batches:
            made = pa.record_batch([*(pa.array(column, pa.string()) for column in texts), wkb], schema=schema)
            total += made.nbytes
            if total > FREE_BYTES and total > MAX_EXPANSION * size:
                raise ReadError(f"it expands to more than {MAX_EXPANSION} times its size")
            for part in _slices(made):
                stream.write_batch(part)
            sys.stdout.flush()


def _slices(batch: "pa.RecordBatch") -> Iterator["pa.RecordBatch"]:
    rows = max(1, batch.num_rows * MAX_BATCH // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


Texts = list[list[str | None]]


def _read_parquet(source: str, columns: list[str], batch_size: int) -> Iterator[tuple[Texts, "pa.Array"]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as reader:
        geometry_name, _ = _geo_metadata(reader.schema_arrow)
        for batch in reader.iter_batches(batch_size=batch_size, columns=[*columns, geometry_name]):
            texts = [as_text(batch.column(_last(batch, name)), name) for name in columns]
            yield texts, _readable(batch.column(_last(batch, geometry_name)).to_pylist(), lambda _rows: {})


def _read_vector(
    source: str, kind: str, layer: str | None, columns: list[str], key: str | None, batch_size: int
) -> Iterator[tuple[Texts, "pa.Array"]]:
    import pyogrio

    # The key is no column to GDAL, unless its features call it one.
    named = [column for column in columns if column != key]
    ids = (feature.get("id") for feature in features_of(source)) if kind == "geojson" and key in columns else None
    # The width of a dBase number makes GDAL read it as a float; its digits say that it is whole.
    options = {"ADJUST_TYPE": "YES"} if kind == "shp" else {}
    opened = pyogrio.open_arrow(
        source, layer=layer, columns=named, batch_size=batch_size, use_pyarrow=True, return_fids=True, **options
    )
    with opened as (meta, reader):
        geometry_name = meta["geometry_name"] or "wkb_geometry"
        for batch in reader:
            fids = batch.column(0).to_pylist()
            if ids is not None:
                keys = [feature_id(given) for given in islice(ids, len(fids))]
                if len(keys) < len(fids):
                    raise ReadError("damaged: features without a place in the file")
            else:
                keys = [str(fid) for fid in fids]
            texts = [keys if name == key else as_text(batch.column(_last(batch, name)), name) for name in columns]
            wkb = batch.column(_last(batch, geometry_name)).to_pylist()

            def linear(rows: list[int], fids: list[int] = fids) -> dict[int, bytes | None]:
                return dict(zip(rows, _linearised(source, layer, [fids[row] for row in rows]), strict=True))

            yield texts, _readable(wkb, linear)


def _last(batch: "pa.RecordBatch", name: str) -> int:
    """Return the index of a column: the last of its name, because GDAL's own key comes first."""
    found: int = batch.schema.get_all_field_indices(name)[-1]
    return found


def _readable(wkb: list[bytes | None], linear: Any) -> "pa.Array":
    """Return outlines that GEOS can read: curves made linear, others that it cannot read empty bytes."""
    import numpy as np
    import pyarrow as pa
    import shapely

    kept = [value if value is None or len(value) <= MAX_WKB else b"" for value in wkb]
    try:
        parsed = shapely.from_wkb(np.array(kept, dtype=object), on_invalid="ignore")
        curved = np.flatnonzero(~np.isin(shapely.get_type_id(parsed), range(-1, 8))).tolist()
    except NotImplementedError:
        curved = [row for row, value in enumerate(kept) if value and _is_curved(value)]
    for row, made in linear(curved).items() if curved else ():
        kept[row] = made
    for row in curved:
        if kept[row] and _is_curved(kept[row] or b""):
            kept[row] = b""
    parsed = shapely.from_wkb(np.array(kept, dtype=object), on_invalid="ignore")
    return pa.array(
        [value if value is None or found is not None else b"" for value, found in zip(kept, parsed, strict=True)],
        pa.binary(),
    )


def _is_curved(wkb: bytes) -> bool:
    import shapely

    try:
        found = shapely.from_wkb(wkb, on_invalid="ignore")
    except NotImplementedError:
        return True
    return shapely.get_type_id(found) not in range(-1, 8)


def _linearised(source: str, layer: str | None, fids: Sequence[int], at_once: int = 400) -> list[bytes | None]:
    """Return features' outlines with arcs as GDAL approximates them: 4 degrees a step."""
    from pyogrio.raw import read as read_features

    found: list[bytes | None] = []
    for start in range(0, len(fids), at_once):
        found += list(read_features(source, layer=layer, columns=[], fids=list(fids[start : start + at_once]))[2])
    return found


if __name__ == "__main__":
    main()
