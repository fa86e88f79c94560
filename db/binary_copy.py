"""Arrow columns as PostgreSQL's binary COPY rows, written column by column instead of row by row.

A row is a 16-bit field count, then each field as a 32-bit length (-1 for null, and no bytes) and its bytes, all big
endian. Rows with the same fields null and the same lengths of text and bytes have one layout, so each such group of
rows is one numpy structured array. Rows come out grouped, not in their order.

Source: PostgreSQL 17 manual, COPY, "Binary Format".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import real_array
from db.connect import driver

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_REAL_OID: Final = 700
_ROWS_AT_ONCE: Final = 4_096
"""Rows of a block: it is written column by column, which takes half as long again where it is far larger than a cache."""
_EPOCH_D: Final = 10_957
_EPOCH_US: Final = _EPOCH_D * 86_400_000_000  # PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01


def copy_into(connection: sa.Connection, table: str, columns: Sequence[str], rows: pa.Table) -> None:
    """Copy columns of `rows` into columns of a table that have the same names."""
    statement = f"copy {table} ({', '.join(columns)}) from stdin (format binary)"
    with driver(connection).cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for block in copy_rows([_array(rows[name]) for name in columns]):
            copy.write(block)


def append(
    connection: sa.Connection, table: str, parcel_key: NDArray[np.int64], columns: Mapping[str, pa.Array], now: datetime
) -> None:
    """Append a row of each parcel (N,), recorded at one time, to a table; `columns` are its others."""
    if not len(parcel_key):
        return
    recorded_at = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), len(parcel_key))
    rows = pa.table({"parcel_key": pa.array(parcel_key), "recorded_at": recorded_at, **columns})
    copy_into(connection, table, rows.column_names, rows)


def _array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; `combine_chunks` copies a single chunk too."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def copy_rows(columns: Sequence[pa.Array]) -> Iterator[bytes]:
    """Yield blocks of a binary COPY of columns of one length: text, bytes, booleans, integers, reals, times, lists of n reals."""
    fields = [_Field(column) for column in columns]
    layout = np.stack([field.lengths for field in fields])  # (fields, rows)
    varying = layout[np.any(layout != layout[:, :1], axis=1)] if layout.shape[1] else layout
    order = np.lexsort(varying) if len(varying) else np.arange(layout.shape[1])
    yield _HEADER
    starts = np.flatnonzero(np.any(np.diff(varying[:, order], axis=1), axis=0)) + 1
    for group in np.split(order, starts) if len(order) else ():
        for start in range(0, len(group), _ROWS_AT_ONCE):
            yield _block(fields, layout[:, group[0]], group[start : start + _ROWS_AT_ONCE])
    yield _TRAILER


def _block(fields: "Sequence[_Field]", lengths: NDArray[np.int32], rows: NDArray[np.intp]) -> bytes:
    """Return rows of one layout."""
    parts: list[tuple[str, str]] = [("n", ">i2")]
    for number, (field, length) in enumerate(zip(fields, lengths.tolist(), strict=True)):
        parts.append((f"#{number}", ">i4"))
        if length > 0:
            parts.append((str(number), field.wire or f"V{length}"))
    block = np.empty(len(rows), np.dtype(parts))
    block["n"] = len(fields)
    for number, (field, length) in enumerate(zip(fields, lengths.tolist(), strict=True)):
        block[f"#{number}"] = length
        if length > 0:
            block[str(number)] = field.taken(rows, length)
    return block.tobytes()


class _Field:
    """One column: the length of each row's field and its values."""

    def __init__(self, column: pa.Array) -> None:
        kind, there = column.type, column.is_valid().to_numpy(zero_copy_only=False)
        self.wire: str | None = None
        """The numpy type of a value on the wire; None for text and bytes."""
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            _, offsets, data = column.buffers()
            self._starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
            self._data = np.frombuffer(data or b"", np.uint8)
            self.lengths = np.where(there, np.diff(self._starts), -1).astype(np.int32)
            return
        if pa.types.is_fixed_size_list(kind):
            values = _real_arrays(column)
            self._values, self.wire = values, f"V{values.itemsize}"
            self.lengths = np.where(there, values.itemsize, -1).astype(np.int32)
            return
        if pa.types.is_timestamp(kind):
            values = column.cast(pa.int64()).fill_null(_EPOCH_US).to_numpy() - _EPOCH_US
        elif pa.types.is_date32(kind):
            values = column.cast(pa.int32()).fill_null(_EPOCH_D).to_numpy() - np.int32(_EPOCH_D)
        elif pa.types.is_boolean(kind):
            values = column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.int8)
        else:
            values = column.fill_null(0).to_numpy()
        self._values = values
        self.wire = values.dtype.newbyteorder(">").str
        self.lengths = np.where(there, values.itemsize, -1).astype(np.int32)

    def taken(self, rows: NDArray[np.intp], length: int) -> NDArray[Any]:
        """Return the values of some rows whose fields have one length."""
        if self.wire is not None:
            return np.asarray(self._values[rows])
        starts = self._starts[rows]
        first = int(starts.min())
        if not np.any((starts - first) % length):  # as where all rows have one length: no gathering byte by byte
            return self._data[first : first + (self._data.size - first) // length * length].view(f"V{length}")[
                (starts - first) // length
            ]
        places = starts[:, None] + np.arange(length, dtype=np.int32)
        return np.ascontiguousarray(self._data[places]).view(f"V{length}")[:, 0]


def _real_arrays(column: pa.FixedSizeListArray) -> NDArray[np.void]:
    """Return lists of n reals, none null, as real[] on the wire."""
    n = column.type.list_size
    arrays = np.empty(len(column), real_array(n))
    arrays["dimensions"], arrays["has_null"], arrays["oid"], arrays["lower"] = 1, 0, _REAL_OID, 1
    arrays["length"], arrays["elements"]["size"] = n, 4
    arrays["elements"]["value"] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, n)
    return arrays.view(f"V{arrays.itemsize}")
