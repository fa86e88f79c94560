"""Drawn fields as GeoPackage or fiboa GeoParquet, written batch by batch.

Columns: `id` (row and column of the first pixel), `crop:code`, `crop:name` (empty where nothing was recognised), `delineation:confidence`,
`metrics:area` (m2), `metrics:perimeter` (m), `determination:method`, `determination:datetime`; outlines in the scenes' own system.
Sources: geoparquet.org/releases/v1.1.0; vecorel.org/specification/v0.1.0; fiboa.org/specification/v0.3.0.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyarrow import parquet

from ingest.imagery.scene import Grid
from models.segmentation.delineation import Fields

KINDS: Final = (".gpkg", ".parquet")
VECOREL: Final = "https://vecorel.org/specification/v0.1.0/schema.yaml"
FIBOA: Final = "https://fiboa.org/specification/v0.3.0/schema.yaml"
SCHEMA: Final = pa.schema([
    pa.field("id", pa.string(), nullable=False),
    pa.field("geometry", pa.binary(), nullable=False),
    ("crop:code", pa.string()),
    ("crop:name", pa.string()),
    ("delineation:confidence", pa.float32()),
    ("metrics:area", pa.float32()),
    ("metrics:perimeter", pa.float32()),
    ("determination:method", pa.string()),
    ("determination:datetime", pa.timestamp("ms", "UTC")),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crops:
    """What the scores of a field stand for."""

    names: tuple[str, ...]
    """Of K scores; none: the one score is of the outline."""
    not_fields: frozenset[int] = frozenset()
    """Classes that are no crop: fields of them are left out."""


def batches(fields: Iterable[Fields], grid: Grid, crops: Crops, observed_to: datetime) -> Iterator[pa.RecordBatch]:
    """Yield the rows of fields as they are drawn."""
    a, _, left, _, e, top = grid.transform
    for some in fields:
        best = some.scores.argmax(1)
        kept = np.array([one not in crops.not_fields for one in best.tolist()])
        if not kept.any():
            continue
        best, first = best[kept], some.first[kept]
        geometry = shapely.transform(some.geometry[kept], lambda xy: xy * (a, e) + (left, top))
        geometry = shapely.multipolygons(
            shapely.get_parts(geometry), indices=shapely.get_parts(geometry, return_index=True)[1]
        )
        columns = [
            [f"r{row:05d}c{column:05d}" for row, column in first.tolist()],
            shapely.to_wkb(geometry),
            [str(one) if crops.names else None for one in best.tolist()],
            [crops.names[one] if crops.names else None for one in best.tolist()],
            some.scores[kept].max(1).astype(np.float32),
            shapely.area(geometry).astype(np.float32),
            shapely.length(geometry).astype(np.float32),
            ["auto-imagery"] * len(best),
            [observed_to] * len(best),
        ]
        yield pa.record_batch([pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def write(path: Path, rows: Iterable[pa.RecordBatch], crs: str, collection: str) -> int:
    """Write a file whose kind the end of its name says; return how many fields it has."""
    counted = _Counted(rows)
    if path.suffix.lower() == ".gpkg":
        reader = pa.RecordBatchReader.from_batches(SCHEMA, iter(counted))
        pyogrio.write_arrow(
            reader,
            path,
            driver="GPKG",
            layer="parcels",
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=crs,
        )
        return counted.rows
    column = {"encoding": "WKB", "geometry_types": ["MultiPolygon"], "crs": json.loads(pyproj.CRS(crs).to_json())}
    about = {"schemas": {collection: [VECOREL, FIBOA]}, "collection": collection}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = SCHEMA.with_metadata({"geo": json.dumps(geo), "collection": json.dumps(about, ensure_ascii=False)})
    with parquet.ParquetWriter(path, schema, compression="zstd", write_statistics=_names(schema)) as writer:
        for batch in counted:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return counted.rows


def _names(schema: pa.Schema) -> Sequence[str]:
    return [name for name in schema.names if name != "geometry"]


class _Counted:
    """Batches, counted while they pass."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches, self.rows = batches, 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch
