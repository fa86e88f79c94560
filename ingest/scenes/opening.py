"""From a found scene to one that can be read: its metadata, its grid, and the way to its files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from ingest.errors import IngestError
from ingest.imagery.cut import bands_of
from ingest.imagery.errors import SceneError
from ingest.imagery.raster import grid_of
from ingest.imagery.safe import scene_from_safe
from ingest.imagery.scene import Grid, Scene
from ingest.imagery.stac import S1_PROFILE, S2_PROFILE, scene_from_item
from ingest.scenes.access import Access
from ingest.scenes.profiles import ProfileError, load_profile
from ingest.scenes.record import FoundScene
from ingest.scenes.retrying import Http

_PIXEL_M: Final = 10.0
"""Everything is cut on 10 m pixels: what a parcel needs is counted in these, whatever a product's own are."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A scene under the ledger's name, with the addresses as GDAL opens them, and its 10 m grid."""

    scene: Scene
    grid: Grid


class Opener:
    """Opens scenes; holds a catalogue's tokens from one to the next.

    Args:
        environment: keys of object stores and catalogues.
        http: a session with a source of that name, for tokens.
        now: the time, aware.
    """

    def __init__(
        self, environment: Mapping[str, str], http: Callable[[str], Http], now: Callable[[], datetime]
    ) -> None:
        self._environment, self._http, self._now = environment, http, now
        self._accesses: dict[str, Access] = {}

    def opened(self, found: FoundScene) -> Opened:
        """The scene, its bands complete and its grid known. Raises SceneError."""
        scene = replace(self._read(found), scene_id=found.scene_id)
        with self.reading(found):
            grid = grid_of(scene, bands_of(scene)[0])
        factor = round(grid.pixel_m / _PIXEL_M)
        if factor > 1 and grid.pixel_m == factor * _PIXEL_M:
            grid = replace(grid, pixel_m=_PIXEL_M, width=grid.width * factor, height=grid.height * factor)
        return Opened(scene, grid)

    @contextmanager
    def reading(self, found: FoundScene) -> Iterator[None]:
        """GDAL's options for the scene's files, while they are read."""
        if found.profile is None:
            yield
            return
        with self._access(found.profile).environment():
            yield

    def _read(self, found: FoundScene) -> Scene:
        """The scene as its metadata say. Raises SceneError."""
        if found.kind == "safe":
            if found.sensor == "S1":
                raise SceneError(
                    found.scene_id, "unsupported", "a Sentinel-1 SAFE lies on no map; give terrain-corrected COGs with "
                    "a STAC item",
                )  # fmt: skip
            return scene_from_safe(Path(found.href))
        try:
            if found.profile is None:
                return scene_from_item(found.item or {}, S1_PROFILE if found.sensor == "S1" else S2_PROFILE)
            profile = load_profile(found.profile)
            scene = scene_from_item(found.item or {}, profile.reading(found.sensor))
            return self._access(found.profile).scene(scene)
        except SceneError:
            raise
        except ProfileError as error:
            raise SceneError(found.scene_id, "bad_metadata", str(error)) from error
        except IngestError as error:  # no token to be had: the catalogue is away, or refuses for now
            raise SceneError(found.scene_id, "unreadable", str(error)) from error

    def _access(self, profile: str) -> Access:
        if profile not in self._accesses:
            loaded = load_profile(profile)
            self._accesses[profile] = Access(loaded, self._environment, self._http(loaded.name), self._now)
        return self._accesses[profile]
