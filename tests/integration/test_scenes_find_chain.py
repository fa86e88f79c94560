"""From a STAC API over HTTP to stored observations, with everything that goes wrong on the way; every value exact."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ingest.scenes.http_retries import Clock, Http, Patience
from ingest.scenes.items import scene_of_file
from ingest.scenes.polling import Failure, Outcome, attempt, poll
from ingest.scenes.profiles import load_profile
from ingest.scenes.sources import DatabaseSources
from ingest.scenes.terminal import Unsigned
from tests.made_scenes import START, World, check_optical, inside, optical, s2_item, world
from tests.stac_server import Fault, StacServer

BOX = (4.0, 50.0, 5.0, 51.0)
PARCELS = {"a": (2, 2, 22, 22), "b": (30, 30, 60, 60)}


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


@pytest.fixture
def made(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path, s2_buffer_m=6.0) as chain:
        chain.store_parcels(PARCELS)
        yield chain


def serve(server: StacServer, folder: Path, seed: int, at: datetime) -> tuple[str, dict[str, np.ndarray]]:
    """A product's COGs behind the server and its item in the catalogue; its name and numbers."""
    numbers = optical(seed)
    return server.publish(s2_item(folder, numbers, start=at, driver="COG", blocksize=128), "s2", BOX), numbers


def test_polled_cut_and_stored_whatever_the_server_does(server: StacServer, made: World, tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    file.write_text(
        f'title = "t"\napi = "{server.api}"\npublished = "created"\npage_size = 2\n[sensors.S2]\ncollections = ["s2"]\n'
    )
    profile, sources = load_profile(str(file)), DatabaseSources(made.engine)
    products = [serve(server, tmp_path / "cogs", seed, START + timedelta(days=5 * seed)) for seed in range(5)]

    def look(now: datetime) -> Outcome | Failure:
        clock = Clock(lambda: now, lambda _: False, lambda low, _: low)
        http = Http("here", Patience(tries=3, read_s=0.3), clock)
        return attempt(
            "here",
            lambda: poll(
                profile,
                "S2",
                BOX,
                START - timedelta(days=1),
                now,
                http=http,
                publish=made.publisher.publish,
                sources=sources,
            ),
            sources,
            now,
        )

    server.faults = [
        Fault("/v1/search", status=429, headers={"Retry-After": "1"}),
        Fault("/v1/search", delay_s=0.6),
        Fault("/v1/search", cut=0.5, times=3, after=1),
    ]
    first = look(datetime(2024, 1, 1, tzinfo=UTC))
    assert isinstance(first, Failure), "the second page is never whole"
    assert sources.bookmark(f"stac:{profile.name} S2 4,50,5,51") is None
    second = look(datetime(2024, 1, 1, 1, tzinfo=UTC))
    assert isinstance(second, Outcome)
    assert (second.new, second.known) == (3, 2)

    half, gone, limited = (f"/files/{products[number][0]}/" for number in (1, 2, 3))
    server.faults = [
        Fault(f"{half}B03", cut=0.6, times=999),
        Fault(f"{gone}B8A", status=404, times=999),
        Fault(f"{limited}B02", status=429, times=1, method="GET"),
    ]
    worker = made.worker()
    worker.run(threading.Event(), until_idle=True)
    states = {name: made.ledger()[name] for name, _ in products}
    assert [states[name].state for name, _ in products] == ["cut", "failed", "failed", "cut", "cut"]
    assert {states[products[number][0]].cause for number in (1, 2)} == {"unreadable"}

    server.faults = []
    made.now.put_forward(timedelta(hours=1))
    worker.run(threading.Event(), until_idle=True)  # the same process: it must not remember what it saw
    made.consumer.catch_up()
    assert {row.state for row in made.ledger().values()} == {"cut"}
    assert all(row.adds_up for row in made.ledger().values())
    stored = made.rows("""
        select source_id, s.scene_id, o.*, p.pixels from parcels
        cross join lateral s2_known(parcel_key, '-infinity', 'infinity') o join scenes s using (scene_key)
        join pixel_sets p on (p.parcel_key, p.observed_at, p.revision, p.sensor::text)
                           = (o.parcel_key, o.observed_at, o.revision, 'S2')""")
    assert len(stored) == len(products) * len(PARCELS)
    numbers = dict(products)
    for row in stored:
        check_optical(row, numbers[row["scene_id"]], inside(PARCELS[row["source_id"]]))


def test_a_worker_without_the_profile_leaves_the_scene_for_later(
    server: StacServer, made: World, tmp_path: Path
) -> None:
    file = tmp_path / "here.toml"
    file.write_text(f'title = "t"\napi = "{server.api}"\n[sensors.S2]\ncollections = ["s2"]\n')
    serve(server, tmp_path / "cogs", 1, START)
    (item,) = server.items
    made.publisher.publish([scene_of_file(item, server.api, load_profile(str(file)), "test", made.now())])
    file.rename(tmp_path / "elsewhere.toml")
    made.work()
    row = made.the_scene()
    assert (row.state, row.cause) == ("failed", "unreadable")
    assert f"profile {file}: neither a readable TOML file" in str(row.told)
    (tmp_path / "elsewhere.toml").rename(file)
    made.now.put_forward(timedelta(minutes=2))
    made.work()
    assert (made.the_scene().state, made.the_scene().stored) == ("cut", 2)


def test_no_signature_is_logged_or_kept(
    server: StacServer, made: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    serve(server, tmp_path / "cogs", 1, START)
    (item,) = server.items
    for asset in item["assets"].values():
        asset["href"] += "?sig=secret&se=2030"
    server.faults = [Fault("/files/", status=403, times=999)]
    found = scene_of_file(item, f"{server.api}/item.json?sig=secret", None, "test", made.now())
    assert found.href == f"{server.api}/item.json"
    made.publisher.publish([found])
    made.hosts = [server.api.split("/")[2]]
    made.worker().run(threading.Event(), until_idle=True)
    row = made.the_scene()
    assert row.cause == "unreadable"
    assert f"{item['id']}/B02.tif cannot be read" in str(row.told)
    assert "secret" not in str(row.told)
    lines = [Unsigned().format(record) for record in caplog.records]
    assert any("cannot be read" in line for line in lines)
    assert "secret" not in "\n".join(lines)
