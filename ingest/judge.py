"""From messages to rows that can be stored and letters that say why the others cannot: pure, whole batches at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.dead_letters import WHOLE_MESSAGE
from ingest.errors import MessageRejected, ReasonCode
from ingest.messages import decode_arrow, decode_json, encode_arrow, rows_to_table
from ingest.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, SCHEMAS, ObservationSchema
from ingest.settings import IngestSettings
from ingest.validate import faults


@dataclass(frozen=True, slots=True)
class Message:
    """A record of the stream."""

    topic: str
    partition: int
    offset: int
    content_type: str | None
    value: bytes
    unreadable: str | None = None
    """Why its bytes are not what the sender sent, where the record or its batch is broken."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message, or one row of it, with why it cannot be stored."""

    message: Message
    row: int
    code: ReasonCode
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations of one schema out of many messages, each row with where it came from."""

    schema: ObservationSchema
    table: pa.Table
    messages: tuple[Message, ...]
    message_of_row: NDArray[np.int32]
    row_in_message: NDArray[np.int32]

    def reject(self, row: int, code: ReasonCode, reason: str) -> Rejection:
        """The rejection of one row; its payload is the record, or a batch of that row alone."""
        message = self.messages[self.message_of_row[row]]
        if _media_type(message) == CONTENT_TYPE_JSON:
            return Rejection(message, WHOLE_MESSAGE, code, reason, message.value)
        return Rejection(message, int(self.row_in_message[row]), code, reason, encode_arrow(self.table.slice(row, 1)))

    def keep(self, rows: NDArray[np.bool_]) -> "Rows":
        """The rows under a mask."""
        if rows.all():
            return self
        return Rows(
            self.schema,
            self.table.filter(pa.array(rows)),
            self.messages,
            self.message_of_row[rows],
            self.row_in_message[rows],
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch of messages, decoded and validated as far as the database is not needed for it."""

    rows: tuple[Rows, ...]
    rejections: tuple[Rejection, ...]
    n_rows: int
    """Rows judged; a message that cannot be decoded counts as one."""


def judge(messages: Sequence[Message], settings: IngestSettings, now: datetime) -> Judged:
    """Decodes and validates messages; `now` is the time to judge "future" by."""
    decoded, rejections = _decode(messages, settings)
    n_rows = len(rejections) + sum(rows.table.num_rows for rows in decoded)
    good = []
    for rows in decoded:
        found = faults(rows.schema, rows.table, now, settings.clock_tolerance, settings.max_pixel_bytes)
        rejections += [rows.reject(fault.row, fault.code, fault.reason) for fault in found]
        is_good = np.ones(rows.table.num_rows, np.bool_)
        is_good[[fault.row for fault in found]] = False
        good.append(rows.keep(is_good))
    return Judged(tuple(good), tuple(rejections), n_rows)


def _decode(messages: Sequence[Message], settings: IngestSettings) -> tuple[list[Rows], list[Rejection]]:
    batches: dict[str, list[tuple[int, pa.Table]]] = {}
    records: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    rejections = []
    for number, message in enumerate(messages):
        try:
            if _kind(message, settings) == CONTENT_TYPE_ARROW:
                schema, table = decode_arrow(message.value)
                _check_size(table.nbytes, settings.max_message_bytes, "the batch, decoded,")
                batches.setdefault(schema.id, []).append((number, table))
            else:
                schema, record = decode_json(message.value)
                records.setdefault(schema.id, []).append((number, record))
        except MessageRejected as error:
            rejections.append(Rejection(message, WHOLE_MESSAGE, error.code, error.reason, message.value))
    found = [
        _rows(schema, messages, batches.get(name, []), records.get(name, []))
        for name, schema in SCHEMAS.items()
        if name in batches or name in records
    ]
    return found, rejections


def _rows(
    schema: ObservationSchema, messages: Sequence[Message], batches: Sequence[tuple[int, pa.Table]],
    records: Sequence[tuple[int, dict[str, Any]]],
) -> Rows:  # fmt: skip
    """Batches first, then records, as one table."""
    tables = [table for _, table in batches]
    numbers = [np.full(table.num_rows, number, np.int32) for number, table in batches]
    places = [np.arange(table.num_rows, dtype=np.int32) for table in tables]
    if records:
        tables.append(rows_to_table(schema, [record for _, record in records]))
        numbers.append(np.array([number for number, _ in records], np.int32))
        places.append(np.zeros(len(records), np.int32))
    table = pa.concat_tables(tables).combine_chunks()
    return Rows(schema, table, tuple(messages), np.concatenate(numbers), np.concatenate(places))


def _media_type(message: Message) -> str:
    return (message.content_type or "").partition(";")[0].strip().lower()


def _kind(message: Message, settings: IngestSettings) -> str:
    """The content type, one of the two that are known; raises MessageRejected, also for a message too large for it."""
    if message.unreadable is not None:
        raise MessageRejected("malformed", message.unreadable)
    kind = _media_type(message)
    limits = {CONTENT_TYPE_JSON: settings.max_record_bytes, CONTENT_TYPE_ARROW: settings.max_message_bytes}
    if kind not in limits:
        told = f"content-type {kind!r:.80}" if kind else "no content-type header"
        raise MessageRejected("unknown_content_type", f"{told}; send {CONTENT_TYPE_JSON} or {CONTENT_TYPE_ARROW}")
    _check_size(len(message.value), limits[kind], "the message")
    return kind


def _check_size(n_bytes: int, limit: int, what: str) -> None:
    if n_bytes > limit:
        raise MessageRejected(
            "oversized", f"{what} has {n_bytes} bytes, more than {limit}; send smaller batches or fewer pixels"
        )
