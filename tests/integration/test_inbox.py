"""The inbox: what comes first, in which group's harvest its proof goes, and at the size of a country."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import crop_progress
from db.connect import engine
from db.crop_progress import ProgressRow
from db.history import AlertFilter
from monitor.alerts.inbox import inbox_of, rows_of
from tests.lights import DAY, START, add_alert, add_parcels

Run = Callable[..., list[dict[str, Any]]]
JULY = datetime(2025, 7, 10, 12, tzinfo=UTC)


@pytest.fixture
def connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Connection]:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with engine(dsn).connect() as opened:
        yield opened


@pytest.fixture
def run() -> Run:
    def listed(*words: str) -> list[dict[str, Any]]:
        said = CliRunner().invoke(parcelwatch.app, ["alerts", "--json", *words], catch_exceptions=False)
        return [json.loads(line) for line in said.output.splitlines()]

    return listed


def add_progress(connection: sa.Connection, season: str, crop: str, falls: date, until: date) -> None:
    """Store how a crop stood in a season: all of it to one day, none after, as known on another."""
    found = connection.execute(
        sa.text("select season_key, starts_on, region_key from seasons, regions where name = :name"), {"name": season}
    ).one()
    days = np.arange((until - found.starts_on).days + 1)
    share = np.where(days < (falls - found.starts_on).days, 0.98, 0.02).astype(np.float32)
    row = ProgressRow(found.region_key, crop, 50, found.starts_on, share, share)
    crop_progress.save(connection, found.season_key, "nl", [row], 1, datetime.combine(until, datetime.min.time(), UTC))


@pytest.fixture
def season(connection: sa.Connection) -> sa.Connection:
    """Five fields with an alert each: wheat, harvested from 20 July last season; barley, harvested by now; beet, of unknown harvest."""
    add_parcels(
        connection, {"wheat small": "wheat", "wheat": "wheat", "barley": "barley", "beet": "beet", "gone": "wheat"}
    )
    connection.execute(
        sa.text("""update parcels set area_ha = size from (values ('wheat small', 0.5), ('wheat', 2), ('barley', 9), ('beet', 5),
                   ('gone', 8)) s (id, size) where source_id = id""")
    )
    connection.execute(
        sa.text("insert into seasons (name, starts_on, ends_on) values ('2024', '2024-01-01', '2024-12-31')")
    )
    connection.execute(
        sa.text("""insert into parcels (collection, season_key, source_id, region_key, recorded_at)
                   select 'nl', season_key, 'p', region_key, :at from seasons, regions where name = '2024'"""),
        {"at": START},
    )
    add_progress(connection, "2024", "wheat", date(2024, 7, 20), date(2024, 12, 31))
    add_progress(connection, "2025", "wheat", date(2025, 12, 31), date(2025, 7, 10))
    add_progress(connection, "2025", "barley", date(2025, 7, 1), date(2025, 7, 10))
    for nr, name in enumerate(("wheat small", "wheat", "barley", "beet")):
        add_alert(connection, name, "crop_mismatch", START + nr * DAY)
    connection.commit()
    return connection


@pytest.mark.usefixtures("season")
def test_proofs_that_are_about_to_go_come_first(run: Run) -> None:
    listed = run("--as-known-at", JULY.isoformat())
    of = {one["source_id"]: (one["expected_ha"], one["days_left"]) for one in listed}
    # 2024 is a leap year: the 202nd day of a season is 21 July in 2025.
    assert of == {
        "wheat": (pytest.approx(1.8), 11),
        "beet": (pytest.approx(4.5), None),
        "wheat small": (pytest.approx(0.45), 11),
        "barley": (pytest.approx(8.1), -9),
    }
    assert [one["source_id"] for one in listed] == list(of)
    assert [one["source_id"] for one in run("--as-known-at", "2025-06-01", "--limit", "2")] == ["barley", "beet"]
    assert [one["source_id"] for one in run("--as-known-at", "2025-06-01", "--limit", "2", "--page", "2")] == [
        "wheat",
        "wheat small",
    ]
    shown = CliRunner().invoke(parcelwatch.app, ["alerts", "--as-known-at", JULY.isoformat()]).output
    assert "gone 9 days" in shown
    assert "unknown" in shown


def test_what_departed_after_the_harvest_is_not_lost_with_it(season: sa.Connection, run: Run) -> None:
    add_alert(season, "gone", "winter_cover", datetime(2025, 7, 21, tzinfo=UTC))
    season.commit()
    late = {one["source_id"]: one["days_left"] for one in run("--as-known-at", "2025-07-25")}
    assert late["gone"] is None
    assert late["wheat"] == 0  # later than last season: the neighbours were seen to stand


def test_grass_is_not_harvested(season: sa.Connection, run: Run) -> None:
    season.execute(sa.text("update declarations set hcat_code = '3302000000' where crop_code = 'wheat'"))
    season.commit()
    assert {one["days_left"] for one in run("--as-known-at", JULY.isoformat()) if "wheat" in one["source_id"]} == {None}


N_OPEN, N_CLOSED = 100_000, 100_000


@pytest.fixture
def country(season: sa.Connection) -> sa.Connection:
    """A hundred thousand open alerts, and as many that are closed, of as many parcels of twenty crops in twenty regions."""
    for statement in (
        "insert into regions (code) select 'r' || nr from generate_series(1, 20) nr",
        """insert into parcels (collection, season_key, source_id, region_key, area_ha, recorded_at)
           select 'nl', season_key, 'c' || nr, region_key, nr % 97 / 10.0, :at
           from seasons, generate_series(1, :n) nr join regions on code = 'r' || 1 + nr % 20 where name = '2025'""",
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           select parcel_key, :at, :at, 'crop ' || parcel_key / 20 % 20, 'crop' from parcels where source_id like 'c%'""",
        """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at, closed_at)
           select parcel_key, 'early_loss', case when nr = 1 then 'open' else 'closed' end::alert_state,
                  (array['yellow', 'red'])[1 + parcel_key % 2]::colour, 0.5 + parcel_key % 50 / 100.0, '2025-05-01', :at,
                  case when nr > 1 then timestamptz :at end
           from parcels, generate_series(1, 1 + :closed / :n) nr where source_id like 'c%'""",
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
           select alert_key, :at, 'opened', colour, confidence, departed_on, '{}' from alerts""",
    ):
        season.execute(
            sa.text(statement.replace("timestamptz :at", "cast(:at as timestamptz)")),
            {"at": START, "n": N_OPEN, "closed": N_CLOSED},
        )
    regions = season.execute(sa.text("select region_key from regions where code <> 'r'")).scalars().all()
    share = np.full(190, 0.98, np.float32)
    rows = [ProgressRow(key, f"crop {nr}", 50, date(2025, 1, 1), share, share) for key in regions for nr in range(20)]
    (key,) = season.execute(sa.text("select season_key from seasons where name = '2025'")).one()
    crop_progress.save(season, key, "nl", rows, 1, JULY)
    for table in ("alerts", "alert_events", "parcels", "declarations", "crop_progress"):
        season.execute(sa.text(f"analyze {table}"))
    return season


def test_the_inbox_of_a_country(country: sa.Connection) -> None:
    """Neither closed alerts nor logs are read but those of the page."""
    asked: list[tuple[str, Any]] = []
    sa.event.listen(country, "before_cursor_execute", lambda _c, _cursor, text, given, *_: asked.append((text, given)))
    read_before, began = parcels_read(country), time.perf_counter()
    listed = inbox_of(country, AlertFilter(), None, JULY)
    assert parcels_read(country) - read_before < 5000  # one of each group, and no alert's: of 400 groups 804
    rows = rows_of(country, listed, range(50), None)
    assert time.perf_counter() - began < 5  # 0.1 s of two processes
    assert len(listed.alert_keys) == N_OPEN + 4
    assert len(rows) == 50
    yielded = [row.expected_ha for row in rows[1:]]
    assert rows[0].days_left == 11
    assert yielded == sorted(yielded, reverse=True)
    ((page, given),) = [one for one in asked if "alerts_recorded_by" in one[0]]
    plan = country.exec_driver_sql(f"explain (analyze, format json) {page}", given).scalar_one()
    read: dict[str, float] = {}
    for node in scans(plan[0]["Plan"]):
        n = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        read[node["Relation Name"]] = read.get(node["Relation Name"], 0) + n
    assert read["alerts"] == 50
    assert read["alert_events"] <= 50 * 4  # of each: the newest, and what changed its state


def parcels_read(connection: sa.Connection) -> int:
    """Return how many rows of parcels and declarations the transaction read so far."""
    read = """select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables
              where relname in ('parcels', 'declarations')"""
    return int(connection.execute(sa.text(read)).scalar_one())


def test_what_alerts_have_of_parcels_follows_them(season: sa.Connection) -> None:
    same = sa.text("""
        select count(*) filter (where (parcel_season_key, parcel_collection, parcel_region_key, parcel_area_ha, parcel_crop_code)
                                      is not distinct from (season_key, collection, region_key, area_ha, crop_code)
                                  and parcel_point is not distinct from ST_PointOnSurface(geom)),
               array_agg(distinct coalesce(parcel_crop_code, 'none')) from alerts join parcels p using (parcel_key)
        left join lateral (select crop_code from declarations d where d.parcel_key = p.parcel_key
                           order by recorded_at desc limit 1) d on true""")
    at = {"at": START + DAY, "before": START - DAY}
    assert season.execute(same).one() == (4, ["barley", "beet", "wheat"])
    season.execute(sa.text("insert into regions (code) values ('elsewhere')"))
    for change in (
        "update parcels set area_ha = area_ha * 2, geom = ST_Translate(geom, 1, 1)",
        "update parcels set region_key = (select region_key from regions where code = 'elsewhere'), geom = null where source_id = 'beet'",
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           select parcel_key, :at, :at, 'rye', 'rye' from parcels where source_id like 'wheat%'""",
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           select parcel_key, :before, :before, 'oats', 'oats' from parcels where source_id = 'barley'""",  # not the newest
        "update declarations set crop_code = 'corn' where crop_code = 'beet'",
    ):
        assert season.execute(sa.text(change), at).rowcount > 0
        assert season.execute(same).scalar_one() == 4
    assert season.execute(same).one() == (4, ["barley", "corn", "rye"])


def scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in node:
        yield node
    for inner in node.get("Plans", []):
        yield from scans(inner)
