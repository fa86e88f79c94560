"""`parcelwatch scenes work` is killed while it cuts: the next one completes the scenes, every observation stored once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ingest.scenes.items import scene_of_file
from tests.made_scenes import START, Numbers, World, check_optical, inside, optical, s2_item, world
from tests.stac_server import Fault, StacServer

BOXES = {
    f"p{nr}": (2.2 + 15 * (nr % 4), 2.2 + 15 * (nr // 4), 14.2 + 15 * (nr % 4), 14.2 + 15 * (nr // 4))
    for nr in range(16)
}
N_SCENES, N_KILLS = 6, 5
PATIENCE_S = 60.0
# The commands by themselves: the whole command line also imports the networks.
COMMAND = [sys.executable, "-c", "from ingest.scenes.commands import app; app()", "work"]


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES)
        yield made


@pytest.fixture
def environment(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "PARCELWATCH_DSN": dsn,
        "PARCELWATCH_BOOTSTRAP": bootstrap,
        "PARCELWATCH_INGEST_TOPIC_PREFIX": topic_prefix,
        "PARCELWATCH_SCENES_INDEX_FOLDER": str(tmp_path / "index"),
        "PARCELWATCH_SCENES_LEASE_S": "2",
        "PARCELWATCH_SCENES_TRIES": "20",
        "PARCELWATCH_IMAGERY_SAMPLE_PIXELS": "4096",
        "PYTHONPATH": str(Path.cwd()),
        "PARCELWATCH_SCENES_HOSTS": '["127.0.0.1:*"]',
    }


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command, killed at the end if it still runs."""
    process = subprocess.Popen(COMMAND, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(chain: World, environment: dict[str, str]) -> None:
    """The next worker does all that is left; then everything is stored."""
    done = subprocess.run(
        [*COMMAND, "--until-idle"], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    chain.consumer.catch_up()


def check_each_once(chain: World, numbers: Mapping[str, Numbers]) -> None:
    rows = chain.ledger()
    assert {name: (row.state, row.adds_up, row.emitted, row.stored) for name, row in rows.items()} == dict.fromkeys(
        numbers, ("cut", True, len(BOXES), len(BOXES))
    )
    stored = chain.rows("""select source_id, s.scene_id, o.*, pixels from s2_observations o join scenes s using (scene_key)
                           join parcels using (parcel_key) join pixel_sets p using (parcel_key, revision)
                           where p.observed_at = o.observed_at""")
    assert len(stored) == len(numbers) * len(BOXES)
    for row in stored:
        check_optical(row, numbers[row["scene_id"]], inside(BOXES[row["source_id"]]))
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]
    assert chain.rows("select count(*) as n from pending_work") == [{"n": len(stored)}]


def test_killed_while_it_reads_a_band(
    chain: World, server: StacServer, environment: dict[str, str], tmp_path: Path
) -> None:
    numbers = optical(1)
    server.publish(s2_item(tmp_path, numbers, driver="COG", blocksize=128), "s2", (4.0, 50.0, 5.0, 51.0))
    (item,) = server.items
    chain.publisher.publish([scene_of_file(item, server.url, None, "test", chain.now())])
    server.faults = [Fault(f"/files/{item['id']}/B08.tif", delay_s=PATIENCE_S, method="GET")]
    with worker(environment) as process:
        wait_for(lambda: not any(fault.times for fault in server.faults), process)
        process.kill()
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert (chain.the_scene().state, chain.the_scene().attempts) == ("cutting", 1)
    finished(chain, environment)
    assert chain.the_scene().attempts == 2
    check_each_once(chain, {item["id"]: numbers})


@pytest.mark.timeout(240)
def test_killed_at_random_moments(chain: World, environment: dict[str, str], tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    items = [s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr)) for nr in range(N_SCENES)]
    chain.add(*items)
    for _ in range(N_KILLS):
        before = sum(row.attempts for row in chain.ledger().values())
        if all(row.state == "cut" for row in chain.ledger().values()):
            break
        with worker(environment) as process:
            wait_for(lambda before=before: sum(row.attempts for row in chain.ledger().values()) > before, process)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.15))  # within the first scene or two
            process.kill()
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
    finished(chain, environment)
    assert sum(row.attempts for row in chain.ledger().values()) > N_SCENES, "no kill came between"
    check_each_once(chain, {path.parent.name: optical(nr) for nr, path in enumerate(items)})
