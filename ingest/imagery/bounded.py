"""Metadata files from outside, read within bounds: regular files only, so many bytes, and what parsing makes of them."""

import errno
import hashlib
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from xml.etree import ElementTree

LARGEST_JSON: Final = 4 * 2**20
"""Bytes of an item's file: items are some 100 kB, and what a message holds is less than that."""
LARGEST_XML: Final = 8 * 2**20
"""Bytes of a product's metadata: MTD_TL.xml has 0.6 MB; the tree of elements takes some 30 times as much memory."""
_LARGEST_DIRECTORY: Final = 4 * 2**20
"""Bytes of a zip's directory: a product has some 150 members."""
_LARGEST_IMAGE: Final = 2**30
"""Bytes that a zip's member may unpack to: a whole tile of one band takes 241 MB uncompressed."""
_TAIL: Final = 2**16 + 22
"""Where a zip's end record lies: 22 bytes and a comment."""
ZIP_ERRORS: Final = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, zlib.error, struct.error)
"""What Python's zipfile raises for damaged, encrypted (RuntimeError) and strangely compressed members."""


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises OSError, also for a pipe, a device or a folder, which are never waited for, and for more than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return _bounded(file, most, str(path))


def parsed_json(text: bytes | str) -> Any:
    """Return what a JSON text says. Raises ValueError, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parsed_xml(text: bytes) -> ElementTree.Element:
    """Return the root of an XML text without a document type, whose entities may grow. Raises ElementTree.ParseError."""
    if b"<!DOCTYPE" in text.replace(b"\0", b""):  # in UTF-16, every other byte of it is zero
        raise ElementTree.ParseError("holds a document type, which metadata of a product do not")
    return ElementTree.fromstring(text)


def zip_members(path: Path) -> list[str]:
    """Return the names of a zip's members. Raises OSError, ZIP_ERRORS."""
    with _zip(path) as archive:
        return archive.namelist()


def read_member(path: Path, member: str, most: int) -> bytes:
    """Return the bytes of a zip's member; no more than `most` are unpacked. Raises OSError, ZIP_ERRORS."""
    with _zip(path) as archive, archive.open(member) as file:
        return _bounded(file, most, member)


def digest(path: Path, member: str | None, algorithm: str) -> str:
    """Return the digest in hexadecimal of a regular file, or of a zip's member. Raises OSError, ZIP_ERRORS."""
    if member is not None:
        with _zip(path) as archive, archive.open(member) as file:
            if archive.getinfo(member).file_size > _LARGEST_IMAGE:
                raise zipfile.BadZipFile(f"{member} unpacks to more than {_LARGEST_IMAGE:,} bytes")
            return hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]  # typeshed wants getbuffer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as whole:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return hashlib.file_digest(whole, algorithm).hexdigest()


def _bounded(file: IO[bytes], most: int, name: str) -> bytes:
    content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", name)
    return content


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip once its directory is known to be small."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        file.seek(max(os.fstat(descriptor).st_size - _TAIL, 0))
        tail = file.read(_TAIL)
        place = tail.rfind(b"PK\x05\x06")
        said = int.from_bytes(tail[place + 12 : place + 16], "little") if place >= 0 else 0
        if said == 2**32 - 1 and (wide := tail.rfind(b"PK\x06\x06")) >= 0:
            said = int.from_bytes(tail[wide + 40 : wide + 48], "little")
        if said > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {said:,} bytes")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            yield archive
