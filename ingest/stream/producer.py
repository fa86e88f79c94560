"""The producer library: observations out, as Arrow batches or JSON records, each confirmed by the broker or reported as failed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc
from kafka import KafkaProducer
from kafka.errors import KafkaError

from ingest.errors import BrokerRefuses, DeliveryFailed, MessageRejected
from ingest.stream.connection import client_options, connecting, is_refusal, refusal
from ingest.stream.messages import MODELS, decode_json, encode_arrow, encode_json, schema_of
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, ObservationSchema
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics

_FLUSH_S: Final = 60.0


class Sender:
    """Messages to topics; `flush` raises unless the broker has confirmed every one since the last."""

    def __init__(self, bootstrap: str, max_bytes: int) -> None:
        """Connect; raises BrokerUnavailable.

        Args:
            bootstrap: host:port of the broker, several separated by commas.
            max_bytes: largest message.
        """
        with connecting(bootstrap):
            self._kafka = KafkaProducer(
                **client_options(bootstrap),
                acks="all",
                enable_idempotence=True,
                max_request_size=max_bytes + 64 * 2**10,  # room for the key, headers and framing
                batch_size=256 * 2**10,  # JSON records share requests: three times the rate of the default 16 kB
                linger_ms=5,
                max_block_ms=10_000,
                delivery_timeout_ms=30_000,
                request_timeout_ms=10_000,
            )
        self._failures: list[BaseException] = []

    def send(self, topic: str, value: bytes, headers: Sequence[tuple[str, bytes]], key: bytes | None = None) -> None:
        """Queue a message; raises DeliveryFailed when it cannot even be queued."""
        try:
            self._kafka.send(topic, value=value, key=key, headers=list(headers)).add_errback(self._failures.append)
        except KafkaError as error:
            if is_refusal(error):
                raise BrokerRefuses(f"broker: a message for {topic} was not taken: {refusal(error)}") from error
            raise DeliveryFailed(f"broker: a message for {topic} was not taken: {_shown(error)}") from error

    def flush(self) -> None:
        """Wait until the broker has confirmed everything sent; raises DeliveryFailed: the caller sends again."""
        try:
            self._kafka.flush(_FLUSH_S)
        except KafkaError as error:
            self._failures.append(error)
        if self._failures:
            failures, self._failures = self._failures, []
            if refused := next(filter(is_refusal, failures), None):
                raise BrokerRefuses(f"broker: {len(failures)} messages were not taken: {refusal(refused)}")
            raise DeliveryFailed(
                f"broker: {len(failures)} messages were not confirmed; the first: {_shown(failures[0])}"
            )

    def close(self) -> None:
        """Let go of the connection; what was not flushed may be lost."""
        with suppress(KafkaError, OSError):  # a broker that is away needs no goodbye
            self._kafka.close(timeout=1)


class ObservationProducer:
    """Sends observations to the topics of their sensor; a context manager that flushes at its end.

    with ObservationProducer(bootstrap, settings) as producer:
        producer.send(table)                  # a table of one schema, as Arrow batches
        producer.send_records(S2, rows)       # rows as JSON, one by one
    """

    def __init__(self, bootstrap: str, settings: IngestSettings) -> None:
        """Connect and make the topics that are missing; raises BrokerUnavailable."""
        topics = Topics(bootstrap)
        topics.ensure(
            {**dict.fromkeys(settings.observation_topics, settings.partitions), settings.dead_letter_topic: 1}
        )
        topics.close()
        self._settings = settings
        self._sender = Sender(bootstrap, settings.producer_bytes)

    def send(self, table: pa.Table) -> int:
        """Queue a table of one of the schemas as Arrow batches within the size limit; return how many messages.

        `revision` and `is_withdrawn` may be left out or null, as in JSON.

        Raises:
            MessageRejected: its metadata names no known schema, or a required column is not there or has nulls; nothing is sent.
            DeliveryFailed: the queue takes no more.
        """
        schema, n_messages = schema_of(table), 0
        topic, table = self._settings.topic(schema.sensor), filled(table, schema)
        for message in batches(table, self._settings.producer_bytes):
            self._sender.send(topic, message, [("content-type", CONTENT_TYPE_ARROW.encode())])
            n_messages += 1
        return n_messages

    def send_records(self, schema: ObservationSchema, rows: Sequence[Mapping[str, Any]]) -> int:
        """Queue rows (as `Table.to_pylist` gives them) as JSON, one message each; return how many.

        `revision` and `is_withdrawn` may be left out or None.

        Raises:
            MessageRejected: a row is none of the schema's; nothing is sent.
            DeliveryFailed: the queue takes no more.
        """
        headers = [("content-type", CONTENT_TYPE_JSON.encode())]
        messages = [_record(schema, row, nr) for nr, row in enumerate(rows)]
        for row, message in zip(rows, messages, strict=True):
            self._sender.send(self._settings.topic(schema.sensor), message, headers, key=str(row["parcel_id"]).encode())
        return len(rows)

    def flush(self) -> None:
        """Wait until the broker has everything; raises DeliveryFailed."""
        self._sender.flush()

    def close(self) -> None:
        """Let go of the connection without waiting for what was not flushed."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()


def filled(table: pa.Table, schema: ObservationSchema) -> pa.Table:
    """Return the table with the defaults of what may be left out; raise MessageRejected where another value lacks."""
    defaults = _defaults(schema)
    for name in schema.required:
        is_there = name in table.column_names
        if is_there and not (n_null := table[name].null_count):
            continue
        if name not in defaults:
            found = f"null in {n_null} of {len(table)} rows" if is_there else "not there"
            raise MessageRejected("missing_value", f"column {name}: {found}, and every row needs it; nothing was sent")
        field = schema.arrow.field(name)
        if not is_there:
            table = table.append_column(field, pa.repeat(pa.scalar(defaults[name], field.type), len(table)))
            continue
        column = table[name].cast(field.type) if pa.types.is_null(table[name].type) else table[name]
        table = table.set_column(table.column_names.index(name), name, pc.fill_null(column, defaults[name]))
    return table


def _record(schema: ObservationSchema, row: Mapping[str, Any], nr: int) -> bytes:
    """Return a row as a JSON record that the consumer can read, without nulls where a default stands for them."""
    defaults = _defaults(schema)
    try:
        given = {name: value for name, value in row.items() if value is not None or name not in defaults}
        (message,) = encode_json(schema, [given])
        decode_json(message)
    except MessageRejected as error:
        raise MessageRejected(error.code, f"row {nr}: {error.reason}; nothing was sent") from None
    except (TypeError, ValueError) as error:  # what is no JSON: NaN, a date, pixels of another length
        raise MessageRejected("malformed", f"row {nr}: {_shown(error)}; nothing was sent") from None
    return message


def _defaults(schema: ObservationSchema) -> dict[str, Any]:
    """Return the values of required columns that JSON may leave out."""
    fields = MODELS[schema.id].model_fields
    return {name: fields[name].default for name in schema.required if not fields[name].is_required()}


def batches(table: pa.Table, max_bytes: int) -> Iterator[bytes]:
    """Yield a table as Arrow messages of at most `max_bytes`; a single row larger than that is its own message."""
    if not table.num_rows:
        return
    message = encode_arrow(table)
    if len(message) <= max_bytes or table.num_rows == 1:
        yield message
        return
    n_parts = min(table.num_rows, -(-len(message) // max_bytes))
    size = -(-table.num_rows // n_parts)
    if size == table.num_rows:  # never the same table again
        size = -(-table.num_rows // 2)
    for start in range(0, table.num_rows, size):
        yield from batches(table.slice(start, size), max_bytes)


def _shown(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
