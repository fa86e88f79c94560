"""PASTIS-R as patches (the archive with DATA_S2/S2_{ID_PATCH}.npy), its parcels cut to pixel sets once and then mapped.

    DATA_S2/S2_{ID}.npy                          (T, 10, H, W) int16, reflectance x 10000; H = W = 128
    DATA_S1A/S1A_{ID}.npy, DATA_S1D/S1D_{ID}.npy (T, 3, H, W) float16: VV, VH, VV-VH in dB; ascending, descending
    ANNOTATIONS/TARGET_{ID}.npy                  (3, H, W), channel 0 the class 0..19
    ANNOTATIONS/ParcelIDs_{ID}.npy               (H, W), 0 where no parcel is
    metadata.geojson                             see training.patch_metadata

A parcel is a parcel id within a patch; classes 1 to 18 are labels, background (0) and void (19: mostly outside its patch)
are left out, as in the published parcel classification. Dates count from 2018-09-01; folds are the official ones; a block
is a patch, so that no patch is split. Relative orbits are not given: 0.

    perimeter = pi/8 (n_0 + n_90 + (n_45 + n_135) / sqrt 2) 10 m     n_a: borders crossed by pixel lines of direction a

Source: https://github.com/VSainteuf/pastis-benchmark, code/dataloader.py; docs/pastis.md says what could be verified and
        what not. Perimeter: Crofton's formula in four directions, unbiased over orientations, where counting edges makes
        a slanted field's outline 1.4 times too long.
Errors: PastisError, one line: file, what, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from research.experiments import pastis_store
from research.experiments.pastis_labelled import labelled
from research.experiments.pastis_store import Block, Notice, Observed, Options, Parcels, Plan, Progress, log
from training.labelled import LabelledParcels
from training.patch_metadata import (
    BACKGROUND,
    INVALID,
    VOID,
    PastisError,
    Patch,
    Sensor,
    array,
    packed,
    patches,
    sensors_in,
)

PIXEL_M = 10.0
"""Of Sentinel-2's finest bands, to which all three sensors are resampled."""


def read(
    folder: Path,
    *,
    cache: Path | None = None,
    options: Options = Options(),
    progress: Progress | None = None,
    notice: Notice = log,
) -> LabelledParcels:
    """Return the labelled parcels of a PASTIS-R folder in patch form; cut the first time, mapped from then on.

    Args:
        cache: where the packed store lies; without it in the folder, or in the user's cache where that is read-only.
        progress: called after each patch that is cut.
        notice: called with a line for whatever is missing or was left out, also when the store was cut earlier; by default
            it is logged.

    Raises:
        PastisError: no PASTIS-R, a patch that cannot be used (unless skipped), or nowhere to write the store.
    """
    sensors = sensors_in(folder, options.sensors)
    files = [folder / name for name in ("metadata.geojson", "ANNOTATIONS", *(f"DATA_{one.name}" for one in sensors))]
    if not files[1].is_dir():
        raise PastisError(
            f"{files[1]}: no such folder; the patch form has it (with metadata_parcel.csv it is pixel sets)"
        )
    name = f"patches-{pastis_store.key('patches', options, sensors, files)}"
    places = pastis_store.caches(folder, cache)
    store = pastis_store.opened(places, name, lambda: _plan(folder, sensors, options), progress, notice)
    return labelled(store, folder.resolve().name, options, notice, is_co_located=True)


@dataclass(frozen=True)
class _Cut:
    """Where the parcels of a patch lie."""

    patch: Patch
    parcels: Parcels
    index: NDArray[np.int64]
    """(P, S) chosen pixels as flat indices, -1 where a parcel has no more."""
    size: tuple[int, ...]
    """Rows and columns."""


def _plan(folder: Path, sensors: tuple[Sensor, ...], options: Options) -> Plan:
    """Check every patch's annotations and array headers: what cannot be used is known before the cutting."""
    listed = patches(folder)
    cuts: list[_Cut] = []
    faults: list[str] = []
    n_values = 0
    for patch in listed:
        try:
            cut = _annotated(folder, patch, options)
            for sensor in sensors:
                n_dates = len(_images(folder, cut, sensor)[1])
                n_values += n_dates * len(sensor.channels) * cut.index.size
        except PastisError as error:
            faults.append(str(error))
        else:
            cuts.append(cut)
    if faults and (not options.skip_broken or not cuts):
        cure = "restore them, or give skip_broken to leave them out" if cuts else "is this PASTIS-R as published?"
        raise PastisError(f"{faults[0]} ({len(faults)} of {len(listed)} patches cannot be used); {cure}")
    notices = (f"{len(faults)} of {len(listed)} patches left out, the first: {faults[0]}",) if faults else ()
    blocks = (_block(folder, cut, sensors) for cut in cuts)
    return Plan(len(cuts), n_values * np.dtype(np.int16).itemsize, blocks, notices)


def _images(folder: Path, cut: _Cut, sensor: Sensor) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return a sensor's array (T, C, H, W) of a patch, mapped, and its days (T,)."""
    path = _image_path(folder, cut.patch, sensor)
    images = array(path, (None, len(sensor.channels), *cut.size), "dates, channels, rows, columns")
    days = cut.patch.days(sensor)
    if len(days) != len(images):
        raise PastisError(f"{path}: {len(images)} dates, but metadata.geojson has {len(days)} in dates-{sensor.name}")
    return images, days


def _image_path(folder: Path, patch: Patch, sensor: Sensor) -> Path:
    return folder / f"DATA_{sensor.name}" / f"{sensor.name}_{patch.id}.npy"


def _annotated(folder: Path, patch: Patch, options: Options) -> _Cut:
    ids_path = folder / "ANNOTATIONS" / f"ParcelIDs_{patch.id}.npy"
    target_path = folder / "ANNOTATIONS" / f"TARGET_{patch.id}.npy"
    ids = np.asarray(array(ids_path, (None, None), "parcel ids"), np.int64)
    target = np.asarray(array(target_path, (None, *ids.shape), "channels, rows, columns")[0], np.int64)
    if target.min() < BACKGROUND or target.max() > VOID:
        raise PastisError(f"{target_path}: classes {target.min()} to {target.max()}; 0 to 19 expected")
    known = np.unique(ids[ids > 0])
    of_pixel = np.where(ids > 0, np.searchsorted(known, ids) + 1, 0)
    n_classes = VOID + 1
    votes = np.bincount((of_pixel * n_classes + target).ravel(), minlength=(len(known) + 1) * n_classes)
    votes = votes.reshape(-1, n_classes)[1:]
    parcels = Parcels(
        patch=np.full(len(known), patch.id),
        parcel=known,
        fold=np.full(len(known), patch.fold),
        label=votes.argmax(axis=1),
        n_pixels=votes.sum(axis=1),
        geometry=shapes(of_pixel, len(known)),
    )
    random = np.random.default_rng([options.seed, patch.id])
    index = choose(of_pixel.ravel(), len(known), options.pixels, random)
    if not options.unlabelled:
        parcels, index = parcels.take(is_crop := parcels.is_crop), index[is_crop]
    return _Cut(patch, parcels, index, ids.shape)


def choose(of_pixel: NDArray[np.int64], parcels: int, size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return (P, S) indices of at most S pixels of each parcel, random and ascending, -1 for none; of_pixel (M,) is 1..P or 0."""
    chance = random.random(len(of_pixel))
    order = np.lexsort((chance, of_pixel))
    start = np.searchsorted(of_pixel[order], np.arange(parcels + 2))
    rank = np.arange(len(order)) - start[of_pixel[order]]
    chosen = np.sort(order[(rank < size) & (of_pixel[order] > 0)])
    chosen = chosen[np.argsort(of_pixel[chosen], kind="stable")]
    owner = of_pixel[chosen] - 1
    column = np.arange(len(chosen)) - np.searchsorted(owner, np.arange(parcels))[owner]
    index = np.full((parcels, size), -1, np.int64)
    index[owner, column] = chosen
    return index


def shapes(of_pixel: NDArray[np.int64], parcels: int) -> NDArray[np.float64]:
    """Return (P, 4) perimeter m, area m2, perimeter / area, share of the bounding box; of_pixel (H, W) is 1..P or 0."""
    framed = np.pad(of_pixel, 1)
    crossed = np.zeros(parcels + 1)
    for one, other, weight in (
        (framed[:, 1:], framed[:, :-1], 1.0),
        (framed[1:], framed[:-1], 1.0),
        (framed[1:, 1:], framed[:-1, :-1], 0.5**0.5),
        (framed[1:, :-1], framed[:-1, 1:], 0.5**0.5),
    ):
        differs = one != other
        for side in (one, other):
            crossed += weight * np.bincount(side[differs], minlength=parcels + 1)
    perimeter = np.pi / 8 * crossed[1:] * PIXEL_M
    area = np.bincount(of_pixel.ravel(), minlength=parcels + 1)[1:] * PIXEL_M**2
    sides = []
    for axis in np.indices(of_pixel.shape):
        first, last = np.full(parcels + 1, axis.max() + 1), np.full(parcels + 1, -1)
        np.minimum.at(first, of_pixel, axis)
        np.maximum.at(last, of_pixel, axis)
        sides.append((last - first + 1)[1:] * PIXEL_M)
    return np.stack([perimeter, area, perimeter / area, area / (sides[0] * sides[1])], axis=1)


def _block(folder: Path, cut: _Cut, sensors: tuple[Sensor, ...]) -> Block:
    return Block(cut.parcels, {one.modality: _observed(folder, cut, one) for one in sensors})


def _observed(folder: Path, cut: _Cut, sensor: Sensor) -> Observed:
    """Return the pixel sets of a patch's parcels at every date of a sensor, parcel by parcel."""
    images, days = _images(folder, cut, sensor)
    dates, channels = images.shape[:2]
    rows = images.reshape(dates * channels, -1)
    taken = packed(np.take(rows, cut.index.clip(0).ravel(), axis=1), sensor, _image_path(folder, cut.patch, sensor))
    sets = taken.reshape(dates, channels, *cut.index.shape).transpose(2, 0, 1, 3)  # (P, T, C, S)
    sets = np.where((cut.index < 0)[:, None, None, :], INVALID, sets)
    return Observed(
        np.ascontiguousarray(sets).reshape(-1, channels, cut.index.shape[1]),
        np.tile(days, len(cut.index)),
        np.repeat(np.arange(len(cut.index)), dates),
    )
