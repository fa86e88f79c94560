"""A scene: one product of one pass on one grid, described the same way wherever it was found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from db.sensors import Sensor
from ingest.imagery.checksums import Checksum

Unit = Literal["reflectance", "class", "linear", "amplitude", "dB", "coherence", "kelvin"]
Direction = Literal["ascending", "descending"]
Radiometry = Literal["sigma0", "gamma0"]

SCL: Final = "SCL"
"""Scene classification of Sentinel-2 L2A, one class a pixel."""
LONGEST_SIDE: Final = 2**17
"""Pixels of a raster's side (chosen as ten tiles of Sentinel-2)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square pixels, north up, in a projected system in metres; `left` and `top` are the outer edges."""

    crs: str
    left: float
    top: float
    pixel_m: float
    width: int
    height: int

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """The affine transform from column and row to coordinates: a, b, c, d, e, f."""
        return self.pixel_m, 0.0, self.left, 0.0, -self.pixel_m, self.top


@dataclass(frozen=True, slots=True)
class Band:
    """One band's raster: value = number * scale + offset, in `unit`."""

    href: str
    """A path or address that GDAL opens: a file, a member of a zip, http(s), s3."""
    unit: Unit
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    """The number that means no value; None: as the file says."""
    checksum: Checksum | None = None
    """What the catalogue or the product says of the file's bytes."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What must be known of a product to cut it and to say where its values come from."""

    sensor: Sensor
    scene_id: str
    """The product's name."""
    observed_at: datetime
    """Start of the datatake; of a Sentinel-1 slice, whose product does not say that, its own start."""
    available_at: datetime
    """When the product could be had."""
    platform: str
    relative_orbit: int
    bands: Mapping[str, Band] = field(repr=False)
    """By the field's names: B02 .. B12 and SCL; VV, VH, coherence_VV, coherence_VH."""
    grid: Grid | None = None
    """Where the pixels lie; None: as the first band's file says."""
    direction: Direction | None = None
    radiometry: Radiometry | None = None
    datatake: str | None = None
    """The same for all granules or slices of one pass."""
    coherence_with: datetime | None = None
    """The earlier pass of the coherence bands."""
    tile: str | None = None
    """MGRS tile, as 31UFS."""
    part: datetime | None = None
    """Which granule of the tile, or slice of the datatake, whoever processed it: the start of its datastrip or slice."""
    baseline: str | None = None
    """Processing baseline or version, as the product says."""
    processed_at: datetime | None = None
    """When this processing was made."""
    revision: int = 0
    """0 first; a newer processing of the same pass is one higher (the ledger counts)."""
