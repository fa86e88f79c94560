"""Pictures of parcels: cut by the scenes' worker for those with an alert, on demand, missing with a reason, and removed in time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import parcelwatch
from db import alerts, chips
from db.alerts import EventRow, FindingRow
from db.status import status
from ingest.imagery.settings import ImagerySettings
from tests.made_scenes import START, World, optical, s1_item, s2_item, world

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BOXES = {"red": (10.2, 10.2, 30.2, 30.2), "green": (34.2, 34.2, 50.2, 50.2), "edge": (50.2, 2.2, 80.2, 12.2)}
DAYS = [START + timedelta(days=day) for day in (0, 5, 10, 15)]


@pytest.fixture
def chain(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES)
        yield made


def alert(chain: World, source_id: str, departed_on: date) -> int:
    """Open an alert on a parcel; return its key."""
    (row,) = chain.rows(f"select parcel_key from parcels where source_id = '{source_id}'")
    found = FindingRow(row["parcel_key"], "early_loss", "OK", "yellow", 0.9, departed_on, {"lost_on": str(departed_on)})
    with chain.engine.begin() as connection:
        (key,) = alerts.new_alerts(connection, [found], chain.now())
        event = EventRow(key, "opened", "open", "yellow", 0.9, departed_on, found.evidence)
        alerts.record_events(connection, [event], chain.now())
    return key


def close(chain: World, key: int) -> None:
    with chain.engine.begin() as connection:
        event = EventRow(key, "closed", "closed", "yellow", 0.9, None, {})
        alerts.record_events(connection, [event], chain.now())


def stored(chain: World, source_id: str) -> list[chips.ChipRow]:
    (row,) = chain.rows(f"select parcel_key from parcels where source_id = '{source_id}'")
    with chain.engine.begin() as connection:
        return chips.chips_of(connection, row["parcel_key"])


def run(*words: str) -> str:
    result = CliRunner().invoke(parcelwatch.app, ["chips", *words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_worker_cuts_parcels_that_stand_yellow_with_the_scene_and_no_others(chain: World, tmp_path: Path) -> None:
    alert(chain, "red", DAYS[0].date())
    item = s2_item(tmp_path, optical(1), start=DAYS[0])
    chain.add(item)
    chain.work()
    assert stored(chain, "green") == []
    found = stored(chain, "red")
    assert [(one.composite, one.revision, one.cut_for, one.scene_id) for one in found] == [
        ("false_colour", 0, "alert", item.parent.name),
        ("true_colour", 0, "alert", item.parent.name),
    ]
    for one in found:
        assert one.image is not None
        assert hashlib.sha256(one.image).hexdigest() == one.sha256
        with Image.open(io.BytesIO(one.image)) as picture:
            assert picture.size[0] == picture.size[1] == one.width * 6 if one.width else 0
    assert chain.the_scene().state == "cut"


def test_an_alert_gets_pictures_from_before_it_out_of_scenes_that_were_cut(chain: World, tmp_path: Path) -> None:
    numbers = [optical(seed) for seed in range(3)]
    chain.add(*(s2_item(tmp_path, one, start=day) for one, day in zip(numbers, DAYS, strict=False)))
    power = np.random.default_rng(1).uniform(0.01, 0.3, (64, 64)).astype(np.float32)
    chain.add(s1_item(tmp_path, {"VV": power, "VH": power / 4}, start=DAYS[0] + timedelta(hours=7)))
    chain.work()
    assert stored(chain, "red") == []
    alert(chain, "red", DAYS[1].date())
    chain.work()
    found = {(one.observed_at.date(), one.composite) for one in stored(chain, "red")}
    assert found == {(DAYS[0].date(), "radar")} | {
        (day.date(), composite) for day in DAYS[:3] for composite in ("true_colour", "false_colour")
    }
    before = len(stored(chain, "red"))
    chain.work()
    assert len(stored(chain, "red")) == before, "tried once"


def tried(chain: World) -> tuple[int, bool]:
    """Return how often an alert's pictures were tried, and whether they will be again."""
    (row,) = chain.rows("select attempts, next_try_at is not null as is_due from chip_pairs")
    return row["attempts"], row["is_due"]


def status_of_pictures(chain: World) -> list[tuple[str, str]]:
    with chain.engine.begin() as connection:
        return [(what, value) for _, what, value in status(connection) if what.startswith("pictures of alerts")]


def test_pictures_that_failed_for_a_passing_reason_are_tried_again_each_time_later(
    chain: World, tmp_path: Path
) -> None:
    items = [s2_item(tmp_path, optical(seed), start=day) for seed, day in enumerate(DAYS[:2])]
    chain.add(*items)
    chain.work()
    away = [(one.parent / "B08.tif", one.parent / "B08.away") for one in items]
    for here, there in away:
        here.rename(there)
    alert(chain, "red", DAYS[1].date())
    chain.work()
    assert tried(chain) == (1, True)
    ((what, value),) = status_of_pictures(chain)
    assert what == "pictures of alerts: tried again"
    assert value.startswith("1 alerts, next try 2024-01-01 ")
    assert "cannot be read" in value
    chain.work()
    assert tried(chain) == (1, True), "not before its time"
    away[0][1].rename(away[0][0])
    chain.now.put_forward(timedelta(minutes=1))
    chain.work()
    assert tried(chain) == (2, True)
    assert {one.observed_at.date() for one in stored(chain, "red") if one.image} == {DAYS[0].date()}
    chain.now.put_forward(timedelta(minutes=4))
    chain.work()
    assert tried(chain) == (2, True), "five times as long as before"
    away[1][1].rename(away[1][0])
    away[0][0].unlink()  # what was cut is not read again
    chain.now.put_forward(timedelta(minutes=1))
    chain.work()
    assert tried(chain) == (3, False)
    assert {one.observed_at.date() for one in stored(chain, "red") if one.image} == {one.date() for one in DAYS[:2]}
    assert status_of_pictures(chain) == []


def test_pictures_are_given_up_after_some_attempts_and_can_be_asked_for(chain: World, tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(1), start=DAYS[0])
    chain.add(item)
    chain.work()
    (item.parent / "B08.tif").rename(item.parent / "B08.away")
    key = alert(chain, "red", (DAYS[0] + timedelta(days=1)).date())
    for attempt in range(1, 8):
        chain.work()
        assert tried(chain) == (min(attempt, 5), attempt < 5)
        chain.now.put_forward(timedelta(hours=3))
    ((what, value),) = status_of_pictures(chain)
    assert (what, value[:41]) == ("pictures of alerts: given up", "1 alerts: `parcelwatch chips cut ALERT`, ")
    (item.parent / "B08.away").rename(item.parent / "B08.tif")
    assert "2 pictures cut, 0 missing" in run("cut", str(key))
    assert status_of_pictures(chain) == []


def test_what_no_time_mends_is_not_tried_again(chain: World, tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(1), start=DAYS[0])
    chain.add(item)
    chain.work()
    with chain.engine.begin() as connection:
        connection.exec_driver_sql("update parcels set geom = null where source_id = 'red'")
    alert(chain, "red", (DAYS[0] + timedelta(days=1)).date())
    chain.work()
    assert tried(chain) == (1, False)
    assert all(one.missing for one in stored(chain, "red"))


def test_a_sampled_parcel_has_pictures_whatever_its_colour(chain: World, tmp_path: Path) -> None:
    (row,) = chain.rows("select parcel_key from parcels where source_id = 'green'")
    with chain.engine.begin() as connection:
        chips.sample(connection, [row["parcel_key"]], chain.now())
    power = np.random.default_rng(1).uniform(0.01, 0.3, (64, 64)).astype(np.float32)
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.add(s1_item(tmp_path, {"VV": power, "VH": power / 4}, start=DAYS[0] + timedelta(hours=7)))
    chain.work()
    found = [(one.composite, one.cut_for) for one in stored(chain, "green")]
    assert found == [("false_colour", "sample"), ("true_colour", "sample"), ("radar", "sample")]
    with chain.engine.begin() as connection:
        chips.unsample(connection, [row["parcel_key"]])
        assert chips.parcels_to_cut(connection, [row["parcel_key"]]) == {}


def test_sampled_parcels_are_pictured_from_before_as_far_back_as_every_scene_can_be_read(
    chain: World, tmp_path: Path
) -> None:
    items = [s2_item(tmp_path, optical(seed), start=day) for seed, day in enumerate(DAYS)]
    chain.add(*items)
    chain.work()
    keys = [row["parcel_key"] for row in chain.rows("select parcel_key from parcels")]
    with chain.engine.begin() as connection:
        chips.sample(connection, keys, chain.now())
    (items[1].parent / "B08.tif").unlink()
    assert "18 pictures cut of 3 parcels; of every scene since 2023-05-06" in run(
        "sampled", "--from", str(DAYS[0].date())
    )
    for name in BOXES:
        found = [one for one in stored(chain, name) if one.image is not None]
        assert {one.observed_at.date() for one in found} == {DAYS[place].date() for place in (0, 2, 3)}
        assert {one.cut_for for one in found} == {"sample"}
    since = {row["recorded_at"] for row in chain.rows("select recorded_at from chip_parcels")}
    assert since == {DAYS[1] + timedelta(microseconds=1)}, (
        "of the second scene parcels with an alert alone might have any"
    )
    run("sampled", "--from", str(DAYS[2].date()))
    assert {row["recorded_at"] for row in chain.rows("select recorded_at from chip_parcels")} == since, "never later"


def test_a_revised_scene_adds_a_picture_and_replaces_none(chain: World, tmp_path: Path) -> None:
    alert(chain, "red", DAYS[0].date())
    for seed, baseline in ((1, "05.09"), (2, "05.10")):
        made = START + timedelta(hours=6 + seed)
        chain.add(s2_item(tmp_path, optical(seed), start=DAYS[0], baseline=baseline, made=made))
        chain.work()
    found = [one for one in stored(chain, "red") if one.composite == "true_colour"]
    assert [one.revision for one in found] == [0, 1]
    assert len({one.sha256 for one in found}) == len({one.scene_id for one in found}) == 2


def test_a_parcel_that_the_tiles_edge_cuts_shows_what_is_there(chain: World, tmp_path: Path) -> None:
    alert(chain, "edge", DAYS[0].date())
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    (one, _) = stored(chain, "edge")
    assert one.image is not None
    with Image.open(io.BytesIO(one.image)) as picture:
        shown = np.asarray(picture)
    right = shown[40:-40, -20:]
    assert (right == 128).all(axis=-1).mean() > 0.7, "beyond the edge: no data"


def test_on_demand_a_scene_is_cut_again_and_what_is_missing_has_its_reason(chain: World, tmp_path: Path) -> None:
    items = [s2_item(tmp_path, optical(seed), start=day) for seed, day in enumerate(DAYS[:2])]
    chain.add(*items)
    chain.work()
    assert "4 pictures cut, 0 missing" in run("cut", "--parcel", "red")
    assert len(stored(chain, "red")) == 4
    run("cut", "--parcel", "red")
    assert len(stored(chain, "red")) == 4, "the same pictures are stored once"
    (items[1].parent / "B08.tif").unlink()
    said = run("cut", "--parcel", "green")
    assert "2 pictures cut, 2 missing" in said
    gone = [one for one in stored(chain, "green") if one.observed_at.date() == DAYS[1].date()]
    assert all(one.image is None and one.missing and "cannot be read" in one.missing for one in gone)
    assert "missing: scene" in run("list", "--parcel", "green")
    (items[0].parent / "B08.tif").unlink()
    run("show", "--parcel", "green", "--out", str(tmp_path / "pictures"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_an_alerts_pictures_are_cut_from_a_scene_that_was_found_after_it(chain: World, tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(1), start=DAYS[0])
    chain.add(item)
    chain.work()
    with chain.engine.begin() as connection:
        connection.exec_driver_sql("delete from found_scenes")
    key = alert(chain, "red", (DAYS[0] + timedelta(days=1)).date())
    chain.now.put_forward(timedelta(days=1))
    chain.add(item)
    assert "2 pictures cut, 0 missing" in run("cut", str(key))


def test_where_observations_came_as_messages_the_picture_is_missing(chain: World, tmp_path: Path) -> None:
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    key = alert(chain, "red", (DAYS[0] + timedelta(days=1)).date())
    with chain.engine.begin() as connection:
        connection.exec_driver_sql("delete from found_scenes")
    said = run("cut", str(key))
    assert "came as messages" in said
    assert "0 pictures cut, 2 missing" in said
    assert stored(chain, "red") == []


def test_retention_removes_pictures_once_no_alert_is_open_and_keeps_their_digest(chain: World, tmp_path: Path) -> None:
    key = alert(chain, "red", DAYS[0].date())
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    later, before = chain.now() + timedelta(days=800), stored(chain, "red")
    with chain.engine.begin() as connection:
        assert chips.prune(connection, later, later) == 0, "an alert is open"
    close(chain, key)
    with chain.engine.begin() as connection:
        assert chips.prune(connection, chain.now() - timedelta(days=1), later) == 0, "closed too recently"
        assert chips.prune(connection, later, later) == 2
    assert all(one.image is None and one.removed_at == later and one.sha256 for one in stored(chain, "red"))
    assert "removed" in run("list", "--parcel", "red")
    assert "0 pictures removed" in run("prune", "--days", "0")
    assert "2 pictures cut" in run("cut", "--parcel", "red")
    again = stored(chain, "red")
    assert [hashlib.sha256(one.image or b"").hexdigest() for one in again] == [one.sha256 for one in again]
    assert [(one.recorded_at, one.removed_at) for one in again] == [(one.recorded_at, None) for one in before]


def test_a_sample_keeps_its_pictures_as_long_as_retention_says_of_the_sample(chain: World, tmp_path: Path) -> None:
    (row,) = chain.rows("select parcel_key from parcels where source_id = 'green'")
    with chain.engine.begin() as connection:
        chips.sample(connection, [row["parcel_key"]], chain.now())
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    with chain.engine.begin() as connection:
        connection.exec_driver_sql("update chips set recorded_at = recorded_at - interval '10 days'")
        assert chips.prune(connection, chain.now() - timedelta(days=5), chain.now()) == 0, "sampled since"
        assert chips.prune(connection, chain.now() + timedelta(days=5), chain.now()) == 2


def test_retention_goes_on_where_no_pictures_are_cut_any_more(chain: World, tmp_path: Path) -> None:
    (row,) = chain.rows("select parcel_key from parcels where source_id = 'green'")
    with chain.engine.begin() as connection:
        chips.sample(connection, [row["parcel_key"]], chain.now())
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    assert [one.image is None for one in stored(chain, "green")] == [False, False]
    chain.settings = replace(chain.settings, imagery=ImagerySettings(chips=False))
    chain.now.put_forward(timedelta(days=800))
    chain.work()
    assert [one.image is None for one in stored(chain, "green")] == [True, True]


def test_a_picture_that_cannot_be_made_does_not_stop_the_scene(chain: World, tmp_path: Path) -> None:
    alert(chain, "red", DAYS[0].date())
    with chain.engine.begin() as connection:
        connection.exec_driver_sql(
            """update parcels set geom = ST_Multi(ST_Union(geom, ST_Translate(geom, 0.3, 0))) where source_id = 'red'"""
        )
    chain.add(s2_item(tmp_path, optical(1), start=DAYS[0]))
    chain.work()
    assert chain.the_scene().state == "cut"
    assert [one.missing and "km apart" in one.missing for one in stored(chain, "red")] == [True, True]


@pytest.mark.usefixtures("chain")
def test_errors_are_one_line() -> None:
    for words, said in (
        (("cut",), "say whose"),
        (("cut", "77"), "not stored"),
        (("cut", "--parcel", "nobody"), "no parcel"),
        (("cut", "--parcel", "red"), "no observation"),
        (("show", "--parcel", "red"), "no pictures"),
        (("sampled", "--from", "2023-05-01"), "no parcel is sampled"),
    ):
        result = CliRunner().invoke(parcelwatch.app, ["chips", *words])
        assert said in str(result.exception), words
        assert "\n" not in str(result.exception)
