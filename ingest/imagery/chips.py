"""Chips: small pictures of a parcel, cut from a scene's own pixels, north up, with the parcel's outline.

    outline ── frame ──► square window on the grid ── bands ──► fixed stretch ── masks, outline, scale bar ──► PNG

A stretch never depends on the picture, so that two dates may be compared by eye. What is no picture of the ground is drawn as
a pattern, which is seen without colours too: stripes over cloud and its shadow, dots on grey where the scene has no data.

rio-tiler was not used: it opens a file by itself, and by any of GDAL's drivers; `Raster` has the windows already, behind the
checks of formats, sizes, places and checksums.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import shapely
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely.geometry.base import BaseGeometry

from db.sensors import POLARISATIONS, Sensor
from ingest.imagery.optical import SMALLEST
from ingest.imagery.radar import NOISE_FLOOR
from ingest.imagery.scene import SCL, Band, Grid
from ingest.imagery.settings import ImagerySettings

Composite = Literal["true_colour", "false_colour", "radar"]
COMPOSITES: Final[tuple[Composite, ...]] = get_args(Composite)
OF_SENSOR: Final[Mapping[Sensor, tuple[Composite, ...]]] = {"S2": ("true_colour", "false_colour"), "S1": ("radar",)}
BANDS: Final[Mapping[Sensor, tuple[str, ...]]] = {"S2": ("B02", "B03", "B04", "B08", SCL), "S1": POLARISATIONS}

LARGEST: Final = 2**17
"""Bytes of a picture; the store refuses more."""
_LEAST_SIDE: Final = 32
"""Pixels of the ground that the smallest parcel's picture shows (chosen: 320 m, so that its neighbours can be seen)."""
_MOST_STEP: Final = 8
"""The ground is shown at every so many pixels at most: a parcel whose parts lie farther apart has no chip."""
_SHOWN: Final = 256
"""Side of a picture in its own pixels, about (chosen: legible beside a second one on a telephone)."""
_GAMMA: Final = 1.8
"""Brightens the dark half, where fields are (chosen by eye on Sentinel-2 of May and August)."""
_VISIBLE: Final = (0.0, 0.30)
_NIR: Final = (0.0, 0.60)
"""Reflectance shown black and full (chosen: bare dry soil reaches 0.25 in red, dense canopies 0.5 in the near infrared)."""
_RADAR_DB: Final = ((-20.0, -4.0), (-26.0, -10.0), (2.0, 14.0))
"""VV, VH and VV less VH shown black and full (chosen: 1 % and 99 % of Dutch fields in 2023, rounded)."""
STRETCH: Final[Mapping[Composite, str]] = {
    "true_colour": "1: red B04, green B03, blue B02; reflectance 0 to 0.30, gamma 1.8",
    "false_colour": "1: red B08 0 to 0.60, green B04 and blue B03 0 to 0.30 reflectance, gamma 1.8",
    "radar": "1: red VV -20 to -4 dB, green VH -26 to -10 dB, blue VV less VH 2 to 14 dB; mean power of 3 x 3 pixels",
}
"""How numbers become colours; the first number is raised when that changes."""
_CLOUDY: Final = (3, 8, 9, 10)
"""SCL: cloud shadow, cloud of medium and high probability, thin cirrus."""
_BARS_M: Final = (20, 50, 100, 200, 500, 1000, 2000)
_GREY: Final = 128


class Frame(NamedTuple):
    """A square window of a grid in its pixels, of which every `step`th is shown, each `zoom` pixels wide in the picture."""

    row: int
    column: int
    side: int
    step: int
    zoom: int


@dataclass(frozen=True, slots=True)
class Chip:
    """A picture and how it came to be."""

    composite: Composite
    image: bytes = field(repr=False)
    """PNG."""
    sha256: bytes
    crs: str
    left_m: float
    top_m: float
    pixel_m: float
    """Metres of ground that one value covers."""
    width: int
    """Values to a side; the picture has a whole multiple of them."""
    bar_m: int
    """Length of the bar that is drawn at the lower left."""
    stretch: str


class NoChip(ValueError):
    """A parcel of which no picture can be made; the text says why, to be stored as the reason."""


def frame(outline: BaseGeometry | None, grid: Grid, settings: ImagerySettings) -> Frame:
    """Return the window around an outline in pixels of a grid (`Parcels.on_grid`). Raises NoChip."""
    if outline is None or outline.is_empty:
        raise NoChip("the parcel has no outline on the map of this scene")
    left, top, right, bottom = outline.bounds
    margin = settings.chip_margin_m / grid.pixel_m
    needed = max(int(np.ceil(max(right - left, bottom - top) + 2 * margin)), _LEAST_SIDE)
    step = -(-needed // settings.chip_pixels)
    if step > _MOST_STEP:
        most = settings.chip_pixels * _MOST_STEP * grid.pixel_m / 1000
        raise NoChip(f"its parts lie {needed * grid.pixel_m / 1000:.1f} km apart; a chip shows {most:.1f} km at most")
    shown = -(-needed // step)
    side = shown * step
    row, column = (int(np.floor((low + high - side) / 2)) for low, high in ((top, bottom), (left, right)))
    if row >= grid.height or column >= grid.width or row + side <= 0 or column + side <= 0:
        raise NoChip("the parcel lies outside of this scene")
    return Frame(row, column, side, step, max(1, round(_SHOWN / shown)))


def draw(
    composite: Composite,
    values: Mapping[str, NDArray[Any]],
    bands: Mapping[str, tuple[Band, float]],
    outline: BaseGeometry,
    at: Frame,
    grid: Grid,
) -> Chip:
    """Return the picture of a window.

    Args:
        composite: which.
        values: (n, n) numbers of each band as stored, n = side / step.
        bands: each band and its number for no value.
        outline: in pixels of the grid.
        at: the window.
        grid: where it lies.

    Raises NoChip where the scene has no data in the whole window.
    """
    colours, is_there = _radar(values, bands) if composite == "radar" else _optical(composite, values, bands)
    if not is_there.any():
        raise NoChip("the scene has no data around the parcel")
    zoomed = _patterned(colours, is_there, _is_cloudy(composite, values), at.zoom)
    picture = Image.fromarray(zoomed)
    _outline(picture, outline, at)
    bar_m = _bar(picture, grid.pixel_m * at.step / at.zoom)
    image = _png(picture)
    if len(image) > LARGEST:
        raise NoChip(f"its picture takes {len(image):,} bytes, more than {LARGEST:,}")
    return Chip(
        composite,
        image,
        hashlib.sha256(image).digest(),
        grid.crs,
        grid.left + at.column * grid.pixel_m,
        grid.top - at.row * grid.pixel_m,
        grid.pixel_m * at.step,
        at.side // at.step,
        bar_m,
        STRETCH[composite],
    )


def _optical(
    composite: Composite, values: Mapping[str, NDArray[Any]], bands: Mapping[str, tuple[Band, float]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return (n, n, 3) colours and where there is data."""
    order = ("B04", "B03", "B02") if composite == "true_colour" else ("B08", "B04", "B03")
    is_there = values[SCL] != 0
    planes = []
    for name in order:
        band, nodata = bands[name]
        is_there = is_there & (values[name] != nodata) & (values[name] > SMALLEST)
        low, high = _NIR if name == "B08" else _VISIBLE
        planes.append(_stretched(values[name] * band.scale + band.offset, low, high, _GAMMA))
    return np.stack(planes, axis=-1), is_there


def _radar(
    values: Mapping[str, NDArray[Any]], bands: Mapping[str, tuple[Band, float]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    decibels = []
    for name in POLARISATIONS:
        band, nodata = bands[name]
        scaled = values[name].astype(np.float64) * band.scale + band.offset
        scaled[values[name] == nodata] = np.nan
        power = np.power(10.0, scaled / 10) if band.unit == "dB" else scaled ** (2 if band.unit == "amplitude" else 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            decibels.append(10.0 * np.log10(_despeckled(power)))
    vv, vh = decibels
    floor = 10 * np.log10(NOISE_FLOOR)
    is_there = (vv > floor) & (vh > floor)  # NaN is not
    planes = [_stretched(one, *limits) for one, limits in zip((vv, vh, vv - vh), _RADAR_DB, strict=True)]
    return np.stack(planes, axis=-1), is_there


def _despeckled(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean power of each pixel and those of its eight neighbours that have one; NaN stays NaN."""
    is_there = np.isfinite(power)
    around = sliding_window_view(np.pad(np.where(is_there, power, 0.0), 1), (3, 3)).sum(axis=(2, 3))
    n = sliding_window_view(np.pad(is_there, 1), (3, 3)).sum(axis=(2, 3))
    smooth: NDArray[np.float64] = np.where(is_there, around / np.maximum(n, 1), np.nan)
    return smooth


def _stretched(values: NDArray[Any], low: float, high: float, gamma: float = 1.0) -> NDArray[np.uint8]:
    share = np.clip(np.nan_to_num((values - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    shown: NDArray[np.uint8] = np.rint(255 * share ** (1 / gamma)).astype(np.uint8)
    return shown


def _is_cloudy(composite: Composite, values: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    return None if composite == "radar" else np.isin(values[SCL], _CLOUDY)


def _patterned(
    colours: NDArray[np.uint8], is_there: NDArray[np.bool_], is_cloudy: NDArray[np.bool_] | None, zoom: int
) -> NDArray[np.uint8]:
    """Return the colours at the picture's size, with stripes on cloud and dots where nothing is."""

    def zoomed(plane: NDArray[Any]) -> NDArray[Any]:
        return plane.repeat(zoom, axis=1).repeat(zoom, axis=0)  # whole rows last: five times as fast

    picture: NDArray[np.uint8] = zoomed(colours)
    has_cloud = is_cloudy is not None and is_cloudy.any()
    if is_there.all() and not has_cloud:
        return picture
    down, right = np.ogrid[: picture.shape[0], : picture.shape[1]]
    if is_cloudy is not None:
        cloud = zoomed(is_cloudy)
        picture[cloud & ((down + right) % 8 == 0)] = 0
        picture[cloud & ((down + right) % 8 == 1)] = 255
    nothing = ~zoomed(is_there)
    picture[nothing] = _GREY
    picture[nothing & (down % 4 == 0) & (right % 4 == 0)] = 255
    return picture


def _outline(picture: Image.Image, outline: BaseGeometry, at: Frame) -> None:
    """Draw every ring, those of holes too: white on black, to be seen on any ground."""
    rings = [ring for part in shapely.get_parts(outline) for ring in (part.exterior, *part.interiors)]
    lines = [
        [tuple(point) for point in (shapely.get_coordinates(ring) - (at.column, at.row)) * (at.zoom / at.step)]
        for ring in rings
    ]
    pen = ImageDraw.Draw(picture)
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        for line in lines:
            pen.line(line, fill=colour, width=width, joint="curve")


def _bar(picture: Image.Image, metres: float) -> int:
    """Draw a bar at the lower left of a picture whose pixels are so many metres; return its length in metres."""
    fitting = [one for one in _BARS_M if one / metres <= 0.4 * picture.width]
    length = fitting[-1] if fitting else _BARS_M[0]
    bottom, right = picture.height - 6, 6 + round(length / metres)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((4, bottom - 6, right + 2, bottom + 2), fill=(0, 0, 0))
    pen.rectangle((6, bottom - 4, right, bottom), fill=(255, 255, 255))
    return length


def _png(picture: Image.Image) -> bytes:
    """Return the picture as PNG without any text or time in it."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6)  # 9 takes ten times as long for 3 % (measured)
    return file.getvalue()
