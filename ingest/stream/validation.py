"""From messages to rows that can be stored and rejections that say why the others cannot: pure, whole batches at once.

A row can be refused in three places:
    row_checks.faults         a value that cannot be true; called here, the last one that needs no database
    Store._resolve            its season or parcel is not stored, or it was observed outside of the season (ingest.stream.store)
    db.observations.insert    its key is stored with other values: a conflict

No message holds the stream. What is wrong with one is a Rejection, also where nobody thought of it: whatever is raised
while messages are validated together, they are validated by halves until the one that raises it is alone, and rejected.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.dead_letters import WHOLE_MESSAGE
from ingest.errors import MessageRejected, ReasonCode
from ingest.stream.arrow_batches import check_size, read_batch
from ingest.stream.messages import decode_json, encode_arrow, rows_to_table
from ingest.stream.row_checks import faults
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, SCHEMAS, ObservationSchema
from ingest.stream.settings import IngestSettings

log = logging.getLogger(__name__)

_ROW_BYTES: Final = 400
"""What a row costs beside its columns where it is rejected: a Rejection and its reason (measured: 350)."""
_RECORD_BYTES: Final = 2_000
"""What a JSON record costs beside its text once it is a dictionary of Python's values (measured: 1,900)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record of the stream."""

    topic: str
    partition: int
    offset: int
    content_type: str | None
    value: bytes
    fault: str | None = None
    """What is wrong with the record around its value; None where nothing is."""
    redriven_from: int | None = None
    """The key of the dead letter that it repeats, by its own account."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message, or one row of it, with why it cannot be stored."""

    message: Message
    row: int
    code: ReasonCode
    reason: str
    table: pa.Table | None = None
    """The table that holds the row; None where the whole message is rejected."""
    place: int = 0
    """The row's place in `table`."""

    @property
    def payload(self) -> bytes:
        """What can be sent again: the message, or a batch of the row alone (made when asked for: a row takes 4 kB so)."""
        return self.message.value if self.table is None else encode_arrow(self.table.slice(self.place, 1))


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations of one schema out of many messages, each row with where it came from."""

    schema: ObservationSchema
    table: pa.Table
    messages: tuple[Message, ...]
    message_of_row: NDArray[np.int32]
    row_in_message: NDArray[np.int32]

    def reject(self, row: int, code: ReasonCode, reason: str) -> Rejection:
        """Return the rejection of one row; its payload is the record, or a batch of that row alone."""
        message = self.messages[self.message_of_row[row]]
        if _media_type(message) == CONTENT_TYPE_JSON:
            return Rejection(message, WHOLE_MESSAGE, code, reason)
        return Rejection(message, int(self.row_in_message[row]), code, reason, self.table, row)

    def keep(self, rows: NDArray[np.bool_]) -> "Rows":
        """Return the rows under a mask."""
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
class Validated:
    """Messages, decoded and validated as far as the database is not needed for it."""

    messages: tuple[Message, ...]
    rows: tuple[Rows, ...]
    rejections: tuple[Rejection, ...]
    n_rows: int
    """Rows validated; a message that cannot be decoded counts as one."""

    def __add__(self, other: "Validated") -> "Validated":
        return Validated(
            self.messages + other.messages,
            self.rows + other.rows,
            self.rejections + other.rejections,
            self.n_rows + other.n_rows,
        )


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A message with what it holds: a table or a record of its schema, rows that are rejected, or only a rejection."""

    message: Message
    rejections: tuple[Rejection, ...] = ()
    schema: ObservationSchema | None = None
    content: pa.Table | dict[str, Any] | None = None
    places: NDArray[np.int32] | None = None
    """(rows of the table,) where each lies in the message."""
    n_bytes: int = 0
    """What it takes in memory, decoded."""


def validate(messages: Sequence[Message], settings: IngestSettings, now: datetime) -> Validated:
    """Decode and validate messages; `now` is the time that "future" is measured by."""
    return _validate_decoded([_decode(message, settings) for message in messages], settings, now)


def validate_in_parts(messages: Sequence[Message], settings: IngestSettings, now: datetime) -> Iterator[Validated]:
    """Decode and validate messages in their order, `flush_decoded_bytes` of decoded content at a time."""
    part: list[_Decoded] = []
    n_bytes = 0
    for number, message in enumerate(messages, 1):
        part.append(_decode(message, settings))
        n_bytes += part[-1].n_bytes
        if n_bytes >= settings.flush_decoded_bytes or number == len(messages):
            validated = _validate_decoded(part, settings, now)
            part.clear()  # before it is stored: what was decoded is in `validated` a second time
            n_bytes = 0
            yield validated
            del validated


def apart(validated: Validated, error: Exception, settings: IngestSettings, now: datetime) -> tuple[Validated, ...]:
    """Return what the database refused as a whole: its halves, or one message's rejection; raises `error` if that was refused."""
    messages = validated.messages
    if not validated.rows:
        raise error
    if len(messages) == 1:
        return (Validated(messages, (), (_unforeseen(messages[0], error),), 1),)
    half = len(messages) // 2
    return validate(messages[:half], settings, now), validate(messages[half:], settings, now)


def _validate_decoded(decoded: Sequence[_Decoded], settings: IngestSettings, now: datetime) -> Validated:
    try:
        return _validate_together(decoded, settings, now)
    except Exception as error:  # noqa: BLE001  # as in _decode
        if len(decoded) == 1:
            return Validated((decoded[0].message,), (), (_unforeseen(decoded[0].message, error),), 1)
    half = len(decoded) // 2
    return _validate_decoded(decoded[:half], settings, now) + _validate_decoded(decoded[half:], settings, now)


def _validate_together(decoded: Sequence[_Decoded], settings: IngestSettings, now: datetime) -> Validated:
    rejections = [rejection for one in decoded for rejection in one.rejections]
    n_rows = len(rejections)
    good = []
    for schema in SCHEMAS.values():
        of_schema = [(number, one) for number, one in enumerate(decoded) if one.schema is schema]
        if not of_schema:
            continue
        rows = _rows(schema, tuple(one.message for one in decoded), of_schema)
        n_rows += rows.table.num_rows
        found = faults(schema, rows.table, now, settings.clock_tolerance, settings.max_pixel_bytes)
        rejections += [rows.reject(fault.row, fault.code, fault.reason) for fault in found]
        is_good = np.ones(rows.table.num_rows, np.bool_)
        is_good[[fault.row for fault in found]] = False
        good.append(rows.keep(is_good))
    return Validated(tuple(one.message for one in decoded), tuple(good), tuple(rejections), n_rows)


def _rows(schema: ObservationSchema, messages: tuple[Message, ...], decoded: Sequence[tuple[int, _Decoded]]) -> Rows:
    """Return batches, then records, as one table."""
    batches = [(number, one) for number, one in decoded if isinstance(one.content, pa.Table)]
    records = [(number, one.content) for number, one in decoded if isinstance(one.content, dict)]
    tables = [one.content for _, one in batches]
    numbers = [np.full(len(one.places), number, np.int32) for number, one in batches if one.places is not None]
    places = [one.places for _, one in batches if one.places is not None]
    if records:
        tables.append(rows_to_table(schema, [record for _, record in records]))
        numbers.append(np.array([number for number, _ in records], np.int32))
        places.append(np.zeros(len(records), np.int32))
    table = pa.concat_tables(tables).combine_chunks()
    return Rows(schema, table, messages, np.concatenate(numbers), np.concatenate(places))


def _decode(message: Message, settings: IngestSettings) -> _Decoded:
    try:
        if _kind(message, settings) == CONTENT_TYPE_ARROW:
            return _decode_batch(message, settings)
        schema, record = decode_json(message.value)
        return _Decoded(message, (), schema, record, None, len(message.value) + _RECORD_BYTES)
    except MessageRejected as error:
        return _Decoded(message, (Rejection(message, WHOLE_MESSAGE, error.code, error.reason),))
    except Exception as error:  # noqa: BLE001
        # Bytes from outside, read by libraries that were not made for hostile ones: no list of what they may raise is
        # complete, and one that is missed would stop ingest at this message after every restart.
        return _Decoded(message, (_unforeseen(message, error),))


def _decode_batch(message: Message, settings: IngestSettings) -> _Decoded:
    batch = read_batch(message.value, settings.max_message_rows, settings.max_message_bytes)
    rejections = tuple(
        Rejection(message, fault.row, fault.code, fault.reason, batch.faulty, place)
        for place, fault in enumerate(batch.faults)
    )
    n_rows = len(rejections) + batch.table.num_rows
    return _Decoded(
        message, rejections, batch.schema, batch.table, batch.places, batch.table.nbytes + n_rows * _ROW_BYTES
    )


def _unforeseen(message: Message, error: Exception) -> Rejection:
    """Return the rejection of a message that raises what nobody thought of; the dead letter has all that it takes to repeat it."""
    shown = f"cannot be read: {type(error).__name__}: {(str(error) or 'no more is known').splitlines()[0][:200]}"
    log.error("%s/%s offset %s: %s; a dead letter", message.topic, message.partition, message.offset, shown)
    return Rejection(message, WHOLE_MESSAGE, "malformed", f"{shown}; mend the sender")


def _media_type(message: Message) -> str:
    return (message.content_type or "").partition(";")[0].strip().lower()


def _kind(message: Message, settings: IngestSettings) -> str:
    """Return the content type, one of the two that are known; raises MessageRejected, also for a message too large for it."""
    if message.fault:
        raise MessageRejected("malformed", message.fault)
    kind = _media_type(message)
    limits = {CONTENT_TYPE_JSON: settings.max_record_bytes, CONTENT_TYPE_ARROW: settings.max_message_bytes}
    if kind not in limits:
        shown = f"content-type {kind!r:.80}" if kind else "no content-type header"
        raise MessageRejected("unknown_content_type", f"{shown}; send {CONTENT_TYPE_JSON} or {CONTENT_TYPE_ARROW}")
    check_size(len(message.value), limits[kind], "bytes")
    return kind
