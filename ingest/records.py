"""A record of the broker as a Message, whatever its headers hold and its compression hides.

kafka-python decompresses a batch of records without a limit, and raises from `poll`, at the same offset for ever, for a
batch that cannot be decompressed and for a header's key that is not UTF-8. Two of its methods are replaced here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from ingest.judge import Message

REDRIVEN_FROM: Final = "redriven-from"
"""Header of a message that was sent again: the key of the dead letter."""
_LARGEST_KEY: Final = 2**63 - 1


_MOST_OF_A_BATCH: Final = 32 * 2**20
"""Decompressed bytes of a batch of records: chosen as thirty times what producers make (1 MB)."""
_MOST_OF_A_POLL: Final = 64 * 2**20
"""Decompressed bytes of the batches that one poll reads, of which there may be one for each partition."""


class UnreadableKey(str):
    """A header's key whose bytes are not UTF-8, as far as they can be shown."""


class _Fault(str):
    """A header's key that stands for what is wrong with a whole batch of records."""


class _PollIsFull(Exception):
    """The batches of this poll were decompressed to more than one poll may hold: the rest is read by the next."""


_decompressed = 0
"""Bytes decompressed since a poll began."""


def poll(kafka: KafkaConsumer, timeout_s: float) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
    """Polls, with a limit to what is decompressed at once; raises what kafka-python raises."""
    global _decompressed  # the batches that are decompressed know of no consumer
    _decompressed = 0
    try:
        found: Mapping[TopicPartition, Sequence[ConsumerRecord]] = kafka.poll(timeout_ms=int(timeout_s * 1000))
    except _PollIsFull:  # left behind by the poll before: what it did not read is fetched again
        found = kafka.poll(timeout_ms=int(timeout_s * 1000))
    return found


def message_of(record: ConsumerRecord) -> Message:
    """The record as the consumer judges it."""
    headers = record.headers
    return Message(
        record.topic, record.partition, record.offset, _content_type(headers), record.value or b"",
        _fault(headers), _redriven_from(headers),
    )  # fmt: skip


def _fault(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    for key, _ in headers:
        if isinstance(key, _Fault):
            return str(key)
        if isinstance(key, UnreadableKey):
            return f"the key of a header is not UTF-8: {key!r:.80}; mend the sender"
    return None


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


_read_record, _decompress = DefaultRecordBatch._read_msg, DefaultRecordBatch._maybe_uncompress


def _read_any_record(batch: Any) -> Any:
    """Reads the next record of a batch, also one with a header's key that is not UTF-8.

    The batch moves on only behind a whole record, so one that raised can be read again.
    """
    if isinstance(batch._buffer, _Undecompressed):
        headers = [(_Fault(batch._buffer.fault), None)]
        last = batch.base_offset + batch.last_offset_delta
        return DefaultRecord(
            0, last, batch.max_timestamp, batch.timestamp_type, None, batch._buffer.compressed, headers
        )
    try:
        return _read_record(batch)
    except UnicodeDecodeError:
        batch._buffer = _Tolerant(batch._buffer)
        return _read_record(batch)


class _Undecompressed(bytearray):
    """In the place of a batch's records, none of which can be read: one record at its last offset tells of all."""

    def __init__(self, compressed: bytes, fault: str) -> None:
        super().__init__()
        self.compressed, self.fault = compressed, fault


def _decompress_some(batch: Any) -> None:
    """Decompresses a batch, or makes one faulty record of it where that is impossible or too much."""
    global _decompressed  # as in poll
    codec = _CODECS.get(batch.compression_type)
    if batch._decompressed or codec is None:
        _decompress(batch)
        return
    if _decompressed >= _MOST_OF_A_POLL:
        raise _PollIsFull
    batch._assert_has_codec(batch.compression_type)
    compressed = bytes(memoryview(batch._buffer)[batch._pos :])
    try:
        plain = pa.CompressedInputStream(pa.BufferReader(compressed), codec).read(_MOST_OF_A_BATCH + 1)
        fault = f"more than {_MOST_OF_A_BATCH} bytes, decompressed" if len(plain) > _MOST_OF_A_BATCH else ""
    except (pa.ArrowException, OSError, ValueError) as error:
        plain, fault = b"", f"{codec}: {str(error).partition(chr(10))[0][:100]}"
    _decompressed += len(plain)
    if fault:
        n_records, first = batch.records_count, batch.base_offset
        fault = (
            f"{n_records} records from offset {first} to this one cannot be decompressed: {fault}; send smaller batches"
        )
        batch._buffer, batch._num_records = _Undecompressed(compressed, fault), 1
    else:
        batch._buffer = bytearray(plain)
    batch._pos, batch._decompressed = 0, True


_CODECS: Final = {
    DefaultRecordBatch.CODEC_GZIP: "gzip", DefaultRecordBatch.CODEC_LZ4: "lz4", DefaultRecordBatch.CODEC_ZSTD: "zstd",
}  # fmt: skip
"""Read by Arrow, which can stop. Snappy stays with kafka-python: it makes at most 21 times as much."""

DefaultRecordBatch._read_msg = _read_any_record
DefaultRecordBatch._maybe_uncompress = _decompress_some
