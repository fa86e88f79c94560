"""What a parcel's page costs over HTTP, how many requests a second are answered, and whether the server's memory stays flat.

    python -m research.bench.api [--json] [--parcels 5000] [--requests 50000]

A season of both sensors is stored, with curve, posteriors, phenology and markers: some 190 observations a parcel. `parcelwatch serve`
runs as a process of its own with a login that may only take on the roles of people, and is asked as an inspector of one region of two.
`page_p95_ms` is all that the page of a parcel asks, over four connections at once as a browser does, of parcels drawn at random;
`tile_p95_ms` each map tile at zoom 13 that the parcels lie in, one after the other;
`requests_per_s` the same requests from eight connections that never wait. Memory is the server's resident set before and after.
The limit beside them: `reads_p95_ms`, the same rows read one after the other in Python, without HTTP.
"""

import http.client
import itertools
import json
import math
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.table import Table

from db import access
from db import parcel_reads as reads
from db.access import Principal
from db.connect import address_parts, connect, engine
from db.fresh import fresh_database
from db.migrate import upgrade
from db.parcel_reads import Span
from devstack.temporary import temporary_stack
from terminal.output import console
from web.principals import REMEMBERED_S, make_key
from web.routes.parcels import SERIES

SEASON = """
insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31');
insert into regions (code) values ('north'), ('south');
insert into parcels (collection, season_key, source_id, region_key, area_ha, recorded_at, geom)
    select 'bench', season_key, nr, region_key, 2, '2025-01-01',
           ST_Multi(ST_Buffer(ST_SetSRID(ST_MakePoint(5 + nr % 300 / 200.0, 52 + nr / 300 / 300.0), 4326), 0.001, 6))
    from seasons, generate_series(1, PARCELS) nr join regions on (code = 'north') = (nr % 2 = 0);
insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
    select parcel_key, '2025-01-02', '2025-01-02', parcel_key % 15, 'crop ' || parcel_key % 15 from parcels;
insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
    values ('m', 'classifier', '{"classes": ["a", "b", "c", "d", "e", "f", "g", "h"]}', '{}', '{}', '{}', '', '2025-01-01');
insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
    select sensor || day, sensor::sensor, 'A', 8, at, at + interval '6 hours', at + interval '7 hours'
    from (select 'S2' as sensor, day from generate_series(0, 364, 5) day
          union all select 'S1', day from generate_series(0, 364, 3) day) pass
    cross join lateral (select timestamptz '2025-01-01 10:30Z' + day * interval '1 day' as at) passed;
insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at, recorded_at, scene_key,
    clear_fraction, ndvi, ndvi_sd, nbr2, bsi, s2wi, b02, b03, b04, b05, b06, b07, b08, b8a, b11, b12)
    select parcel_key, observed_at, 8, 0, false, 50, available_at, s.recorded_at, scene_key, 0.9, 0.5, 0.1, 0.2, 0.1, 0.1, 0.03, 0.04,
           0.05, 0.1, 0.2, 0.3, 0.3, 0.3, 0.2, 0.1 from scenes s, parcels where sensor = 'S2';
insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at, recorded_at,
    scene_key, direction, radiometry, vv, vh, vv_sd, vh_sd)
    select parcel_key, observed_at, 8, 0, false, 50, available_at, s.recorded_at, scene_key, 'ascending', 'gamma0', 0.1, 0.02, 0.03, 0.01
    from scenes s, parcels where sensor = 'S1';
insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
    select parcel_key, '2025-01-01'::date + nr * interval '1 month', '2025-01-01'::date + (nr + 1) * interval '1 month', 1073741823,
           0, 1024, array_fill(0.5, array[31]), array_fill(0.03, array[31]) from generate_series(0, 11) nr, parcels;
insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
    select parcel_key, at + interval '8 hours', at, model_key, 1, 0, 0, 0, array_fill(0.125, array[8])
    from generate_series(timestamptz '2025-01-03 10:30Z', '2025-12-31', interval '3 days') at, parcels, models;
insert into phenology (parcel_key, recorded_at, outcome, sos, pos, eos, is_complete, measures, measures_sd)
    select parcel_key, '2025-10-01', 'OK', '2025-04-11', '2025-06-20', '2025-08-09', true, array_fill(100.0, array[13]),
           array_fill(2.5, array[13]) from parcels;
insert into markers (parcel_key, marker, recorded_at, version, status, value, day, confidence, evidence)
    select parcel_key, marker, '2025-10-01', '1', 'OK', 1, '2025-08-20', 0.85, '{}' from parcels,
           unnest(array['emergence', 'harvest', 'tillage']) marker;
insert into crop_progress (season_key, collection, region_key, crop_code, recorded_at, n_parcels, first_day, standing_share, median_ndvi)
    select season_key, 'bench', region_key, crop, '2025-10-01', 9, '2025-01-01', array_fill(0.5, array[270]), array_fill(0.4, array[270])
    from seasons, regions, generate_series(0, 14) crop;
vacuum analyze
"""
CONNECTIONS = 8
"""That never wait: more than the server has connections to the database would measure its queue alone."""


def filled(dsn: str, n_parcels: int) -> list[int]:
    """Fill a fresh database with a season; return the keys of the parcels that the inspector sees."""
    with connect(dsn, autocommit=True) as owner:
        for statement in SEASON.replace("PARCELS", str(n_parcels)).split(";\n"):
            owner.execute(statement.encode())
        seen = "select parcel_key from parcels join regions using (region_key) where code = 'north'"
        return [key for (key,) in owner.execute(seen.encode()).fetchall()]


def inspector(dsn: str) -> str:
    """Return the key of an inspector of one of the regions."""
    key_id, key, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, Principal("anna", "inspector"), "bench", now)
        access.grant_regions(connection, "anna", ["north"], "bench", now)
        access.add_key(connection, key_id, "anna", "bench", hashed, "bench", now, now + timedelta(days=1))
    return key


@contextmanager
def served(dsn: str) -> Iterator[tuple[str, int]]:
    """Run `parcelwatch serve` with a login of its own; yield its address and process."""
    login, password = f"bench_{secrets.token_hex(6)}", secrets.token_hex(12)
    with connect(dsn, autocommit=True) as owner:
        owner.execute(f"create role {login} login password '{password}' in role parcelwatch_web".encode())
        owner.execute(f"grant parcelwatch_inspector to {login} with inherit false".encode())
    own = {"user": login, "password": password}
    address = " ".join(f"{name}={value}" for name, value in (address_parts(dsn) | own).items())
    environ = os.environ | {"PARCELWATCH_WEB_DSN": address, "PARCELWATCH_WEB_REQUESTS_PER_MINUTE": str(10**9)}
    command = [sys.executable, "-m", "parcelwatch", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


class Client:
    """A connection of each thread to the server, kept open."""

    def __init__(self, address: str, key: str) -> None:
        self.place = urlsplit(address).netloc
        self.headers = {"Authorization": f"Bearer {key}"}
        self._own = threading.local()

    def get(self, path: str) -> int:
        """Return how many bytes a path answers; raises AssertionError for an error."""
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(self.place)
        self._own.connection.request("GET", path, headers=self.headers)
        answer = self._own.connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return len(body)


def page_of(key: int) -> list[str]:
    """Return what the page of a parcel asks for."""
    return [f"/api/parcels/{key}", *(f"/api/parcels/{key}/{name}" for name in SERIES if name != "history")]


def timed_pages(client: Client, keys: Sequence[int]) -> list[float]:
    """Return the milliseconds that each parcel's page takes."""
    took = []
    with ThreadPoolExecutor(4) as browser:
        for key in keys:
            begun = time.perf_counter()
            list(browser.map(client.get, page_of(key)))
            took.append(1e3 * (time.perf_counter() - begun))
    return took


def tiles(zoom: int = 13) -> list[str]:
    """Return the paths of the tiles that the parcels lie in: some 120 parcels each, half of them the inspector's."""

    def place(longitude: float, latitude: float) -> tuple[int, int]:
        north = math.asinh(math.tan(math.radians(latitude)))
        return int((longitude + 180) / 360 * 2**zoom), int((1 - north / math.pi) / 2 * 2**zoom)

    (west, north), (east, south) = place(5.0, 52.05), place(6.5, 52.0)
    each = itertools.product(range(west, east + 1), range(north, south + 1))
    return [f"/api/tiles/bench/2025/{zoom}/{x}/{y}.mvt" for x, y in each]


def timed_tiles(client: Client, paths: Sequence[str]) -> list[float]:
    """Return the milliseconds that each tile takes."""
    took = []
    for path in paths:
        begun = time.perf_counter()
        client.get(path)
        took.append(1e3 * (time.perf_counter() - begun))
    return took


def timed_reads(dsn: str, keys: Sequence[int]) -> list[float]:
    """Return the milliseconds that the rows of each parcel's page take in Python."""
    took, whole = [], Span()
    for key in keys:
        begun = time.perf_counter()
        with access.asking(engine(dsn), Principal("anna", "inspector")) as connection:
            its = reads.parcel(connection, key)
            assert its is not None
            for series in (reads.s2, reads.s1, reads.ndvi, reads.posteriors):
                assert series(connection, key, whole, 2000)
            reads.phenology(connection, key, None)
            reads.markers(connection, key, None)
            reads.crop_band(connection, its.collection, its.season, its.region, its.declared_crop_code or "")
        took.append(1e3 * (time.perf_counter() - begun))
    return took


def rate_of(client: Client, keys: Sequence[int], n_requests: int) -> float:
    """Return how many requests are answered a second, of so many."""
    per_page = len(page_of(0))
    pages = [page_of(key) for key in random.Random(2).choices(keys, k=-(-n_requests // per_page))]
    begun = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as clients:
        list(clients.map(lambda paths: [client.get(path) for path in paths], pages))
    return len(pages) * per_page / (time.perf_counter() - begun)


def memory_mb(pid: int) -> float:
    """Return the resident set of a process, by Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    parcels: Annotated[int, typer.Option(min=600)] = 5000,
    requests: Annotated[int, typer.Option(min=100)] = 50_000,
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    figures: dict[str, Any] = {"parcels": parcels, "requests": requests}
    with temporary_stack(os.environ, lambda _what, _share: None) as servers:
        dsn = fresh_database(servers.dsn, "api")
        upgrade(dsn)
        keys = filled(dsn, parcels)
        drawn = random.Random(1).sample(keys, 250)
        key = inspector(dsn)
        with served(dsn) as (address, pid):
            client = Client(address, key)
            timed_pages(client, drawn[:50])  # connections are made and plans are kept
            took = timed_pages(client, drawn[50:])
            figures |= {"page_p95_ms": round(quantiles(took, n=20)[-1], 1), "page_median_ms": round(median(took), 1)}
            timed_tiles(client, tiles())  # the state of the region is drawn up
            took = timed_tiles(client, 2 * tiles())
            figures |= {"tile_p95_ms": round(quantiles(took, n=20)[-1], 1), "tile_median_ms": round(median(took), 1)}
            figures["page_bytes"] = sum(map(client.get, page_of(drawn[0])))
            begun = time.monotonic()
            while (
                time.monotonic() - begun < REMEMBERED_S + 5
            ):  # the key is verified anew, whose memory the server keeps
                rate_of(client, keys, 1000)
            before = memory_mb(pid)
            figures["requests_per_s"] = round(rate_of(client, keys, requests), 1)
            after = memory_mb(pid)
            figures |= {"memory_mb": round(after), "memory_growth_mb": round(after - before, 1)}
        figures["reads_p95_ms"] = round(quantiles(timed_reads(dsn, drawn), n=20)[-1], 1)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    table = Table("what", "figure")
    for what, figure in figures.items():
        table.add_row(what, f"{figure:,}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
