"""Which pixels of a grid belong to which parcel: built once, cached by content, then every scene only gathers.

The grid is cut into chunks of 1,024 x 1,024 pixels. Within a chunk the pixels of a parcel are a *segment*; chunks without
a segment are never read. Overlapping parcels each have their own pixels. The sample of a parcel is keyed by its id and
the pixels' coordinates: the same on every date, for every band, and on every grid that shares the pixels; it is in random
order, so the first n of it are a sample too.
"""

import hashlib
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ingest.imagery.parcels import Parcels
from ingest.imagery.scanlines import Runs, expand, runs
from ingest.imagery.scene import Grid

Ints = NDArray[np.int32]

VERSION: Final = 1
"""Raised when the same parcels would give other arrays."""
CHUNK: Final = 1024
"""Pixels to a side: blocks of Sentinel-2's 10 m JP2 and of public COGs, whole multiples of the usual 512 and 256."""
_BATCH: Final = 20_000
"""Parcels worked on at once (chosen because their crossings and pixels take about 300 MB)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The parcels' pixels within one window of the grid."""

    row: int
    column: int
    height: int
    width: int
    pixel: Ints
    """(n,) local row * 1024 + local column; segment by segment, row by row."""
    start: Ints
    """(m,) where each segment begins in `pixel`."""
    parcel: Ints
    """(m,) whose segment it is."""
    sampled: Ints
    """(t,) places in `pixel` that are in their parcel's sample."""
    sampled_parcel: Ints
    slot: Ints
    """(t,) places in the sample."""


@dataclass(frozen=True, slots=True)
class ParcelIndex:
    """Arrays of P parcels on a grid: K chunks, M segments, N pixels, T sampled pixels."""

    n_pixels: Ints
    """(P,) pixels of the parcel, also those outside of the grid."""
    n_inside: Ints
    """(P,) of them inside of it."""
    sample_start: NDArray[np.int64]
    """(P + 1,) bounds of the samples, one after another."""
    chunk_row: Ints
    chunk_column: Ints
    chunk_segment: Ints
    """(K + 1,) bounds of the chunks' segments."""
    chunk_sample: Ints
    """(K + 1,) bounds of the chunks' sampled pixels."""
    segment_parcel: Ints
    segment_pixel: Ints
    """(M + 1,) bounds of the segments' pixels."""
    pixel: Ints
    sample_pixel: Ints
    """(T,) places in `pixel`, ordered."""
    sample_parcel: Ints
    sample_slot: Ints
    size: Ints
    """Height and width of the grid."""

    @property
    def n_chunks(self) -> int:
        """Windows that hold pixels of parcels."""
        return len(self.chunk_row)

    def chunk(self, number: int) -> Chunk:
        """Return one window and what of the parcels lies in it."""
        row, column = int(self.chunk_row[number]) * CHUNK, int(self.chunk_column[number]) * CHUNK
        segments = slice(*self.chunk_segment[number : number + 2])
        samples = slice(*self.chunk_sample[number : number + 2])
        first, end = self.segment_pixel[segments.start], self.segment_pixel[segments.stop]
        return Chunk(
            row,
            column,
            min(CHUNK, int(self.size[0]) - row),
            min(CHUNK, int(self.size[1]) - column),
            pixel=self.pixel[first:end],
            start=self.segment_pixel[segments] - first,
            parcel=self.segment_parcel[segments],
            sampled=self.sample_pixel[samples] - first,
            sampled_parcel=self.sample_parcel[samples],
            slot=self.sample_slot[samples],
        )


def load_or_build(
    parcels: Parcels, grid: Grid, buffer_m: float, least_pixels: int, sample_pixels: int, folder: Path | None = None
) -> ParcelIndex:
    """Return the index of these very parcels from `folder`, built and kept there if it is missing or damaged."""
    if folder is None:
        return build(parcels, grid, buffer_m, least_pixels, sample_pixels)
    how = repr((VERSION, astuple(grid), buffer_m, least_pixels, sample_pixels)).encode()
    path = folder / f"{hashlib.sha256(how + parcels.content_hash()).hexdigest()[:32]}.npz"
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return ParcelIndex(**{field.name: stored[field.name] for field in fields(ParcelIndex)})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        index = build(parcels, grid, buffer_m, least_pixels, sample_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    # Workers that build the same index at the same time do not disturb each other: not threads of one, nor two that are process 1
    # each in a container of its own.
    partial = path.with_suffix(f".{uuid.uuid4().hex}.npz")
    np.savez(partial, allow_pickle=False, **{field.name: getattr(index, field.name) for field in fields(index)})
    partial.replace(path)
    return index


def build(parcels: Parcels, grid: Grid, buffer_m: float, least_pixels: int, sample_pixels: int) -> ParcelIndex:
    """Return the index, made anew.

    Args:
        parcels: all that a scene may be asked for.
        grid: where pixels lie.
        buffer_m: inner buffer in metres.
        least_pixels: parcels with fewer inside the grid get no pixels.
        sample_pixels: largest sample of a parcel.
    """
    n_pixels, n_inside = np.zeros(len(parcels), np.int32), np.zeros(len(parcels), np.int32)
    found, samples, n_runs = [_NO_RUNS], [_NO_SAMPLE], 0
    for begin in range(0, len(parcels), _BATCH):
        batch = slice(begin, begin + _BATCH)
        everywhere = runs(parcels.on_grid(grid, buffer_m, batch))
        inside = _cut(everywhere, grid)
        size = len(n_pixels[batch])
        n_pixels[batch] = np.bincount(everywhere.owner, everywhere.length, size)
        n_inside[batch] = np.bincount(inside.owner, inside.length, size)
        inside = inside[n_inside[batch][inside.owner] >= least_pixels]
        inside = Runs(inside.owner + begin, inside.row, inside.first, inside.end)
        sample = _sampled(inside, parcels, grid, sample_pixels)
        found.append(inside)
        samples.append(_Sample(sample.run + n_runs, sample.step, sample.parcel, sample.slot))
        n_runs += len(inside.row)
    return _chunked(_joined(found), _joined(samples), grid, n_pixels, n_inside)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Sampled pixels: the run each lies in and how far along, its parcel and its place in the parcel's sample."""

    run: NDArray[np.int64]
    step: NDArray[np.int64]
    parcel: NDArray[np.int64]
    slot: NDArray[np.int64]


_NONE: Final = np.zeros(0, np.int64)
_NO_RUNS: Final = Runs(_NONE, _NONE, _NONE, _NONE)
_NO_SAMPLE: Final = _Sample(_NONE, _NONE, _NONE, _NONE)


_Columns = TypeVar("_Columns", Runs, _Sample)


def _joined(parts: Sequence[_Columns]) -> _Columns:
    return type(parts[0])(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0]))
    )


def _cut(found: Runs, grid: Grid) -> Runs:
    """Return runs inside the grid, cut where chunks meet; still ordered by parcel."""
    inside = found[(found.row >= 0) & (found.row < grid.height) & (found.first < grid.width) & (found.end > 0)]
    first, end = np.maximum(inside.first, 0), np.minimum(inside.end, grid.width)
    which, step = expand((end - 1) // CHUNK - first // CHUNK + 1)
    edge = (first[which] // CHUNK + step) * CHUNK
    return Runs(
        inside.owner[which], inside.row[which], np.maximum(first[which], edge), np.minimum(end[which], edge + CHUNK)
    )


def _sampled(found: Runs, parcels: Parcels, grid: Grid, most: int) -> _Sample:
    """Return the `most` pixels of each parcel whose coordinates, mixed with the parcel's id, give the smallest numbers."""
    owners, first_run = np.unique(found.owner, return_index=True)
    run, step = expand(found.length)
    bounds = np.append(np.searchsorted(run, first_run), len(run))
    hashed = b"".join(hashlib.blake2b(parcels.ids[owner].encode(), digest_size=8).digest() for owner in owners.tolist())
    # Coordinates in pixels: the same for every grid that shares the pixel; columns may count from below zero.
    down = (round(grid.top / grid.pixel_m) - found.row).astype(np.uint64) << np.uint64(32)
    key = (down + (found.first + (round(grid.left / grid.pixel_m) + 2**31)).astype(np.uint64))[run] + step.astype(
        np.uint64
    )
    key = _mixed(key ^ np.repeat(np.frombuffer(hashed, "<u8"), np.diff(bounds)))
    chosen = [begin + np.argsort(key[begin:end])[:most] for begin, end in pairwise(bounds.tolist())]
    parcel, slot = expand(np.array([len(one) for one in chosen], np.int64))
    place = np.concatenate([_NONE, *chosen])
    return _Sample(run[place], step[place], owners[parcel], slot)


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a one-to-one mixing of 64 bits, so no two pixels tie. Source: Steele, Lea, Flood 2014 (SplitMix64)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def _chunked(found: Runs, sample: _Sample, grid: Grid, n_pixels: Ints, n_inside: Ints) -> ParcelIndex:
    """Return the arrays, ordered by chunk, parcel, row and column."""
    across = -(-grid.width // CHUNK)
    order = np.lexsort((found.first, found.row, found.owner, (found.row // CHUNK) * across + found.first // CHUNK))
    found = found[order]
    chunk = (found.row // CHUNK) * across + found.first // CHUNK
    ends = np.cumsum(found.length)
    begins = ends - found.length
    place = np.empty(len(order), np.int64)
    place[order] = begins
    sample_pixel = place[sample.run] + sample.step
    by_place = np.argsort(sample_pixel)

    first_run = np.flatnonzero(np.diff(chunk * (len(n_pixels) + 1) + found.owner, prepend=-1))  # (M,)
    n_total = int(found.length.sum())
    segment_pixel = np.append(begins[first_run], n_total)
    chunks, chunk_segment = np.unique(chunk[first_run], return_index=True)
    chunk_pixel = np.append(segment_pixel[chunk_segment], n_total)
    local = (found.row % CHUNK) * CHUNK + found.first % CHUNK
    pixel = np.repeat((local - begins).astype(np.int32), found.length)
    pixel += np.arange(n_total, dtype=np.int32)
    as_ints = {
        "n_pixels": n_pixels,
        "n_inside": n_inside,
        "chunk_row": chunks // across,
        "chunk_column": chunks % across,
        "chunk_segment": np.append(chunk_segment, len(first_run)),
        "chunk_sample": np.searchsorted(sample_pixel[by_place], chunk_pixel),
        "segment_parcel": found.owner[first_run],
        "segment_pixel": segment_pixel,
        "pixel": pixel,
        "sample_pixel": sample_pixel[by_place],
        "sample_parcel": sample.parcel[by_place],
        "sample_slot": sample.slot[by_place],
        "size": np.array([grid.height, grid.width]),
    }
    counts = np.bincount(sample.parcel, minlength=len(n_pixels))
    return ParcelIndex(
        sample_start=np.concatenate([[0], np.cumsum(counts)]),
        **{name: values.astype(np.int32, copy=False) for name, values in as_ints.items()},
    )
