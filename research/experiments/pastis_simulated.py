"""A PASTIS-R folder of the simulator: its landscape, weather, optics and radar seen in patches, in the published patch form.

Each patch lies over a block of fields, which are parted by ditches and tracks narrower than a pixel; beyond them is what never changes.
Fields differ in crop, stand, soil and dates, so that borders between fields of one crop show, too. A parcel of which less than half
lies in its patch is void, as in PASTIS. Crops are those that truly grew.
Shapes: as in research.experiments.pastis.
Units:  reflectance x 10000, dB, days since 2018-09-01.
Errors: ValueError for settings that cannot be simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from research.experiments.pastis_synthetic import FIRST_ID, made_up_corner
from research.simulator import Season, SimulatorConfig, simulate_season
from research.simulator.crops import CROPS
from research.simulator.pixels import GRID_M
from research.simulator.radar import decibel
from research.simulator.rasters import Place, Renderer
from research.simulator.regions import REGIONS, S1Orbit, S2Orbit
from research.simulator.schedule import Product
from research.simulator.season import orbit_of
from training.patch_metadata import BACKGROUND, FOLDS, SENSORS, STARTS_ON, VOID
from training.patch_writing import MadePatch, write

CLASS_OF: Final = {
    "permanent_grass": 1,
    "temporary_grass": 1,
    "winter_wheat": 2,
    "maize": 3,
    "winter_barley": 4,
    "winter_rapeseed": 5,
    "spring_barley": 6,
    "sunflower": 7,
    "vineyard": 8,
    "sugar_beet": 9,
    "onion": 12,
    "potato": 13,
    "alfalfa": 14,
}
"""Published classes of the simulator's crops."""
FIELDS_A_BLOCK: Final = 9.0
"""At least, on the average: blocks are of 23 to 68 ha, fields of 3 to 4."""
APART_M: Final = 20.0
"""Blocks are further apart than this, fields of a block are not."""
AT_ONCE: Final = 16
"""Patches of a region that a pass is drawn of at a time: what is of the whole pass is done once for all, and all their images are held."""
_CLOUD: Final = 9
_OFFSET: Final = 1000


@dataclass(frozen=True)
class Simulated:
    """What is written."""

    patches: int = 10
    side: int = 128
    """Pixels."""
    dates: tuple[int, int, int] = (43, 70, 70)
    """Of S2, S1A and S1D, at most; spread over the season."""
    cloud: float = 0.5
    """Share of a patch under cloud, at most, of an S2 date that is kept: PASTIS has dates with clouds, and none overcast."""
    regions: tuple[str, ...] = ("lowlands", "centre")
    seed: int = 1


def write_simulated(folder: Path, made: Simulated = Simulated()) -> Path:
    """Write the patch form into a folder, and return it.

    Raises:
        ValueError: no such region, or no patch.
    """
    if made.patches < 1 or made.side < 8:
        raise ValueError(f"{made.patches} patches of {made.side} pixels: at least 1 of 8")
    fields = max(20, int(made.patches * FIELDS_A_BLOCK * 2 / len(made.regions))) * len(made.regions)
    season = simulate_season(
        SimulatorConfig(
            year=STARTS_ON.year + 1, seed=made.seed, n_parcels=fields, n_pixels=16, regions=made.regions, s1_orbits=1
        )
    )
    return write(folder, _patches(season, made))


def _patches(season: Season, made: Simulated) -> Iterator[MadePatch]:
    """Yield the patches, regions in turn, folds in turn."""
    views = [_View(season, region, made) for region in made.regions]
    of_view = -(-made.patches // len(views))
    for first in range(0, of_view, AT_ONCE):
        drawn = [view.patches(range(first, min(first + AT_ONCE, of_view))) for view in views]
        for nr, of_regions in enumerate(zip(*drawn, strict=True), first):
            for region, (ids, target, days, images) in enumerate(of_regions):
                if (index := nr * len(views) + region) < made.patches:
                    corner = made_up_corner(index, made.side)
                    yield MadePatch(FIRST_ID + index, FOLDS[nr % len(FOLDS)], ids, target, days, images, corner)


Series = tuple[NDArray[np.int64], NDArray[Any]]
"""Days (T,) and images (T, C, H, W)."""


class _View:
    """The blocks of one region, and its passes."""

    def __init__(self, season: Season, region: str, made: Simulated) -> None:
        self.season, self.region, self.made = season, region, made
        self.renderer = Renderer(season, region)
        blocks = shapely.union_all(shapely.buffer(self.renderer.outlines, APART_M / 2))
        # Large ones first: the last block that was begun may have a single field.
        self.blocks = sorted(shapely.get_parts(blocks), key=lambda one: -one.area)
        self.passes: dict[str, list[tuple[Product, Any]]] = {one.name: [] for one in SENSORS}
        for product in season.products:
            if product.region == region and not (product.is_lost or product.is_withdrawn or product.revision):
                orbit = orbit_of(REGIONS[region], product)
                name = "S2" if isinstance(orbit, S2Orbit) else {"a": "S1A", "d": "S1D"}[orbit.direction[0]]
                self.passes[name].append((product, orbit))

    def patches(self, numbers: range) -> list[tuple[Any, Any, dict[str, Any], dict[str, Any]]]:
        """Return parcel ids, classes, days and images of the patches over these blocks.

        Raises:
            ValueError: there are not so many blocks.
        """
        if numbers.stop > len(self.blocks):
            raise ValueError(
                f"{self.region} has {len(self.blocks)} blocks of fields, not {numbers.stop}: ask for fewer patches"
            )
        places = [self._place(self.blocks[nr]) for nr in numbers]
        chosen = {
            one.name: self._series(one.name, places, numbers.start, most)
            for one, most in zip(SENSORS, self.made.dates, strict=True)
        }
        made = []
        for at, place in enumerate(places):
            days, images = ({name: series[at][part] for name, series in chosen.items()} for part in (0, 1))
            made.append((*self._annotated(place), days, images))
        return made

    def _place(self, block: Any) -> Place:
        side, centre = self.made.side, block.centroid
        left, top = (
            float(np.round(at / GRID_M) * GRID_M) for at in (centre.x - side * GRID_M / 2, centre.y + side * GRID_M / 2)
        )
        return self.renderer.place(left, top, side, side)

    def _annotated(self, place: Place) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return parcel ids and classes (H, W)."""
        rows = np.where(place.is_field, place.field, -1).reshape(place.height, place.width)
        inside = np.bincount(rows[rows >= 0], minlength=len(self.renderer.outlines)) * GRID_M**2
        label = np.array([CLASS_OF[CROPS[one].key] for one in self.renderer.fields.crop])
        label[inside < shapely.area(self.renderer.outlines) / 2] = VOID
        return (rows + 1).astype(np.int32), np.where(rows >= 0, label[rows], BACKGROUND).astype(np.uint8)

    def _series(self, sensor: str, places: list[Place], first: int, most: int) -> list[Series]:
        """Return the series of each place, numbered from `first` on, evenly among the passes that show it."""
        seen: list[list[tuple[int, NDArray[Any]]]] = [[] for _ in places]
        for product, orbit in self.passes[sensor]:
            day = (product.observed_at.date() - STARTS_ON).days
            for place, image in self._seen(product, orbit, places, first):
                seen[next(at for at, one in enumerate(places) if one is place)].append((day, image))
        return [self._chosen(one, most) for one in seen]

    @staticmethod
    def _chosen(seen: list[tuple[int, NDArray[Any]]], most: int) -> Series:
        rows = np.unique(np.linspace(0, len(seen) - 1, min(most, len(seen))).round().astype(int))
        kept = sorted((seen[row] for row in rows), key=lambda one: one[0])
        return np.array([day for day, _ in kept], np.int64), np.stack([image for _, image in kept])

    def _seen(
        self, product: Product, orbit: S1Orbit | S2Orbit, places: list[Place], first: int
    ) -> Iterator[tuple[Place, NDArray[Any]]]:
        """Yield the places that a pass shows, with their images (C, H, W)."""
        if isinstance(orbit, S1Orbit):
            for place, values in self.renderer.radar(product, orbit, places, first):
                vv, vh = (decibel(values[name]) for name in ("VV", "VH"))
                yield place, self._image([vv, vh, vv - vh], place).astype(np.float16)
            return
        for place, values in self.renderer.optical(product, orbit, places, first):
            classes = values.pop("SCL")
            if classes.min() > 0 and (classes == _CLOUD).mean() <= self.made.cloud:
                yield place, (self._image(list(values.values()), place).astype(np.int32) - _OFFSET).astype(np.int16)

    @staticmethod
    def _image(channels: list[NDArray[Any]], place: Place) -> NDArray[Any]:
        return np.stack(channels).reshape(-1, place.height, place.width)
