"""Pictures of parcels: the window, the fixed stretch, the outline, and what is no picture of the ground."""

import io
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry.base import BaseGeometry

from ingest.imagery.chips import LARGEST, Chip, Frame, NoChip, draw, frame
from ingest.imagery.scene import SCL, Band, Grid
from ingest.imagery.settings import ImagerySettings

GRID = Grid("EPSG:32631", 500_000.0, 5_700_000.0, 10.0, 2000, 1000)
SETTINGS = ImagerySettings()
REFLECTANCE = Band("", "reflectance", 1e-4, -0.1, 0.0)
BANDS = dict.fromkeys(("B02", "B03", "B04", "B08"), (REFLECTANCE, 0.0)) | {SCL: (Band("", "class"), 0.0)}
FIELD = shapely.box(100, 200, 130, 225)


def values(at: Frame, **changes: int) -> dict[str, NDArray[Any]]:
    """Numbers of a window: reflectance 0.05 in the visible, 0.45 in the near infrared, all clear."""
    n = at.side // at.step
    numbers = {"B02": 1500, "B03": 1500, "B04": 1500, "B08": 5500, SCL: 4} | changes
    return {name: np.full((n, n), number, np.uint16) for name, number in numbers.items()}


def pixels(chip: Chip) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(chip.image)) as picture:
        assert picture.format == "PNG"
        assert not picture.info, "no time, no program, no comment"
        return np.asarray(picture)


def test_a_window_holds_the_parcel_its_margin_and_no_more() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    assert at == Frame(187, 90, 50, 1, 5)  # 30 pixels and 10 on each side; 256 / 50


def test_a_tiny_parcel_is_shown_with_its_neighbours() -> None:
    at = frame(shapely.box(100, 100, 100.4, 101), GRID, SETTINGS.model_copy(update={"chip_margin_m": 0.0}))
    assert (at.side, at.step) == (32, 1)


def test_a_large_parcel_is_shown_at_every_second_pixel_and_says_so() -> None:
    at = frame(shapely.box(0, 0, 150, 100), GRID, SETTINGS)
    assert (at.step, at.side) == (2, 170)
    chip = draw("true_colour", values(at), BANDS, shapely.box(0, 0, 150, 100), at, GRID)
    assert (chip.pixel_m, chip.width, chip.bar_m) == (20.0, 85, 500)


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        (None, "no outline"),
        (shapely.Polygon(), "no outline"),
        (shapely.box(2100, 100, 2110, 110), "outside"),
        (shapely.box(100, -80, 110, -60), "outside"),
        (shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(1900, 5, 1910, 9)]), "19.3 km apart"),
    ],
)
def test_no_picture_is_made_up(outline: BaseGeometry | None, said: str) -> None:
    with pytest.raises(NoChip, match=said):
        frame(outline, GRID, SETTINGS)


def test_the_stretch_is_the_same_whatever_else_the_picture_shows() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    dark = draw("true_colour", values(at), BANDS, FIELD, at, GRID)
    numbers = values(at)
    numbers["B04"][:5] = 9000
    bright = draw("true_colour", numbers, BANDS, FIELD, at, GRID)
    centre = pixels(dark).shape[0] // 2
    expected = round(255 * (0.05 / 0.30) ** (1 / 1.8))
    for chip in (dark, bright):
        assert pixels(chip)[centre, centre].tolist() == [expected] * 3
        assert "0 to 0.30" in chip.stretch
    assert pixels(bright)[2, 200].tolist() == [255, expected, expected]


def test_false_colour_shows_vegetation_red() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    red, green, blue = pixels(draw("false_colour", values(at), BANDS, FIELD, at, GRID))[125, 125].tolist()
    assert red == round(255 * (0.45 / 0.60) ** (1 / 1.8)) > green == blue


def test_cloud_is_striped_and_no_data_dotted_grey() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    numbers = values(at)
    numbers[SCL][:, :4], numbers["B04"][:4, 10:30] = 9, 0
    shown = pixels(draw("true_colour", numbers, BANDS, FIELD, at, GRID))
    cloud, nothing = shown[30:200, :20], shown[:20, 50:150]
    assert {0, 255} <= set(np.unique(cloud)), "stripes are black and white: seen without colours"
    assert set(np.unique(nothing)) == {128, 255}
    assert 0.05 < (nothing == 255).mean() < 0.08


def test_a_window_without_data_is_no_picture() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    with pytest.raises(NoChip, match="no data"):
        draw("true_colour", values(at, SCL=0), BANDS, FIELD, at, GRID)


def test_the_outline_lies_where_the_parcel_does_with_all_its_parts_and_holes() -> None:
    hole = shapely.box(108, 206, 118, 216)
    field = shapely.Polygon(shapely.box(100, 200, 125, 225).exterior, [hole.exterior])
    whole = shapely.MultiPolygon([field, shapely.box(128, 200, 131, 203)])
    at = frame(whole, GRID, SETTINGS)
    shown = pixels(draw("true_colour", values(at), BANDS, whole, at, GRID))
    is_white = (shown == 255).all(axis=-1)
    y, x = np.nonzero(is_white[: 40 * at.zoom])  # above the bar
    points = shapely.points(at.column + (x + 0.5) / at.zoom, at.row + (y + 0.5) / at.zoom)
    assert shapely.distance(points, shapely.boundary(whole)).max() < 2.5 / at.zoom
    for ring in (hole.exterior, whole.geoms[0].exterior, whole.geoms[1].exterior):
        assert (shapely.distance(ring, points) < 1 / at.zoom).sum() > 0.5 * ring.length * at.zoom


def test_the_bar_is_as_long_as_it_says() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    chip = draw("true_colour", values(at), BANDS, FIELD, at, GRID)
    row = pixels(chip)[-8]
    assert chip.bar_m == 200
    assert abs((row == 255).all(axis=-1).sum() * 10 / at.zoom - chip.bar_m) <= 2 * 10 / at.zoom


@pytest.mark.parametrize(("unit", "number"), [("dB", -12.0), ("linear", 10**-1.2), ("amplitude", 10**-0.6)])
def test_radar_is_shown_in_decibels_whatever_it_is_stored_in(unit: Any, number: float) -> None:
    at = frame(FIELD, GRID, SETTINGS)
    n = at.side
    numbers = {"VV": np.full((n, n), number), "VH": np.full((n, n), number)}
    bands = {name: (Band("", unit), 0.0) for name in numbers}
    shown = pixels(draw("radar", numbers, bands, FIELD, at, GRID))[125, 125].tolist()
    assert shown == [round(255 * 8 / 16), round(255 * 14 / 16), 0]


def test_speckle_is_averaged_and_nothing_stays_nothing() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    chance = np.random.default_rng(1)
    numbers = {name: chance.exponential(mean, (at.side, at.side)) for name, mean in (("VV", 0.06), ("VH", 0.012))}
    for one in numbers.values():
        one[:5] = 0
    bands = {name: (Band("", "linear"), 0.0) for name in numbers}
    shown = pixels(draw("radar", numbers, bands, FIELD, at, GRID)).astype(float)
    assert set(np.unique(shown[: 5 * at.zoom])) == {128, 255}
    assert shown[30:90, 100:150, 0].std() < 50, "single looks spread over 5.6 dB, nine over 1.9"


def test_the_same_window_gives_the_same_bytes() -> None:
    at = frame(FIELD, GRID, SETTINGS)
    one, other = (draw("true_colour", values(at), BANDS, FIELD, at, GRID) for _ in range(2))
    assert one.image == other.image
    assert (one.left_m, one.top_m, one.crs) == (500_900.0, 5_698_130.0, "EPSG:32631")


@given(
    left=st.floats(-300, 2300),
    top=st.floats(-300, 1300),
    width=st.floats(1e-3, 900),
    height=st.floats(1e-3, 900),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_parcel_gives_a_small_picture_or_a_reason(
    left: float, top: float, width: float, height: float, seed: int
) -> None:
    outline = shapely.box(left, top, left + width, top + height)
    chance = np.random.default_rng(seed)
    try:
        at = frame(outline, GRID, SETTINGS)
        n = at.side // at.step
        numbers = {name: chance.integers(0, 2**16, (n, n)).astype(np.uint16) for name in BANDS}
        numbers[SCL] = chance.integers(0, 12, (n, n)).astype(np.uint8)
        chip = draw("true_colour", numbers, BANDS, outline, at, GRID)
    except NoChip:
        return
    assert len(chip.image) <= LARGEST
    assert chip.width * chip.pixel_m >= min(width, height) * 10
