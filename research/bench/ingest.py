"""Rows per second of the consumer, beside its limit: binary COPY of the same rows, already encoded, into the same tables.

    python -m research.bench.ingest [--json] [--rows 60000] [--rounds 3] [--filled 0,1000000]

Rows are Sentinel-2 observations with all bands and a pixel set of 32 pixels (640 bytes). Each round measures the limit and
the consumer in turn on fresh passes, so that a busy machine slows both; the median of the rounds is reported.
`--filled` says how many rows of 100,000 other parcels are stored before, in passes among those that are measured, each
number in a database of its own; a round measures one after the other.

`share_of_copy` is the consumer's rate with Arrow batches over the limit of its round; `growth` is its rate with the fewest
stored rows over that with the most.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from statistics import median
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.table import Table

from db.binary_copy import copy_rows
from db.connect import Engine, driver, engine
from db.fresh import fresh_database
from db.migrate import upgrade
from db.observations import KEY
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from db.sensors import SENSORS
from devstack.stack import Stack
from devstack.temporary import temporary_stack
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.consumer import Consumer
from ingest.stream.messages import decode_json, encode_json
from ingest.stream.producer import ObservationProducer, batches
from ingest.stream.schemas import S2
from ingest.stream.settings import IngestSettings
from terminal.output import console

N_PARCELS, N_PIXELS = 2_000, 32
N_OTHERS, OTHERS_PIXELS = 100_000, 2
"""Parcels of the rows that are stored before, and pixels of each of these rows."""
NOW = datetime(2024, 6, 1, tzinfo=UTC)
FIRST = datetime(2023, 1, 1, 10, tzinfo=UTC)
N_DAYS = 450
"""Days of the passes in Arrow batches; those of the JSON records follow."""
LIMIT, ARROW = "limit: COPY of encoded rows", "consumer, Arrow"


def passes(
    days: Sequence[int], *, first_parcel: int = 0, n_parcels: int = N_PARCELS, n_pixels: int = N_PIXELS
) -> pa.Table:
    """Return every parcel in a pass on each of these days."""
    chance, n_rows = np.random.default_rng(days[0]), n_parcels * len(days)
    observed = np.repeat(np.datetime64(FIRST.replace(tzinfo=None), "us") + np.array(days).astype("m8[D]"), n_parcels)
    pixels = chance.integers(0, 9_000, (n_rows, 10 * n_pixels)).astype("<i2")
    columns: dict[str, object] = {
        "collection": pa.repeat("bench", n_rows),
        "season": pa.repeat("2023", n_rows),
        "parcel_id": [str(nr) for nr in range(first_parcel, first_parcel + n_parcels)] * len(days),
        "observed_at": observed,
        "available_at": observed,
        "scene_id": [f"S2_{nr}" for nr in days for _ in range(n_parcels)],
        "platform": pa.repeat("S2A", n_rows),
        "relative_orbit": np.full(n_rows, 51),
        "revision": np.zeros(n_rows, int),
        "is_withdrawn": np.zeros(n_rows, bool),
        "n_clear": np.full(n_rows, n_pixels),
        "clear_fraction": np.ones(n_rows),
        "pixels": [row.tobytes() for row in pixels],
    }
    floats = [field.name for field in S2.arrow if field.name not in columns]
    columns |= {name: chance.uniform(0, 0.9, n_rows) for name in floats}
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in S2.arrow}, schema=S2.arrow)


def timed(act: Callable[..., object], *arguments: object) -> float:
    """Return seconds that `act` takes."""
    start = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - start


def copy_raw(database: Engine, rows: pa.Table) -> float:
    """Return seconds to COPY the rows of known parcels straight in, encoded before: observations, pixel sets and pending work."""
    named = {name.lower(): rows[name].combine_chunks() for name in rows.column_names}
    n_rows = rows.num_rows
    with database.begin() as connection:
        keys: dict[str, int] = dict(driver(connection).execute("select source_id, parcel_key from parcels").fetchall())
        season_key = driver(connection).execute("select season_key from seasons").fetchall()[0][0]
    named |= {
        "parcel_key": pa.array([keys[name] for name in rows["parcel_id"].to_pylist()], pa.int64()),
        "scene_key": pa.repeat(pa.scalar(1, pa.int64()), n_rows),
        "recorded_at": named["observed_at"],
        "sensor": pa.repeat("S2", n_rows),
        "season_key": pa.repeat(pa.scalar(season_key, pa.int16()), n_rows),
        "collection": pa.repeat("bench", n_rows),
    }
    tables = {
        "s2_observations": (*KEY, "recorded_at", *SENSORS["S2"].values),
        "pixel_sets": (*KEY, "sensor", "pixels"),
        "pending_work": ("season_key", "collection", *KEY, "sensor", "recorded_at"),
    }
    payloads = {table: b"".join(copy_rows([named[name] for name in names])) for table, names in tables.items()}

    def act() -> None:
        with database.begin() as connection, driver(connection).cursor() as cursor:
            for table, names in tables.items():
                with cursor.copy(f"copy {table} ({', '.join(names)}) from stdin (format binary)".encode()) as copy:
                    copy.write(payloads[table])

    return timed(act)


@dataclass
class Place:
    """A database with some rows stored before, and what reads its own topics into it."""

    database: Engine
    settings: IngestSettings
    producer: ObservationProducer
    consumer: Consumer
    n_rows: int
    """Observations stored in all."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Rows per second by what was measured, one a round."""

    def note(self, what: str, number: int, took: float) -> None:
        """Add a measurement of so many rows in so many seconds."""
        self.rates.setdefault(what, []).append(number / took)

    def send(self, rows: pa.Table) -> None:
        """Send rows as Arrow batches, and wait until the broker has them."""
        self.producer.send(rows)
        self.producer.flush()

    def measure_round(self, nr: int, n_passes: int) -> None:
        """Measure everything once, on passes of this round."""
        start = 2 * nr * n_passes
        batch, again = passes(range(start, start + n_passes)), passes(range(start + n_passes, start + 2 * n_passes))
        few, n_rows = passes([N_DAYS + nr]).to_pylist(), batch.num_rows
        self.note(LIMIT, n_rows, copy_raw(self.database, again))
        self.note("producer, Arrow", n_rows, timed(self.send, batch))
        self.note(ARROW, n_rows, timed(self.consumer.catch_up))
        self.send(batch)
        self.note("consumer, Arrow, all replayed", n_rows, timed(self.consumer.catch_up))
        records, messages = encode_json(S2, few), list(batches(batch, self.settings.producer_bytes))
        self.note("decode JSON alone", len(records), timed(lambda: [decode_json(record) for record in records]))
        self.note("decode Arrow alone", n_rows, timed(lambda: [decode_arrow(message) for message in messages]))
        self.producer.send_records(S2, few)
        self.producer.flush()
        self.note("consumer, JSON", len(records), timed(self.consumer.catch_up))
        self.n_rows += 2 * n_rows + len(records)

    def check(self) -> None:
        """Raise AssertionError unless every row is stored."""
        with self.database.begin() as connection:
            assert driver(connection).execute("select count(*) from s2_observations").fetchone() == (self.n_rows,)


@contextmanager
def place(servers: Stack, filled: int, n_days: int) -> Iterator[Place]:
    """Yield a database of its own with so many rows of other parcels stored, in passes spread over the measured days."""
    dsn, settings = fresh_database(servers.dsn, f"bench_{filled}"), IngestSettings(topic_prefix=f"bench{filled}")
    upgrade(dsn)
    database = engine(dsn)
    n_parcels = N_PARCELS + (N_OTHERS if filled else 0)
    with database.begin() as connection:
        season = ensure_season(connection, "2023", FIRST.date(), date(2024, 5, 1))
        parcels = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(n_parcels)]
        upsert_parcels(connection, "bench", season, parcels, NOW, NOW)
    n_passes = filled // N_OTHERS
    for day in np.linspace(0, max(n_days, n_passes) - 1, n_passes).astype(int).tolist():
        copy_raw(database, passes([day], first_parcel=N_PARCELS, n_parcels=N_OTHERS, n_pixels=OTHERS_PIXELS))
    with (
        ObservationProducer(servers.bootstrap, settings) as producer,
        closing(Consumer(database, servers.bootstrap, settings, lambda: NOW)) as consumer,
    ):
        consumer.catch_up()
        yield Place(database, settings, producer, consumer, n_passes * N_OTHERS)
    database.dispose()


def measure(servers: Stack, n_rows: int, rounds: int, filled: Sequence[int]) -> list[Place]:
    """Return what was measured with each number of rows stored before."""
    n_passes = n_rows // N_PARCELS
    with ExitStack() as stack:
        places = [stack.enter_context(place(servers, number, 2 * rounds * n_passes)) for number in filled]
        for nr in range(rounds):
            for one in places:
                one.measure_round(nr, n_passes)
        for one in places:
            one.check()
    return places


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over the rounds of one rate over another."""
    return median(a / b for a, b in zip(over, under, strict=True))


def numbers(text: str) -> list[int]:
    """Return what `--filled` names, the fewest first."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [-1]
    if found[0] < 0 or any(number % N_OTHERS for number in found):
        raise typer.BadParameter(f"multiples of {N_OTHERS:,}, separated by commas")
    return found


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    rows: Annotated[int, typer.Option(min=N_PARCELS, help="Observations in a round.")] = 60_000,
    rounds: Annotated[int, typer.Option(min=1, max=6)] = 3,
    filled: Annotated[str, typer.Option(help="Rows stored before, one number or several.")] = "0,1000000",
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    stored = numbers(filled)
    if 2 * rounds * (rows // N_PARCELS) > N_DAYS:
        raise typer.BadParameter(f"more than {N_DAYS} passes; fewer rows or rounds")
    with temporary_stack(os.environ, lambda _what, _share: None) as servers:
        places = measure(servers, rows, rounds, stored)
    shares = [ratio(one.rates[ARROW], one.rates[LIMIT]) for one in places]
    growth = ratio(places[0].rates[ARROW], places[-1].rates[ARROW])
    if as_json:
        of_place = [
            {"filled": number, "share_of_copy": round(share, 3)}
            | {what: round(median(rates)) for what, rates in one.rates.items()}
            for number, share, one in zip(stored, shares, places, strict=True)
        ]
        typer.echo(json.dumps(of_place[0] | {"growth": round(growth, 3), "by_filled": of_place}))
        return
    table = Table("what", *(f"{number:,} stored: rows/s" for number in stored))
    for what in places[0].rates:
        table.add_row(what, *(f"{median(one.rates[what]):,.0f}" for one in places))
    table.add_row("share_of_copy", *(f"{share:.2f}" for share in shares))
    console.print(table)
    console.print(f"growth {growth:.2f}")


if __name__ == "__main__":
    typer.run(main)
