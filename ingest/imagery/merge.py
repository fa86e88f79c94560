"""Parcels that several products of one pass show in part: granules of one tile, slices of one datatake.

A parcel that one product shows whole is taken from it; else each pixel from the first product that has it, as if the
pass were one file. So nothing is counted twice where products overlap, and the order of arrival does not matter.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.imagery.cut import Extraction, bands_of, gathered, outcomes, share, table_of
from ingest.imagery.index import ParcelIndex
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import Raster
from ingest.imagery.scene import Grid, Scene
from ingest.imagery.sensors import IMAGERY, SensorImagery
from ingest.imagery.settings import ImagerySettings

Values = Mapping[str, NDArray[Any]]


def extract_merged(
    scenes: Sequence[Scene],
    described_as: Scene,
    grid: Grid,
    parcels: Parcels,
    index: ParcelIndex,
    settings: ImagerySettings,
) -> Extraction:
    """Return the observations of parcels in several products of one pass.

    Args:
        scenes: ordered by part, all stored alike (`is_stored_alike`).
        described_as: the one whose name and times the rows say.
        grid: the pixels that `index` was built on; it covers all of the products.
        parcels: those that `index` was built of.
        index: which pixels are whose.
        settings: what counts as clear.

    Raises SceneError with the name of the product that cannot be read.
    """
    sensor = IMAGERY[scenes[0].sensor]
    bands = [name for name in bands_of(scenes[0]) if all(name in scene.bands for scene in scenes)]
    with ExitStack() as stack:
        rasters = {
            (number, name): stack.enter_context(Raster(scene, name, scene.bands[name], grid))
            for number, scene in enumerate(scenes)
            for name in bands
        }
        nodata = [{name: rasters[number, name].nodata for name in bands} for number in range(len(scenes))]
        shown = [{name: scene.bands[name] for name in bands} for scene in scenes]
        alone = [
            sensor.sums(replace(scene, bands=those), index, none, settings)
            for scene, those, none in zip(scenes, shown, nodata, strict=True)
        ]
        joint = sensor.sums(replace(scenes[0], bands=shown[0]), index, nodata[0], settings)
        for chunk, values in gathered(rasters, index, settings.threads):
            parts = [{name: values[number, name] for name in bands} for number in range(len(scenes))]
            for sums, part in zip(alone, parts, strict=True):
                sums.add(chunk, part)
            joint.add(chunk, _first_with_data(parts, nodata, sensor))
    sources = [*alone, joint]
    needed = np.maximum(np.ceil(settings.least_clear * index.n_pixels), 1)
    is_whole = np.array([(one.n_seen == index.n_pixels) & (one.n_valid >= needed) for one in alone])  # (scenes, P)
    source = np.where(is_whole.any(0), is_whole.argmax(0), len(alone))  # (P,)
    n_seen, n_valid = (
        np.stack([getattr(one, name) for one in sources])[source, np.arange(len(source))]
        for name in ("n_seen", "n_valid")
    )
    outcome = outcomes(parcels, index, n_seen, n_valid, settings)
    rows = [np.flatnonzero((outcome == 0) & (source == number)) for number in range(len(sources))]
    tables = [table_of(described_as, parcels, mine, one.columns(mine)) for mine, one in zip(rows, sources, strict=True)]
    table = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(rows)))).combine_chunks()
    return Extraction(table, outcome, share(index, index.n_inside), share(index, n_seen))


def is_stored_alike(one: Scene, other: Scene) -> bool:
    """Return whether numbers of one product mean the same in the other."""
    return all(
        replace(band, href="") == replace(other.bands[name], href="")
        for name, band in one.bands.items()
        if name in other.bands
    ) and (one.radiometry, one.coherence_with) == (other.radiometry, other.coherence_with)


def covering(grid: Grid, others: Sequence[Grid]) -> Grid:
    """Return the grid grown so that it holds those of the others that share its pixels."""
    west, north, east, south = 0, 0, grid.width, grid.height
    for other in others:
        left, top = (other.left - grid.left) / grid.pixel_m, (grid.top - other.top) / grid.pixel_m
        if (other.crs, other.pixel_m) == (grid.crs, grid.pixel_m) and left.is_integer() and top.is_integer():
            west, north = min(west, int(left)), min(north, int(top))
            east, south = max(east, int(left) + other.width), max(south, int(top) + other.height)
    return Grid(
        grid.crs,
        grid.left + west * grid.pixel_m,
        grid.top - north * grid.pixel_m,
        grid.pixel_m,
        east - west,
        south - north,
    )


def _first_with_data(
    parts: Sequence[Values], nodata: Sequence[Mapping[str, float]], sensor: SensorImagery
) -> dict[str, NDArray[Any]]:
    """Return each pixel from the first part that has all of its bands there; from the first part where none has."""
    chosen = dict(parts[0])
    is_open = ~_has_data(parts[0], nodata[0], sensor)
    for part, none in zip(parts[1:], nodata[1:], strict=True):
        taken = is_open & _has_data(part, none, sensor)
        chosen = {name: np.where(taken, part[name], values) for name, values in chosen.items()}
        is_open &= ~taken
    return chosen


def _has_data(part: Values, nodata: Mapping[str, float], sensor: SensorImagery) -> NDArray[np.bool_]:
    there = [(part[name] != nodata[name]) & np.isfinite(part[name]) for name in sensor.needed]
    there += [part[name] > most for name, most in sensor.no_value_up_to.items()]
    has_data: NDArray[np.bool_] = np.logical_and.reduce(there)
    return has_data
