"""Found scenes to stored observations: every value against plain numpy, every parcel accounted for, every fault told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio

from db import found_scenes
from db.scenes import STATES
from ingest.scenes.items import NotAScene
from tests.made_scenes import GRID, START, World, check_optical, inside, optical, s2_item, s2_name, world

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BOXES = {
    "a": (2.2, 2.2, 20.2, 20.2),
    "b": (30.2, 4.2, 60.2, 24.2),
    "over": (50.2, 10.2, 58.2, 30.2),
    "small": (2.2, 40.2, 5.2, 43.2),
    "cloudy": (20.2, 40.2, 40.2, 60.2),
    "edge": (50.2, 50.2, 80.2, 60.2),
    "forbidden": (2.2, 50.2, 15.2, 60.2),
}


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES, unmonitorable=["forbidden"])
        yield made


def test_a_scene_becomes_observations_and_its_parcels_add_up(chain: World, tmp_path: Path) -> None:
    numbers = optical(1)
    numbers["SCL"][20:30, 10:20] = 9
    item = s2_item(tmp_path, numbers)
    assert (chain.add(item).new, chain.add(item).known) == (1, 1)
    chain.work()
    found = chain.current()
    assert set(found) == {"a", "b", "over", "edge"}
    for name, row in found.items():
        check_optical(row, numbers, inside(BOXES[name]))
        assert (row["observed_at"], row["relative_orbit"], row["revision"]) == (START, 51, 0)
    told = chain.the_scene()
    assert (told.state, told.expected, told.emitted, told.stored, told.attempts) == ("cut", 7, 4, 4, 1)
    assert told.skipped_by == {"too_few_pixels": 1, "cloud": 1, "not_monitorable": 1}
    assert (told.adds_up, told.is_stored) == (True, True)


def test_collections_and_seasons_are_cut_in_one_go(chain: World, tmp_path: Path) -> None:
    chain.store_parcels({"a": BOXES["b"]}, collection="other")
    chain.store_parcels({"late": BOXES["a"]}, year=2021)
    numbers = optical(2)
    chain.add(s2_item(tmp_path, numbers))
    chain.work()
    found = chain.rows("""select collection, source_id, n_clear, ndvi from s2_observations join parcels using (parcel_key)
                          where source_id = 'a' order by collection""")
    assert [(row["collection"], row["n_clear"]) for row in found] == [
        ("made-up", inside(BOXES["a"]).sum()),
        ("other", inside(BOXES["b"]).sum()),
    ]
    assert chain.the_scene().expected == 8


def test_broken_scenes_are_marked_and_others_go_on(chain: World, tmp_path: Path) -> None:
    def made(nr: int, **changes: object) -> Path:
        return s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr), **changes)  # type: ignore[arg-type]

    truncated, bandless, placeless, unclassified, good = (made(nr) for nr in range(5))
    half = truncated.parent / "B08.tif"
    half.write_bytes(half.read_bytes()[:3000])
    bandless.write_text(bandless.read_text().replace('"B05"', '"B05_x"'))
    with rasterio.open(placeless.parent / "B02.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint16"):
        pass
    with rasterio.open(unclassified.parent / "SCL.tif", "r+") as file:
        file.write(np.zeros((32, 32), np.uint8), 1)
    elsewhere = type(GRID)(GRID.crs, GRID.left + 100_000, GRID.top, 10.0, 64, 64)
    beyond = s2_item(tmp_path, optical(9), start=START + timedelta(days=9), grid=elsewhere, tile="31UFS")
    with pytest.raises(NotAScene, match="lacks asset B05"):
        chain.add(bandless)
    chain.add(truncated, placeless, unclassified, beyond, good)
    chain.work()
    rows = chain.ledger()
    told = {name: (row.state, row.cause) for name, row in rows.items()}
    assert [told[path.parent.name] for path in (truncated, placeless, unclassified, beyond, good)] == [
        ("failed", "unreadable"),
        ("failed", "unknown_crs"),
        ("failed", "empty_scl"),
        ("empty", "no_parcels"),
        ("cut", None),
    ]
    assert rows[good.parent.name].is_stored
    assert "B08.tif cannot be read" in str(rows[truncated.parent.name].told)
    retried = rows[truncated.parent.name].next_try_at
    assert retried is not None
    assert all(row.next_try_at is None for row in rows.values() if row.cause != "unreadable")


def test_what_may_pass_is_tried_again_by_itself_a_few_times(chain: World, tmp_path: Path) -> None:
    numbers = optical(3)
    item = s2_item(tmp_path, numbers)
    band = item.parent / "B08.tif"
    whole = band.read_bytes()
    band.write_bytes(whole[:3000])
    chain.add(item)
    waits = []
    for attempt in range(1, 6):
        chain.work()
        row = chain.ledger()[item.parent.name]
        assert (row.state, row.attempts) == ("failed", attempt)
        if row.next_try_at is not None:
            waits.append(round((row.next_try_at - chain.now()).total_seconds() / 60))
            chain.work()
            assert chain.ledger()[item.parent.name].attempts == attempt, "tried before its time"
            chain.now.put_forward(row.next_try_at - chain.now())
    assert waits == [1, 5, 25, 125]
    assert chain.ledger()[item.parent.name].next_try_at is None
    band.write_bytes(whole)
    chain.work()
    assert chain.ledger()[item.parent.name].state == "failed", "nobody asked"


def test_index_is_kept_and_made_anew_when_parcels_change(chain: World, tmp_path: Path) -> None:
    days = [START + timedelta(days=nr) for nr in range(3)]
    chain.add(s2_item(tmp_path, optical(4), start=days[0]), s2_item(tmp_path, optical(5), start=days[1]))
    chain.work()
    assert len(list((tmp_path / "index").glob("*.npz"))) == 1
    chain.store_parcels({**BOXES, "new": (22.2, 25.2, 40.2, 38.2)}, unmonitorable=["forbidden"])
    chain.add(s2_item(tmp_path, optical(6), start=days[2]))
    chain.work()
    assert len(list((tmp_path / "index").glob("*.npz"))) == 2
    assert [row.expected for row in chain.ledger().values()] == [8, 7, 7]


def test_a_retry_tells_amended_parcels_anew_and_the_others_not(chain: World, tmp_path: Path) -> None:
    numbers = optical(8)
    item = s2_item(tmp_path, numbers)
    chain.add(item)
    chain.work()
    before = chain.current()
    chain.now.put_forward(timedelta(days=1))
    boxes = {**BOXES, "a": (4.2, 4.2, 18.2, 18.2)}
    chain.store_parcels(boxes, unmonitorable=["forbidden"])
    for _ in range(2):
        with chain.engine.begin() as connection:
            found_scenes.retry(connection, [item.parent.name], STATES, chain.now())
        chain.work()
        after = chain.current()
        assert (after["a"]["revision"], after["a"]["n_clear"]) == (1, inside(boxes["a"]).sum())
        check_optical(after["a"], numbers, inside(boxes["a"]))
        assert {name: row for name, row in after.items() if name != "a"} == {
            name: row for name, row in before.items() if name != "a"
        }
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]


def test_a_name_tells_what_a_scene_is(chain: World, tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(7))
    chain.add(item)
    assert item.parent.name == s2_name(START, "31UES", "05.09", START + timedelta(hours=6))
    row = chain.the_scene()
    assert (row.state, row.datatake, row.attempts) == ("found", f"S2A_{START:%Y%m%dT%H%M%S}", 0)
