"""From a found scene to one that can be read: its metadata, its grid, and the way to its files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import requests

from ingest.errors import IngestError
from ingest.imagery.cut import bands_of
from ingest.imagery.errors import SceneError
from ingest.imagery.raster import grid_of
from ingest.imagery.scene import Grid, Scene
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.stac import scene_from_item
from ingest.scenes.access import Access
from ingest.scenes.http_retries import Http
from ingest.scenes.places import NotAllowed, Places
from ingest.scenes.profiles import CatalogueProfile, ProfileError, load_profile, reading_of
from ingest.scenes.record import FoundScene

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
        places: where files may be read from, as allowed at present.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        http: Callable[[str], Http],
        now: Callable[[], datetime],
        places: Callable[[], Places],
    ) -> None:
        self._environment, self._http, self._now, self._places = environment, http, now, places
        self._accesses: dict[str, Access] = {}

    def opened(self, found: FoundScene) -> Opened:
        """Return the scene, its bands complete and its grid known. Raises SceneError."""
        scene = replace(self._read(found), scene_id=found.scene_id)
        with self.reading(found):
            grid = grid_of(scene, bands_of(scene)[0])
        factor = round(grid.pixel_m / _PIXEL_M)
        if factor > 1 and grid.pixel_m == factor * _PIXEL_M:
            grid = replace(grid, pixel_m=_PIXEL_M, width=grid.width * factor, height=grid.height * factor)
        return Opened(scene, grid)

    @contextmanager
    def reading(self, found: FoundScene) -> Iterator[None]:
        """GDAL's options for the scene's files, while they are read. Raises SceneError."""
        with self._access(found).environment() if found.profile else nullcontext():
            yield

    def _read(self, found: FoundScene) -> Scene:
        """Return the scene as its metadata say. Raises SceneError."""
        if found.kind == "safe":
            read, title = IMAGERY[found.sensor].read_safe, IMAGERY[found.sensor].title
            if read is None:
                raise SceneError(
                    found.scene_id,
                    "unsupported",
                    f"a {title} SAFE lies on no map; give terrain-corrected COGs with a STAC item",
                )
            if "://" in found.href:  # of a subscription, when its item did not come
                raise SceneError(
                    found.scene_id,
                    "unsupported",
                    f"{found.href}: a SAFE must lie in a folder; fetch it, then `scenes add` it there",
                )
            return self._allowed(found, lambda: read(Path(found.href)), None)
        access = self._access(found) if found.profile else None
        try:
            reading = reading_of(access.profile if access else None, found.sensor)
            scene = self._allowed(
                found, lambda: scene_from_item(found.item or {}, reading), access.profile if access else None
            )
            return access.scene(scene) if access else scene
        except SceneError:
            raise
        except IngestError as error:  # no token to be had, or no such sensor in the profile
            raise SceneError(found.scene_id, "unreadable", str(error)) from error

    def _allowed(self, found: FoundScene, read: Callable[[], Scene], profile: CatalogueProfile | None) -> Scene:
        """Return the scene once all of its files are known to lie where they may, after redirects. Raises SceneError."""
        places = self._places()
        try:
            if found.kind == "safe":
                places.require_file(found.href)
            scene = read()
            if found.kind == "item" and (
                chained := [band.href for band in scene.bands.values() if "/vsi" in band.href]
            ):
                raise NotAllowed(f"{chained[0][:120]!r}: an item may not name GDAL's virtual files")
            places.require(scene, profile)
            bands = {
                name: replace(band, href=places.final(band.href, profile, requests.get))
                if band.href.startswith("http")
                else band
                for name, band in scene.bands.items()
            }
        except NotAllowed as error:
            raise SceneError(found.scene_id, "not_allowed", str(error)) from error
        except requests.RequestException as error:
            raise SceneError(
                found.scene_id, "unreadable", f"its files do not answer: {type(error).__name__}"
            ) from error
        return replace(scene, bands=bands)

    def _access(self, found: FoundScene) -> Access:
        """Return the way to the scene's files; its tokens are kept while the profile says the same."""
        name = str(found.profile)
        try:
            profile = load_profile(name)
        except ProfileError as error:  # another worker may have the file
            raise SceneError(found.scene_id, "unreadable", f"{error}; every worker needs it at that place") from error
        if name not in self._accesses or self._accesses[name].profile != profile:
            self._accesses[name] = Access(profile, self._environment, self._http(name), self._now)
        return self._accesses[name]
