"""Pixels of raster patches as series: each 10 m pixel's clear NDVI and the backscatter of the 20 m cell it lies in.

    FOLDER/S2_L2A_10m_*.nc                 B04, B08 (dates, rows, columns), reflectance x 10000
    FOLDER/S2_L2A_20m_*.nc                 SCL
    FOLDER/S1_GRD-ASCENDING_20m_*.nc       VV, VH in dB x 10000, 0: no data (DESCENDING likewise)
    FOLDER/OUTPUT_*.nc                     CT crop code (0: none), LC land cover

A folder is one patch, or holds patches as its sub-folders. A pixel's block is its field (connected pixels of one crop), so
that a blocked split never has one field on both sides. Acquisition dates of two sensors are days since 1 January of the first
acquisition's year.
Source: the patches' page in the folder of real data (WorldCereal, Sentinel data, labels of the Flemish register).
Units:  reflectance x 10000, dB x 10000; read as stored, no scale applied by the reader.
Errors: SeasonDataError names the file or variable that is missing or of another shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from scipy import ndimage

from ingest.imagery.settings import ImagerySettings
from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints, SarSeries
from research.experiments.gaps.series import GapSeries
from research.seasons.replay_source import SeasonDataError
from training.folds import blocked_folds

CLEAR_CLASSES: frozenset[int] = ImagerySettings.model_fields["clear_classes"].default
"""SCL values that show the ground, as scenes are cut."""
GRASS_COVER = 13
"""LC of grass and fodder in the WorldCereal legend."""
DB_SCALE = 1e-4
"""The variables' scale_factor."""
DIRECTIONS = {"ASCENDING": True, "DESCENDING": False}
ORBIT_UNKNOWN = 0
NEEDED = "S2_L2A_10m_*.nc, S2_L2A_20m_*.nc, S1_GRD-*_20m_*.nc and OUTPUT_*.nc"


@dataclass(frozen=True)
class Patch:
    """A patch in memory: R rows, C columns of 10 m."""

    ndvi: Floats
    """(D, R, C), NaN where not clear."""
    s2_at: list[datetime]
    sar: dict[bool, tuple[Floats, list[datetime]]]
    """By is_ascending: (A, 2, R / 2, C / 2) VV and VH in dB, NaN where no data; and the times."""
    crop: Ints
    """(R, C) crop code, 0 where none."""
    is_grass: Bools
    """(R, C)"""


def pixels(folder: Path, n_pixels: int | None = 1000, seed: int = 0, min_pixels: int = 20) -> tuple[GapSeries, date]:
    """Return a sample of the pixels of all patches of a folder, and the day 0 of their series.

    Args:
        folder: a patch, or a folder of patches.
        n_pixels: pixels drawn from all that have a crop code; None for all of them.
        seed: of the draw.
        min_pixels: crops with fewer pixels drawn are trained on and not scored.

    Raises:
        SeasonDataError: no patch, or a broken one.
    """
    patches = [read(one) for one in folders(folder)]
    first = min(at[0] for one in patches for at in (one.s2_at, *(times for _, times in one.sar.values())))
    starts_on = date(first.year, 1, 1)
    places = np.concatenate([_places(nr, one) for nr, one in enumerate(patches)])  # (Q, 4) patch, row, column, field
    if n_pixels is not None and n_pixels < len(places):
        places = places[np.sort(np.random.default_rng(seed).permutation(len(places))[:n_pixels])]
    sar, clear, names = [], [], np.empty(len(places), dtype=object)
    for nr, patch in enumerate(patches):
        own = np.flatnonzero(places[:, 0] == nr)
        row, column = places[own, 1], places[own, 2]
        sar += _sar_rows(patch, own, row, column, starts_on)
        clear.append(_clear_rows(patch, own, row, column, starts_on))
        cover = np.where(patch.is_grass[row, column], "grass", "crop")
        names[own] = [f"{word} {code}" for word, code in zip(cover, patch.crop[row, column], strict=True)]
    kinds, counts = np.unique(names.astype(str), return_counts=True)
    scored = set(kinds[counts >= min_pixels].tolist())
    group = [name if name in scored else None for name in names.tolist()]
    block = np.unique(places[:, [0, 3]], axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    series = GapSeries(
        name=f"{folder.resolve().name}-pixels",
        sar=_joined_sar(sar),
        clear=_joined_clear(clear),
        group=np.array([one or "" for one in group]),
        is_trained=np.ones(len(places), bool),
        block=block,
        fold=np.array(blocked_folds(block.astype(str).tolist(), group), np.int64),
    )
    return series, starts_on


def read(folder: Path, clear_classes: Collection[int] = CLEAR_CLASSES) -> Patch:
    """Return one patch.

    Raises:
        SeasonDataError: a file or variable is missing, or their sizes do not belong together.
    """
    fine, coarse = only(folder, "S2_L2A_10m"), only(folder, "S2_L2A_20m")
    (red, s2_at), (infrared, _), (scl, _) = variable(fine, "B04"), variable(fine, "B08"), variable(coarse, "SCL")
    crop, cover = (variable(only(folder, "OUTPUT"), name)[0][0] for name in ("CT", "LC"))
    scl = scl.repeat(red.shape[1] // scl.shape[1], axis=1).repeat(red.shape[2] // scl.shape[2], axis=2)
    if not (scl.shape == red.shape == infrared.shape and crop.shape == red.shape[1:]):
        raise SeasonDataError(
            f"{folder}: SCL {scl.shape}, B04 {red.shape} and CT {crop.shape} do not fit on each other"
        )
    near, visible = infrared.astype(np.float64), red.astype(np.float64)
    is_clear = np.isin(scl, list(clear_classes)) & (visible > 0) & (near > 0)  # 0: no data
    ndvi = np.where(is_clear, (near - visible) / np.maximum(near + visible, 1), np.nan)
    sar = {up: one for name, up in DIRECTIONS.items() if (one := _backscatter(folder, name)) is not None}
    if not sar:
        raise SeasonDataError(f"{folder}: no S1_GRD-*_20m_*.nc; a patch holds {NEEDED}")
    return Patch(ndvi, s2_at, sar, crop.astype(np.int64), np.asarray(cover == GRASS_COVER))


def fields(crop: Ints) -> Ints:
    """Return (R, C) a number for each connected area of one crop, 0 where there is none."""
    field = np.zeros(crop.shape, np.int64)
    for code in np.unique(crop[crop > 0]):
        own, _ = ndimage.label(crop == code)
        field = np.where(own > 0, own + field.max(), field)
    return field


def folders(folder: Path) -> list[Path]:
    """Return the patches of a folder, which may be one; raises SeasonDataError where there is none."""
    found = [one for one in (folder, *sorted(folder.glob("*"))) if one.is_dir() and any(one.glob("S2_L2A_10m_*.nc"))]
    if not found:
        raise SeasonDataError(f"{folder}: no patch; a folder of patches has sub-folders with {NEEDED}")
    return found


def _backscatter(folder: Path, direction: str) -> tuple[Floats, list[datetime]] | None:
    """Return VV and VH (A, 2, R', C') in dB of one direction, None where the patch has none."""
    found = list(folder.glob(f"S1_GRD-{direction}_20m_*.nc"))
    if not found:
        return None
    (vv, at), (vh, _) = variable(found[0], "VV"), variable(found[0], "VH")
    both = np.stack([vv, vh], axis=1).astype(np.float64)
    return np.where(both == 0, np.nan, both * DB_SCALE), at


def _places(nr: int, patch: Patch) -> Ints:
    """Return (Q, 4) patch, row, column and field of each pixel with a crop code."""
    field = fields(patch.crop)
    row, column = np.nonzero(field)
    return np.stack([np.full(len(row), nr), row, column, field[row, column]], axis=1)


def _clear_rows(patch: Patch, pixel: Ints, row: Ints, column: Ints, starts_on: date) -> ClearSeries:
    ndvi = patch.ndvi[:, row, column]  # (D, Q)
    at, of = np.nonzero(np.isfinite(ndvi))
    return ClearSeries(pixel[of], np.floor(_days(patch.s2_at, starts_on))[at], ndvi[at, of])


def _sar_rows(patch: Patch, pixel: Ints, row: Ints, column: Ints, starts_on: date) -> list[SarSeries]:
    found = []
    for is_ascending, (db, times) in patch.sar.items():
        coarser = patch.crop.shape[0] // db.shape[2]
        own = db[:, :, row // coarser, column // coarser]  # (A, 2, Q)
        at, of = np.nonzero(np.isfinite(own).all(axis=1))
        orbit, up = np.full(len(at), ORBIT_UNKNOWN), np.full(len(at), is_ascending)
        found.append(SarSeries(pixel[of], _days(times, starts_on)[at], orbit, up, own[at, 0, of], own[at, 1, of]))
    return found


def _joined_sar(parts: list[SarSeries]) -> SarSeries:
    columns = ("parcel", "day", "relative_orbit", "is_ascending", "vv_db", "vh_db")
    return SarSeries(*(np.concatenate([getattr(one, name) for one in parts]) for name in columns)).cleaned()


def _joined_clear(parts: list[ClearSeries]) -> ClearSeries:
    return ClearSeries(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in ("parcel", "day", "ndvi"))
    ).cleaned()


def _days(times: list[datetime], starts_on: date) -> Floats:
    zero = datetime(starts_on.year, starts_on.month, starts_on.day, tzinfo=UTC)
    return np.array([(one - zero) / timedelta(days=1) for one in times])


def only(folder: Path, prefix: str) -> Path:
    """Return a patch's file; raises SeasonDataError."""
    found = sorted(folder.glob(f"{prefix}_*.nc"))
    if not found:
        raise SeasonDataError(f"{folder}: no {prefix}_*.nc; a patch holds {NEEDED}")
    return found[0]


def variable(path: Path, name: str) -> tuple[NDArray[np.number], list[datetime]]:
    """Return a variable as stored (dates, rows, columns), and the times of its dates where it has any."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # their place is in variables of their own
            with rasterio.open(f"netcdf:{path}:{name}") as file:
                values, tags = file.read(), file.tags()
    except RasterioIOError as error:
        raise SeasonDataError(f"{path}: variable {name} cannot be read ({str(error).splitlines()[0]})") from error
    if "timestamp#units" not in tags:
        return values, []
    begin = datetime.fromisoformat(tags["timestamp#units"].removeprefix("seconds since ")).replace(tzinfo=UTC)
    seconds = tags["NETCDF_DIM_timestamp_VALUES"].strip("{}").split(",")
    return values, [begin + timedelta(seconds=float(one)) for one in seconds]
