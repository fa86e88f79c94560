"""Records of the broker as messages, whatever bytes their headers are."""

import pytest
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from ingest.stream.record_batches import _Batch, message_of
from tests.raw_headers import RawKey


def read(*headers: list[tuple[str, bytes | None]], compression: int = 0) -> list[ConsumerRecord]:
    """Records with these headers, written and read again as the broker has them."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=compression, batch_size=10**6)
    for number, some in enumerate(headers):
        builder.append(timestamp=1, key=None, value=b"%d" % number, headers=some)
    builder.close()
    batch = MemoryRecords(bytes(builder.buffer())).next_batch()
    return [
        ConsumerRecord("t", 3, -1, offset, 1, 0, one.key, one.value, one.headers, None, 0, 0, 0)
        for offset, one in _Batch(batch, 2**20)
    ]


@pytest.mark.parametrize("compression", [0, 1])
def test_a_header_key_that_is_not_utf8_makes_its_message_malformed_and_no_other(compression: int) -> None:
    good: list[tuple[str, bytes | None]] = [("Content-Type", b"application/json"), ("ä", b"1")]
    bad: list[tuple[str, bytes | None]] = [("content-type", b"application/json"), (RawKey("x\xff\xfe"), None)]
    messages = [message_of(record) for record in read(good, bad, good, bad, bad, compression=compression)]
    assert [(one.offset, one.value) for one in messages] == [(nr, b"%d" % nr) for nr in range(5)]
    assert [one.fault is None for one in messages] == [True, False, True, False, False]
    assert "not UTF-8" in (messages[1].fault or "")
    assert {one.content_type for one in messages} == {"application/json"}
    (messages[1].fault or "").encode()


@pytest.mark.parametrize(
    ("headers", "content_type", "redriven_from"),
    [
        ([], None, None),
        ([("content-type", None)], None, None),
        ([("content-type", b"\xff\0")], "\xff\0", None),
        ([("redriven-from", b"17")], None, 17),
        ([("redriven-from", None)], None, None),
        ([("redriven-from", b"-17")], None, None),
        ([("redriven-from", b"")], None, None),
        ([("redriven-from", b"9" * 5_000)], None, None),
        ([("redriven-from", "١٧".encode())], None, None),
    ],
)
def test_headers_of_any_value_are_read(
    headers: list[tuple[str, bytes | None]], content_type: str | None, redriven_from: int | None
) -> None:
    (record,) = read(headers)
    message = message_of(record)
    assert (message.fault, message.content_type, message.redriven_from) == (None, content_type, redriven_from)
