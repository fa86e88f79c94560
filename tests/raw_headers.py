"""Kafka headers that kafka-python's producer refuses to send, although the protocol, and other clients, have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka.record.default_records import DefaultRecordBatchBuilder

NULL: Final = b"\0this value is null"


class RawKey(str):
    """A header's key of characters up to U+00FF, each of which goes out as one byte: not UTF-8."""

    def encode(self, *_: Any) -> bytes:
        return super().encode("latin-1")


@contextmanager
def null_values() -> Iterator[None]:
    """Headers whose value is NULL go out without a value."""
    append = DefaultRecordBatchBuilder.append

    def appended(self: Any, offset: int, timestamp: int, key: Any, value: Any, headers: Any, *more: Any) -> Any:
        some = [(name, None if content == NULL else content) for name, content in headers]
        return append(self, offset, timestamp, key, value, some, *more)

    DefaultRecordBatchBuilder.append = appended
    try:
        yield
    finally:
        DefaultRecordBatchBuilder.append = append
