"""Record batches, whole and broken: each comes out as its records or as what says why not, within the limit."""

import gzip
import random
from collections.abc import Iterator

import lz4.frame
import pytest
import snappy
import zstandard
from kafka.errors import UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from ingest.stream.decompression import TooLarge, decompress
from ingest.stream.record_batches import Unreadable, UnreadableKey, _Batch

LIMIT = 2**20
CODECS = {1: gzip.compress, 2: snappy.compress, 3: lz4.frame.compress, 4: zstandard.compress}


def batch(codec: int, n: int = 20, value: bytes = b"value " * 10) -> bytearray:
    """A batch of records from offset 0."""
    made = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 2**20)
    for number in range(n):
        made.append(number, timestamp=0, key=None, value=value, headers=[("content-type", b"x")])
    return bytearray(made.build())


def signed(data: bytearray) -> bytes:
    """The batch with the checksum of its bytes, as a sender of garbage would send it."""
    data[17:21] = calc_crc32c(memoryview(data)[21:]).to_bytes(4, "big")
    return bytes(data)


def read(data: bytes) -> Iterator[tuple[int, object]]:
    return iter(_Batch(DefaultRecordBatch(data), LIMIT))


@pytest.mark.parametrize("codec", [0, *CODECS])
def test_records_of_every_codec_are_read(codec: int) -> None:
    found = list(read(bytes(batch(codec))))
    assert [offset for offset, _ in found] == list(range(20))
    assert {record.value for _, record in found} == {b"value " * 10}  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_would_fill_the_memory_is_not_decompressed(codec: int) -> None:
    bomb = CODECS[codec](bytes(64 * LIMIT))
    with pytest.raises(TooLarge):
        decompress(codec, bomb, LIMIT)


def test_an_unknown_codec_stops() -> None:
    data = batch(0)
    data[22] |= 5
    with pytest.raises(UnsupportedCodecError, match="codec 5"):
        list(read(signed(data)))


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_may_be_passed_by(codec: int) -> None:
    data = batch(0)
    data[22] |= codec
    ((offset, found),) = _Batch(DefaultRecordBatch(signed(data)), LIMIT, (UnsupportedCodecError,))
    assert offset == 19
    assert isinstance(found, Unreadable)
    assert f"codec {codec}" in found.why


def test_a_header_key_that_is_no_text_costs_one_record() -> None:
    data = batch(0)
    place = data.index(b"content-type", data.index(b"content-type") + 1)
    data[place] = 0xFF
    found = list(read(signed(data)))
    assert [offset for offset, _ in found] == list(range(20))
    assert not any(isinstance(record, Unreadable) for _, record in found)
    assert [nr for nr, one in found if any(isinstance(key, UnreadableKey) for key, _ in one.headers)] == [1]  # type: ignore[attr-defined]


def test_a_wrong_checksum_costs_the_batch() -> None:
    data = batch(0)
    data[-1] ^= 1
    ((offset, found),) = read(bytes(data))
    assert offset == 19
    assert isinstance(found, Unreadable)
    assert found.why == "the batch of offsets 0 to 19 cannot be read: its checksum is wrong"


@pytest.mark.parametrize("codec", [0, *CODECS])
def test_whatever_the_bytes_are_reading_ends_at_the_batchs_end(codec: int) -> None:
    chance = random.Random(codec)
    whole = batch(codec)
    for _ in range(1_000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(61, len(data))] = chance.randrange(256)
        offsets = [offset for offset, _ in read(signed(data))]
        assert offsets
        assert offsets[:-1] == sorted(set(offsets[:-1]))  # the last stands for the rest of a broken batch
        assert 0 <= offsets[0] <= offsets[-1] <= 19
