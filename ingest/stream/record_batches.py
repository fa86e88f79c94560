"""Record batches as a consumer may meet them: read within a limit of memory, and never a reason to stop.

kafka-python raises where a batch cannot be read, at the same offset for ever, and decompresses whatever a batch claims.
Here a record that cannot be read comes out as an `Unreadable` in its place, and a poll ends at a number of bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import KafkaError, UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

from ingest.stream.decompression import BROKEN, decompress
from ingest.stream.validation import Message

REDRIVEN_FROM: Final = "redriven-from"
"""Header of a message that was sent again: the key of the dead letter."""
_LARGEST_KEY: Final = 2**63 - 1
_JOIN_MS: Final = 25
"""How long a poll of a member that holds partitions waits for the group: joining goes on in the background."""


class Unreadable(bytes):
    """A record's value, or its whole batch, that could not be read; `why` says so in a sentence."""

    why: str

    def __new__(cls, value: bytes, why: str) -> "Unreadable":
        """Take the bytes as they came."""
        made = super().__new__(cls, value)
        made.why = why
        return made


class UnreadableKey(str):
    """A header's key whose bytes are not UTF-8, as far as they can be shown."""


class _Tolerant(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Tolerant(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        try:
            return super().decode(encoding, errors)
        except UnicodeDecodeError:
            return UnreadableKey(super().decode(encoding, "replace"))


def message_of(record: ConsumerRecord) -> Message:
    """Return the record as the consumer validates it; `fault` says what is wrong with it around its value."""
    value, headers = record.value, record.headers
    fault = None
    if isinstance(value, Unreadable):
        fault = value.why
        value = bytes(value)  # as every other message has it
    for key, _ in headers:
        if isinstance(key, UnreadableKey):
            fault = f"the key of a header is not UTF-8: {key!r:.80}; mend the sender"
    return Message(
        record.topic,
        record.partition,
        record.offset,
        _content_type(headers),
        value or b"",
        fault,
        _redriven_from(headers),
    )


def _content_type(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    for key, value in headers:
        if key.lower() == "content-type":
            return None if value is None else value.decode("latin-1")
    return None


def _redriven_from(headers: Sequence[tuple[str, bytes | None]]) -> int | None:
    for key, value in headers:
        if key == REDRIVEN_FROM and value is not None and value.isdigit() and len(value) < len(str(_LARGEST_KEY)):
            return int(value)
    return None


class _Batch:
    """One batch, record by record; what cannot be read is said in its place."""

    def __init__(self, batch: DefaultRecordBatch, limit: int, tolerated: tuple[type[Exception], ...] = BROKEN) -> None:
        self._batch, self._limit, self._tolerated = batch, limit, tolerated
        self._raw = bytes(batch._buffer)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield each record's offset, and the record or an Unreadable; the last offset for the rest of a broken batch."""
        batch = self._batch
        if not batch.validate_crc():
            yield batch.last_offset, self._whole("its checksum is wrong")
            return
        try:
            if batch.compression_type:
                batch._buffer = bytearray(decompress(batch.compression_type, self._raw[batch._pos :], self._limit))
                batch._pos = 0
            batch._decompressed = True
        except self._tolerated as error:
            yield batch.last_offset, self._whole(_line(error))
            return
        yield from self._records(batch)

    def _records(self, batch: DefaultRecordBatch) -> Iterator[tuple[int, Any]]:
        before = batch.base_offset - 1
        for _ in range(batch.records_count):
            start = batch._pos
            try:
                record = self._read(batch, start)
            except BROKEN as error:
                skipped = self._skip(batch, start, error)
                if skipped is None or skipped[0] <= before:
                    yield batch.last_offset, self._whole(_line(error))
                    return
                before = skipped[0]
                yield skipped
            else:
                # Offsets that go back, or beyond the batch, would lead the consumer past other records.
                if not before < record.offset <= batch.last_offset:
                    yield batch.last_offset, self._whole(f"offset {record.offset} follows {before}")
                    return
                before = record.offset
                yield record.offset, record

    def _read(self, batch: DefaultRecordBatch, start: int) -> Any:
        """Return the next record, also one with a header's key that is not UTF-8."""
        try:
            return batch._read_msg()
        except UnicodeDecodeError:
            batch._buffer, batch._pos = _Tolerant(batch._buffer), start
            return batch._read_msg()

    def _skip(self, batch: DefaultRecordBatch, start: int, error: BaseException) -> tuple[int, Unreadable] | None:
        """Return the offset and the bytes of a broken record whose length is right; None where it is not."""
        buffer = batch._buffer
        try:
            length, place = decode_varint(buffer, start)
            end = place + length
            _, place = decode_varint(buffer, place)  # attributes
            _, place = decode_varint(buffer, place)  # time
            delta, place = decode_varint(buffer, place)
        except (ValueError, IndexError):
            return None
        if not place <= end <= len(buffer) or not 0 <= delta <= batch.last_offset_delta:
            return None
        batch._pos = end
        return batch.base_offset + delta, Unreadable(bytes(buffer[start:end]), f"the record is broken: {_line(error)}")

    def _whole(self, why: str) -> Unreadable:
        batch = self._batch
        first, last = batch.base_offset, batch.last_offset
        return Unreadable(self._raw, f"the batch of offsets {first} to {last} cannot be read: {why}")


def _line(error: BaseException) -> str:
    data = error.args[0] if isinstance(error, KafkaError) and error.args else error  # without the class's name
    return (str(data) or type(error).__name__).splitlines()[0][:200]


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python is untyped
    """What a fetch brought of one partition, without the stops of its base class."""

    max_batch_bytes = max_take_bytes = 0  # set by `bound`
    tolerated = BROKEN
    next_fetch_offset: int
    records_read: int
    bytes_read: int

    def take(self, n: int | None = None) -> list[Any]:
        """Return the next records: at most `n`, and no more after so many bytes."""
        found, n_bytes = [], 0
        self._maybe_raise_next_inline_exception()
        try:
            for record in self.record_iterator:
                found.append(record)
                n_bytes += len(record.value or b"")
                if len(found) == n or n_bytes >= self.max_take_bytes:
                    break
        except UnsupportedCodecError as error:
            if not found:
                raise
            self._next_inline_exception = error  # raised once what came before was taken
        return found

    def _unpack_records(self, tp: Any, records: Any, *_: object) -> Iterator[ConsumerRecord]:
        try:
            while (batch := records.next_batch()) is not None:
                yield from self._of_batch(tp, batch)
        except self.tolerated as error:  # the fetch itself is broken, or a message set of Kafka before 0.11
            why = f"what follows offset {self.next_fetch_offset} cannot be read: {_line(error)}"
            yield self._made(tp, self.next_fetch_offset, Unreadable(b"", why))
        except UnsupportedCodecError as error:
            where = f"{tp.topic}/{tp.partition}, offset {self.next_fetch_offset}"
            raise UnsupportedCodecError(f"{where}: {_line(error)}") from error
        self.drain()

    def _of_batch(self, tp: Any, batch: Any) -> Iterator[ConsumerRecord]:
        if batch.magic < 2:
            for record in batch:
                yield self._made(tp, record.offset, record)
            return
        self.leader_epoch = batch.leader_epoch
        if not self._is_aborted(batch) and not batch.is_control_batch:
            for offset, record in _Batch(batch, self.max_batch_bytes, self.tolerated):
                yield self._made(tp, offset, record)
        # The batch keeps its last offset when its last records are compacted away. Never back: that would go round.
        self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _is_aborted(self, batch: Any) -> bool:
        """Return whether a batch belongs to an aborted transaction, keeping account of their markers."""
        if not batch.has_producer_id():
            return False
        self._consume_aborted_transactions_up_to(batch.last_offset)
        if batch.is_control_batch:
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            return False
        return bool(self._is_batch_aborted(batch))

    def _made(self, tp: Any, offset: int, record: Any) -> ConsumerRecord:
        self.next_fetch_offset = offset + 1
        value = record if isinstance(record, Unreadable) else record.value
        headers = [] if value is record else record.headers
        self.records_read, self.bytes_read = self.records_read + 1, self.bytes_read + len(value or b"")
        return ConsumerRecord(
            tp.topic, tp.partition, self.leader_epoch, offset, 0, 0, None, value, headers, None, -1, -1, -1
        )


class _Fetcher(Fetcher):  # type: ignore[misc]
    """A fetcher that fetches ahead, whose poll ends at a number of bytes, and that knows where the last stable offset was."""

    PartitionRecords = _Records
    stable: dict[TopicPartition, int]

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> tuple[Any, bool]:
        """Return what fetches brought, and fetch what follows at once.

        kafka-python fetches ahead only where a poll finds an answer that is there already: a poll that waited for one asks
        for nothing, so the next waits as well, and nothing travels while a batch is stored.
        """
        records, is_partial = super().fetched_records(max_records, update_offsets)
        if records and not is_partial:  # else what is in memory already is taken first
            self.send_fetches()
        return records, is_partial

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        data = completed_fetch.partition_data
        if data.error_code == 0:
            stable = data.last_stable_offset  # none comes from brokers without transactions
            end = data.high_watermark if stable is None or stable < 0 else stable
            self.stable[completed_fetch.topic_partition] = end
        return super()._parse_fetched_data(completed_fetch)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        taken = super()._append(drained, part, max_records, update_offsets)
        n_bytes = sum(len(record.value or b"") for records in drained.values() for record in records)
        is_full = n_bytes >= self.PartitionRecords.max_take_bytes
        return max_records if is_full else int(taken)


def bound(kafka: KafkaConsumer, max_batch_bytes: int, max_poll_bytes: int, skips_unknown_codecs: bool) -> None:
    """Make a consumer read batches of at most so many bytes, decompressed, and end a poll after so many bytes of values.

    A poll may overshoot by one record. A batch in an unknown codec is one `Unreadable` where `skips_unknown_codecs`, else
    it raises UnsupportedCodecError once all before it was taken: another version may be able to read it.
    """
    limits = {
        "max_batch_bytes": max_batch_bytes,
        "max_take_bytes": max_poll_bytes,
        "tolerated": (*BROKEN, UnsupportedCodecError) if skips_unknown_codecs else BROKEN,
    }
    fetcher = type("_BoundFetcher", (_Fetcher,), {"PartitionRecords": type("_BoundRecords", (_Records,), limits)})
    kafka._fetcher.__class__ = fetcher
    kafka._fetcher.stable = {}


def stable_ends(kafka: KafkaConsumer) -> dict[TopicPartition, int]:
    """Return the last stable offset that fetches reported, of every partition that had one answered (after `bound`)."""
    return dict(kafka._fetcher.stable)


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """A member that goes on with the partitions it holds while its group makes a new assignment.

    kafka-python returns nothing from a poll until the new generation is complete: the time that the broker waits for a
    member that was killed. Nothing is stored twice by going on: the database's offsets fence out who is late.
    """

    def poll(self, timeout_ms: float | None = None) -> bool:
        holds = bool(self._subscription.assigned_partitions())
        return super().poll(_JOIN_MS if holds else timeout_ms) or holds


def keep_fetching(kafka: KafkaConsumer) -> None:
    """Make a member of a cooperative group read on while the group is being rebalanced."""
    kafka._coordinator.__class__ = _Coordinator
