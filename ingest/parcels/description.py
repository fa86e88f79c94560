"""What a parcel file holds: layer, columns, own key, coordinates, length; read in the process of `ingest.parcels.reader`."""

import json
import sys
from pathlib import Path

from ingest.errors import ReadError
from ingest.parcels.crs import usable_crs
from ingest.parcels.geojson import first_feature, geojson_crs, has_ids
from ingest.parcels.geopackage import refuse_active_schema
from ingest.parcels.geoparquet import geo_metadata


def describe(source: str, kind: str, layer: str | None) -> None:
    """Write the layer, its columns, own key, coordinate system and length as JSON."""
    found = _describe_parquet(source) if kind == "parquet" else _describe_vector(source, kind, layer)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


def _describe_vector(source: str, kind: str, layer: str | None) -> dict[str, object]:
    import pyogrio
    from pyogrio.errors import CRSError

    if kind == "gpkg":
        refuse_active_schema(source)
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
        geometry_name, described = geo_metadata(file.schema_arrow)
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
