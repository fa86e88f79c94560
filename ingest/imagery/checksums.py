"""Checksums that catalogues and products publish, and whether the bytes that are read have them.

    STAC            file:checksum (file extension 1.0 and later), checksum:multihash before: a multihash in hexadecimal
    manifest.safe   <checksum checksumName="SHA3-256"> of each data object; MD5 in older products

A flipped byte in a JPEG 2000 decodes to other values without any error: nothing else would notice it.

Source: multiformats' multihash table; Sentinel-SAFE Product Format Specification.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from ingest.imagery.bounded import ZIP_ERRORS, digest

_MULTIHASH: Final = {
    "1114": "sha1",
    "1220": "sha256",
    "1340": "sha512",
    "1440": "sha3_512",
    "1530": "sha3_384",
    "1620": "sha3_256",
    "171c": "sha3_224",
    "a04030": "sha384",
    "d50110": "md5",
}
"""Algorithms by what a multihash of them begins with: code and length, in hexadecimal."""
_NAMED: Final = {"sha3-256": "sha3_256", "sha-256": "sha256", "sha256": "sha256", "md5": "md5"}


class Checksum(NamedTuple):
    """A digest in lower-case hexadecimal, and the algorithm as hashlib names it."""

    algorithm: str
    digest: str


def from_multihash(text: Any) -> Checksum | None:
    """Return the checksum of a multihash; None where it is none, or of an algorithm that is not known."""
    said = str(text).lower()
    for start, algorithm in _MULTIHASH.items():
        if said.startswith(start) and len(said) - len(start) == 2 * hashlib.new(algorithm).digest_size:
            return Checksum(algorithm, said.removeprefix(start))
    return None


def from_manifest(name: str, text: str) -> Checksum | None:
    """Return the checksum of a data object of a manifest; None of an algorithm that is not known."""
    algorithm = _NAMED.get(name.strip().lower())
    return Checksum(algorithm, text.strip().lower()) if algorithm else None


def require(href: str, published: Checksum) -> None:
    """Compare a local file, or a member of a local zip, with its checksum. Files of servers are read in parts: not compared.

    Raises ValueError where they differ, or the member of a zip cannot be unpacked; OSError where the file cannot be read.
    """
    path, member = local_file(href)
    if path is None:
        return
    try:
        found = digest(path, member, published.algorithm)
    except ZIP_ERRORS as error:
        raise ValueError(str(error)) from error
    if found != published.digest:
        raise ValueError(f"its {published.algorithm} is {found}, published is {published.digest}")


def local_file(href: str) -> tuple[Path | None, str | None]:
    """Return the file, and the member of it where it is a zip; no file where the address is a server's."""
    if href.startswith("/vsizip/"):
        whole = Path(href.removeprefix("/vsizip"))
        archive = next((one for one in whole.parents if one.is_file()), None)
        return archive, str(whole.relative_to(archive)) if archive else None
    path = href.removeprefix("file://")
    return (None if "://" in path or path.startswith("/vsi") else Path(path)), None
