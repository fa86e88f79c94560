"""How the crops stand: what a leader keeps up to date is what it would compute from all that is stored."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import crop_progress as store
from db import observations
from db.connect import Connection, engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import Season, ensure_season
from ingest.stream.schemas import S2
from monitor import crop_progress
from monitor.alerts.settings import RuleSettings
from monitor.season_views import LeaderMemory
from tests.one_group import neighbours_of

STARTS, ENDS = date(2025, 1, 1), date(2025, 12, 31)
SETTINGS = RuleSettings(neighbours_min=3)
N_PARCELS = 60


@pytest.fixture
def season(dsn: str) -> Iterator[Season]:
    with engine(dsn).begin() as connection:
        stored = ensure_season(connection, "2025", STARTS, ENDS)
        declare(connection, stored, [str(nr % 3) for nr in range(N_PARCELS)], datetime(2025, 1, 1, tzinfo=UTC))
    yield stored
    engine(dsn).dispose()


def declare(connection: Connection, season: Season, crops: list[str], now: datetime) -> None:
    rows = [
        ParcelRow(f"p{nr}", f"r{nr % 2}", None, 1.0, 400.0, 0.9, None, crop, f"crop {crop}")
        for nr, crop in enumerate(crops)
    ]
    upsert_parcels(connection, "test", season, rows, now, now)


def arrive(
    connection: Connection, keys: list[int], day: int, orbit: int, revision: int, ndvi: list[float | None]
) -> None:
    observed = datetime(2025, 1, 1, 10, orbit, tzinfo=UTC) + timedelta(days=day)
    rows = [
        dict.fromkeys(S2.arrow.names)
        | {
            "collection": "test",
            "season": "2025",
            "parcel_id": str(key),
            "observed_at": observed,
            "available_at": observed,
            "scene_id": f"{day}-{orbit}-{revision}",
            "platform": "S2A",
            "relative_orbit": orbit,
            "revision": revision,
            "is_withdrawn": value is None,
            "NDVI": value,
            "n_clear": 0 if value is None else 20,
        }
        for key, value in zip(keys, ndvi, strict=True)
    ]
    now = datetime(2025, 12, 1, tzinfo=UTC)
    observations.insert(connection, "S2", pa.Table.from_pylist(rows, schema=S2.arrow), np.array(keys), now)


def views_of_groups(connection: Connection) -> dict[tuple[str, str], list[Any]]:
    """Return all current views."""
    rows = connection.execute(
        sa.text("""select r.code, d.crop_code, p.parcel_key, o.observed_at, o.ndvi from parcels p join regions r using (region_key)
                   cross join lateral declaration_known(p.parcel_key) d cross join lateral (
                       select distinct on (observed_at, relative_orbit) * from s2_observations
                       where parcel_key = p.parcel_key order by observed_at, relative_orbit, revision desc) o
                   where not is_withdrawn and ndvi is not null""")
    ).all()
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.code, row.crop_code), []).append(row)
    return groups


def bands_anew(members: list[Any], until: date) -> Any:
    """The quartiles of a group by dekad, three days after its end, in hundredths."""
    best = dict[tuple[int, int], float]()
    for row in members:
        day = row.observed_at.date()
        cell = 3 * (day.month - 1) + min((day.day - 1) // 10, 2), row.parcel_key
        best[cell] = max(best.get(cell, -1), row.ndvi)
    last = until - timedelta(days=3)
    found = np.full((3, 3 * (last.month - 1) + min((last.day - 1) // 10, 2) if last >= STARTS else 0), np.nan)
    for dekad in range(found.shape[1]):
        values = [round(ndvi, 4) for (of, _), ndvi in best.items() if of == dekad]
        if len(values) >= SETTINGS.neighbours_min:
            found[:, dekad] = np.round(np.quantile(values, [0.25, 0.5, 0.75]), 2)
    return found


def computed_anew(groups: dict[tuple[str, str], list[Any]], until: date) -> dict[tuple[str, str], Any]:
    """How each group stands by all current views."""
    return {
        group: neighbours_of(
            np.array([row.parcel_key for row in members]),
            np.array([row.observed_at.date() for row in members], "M8[D]"),
            np.array([row.ndvi for row in members], np.float32),
            STARTS,
            until,
            SETTINGS,
        )
        for group, members in groups.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_progress_kept_up_to_date_is_that_computed_anew(dsn: str, season: Season, seed: int) -> None:
    random, memory = np.random.default_rng(seed), LeaderMemory()
    crops = [str(nr % 3) for nr in range(N_PARCELS)]
    with engine(dsn).begin() as connection:
        keys = np.array(
            connection.execute(sa.text("select parcel_key from parcels order by source_id")).scalars().all()
        )
        stored: list[tuple[int, int]] = []
        for nr, day in enumerate(range(0, 200, 5)):
            for orbit in {8, int(random.choice([8, 51]))}:
                some = keys[random.random(N_PARCELS) < 0.5]
                ndvi = (random.random(len(some)) * (0.9 if 60 < day < 150 else 0.4)).tolist()
                arrive(connection, some.tolist(), day, orbit, 0, ndvi)
                stored.append((day, orbit))
            if nr % 4 == 2:  # late: other values, or withdrawn
                then, orbit = stored[random.integers(len(stored))]
                some = keys[random.random(N_PARCELS) < 0.1]
                late = [None if random.random() < 0.5 else float(random.random()) for _ in some]
                arrive(connection, some.tolist(), then, orbit, nr, late)
            if nr == 20:
                crops[7] = "2"
                declare(connection, season, crops, datetime(2025, 4, 1, tzinfo=UTC))
            if random.random() < 0.3:
                continue
            now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day + int(random.integers(0, 3)))
            crop_progress.refresh(connection, season, "test", SETTINGS, now, memory)
            kept = store.load(connection, season.season_key, "test")
            members = views_of_groups(connection)
            anew = computed_anew(members, now.date())
            assert kept.keys() == anew.keys()
            for group, row in kept.items():
                assert row.n_parcels == anew[group].n
                np.testing.assert_array_equal(row.standing_share, anew[group].standing_share)
                np.testing.assert_array_equal(row.median_ndvi, anew[group].median_ndvi)
                np.testing.assert_allclose(row.band, bands_anew(members[group], now.date()), atol=1e-6)


def test_new_views_are_read_by_index_and_no_others(dsn: str) -> None:
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("""insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                                                    available_at, recorded_at, scene_key, ndvi)
                       select parcel_key, day, 8, 0, false, 20, day, day, 1, 0.5
                       from generate_series(1, 3000) parcel_key,
                            generate_series(timestamptz '2025-01-01 10:00Z', '2025-12-31', '3 days') day""")
        )
        connection.execute(sa.text("analyze s2_observations"))
        keys = list(range(1, 3001, 10))
        given = (STARTS, keys, STARTS + timedelta(days=300), ENDS)
        plan = connection.exec_driver_sql(f"explain (analyze, format json) {store.CLEAR_VIEWS}", given).scalar_one()
    read, n_rows = rows_read(plan, "_hyper")
    assert read <= {"Index Scan", "Bitmap Heap Scan"}
    assert 0 < n_rows <= len(keys) * 22 * 1.05  # of 122 views of each parcel, those since day 300


def explained(connection: Connection, ask: Callable[[], object]) -> Any:
    """Run the one statement of a question again and return its plan."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, text: str, given: Any, *_: Any) -> None:
        asked.append((text, given))

    sa.event.listen(connection, "before_cursor_execute", listen)
    ask()
    sa.event.remove(connection, "before_cursor_execute", listen)
    ((text, given),) = asked
    return connection.exec_driver_sql(f"explain (analyze, format json) {text}", given).scalar_one()


def test_parcels_seen_on_a_day_are_found_by_the_day(dsn: str, season: Season) -> None:
    with engine(dsn).begin() as connection:
        n = 2000
        declare(connection, season, [str(nr % 3) for nr in range(n)], datetime(2025, 1, 2, tzinfo=UTC))
        connection.execute(
            sa.text("""insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                                                    available_at, recorded_at, scene_key, ndvi)
                       select parcel_key, day, 8, 0, false, 20, day, day, 1, case when parcel_key % 2 = 0 then 0.5 end
                       from generate_series(timestamptz '2025-06-01 10:00Z', '2025-06-20 10:00Z', '1 day') day, parcels
                       order by day""")
        )
        connection.execute(
            sa.text("""select brin_summarize_new_values(indexrelid) from pg_index
                       where indrelid in (select show_chunks('s2_observations'))
                         and indexrelid in (select c.oid from pg_class c join pg_am on pg_am.oid = relam where amname = 'brin')""")
        )
        for table in ("s2_observations", "parcels"):
            connection.execute(sa.text(f"analyze {table}"))
        day, found = date(2025, 6, 17), list[int]()
        plan = explained(
            connection, lambda: found.extend(store.parcels_viewed(connection, season.season_key, "test", day, day))
        )
    assert len(found) == n / 2
    assert all(key % 2 == 0 for key in found)
    chunks = [node for node in scans(plan[0]["Plan"]) if node.get("Relation Name", "").startswith("_hyper")]
    passed_over = sum(node.get("Rows Removed by Index Recheck", 0) for node in chunks)
    assert {node["Node Type"] for node in chunks} == {"Bitmap Heap Scan"}
    assert passed_over <= 2 * n  # of the other 19 days, those on the same pages


def test_parcels_of_groups_are_looked_up_in_them(dsn: str, season: Season) -> None:
    with engine(dsn).begin() as connection:
        crops = [str(nr % 40) for nr in range(4000)]
        declare(connection, season, crops, datetime(2025, 2, 1, tzinfo=UTC))
        crops[6] = "9"
        declare(connection, season, crops, datetime(2025, 3, 1, tzinfo=UTC))
        connection.execute(sa.text("analyze parcels"))
        connection.execute(sa.text("analyze declarations"))
        keys: dict[str, int] = dict(connection.execute(sa.text("select source_id, parcel_key from parcels")).all())
        regions: dict[str, int] = dict(connection.execute(sa.text("select code, region_key from regions")).all())
        found: list[int] = []
        groups = [(regions["r0"], "6"), (regions["r1"], "9"), (regions["r0"], "9")]
        some = store.parcels_of(connection, season.season_key, "test", groups)
        groups = [(key, str(crop)) for key in regions.values() for crop in range(40)]
        plan = explained(
            connection, lambda: found.extend(store.parcels_of(connection, season.season_key, "test", groups))
        )
    wanted = [nr for nr, crop in enumerate(crops) if (nr % 2, crop) in {(0, "6"), (1, "9"), (0, "9")}]
    assert sorted(some) == sorted(keys[f"p{nr}"] for nr in wanted)
    assert 6 in wanted
    assert len(found) == len(crops)
    assert "Rows Removed by Join Filter" not in json.dumps(plan)


@pytest.mark.parametrize(
    ("ask", "most_rows"), [(store.load, 2 * 300 + 2), (store.version, 4), (store.last_computed, 301)]
)
def test_the_newest_progress_is_read_past_all_older(
    dsn: str, season: Season, ask: Callable[[Connection, int, str], object], most_rows: int
) -> None:
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("""insert into crop_progress (season_key, collection, region_key, crop_code, recorded_at, n_parcels,
                                                  first_day, standing_share, median_ndvi, n_observations)
                       select :season_key, 'test', 1, crop, day, 20, '2025-01-01', '{1,NaN}', '{0.5,NaN}', 7
                       from generate_series(1, 300) crop, generate_series(timestamptz '2025-01-01', '2025-04-10', '1 day') day"""),
            {"season_key": season.season_key},
        )
        connection.execute(sa.text("analyze crop_progress"))
        asked: list[tuple[str, Any]] = []
        sa.event.listen(
            connection, "before_cursor_execute", lambda _c, _cursor, text, given, *_: asked.append((text, given))
        )
        assert ask(connection, season.season_key, "test")
        ((text, given),) = asked
        plan = connection.exec_driver_sql(f"explain (analyze, format json) {text}", given).scalar_one()
    read, n_rows = rows_read(plan, "crop_progress")
    assert read <= {"Index Scan", "Index Only Scan"}
    assert 0 < n_rows <= most_rows  # of 30,000


def rows_read(plan: Any, table: str) -> tuple[set[str], float]:
    """Return how tables whose name begins so are read, and how many rows."""
    nodes = list(scans((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]))
    read = [node for node in nodes if node.get("Relation Name", "").startswith(table)]
    n_rows = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in read)
    return {node["Node Type"] for node in read}, n_rows


def scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", []):
        yield from scans(inner)
