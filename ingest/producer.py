"""The producer library: observations out, as Arrow batches or JSON records, each confirmed by the broker or told of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
from kafka import KafkaProducer
from kafka.errors import KafkaError

from ingest.connection import client_options, connecting, is_refusal, refusal
from ingest.errors import BrokerRefuses, DeliveryFailed
from ingest.messages import encode_arrow, encode_json, schema_of
from ingest.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S2, ObservationSchema
from ingest.settings import IngestSettings
from ingest.topics import Topics

_FLUSH_S: Final = 60.0


class Sender:
    """Messages to topics; `flush` raises unless the broker has confirmed every one since the last."""

    def __init__(self, bootstrap: str, max_bytes: int) -> None:
        """Connects; raises BrokerUnavailable.

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
        """Queues a message; raises DeliveryFailed when it cannot even be queued."""
        try:
            self._kafka.send(topic, value=value, key=key, headers=list(headers)).add_errback(self._failures.append)
        except KafkaError as error:
            if is_refusal(error):
                raise BrokerRefuses(f"broker: a message for {topic} was not taken: {refusal(error)}") from error
            raise DeliveryFailed(f"broker: a message for {topic} was not taken: {_told(error)}") from error

    def flush(self) -> None:
        """Waits until the broker has confirmed everything sent; raises DeliveryFailed: the caller sends again."""
        try:
            self._kafka.flush(_FLUSH_S)
        except KafkaError as error:
            self._failures.append(error)
        if self._failures:
            failures, self._failures = self._failures, []
            if refused := next(filter(is_refusal, failures), None):
                raise BrokerRefuses(f"broker: {len(failures)} messages were not taken: {refusal(refused)}")
            raise DeliveryFailed(
                f"broker: {len(failures)} messages were not confirmed; the first: {_told(failures[0])}"
            )

    def close(self) -> None:
        """Lets go of the connection; what was not flushed may be lost."""
        with suppress(KafkaError, OSError):  # a broker that is away needs no goodbye
            self._kafka.close(timeout=1)


class ObservationProducer:
    """Sends observations to the topics of their sensor; a context manager that flushes at its end.

    with ObservationProducer(bootstrap, settings) as producer:
        producer.send(table)                  # a table of one schema, as Arrow batches
        producer.send_records(S2, rows)       # rows as JSON, one by one
    """

    def __init__(self, bootstrap: str, settings: IngestSettings) -> None:
        """Connects and makes the topics that are missing; raises BrokerUnavailable."""
        topics = Topics(bootstrap)
        topics.ensure(
            {**dict.fromkeys(settings.observation_topics, settings.partitions), settings.dead_letter_topic: 1}
        )
        topics.close()
        self._settings = settings
        self._sender = Sender(bootstrap, settings.producer_bytes)

    def send(self, table: pa.Table) -> int:
        """Queues a table of one of the schemas as Arrow batches within the size limit; returns how many messages.

        Raises MessageRejected when its metadata names no known schema, DeliveryFailed when the queue takes no more.
        """
        topic, n_messages = self._topic(schema_of(table)), 0
        for message in batches(table, self._settings.producer_bytes):
            self._sender.send(topic, message, [("content-type", CONTENT_TYPE_ARROW.encode())])
            n_messages += 1
        return n_messages

    def send_records(self, schema: ObservationSchema, rows: Sequence[Mapping[str, Any]]) -> int:
        """Queues rows (as `Table.to_pylist` gives them) as JSON, one message each; returns how many."""
        headers = [("content-type", CONTENT_TYPE_JSON.encode())]
        for row, message in zip(rows, encode_json(schema, rows), strict=True):
            self._sender.send(self._topic(schema), message, headers, key=str(row["parcel_id"]).encode())
        return len(rows)

    def flush(self) -> None:
        """Waits until the broker has everything; raises DeliveryFailed."""
        self._sender.flush()

    def close(self) -> None:
        """Lets go of the connection without waiting for what was not flushed."""
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

    def _topic(self, schema: ObservationSchema) -> str:
        return self._settings.s2_topic if schema is S2 else self._settings.s1_topic


def batches(table: pa.Table, max_bytes: int) -> Iterator[bytes]:
    """A table as Arrow messages of at most `max_bytes`; a single row larger than that is its own message."""
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


def _told(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
