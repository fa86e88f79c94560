"""A watched folder: SAFE folders and zips, and STAC items (JSON) beside their COGs; each once, when it is whole.

Whole is what has not changed for some seconds and misses no file: of a SAFE folder those that its manifest (else its
metadata) lists, of a zip its directory, of an item the files of its bands. Change shows in ctime, which no copying
program can set back. What is published is read again only when it changes; another process knows it by the ledger.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from ingest.errors import IngestError
from ingest.imagery.bounded import (
    LARGEST_JSON,
    LARGEST_XML,
    ZIP_ERRORS,
    parsed_json,
    parsed_xml,
    read_file,
    zip_members,
)
from ingest.scenes.items import NotAScene, scene_of_file, scene_of_safe
from ingest.scenes.polling import Outcome, Publish, Rejections
from ingest.scenes.profiles import CatalogueProfile, reading_of
from ingest.scenes.record import FoundScene

SETTLED: Final = timedelta(seconds=30)
"""Without a change (chosen as longer than a copying program pauses between two files of a product)."""
_DEEPEST: Final = 6
_MOST_FILES: Final = 10_000
"""Of a SAFE folder: a product has some 150."""
_MOST_ENTRIES: Final = 200_000
"""Bounds of one poll: a year of a country's products, not a whole disk."""


class FolderError(IngestError):
    """The folder cannot be watched: name another, or mend its rights."""


class _NotYet(Exception):
    """Files are still missing: try again later."""


@dataclass(frozen=True, slots=True)
class FolderPoll:
    """What one poll of a folder found."""

    outcome: Outcome
    waiting: Rejections
    """Entries that are not whole yet."""
    new_rejections: tuple[str, ...]
    """What was rejected and not reported before: one sentence each."""


class Watch:
    """A folder and what was seen in it so far.

    Args:
        folder: searched six levels deep.
        profile: reads its items; None: by the names that the three large catalogues use.
    """

    def __init__(self, folder: Path, profile: CatalogueProfile | None = None, settled: timedelta = SETTLED) -> None:
        self._folder, self._profile, self._settled = folder.resolve(), profile, settled
        self.source = f"folder:{self._folder}"
        self._name = f"folder:{self._folder.name}"
        self._done: dict[str, _Signature] = {}
        self._seen: dict[str, tuple[_Signature, datetime]] = {}
        self._reported: dict[str, _Signature | None] = {}

    def poll(self, now: datetime, publish: Publish) -> FolderPoll:
        """Publish what has become whole. Raises FolderError, and what publishing raises (then all is found again)."""
        found: dict[str, FoundScene] = {}
        seen: dict[str, _Signature] = {}
        waiting, rejected, new_rejections = Rejections(), Rejections(), list[str]()
        for path in sorted(_entries(self._folder)):
            signature: _Signature | None = None
            try:
                signature = _signature(path)
                if self._done.get(path) == signature:
                    continue
                self._require_settled(path, signature, now)
                scene = self._scene(Path(path), now)
            except _NotYet as error:
                waiting = waiting.also(f"{Path(path).name}: {error}")
            except FileNotFoundError as error:
                if Path(path).is_symlink():  # else it vanished meanwhile
                    rejected = self._rejected(
                        path, signature, f"{Path(path).name}: {error.strerror}", rejected, new_rejections
                    )
            except (NotAScene, OSError) as error:
                line = str(error) if isinstance(error, NotAScene) else f"{Path(path).name}: {error.strerror or error}"
                rejected = self._rejected(path, signature, line, rejected, new_rejections)
            else:
                if scene is None:
                    self._done[path] = signature
                else:
                    found[path], seen[path] = scene, signature
        counted = publish(found.values()) if found else None
        self._done.update(seen)
        outcome = Outcome(self.source, counted.new if counted else 0, counted.known if counted else 0, rejected)
        return FolderPoll(outcome, waiting, tuple(new_rejections))

    def _rejected(
        self, path: str, signature: "_Signature | None", line: str, rejected: Rejections, new_rejections: list[str]
    ) -> Rejections:
        """Count what cannot become a scene; report it once for each state of the file."""
        if path not in self._reported or self._reported[path] != signature:
            self._reported[path] = signature
            new_rejections.append(line)
        return rejected.also(line)

    def _require_settled(self, path: str, signature: "_Signature", now: datetime) -> None:
        """Unchanged by its own times, or since this process saw it first (where the file server's clock is wrong)."""
        known, since = self._seen.get(path, (None, now))
        if known != signature:
            self._seen[path], since = (signature, now), now
        changed = min(signature.changed, since)
        if now - changed < self._settled:
            raise _NotYet("still being written")

    def _scene(self, path: Path, now: datetime) -> FoundScene | None:
        """Return the scene at a path, None where it is something else. Raises _NotYet, NotAScene, OSError."""
        if path.suffix == ".json":
            return self._item(path, now)
        if path.suffix == ".zip":
            inside = zipped_product(path)
            return scene_of_safe(path, inside, self._name, now) if inside else None
        _require_files(path)
        return scene_of_safe(path, path.stem, self._name, now)

    def _item(self, path: Path, now: datetime) -> FoundScene | None:
        if path.stat().st_size > LARGEST_JSON:  # something else than an item
            return None
        try:
            item = parsed_json(read_file(path, LARGEST_JSON))
        except ValueError as error:
            raise NotAScene(f"{path.name}: not JSON: {error}") from error
        if not isinstance(item, dict) or item.get("type") != "Feature" or "assets" not in item:
            return None
        scene = scene_of_file(item, str(path), self._profile, self._name, now)
        keys = {key for names in reading_of(self._profile, scene.sensor).assets.values() for key in names}
        for key, asset in (scene.item or {})["assets"].items():
            if key in keys and asset["href"].startswith("/") and not asset["href"].startswith("/vsi"):
                self._require_file(Path(asset["href"]), key, now)
        return scene

    def _require_file(self, file: Path, key: str, now: datetime) -> None:
        try:
            self._require_settled(str(file), _signature(str(file)), now)
        except FileNotFoundError:
            raise _NotYet(f"{key}: {file.name} is not there") from None


@dataclass(frozen=True, slots=True)
class _Signature:
    """Size and time of a file, or of a folder with all that is in it: a change of the content changes it."""

    size: int
    files: int
    changed: datetime


def _entries(folder: Path) -> Iterator[str]:
    """Yield paths that may be products or items. Raises FolderError."""
    left, waiting = _MOST_ENTRIES, [(str(folder), 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        raise FolderError(f"folder {folder}: more than {_MOST_ENTRIES:,} entries; watch a part of it")
                    if entry.name.startswith("."):
                        continue
                    if entry.name.endswith(".SAFE") and _is_dir(entry, follow_symlinks=True):
                        yield entry.path
                    elif _is_dir(entry, follow_symlinks=False):
                        waiting += [(entry.path, depth + 1)] if depth < _DEEPEST else []
                    elif entry.name.endswith((".zip", ".json")):
                        yield entry.path
        except OSError as error:
            if depth == 0:
                raise FolderError(f"folder {folder}: {error.strerror}") from error


def _is_dir(entry: os.DirEntry[str], *, follow_symlinks: bool) -> bool:
    """Return whether an entry is a folder; one that cannot be asked, as a link in a circle, is none."""
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:
        return False


def _signature(path: str) -> _Signature:
    """Return the signature of a file, or of everything below a folder. Raises OSError."""
    size, files, changed = 0, 0, 0.0
    places = [path] if Path(path).is_dir() else []
    own = Path(path).stat()
    if not (stat.S_ISREG(own.st_mode) or (places and path.endswith(".SAFE"))):
        raise NotAScene(f"{Path(path).name}: not a regular file")
    size, changed = (0 if places else own.st_size), own.st_ctime
    while places:
        with os.scandir(places.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                size, files, changed = size + found.st_size, files + 1, max(changed, found.st_ctime)
                if files > _MOST_FILES:
                    raise NotAScene(f"{Path(path).name}: more than {_MOST_FILES:,} files are no product")
                places += [entry.path] if entry.is_dir(follow_symlinks=False) else []
    return _Signature(size, files, datetime.fromtimestamp(changed, UTC))


def zipped_product(path: Path) -> str | None:
    """Return the product in a zip, by its directory; None where it holds none. Raises NotAScene."""
    try:
        folders = {name.split("/")[0] for name in zip_members(path) if ".SAFE/" in name}
    except OSError as error:
        raise NotAScene(f"{path.name}: {error.strerror}") from error
    except ZIP_ERRORS as error:
        raise NotAScene(f"{path.name}: {error}; fetch it again") from error
    return min(folders).removesuffix(".SAFE") if folders else None


def _require_files(safe: Path) -> None:
    """Raise _NotYet while files are missing that the product itself lists, NotAScene where it cannot be read."""
    manifest, metadata = safe / "manifest.safe", safe / "MTD_MSIL2A.xml"
    listed: list[tuple[str, int | None]] = []
    try:
        if manifest.exists():
            for stream in parsed_xml(read_file(manifest, LARGEST_XML)).iterfind(".//{*}byteStream"):
                place = stream.find("{*}fileLocation")
                if place is not None and (href := place.get("href")):
                    size = stream.get("size", "")
                    listed.append((href, int(size) if size.isdecimal() else None))
        elif metadata.exists():
            product = parsed_xml(read_file(metadata, LARGEST_XML))
            listed = [(f"{(image.text or '').strip()}.jp2", None) for image in product.iterfind(".//{*}IMAGE_FILE")]
        else:
            raise _NotYet("neither manifest.safe nor MTD_MSIL2A.xml is there")
    except ElementTree.ParseError as error:
        raise NotAScene(f"{safe.name}: its list of files is broken: {error}") from error
    missing = [href for href, size in listed if not _is_there(safe / href, size)]
    if missing:
        raise _NotYet(f"{len(missing)} of {len(listed)} files are missing or short, as {Path(missing[0]).name}")


def _is_there(file: Path, size: int | None) -> bool:
    try:
        return file.stat().st_size == size if size is not None else file.is_file()
    except OSError:
        return False
