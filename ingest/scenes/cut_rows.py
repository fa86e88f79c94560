"""Rows of a cut scene: what they say, which of them are the same, and whose they are."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.scene_passes import ParcelToCut
from db.sensors import SENSORS, Sensor
from ingest.imagery.cut import Extraction
from ingest.imagery.parcels import Parcels

_WHERE_FROM: Final = frozenset({"scene_id", "available_at", "revision", "is_withdrawn"})


def digest_of(tables: Sequence[pa.Table]) -> bytes:
    """Return SHA-256 of what rows say, whatever their revision."""
    digest = hashlib.sha256()
    for table in tables:
        for name in table.column_names:
            if name != "revision":
                digest.update(repr((name, table[name].to_pylist())).encode())
    return digest.digest()


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with other values in one column, of the column's type."""
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)


def stored_names(table: pa.Table, sensor: Sensor) -> list[tuple[str, str]]:
    """Return columns of the table and of the store that two rows of one key must share."""
    names = {name.lower(): name for name in table.column_names}
    return [(names[column], column) for column in (*SENSORS[sensor].values, "pixels") if column != "scene_key"]


def is_equal(mine: Any, stored: Any) -> bool:
    """Return whether a value is what the store has, which holds reals of 32 bits."""
    if isinstance(mine, float) and isinstance(stored, float):
        return bool(np.float32(mine) == np.float32(stored))
    return bool(mine == stored)


def parcels_of(found: Sequence[ParcelToCut]) -> Parcels:
    """Return parcels of all collections and seasons as one; their rows are separated afterwards."""
    return Parcels(
        "",
        "",
        [one.source_id for one in found],
        [one.wkb for one in found],
        np.array([one.is_monitorable for one in found], np.bool_),
    )


def same_rows(one: Extraction, other: Extraction) -> NDArray[np.bool_]:
    """Return (P,) parcels of which both have the same values."""
    is_same = np.zeros(len(one.outcome), np.bool_)
    names = [name for name in one.table.column_names if name not in _WHERE_FROM]
    both = np.intersect1d(one.rows, other.rows)
    mine, theirs = (
        cut.table.select(names).take(pa.array(np.searchsorted(cut.rows, both))).to_pylist() for cut in (one, other)
    )
    is_same[both] = [here == there for here, there in zip(mine, theirs, strict=True)]
    return is_same
