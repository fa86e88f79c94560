"""Records of the broker as messages, whatever bytes their headers are."""

import tracemalloc

import pytest
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch

from ingest import records
from ingest.records import message_of
from tests.raw_headers import RawKey


def read(*headers: list[tuple[str, bytes | None]], compression: int = 0) -> list[ConsumerRecord]:
    """Records with these headers, written and read again as the broker has them."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=compression, batch_size=10**6)
    for number, some in enumerate(headers):
        builder.append(timestamp=1, key=None, value=b"%d" % number, headers=some)
    builder.close()
    batch = MemoryRecords(bytes(builder.buffer())).next_batch()
    return [
        ConsumerRecord("t", 3, -1, one.offset, 1, 0, one.key, one.value, one.headers, None, 0, 0, 0) for one in batch
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


def compressed(values: list[bytes]) -> DefaultRecordBatch:
    """A gzipped batch of records, as a consumer has it before it reads the first."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=1, batch_size=10**9)
    for value in values:
        builder.append(timestamp=1, key=None, value=value, headers=[])
    builder.close()
    return MemoryRecords(bytes(builder.buffer())).next_batch()


def test_a_batch_that_is_small_only_when_compressed_is_one_faulty_message() -> None:
    batch = compressed([bytes(20_000_000)] * 3)
    assert len(batch._buffer) < 100_000
    tracemalloc.start()
    found = list(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70_000_000
    ((offset, value, headers),) = ((one.offset, one.value, one.headers) for one in found)
    record = ConsumerRecord("t", 0, -1, offset, 1, 0, None, value, headers, None, 0, 0, 0)
    message = message_of(record)
    assert (message.offset, len(message.value) < 100_000) == (2, True)
    assert "3 records from offset 0" in (message.fault or "")


@pytest.mark.parametrize("place", [0, 1, 12, -5])
def test_a_batch_that_cannot_be_decompressed_is_one_faulty_message(place: int) -> None:
    batch = compressed([bytes(range(256)) * 4] * 9)
    if place < 0:
        del batch._buffer[place:]
    else:
        batch._buffer[batch._pos + place] ^= 0xFF
    assert [one.offset for one in batch] in ([8], list(range(9)))


def test_a_poll_that_has_read_enough_leaves_the_rest_to_the_next() -> None:
    class Kafka:
        polls = 0

        def poll(self, timeout_ms: int) -> dict[str, list[int]]:
            self.polls += 1
            if self.polls == 1:
                for _ in range(9):
                    assert len(list(compressed([bytes(10_000_000)]))) == 1
            assert timeout_ms == 250
            return {"t": [self.polls]}

    kafka = Kafka()
    assert records.poll(kafka, 0.25) == {"t": [2]}
    assert records.poll(kafka, 0.25) == {"t": [3]}
