"""What a season's passes show of windows of one grid: Sentinel-2 in reflectance, Sentinel-1 in decibels.

Scenes of one pass (granules of neighbouring tiles, slices, another processing) are one image: a pixel is of the scene that became
available last and has a value there. Clouds stay. A pass is opened, read and closed by itself, so that memory is that of one.
Errors: SceneError for files that cannot be read, NotDelineated for radar of two radiometries.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from db.sensors import POLARISATIONS, S2_BANDS, Sensor
from ingest.delineation.season import NotDelineated, reflectance, scenes_of
from ingest.imagery.radar import decibels_of, is_ground, power_of, scaled_of
from ingest.imagery.raster import Raster
from ingest.imagery.scene import Direction, Grid, Scene
from ingest.scenes.opening import Opened

BANDS: Final = {"S2": S2_BANDS, "S1": POLARISATIONS}


@dataclass(frozen=True)
class Pass:
    """The scenes of one day and orbit."""

    sensor: Sensor
    day: date
    direction: Direction | None
    scenes: tuple[Opened, ...]
    """The last to be available first."""

    @property
    def name(self) -> str:
        """Return what it is known by: its scenes' names."""
        return " ".join(one.scene.scene_id for one in self.scenes)


class PassImages:
    """A pass, open."""

    def __init__(self, parts: Sequence[tuple[Scene, dict[str, Raster]]]) -> None:
        self._parts = parts

    def window(self, row: int, column: int, side: int) -> NDArray[np.float32]:
        """Return (C, side, side): ten bands, or VV and VH; NaN where there is no value. Raises SceneError: unreadable."""
        made: NDArray[np.float32] | None = None
        for scene, rasters in self._parts:
            read = reflectance if scene.sensor == "S2" else _decibels
            own = read(scene, rasters, row, column, side)
            made = own if made is None else np.where(np.isnan(made), own, made)
            if not np.isnan(made).any():
                break
        assert made is not None
        return made


def passes(places: Sequence[str], sensor: Sensor) -> list[Pass]:
    """Return the passes of a sensor in the order of their days. Raises NotAScene, SceneError, NotDelineated."""
    opened = scenes_of(places, sensor)
    if len(kinds := sorted({str(one.scene.radiometry) for one in opened})) > 1:
        raise NotDelineated(f"radar in {' and '.join(kinds)}: give the scenes of one radiometry")
    found = []
    for (day, _, direction), some in groupby(sorted(opened, key=_pass_of), _pass_of):
        scenes = sorted(some, key=lambda one: one.scene.available_at, reverse=True)
        found.append(Pass(sensor, day, scenes[0].scene.direction if direction else None, tuple(scenes)))
    return found


@contextmanager
def images(of: Pass, grid: Grid) -> Iterator[PassImages]:
    """Open the files of a pass on a grid. Raises SceneError."""
    with ExitStack() as stack:
        yield PassImages([
            (
                one.scene,
                {name: stack.enter_context(Raster(one.scene, name, one.scene.bands[name], grid)) for name in BANDS[of.sensor]},
            )
            for one in of.scenes
        ])  # fmt: skip


def _pass_of(one: Opened) -> tuple[date, int, str]:
    return one.scene.observed_at.date(), one.scene.relative_orbit, one.scene.direction or ""


def _decibels(scene: Scene, rasters: dict[str, Raster], row: int, column: int, side: int) -> NDArray[np.float32]:
    values: dict[str, NDArray[Any]] = {}
    for name, raster in rasters.items():
        values[name] = scaled_of(scene.bands[name], raster.window(row, column, side), raster.nodata)
    is_there = is_ground(*(power_of(scene.bands[name], one) for name, one in values.items()))
    decibels = np.stack([decibels_of(scene.bands[name], one) for name, one in values.items()])
    return np.where(is_there, decibels, np.nan).astype(np.float32)
