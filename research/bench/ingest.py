"""Rows per second of the consumer, beside its limit: binary COPY of the same rows, already encoded, into the same tables.

    python -m research.bench.ingest [--json] [--rows 60000] [--rounds 3]

Rows are Sentinel-2 observations with all bands and a pixel set of 32 pixels (640 bytes). Each round measures the limit and
the consumer in turn on fresh passes, so that a busy machine slows both; the median of the rounds is reported.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from statistics import median
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.table import Table

from db.binary_copy import copy_rows
from db.connect import Engine, driver, engine
from db.migrate import upgrade
from db.observations import KEY
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from db.sensors import SENSORS
from devstack.temporary import temporary_stack
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.consumer import Consumer
from ingest.stream.messages import decode_json, encode_arrow, encode_json
from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import S2
from ingest.stream.settings import IngestSettings
from terminal.output import console

N_PARCELS, N_PIXELS = 2_000, 32
NOW = datetime(2024, 6, 1, tzinfo=UTC)
FIRST = datetime(2023, 1, 1, 10, tzinfo=UTC)


def passes(first: int, number: int) -> pa.Table:
    """Return every parcel in `number` passes, one a day, from day `first` on."""
    chance, n_rows = np.random.default_rng(first), N_PARCELS * number
    observed = np.repeat(
        np.datetime64(FIRST.replace(tzinfo=None), "us") + np.arange(first, first + number).astype("m8[D]"), N_PARCELS
    )
    pixels = chance.integers(0, 9_000, (n_rows, 10 * N_PIXELS)).astype("<i2")
    columns: dict[str, object] = {
        "collection": pa.repeat("bench", n_rows),
        "season": pa.repeat("2023", n_rows),
        "parcel_id": [str(nr) for nr in range(N_PARCELS)] * number,
        "observed_at": observed,
        "available_at": observed,
        "scene_id": [f"S2_{nr}" for nr in range(first, first + number) for _ in range(N_PARCELS)],
        "platform": pa.repeat("S2A", n_rows),
        "relative_orbit": np.full(n_rows, 51),
        "revision": np.zeros(n_rows, int),
        "is_withdrawn": np.zeros(n_rows, bool),
        "n_clear": np.full(n_rows, N_PIXELS),
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


def measure(dsn: str, bootstrap: str, n_rows: int, rounds: int) -> dict[str, float]:
    """Return rows per second by what was measured: medians over the rounds."""
    database, settings = engine(dsn), IngestSettings(topic_prefix="bench")
    with database.begin() as connection:
        season = ensure_season(connection, "2023", FIRST.date(), date(2024, 5, 1))
        parcels = [ParcelRow(str(nr), "r", None, 1.0, 400.0, 0.9, None, None, None) for nr in range(N_PARCELS)]
        upsert_parcels(connection, "bench", season, parcels, NOW, NOW)
    n_passes, seconds = max(1, n_rows // N_PARCELS), dict[str, list[float]]()
    consumer = Consumer(database, bootstrap, settings, lambda: NOW)
    consumer.catch_up()
    with ObservationProducer(bootstrap, settings) as producer:

        def note(what: str, number: int, took: float) -> None:
            seconds.setdefault(what, []).append(number / took)

        def send(rows: pa.Table) -> None:
            producer.send(rows)
            producer.flush()

        for nr in range(rounds):
            batch, again, few = (
                passes(2 * nr * n_passes, n_passes),
                passes((2 * nr + 1) * n_passes, n_passes),
                passes(450 + nr, 1),
            )
            note("limit: COPY of encoded rows", again.num_rows, copy_raw(database, again))
            note("producer, Arrow", batch.num_rows, timed(send, batch))
            note("consumer, Arrow", batch.num_rows, timed(consumer.catch_up))
            send(batch)
            note("consumer, Arrow, all replayed", batch.num_rows, timed(consumer.catch_up))
            records = encode_json(S2, few.to_pylist())
            note(
                "decode JSON alone",
                len(records),
                timed(lambda these: [decode_json(record) for record in these], records),
            )
            note("decode Arrow alone", batch.num_rows, timed(decode_arrow, encode_arrow(batch)))
            producer.send_records(S2, few.to_pylist())
            producer.flush()
            note("consumer, JSON", len(records), timed(consumer.catch_up))
    consumer.close()
    with database.begin() as connection:
        expected = rounds * (2 * n_passes + 1) * N_PARCELS
        assert driver(connection).execute("select count(*) from s2_observations").fetchone() == (expected,)
    database.dispose()
    return {what: median(rates) for what, rates in seconds.items()}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    rows: Annotated[int, typer.Option(min=N_PARCELS, help="Observations in a round.")] = 60_000,
    rounds: Annotated[int, typer.Option(min=1, max=6)] = 3,
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    with temporary_stack(os.environ, lambda _what, _share: None) as servers:
        upgrade(servers.dsn)
        rates = measure(servers.dsn, servers.bootstrap, rows, rounds)
    if as_json:
        typer.echo(json.dumps({what: round(rate) for what, rate in rates.items()}))
        return
    limit = rates["limit: COPY of encoded rows"]
    table = Table("what", "rows/s", "of the limit")
    for what, rate in rates.items():
        table.add_row(what, f"{rate:,.0f}", f"{rate / limit:.2f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
