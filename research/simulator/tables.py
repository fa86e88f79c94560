"""Arrow tables of observations, with exactly the columns of the message contract."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.stream.schemas import S1, S2
from research.simulator.schedule import Product

Float32 = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

INVALID = -32768
S2_SCHEMA: Final = S2.arrow
S1_SCHEMA: Final = S1.arrow


@dataclass(frozen=True)
class Heading:
    """What all rows of a table share."""

    collection: str
    season: str
    product: Product


def packed_pixels(values: NDArray[np.int16], is_used: BoolArray) -> pa.BinaryArray:
    """Return pixel sets (P, C, S) as one binary per row, channels by used pixels, int16 little endian in C order."""
    n, channels, _ = values.shape
    used = is_used.sum(axis=1)
    picked = values[np.broadcast_to(is_used[:, None, :], values.shape)].astype("<i2", copy=False)
    ends = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(used * channels * 2, out=ends[1:])
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(ends), pa.py_buffer(picked)])


def table(schema: pa.Schema, heading: Heading, columns: dict[str, object]) -> pa.Table:
    """Return a table of `schema` from its own columns; the heading's columns are filled in, absent ones are null."""
    parcel_ids = columns["parcel_id"]
    assert isinstance(parcel_ids, list)
    n = len(parcel_ids)
    product = heading.product
    shared: dict[str, str | int | bool | datetime] = {
        "collection": heading.collection,
        "season": heading.season,
        "observed_at": product.observed_at,
        "available_at": product.available_at,
        "scene_id": product.scene_id,
        "platform": product.platform,
        "relative_orbit": product.relative_orbit,
        "revision": product.revision,
        "is_withdrawn": product.is_withdrawn,
    }
    arrays = []
    for field in schema:
        if field.name in columns:
            value = columns[field.name]
            arrays.append(value if isinstance(value, pa.Array) else pa.array(value, field.type))
        elif field.name in shared:
            arrays.append(pa.repeat(pa.scalar(shared[field.name], field.type), n))
        else:
            arrays.append(pa.nulls(n, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def means(values: Float32, is_valid: BoolArray) -> tuple[Float32, Float32]:
    """Return mean and standard deviation (P, C) over the valid ones of S pixels; values (P, C, S), is_valid (P, S)."""
    weight = is_valid[:, None, :].astype(np.float32)
    n = np.maximum(weight.sum(axis=2), 1)
    mean = (values * weight).sum(axis=2) / n
    spread = (np.square(values - mean[:, :, None]) * weight).sum(axis=2) / n
    return mean.astype(np.float32), np.sqrt(spread).astype(np.float32)
