"""`parcelwatch scenes poll|watch|pull|sources` as a person sees them, on a real database and broker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import shapely
import typer
from typer.testing import CliRunner, Result

from db import scene_sources
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from db.sensors import S2_BANDS
from ingest.errors import IngestError
from ingest.scenes import find_commands, terminal
from ingest.scenes.polling import BACK_OFFS
from ingest.scenes.subscription import TOKEN, Subscription
from tests.stac_server import Answer, Asked, Fault, StacServer

NOW = datetime.now(UTC)
app = typer.Typer()
find_commands.register(app)
BBOX = ("--bbox", "4,50,5,51")


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


@pytest.fixture
def profile(server: StacServer, tmp_path: Path) -> str:
    file = tmp_path / "here.toml"
    file.write_text(
        f'title = "t"\napi = "{server.api}"\npublished = "published"\n[sensors.S2]\ncollections = ["s2"]\n'
        '[sensors.S1]\ncollections = ["s1"]\n'
    )
    return str(file)


@pytest.fixture(autouse=True)
def stack(dsn: str, bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setattr(terminal, "stop_on_signals", threading.Event)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def listed() -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in run("sources", "--json").output.splitlines()]
    return {row["source"]: row for row in rows}


def item(number: int, collection: str = "s2") -> dict[str, Any]:
    at = NOW - timedelta(days=1)
    name = f"S2A_MSIL2A_{at:%Y%m%dT%H%M%S}_N0510_R094_T31UFU_{number:06d}"
    if collection == "s1":
        name = f"S1A_IW_GRDH_1SDV_{at:%Y%m%dT%H%M%S}_{at:%Y%m%dT%H%M%S}_048356_{number:06X}_rtc"
    return {
        "type": "Feature",
        "id": name,
        "collection": collection,
        "bbox": [4, 50, 5, 51],
        "properties": {"datetime": f"{at:%Y-%m-%dT%H:%M:%SZ}", "published": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"},
        "assets": {"B02": {"href": "B02.tif"}, "vv": {"href": "vv.tif"}},
    }


def test_poll_finds_once_and_sources_tell(server: StacServer, profile: str) -> None:
    assert "no sources yet" in run("sources").output
    server.add(item(1), item(2), item(3, "s1"), {"id": "x", "collection": "s2", "properties": {}})
    done = run("poll", profile, *BBOX)
    assert done.exit_code == 0, done.output
    assert f"stac:{profile} S2 4,50,5,51: 2 new, 0 known; 1 rejected (x: datetime None is no time)" in done.output
    assert f"stac:{profile} S1 4,50,5,51: 1 new, 0 known" in done.output
    again = run("poll", profile, *BBOX, "--sensor", "s2")
    assert "0 new, 2 known" in again.output
    rows = listed()
    assert {name.split()[1]: (row["new_scenes"], row["rejected"]) for name, row in rows.items()} == {
        "S1": (1, 0),
        "S2": (2, 1),
    }
    assert all(row["polled_to"] and row["errors_in_row"] == 0 for row in rows.values())
    assert f"stac:{profile} S2 4,50,5,51: 1 rejected at the last poll, as: x: datetime" in run("sources").output


def test_failure_is_shown_kept_and_made_good(server: StacServer, profile: str) -> None:
    server.add(item(1), item(2, "s1"))
    server.routes["POST /v1/search"] = lambda asked: (
        Answer({"detail": "[bold] no such collection"}, 400)
        if asked.body["collections"] == ["s2"]
        else server._search(asked.body)
    )
    for errors in (1, 2):
        done = run("poll", profile, *BBOX)
        assert done.exit_code == 1
        assert "S1 4,50,5,51: " in done.output
        row = listed()[f"stac:{profile} S2 4,50,5,51"]
        assert (row["errors_in_row"], row["polled_to"], row["since"]) == (errors, None, None)
        assert "[bold] no such collection" in row["last_error"]
        wait = datetime.fromisoformat(row["next_at"]) - datetime.fromisoformat(row["last_error_at"])
        assert wait == BACK_OFFS[errors - 1]
    shown = run("sources").output
    assert f"S2 4,50,5,51: 2 failed polls in a row, the last {NOW:%Y-%m-%d}" in shown
    assert "[bold] no such collection" in shown
    server.routes.clear()
    server.faults = [Fault("/v1/search", status=429, headers={"Retry-After": "7200"})]
    assert run("poll", profile, *BBOX, "--sensor", "S2").exit_code == 1
    row = listed()[f"stac:{profile} S2 4,50,5,51"]
    wait = datetime.fromisoformat(row["next_at"]) - datetime.fromisoformat(row["last_error_at"])
    assert wait == timedelta(hours=2)
    assert run("poll", profile, *BBOX).exit_code == 0
    row = listed()[f"stac:{profile} S2 4,50,5,51"]
    assert (row["errors_in_row"], row["new_scenes"], row["next_at"]) == (0, 1, None)
    assert "S2 4,50,5,51: last failure 20" in run("sources").output


def test_box_around_parcels(dsn: str, server: StacServer, profile: str) -> None:
    with pytest.raises(IngestError, match="no parcels are stored there"):
        run("poll", profile)
    with engine(dsn).begin() as connection:
        for year, west in (("2023", 4.02), ("2024", 5.02)):
            season = ensure_season(connection, year, date(int(year), 1, 1), date(int(year), 12, 31))
            places = {
                (region, north): shapely.box(west, north, west + 0.01, north + 0.01)
                for region, north in (("north", 51.0), ("south", 50.0))
            }
            rows = [
                ParcelRow(
                    f"{year}{region}",
                    region,
                    shapely.to_wkb(shapely.MultiPolygon([place])),
                    1.0,
                    1.0,
                    1.0,
                    None,
                    None,
                    None,
                )
                for (region, _), place in places.items()
            ]
            upsert_parcels(connection, "be", season, rows, NOW, NOW)
    boxes = {
        (): "4,50,5.1,51.1",
        ("--season", "2023"): "4,50,4.1,51.1",
        ("--region", "south"): "4,50,5.1,50.1",
        ("--region", "north", "--season", "2024"): "5,51,5.1,51.1",
    }
    for options, box in boxes.items():
        assert f"S2 {box}: 0 new" in run("poll", profile, "--sensor", "S2", *options).output
    assert server.searches()[-1].body["bbox"] == [5.0, 51.0, 5.1, 51.1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--bbox", "4,50,5"), "four numbers"),
        (("--bbox", "5,50,4,51"), "west before east"),
        (("--bbox", "4,50,5,x"), "four numbers"),
        (("--bbox", "4,50,5,51", "--region", "x"), "leave --region and --season out"),
        ((*BBOX, "--sensor", "S3"), "S1 or S2"),
    ],
)
def test_wrong_options_are_told(profile: str, arguments: tuple[str, ...], match: str) -> None:
    with pytest.raises(IngestError, match=match):
        run("poll", profile, *arguments)


def test_watch(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "B02.tif").write_bytes(b"tif")
    elsewhere = {band: {"href": f"https://example.org/{band}.tif"} for band in (*S2_BANDS, "SCL")}
    (folder / "item.json").write_text(
        json.dumps({**item(1), "assets": {**elsewhere, "B02": {"href": "B02.tif"}}, "type": "Feature"})
    )
    (folder / "other.json").write_text("{")
    done = run("watch", str(folder))
    assert "0 new, 0 known; 2 not whole yet (item.json: still being written)" in done.output
    done = run("watch", str(folder), "--settled", "0")
    assert "rejected: other.json: not JSON" in done.output
    assert f"folder:{folder}: 1 new, 0 known; 1 rejected" in done.output
    assert "0 new, 1 known" in run("watch", str(folder), "--settled", "0").output
    with pytest.raises(IngestError, match="no such folder"):
        run("watch", str(tmp_path / "no"))
    rows = listed()
    assert (rows[f"folder:{folder}"]["new_scenes"], rows[f"folder:{folder}"]["rejected"]) == (1, 1)
    run("sources", "--forget", f"folder:{folder}")
    assert listed() == {}
    with pytest.raises(IngestError, match="no source"):
        run("sources", "--forget", f"folder:{folder}")


def test_pull(server: StacServer, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subscription_id = "991c4730-cf6f-432a-9f6c-47be0230ff45"
    queue = [{"AckId": "QQ==", "ProductName": item(1)["id"] + ".SAFE", "NotificationDate": NOW.isoformat()}]
    server.add(item(1))
    server.routes[r"GET /odata/.*Read"] = lambda _: Answer(list(queue))

    def acknowledge(_: Asked) -> Answer:
        queue.clear()
        return Answer({"AckMessagesNum": 1, "CurrentQueueLength": 0})

    server.routes[r"POST /odata/.*Ack"] = acknowledge
    monkeypatch.setattr(find_commands, "Subscription", partial(Subscription, odata=f"{server.url}/odata"))
    with pytest.raises(IngestError, match="no access to the Data Space"):
        run("pull", subscription_id, "--profile", profile)
    monkeypatch.setenv(TOKEN, "secret")
    assert f"cdse:{subscription_id}: 1 new, 0 known" in run("pull", subscription_id, "--profile", profile).output
    assert listed()[f"cdse:{subscription_id}"]["new_scenes"] == 1


def test_bookmark_never_goes_back_unless_it_begins_elsewhere(dsn: str) -> None:
    def look(since: datetime, polled_to: datetime) -> datetime | None:
        with engine(dsn).begin() as connection:
            scene_sources.record_poll(
                connection,
                "s",
                since=since,
                polled_to=polled_to,
                new_scenes=1,
                rejected=0,
                last_rejection=None,
                now=NOW,
                next_at=None,
            )
            found = scene_sources.source(connection, "s")
            assert found is not None
            return found.polled_to

    day = timedelta(days=1)
    assert look(NOW - 9 * day, NOW) == NOW
    assert look(NOW - 9 * day, NOW - day) == NOW
    assert look(NOW - 30 * day, NOW - day) == NOW - day


def test_loop_ends_cleanly_when_asked(server: StacServer, profile: str) -> None:
    server.add(item(1))
    program = (
        "import typer; from ingest.scenes import find_commands; app = typer.Typer(); find_commands.register(app); app()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "poll", profile, *BBOX, "--sensor", "S2", "--every", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ),
    ) as running:
        try:
            deadline = time.monotonic() + 60
            while len(server.searches()) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            running.send_signal(signal.SIGTERM)
            output, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 0, output
    assert "1 new, 0 known" in output
    assert "0 new, 1 known" in output
