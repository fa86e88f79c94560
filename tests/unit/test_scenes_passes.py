"""How scenes of a family stand to each other, and which tile is a parcel's home."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import numpy as np
import pyproj
import pytest
import shapely

from ingest.imagery.scene import Grid, Scene
from ingest.scenes.home_tiles import home_of, outline
from ingest.scenes.passes import acquisition_of, datatake_of, is_newer, is_same_part, precedence
from ingest.scenes.settings import SceneSettings

START = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)


@dataclass(frozen=True)
class Known:
    scene_id: str = "other"
    state: str = "cut"
    part: datetime | None = START
    baseline: str | None = "05.09"
    processed_at: datetime | None = START + timedelta(hours=6)
    revision: int | None = 0
    is_held: bool = False
    is_in_store: bool = True


MINE = Known("mine", "cutting", revision=None)
NEWER = replace(MINE, baseline="05.10")
OLDER = replace(MINE, baseline="04.00")
BESIDE = replace(MINE, part=START + timedelta(seconds=60))


def test_families_by_sensor() -> None:
    optical = Scene("S2", "x", START, START, "S2A", 94, {}, datatake="S2A_20230501T105621", tile="31UFU")
    radar = Scene("S1", "y", START, START, "S1A", 88, {}, datatake="05D0F5")
    assert acquisition_of(optical) == "S2A_20230501T105621_T31UFU"
    assert acquisition_of(radar) == datatake_of(radar) == "S1A_05D0F5"
    assert datatake_of(replace(radar, datatake=None)) == "S1A_20230501T105621"


@pytest.mark.parametrize(
    ("baseline", "hours", "newer"),
    [
        ("05.10", 0, True),
        ("05.09", 7, True),
        ("05.09", 6, False),
        ("04.00", 90, False),
        ("10.00", 0, True),
        (None, 7, True),
        (None, 5, False),
        ("custom", 7, True),
    ],
)
def test_newer_by_baseline_then_by_time(baseline: str | None, hours: int, newer: bool) -> None:
    assert is_newer(replace(MINE, baseline=baseline, processed_at=START + timedelta(hours=hours)), Known()) is newer


def test_fractions_of_a_second_make_no_processing() -> None:
    same = replace(MINE, processed_at=START + timedelta(hours=6, milliseconds=900))
    assert not is_newer(same, Known())
    assert not is_newer(replace(MINE, processed_at=None), Known())


@pytest.mark.parametrize(("seconds", "same"), [(0, True), (4, True), (-4, True), (25, False), (-25, False)])
def test_parts_by_their_start(seconds: int, same: bool) -> None:
    assert is_same_part(replace(MINE, part=START + timedelta(seconds=seconds)), Known()) is same
    assert is_same_part(replace(MINE, part=None), Known())


def test_alone() -> None:
    found = precedence(MINE, [])
    assert (found.newest_revision, found.is_revision, found.is_in_store) == (None, False, True)
    assert precedence(MINE, [Known(revision=None, state="failed")]) == found, "never begun: told nothing"


def test_a_newer_processing_replaces() -> None:
    found = precedence(NEWER, [Known(revision=3)])
    assert (found.replaces, found.superseded_by, found.newest_revision, found.is_revision) == (
        ("other",),
        None,
        3,
        True,
    )


@pytest.mark.parametrize("mine", [MINE, OLDER])
def test_one_that_is_not_newer_is_superseded(mine: Known) -> None:
    assert precedence(mine, [Known()]).superseded_by == "other"
    assert precedence(mine, [Known(state="failed")]).superseded_by is None


def test_parts_stand_beside_each_other() -> None:
    found = precedence(
        BESIDE, [Known(), Known("old", "superseded"), Known("third", part=START + timedelta(seconds=90))]
    )
    assert found.beside == ("other", "third")
    assert (found.replaces, found.superseded_by, found.is_revision, found.is_in_store) == ((), None, False, True)


@pytest.mark.parametrize("state", ["failed", "cutting", "found"])
def test_another_part_that_did_not_end_may_have_told_anything(state: str) -> None:
    assert precedence(BESIDE, [Known(state=state)]).is_revision
    assert not precedence(BESIDE, [Known(state=state, revision=None)]).is_revision


def test_one_that_is_held_stands_in_the_way() -> None:
    assert precedence(BESIDE, [Known(), Known("held", "cutting", is_held=True)]).busy == "held"


def test_waits_grow_and_end() -> None:
    settings = SceneSettings(tries=4, first_wait_s=60)
    assert [settings.wait(n) and settings.wait(n) // timedelta(minutes=1) for n in (1, 2, 3, 4)] == [1, 5, 25, None]  # type: ignore[operator]


GRID = Grid("EPSG:32631", 600_000.0, 5_700_000.0, 10.0, 10_980, 10_980)
EAST = replace(GRID, left=GRID.left + 100_000)
NEXT_ZONE = Grid("EPSG:32632", 300_000.0, 5_700_000.0, 10.0, 10_980, 10_980)


def square(x: float, y: float, size: float = 300.0) -> bytes:
    """A square by its lower left corner in metres of GRID."""
    to_degrees = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    metres = shapely.box(x, y, x + size, y + size)
    wkb: bytes = shapely.to_wkb(
        shapely.transform(metres, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    )
    return wkb


PARCELS = [
    square(620_000, 5_650_000),
    square(705_000, 5_650_000),
    square(750_000, 5_650_000),
    square(699_900, 5_650_000),
    square(709_700, 5_650_000),
]


def test_the_first_of_the_tiles_that_hold_a_parcel_whole() -> None:
    tiles = [("31UFS", GRID), ("31UGS", EAST)]
    assert (home_of(PARCELS, "31UFS", tiles) != "31UFS").tolist() == [False, False, True, False, True]
    assert (home_of(PARCELS, "31UGS", tiles) != "31UGS").tolist() == [True, True, False, True, False]
    turned = tiles[::-1]
    assert (home_of(PARCELS, "31UFS", turned) != "31UFS").tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("order", list(permutations(["31UFS", "31UGS", "32ULB"])))
def test_every_parcel_has_one_home_whatever_the_order(order: tuple[str, ...]) -> None:
    grids = {"31UFS": GRID, "31UGS": EAST, "32ULB": NEXT_ZONE}
    tiles = [(name, grids[name]) for name in order]
    is_on = {name: shapely.intersects(outline(grids[name]), shapely.from_wkb(PARCELS)) for name in order}
    homes = np.stack([is_on[name] & (home_of(PARCELS, name, tiles) == name) for name in order])
    assert homes.sum(0).tolist() == [1] * len(PARCELS)


def test_a_tile_alone_is_home_to_all() -> None:
    far = [("31UFS", GRID), ("01CCV", replace(GRID, crs="EPSG:32701"))]
    assert set(home_of(PARCELS, "31UFS", far)) == {"31UFS"}


def test_an_outline_follows_the_curved_edge() -> None:
    back = pyproj.Transformer.from_crs("EPSG:4326", GRID.crs, always_xy=True)
    edge = shapely.segmentize(outline(GRID), 0.001)
    x, y = back.transform(*shapely.get_coordinates(edge).T)
    away = np.minimum.reduce([np.abs(x - 600_000), np.abs(x - 709_800), np.abs(y - 5_700_000), np.abs(y - 5_590_200)])
    assert away.max() < 2.0
