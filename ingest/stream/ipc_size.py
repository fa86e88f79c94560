"""How large an Arrow IPC stream becomes, from its metadata alone: before anything is decompressed or allocated.

pyarrow has no limit of its own: it allocates for each buffer what eight bytes before the compressed data claim, and 37 kB
became 2.1 GB. Those bytes are read here. Only four tables of the format's flatbuffers are needed.

Source: apache/arrow, format/Message.fbs (Message, RecordBatch, DictionaryBatch, Buffer) and the specification, "Compression".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

_VERSION_HEADER_OF_MESSAGE: Final = 2
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_DATA_OF_DICTIONARY: Final = 1
_LEGACY_COMPRESSION: Final = b"ARROW:experimental_compression"
"""Key by which writers before format 1.0 announced compression, in the place of the table; readers still heed it."""


@dataclass(frozen=True, slots=True)
class StreamSize:
    """What a stream claims to hold."""

    n_rows: int
    """Rows of all record batches, or entries of all dictionaries if those are more."""
    n_bytes: int
    """Bytes of all buffers once they are decompressed."""


def stream_size(value: bytes) -> StreamSize:
    """Return the size that a stream claims; raises ArrowException, struct.error or ValueError where it is none."""
    rows = entries = n_bytes = 0
    for message in _messages(value):
        metadata = memoryview(message.metadata)
        batch = _child(metadata, _root(metadata), _VERSION_HEADER_OF_MESSAGE)
        if message.type == "dictionary":
            batch = _child(metadata, batch, _DATA_OF_DICTIONARY)
            entries += _claimed_length(metadata, batch)
        elif message.type == "record batch":
            rows += _claimed_length(metadata, batch)
        else:
            continue
        n_bytes += _body_size(metadata, batch, message.body)
    return StreamSize(max(rows, entries), n_bytes)


def _messages(value: bytes) -> Iterator[pa.ipc.Message]:
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(value))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        yield message


def _body_size(metadata: memoryview, batch: int, body: pa.Buffer | None) -> int:
    """Return the bytes of a batch's buffers once they are decompressed."""
    if body is None:
        return 0
    is_compressed = _field(metadata, batch, _COMPRESSION) or _LEGACY_COMPRESSION in bytes(metadata)
    if not is_compressed or not _field(metadata, batch, _BUFFERS):
        return int(body.size)
    vector = _child(metadata, batch, _BUFFERS)
    (n_buffers,) = struct.unpack_from("<I", metadata, vector)
    buffers = np.frombuffer(metadata, "<i8", 2 * n_buffers, vector + 4).reshape(-1, 2)
    data, total = memoryview(body), 0
    for offset, length in buffers.tolist():
        if length < 8:  # an empty buffer has no length before it
            continue
        (claimed,) = struct.unpack_from("<q", data, offset)
        total += length - 8 if claimed == -1 else _not_negative(claimed)  # -1: this buffer is stored as it is
    return total


def _claimed_length(metadata: memoryview, batch: int) -> int:
    place = _field(metadata, batch, _LENGTH)
    return _not_negative(struct.unpack_from("<q", metadata, place)[0]) if place else 0


def _not_negative(claimed: int) -> int:
    if claimed < 0:
        raise ValueError(f"a length of {claimed}")
    return claimed


def _root(metadata: memoryview) -> int:
    return int(struct.unpack_from("<I", metadata, 0)[0])


def _field(metadata: memoryview, table: int, number: int) -> int:
    """Return where a table's field lies; 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, vtable)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, vtable + slot)[0] if slot < size else 0
    return int(table + offset) if offset else 0


def _child(metadata: memoryview, table: int, number: int) -> int:
    """Return where the table or vector lies that a field refers to; raises ValueError where it is left out."""
    place = _field(metadata, table, number)
    if not place:
        raise ValueError("a message without its content")
    return int(place + struct.unpack_from("<I", metadata, place)[0])
