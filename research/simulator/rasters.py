"""Scenes of a simulated season as rasters around some parcels, in the folder form that `parcelwatch scenes add` reads.

The same pass, weather, clouds, states and appearance as in the season's messages, and its scene ids: what differs is the noise of
single pixels. Beyond the fields lies a hedge that never changes; beyond the surroundings of the parcels nothing: the files are
sparse. A scene is one of `season.products`; lost and withdrawn products have no rasters.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from research.simulator import optics, radar
from research.simulator.fields import TEXTURE, Fields
from research.simulator.observe import (
    ADJACENCY,
    FIELD_DB,
    FIELD_GAIN,
    FROZEN_C,
    LOOK_AZIMUTH,
    NOISE,
    SCENE_GAIN,
    SCENE_HAZE,
    draw_clouds,
    is_seen,
)
from research.simulator.pixels import FINE, GRID_M, Patches, draw_patches
from research.simulator.randomness import stream
from research.simulator.regions import REGIONS, S1Orbit, S2Orbit
from research.simulator.schedule import Product
from research.simulator.season import Season, orbit_of

Float32 = NDArray[np.float32]
IntArray = NDArray[np.int64]

AROUND_M: Final = 250.0
"""Ground around a parcel that has pixels (chosen: more than a picture shows around it)."""
HEDGE: Final[Float32] = np.array((0.03, 0.05, 0.04, 0.08, 0.18, 0.22, 0.24, 0.25, 0.14, 0.08), np.float32)
"""Reflectance between fields (chosen: darker than any crop, so that fields are seen as such)."""
HEDGE_DB: Final = (-9.0, -15.0)
"""VV and VH between fields: trees (Sentinel-1 of Dutch woods, within 2 dB)."""
_TILED: Final[dict[str, Any]] = {
    "tiled": True,
    "blockxsize": 128,
    "blockysize": 128,
    "compress": "deflate",
    "sparse_ok": True,
}
_OFFSET: Final = 1000
"""Digital numbers of baseline 04.00 and later: reflectance times 10,000, and this."""
_COARSE: Final = frozenset({"B05", "B06", "B07", "B8A", "B11", "B12"})
"""Bands of 20 m."""
_CLEAR, _BARE, _CLOUD = 4, 5, 9


@dataclass(frozen=True)
class Place:
    """A window of pixels around one parcel, in the region's system."""

    left: float
    top: float
    width: int
    height: int
    field: IntArray
    """(n,) row of the field at each pixel, the nearest one's beyond the fields."""
    is_field: NDArray[np.bool_]
    """(n,)"""
    offset: Float32
    """(n, 2) metres from that field's centre."""
    border_m: Float32
    """(n,) distance to its outline."""


Layers = list[tuple[Place, dict[str, NDArray[Any]]]]
"""Places that a pass shows, each with digital numbers (n,) by asset; 0: nothing was seen there."""


class Renderer:
    """Draws what a pass shows of places of one region."""

    def __init__(self, season: Season, region: str) -> None:
        self._season = season
        self.fields: Fields = season.fields[region]
        own = season.parcels[season.parcels["region"] == region].to_crs(REGIONS[region].epsg)
        self.outlines = np.array(own.geometry.to_list(), dtype=object)
        """(P,) of the rows of `fields`, in the region's system."""
        self._tree = shapely.STRtree(self.outlines)
        self._patches = draw_patches(len(self.outlines), stream(season.config.seed, "pattern"))
        self._area = _mean_area(self._patches, self.fields)

    def around(self, row: int) -> Place:
        """Return the window around a parcel, of whole pixels of 20 m."""
        west, south, east, north = self.outlines[row].buffer(AROUND_M).bounds
        left, top = np.floor(west / 20) * 20, np.ceil(north / 20) * 20
        width, height = (2 * int(np.ceil(side / 20)) for side in (east - left, top - south))
        return self.place(float(left), float(top), width, height)

    def place(self, left: float, top: float, width: int, height: int) -> Place:
        """Return a window of pixels."""
        x = left + GRID_M * (np.arange(width) + 0.5)
        y = top - GRID_M * (np.arange(height) + 0.5)
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        at = shapely.points(points)
        field = np.empty(len(points), np.int64)
        near = self._tree.query_nearest(at, all_matches=False)
        field[near[0]] = near[1]
        return Place(
            left,
            top,
            width,
            height,
            field,
            shapely.contains(self.outlines[field], at),
            (points - self.fields.centre[field]).astype(np.float32),
            shapely.distance(at, shapely.boundary(self.outlines[field])).astype(np.float32),
        )

    def _day(self, product: Product) -> int:
        return (product.observed_at.date() - self._season.starts_on).days

    def optical(self, product: Product, orbit: S2Orbit, places: Sequence[Place], first: int = 0) -> Layers:
        """Return the bands and SCL of the places in the swath; places have numbers from `first` on, by which their noise is drawn."""
        fields, t, config = self.fields, self._day(product), self._season.config
        # The same draws in the same order as `observe_s2` makes them.
        rng = stream(config.seed, "s2", product.region, int(config.season), product.number)
        clouds = draw_clouds(fields, t, rng, config.missed_cloud if product.revision == 0 else 0.0)
        has_any, in_swath, _ = is_seen(fields, orbit, clouds.over(slice(None), fields.s2.offset)[0])
        scene = rng.normal(0, 1, (2, 10)).astype(np.float32)
        field_gain = np.zeros(len(fields.crop), np.float32)
        field_gain[has_any] = rng.standard_normal((int(has_any.sum()), 1), dtype=np.float32)[:, 0]
        gain = 1 + SCENE_GAIN * scene[0] + FIELD_GAIN * field_gain[:, None]  # (P, 10)
        haze = SCENE_HAZE * scene[1, 0] * np.linspace(1.5, 0.1, 10, dtype=np.float32)
        wetness = np.full(len(fields.crop), fields.wetness[t], np.float32)
        mixed = optics.mixture(fields.states, t, fields.crop, fields.appearance.traits, fields.appearance.soil, wetness)
        shown = []
        for number, place in enumerate(places, first):
            if not in_swath[place.field].any():
                continue
            own = stream(config.seed, "raster", product.region, product.number, number)
            values = self._reflectance(place, mixed, t, own) * gain[place.field] + haze
            values += own.standard_normal(values.shape, dtype=np.float32) * (NOISE[0] + NOISE[1] * values)
            is_clear, missed = (one[:, 0] for one in clouds.over(place.field, place.offset[:, None, :]))
            cover = np.where(is_clear, np.maximum(missed, 0), 0.9)[:, None]
            values = (values + cover * (optics.CLOUD - values)) * (1 + np.minimum(missed, 0))[:, None]
            is_bare = optics.ndvi(values[:, optics.RED], values[:, optics.NIR]) < 0.3
            classes = np.where(is_clear, np.where(is_bare, _BARE, _CLEAR), _CLOUD).astype(np.uint8)
            numbers = np.clip(np.round(values * 1e4) + _OFFSET, 2, 65535).astype(np.uint16)
            numbers[~in_swath[place.field]], classes[~in_swath[place.field]] = 0, 0
            bands = {name: numbers[:, band] for band, name in enumerate(optics.BANDS)}
            shown.append((place, {**bands, "SCL": classes}))
        return shown

    def _reflectance(
        self, place: Place, mixed: tuple[Float32, Float32, Float32], t: int, rng: np.random.Generator
    ) -> Float32:
        """Return (n, 10) reflectance of the ground at the pixels of a place."""
        fields, at = self.fields, place.field
        canopy, ground, area = mixed
        flooded = fields.states.flooded[:, t]
        pattern = self._pattern(place, rng)
        values = optics.pixel_reflectance(canopy[at], ground[at], area[at], flooded[at], pattern)[:, :, 0]
        neighbour = optics.field_reflectance(canopy, ground, area, flooded)[fields.neighbour[at]]
        weight = np.float32(ADJACENCY[0]) * np.exp(-place.border_m / np.float32(ADJACENCY[1]))
        values = values + weight[:, None] * (neighbour - values)
        found: Float32 = np.where(place.is_field[:, None], values, HEDGE).astype(np.float32)
        return found

    def _pattern(self, place: Place, rng: np.random.Generator) -> Float32:
        """Return (n, 1) plant area over the field's mean."""
        fine = rng.normal(0, FINE, (len(place.field), 1))
        here = self._patches.at(place.field, place.offset[:, None, :], place.border_m[:, None], fine)
        mean = self._area[place.field]
        relative: Float32 = (here / np.maximum(mean, 0.2)[:, None]).astype(np.float32)
        return relative

    def radar(self, product: Product, orbit: S1Orbit, places: Sequence[Place], first: int = 0) -> Layers:
        """Return VV and VH, linear power, of the places; `first` as in `optical`."""
        fields, t, config = self.fields, self._day(product), self._season.config
        rng = stream(config.seed, "s1", product.region, int(config.season), product.number)
        seen = np.flatnonzero(fields.is_monitorable & (fields.s1.count > 0))
        mean = radar.field_backscatter(
            fields.states,
            t,
            fields.crop,
            fields.appearance.radar,
            float(fields.wetness[t]),
            bool(fields.temperature[t] < FROZEN_C),
            orbit.incidence_deg,
            LOOK_AZIMUTH[orbit.direction],
        )
        drawn = rng.normal(0, FIELD_DB, (len(seen), 2)) + 0.1 * product.revision
        mean[seen] *= np.power(10, drawn / 10).astype(np.float32)
        hedge = np.power(10, np.array(HEDGE_DB, np.float32) / 10)
        shown = []
        for number, place in enumerate(places, first):
            own = stream(config.seed, "raster", product.region, product.number, number)
            ground = np.where(place.is_field[:, None], mean[place.field], hedge).astype(np.float32)
            texture = np.exp(own.normal(0, TEXTURE, (len(ground), 1))).astype(np.float32)
            power = radar.speckled(ground, texture, own)[:, :, 0]
            shown.append((place, {"VV": power[:, 0], "VH": power[:, 1]}))
        return shown


class SceneWriter:
    """Writes the scenes of a season around some parcels of one region.

    Args:
        season: the season.
        region: the parcels' region.
        parcel_ids: the parcels; others near them are drawn too.
        folder: gets a folder for each scene.
    """

    def __init__(self, season: Season, region: str, parcel_ids: Sequence[str], folder: Path) -> None:
        self._region, self._folder, self._renderer = region, folder, Renderer(season, region)
        row_of = {name: row for row, name in enumerate(self._renderer.fields.parcel_id.tolist())}
        self._places = [self._renderer.around(row_of[name]) for name in parcel_ids]

    def write(self, product: Product) -> Path | None:
        """Write a scene and return its item; None of a product that has no rasters, or shows none of the parcels."""
        if product.is_lost or product.is_withdrawn or product.region != self._region:
            return None
        orbit = orbit_of(REGIONS[self._region], product)
        if isinstance(orbit, S2Orbit):
            shown = self._renderer.optical(product, orbit, self._places)
            properties: dict[str, Any] = {"s2:processing_baseline": f"05.{11 + product.revision:02d}"}
        else:
            shown = self._renderer.radar(product, orbit, self._places)
            properties = {
                "sat:orbit_state": orbit.direction,
                "sat:relative_orbit": product.relative_orbit,
                "card4l:measurement_type": "sigma0",
            }
        properties |= {
            "datetime": product.observed_at.isoformat(),
            "created": product.available_at.isoformat(),
            "platform": f"sentinel-{product.platform[1:].lower()}",
        }
        return self._write(product, shown, properties) if shown else None

    def _write(self, product: Product, shown: Layers, properties: dict[str, Any]) -> Path:
        folder = self._folder / product.scene_id
        folder.mkdir(parents=True, exist_ok=True)
        left, top = min(place.left for place, _ in shown), max(place.top for place, _ in shown)
        right = max(place.left + place.width * GRID_M for place, _ in shown)
        bottom = min(place.top - place.height * GRID_M for place, _ in shown)
        assets: dict[str, Any] = {}
        for name, sample in shown[0][1].items():
            step = 2 if name in _COARSE else 1
            size = GRID_M * step
            path = folder / f"{name}.tif"
            with rasterio.open(
                path,
                "w+",
                driver="GTiff",
                dtype=sample.dtype,
                count=1,
                crs=f"EPSG:{REGIONS[self._region].epsg}",
                transform=rasterio.Affine(size, 0, left, 0, -size, top),
                width=round((right - left) / size),
                height=round((top - bottom) / size),
                nodata=0,
                **_TILED,
            ) as file:
                for place, values in shown:
                    _paste(file, place, values[name].reshape(place.height, place.width)[::step, ::step], size)
            assets[name if name not in ("VV", "VH") else name.lower()] = {"href": f"./{path.name}"}
        if product.sensor == "s1":
            for asset in assets.values():
                asset["raster:bands"] = [{"nodata": 0, "unit": "linear"}]
        item = {"type": "Feature", "id": product.scene_id, "links": [], "assets": assets, "properties": properties}
        path = folder / "item.json"
        path.write_text(json.dumps(item), encoding="utf-8")
        return path


def _paste(file: Any, place: Place, block: NDArray[Any], size: float) -> None:
    """Write the pixels of a place that have values over what another one wrote."""
    row, column = round((file.transform.f - place.top) / size), round((place.left - file.transform.c) / size)
    window = Window(column, row, block.shape[1], block.shape[0])
    file.write(np.where(block == 0, file.read(1, window=window), block).astype(block.dtype), 1, window=window)


def _mean_area(patches: Patches, fields: Fields) -> NDArray[np.float64]:
    """Return (P,) plant area over the sampled pixels of each field, without their fine noise."""
    sample = fields.s2
    everywhere = patches.at(slice(None), sample.offset, sample.border_m, np.zeros(sample.is_used.shape))
    mean: NDArray[np.float64] = (everywhere * sample.is_used).sum(axis=1) / np.maximum(sample.is_used.sum(axis=1), 1)
    return mean


def write_scenes(
    season: Season, parcel_ids: Sequence[str], folder: Path, scene_ids: Iterable[str] | None = None
) -> list[Path]:
    """Write the scenes of some parcels, of all products or of those that are named; return their items."""
    wanted = None if scene_ids is None else set(scene_ids)
    written: list[Path] = []
    for region, fields in season.fields.items():
        known = set(fields.parcel_id.tolist())
        if own := [one for one in parcel_ids if one in known]:
            writer = SceneWriter(season, region, own, folder)
            for product in season.products:
                if wanted is None or product.scene_id in wanted:
                    item = writer.write(product)
                    written += [item] if item else []
    return written
