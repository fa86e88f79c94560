"""Parcels assessed a second: all rules, markers and obligations of stored parcels, by workers that read and store.

A season of parcels is stored, without pixels; the example policy is put in force, which asks every parcel anew. Measured is from
then until nothing is pending: claim, load, rules, findings, alerts. The first time all observations are read and every finding is
stored (`first_parcels_per_s`); after that what is carried is read, and what changed is stored, as in a running season. No model is active.

    python -m research.bench.assess --json
"""

import json
import multiprocessing
import os
import time
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import typer
from rich.table import Table

from db import observations, policies, recording, work
from db.connect import Connection, engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from devstack.temporary import temporary_stack
from ingest.stream.schemas import S1, S2
from monitor.policies.policy import Policy, read_policy
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.seasons.season_stream import prepare
from terminal.output import console

FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
VIEW_DAYS, PASS_DAYS = 6, 6
"""A clear view every sixth day and a pass of one orbit each way: 61 views and 122 passes a parcel."""
SHARE_DEPARTING: Final = 0.02
"""Parcels of which some weeks look ploughed; with more, what is measured is the log of alerts."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    parcels: Annotated[int, typer.Option(min=100)] = 20_000,
    workers: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    with temporary_stack(os.environ, lambda _what, _share: None) as servers:
        prepare(servers.dsn)
        policy = _example()
        with engine(servers.dsn).begin() as connection:
            season_key, n_rows = _store(connection, parcels)
        figures: dict[str, Any] = {"parcels": parcels, "observations": n_rows, "obligations": len(policy.obligation)}
        for version, (name, n_workers) in enumerate(
            (("first_parcels_per_s", workers), ("parcels_per_s_of_one", 1), ("parcels_per_s", workers)), 1
        ):
            _ask(servers.dsn, season_key, policy, version)
            figures[name] = round(parcels / _work(servers.dsn, n_workers), 1)
        with engine(servers.dsn).connect() as connection:
            figures["findings"] = connection.exec_driver_sql("select count(*) from findings").scalar_one()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    console.print(table)


def _example() -> Policy:
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "policy.toml"
        copy.write_bytes((files("monitor.policies") / "examples" / "2025.toml").read_bytes())
        return read_policy(copy)


def _ask(dsn: str, season_key: int, policy: Policy, version: int) -> None:
    """Put the policy in force under another version, so that each run stores findings anew, and ask all parcels."""
    policy = policy.model_copy(update={"version": version})
    with engine(dsn).begin() as connection:
        content = policy.name, policy.version, policy.hash, policy.content()
        policies.put_in_force(connection, season_key, "bench", content, "bench", "bench", NOW)
        work.mark_season(connection, season_key, "bench", "rules", NOW)


def _work(dsn: str, n_workers: int) -> float:
    """Return the seconds until nothing is pending."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(n_workers + 1), context.Event()
    running = [context.Process(target=_poll, args=(dsn, ready, go)) for _ in range(n_workers)]
    for one in running:
        one.start()
    ready.wait(60)
    begun = time.perf_counter()
    go.set()
    for one in running:
        one.join()
    return time.perf_counter() - begun


def _poll(dsn: str, ready: Any, go: Any) -> None:
    worker = Worker(dsn, MonitorSettings())
    with engine(dsn).connect():
        ready.wait(60)
    go.wait()
    worker.poll(NOW)


def _store(connection: Connection, n_parcels: int) -> tuple[int, int]:
    """Store parcels of grass and cereals with a season of observations; return the season's key and the rows."""
    recording.take_the_databases_clock(connection)
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    season = ensure_season(connection, "2025", FIRST, LAST)
    crops = [("265", "grass", "3302000000"), ("233", "wheat", "3301010101")]
    rows = [
        ParcelRow(str(nr), f"r{nr % 20}", None, 2.0, 600.0, 0.9, None, crops[nr % 2][0], crops[nr % 2][1])
        for nr in range(n_parcels)
    ]
    upsert_parcels(connection, "bench", season, rows, begin, begin)
    connection.exec_driver_sql(
        "update declarations set hcat_code = case crop_code when '265' then '3302000000' else '3301010101' end"
    )
    keys = np.array(connection.exec_driver_sql("select parcel_key from parcels order by 1").scalars().all(), np.int64)
    chance = np.random.default_rng(1)
    green = chance.uniform(0.3, 0.5, n_parcels)
    cut = chance.uniform(168, 200, n_parcels)
    is_lost = chance.random(n_parcels) < SHARE_DEPARTING
    n_rows = 0
    for day in range(0, 365, VIEW_DAYS):
        season_of = np.exp(-(((day - 170) / 60) ** 2))
        since = np.where(day > cut, np.clip((day - cut) / 28, 0.2, 1), 1)
        ndvi = 0.4 + green * season_of * since + chance.normal(0, 0.02, n_parcels)
        ndvi = np.where(is_lost & (120 < day < 150), 0.2, ndvi)
        n_rows += _insert(connection, "S2", keys, begin + timedelta(days=day, hours=10), {"NDVI": ndvi})
        for hour, orbit in ((6, 15), (18, 37)):
            at = begin + timedelta(days=day, hours=hour)
            db = {"VV": -12 + 3 * season_of, "VH": -18 + 4 * season_of}
            power = {name: 10 ** ((value + chance.normal(0, 0.8, n_parcels)) / 10) for name, value in db.items()}
            n_rows += _insert(connection, "S1", keys, at, power | {"relative_orbit": orbit})
    connection.exec_driver_sql("truncate pending_work")
    return season.season_key, n_rows


def _insert(
    connection: Connection, sensor: Any, keys: np.ndarray[Any, np.dtype[np.int64]], at: datetime, values: dict[str, Any]
) -> int:
    schema = {"S1": S1, "S2": S2}[sensor].arrow
    n = len(keys)
    fixed: dict[str, Any] = {
        "collection": "bench",
        "season": "2025",
        "observed_at": at,
        "available_at": at,
        "scene_id": f"{sensor} {at:%Y%m%d%H}",
        "platform": f"{sensor}A",
        "relative_orbit": 8,
        "revision": 0,
        "is_withdrawn": False,
        "n_clear": 20,
        "n_pixels": 20,
        "radiometry": "gamma0",
        "direction": "ascending",
    }
    columns = {}
    for field in schema:
        if field.name == "parcel_id":
            columns[field.name] = pa.array([str(nr) for nr in range(n)], field.type)
        elif field.name in values and not np.isscalar(values[field.name]):
            columns[field.name] = pa.array(values[field.name], pa.float64()).cast(field.type)
        else:
            columns[field.name] = pa.array([(fixed | values).get(field.name)] * n, field.type)
    observations.insert(connection, sensor, pa.table(columns, schema=schema), keys, at)
    return n


if __name__ == "__main__":
    typer.run(main)
