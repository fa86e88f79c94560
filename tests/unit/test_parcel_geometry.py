"""Outlines: repaired, measured, judged."""

import struct
import time

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

import ingest.parcels.geometry
import ingest.parcels.overlaps
import ingest.parcels.pixels
from ingest.parcels.arrays import Geometries
from ingest.parcels.geometry import LONG_VERTICES, measure, to_utm
from ingest.parcels.overlaps import overlap_share, repeated
from ingest.parcels.pixels import MIN_FULL_PIXELS, SURE_PIXELS, full_pixels, too_small_for

UTM31 = pyproj.CRS("EPSG:32631")
EAST, NORTH = 600_000.0, 5_700_000.0


def square(side_m: float, x: float = EAST, y: float = NORTH) -> shapely.Polygon:
    return shapely.box(x, y, x + side_m, y + side_m)


def wkb(*outlines: shapely.Geometry | None) -> list[bytes | None]:
    return [None if outline is None else shapely.to_wkb(outline) for outline in outlines]


def array(*outlines: shapely.Geometry | None) -> Geometries:
    return np.array(outlines, dtype=object)


def test_measures_are_metres_of_the_utm_zone() -> None:
    triangle = shapely.Polygon([(EAST, NORTH), (EAST + 300, NORTH), (EAST, NORTH + 400)])
    outlines = measure(wkb(square(100), triangle), UTM31)
    # Outlines are rounded to 1 mm, so perimeters to some.
    assert outlines.area_ha == pytest.approx([1.0, 6.0], rel=1e-5)
    assert outlines.perimeter_m == pytest.approx([400.0, 1200.0], rel=1e-5)
    assert outlines.bbox_fill == pytest.approx([1.0, 0.5], rel=1e-4)
    assert list(outlines.reason) == [None, None]


@pytest.mark.parametrize("epsg", [4326, 3035, 2056, 25832, 28992])
def test_area_does_not_depend_on_the_system_of_the_file(epsg: int) -> None:
    lonlat = shapely.box(6.9, 51.0, 6.903, 51.002)
    transformer = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    given_outline = shapely.transform(lonlat, lambda xy: np.column_stack(transformer.transform(*xy.T)))
    there, here = (measure(wkb(o), pyproj.CRS(c)) for o, c in ((given_outline, epsg), (lonlat, 4326)))
    assert there.area_ha[0] == pytest.approx(here.area_ha[0], rel=1e-4)
    # The Dutch and Swiss datums are known to a metre or two without their grids.
    assert shapely.hausdorff_distance(there.geometry[0], here.geometry[0]) < 3e-5


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"), [(5.99, 50.0, 32631), (6.01, 50.0, 32632), (-70.0, -33.0, 32719), (179.99, -17.0, 32760)]
)
def test_each_parcel_has_the_zone_of_its_own(lon: float, lat: float, epsg: int) -> None:
    point = shapely.Point(lon, lat)
    expected = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    moved = to_utm(array(shapely.Point(3, 50), point))[1]
    assert shapely.get_coordinates(moved)[0] == pytest.approx(expected)


def test_a_bow_tie_becomes_two_triangles() -> None:
    bow_tie = shapely.Polygon([(EAST, NORTH), (EAST + 200, NORTH + 200), (EAST + 200, NORTH), (EAST, NORTH + 200)])
    outlines = measure(wkb(bow_tie, square(100)), UTM31)
    assert outlines.is_repaired.tolist() == [True, False]
    assert shapely.is_valid(outlines.geometry[0])
    assert outlines.area_ha[0] == pytest.approx(2.0, rel=1e-5)
    assert outlines.reason[0] is None


def test_a_repair_drops_slivers_and_what_is_no_polygon() -> None:
    line = shapely.LineString([(EAST, NORTH), (EAST + 500, NORTH)])
    collection = shapely.GeometryCollection([line, square(100), square(0.5, EAST + 300)])
    outlines = measure(wkb(collection), UTM31)
    assert shapely.get_num_geometries(outlines.geometry[0]) == 1
    assert outlines.area_ha[0] == pytest.approx(1.0, rel=1e-5)
    assert outlines.is_repaired[0]


def test_parts_of_a_sound_outline_are_kept_even_if_small() -> None:
    outlines = measure(wkb(shapely.MultiPolygon([square(100), square(0.5, EAST + 300)])), UTM31)
    assert shapely.get_num_geometries(outlines.geometry[0]) == 2
    assert not outlines.is_repaired[0]


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "no_geometry"),
        (shapely.to_wkb(shapely.Polygon()), "no_geometry"),
        (shapely.to_wkb(shapely.Point(EAST, NORTH)), "not_polygonal"),
        (shapely.to_wkb(shapely.LineString([(EAST, NORTH), (EAST, NORTH + 9)])), "not_polygonal"),
        (b"\x01\x03\x00\x00", "invalid_geometry"),
        (shapely.to_wkb(shapely.Polygon([(EAST, NORTH), (EAST + 99, NORTH), (EAST, NORTH)])), "invalid_geometry"),
        (shapely.to_wkb(shapely.box(1e12, 1e12, 2e12, 2e12)), "invalid_geometry"),
        (
            shapely.to_wkb(square(100)).replace(struct.pack("<d", EAST), struct.pack("<d", float("nan"))),
            "invalid_geometry",
        ),
        (shapely.to_wkb(square(100)).replace(struct.pack("<d", EAST), b"\x01\0\0\0\0\0\xf0\x7f"), "invalid_geometry"),
        (shapely.to_wkb(square(20)), "too_small"),
        (shapely.to_wkb(shapely.box(EAST, NORTH, EAST + 12, NORTH + 900)), "too_narrow"),
    ],
    ids=[
        "none",
        "empty",
        "point",
        "line",
        "damaged",
        "flat",
        "off the earth",
        "no number",
        "signalling",
        "20 m",
        "12 m wide",
    ],
)
def test_what_cannot_be_watched_says_why(outline: bytes | None, reason: str) -> None:
    outlines = measure([shapely.to_wkb(square(100)), outline], UTM31)
    assert list(outlines.reason) == [None, reason]
    assert not outlines.is_seen_by_s1[1]


def spiky(n: int, inner_m: float, outer_m: float, turns: int = 1) -> shapely.Polygon:
    angle = np.linspace(0, 2 * np.pi * turns, n, endpoint=False)
    radius = np.where(np.arange(n) % 2, outer_m, inner_m)
    return shapely.Polygon(np.c_[EAST + radius * np.cos(angle), NORTH + radius * np.sin(angle)])


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (spiky(400_000, 500, 2000), "too_complex"),
        (spiky(LONG_VERTICES + 2, 500, 2000), "too_complex"),
        (spiky(3_001, 1, 2000), "too_complex"),  # an inner buffer crosses itself 14 million times
        (spiky(3_000, 1000, 2000), None),  # half is left
        (spiky(30_000, 999, 1001), None),  # long, but plainly wide enough
        (spiky(1_001, 999, 1000, turns=499), "too_complex"),  # each side crosses nearly all others
        (spiky(101, 999, 1000, turns=50), None),
        (spiky(30_001, 999, 1000, turns=3), "too_complex"),
    ],
    ids=[
        "spikes",
        "some spikes",
        "spikes to the middle",
        "wide spikes",
        "long",
        "star",
        "small star",
        "long and broken",
    ],
)
def test_an_outline_that_would_take_minutes_is_refused(outline: shapely.Polygon, reason: str | None) -> None:
    begun = time.monotonic()
    outlines = measure(wkb(outline, square(100)), UTM31)
    assert list(outlines.reason) == [reason, None]
    assert (outlines.geometry[0] is None) == (reason is not None)
    assert time.monotonic() - begun < 20  # 0.5 s; without limits minutes


def test_an_outline_that_crosses_itself_in_metres_is_refused() -> None:
    random = np.random.default_rng(0)
    far = [EAST + random.uniform(-3e6, 3e6, 1_000), NORTH + random.uniform(-5e6, 0, 1_000)]
    slivers = [shapely.Polygon([(EAST, NORTH), (x, y), (x + 5, y + 5)]) for x, y in zip(*far, strict=True)]
    crossing = np.array([shapely.MultiPolygon(slivers)], dtype=object)
    begun = time.monotonic()
    reasons = too_small_for(crossing, shapely.area(crossing), 5)
    assert list(reasons) == ["too_complex"]
    assert time.monotonic() - begun < 20


def test_a_sliver_across_a_country_is_not_counted_pixel_by_pixel() -> None:
    astray = shapely.Polygon([(EAST, NORTH), (EAST + 30, NORTH), (EAST + 150_000, NORTH + 400_000)])
    begun = time.monotonic()
    assert list(measure(wkb(astray, square(100)), UTM31).reason)[1] is None
    assert time.monotonic() - begun < 2  # a grid of 600 million pixels otherwise


def test_many_costly_outlines_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.parcels.geometry, "BATCH_CROSSINGS", 12_000)
    star = spiky(101, 999, 1000, turns=50)  # some 5,000 crossings
    reasons = list(measure(wkb(*[star] * 4, square(100)), UTM31).reason)
    assert reasons == [None, None, "too_complex", "too_complex", None]
    monkeypatch.setattr(ingest.parcels.pixels, "BATCH_BUFFER_COST", 2.5e6)
    spikes = spiky(1_000, 500, 2000)
    reasons = list(measure(wkb(*[spikes] * 4, square(100)), UTM31).reason)
    assert [reason == "too_complex" for reason in reasons] == [False, False, True, True, False]
    monkeypatch.undo()
    folds = 1_000 * 5 * spikes.length / spikes.area
    monkeypatch.setattr(ingest.parcels.pixels, "BATCH_FOLDS", 2.5 * folds)
    reasons = list(measure(wkb(*[spikes] * 4, square(100)), UTM31).reason)
    assert [reason == "too_complex" for reason in reasons] == [False, False, True, True, False]


def test_sentinel_1_needs_more_room() -> None:
    outlines = measure(wkb(square(50), square(90)), UTM31)
    assert list(outlines.reason) == [None, None]
    assert outlines.is_seen_by_s1.tolist() == [False, True]


def test_heights_are_left_out() -> None:
    outlines = measure(wkb(shapely.force_3d(square(100), 12.0)), UTM31)
    assert not shapely.has_z(outlines.geometry[0])


def brute_force_pixels(outline: shapely.Geometry) -> int:
    left, below, right, above = (int(edge // 10) for edge in shapely.bounds(outline))
    corners = [(x * 10.0, y * 10.0) for x in range(left, right + 1) for y in range(below, above + 1)]
    return int(np.sum(shapely.contains(outline, [shapely.box(x, y, x + 10, y + 10) for x, y in corners])))


outline_near_the_limit = st.builds(
    lambda width, length, angle, dx, dy: affinity.translate(
        affinity.rotate(shapely.box(0, 0, width, length), angle), EAST + dx, NORTH + dy
    ),
    width=st.floats(10, 80),
    length=st.floats(10, 400),
    angle=st.floats(0, 180),
    dx=st.floats(0, 10),
    dy=st.floats(0, 10),
)


@given(outline_near_the_limit)
@settings(max_examples=200, deadline=None)
def test_full_pixels_tell_what_counting_tells(outline: shapely.Polygon) -> None:
    counted = brute_force_pixels(outline)
    told = int(full_pixels(array(outline))[0])
    assert (told >= MIN_FULL_PIXELS) == (counted >= MIN_FULL_PIXELS)
    if told < SURE_PIXELS and outline.area >= MIN_FULL_PIXELS * 100:  # then it was counted
        assert told == counted


def test_repeated_outlines_are_found_whatever_vertex_they_start_from() -> None:
    turned = shapely.Polygon([(1, 1), (0, 1), (0, 0), (1, 0)])
    outlines = array(shapely.box(0, 0, 1, 1), turned, None, shapely.box(0, 0, 1, 2), None, shapely.box(0, 0, 1, 1))
    assert repeated(outlines).tolist() == [False, True, False, False, False, True]


def test_overlap_is_the_share_of_each_parcels_own_area() -> None:
    large, small, apart, touching = (
        shapely.box(0, 0, 10, 10),
        shapely.box(8, 0, 12, 10),
        shapely.box(50, 0, 51, 1),
        shapely.box(0, 10, 10, 20),
    )
    assert overlap_share(array(large, small, None, apart, touching)) == pytest.approx([0.2, 0.5, 0, 0, 0])


def test_stacked_outlines_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.parcels.overlaps, "MAX_PAIRS", 1_000)
    stacked = array(*[shapely.box(i, 0, i + 1_000, 1_000) for i in range(300)])
    with pytest.raises(ValueError, match="outlines lie on others"):
        overlap_share(stacked)
    assert overlap_share(stacked[:50], at_once=7) == pytest.approx([1] * 50)


def test_spiky_outlines_that_cross_are_taken_for_covered_when_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest.parcels.overlaps, "SPIKY_PAIR_COST", 1.5e6)
    turned = [affinity.rotate(spiky(1_000, 500, 2000), angle, origin=(EAST, NORTH)) for angle in (0, 0.1, 0.2)]
    share = overlap_share(array(*turned, shapely.box(0, 0, 1, 1)))
    assert share == pytest.approx([1, 1, 1, 0])
    assert overlap_share(array(*turned[:2]))[0] < 1


def test_overlap_counts_each_cover_and_stops_at_all() -> None:
    outline = shapely.box(0, 0, 1, 1)
    assert overlap_share(array(outline, shapely.box(0, 0, 1, 0.7), shapely.box(0, 0, 0.7, 1))) == pytest.approx(
        [1, 1, 1]
    )
