"""Streams a season through the whole chain: Kafka, the store, the monitor, with a clock that is moved and not read.

    for each day of the season:
        clock = end of the day
        acquisitions that became available ── producer ── broker ── consumer ── store
        monitor.once(clock)

So `recorded_at` is the day on which the season's operator would have known, and every answer as known at a date is true.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from db import recording
from db.connect import engine
from db.migrate import upgrade
from db.seasons import Season, ensure_season
from ingest.parcels.declared import ImportOptions
from ingest.parcels.importer import ImportReport, import_parcels
from ingest.stream.consumer import Consumer
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings
from monitor import schedule
from monitor.batch import Counts
from monitor.worker import Worker
from research.seasons.replay_source import Acquisition, ReplaySource

DayDone = Callable[[date, "Replayed"], None]


@dataclass
class Clock:
    """The time of the season that is replayed."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Chain:
    """The servers and components that a season is replayed through."""

    dsn: str
    bootstrap: str
    settings: IngestSettings
    worker: Worker
    clock: Clock = field(default_factory=lambda: Clock(datetime(1970, 1, 1, tzinfo=UTC)))


@dataclass
class Replayed:
    """What went through the chain so far."""

    acquisitions: int = 0
    sent: int = 0
    stored: int = 0
    dead_lettered: int = 0
    work: Counts = field(default_factory=Counts)


def prepare(dsn: str) -> None:
    """Bring an empty database up to date and let the moved clock give its times."""
    upgrade(dsn)
    with engine(dsn).begin() as connection:
        recording.take_the_callers_clock(connection)


def import_season(
    chain: Chain, season: ReplaySource, collection: str, now: datetime, keep: frozenset[str] | None = None
) -> tuple[Season, ImportReport]:
    """Store a season and its parcels under `collection`, through the same import that a person uses.

    Args:
        keep: source ids to import; None: all.
    """
    frame = season.parcels if keep is None else season.parcels[season.parcels["parcel_id"].isin(keep)]
    with tempfile.TemporaryDirectory() as folder, engine(chain.dsn).begin() as connection:
        path = Path(folder) / "parcels.gpkg"
        frame.to_file(path, driver="GPKG")
        stored = ensure_season(connection, season.name, season.starts_on, season.ends_on)
        as_given = getattr(season, "monitorable_as_given", False)
        options = ImportOptions(is_measured_elsewhere=as_given)
        return stored, import_parcels(connection, path, collection, stored, options, now)


def stream_season(
    chain: Chain,
    season: ReplaySource,
    collections: dict[str, frozenset[str] | None],
    *,
    is_watched: bool,
    step_days: int = 1,
    on_day: DayDone = lambda _day, _replayed: None,
) -> Replayed:
    """Stream a season into collections (each with the source ids it holds, None for all); return what went through.

    Args:
        is_watched: the monitor polls at the end of each step; else observations are only stored.
        step_days: days that become available at once.
        on_day: called after each step.
    """
    replayed = Replayed()
    with (
        ObservationProducer(chain.bootstrap, chain.settings) as producer,
        closing(Consumer(engine(chain.dsn), chain.bootstrap, chain.settings, chain.clock)) as consumer,
    ):
        for day, group in groupby(season.acquisitions(), lambda one: _step(one, season.starts_on, step_days)):
            chain.clock.now = datetime.combine(day, time(23, 59, 59), UTC)
            for acquisition in group:
                replayed.acquisitions += 1
                for table in _of_collections(acquisition.table, collections):
                    replayed.sent += table.num_rows
                    producer.send(table)
            producer.flush()
            counts = consumer.catch_up()
            replayed.stored += counts["stored"]
            replayed.dead_lettered += counts["dead_letters"]
            if is_watched:
                replayed.work += schedule.once(chain.worker, chain.clock.now)
            on_day(day, replayed)
    return replayed


def _step(acquisition: Acquisition, starts_on: date, step_days: int) -> date:
    """Return the last day of the step in which an acquisition became available."""
    nr = (acquisition.available_at.date() - starts_on).days // step_days
    return starts_on + timedelta(days=(nr + 1) * step_days - 1)


def _of_collections(table: pa.Table, collections: dict[str, frozenset[str] | None]) -> Iterator[pa.Table]:
    """Yield the rows of each collection, under its name."""
    index = table.schema.get_field_index("collection")
    for name, keep in collections.items():
        rows = table
        if keep is not None:
            rows = table.filter(pa.compute.is_in(table["parcel_id"], value_set=pa.array(sorted(keep), pa.string())))
        if rows.num_rows:
            yield rows.set_column(index, table.schema.field(index), pa.array([name] * rows.num_rows, pa.string()))
