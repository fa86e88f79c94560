"""How long an analyst's questions take, asked through the SQL contract as a reader, in stores of several sizes.

    python -m research.bench.queries [--json] [--rows 1000000,20000000] [--parcels 300] [--rounds 5]

A store holds a season of both sensors for as many parcels as the rows give: Sentinel-2 every five days, four views in ten under cloud,
one parcel in a hundred revised; Sentinel-1 from two orbits every six days; the daily curve by month, a posterior a week. It is filled by
the server, pass by pass as it comes, in a database of its own for each size.

`history_p95_ms` is a parcel's history of the season, both sensors, curve and posteriors, of parcels drawn at random, each asked once,
half of them as known at a time; `growth`
the median of the largest store over that of the smallest; `known_over_now` the median as known at a time over that of now.
`history_cpu_ms` and `growth_cpu` are of the server's processor time, which a busy machine does not stretch.
`aggregate_speedup` compares one region's weekly NDVI by crop with the same figures computed from the same observations, parcels and
declarations as plain PostgreSQL tables with the same indexes on the same server; both answers must be alike.
"""

import json
import os
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer
from rich.table import Table

from db.access import add_login
from db.connect import connect
from db.fresh import fresh_database
from db.migrate import upgrade
from devstack.stack import Stack, down, up
from devstack.temporary import temporary_home
from monitor.schedule import roll_up_weeks
from terminal.output import console

Rows = list[tuple[Any, ...]]
S2_DAYS, S1_DAYS = range(0, 365, 5), sorted((*range(0, 365, 6), *range(3, 365, 6)))
PER_PARCEL = len(S2_DAYS) + len(S1_DAYS)
REGION, SEASON = "r1", "2025"

PARCELS = (
    "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')",
    "insert into regions (code) select 'r' || nr from generate_series(1, 20) nr",
    """insert into parcels (collection, season_key, source_id, region_key, area_ha, recorded_at)
       select 'bench', season_key, nr, region_key, 2, '2025-01-01' from seasons, generate_series(1, %(parcels)s) nr
       join regions on code = 'r' || 1 + nr %% 20""",
    """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
       select parcel_key, '2025-01-02', '2025-01-02', parcel_key / 20 % 15, 'crop ' || parcel_key / 20 % 15 from parcels""",
    """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
       values ('m', 'classifier', '{"classes": ["a", "b", "c", "d", "e", "f", "g", "h"]}', '{}', '{}', '{}', '', '2025-01-01')""",
)
SCENE = """
insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
select %(sensor)s::text || '_' || %(day)s, %(sensor)s::sensor, 'A', %(orbit)s, at, at + interval '6 hours', at + interval '7 hours'
from (select timestamptz '2025-01-01 10:30Z' + %(day)s * interval '1 day' as at) pass returning scene_key"""
S2_PASS = """
insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at, recorded_at, scene_key,
    clear_fraction, ndvi, ndvi_sd, nbr2, bsi, s2wi, b02, b03, b04, b05, b06, b07, b08, b8a, b11, b12)
select parcel_key, observed_at, relative_orbit, revision, false, 50, available_at, s.recorded_at + revision * interval '3 days', scene_key,
       0.9, case when (parcel_key * 7 + %(day)s / 5) %% 10 < 6 then 0.2 + (hashint8(parcel_key + %(day)s) & 1023) / 2000.0 end,
       0.1, 0.2, 0.1, 0.1, 0.03, 0.04, 0.05, 0.1, 0.2, 0.3, 0.3, 0.3, 0.2, 0.1
from scenes s, parcels, generate_series(0, (parcel_key %% 100 = 0)::int) revision where scene_key = %(scene)s"""
S1_PASS = """
insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at, recorded_at,
    scene_key, direction, radiometry, vv, vh, vv_sd, vh_sd)
select parcel_key, observed_at, relative_orbit, 0, false, 50, available_at, s.recorded_at, scene_key, 'ascending', 'gamma0', 0.1, 0.02,
       0.03, 0.01 from scenes s, parcels where scene_key = %(scene)s"""
PREDICTED = (
    """insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
       select parcel_key, '2025-01-01'::date + nr * interval '1 month', '2025-01-01'::date + (nr + 1) * interval '1 month', 1073741823, 0,
              1024, array_fill(0.5, array[31]), array_fill(0.03, array[31]) from generate_series(0, 11) nr, parcels""",
    """insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
       select parcel_key, at + interval '8 hours', at, model_key, 1, 0, 0, 0, array_fill(0.125, array[8])
       from generate_series(timestamptz '2025-01-03 10:30Z', '2025-12-31', interval '7 days') at, parcels, models""",
    """insert into scene_ledger select scene_key, 'stored', count(*) from s2_observations group by 1
       union all select scene_key, 'stored', count(*) from s1_observations group by 1""",
)
FILLED = ("parcels", "declarations", "scenes", "s2_observations", "s1_observations", "ndvi_months", "posteriors")

HISTORY = "select * from parcelwatch.parcel_history(%s, '2025-01-01', '2026-01-01')"
KNOWN = "select * from parcelwatch.parcel_history(%s, '2025-01-01', '2026-01-01', as_known_at => '2026-01-15')"
WEEKLY = """
select declared_crop_code, week, n_parcels, n_observations, mean_ndvi, sd_ndvi, median_ndvi from parcelwatch.weekly_ndvi
where season = %(season)s and region = %(region)s order by 1, 2"""
PLAIN = """
select crop_code, date_trunc('week', o.observed_at, 'UTC')::date, count(distinct parcel_key), count(*), avg(ndvi::float8),
       stddev_samp(ndvi::float8), percentile_cont(0.5) within group (order by ndvi)
from plain.parcels join plain.regions using (region_key) join plain.seasons using (season_key) join plain.declarations using (parcel_key)
join plain.s2_observations o using (parcel_key)
where code = %(region)s and name = %(season)s and ndvi is not null and not is_withdrawn and not exists (
    select from plain.s2_observations later where (later.parcel_key, later.observed_at, later.relative_orbit)
        = (o.parcel_key, o.observed_at, o.relative_orbit) and later.revision > o.revision)
group by 1, 2 order by 1, 2"""
PLAIN_TABLES = ("regions", "seasons", "parcels", "declarations", "s2_observations")


def timed(connection: Any, statement: str, given: Any) -> tuple[float, Rows]:
    """Return milliseconds until the last row of an answer is here, and the rows."""
    begun = time.perf_counter()
    rows = connection.execute(statement.encode(), given).fetchall()
    return 1e3 * (time.perf_counter() - begun), rows


def cpu_s(pid: int) -> float:
    """Return seconds of processor time that a process of this machine has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Store:
    """A filled database, and what was measured in it."""

    n_rows: int
    dsn: str
    reader: Any
    parcels: list[int]
    """Parcels to ask about, each once."""
    fill_s: float
    roll_up_us: float
    """Of each Sentinel-2 observation."""
    history_cpu_s: float = 0.0
    """Of the server, for all histories."""
    now_ms: list[float] = field(default_factory=list)
    known_ms: list[float] = field(default_factory=list)
    weekly_ms: list[float] = field(default_factory=list)
    history_rows: int = 0

    @property
    def history_cpu_ms(self) -> float:
        """Milliseconds of the server's processor time a history."""
        return 1e3 * self.history_cpu_s / (len(self.now_ms) + len(self.known_ms))

    def measure_round(self, nr: int, n_parcels: int) -> None:
        """Ask for the history of some parcels, of each either now or as known at a time, and for the region's weeks."""
        before = cpu_s(self.reader.info.backend_pid)
        for place, key in enumerate(self.parcels[nr * n_parcels : (nr + 1) * n_parcels]):
            times, statement = ((self.now_ms, HISTORY), (self.known_ms, KNOWN))[place % 2]
            took, rows = timed(self.reader, statement, [key])
            times.append(took)
            self.history_rows = len(rows)
        self.history_cpu_s += cpu_s(self.reader.info.backend_pid) - before
        self.weekly_ms.append(timed(self.reader, WEEKLY, {"season": SEASON, "region": REGION})[0])


def filled(servers: Stack, n_rows: int, n_asked: int) -> Store:
    """Return a new database with about so many observations, rolled up, and parcels drawn from it."""
    dsn = fresh_database(servers.dsn, f"queries_{n_rows}")
    upgrade(dsn)
    begun = time.perf_counter()
    with connect(dsn, autocommit=True) as owner:
        for statement in PARCELS:
            owner.execute(statement.encode(), {"parcels": n_rows // PER_PARCEL} if "%(" in statement else None)
        owner.execute("analyze parcels")
        for day in range(365):
            for sensor, days, orbit, statement in (("S2", S2_DAYS, 8, S2_PASS), ("S1", S1_DAYS, 88, S1_PASS)):
                if day in days:
                    given = {"sensor": sensor, "day": day, "orbit": orbit + (day % 6 if sensor == "S1" else 0)}
                    scene = owner.execute(SCENE.encode(), given).fetchall()[0][0]
                    owner.execute(statement.encode(), {"day": day, "scene": scene})
        for statement in PREDICTED:
            owner.execute(statement.encode())
        for table in FILLED:
            owner.execute(f"vacuum analyze {table}".encode())
        fill_s, begun = time.perf_counter() - begun, time.perf_counter()
        roll_up_weeks(dsn)
        rolled_s = time.perf_counter() - begun
        n_s1, n_s2 = (
            owner.execute(
                "select sum(parcels)::bigint from scene_ledger join scenes using (scene_key) where sensor = %s", [one]
            ).fetchall()[0][0]
            for one in ("S1", "S2")
        )
        keys = [key for (key,) in owner.execute("select parcel_key from parcels").fetchall()]
    drawn = random.Random(1).sample(keys, min(n_asked, len(keys)))
    reader = connect(add_login(dsn, "reader", f"bench_{secrets.token_hex(6)}", secrets.token_hex(12)), autocommit=True)
    return Store(n_s1 + n_s2, dsn, reader, drawn, fill_s, 1e6 * rolled_s / n_s2)


def plain_ms(store: Store, rounds: int) -> list[float]:
    """Return milliseconds of the region's weeks from plain tables; raise AssertionError where the answer is another."""
    given = {"season": SEASON, "region": REGION}
    rolled = timed(store.reader, WEEKLY, given)[1]
    with connect(store.dsn, autocommit=True) as owner:
        owner.execute("create schema plain")
        for table in PLAIN_TABLES:
            owner.execute(f"create table plain.{table} (like public.{table} including indexes)".encode())
            owner.execute(f"insert into plain.{table} select * from public.{table}".encode())
            owner.execute(f"vacuum analyze plain.{table}".encode())
        answers = [timed(owner, PLAIN, given) for _ in range(rounds)]
    for got, computed in zip(rolled, answers[0][1], strict=True):
        assert got[:4] == computed[:4], f"{got} is not {computed}"
        assert all(abs(a - b) < 1e-6 for a, b in zip(got[4:], computed[4:], strict=True)), f"{got} is not {computed}"
    return [took for took, _ in answers]


def tuned(home: Path) -> Stack:
    """Return a stack whose database server has a quarter of the memory for its buffers, as the image of docker-compose.yml takes."""
    quarter_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**22
    with connect(up(home, os.environ, quietly, fast=True).dsn, autocommit=True) as owner:
        owner.execute(f"alter system set shared_buffers = '{quarter_mb}MB'".encode())
    down(home)
    return up(home, os.environ, quietly, fast=True)


def quietly(_what: str, _share: float | None) -> None:
    """Say nothing of what is being started."""


def sizes(text: str) -> list[int]:
    """Return what `--rows` names, the fewest first."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 100 * PER_PARCEL:
        raise typer.BadParameter(f"numbers of {100 * PER_PARCEL:,} or more, separated by commas")
    return found


def figures(stores: Sequence[Store], plain: Sequence[float]) -> dict[str, Any]:
    """Return what is reported: of the largest store, and how it compares with the smallest."""
    first, last = stores[0], stores[-1]
    return {
        "rows": last.n_rows,
        "history_rows": last.history_rows,
        "history_p95_ms": round(quantiles(last.now_ms, n=20)[-1], 2),
        "history_median_ms": round(median(last.now_ms), 2),
        "known_over_now": round(median(last.known_ms) / median(last.now_ms), 2),
        "history_cpu_ms": round(last.history_cpu_ms, 2),
        "growth": round(median(last.now_ms) / median(first.now_ms), 2),
        "growth_cpu": round(last.history_cpu_ms / first.history_cpu_ms, 2),
        "aggregate_ms": round(median(last.weekly_ms), 2),
        "aggregate_plain_ms": round(median(plain), 1),
        "aggregate_speedup": round(median(plain) / median(last.weekly_ms), 1),
        "roll_up_us": round(last.roll_up_us, 2),
        "by_rows": {
            one.n_rows: {
                "history_p95_ms": round(quantiles(one.now_ms, n=20)[-1], 2),
                "history_median_ms": round(median(one.now_ms), 2),
                "history_cpu_ms": round(one.history_cpu_ms, 2),
                "aggregate_ms": round(median(one.weekly_ms), 2),
                "fill_s": round(one.fill_s),
            }
            for one in stores
        },
    }


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    rows: Annotated[str, typer.Option(help="Observations stored, one number or several.")] = "1000000,20000000",
    parcels: Annotated[int, typer.Option(min=20, help="Parcels asked about in a round.")] = 300,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    wanted = sizes(rows)
    with temporary_home() as home:
        servers = tuned(home)
        stores = [filled(servers, number, rounds * parcels) for number in wanted]
        for nr in range(rounds):
            for one in stores:
                one.measure_round(nr, parcels)
        found = figures(stores, plain_ms(stores[-1], min(rounds, 3)))
        for one in stores:
            one.reader.close()
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("what", "figure")
    for what, figure in found.items():
        if what != "by_rows":
            table.add_row(what, f"{figure:,}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
