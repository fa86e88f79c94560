"""Codecs of record batches, undone within a limit of memory: bytes from outside may claim any size."""

import io
import zlib
from typing import Final

import lz4.frame
import snappy
import zstandard
from kafka.errors import CorruptRecordError, UnsupportedCodecError

CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_XERIAL: Final = b"\x82SNAPPY\x00"  # snappy's framing by Java clients: 16 bytes, then blocks with their sizes
BROKEN: Final = (
    CorruptRecordError,
    ValueError,
    IndexError,
    EOFError,
    RuntimeError,
    MemoryError,
    OSError,
    OverflowError,
    zlib.error,
    snappy.UncompressError,
    zstandard.ZstdError,
)
"""What the codecs and the parser raise of bytes that are not what they claim."""


class TooLarge(ValueError):
    """The batch would take more memory than the limit; nothing of it was kept."""


def decompress(codec: int, data: bytes, limit: int) -> bytes:
    """Return the records of a batch, at most `limit` bytes of them.

    Raises TooLarge, UnsupportedCodecError, or one of `BROKEN`.
    """
    if codec not in CODECS:
        raise UnsupportedCodecError(f"compression codec {codec} is none that this version knows")
    found = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}[codec](data, limit)
    if len(found) > limit:
        raise TooLarge(f"the batch has more than {limit} bytes when its {CODECS[codec]} is undone")
    return found


def _gzip(data: bytes, limit: int) -> bytes:
    member = zlib.decompressobj(31)  # Kafka's clients write one member
    found = member.decompress(data, limit + 1)
    if not member.eof and len(found) <= limit:
        raise EOFError("gzip ends too early")
    if member.unused_data:
        raise ValueError("bytes follow the end of gzip")
    return found


def _snappy(data: bytes, limit: int) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappy_block(data, limit)
    found, place = [], 16
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big", signed=True)
        if size < 0 or place + 4 + size > len(data):
            raise ValueError("a snappy block ends beyond the batch")
        found.append(_snappy_block(data[place + 4 : place + 4 + size], limit))
        limit, place = limit - len(found[-1]), place + 4 + size
    return b"".join(found)


def _snappy_block(data: bytes, limit: int) -> bytes:
    """Return a block's bytes; the size in its first bytes is checked before anything is allocated."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > limit:
        raise TooLarge(f"a snappy block claims {size} bytes")
    return bytes(snappy.uncompress(data))


def _lz4(data: bytes, limit: int) -> bytes:
    reader = lz4.frame.LZ4FrameDecompressor()
    found = reader.decompress(data, max_length=limit + 1)
    if not reader.eof and len(found) <= limit:
        raise EOFError("lz4 ends too early")
    return bytes(found)


def _zstd(data: bytes, limit: int) -> bytes:
    # A window is memory, too: 8 MiB is what every decoder must grant (RFC 8878), 128 MiB the most that one takes unasked.
    reader = zstandard.ZstdDecompressor(max_window_size=max(2**23, 1 << limit.bit_length()))
    with reader.stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
        return stream.read(limit + 1)
