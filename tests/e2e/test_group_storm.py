"""A group of four of whose members one is killed every ten seconds goes on storing."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import S2
from ingest.stream.settings import IngestSettings
from tests.kafka_server import KafkaServer
from tests.observations import one_pass, season_of_parcels, stored, wait_until

COMMAND = [sys.executable, "-m", "parcelwatch", "ingest", "run", "--group"]
EVERY_S = 10.0
N_KILLS = 2


@pytest.mark.timeout(300)
def test_with_one_killed_every_ten_seconds_half_of_the_rate_is_kept(
    dsn: str, apache_kafka: KafkaServer, topic_prefix: str
) -> None:
    season_of_parcels(dsn)
    settings = IngestSettings(topic_prefix=topic_prefix, partitions=8)
    environment = os.environ | {
        "PARCELWATCH_DSN": dsn,
        "PARCELWATCH_BOOTSTRAP": apache_kafka.plain,
        "PYTHONPATH": str(Path.cwd()),
        "PARCELWATCH_INGEST_TOPIC_PREFIX": topic_prefix,
        "PARCELWATCH_INGEST_PARTITIONS": "8",
    }

    def member() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, topic_prefix], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    stop = threading.Event()

    def feed() -> None:
        number = 0
        with ObservationProducer(apache_kafka.plain, settings) as producer:
            while not stop.wait(0.02):
                producer.send_records(S2, [one_pass(number // 50).slice(number % 50, 1).to_pylist()[0]])
                number += 1

    ObservationProducer(apache_kafka.plain, settings).close()
    members = [member() for _ in range(4)]
    feeder = threading.Thread(target=feed)
    try:
        feeder.start()
        wait_until(lambda: stored(dsn) > 0)
        time.sleep(6)
        before = stored(dsn)
        time.sleep(5)
        in_peace = (stored(dsn) - before) / 5
        before, began = stored(dsn), time.monotonic()
        for kill in range(N_KILLS):
            members[kill % 4].kill()
            members[kill % 4].wait()
            members[kill % 4] = member()
            time.sleep(EVERY_S)
        in_storm = (stored(dsn) - before) / (time.monotonic() - began)
        print(f"stored a second: {in_peace:.0f} in peace, {in_storm:.0f} with a kill every {EVERY_S:.0f} s")
        assert in_storm >= in_peace / 2
    finally:
        stop.set()
        feeder.join()
        for each in members:
            each.kill()
            each.wait()
