"""GeoParquet's metadata: which column holds the outlines; read in the process of `ingest.parcels.reader`."""

import json
from typing import TYPE_CHECKING, Any

from ingest.errors import ReadError

if TYPE_CHECKING:  # imported after the limits are set, in `reader.main`
    import pyarrow as pa


def geo_metadata(schema: "pa.Schema") -> tuple[str, dict[str, Any]]:
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
