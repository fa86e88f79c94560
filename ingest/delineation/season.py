"""The Sentinel-2 scenes of a season on one grid, read window by window."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ingest.errors import IngestError
from ingest.imagery.optical import SMALLEST
from ingest.imagery.raster import Raster
from ingest.imagery.scene import LONGEST_SIDE, SCL, Grid
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.adding import scenes_at
from ingest.scenes.http_retries import Http
from ingest.scenes.items import NotAScene
from ingest.scenes.opening import Opened, Opener
from ingest.scenes.places import Places, named
from ingest.scenes.record import FoundScene

MOST_SCENES: Final = 100
"""Eleven files of each are open at once."""


class NotDelineated(IngestError):
    """Fields cannot be drawn from these scenes; the message says what to mend."""


class SeasonScenes:
    """Scenes in the order of their times, open.

    Args:
        places: SAFE products, items or folders of them on this machine.
        bands: names of bands that are read, SCL beside them.
        settings: which classes show the ground.
    """

    def __init__(self, places: Sequence[str], bands: Sequence[str], settings: ImagerySettings) -> None:
        """Open the files' headers. Raises NotDelineated, NotAScene, SceneError."""
        opener = Opener(
            os.environ, _no_requests, lambda: datetime.now(UTC), lambda: Places.of(map(named, places), (), ())
        )
        found = [opener.opened(one) for place in places for one in _found(place) if one.sensor == "S2"]
        if not 0 < len(found) <= MOST_SCENES:
            raise NotDelineated(f"{len(found)} Sentinel-2 scenes: give 1 to {MOST_SCENES} of one season")
        self._opened = sorted(found, key=lambda one: (one.scene.observed_at, one.scene.scene_id))
        self.bands, self.grid = tuple(bands), _grid(self._opened)
        self._clear = np.isin(np.arange(256), list(settings.clear_classes))
        self._rasters: list[dict[str, Raster]] = []
        self._stack = ExitStack()
        try:
            for one in self._opened:
                self._rasters.append({name: self._open(one, name) for name in (*bands, SCL)})
        except BaseException:
            self._stack.close()
            raise

    @property
    def observed_to(self) -> datetime:
        """Return the time of the last scene."""
        return self._opened[-1].scene.observed_at

    def days(self, starts_on: date | None = None) -> NDArray[np.int64]:
        """Return (T,) days since a day, or since the first scene."""
        dates = [one.scene.observed_at.date() for one in self._opened]
        return np.array([(one - (starts_on or dates[0])).days for one in dates], np.int64)

    def images(self, row: int, column: int, height: int, width: int, *, is_masked: bool = True) -> NDArray[np.float32]:
        """Return (T, C, height, width) reflectance, NaN where there is no value; where it is not clear too, unless not `is_masked`.

        Raises SceneError: unreadable.
        """
        side = max(height, width)
        made = np.full((len(self._opened), len(self.bands), height, width), np.nan, np.float32)
        for image, rasters, one in zip(made, self._rasters, self._opened, strict=True):
            numbers = {name: raster.window(row, column, side)[:height, :width] for name, raster in rasters.items()}
            has_value = np.ones((height, width), bool)
            for name in self.bands:
                has_value &= (numbers[name] != rasters[name].nodata) & (numbers[name] > SMALLEST)
            if is_masked:
                has_value &= self._clear[numbers[SCL]]
            for layer, name in zip(image, self.bands, strict=True):
                band = one.scene.bands[name]
                layer[has_value] = numbers[name][has_value] * np.float32(band.scale) + np.float32(band.offset)
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
        return self._stack.enter_context(Raster(one.scene, name, one.scene.bands[name], self.grid))


def _found(place: str) -> list[FoundScene]:
    """Return the scenes at a path, or in the folders of a folder."""
    if "://" in place:
        raise NotAScene(f"{place}: an address; fetch the scene, then give its folder")
    return scenes_at(place, None, _no_requests, datetime.now(UTC))


def _no_requests(address: str) -> Http:
    raise NotAScene(f"{address}: only files on this machine are read; fetch the scene first")


def _grid(opened: Sequence[Opened]) -> Grid:
    """Return the first scene's grid, made as large as those of all scenes in its system."""
    first = opened[0].grid
    grids = [one.grid for one in opened if (one.grid.crs, one.grid.pixel_m) == (first.crs, first.pixel_m)]
    left, top = min(one.left for one in grids), max(one.top for one in grids)
    width = round(max((one.left - left) / one.pixel_m + one.width for one in grids))
    height = round(max((top - one.top) / one.pixel_m + one.height for one in grids))
    if max(width, height) > LONGEST_SIDE:
        raise NotDelineated(f"the scenes span {width} x {height} pixels: give those of one tile")
    return Grid(first.crs, left, top, first.pixel_m, width, height)
