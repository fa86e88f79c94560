"""What a parcel file is by its contents, and what the reader opens: the file, links to its parts, or what was unpacked."""

import lzma
import re
import shutil
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Final, Literal

from ingest.parcels.errors import ParcelFileError
from ingest.parcels.texts import listed

Kind = Literal["gpkg", "shp", "geojson", "parquet", "zip"]

BEGINNINGS: Final[dict[bytes, Kind]] = {
    b"SQLite format 3\0": "gpkg",
    b"\0\0\x27\x0a": "shp",
    b"PAR1": "parquet",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
UNREADABLE: Final = {".zip": "not a zip archive, or damaged", ".parquet": "not a readable parquet file"}
MEMBER_SUFFIXES: Final = {".gpkg", ".shp", ".geojson", ".json", ".parquet", ".geoparquet"}
SHAPEFILE_PARTS: Final = (".shp", ".shx", ".dbf", ".prj", ".cpg")
MAX_UNPACKED: Final = 64 << 30
MAX_INFLATION: Final = 200
"""Bytes unpacked from an archive: at most 64 GB, and 200 times its size where that is over 1 GB (shapefiles have 10)."""


class Folder:
    """A temporary folder that goes with the last reference to it."""

    def __init__(self) -> None:
        """Make the folder."""
        self.path = Path(tempfile.mkdtemp(prefix="parcelwatch-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def source_of(path: Path) -> tuple[Kind, Path, Folder | None]:
    """Return the kind of a file by its contents, what the reader is to open, and the folder that this lies in."""
    kind = _kind(path)
    if kind == "zip":
        folder = Folder()
        member = _unpack(path, folder.path)
        kind = _kind(member, f"{path}, {member.name}")
        if kind == "zip":
            raise ParcelFileError(f"{path}: an archive inside an archive; unpack it")
        return kind, member, folder
    if kind == "shp":
        # Links to what belongs to it, so that nothing else beside it is read.
        folder = Folder()
        for part in path.resolve().parent.iterdir():
            if part.stem == path.stem and part.suffix.lower() in SHAPEFILE_PARTS and part.is_file():
                (folder.path / f"{path.stem}{part.suffix.lower()}").symlink_to(part)
        return kind, folder.path / f"{path.stem}.shp", folder
    return kind, path.resolve(), None


def _kind(path: Path, called: str = "") -> Kind:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ParcelFileError(f"{called or path}: cannot be read: {error.strerror}") from error
    for beginning, kind in BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "geojson"
    if not head.strip(b"\0"):
        raise ParcelFileError(f"{called or path}: not a readable parcel file: it is empty")
    reason = UNREADABLE.get(path.suffix.lower().replace(".geoparquet", ".parquet"), "not a readable parcel file")
    raise ParcelFileError(
        f"{called or path}: {reason}: it does not begin like a GeoPackage, shapefile, GeoJSON, GeoParquet or zip archive"
    )


def _unpack(path: Path, folder: Path) -> Path:
    """Write the one parcel file of an archive into a folder, in whatever folder it lies there; return its path."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not (info.is_dir() or info.filename.startswith("__MACOSX"))]
            members = [info for info in files if Path(info.filename).suffix.lower() in MEMBER_SUFFIXES]
            if len(members) != 1:
                found = listed([info.filename for info in members]) if members else "none"
                raise ParcelFileError(f"{path}: must hold one GeoPackage, shapefile or GeoJSON, found {found}")
            chosen = Path(members[0].filename)
            stem = chosen.stem if re.fullmatch(r"[\w .()-]{1,100}", chosen.stem) else "parcels"
            parts = SHAPEFILE_PARTS if chosen.suffix.lower() == ".shp" else (chosen.suffix.lower(),)
            budget = min(MAX_UNPACKED, max(1 << 30, MAX_INFLATION * path.stat().st_size))
            for info in files:
                inside = Path(info.filename)
                if inside.with_suffix("") == chosen.with_suffix("") and inside.suffix.lower() in parts:
                    budget -= _write_member(archive, info, folder / f"{stem}{inside.suffix.lower()}", budget)
            return folder / f"{stem}{chosen.suffix.lower()}"
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ParcelFileError(f"{path}: cannot be unpacked: {error.strerror}") from error
        raise ParcelFileError(f"{path}: not a zip archive, or damaged: {error}") from error
    except (NotImplementedError, RuntimeError) as error:  # a method that Python lacks; a password
        raise ParcelFileError(f"{path}: {error}; unpack it, and import what it holds") from error


def _write_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, budget: int) -> int:
    """Write a member of an archive and return its length; raises ParcelFileError above the budget of bytes."""
    written = 0
    with archive.open(info) as source, target.open("wb") as made:
        while chunk := source.read(1 << 20):
            written += len(chunk)
            if written > budget:
                raise ParcelFileError(f"{archive.filename}: unpacks to more than {MAX_INFLATION} times its size")
            made.write(chunk)
    return written
