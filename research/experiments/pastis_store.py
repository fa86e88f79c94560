"""The packed store of a PASTIS-R folder: every parcel's pixel sets as the networks' sources take them, cut once.

    CACHE/patches-KEY/, CACHE/pixelsets-KEY/
        store.json                    what it was made of, how many rows, and the lines to show; written last
        parcels.npz                   patch, parcel, fold, label 0..19, n_pixels (P,); geometry (P, 4)
        s2.pixels, s2.day, s2.parcel  int16 (N, C, S), float32 (N,), int64 (N,), flat; s1a.*, s1d.* alike

KEY is a hash of the reader's version, its options, and the names, sizes and times of the files that were read: what
changed is cut anew. A store is written beside its place and moved there when it is whole; one process cuts at a time.
Chosen because: 2,433 patches are 68 GB and a pass over them takes minutes; the store is mapped, not read.
Shapes: P parcels, N observations of a modality, ascending by parcel; C channels, S pixels of a set.
Units:  pixels int16 of the sensor's scale, INVALID where nothing is; days since 2018-09-01; m, m2, 1/m, share.
Errors: PastisError where the store cannot be written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.patch_metadata import BACKGROUND, VOID, PastisError, Sensor

VERSION = 1
"""Of what a store holds: raised when the same files would be cut otherwise, so that older stores are not taken."""
CACHE = "parcelwatch-cache"
COLUMNS = ("pixels", "day", "parcel")

Progress = Callable[[int, int], None]
"""Called after each patch with (patches done, patches)."""
Notice = Callable[[str], None]
"""Called with a line for people: what is missing, what was left out."""
log: Notice = logging.getLogger(__name__).warning
"""Where such lines go unless the caller takes them."""


@dataclass(frozen=True)
class Options:
    """What is cut."""

    pixels: int = 64
    """Pixels of a set: all of a parcel that has no more, else a random choice, the same for every date and sensor."""
    sensors: tuple[str, ...] = ()
    """Of S2, S1A, S1D; none: all that are there."""
    unlabelled: bool = False
    """Keep parcels of background and void as well, without a label. The parcel classification leaves them out."""
    skip_broken: bool = False
    """Leave out patches (of pixel sets: parcels) that cannot be used, instead of stopping at them."""
    seed: int = 0
    """Of the choice of pixels."""

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise PastisError(f"{self.pixels} pixels of a set; at least 1 is needed")


@dataclass(frozen=True)
class Parcels:
    """Parcels as they were cut, a row each."""

    patch: NDArray[np.int64]
    parcel: NDArray[np.int64]
    """The source's id, unique in its patch."""
    fold: NDArray[np.int64]
    label: NDArray[np.int64]
    """0 background, 1..18, 19 void."""
    n_pixels: NDArray[np.int64]
    """All its pixels, of which at most S are stored."""
    geometry: NDArray[np.float64]
    """(P, 4) perimeter m, area m2, perimeter / area, fill; NaN where unknown."""

    @property
    def is_crop(self) -> NDArray[np.bool_]:
        """Return (P,) parcels of the 18 classes."""
        return np.asarray((self.label != BACKGROUND) & (self.label != VOID))

    def take(self, rows: NDArray[Any]) -> Parcels:
        """Return the parcels at `rows`."""
        return Parcels(*(getattr(self, one.name)[rows] for one in fields(self)))


@dataclass(frozen=True)
class Observed:
    """The observations of one sensor that were cut together."""

    pixels: NDArray[np.int16]
    """(N, C, S)."""
    day: NDArray[np.float32]
    parcel: NDArray[np.int64]
    """(N,) row of the parcel in its block, ascending."""


@dataclass(frozen=True)
class Block:
    """The parcels of a patch, with what was observed of them by each modality, and lines to show."""

    parcels: Parcels
    observed: Mapping[str, Observed]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is going to be cut, known before the first pixel is read."""

    n_blocks: int
    n_bytes: int
    """Of pixels, at most."""
    blocks: Iterator[Block]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Store:
    """A whole store, mapped."""

    parcels: Parcels
    observed: Mapping[str, Observed]
    notices: tuple[str, ...]


def key(form: str, options: Options, sensors: Sequence[Sensor], files: Iterable[Path]) -> str:
    """Return the hash that names the store of these files, or folders of files, cut in this way."""
    said = {"version": VERSION, "form": form, **asdict(options), "sensors": [one.name for one in sensors]}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for path in files:
        with ExitStack() as stack:
            entries: Iterable[Any] = stack.enter_context(os.scandir(path)) if path.is_dir() else (path,)
            for line in sorted(f"{path.name}/{one.name} {_size_and_time(one)}\n" for one in entries):
                digest.update(line.encode())
    return digest.hexdigest()[:16]


def _size_and_time(entry: Any) -> str:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def caches(folder: Path, cache: Path | None) -> tuple[Path, ...]:
    """Return where a store may lie: where the caller says, else in the folder itself or in the user's own cache."""
    if cache is not None:
        return (cache,)
    return folder / CACHE, Path.home() / ".cache" / "parcelwatch" / folder.resolve().name


def opened(
    places: Sequence[Path], name: str, plan: Callable[[], Plan], progress: Progress | None, notice: Notice
) -> Store:
    """Return the store of this name in the first place that has it whole, else cut into the first place that can be written.

    Raises:
        PastisError: nowhere to write, or no room.
    """
    store = next((one for place in places if (one := load(place / name)) is not None), None)
    if store is None:
        place = _writable(places)
        with _alone(place, notice):
            if load(place / name) is None:  # another process may have cut it meanwhile
                build(place / name, plan(), progress)
            store = load(place / name)
        if store is None:
            raise PastisError(f"{place / name}: just written, and not whole; delete it and check the disk")
    for line in store.notices:
        notice(line)
    return store


def load(path: Path) -> Store | None:
    """Return the store in a folder, mapped; None if there is none or it is not whole."""
    try:
        about = json.loads((path / "store.json").read_text(encoding="utf-8"))
        with (path / "parcels.npz").open("rb") as file, np.load(file) as table:
            parcels = Parcels(*(table[one.name] for one in fields(Parcels)))
        observed = {name: _mapped(path, name, tuple(shape)) for name, shape in about["shapes"].items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Store(parcels, observed, tuple(about["notices"]))


def _mapped(path: Path, name: str, shape: tuple[int, int, int]) -> Observed:
    rows = shape[0]
    files = {what: path / f"{name}.{what}" for what in COLUMNS}
    sizes = {"pixels": int(np.prod(shape)) * 2, "day": rows * 4, "parcel": rows * 8}
    if any(file.stat().st_size != sizes[what] for what, file in files.items()):
        raise ValueError(f"{path}: {name} is not whole")
    # An empty file cannot be mapped.
    pixels = np.memmap(files["pixels"], np.int16, "r", shape=shape) if rows else np.empty(shape, np.int16)
    return Observed(pixels, np.fromfile(files["day"], np.float32), np.fromfile(files["parcel"], np.int64))


def build(path: Path, plan: Plan, progress: Progress | None = None) -> None:
    """Write a store, beside its place, and move it there when it is whole.

    Raises:
        PastisError: no room, or it cannot be written; what was written is removed.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if plan.n_bytes > (free := shutil.disk_usage(path.parent).free):
        room = f"{plan.n_bytes / 1e9:.1f} GB of pixel sets, {free / 1e9:.1f} GB free"
        raise PastisError(f"{path.parent}: {room}; make room there, or give another cache folder")
    try:
        partial.mkdir()
        with ExitStack() as stack:
            _write(partial, plan, progress, stack)
        shutil.rmtree(path, ignore_errors=True)  # one that was not whole
        partial.rename(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PastisError(f"{path}: {reason} while cutting; make room there, or give another cache folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, plan: Plan, progress: Progress | None, stack: ExitStack) -> None:
    tables, notices, n_parcels = [], list(plan.notices), 0
    files: dict[str, dict[str, BinaryIO]] = {}
    shapes: dict[str, list[int]] = {}
    for done, block in enumerate(plan.blocks, start=1):
        for name, one in block.observed.items():
            if name not in files:
                files[name] = {what: stack.enter_context((partial / f"{name}.{what}").open("wb")) for what in COLUMNS}
                shapes[name] = [0, *one.pixels.shape[1:]]
            one.pixels.tofile(files[name]["pixels"])
            one.day.tofile(files[name]["day"])
            (one.parcel + n_parcels).tofile(files[name]["parcel"])
            shapes[name][0] += len(one.day)
        tables.append(block.parcels)
        notices += block.notices
        n_parcels += len(block.parcels.label)
        if progress:
            progress(done, plan.n_blocks)
    table = {one.name: np.concatenate([getattr(block, one.name) for block in tables]) for one in fields(Parcels)}
    np.savez(partial / "parcels.npz", allow_pickle=False, **table)
    for file in (one for of_sensor in files.values() for one in of_sensor.values()):
        file.flush()
        os.fsync(file.fileno())
    (partial / "store.json").write_text(json.dumps({"shapes": shapes, "notices": notices}, indent=1), encoding="utf-8")


def _writable(places: Sequence[Path]) -> Path:
    reasons = []
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            continue
        if os.access(place, os.W_OK):
            return place
        reasons.append(f"{place}: read-only")
    raise PastisError(f"no folder for the packed store ({'; '.join(reasons)}); give a cache folder that can be written")


@contextmanager
def _alone(place: Path, notice: Notice) -> Iterator[None]:
    """Holds the lock of a cache folder; the system frees it when the process ends, however it ends."""
    with (place / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"{place}: waiting for another process that is cutting pixel sets")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
