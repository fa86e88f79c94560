"""The Sentinel-2 scenes of a season on one grid, read window by window."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from functools import cached_property
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from db.sensors import Sensor
from ingest.errors import IngestError
from ingest.imagery.blocks import KEPT_BYTES
from ingest.imagery.checksums import local_file
from ingest.imagery.optical import SMALLEST
from ingest.imagery.raster import Raster
from ingest.imagery.scene import LONGEST_SIDE, SCL, Grid, Scene
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.adding import scenes_at
from ingest.scenes.http_retries import Http
from ingest.scenes.items import NotAScene
from ingest.scenes.opening import Opened, Opener
from ingest.scenes.places import Places, named
from ingest.scenes.record import FoundScene

MOST_SCENES: Final = 100
"""Eleven files of each are open at once."""
MOST_KEPT_BYTES: Final = 4 * 2**30
"""Of all files together: of 60 scenes three blocks a band, so that windows given row by row decode a block once a row of windows."""
FINE: Final = ("B02", "B03", "B04", "B08")
"""Bands of 10 m: those of the watershed."""
_ALL: Final = slice(None)


class NotDelineated(IngestError):
    """Fields cannot be drawn from these scenes; the message says what to mend."""


class Season(Protocol):
    """What is read of a season's scenes."""

    @property
    def grid(self) -> Grid:
        """Where the windows lie."""

    def days(self, starts_on: date) -> NDArray[np.int64]:
        """Return (T,) days since a day."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Return (T,)."""

    def images(
        self,
        row: int,
        column: int,
        height: int,
        width: int,
        *,
        is_masked: bool = True,
        bands: Sequence[str] | None = None,
        scenes: slice = _ALL,
    ) -> NDArray[np.float32]:
        """Return (T, C, height, width) reflectance, NaN where there is no value."""


class SeasonScenes:
    """Scenes in the order of their times, open.

    Args:
        places: SAFE products, items or folders of them on this machine.
        bands: names of bands that are read, SCL beside them.
        settings: which classes show the ground.
    """

    def __init__(self, places: Sequence[str], bands: Sequence[str], settings: ImagerySettings) -> None:
        """Open the files' headers. Raises NotDelineated, NotAScene, SceneError."""
        self._opened = scenes_of(places, "S2")
        if not 0 < len(self._opened) <= MOST_SCENES:
            raise NotDelineated(f"{len(self._opened)} Sentinel-2 scenes: give 1 to {MOST_SCENES} of one season")
        self.bands, self.grid = tuple(bands), grid_over(self._opened)
        self._clear = np.isin(np.arange(256), list(settings.clear_classes))
        self._kept = min(KEPT_BYTES, MOST_KEPT_BYTES // (len(self._opened) * (len(bands) + 1)))
        self._rasters: list[dict[str, Raster]] = []
        self._stack = ExitStack()
        try:
            for one in self._opened:
                self._rasters.append({name: self._open(one, name) for name in (*bands, SCL)})
        except BaseException:
            self._stack.close()
            raise

    @property
    def observed_from(self) -> datetime:
        """Return the time of the first scene."""
        return self._opened[0].scene.observed_at

    @property
    def observed_to(self) -> datetime:
        """Return the time of the last scene."""
        return self._opened[-1].scene.observed_at

    def days(self, starts_on: date) -> NDArray[np.int64]:
        """Return (T,) days since a day."""
        return np.array([(one.scene.observed_at.date() - starts_on).days for one in self._opened], np.int64)

    @cached_property  # one look at hundreds of files, not one a window
    def identities(self) -> tuple[str, ...]:
        """Return (T,) what tells each scene from others, and from itself after its files or its numbers' meaning have changed."""
        return tuple(_identity(one, self.bands) for one in self._opened)

    def images(
        self,
        row: int,
        column: int,
        height: int,
        width: int,
        *,
        is_masked: bool = True,
        bands: Sequence[str] | None = None,
        scenes: slice = _ALL,
    ) -> NDArray[np.float32]:
        """Return (T, C, height, width) reflectance, NaN where there is no value; where it is not clear too, unless not `is_masked`.

        `bands` and `scenes` are those that are read, else all. Raises SceneError: unreadable.
        """
        side, bands = max(height, width), self.bands if bands is None else bands
        opened, open_rasters = self._opened[scenes], self._rasters[scenes]
        made = np.empty((len(opened), len(bands), height, width), np.float32)
        for image, rasters, one in zip(made, open_rasters, opened, strict=True):
            read = {name: rasters[name] for name in bands}
            image[:] = reflectance(one.scene, read, row, column, side)[:, :height, :width]
            if is_masked:
                image[:, ~self._clear[rasters[SCL].window(row, column, side)[:height, :width]]] = np.nan
        return made

    def __len__(self) -> int:
        return len(self._opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, one: Opened, name: str) -> Raster:
        if name not in one.scene.bands:
            raise NotDelineated(f"{one.scene.scene_id}: no band {name}; leave the scene out, or fetch the band")
        return self._stack.enter_context(Raster(one.scene, name, one.scene.bands[name], self.grid, self._kept))


def reflectance(scene: Scene, rasters: Mapping[str, Raster], row: int, column: int, side: int) -> NDArray[np.float32]:
    """Return (C, side, side) reflectance of a window, NaN where any band has no value. Raises SceneError: unreadable."""
    numbers = {name: raster.window(row, column, side) for name, raster in rasters.items()}
    has_value = np.logical_and.reduce(
        [(numbers[name] != raster.nodata) & (numbers[name] > SMALLEST) for name, raster in rasters.items()]
    )
    made = np.full((len(rasters), side, side), np.nan, np.float32)
    for layer, name in zip(made, rasters, strict=True):
        band = scene.bands[name]
        layer[has_value] = numbers[name][has_value] * np.float32(band.scale) + np.float32(band.offset)
    return made


def scenes_of(places: Sequence[str], sensor: Sensor) -> list[Opened]:
    """Return a sensor's scenes in the order of their times, their headers read. Raises NotAScene, SceneError."""
    opener = Opener(os.environ, _no_requests, lambda: datetime.now(UTC), lambda: Places.of(map(named, places), (), ()))
    found = [opener.opened(one) for place in places for one in _found(place) if one.sensor == sensor]
    return sorted(found, key=lambda one: (one.scene.observed_at, one.scene.scene_id))


def _found(place: str) -> list[FoundScene]:
    """Return the scenes at a path, or in the folders of a folder."""
    if "://" in place:
        raise NotAScene(f"{place}: an address; fetch the scene, then give its folder")
    return scenes_at(place, None, _no_requests, datetime.now(UTC))


def _identity(one: Opened, bands: Sequence[str]) -> str:
    scene = one.scene
    files = []
    for name in bands:
        band = scene.bands[name]
        path, member = local_file(band.href)
        stat = path.stat() if path else None
        files.append([band.scale, band.offset, band.nodata, member, stat and [stat.st_size, stat.st_mtime_ns]])
    stated = json.dumps([scene.scene_id, scene.observed_at.isoformat(), bands, files])
    return hashlib.sha256(stated.encode()).hexdigest()


def _no_requests(address: str) -> Http:
    raise NotAScene(f"{address}: only files on this machine are read; fetch the scene first")


def grid_over(opened: Sequence[Opened]) -> Grid:
    """Return the first scene's grid, made as large as those of all scenes in its system. Raises NotDelineated."""
    first = opened[0].grid
    grids = [one.grid for one in opened if (one.grid.crs, one.grid.pixel_m) == (first.crs, first.pixel_m)]
    left, top = min(one.left for one in grids), max(one.top for one in grids)
    width = round(max((one.left - left) / one.pixel_m + one.width for one in grids))
    height = round(max((top - one.top) / one.pixel_m + one.height for one in grids))
    if max(width, height) > LONGEST_SIDE:
        raise NotDelineated(f"the scenes span {width} x {height} pixels: give those of one tile")
    return Grid(first.crs, left, top, first.pixel_m, width, height)
