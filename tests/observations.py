"""Observations of a small season, and consumers that run beside a test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import sqlalchemy as sa

from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream.consumer import Consumer
from ingest.stream.schemas import S2

NOW = datetime(2023, 9, 1, tzinfo=UTC)
N_PARCELS = 50
PATIENCE_S = 90.0
PASS = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
ROW: dict[str, object] = {
    "collection": "nl",
    "season": "2023",
    "parcel_id": "0",
    "observed_at": PASS,
    "available_at": PASS + timedelta(hours=6),
    "scene_id": "X",
    "platform": "S2A",
    "relative_orbit": 51,
    "revision": 0,
    "is_withdrawn": False,
    "NDVI": 0.5,
    "n_clear": 2,
}
"""A sound S2 observation of parcel "0"."""


def season_of_parcels(dsn: str, n_parcels: int = N_PARCELS) -> None:
    """Stores the season 2023 with its parcels, numbered from 0."""
    with engine(dsn).begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        rows = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(n_parcels)]
        upsert_parcels(connection, "nl", season, rows, NOW, NOW)


def one_pass(number: int) -> pa.Table:
    """Every parcel in one pass."""
    passed = datetime(2023, 3, 1, 10, tzinfo=UTC) + timedelta(days=number)
    return pa.Table.from_pylist(
        [
            {
                "collection": "nl",
                "season": "2023",
                "parcel_id": str(parcel),
                "observed_at": passed,
                "available_at": passed,
                "scene_id": f"S2_{number}",
                "platform": "S2A",
                "relative_orbit": 51,
                "revision": 0,
                "is_withdrawn": False,
                "NDVI": 0.5,
                "n_clear": 9,
                "clear_fraction": 1.0,
            }
            for parcel in range(N_PARCELS)
        ],
        schema=S2.arrow,
    )


@contextmanager
def running(consumer: Consumer) -> Iterator[Consumer]:
    """The consumer in a thread of its own, stopped at the end; what it raised is raised."""
    stop, raised = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            consumer.run(stop)
        except BaseException as error:  # noqa: BLE001  # handed to the test below
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield consumer
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        consumer.close()
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def stored(dsn: str) -> int:
    with engine(dsn).begin() as connection:
        return int(connection.execute(sa.text("select count(*) from s2_observations")).scalar_one())
