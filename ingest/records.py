"""A record of the broker as a Message, whatever its headers hold."""

from collections.abc import Sequence
from typing import Any, Final

from kafka.consumer.fetcher import ConsumerRecord
from kafka.record.default_records import DefaultRecordBatch

from ingest.judge import Message

REDRIVEN_FROM: Final = "redriven-from"
"""Header of a message that was sent again: the key of the dead letter."""
_LARGEST_KEY: Final = 2**63 - 1


class UnreadableKey(str):
    """A header's key whose bytes are not UTF-8, as far as they can be shown."""


def message_of(record: ConsumerRecord) -> Message:
    """The record as the consumer judges it."""
    headers = record.headers
    return Message(
        record.topic, record.partition, record.offset, _content_type(headers), record.value or b"",
        _fault(headers), _redriven_from(headers),
    )  # fmt: skip


def _fault(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    for key, _ in headers:
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


_read_record = DefaultRecordBatch._read_msg


def _read_any_record(batch: Any) -> Any:
    """Reads the next record of a batch, also one with a header's key that is not UTF-8.

    kafka-python raises CorruptRecordError for such a record within `poll`, at the same offset for ever: nobody could step
    over it, nor know it from a broken disk. The batch moves on only behind a whole record, so it can be read again.
    """
    try:
        return _read_record(batch)
    except UnicodeDecodeError:
        batch._buffer = _Tolerant(batch._buffer)
        return _read_record(batch)


DefaultRecordBatch._read_msg = _read_any_record
