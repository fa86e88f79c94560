"""PASTIS-R as pixel sets (the archive "PASTIS-R pixel-set format", made for parcel classification), packed once and mapped.

    metadata_parcel.csv        ID_PARCEL, ID_PATCH, Fold, Label 1..18, and four columns GF_... with geometric features
    metadata.geojson           dates of each patch, see training.patch_metadata
    DATA_S2/S2_{ID_PARCEL}.npy (T, 10, N), reflectance x 10000; N all pixels of the parcel, 0 for some parcels
    DATA_S1A/..., DATA_S1D/... (T, 3, N): VV, VH, VV-VH in dB

Labels, folds, dates and blocks as in research.experiments.pastis. Where the three arrays of a parcel have as many pixels as each other
the same pixels of each are taken, else each has a choice of its own. A parcel without pixels stays, observed by nothing: it
is scored like any parcel that was never seen.

Source: https://github.com/VSainteuf/pastis-benchmark, code/dataloader_pixelset.py, and docs/pastis.md. Names and units of
        GF_... and the types of the arrays could not be verified: every numeric type is read, and features are known by
        their names or taken in file order.
Errors: PastisError, one line: file, what, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from research.experiments import pastis_store
from research.experiments.pastis_labelled import labelled
from research.experiments.pastis_store import Block, Notice, Observed, Options, Parcels, Plan, Progress, log
from training.labelled import LabelledParcels
from training.patch_metadata import (
    BACKGROUND,
    FOLDS,
    INVALID,
    VOID,
    PastisError,
    Sensor,
    array,
    packed,
    patches,
    sensors_in,
)

COLUMNS = ("ID_PARCEL", "ID_PATCH", "Fold", "Label")
FEATURES = (("perim",), ("area", "surf"), ("ratio",), ("fill", "cover", "box"))
"""Parts of the names by which perimeter, area, perimeter / area and fill are known."""


def read(
    folder: Path,
    *,
    cache: Path | None = None,
    options: Options = Options(),
    progress: Progress | None = None,
    notice: Notice = log,
) -> LabelledParcels:
    """Return the labelled parcels of a PASTIS-R folder in pixel-set form; packed the first time, mapped from then on.

    Args:
        cache: where the packed store lies; without it in the folder, or in the user's cache where that is read-only.
        progress: called after each patch that is packed.
        notice: called with a line for whatever is missing or was left out, also when the store was packed earlier; by
            default it is logged.

    Raises:
        PastisError: no PASTIS-R, a parcel that cannot be used (unless skipped), or nowhere to write the store.
    """
    sensors = sensors_in(folder, options.sensors)
    files = [
        folder / name for name in ("metadata.geojson", "metadata_parcel.csv", *(f"DATA_{one.name}" for one in sensors))
    ]
    name = f"pixelsets-{pastis_store.key('pixelsets', options, sensors, files)}"
    places = pastis_store.caches(folder, cache)
    store = pastis_store.opened(places, name, lambda: _plan(folder, sensors, options), progress, notice)
    # Nowhere is it said that the three sensors list the pixels of a parcel in one order.
    return labelled(store, folder.resolve().name, options, notice, is_co_located=False)


Days = Mapping[str, NDArray[np.float32]]
"""Of a patch, by sensor."""


def _plan(folder: Path, sensors: tuple[Sensor, ...], options: Options) -> Plan:
    """Appearance for every parcel's dates and files: what is missing is known before the packing."""
    parcels, notices = table(folder / "metadata_parcel.csv")
    if not options.unlabelled:
        parcels = parcels.take(parcels.is_crop)
    if not len(parcels.label):
        raise PastisError(f"{folder / 'metadata_parcel.csv'}: no parcel of the 18 classes, Label 1 to 18")
    days, faults = _days(folder, sensors)
    is_lost, first = _missing(folder, parcels, days, faults, sensors)
    if is_lost.any():
        count = f"{is_lost.sum()} of {len(is_lost)} parcels"
        if not options.skip_broken or is_lost.all():
            raise PastisError(f"{first} ({count} cannot be used); restore them, or give skip_broken to leave them out")
        notices = (*notices, f"{count} left out, the first: {first}")
        parcels = parcels.take(~is_lost)
    numbers, starts, counts = np.unique(parcels.patch, return_index=True, return_counts=True)
    groups = [
        (days[number], parcels.take(np.arange(start, start + count)))
        for number, start, count in zip(numbers.tolist(), starts, counts, strict=True)
    ]
    values = (len(group.label) * len(of[one.name]) * len(one.channels) for of, group in groups for one in sensors)
    blocks = (_block(folder, group, of, sensors, options) for of, group in groups)
    return Plan(len(groups), sum(values) * options.pixels * np.dtype(np.int16).itemsize, blocks, notices)


def _days(folder: Path, sensors: tuple[Sensor, ...]) -> tuple[dict[int, Days], dict[int, str]]:
    """Return the days of each patch whose dates can be read, and what is wrong with the others."""
    days: dict[int, Days] = {}
    faults: dict[int, str] = {}
    for patch in patches(folder):
        try:
            days[patch.id] = {one.name: patch.days(one) for one in sensors}
        except PastisError as error:
            faults[patch.id] = f"{folder / 'metadata.geojson'}: {error}"
    return days, faults


def _missing(
    folder: Path, parcels: Parcels, days: Mapping[int, Days], faults: Mapping[int, str], sensors: tuple[Sensor, ...]
) -> tuple[NDArray[np.bool_], str]:
    """Return (P,) parcels without dates or a file, and what the first of them lacks."""
    is_lost, first = np.array([one not in days for one in parcels.patch.tolist()], bool), ""
    if is_lost.any():
        patch = int(parcels.patch[is_lost][0])
        first = faults.get(patch, f"{folder / 'metadata.geojson'}: no patch {patch}")
    for sensor in sensors:
        there = {entry.name for entry in (folder / f"DATA_{sensor.name}").iterdir()}
        paths = [_path(folder, sensor, one) for one in parcels.parcel.tolist()]
        is_absent = np.array([path.name not in there for path in paths], bool)
        if is_absent.any() and not first:
            first = f"{paths[is_absent.argmax()]}: no such file"
        is_lost |= is_absent
    return is_lost, first


def _path(folder: Path, sensor: Sensor, parcel: int) -> Path:
    return folder / f"DATA_{sensor.name}" / f"{sensor.name}_{parcel}.npy"


def table(path: Path) -> tuple[Parcels, tuple[str, ...]]:
    """Return the parcels of metadata_parcel.csv by patch and id, and lines on what is unsure; n_pixels is 0, not known yet.

    Raises:
        PastisError: no such file, a column is missing or holds no whole numbers, or a parcel is there twice.
    """
    if not path.is_file():
        raise PastisError(f"{path}: no such file; the pixel-set form has it (with ANNOTATIONS it is the patch form)")
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise PastisError(f"{path}: not a table ({str(error).splitlines()[0]}); download it again") from error
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise PastisError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    parcel, patch = (_whole(frame, name, path) for name in ("ID_PARCEL", "ID_PATCH"))
    fold, label = _whole(frame, "Fold", path, FOLDS), _whole(frame, "Label", path, range(BACKGROUND, VOID + 1))
    numbers, counts = np.unique(parcel, return_counts=True)
    if counts.max(initial=1) > 1:
        raise PastisError(
            f"{path}: parcel {numbers[counts.argmax()]} is there {counts.max()} times; a parcel is one row"
        )
    geometry, notices = _geometry(frame, path)
    parcels = Parcels(patch, parcel, fold, label, np.zeros(len(parcel), np.int64), geometry)
    return parcels.take(np.lexsort((parcel, patch))), notices


def _whole(frame: pd.DataFrame, name: str, path: Path, allowed: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return a column of whole numbers."""
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    is_fit = np.isfinite(values) & (values == np.floor(values))
    is_fit &= np.isin(values, list(allowed)) if allowed else is_fit
    if not is_fit.all():
        row = int(is_fit.argmin())
        wanted = f"{min(allowed)} to {max(allowed)}" if allowed else "a whole number"
        raise PastisError(f"{path}: column {name}, row {row + 1}: {frame[name][row]}; {wanted} expected")
    return values.astype(np.int64)


def _geometry(frame: pd.DataFrame, path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return (P, 4) of the columns GF_..., each known by its name; else in file order, or NaN where there are not four."""
    names = [str(name) for name in frame.columns if str(name).startswith("GF_")]
    if len(names) != len(FEATURES):
        line = f"{path}: {len(names)} columns GF_..., 4 expected; geometric features are left out"
        return np.full((len(frame), len(FEATURES)), np.nan), (line,)
    found = [[name for name in names if any(part in name.lower() for part in parts)] for parts in FEATURES]
    notices: tuple[str, ...] = ()
    if all(len(one) == 1 for one in found) and len({one[0] for one in found}) == len(found):
        names = [one[0] for one in found]
    else:
        notices = (f"{path}: {', '.join(names)} taken as perimeter, area, perimeter / area and fill, in this order",)
    columns = [pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64) for name in names]
    return np.stack(columns, axis=1), notices


def _block(folder: Path, parcels: Parcels, days: Days, sensors: tuple[Sensor, ...], options: Options) -> Block:
    """Return the parcels of a patch; one whose arrays cannot be used is an error, or left out with a line."""
    cut: list[dict[str, Observed]] = []
    kept, sizes, notices = [], [], []
    for row, number in enumerate(parcels.parcel.tolist()):
        try:
            sets, n_pixels = _parcel(folder, number, days, sensors, options)
        except PastisError as error:
            if not options.skip_broken:
                raise PastisError(f"{error}; restore it, or give skip_broken to leave such parcels out") from error
            notices.append(f"left out: {error}")
        else:
            cut.append(sets)
            kept.append(row)
            sizes.append(n_pixels)
    left = replace(parcels.take(np.array(kept, np.int64)), n_pixels=np.array(sizes, np.int64))
    observed = {one.modality: _joined([sets[one.modality] for sets in cut], one, options) for one in sensors}
    return Block(left, observed, tuple(notices))


def _joined(found: list[Observed], sensor: Sensor, options: Options) -> Observed:
    empty = np.zeros((0, len(sensor.channels), options.pixels), np.int16)
    return Observed(
        np.concatenate([empty, *(one.pixels for one in found)]),
        np.concatenate([np.zeros(0, np.float32), *(one.day for one in found)]),
        np.repeat(np.arange(len(found)), [len(one.day) for one in found]),
    )


def _parcel(
    folder: Path, number: int, days: Days, sensors: tuple[Sensor, ...], options: Options
) -> tuple[dict[str, Observed], int]:
    """Return what each sensor observed of a parcel, and the number of its pixels."""
    sets, n_pixels = {}, 0
    for sensor in sensors:
        path, dates = _path(folder, sensor, number), days[sensor.name]
        found = array(path, (None, len(sensor.channels), None), "dates, channels, pixels")
        if len(found) != len(dates):
            stated = f"metadata.geojson has {len(dates)} in dates-{sensor.name} of its patch"
            raise PastisError(f"{path}: {len(found)} dates, but {stated}")
        # A generator of the parcel's own for every sensor: arrays of one length give the same choice.
        random = np.random.default_rng([options.seed, number])
        sets[sensor.modality] = _chosen(found, dates, sensor, path, random, options.pixels)
        n_pixels = max(n_pixels, found.shape[2])
    return sets, n_pixels


def _chosen(
    found: NDArray[Any], days: NDArray[np.float32], sensor: Sensor, path: Path, random: np.random.Generator, size: int
) -> Observed:
    """Return at most `size` of a parcel's pixels (T, C, N); without any there is no observation."""
    if not found.shape[2]:
        days, found = days[:0], found[:0]
    index = np.sort(random.permutation(found.shape[2])[:size])
    taken = np.full((*found.shape[:2], size), INVALID, np.int16)
    taken[..., : len(index)] = packed(found[:, :, index], sensor, path)
    return Observed(taken, days, np.zeros(len(days), np.int64))
