"""Features of a parcel file: columns as text, outlines as WKB that GEOS can read; in the process of `ingest.parcels.reader`."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ingest.errors import ReadError
from ingest.parcels.geojson import feature_id, features_of
from ingest.parcels.geoparquet import geo_metadata
from ingest.parcels.values import as_text

if TYPE_CHECKING:  # imported after the limits are set, in `reader.main`
    import pyarrow as pa

MAX_WKB: Final = 4 << 20
"""Bytes of one outline, 260,000 vertices: a longer one is not taken apart (the longest seen has some 30,000)."""
MAX_BATCH: Final = 64 << 20
"""Bytes handed on at once, about."""
FREE_BYTES: Final = 512 << 20
MAX_EXPANSION: Final = 100
"""Bytes of features for each byte of the file, once they are over FREE_BYTES: compressed GeoJSON has some 10."""


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
        geometry_name, _ = geo_metadata(reader.schema_arrow)
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
