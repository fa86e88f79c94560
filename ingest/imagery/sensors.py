"""What must be known of a sensor to find, read and cut its scenes: one row a sensor in `IMAGERY`; no other file compares sensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from db.sensors import POLARISATIONS, S2_BANDS, Sensor
from ingest.imagery import sentinel1, sentinel2
from ingest.imagery.index import ParcelIndex
from ingest.imagery.optical import SMALLEST, OpticalSums
from ingest.imagery.profile import Item, ItemBand, Profile
from ingest.imagery.radar import COHERENCE, RadarSums
from ingest.imagery.safe import scene_from_safe
from ingest.imagery.scene import SCL, Band, Scene
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.sums import Sums
from ingest.stream.schemas import S1, S2, ObservationSchema


@dataclass(frozen=True, slots=True)
class SensorImagery:
    """A sensor's imagery."""

    title: str
    platform: re.Pattern[str]
    """Matches the start of its platforms, constellations and products: sentinel-2a, S2B_MSIL2A_..., Sentinel-1."""
    product: re.Pattern[str]
    """Of a product's name: platform and start; orbit, datatake, baseline, tile and made where the name says them."""
    profile: Profile
    """Names in the items of the three large catalogues."""
    band: Callable[[ItemBand, Profile], Band]
    """Unit, scale and offset of a band in an item."""
    part: Callable[[Item, Profile], datetime | None]
    """Which part of the pass an item with these properties shows: `Scene.part`."""
    schema: ObservationSchema
    """Of the rows that a scene is cut to."""
    counted: str
    """The schema's column that holds a parcel's valid pixels."""
    needed: tuple[str, ...]
    """Bands without which a scene is not cut; the first gives its grid."""
    sums: Callable[[Scene, ParcelIndex, Mapping[str, float], ImagerySettings], Sums]
    """Called with the scene, the index, each band's nodata and the settings."""
    inner_buffer_m: Callable[[ImagerySettings], float]
    optional: tuple[str, ...] = ()
    """Bands that are cut where a scene has them."""
    no_value_up_to: Mapping[str, int] = field(default_factory=dict)
    """Numbers of a band that mean no value, beside its nodata: all up to this one."""
    must_know: Mapping[str, str] = field(default_factory=dict)
    """Facts of `Scene` and `Profile` without which a scene is not cut, and the values they have."""
    is_tiled: bool = False
    """Whether its products are tiles that overlap, so that a parcel is cut from its home tile alone."""
    level: str = ""
    """Part of the name of each product that can be cut."""
    read_safe: Callable[[Path], Scene] | None = None
    """Reads a SAFE folder or zip; None where such products cannot be cut."""


IMAGERY: Final[Mapping[Sensor, SensorImagery]] = {
    "S1": SensorImagery(
        title="Sentinel-1",
        platform=re.compile(r"S(?:ENTINEL-)?1(?![0-9])", re.IGNORECASE),
        product=sentinel1.PRODUCT,
        profile=sentinel1.S1_PROFILE,
        band=sentinel1.band,
        part=sentinel1.slice_start,
        schema=S1,
        counted="n_pixels",
        needed=POLARISATIONS,
        optional=COHERENCE,
        sums=lambda scene, index, nodata, _: RadarSums(scene, index, nodata),
        inner_buffer_m=lambda settings: settings.s1_buffer_m,
        must_know={"direction": "ascending or descending", "radiometry": "sigma0 or gamma0"},
    ),
    "S2": SensorImagery(
        title="Sentinel-2",
        platform=re.compile(r"S(?:ENTINEL-)?2(?![0-9])", re.IGNORECASE),
        product=sentinel2.PRODUCT,
        profile=sentinel2.S2_PROFILE,
        band=sentinel2.band,
        part=sentinel2.datastrip_start,
        schema=S2,
        counted="n_clear",
        needed=(*S2_BANDS, SCL),
        sums=lambda scene, index, nodata, settings: OpticalSums(scene, index, nodata, settings.clear_classes),
        inner_buffer_m=lambda settings: settings.s2_buffer_m,
        no_value_up_to=dict.fromkeys(S2_BANDS, SMALLEST),
        is_tiled=True,
        level="_MSIL2A_",
        read_safe=scene_from_safe,
    ),
}
