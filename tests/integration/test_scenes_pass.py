"""Scenes of one pass: tiles that overlap, granules, slices and reprocessings give one observation, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from db import found_scenes
from db.scenes import STATES
from tests.made_scenes import (
    GRID,
    START,
    World,
    blanked,
    check_optical,
    inside,
    optical,
    s1_item,
    s2_item,
    shifted,
    window,
    world,
)

BOXES = {
    "left": (2.2, 2.2, 20.2, 20.2),
    "both": (26.2, 4.2, 38.2, 20.2),
    "right": (42.2, 4.2, 60.2, 20.2),
    "across": (15.2, 24.2, 45.2, 38.2),
    "low": (6.2, 42.2, 24.2, 60.2),
    "seam": (40.2, 24.2, 60.2, 44.2),
    "held": (2.2, 26.2, 12.2, 33.2),
}
WEST, EAST, ALL = slice(0, 44), slice(20, 64), slice(0, 64)


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES)
        yield made


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_parcel_on_two_tiles_is_observed_from_one(
    order: tuple[int, int], at_once: bool, chain: World, tmp_path: Path
) -> None:
    numbers = optical(1)
    items = [
        s2_item(tmp_path, window(numbers, ALL, part), tile=tile, grid=shifted(GRID, ALL, part))
        for part, tile in ((WEST, "31UES"), (EAST, "31UFS"))
    ]
    # A pass before it makes the tiles known: from then on it does not matter which comes first.
    if not at_once:
        for nr in range(2):
            part, tile = ((WEST, "31UES"), (EAST, "31UFS"))[nr]
            grid, day = shifted(GRID, ALL, part), START - timedelta(days=5)
            chain.add(s2_item(tmp_path, window(optical(9), ALL, part), tile=tile, grid=grid, start=day))
        chain.work()
        with chain.engine.begin() as connection:
            connection.exec_driver_sql("truncate s2_observations, pixel_sets")
    for nr in order:
        chain.add(items[nr])
        if not at_once:
            chain.work()
    chain.work()
    found = chain.current()
    assert set(found) == set(BOXES)
    for name, row in found.items():
        tile, columns = ("31UFS", np.arange(64) >= 20) if name in ("right", "seam") else ("31UES", np.arange(64) < 44)
        assert f"_T{tile}_" in row["scene_id"], name
        check_optical(row, numbers, inside(BOXES[name]) & columns)  # "across" is whole on neither
        assert row["revision"] == 0
    rows = chain.ledger()
    assert [rows[item.parent.name].skipped_by for item in items] == [{"other_tile": 2}, {"other_tile": 4}]
    assert all(rows[item.parent.name].adds_up and rows[item.parent.name].is_stored for item in items)


def test_a_tile_first_seen_later_takes_only_what_it_shows_more_of_in_a_pass_begun_without_it(
    chain: World, tmp_path: Path
) -> None:
    numbers = optical(2)

    def item(tile: str, day: int) -> Path:
        part = EAST if tile == "31UFS" else WEST
        at = START + timedelta(days=day)
        return s2_item(tmp_path, window(numbers, ALL, part), tile=tile, grid=shifted(GRID, ALL, part), start=at)

    chain.add(item("31UFS", 0))
    chain.work()
    before = chain.current()
    chain.add(item("31UES", 0))
    chain.work()
    after = chain.current()
    assert set(before) == {"both", "right", "across", "seam", "low"}
    more = {"across", "low"}  # cut by the first tile's edge
    assert {name: after[name] for name in set(before) - more} == {name: before[name] for name in set(before) - more}
    assert {("31UES" in after[name]["scene_id"], after[name]["revision"]) for name in more} == {(True, 1)}
    check_optical(after["low"], numbers, inside(BOXES["low"]))
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]
    assert "31UES" in after["left"]["scene_id"]
    chain.add(item("31UES", 5), item("31UFS", 5))
    chain.work()
    homes = chain.rows(f"""select source_id, scene_id from s2_observations join parcels using (parcel_key)
                           join scenes using (scene_key, observed_at) where observed_at > '{START}'""")
    east = {str(row["source_id"]) for row in homes if "31UFS" in str(row["scene_id"])}
    assert (len(homes), east) == (7, {"right", "seam"})


def test_parcels_of_a_tile_that_never_came_are_taken_over_by_the_next(chain: World, tmp_path: Path) -> None:
    numbers = optical(3)

    def item(tile: str, day: int) -> Path:
        part = EAST if tile == "31UFS" else WEST
        at = START + timedelta(days=day)
        return s2_item(tmp_path, window(numbers, ALL, part), tile=tile, grid=shifted(GRID, ALL, part), start=at)

    chain.add(item("31UES", 0), item("31UFS", 0))
    east = item("31UFS", 5)
    chain.add(east)
    chain.work()

    def left() -> list[str]:
        with chain.engine.begin() as connection:
            return found_scenes.left_to_missing_tiles(connection, chain.now() - timedelta(days=1))

    def again(name: str) -> None:
        with chain.engine.begin() as connection:
            assert found_scenes.retry(connection, [name], STATES, chain.now()) == [name]
        chain.work()

    at, name = START + timedelta(days=5), east.parent.name
    assert set(chain.current(at=at)) == {"right", "seam"}
    assert (chain.ledger()[name].homes, left()) == ({"31UES": 4}, [])
    again(name)
    assert set(chain.current(at=at)) == {"right", "seam"}, "the other tile may still come"
    chain.now.put_forward(timedelta(days=2))
    assert left() == [name]
    again(name)
    taken = chain.current(at=at)
    assert set(taken) == {"right", "seam", "both", "across", "low"}
    check_optical(taken["across"], numbers, inside(BOXES["across"]) & (np.arange(64) >= 20))
    assert (left(), chain.ledger()[name].skipped_by) == ([], {"outside": 1})
    chain.add(west := item("31UES", 5))
    chain.work()
    again(name)
    homes = {parcel: row["scene_id"] for parcel, row in chain.current(at=at).items()}
    assert {parcel for parcel, scene in homes.items() if scene == name} == {"right", "seam"}
    assert set(homes.values()) == {name, west.parent.name}
    assert {row["revision"] for row in chain.current(at=at).values() if row["scene_id"] != name} == {0, 1}
    assert all(row.adds_up and row.is_stored for row in chain.ledger().values())
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("is_stored", [True, False])
def test_two_granules_of_a_tile_give_one_observation(
    order: tuple[int, int], is_stored: bool, chain: World, tmp_path: Path
) -> None:
    numbers = optical(3)
    # Data in rows 0 to 33 and 30 to 63: both show rows 30 to 33, with other values where they overlap.
    other = {band: np.where(values > 100, values + 7, values).astype(values.dtype) for band, values in numbers.items()}
    granules = [
        s2_item(
            tmp_path, blanked(part, gap), strip=START + timedelta(seconds=wait), made=START + timedelta(hours=6 + nr)
        )
        for nr, (part, gap, wait) in enumerate(((numbers, slice(34, 64), 1), (other, slice(0, 30), 90)))
    ]
    for nr in order:
        chain.add(granules[nr])
        if is_stored:
            chain.work()
    chain.work()
    found = chain.current()
    assert set(found) == set(BOXES)
    joint = {
        band: np.where(np.arange(len(values))[:, None] < 34 // (64 // len(values)), values, other[band])
        for band, values in numbers.items()
    }
    for name, row in found.items():
        # Whole in one granule: from it alone. Else each pixel from the first that has it.
        truth = {"low": other, "held": numbers}.get(name, joint)
        check_optical(row, truth, inside(BOXES[name]))
    rows = chain.ledger()
    told = [rows[item.parent.name] for item in granules]
    assert all(row.state == "cut" and row.adds_up and row.is_stored for row in told)
    second = told[order[1]]
    assert second.revision == 1
    assert second.skipped_by == ({"no_data": 3, "other_part": 1} if order == (0, 1) else {"no_data": 1})
    revised = chain.rows("""select source_id from s2_observations join parcels using (parcel_key) where revision > 0
                            order by source_id""")
    if is_stored:  # what the first told is known: the others are no revision
        told_anew = ["across", "seam"] if order == (0, 1) else ["across", "held", "seam"]
        assert [row["source_id"] for row in revised] == told_anew


@pytest.mark.parametrize("order", list(permutations(range(3)))[::2])
def test_slices_of_a_datatake_give_one_observation(order: tuple[int, ...], chain: World, tmp_path: Path) -> None:
    chance = np.random.default_rng(4)
    power = {band: (chance.gamma(4, 0.02, (64, 64)) + 1e-3).astype(np.float32) for band in ("VV", "VH")}
    # Slices of 24 rows on grids of their own, the last pixels of one also in the next.
    slices = []
    for nr, rows in enumerate((slice(0, 26), slice(24, 48), slice(46, 64))):
        part = {band: values[rows] for band, values in power.items()}
        slices.append(s1_item(tmp_path, part, start=START + timedelta(seconds=25 * nr), grid=shifted(GRID, rows, ALL)))
    for nr in order:
        chain.add(slices[nr])
        chain.work()
    found = chain.current("s1")
    assert set(found) == set(BOXES)
    first = START + timedelta(seconds=25 * order[0])
    for name, row in found.items():
        mine = inside(BOXES[name], 1.0)
        assert row["observed_at"] == first
        assert row["n_pixels"] == mine.sum(), name
        for band in ("VV", "VH"):
            assert row[band.lower()] == pytest.approx(power[band][mine].mean(), rel=1e-5)
    assert chain.rows("select count(distinct observed_at) as n from s1_observations")[0]["n"] == 1
    assert {row.state for row in chain.ledger().values()} == {"cut"}
    assert all(row.adds_up and row.is_stored for row in chain.ledger().values())


def test_a_newer_processing_revises_every_parcel_and_an_older_one_nothing(chain: World, tmp_path: Path) -> None:
    old, new = optical(5), optical(6)
    new["SCL"][1:11, 1:11] = 9  # "left" is cloud by the newer one
    first = s2_item(tmp_path, old, baseline="05.09")
    chain.add(first)
    chain.work()
    before = chain.current()
    moment = chain.now()
    chain.now.put_forward(timedelta(days=30))
    second = s2_item(tmp_path, new, baseline="05.10", made=START + timedelta(days=240))
    chain.add(second)
    chain.work()
    after = chain.current()
    assert set(after) == set(BOXES) - {"left"}
    for name, row in after.items():
        check_optical(row, new, inside(BOXES[name]))
        assert (row["revision"], row["observed_at"]) == (1, before[name]["observed_at"])
    then = chain.rows(f"""select source_id, o.ndvi from parcels
        cross join lateral s2_known(parcel_key, '-infinity', 'infinity', '{moment}') o""")
    assert {row["source_id"]: row["ndvi"] for row in then} == {name: row["ndvi"] for name, row in before.items()}
    rows = chain.ledger()
    assert (rows[first.parent.name].state, rows[first.parent.name].superseded_by) == ("superseded", second.parent.name)
    revised = rows[second.parent.name]
    assert (revised.emitted, revised.withdrawn, revised.stored, revised.revision) == (7, 1, 7, 1)
    oldest = s2_item(tmp_path, optical(7), baseline="05.00", made=START + timedelta(days=200))
    again = s2_item(tmp_path, optical(7), baseline="05.10", made=START + timedelta(days=239))
    chain.add(oldest, again)
    chain.work()
    assert [chain.ledger()[one.parent.name].state for one in (oldest, again)] == ["superseded", "superseded"]
    assert "is not older" in str(chain.ledger()[oldest.parent.name].told)
    assert chain.current() == after


@pytest.mark.parametrize("before", ["05.09", "02.14"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_granules_that_are_processed_anew_one_by_one(
    before: str, is_stored: bool, chain: World, tmp_path: Path
) -> None:
    old, new = optical(8), optical(9)
    plain = {band: values - np.uint16(1000) if band != "SCL" else values for band, values in old.items()}

    def granule(nr: int, baseline: str, numbers: dict[str, np.ndarray]) -> Path:
        strip, made = START + timedelta(seconds=60 * nr), START + timedelta(days=1 if baseline == before else 100)
        gap = (slice(34, 64), slice(0, 34))[nr]
        made += timedelta(seconds=60 * nr)
        return s2_item(tmp_path, blanked(numbers, gap), baseline=baseline, strip=strip, made=made)

    for numbers, baseline in ((old if before == "05.09" else plain, before), (new, "05.10")):
        for nr in range(2):
            chain.add(granule(nr, baseline, numbers))
            if is_stored:
                chain.work()
        if not is_stored:
            chain.work()
        found = chain.current()
        assert set(found) == set(BOXES)
        for name, row in found.items():
            check_optical(row, numbers, inside(BOXES[name]), offset=0.0 if baseline == "02.14" else -0.1)
    states = sorted((row.baseline, row.state) for row in chain.ledger().values())
    assert states == [(before, "superseded")] * 2 + [("05.10", "cut")] * 2
    assert all(row.adds_up and row.is_stored for row in chain.ledger().values())
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]
