"""Arrow IPC streams as tables of a schema's columns: sizes first, then columns, bad rows rejected one by one.

Order matters. Nothing is allocated before `stream_size` has said how much it will be; no value is touched before the
offsets and indices that lead to it are validated; no dictionary is spread out before its size is known.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ingest.errors import MessageRejected
from ingest.stream.ipc_size import stream_size
from ingest.stream.messages import unknown_schema
from ingest.stream.row_checks import Fault
from ingest.stream.schemas import SCHEMA_KEY, SCHEMAS, ObservationSchema

_NONE: Final[NDArray[np.intp]] = np.empty(0, np.intp)
UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, MemoryError, struct.error)
"""What pyarrow and `stream_size` raise for bytes that are no Arrow IPC stream."""


@dataclass(frozen=True, slots=True)
class ArrowBatch:
    """A message's rows as its schema has them, without those whose values do not fit its columns."""

    schema: ObservationSchema
    table: pa.Table
    places: NDArray[np.int32]
    """(rows,) where each row of `table` lies in the message."""
    faults: tuple[Fault, ...]
    """Rows that are not in `table`, by their place in the message."""
    faulty: pa.Table | None
    """The rows of `faults`, in their order and in the types they were sent in; None where there are none."""


def read_batch(value: bytes, max_rows: int, max_bytes: int) -> ArrowBatch:
    """Read an Arrow IPC stream; raises MessageRejected.

    Args:
        value: the message.
        max_rows: most rows.
        max_bytes: most bytes, of the stream's buffers and of the table that is made of them.
    """
    try:
        size = stream_size(value)
        check_size(size.n_rows, max_rows, "rows")
        check_size(size.n_bytes, max_bytes, "bytes, decoded")
        with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
            schema = _schema_of(reader.schema)
            table = reader.read_all()
        columns = [_unchecked_text(column) for column in table.columns]
        unchecked = pa.Table.from_arrays(columns, table.column_names)
        unchecked.validate()
        _check_decoded_size(schema, columns, table.num_rows, max_bytes)
        unchecked.validate(full=True)
        sent = {name: _spread(column) for name, column in zip(table.column_names, columns, strict=True)}
    except UNREADABLE as error:
        raise MessageRejected("malformed", f"not an Arrow IPC stream: {_first_line(error)}") from None
    return _conform(schema, sent, table.num_rows)


def decode_arrow(
    value: bytes, max_rows: int = 50_000, max_bytes: int = 8 * 2**20
) -> tuple[ObservationSchema, pa.Table]:
    """Return an Arrow IPC stream all of whose rows fit; raises MessageRejected, also for a single row."""
    batch = read_batch(value, max_rows, max_bytes)
    for fault in batch.faults:
        raise MessageRejected(fault.code, f"{fault.reason} (row {fault.row})")
    return batch.schema, batch.table


def check_size(n: int, limit: int, what: str) -> None:
    """Raise MessageRejected where a message has more of something than it may have."""
    if n > limit:
        raise MessageRejected(
            "oversized", f"the message has {n} {what}, more than {limit}; send smaller batches or fewer pixels"
        )


def _schema_of(found: pa.Schema) -> ObservationSchema:
    """Return the schema that a stream names, if its columns are that schema's; raises MessageRejected."""
    named = (found.metadata or {}).get(SCHEMA_KEY, b"").decode("utf-8", "replace")
    if named not in SCHEMAS:
        raise unknown_schema(named)
    schema, names = SCHEMAS[named], found.names
    strange = sorted(set(names) - set(schema.arrow.names))
    if strange or len(set(names)) != len(names):
        raise MessageRejected(
            "malformed", f"column {(strange or names)[0]!r:.80} is not one of {schema.id}, or there twice; remove it"
        )
    for field in schema.arrow:
        if field.name in names:
            _check_type(found.field(field.name).type, field)
        elif not field.nullable:
            raise MessageRejected("missing_value", f"{field.name}: column not there, and every batch needs it")
    return schema


def _check_type(sent: pa.DataType, field: pa.Field) -> None:
    if sent.id == field.type.id and sent == field.type:
        return
    kind = sent.value_type if sent.id == _DICTIONARY else sent
    if pa.types.is_timestamp(kind) and kind.tz is None and pa.types.is_timestamp(field.type):
        raise MessageRejected(
            "naive_timestamp", f"{field.name}: timestamps without a time zone; send timestamp[us, UTC]"
        )
    if kind != field.type and not any(is_(kind) and is_(field.type) for is_ in _KINDS):
        raise MessageRejected("malformed", f"{field.name}: type {kind!s:.80}, not {field.type}; send that type")


# By number, not by pyarrow's predicates: these are asked of every column of every message.
_TEXT: Final = {pa.string().id, pa.large_string().id, pa.string_view().id}
_BYTES: Final = {pa.binary().id, pa.large_binary().id, pa.binary_view().id}
_WIDE: Final = _BYTES - {pa.binary().id}
_VIEW, _DICTIONARY = pa.binary_view().id, pa.dictionary(pa.int8(), pa.string()).id


def _is_text(kind: pa.DataType) -> bool:
    return kind.id in _TEXT


def _is_bytes(kind: pa.DataType) -> bool:
    return kind.id in _BYTES


# A column may come in another width of its own kind (double for float, nanoseconds for microseconds), nothing looser.
_KINDS: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp, _is_text, _is_bytes)
_BYTES_OF: Final[Mapping[pa.DataType, pa.DataType]] = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


_ROW_BITS: Final = {
    schema.id: sum(
        32 if _is_text(field.type) or _is_bytes(field.type) else field.type.bit_width for field in schema.arrow
    )
    for schema in SCHEMAS.values()
}
"""A row of each schema, without its texts and pixels."""


def _unchecked_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts as bytes: a text that is not UTF-8 is one row's fault, offsets that lead astray are the message's."""
    kind = column.type
    if kind.id == _DICTIONARY and kind.value_type in _BYTES_OF:
        bytes_kind = _BYTES_OF[kind.value_type]
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.view(bytes_kind)) for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, pa.dictionary(kind.index_type, bytes_kind))
    if kind.id in _TEXT:
        return pa.chunked_array([chunk.view(_BYTES_OF[kind]) for chunk in column.chunks], _BYTES_OF[kind])
    return column


def _check_decoded_size(
    schema: ObservationSchema, columns: Sequence[pa.ChunkedArray], n_rows: int, max_bytes: int
) -> None:
    """Raise MessageRejected where the table of the schema's columns would be too large; allocates none of it."""
    varying = sum(_n_bytes(chunk) for column in columns for chunk in column.chunks)
    check_size(n_rows * _ROW_BITS[schema.id] // 8 + varying, max_bytes, "bytes, decoded")


def _n_bytes(values: pa.Array) -> int:
    """Return the bytes of all texts or byte strings of an array, each as often as it is referred to; 0 of other types."""
    kind = values.type
    if kind.id == _DICTIONARY:
        if not _is_bytes(kind.value_type):
            return 0
        return int(pc.sum(pc.take(_lengths(values.dictionary), values.indices)).as_py() or 0)
    if kind.id == _VIEW:
        return int(pc.sum(_lengths(values)).as_py() or 0)
    return values.nbytes if _is_bytes(kind) else 0  # each byte is one row's


def _lengths(values: pa.Array) -> pa.Array:
    if values.type.id != _VIEW:
        return pc.cast(pc.binary_length(values), pa.int64())
    # binary_length has no kernel for views, whose 16 bytes begin with the length.
    views = np.frombuffer(values.buffers()[1], np.int32).reshape(-1, 4)[values.offset : values.offset + len(values), 0]
    return pa.array(views.astype(np.int64), mask=values.is_null().to_numpy(zero_copy_only=False))


def _spread(column: pa.ChunkedArray) -> pa.Array:
    """Return one array of plain values; text is bytes still."""
    chunks = [_plain(chunk) for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]
    kind = column.type.value_type if column.type.id == _DICTIONARY else column.type
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.binary() if _is_bytes(kind) else kind)


def _plain(values: pa.Array) -> pa.Array:
    if values.type.id != _DICTIONARY:
        return values.cast(pa.binary()) if values.type.id in _WIDE else values
    entries = values.dictionary.cast(pa.binary()) if _is_bytes(values.type.value_type) else values.dictionary
    return entries.take(values.indices)


def _conform(schema: ObservationSchema, sent: Mapping[str, pa.Array], n_rows: int) -> ArrowBatch:
    """Return the rows with exactly the schema's columns and types; absent nullable columns are null."""
    faults: dict[int, Fault] = {}
    columns = []
    for field in schema.arrow:
        if field.name not in sent:
            columns.append(pa.nulls(n_rows, field.type))
            continue
        column, misfits = _fitted(sent[field.name], field.type)
        columns.append(column)
        for row in misfits.tolist():
            faults.setdefault(row, _misfit(row, field))
    table = pa.Table.from_arrays(columns, schema=schema.arrow)
    places = np.arange(n_rows, dtype=np.int32)
    if not faults:
        return ArrowBatch(schema, table, places, (), None)
    rows = np.array(sorted(faults), np.int32)
    good = np.setdiff1d(places, rows)
    faulty = {name: _as_sent(column.take(pa.array(rows)), schema.arrow.field(name)) for name, column in sent.items()}
    return ArrowBatch(
        schema,
        table.take(pa.array(good)),
        good,
        tuple(faults[row] for row in rows.tolist()),
        pa.table(faulty).replace_schema_metadata(schema.arrow.metadata),
    )


def _fitted(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, NDArray[np.intp]]:
    """Return a column in the schema's type, and the rows whose values do not fit it."""
    if _is_text(kind):
        return _utf8(column)
    if column.type == kind:
        return column, _NONE
    try:
        return column.cast(kind), _NONE
    except pa.ArrowInvalid:  # of a row or more: those that do not come back as they went
        cast = column.cast(kind, safe=False)
        is_same = pc.equal(cast.cast(column.type, safe=False), column)
        return cast, np.flatnonzero(~pc.fill_null(is_same, True).to_numpy(zero_copy_only=False))


def _utf8(column: pa.Array) -> tuple[pa.Array, NDArray[np.intp]]:
    """Return bytes as texts, and the rows that are none."""
    text = column.view(pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return text, np.array([row for row, value in enumerate(column.to_pylist()) if not _is_utf8(value)], np.intp)
    return text, _NONE


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_sent(column: pa.Array, field: pa.Field) -> pa.Array:
    return column.view(pa.string()) if _is_text(field.type) else column


def _misfit(row: int, field: pa.Field) -> Fault:
    if _is_text(field.type):
        return Fault(row, "bad_text", f"{field.name}: text that is not UTF-8; send UTF-8")
    return Fault(row, "out_of_range", f"{field.name}: the value does not fit {field.type}; send one that does")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
