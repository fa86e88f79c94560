"""The schema on a real server: up, down, up; as `db.tables` says; hot reads by index."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from db import history, migrate, tables, work
from db.connect import connect, engine

PARCELS, DATES = 400, 120
SEASON_START = datetime(2023, 3, 1, tzinfo=UTC)

SCHEMA = """
select 'relation', c.relkind::text, c.relname, coalesce(obj_description(c.oid, 'pg_class'), '')
from pg_class c where c.relnamespace = 'public'::regnamespace
union all
select 'column', c.relname, a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity)
from pg_attribute a join pg_class c on c.oid = attrelid
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and attnum > 0 and not attisdropped
union all
select 'index', tablename, indexname, indexdef from pg_indexes where schemaname = 'public'
union all
select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
from pg_constraint where connamespace = 'public'::regnamespace
union all
select 'function', proname, pg_get_function_identity_arguments(p.oid), coalesce(obj_description(p.oid, 'pg_proc'), '')
from pg_proc p left join pg_depend d on d.objid = p.oid and d.deptype = 'e'
where pronamespace = 'public'::regnamespace and d.objid is null
union all
select 'type', typname, typtype::text, coalesce((select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = t.oid), '')
from pg_type t left join pg_depend d on d.objid = t.oid and d.deptype = 'e'
where typnamespace = 'public'::regnamespace and typtype = 'e' and d.objid is null
union all
select 'hypertable', hypertable_name, column_name, time_interval::text from timescaledb_information.dimensions
order by 1, 2, 3, 4
"""  # noqa: E501

OURS = """
select relname from pg_class c left join pg_depend d on d.objid = c.oid and d.deptype = 'e'
where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'S') and d.objid is null order by 1
"""


def snapshot(dsn: str) -> list[tuple[object, ...]]:
    with connect(dsn) as connection:
        return connection.execute(SCHEMA.encode()).fetchall()


def test_up_down_up(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    first = snapshot(empty_dsn)
    assert {row[1] for row in first if row[0] == "hypertable"} == {
        "s2_observations",
        "s1_observations",
        "pixel_sets",
        "posteriors",
        "ndvi_months",
    }
    migrate.downgrade(empty_dsn, "base")
    with connect(empty_dsn) as connection:
        assert [name for (name,) in connection.execute(OURS)] == ["alembic_version"]
    migrate.upgrade(empty_dsn)
    assert snapshot(empty_dsn) == first


def test_one_step_at_a_time(empty_dsn: str) -> None:
    revisions = [
        "0001",
        "0002",
        "0003",
        "0004",
        "0005",
        "0006",
        "0007",
        "0009",
        "0010",
        "0012",
        "0013",
        "0011",
        "0014",
        "0015",
        "0016",
        "0017",
        "0018",
        "0019",
        "0020",
        "0022",
        "0024",
        "0027",
        "0025",
        "0032",
        "0030",
        "0028",
        "0029",
        "0037",
        "0038",
        "0039",
        "0036",
        "0040",
        "0041",
        "0042",
        "0044",
        "0045",
    ]
    seen = {}
    for revision in revisions:
        migrate.upgrade(empty_dsn, revision)
        seen[revision] = snapshot(empty_dsn)
    for revision in reversed(revisions[:-1]):
        migrate.downgrade(empty_dsn, revision)
        assert snapshot(empty_dsn) == seen[revision]


def test_the_log_of_alerts_keeps_what_is_stored(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn, "0015")
    with connect(empty_dsn) as connection:
        for statement in (
            "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')",
            "insert into regions (code) values ('r')",
            """insert into parcels (collection, season_key, source_id, region_key, recorded_at)
               select 'c', season_key, 'p', region_key, now() from seasons, regions""",
            """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
               select parcel_key, 'r', 'dismissed', 'red', 0.9, '2025-05-01', '2025-05-02' from parcels""",
            """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
               select alert_key, day::timestamptz, event, colour, 0.9, '{"decision": {"by": "anna"}}'
               from alerts, (values ('2025-05-03', 'dismissed'), ('2025-05-02', 'confirmed'), ('2025-05-02', 'opened')) e (day, event)""",
        ):
            connection.execute(statement.encode())
    migrate.upgrade(empty_dsn, "0017")
    with connect(empty_dsn) as connection:
        log = [row[0] for row in connection.execute("select event from alert_events order by recorded_at, event_nr")]
        assert log == ["opened", "confirmed", "dismissed"]
        known = connection.execute("select state::text, decided_by from alerts_known()").fetchall()
        assert known == [("dismissed", "anna")]
        connection.execute("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                              select alert_key, '2025-05-03', e, 'red', 0.9, '{}' from alerts, unnest(array['reopened', 'reviewed']) e""")
        connection.execute("update alerts set state = 'in_review'")
        assert connection.execute("select max(event_nr) from alert_events").fetchone() == (5,)
    migrate.downgrade(empty_dsn, "0015")
    with connect(empty_dsn) as connection:
        assert connection.execute("select state::text from alerts").fetchall() == [("acknowledged",)]
        assert connection.execute("select count(*) from alert_events").fetchone() == (3,)


REVISED_CURVE = """
insert into ndvi_daily
select parcel, timestamp '2025-01-20' + day * interval '1 day', case when day % 3 = 0 then 'causal' else 'retrospective' end::ndvi_mode,
       case when day % 5 = 0 then 'observed' else 'reconstructed' end::ndvi_origin,
       timestamptz '2025-03-01 06:00Z' + version * interval '1 day', (parcel + day + version) / 100.0, day / 1000.0, parcel
from generate_series(1, 3) parcel, generate_series(0, 6) version, generate_series(version * 4, version * 4 + 16) day
where day % 7 <> 6
"""  # 17 days, of them some never, in each of 7 versions, across two ends of months


def test_curves_are_the_same_by_day_and_by_month(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn, "0013")
    with connect(empty_dsn) as connection:
        connection.execute(REVISED_CURVE.encode())
    seen = [read_curves(empty_dsn)]
    for change, revision in ((migrate.upgrade, "0011"), (migrate.downgrade, "0013"), (migrate.upgrade, "0011")):
        change(empty_dsn, revision)
        seen.append(read_curves(empty_dsn))
    assert len(seen[0]["select * from ndvi_daily"]) > 300
    assert seen[1:] == seen[:1] * 3
    with connect(empty_dsn) as connection:
        newest = connection.execute("""
            select (month + nr - 1)::date, ndvi[nr] from (select distinct on (month) * from ndvi_months where parcel_key = 2
            order by month, recorded_at desc) version cross join generate_series(1, 31) nr where ndvi[nr] <> 'NaN' order by 1""")
        days = connection.execute("select day, ndvi from ndvi_known(2, '2025-01-01', '2026-01-01')")
        assert newest.fetchall() == days.fetchall()


def read_curves(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    queries = ["select * from ndvi_daily", "select * from ndvi_known(2, '-infinity', 'infinity')"]
    for at in ("2025-03-01 05:59:59Z", "2025-03-03 06:00Z", "2025-03-05 12:00Z", "2025-04-01 00:00Z"):
        queries += [
            f"select * from ndvi_known({parcel}, '2025-01-25', '2025-02-19', '{at}')" for parcel in (1, 2, 3, 4)
        ]
    with connect(dsn) as connection:
        return {query: sorted(connection.execute(query.encode()), key=str) for query in queries}


def test_up_twice_is_up_once(dsn: str) -> None:
    before = snapshot(dsn)
    migrate.upgrade(dsn)
    assert snapshot(dsn) == before


def test_every_function_and_view_says_what_it_is(dsn: str) -> None:
    described = [row for row in snapshot(dsn) if row[0] == "function" or row[:2] == ("relation", "v")]
    ours = [row for row in described if row[2] not in ("geography_columns", "geometry_columns")]
    assert {"parcel_history", "s2_known"} <= {row[1] for row in ours}
    assert [row for row in ours if not row[3]] == []


def test_tables_are_as_db_tables_says(dsn: str) -> None:
    with connect(dsn) as connection:
        found: dict[str, dict[str, str]] = {}
        for table, column, kind in connection.execute("""
            select relname, attname, format_type(atttypid, atttypmod)
            from pg_attribute join pg_class c on c.oid = attrelid
            where relnamespace = 'public'::regnamespace and relkind = 'r' and attnum > 0 and not attisdropped
            order by relname, attnum"""):
            found.setdefault(table, {})[column] = kind
    for table in ("spatial_ref_sys", "alembic_version"):
        del found[table]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    spoken = {"timestamp with time zone": "timestamptz"}
    said = {
        name: {column.name: str(column.type.compile(dialect=dialect)).lower() for column in table.columns}
        for name, table in tables.metadata.tables.items()
    }
    assert said.keys() == found.keys()
    for name, columns in found.items():
        geometries = {column for column, kind in columns.items() if kind.startswith("geometry")}
        real = {column: spoken.get(kind, kind) for column, kind in columns.items() if column not in geometries}
        assert {column: spoken.get(kind, kind) for column, kind in said[name].items()} == real, name
        assert list(said[name]) == list(real), f"{name}: order of columns"


@pytest.fixture
def connection(dsn: str) -> Iterator[sa.Connection]:
    with engine(dsn).begin() as opened:
        yield opened


@pytest.fixture(scope="module")
def season_dsn(shared_dsn: str) -> str:
    """A region's season: each parcel seen every other day, an NDVI for each day, a posterior a week."""
    with engine(shared_dsn).begin() as connection:
        where = {"parcels": PARCELS, "dates": DATES, "start": SEASON_START}
        for statement in (
            """insert into seasons (name, starts_on, ends_on) values ('2023', '2023-01-01', '2023-12-31')""",
            """insert into regions (code) values ('r')""",
            """insert into parcels (collection, season_key, source_id, region_key, recorded_at)
               select 'c', season_key, 'p' || nr, region_key, :start
               from seasons, regions, generate_series(1, :parcels) nr""",
            """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
               values ('m', 'classifier', '{"classes": ["wheat", "maize"]}', '{}', '{}', '{}', '', :start)""",
            """insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                   available_at, recorded_at, scene_key, ndvi)
               select parcel_key, at, 8, 0, false, 50, at, at + interval '6 hours', 1, 0.5
               from generate_series(0, :dates - 1) nr, parcels, lateral (select :start + nr * interval '2 days' as at)""",
            """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels,
                   available_at, recorded_at, scene_key, direction, radiometry, vv, vh)
               select parcel_key, observed_at, 88, 0, false, 50, available_at, recorded_at, 1, 'ascending', 'sigma0', 0.1,
                      0.01
               from s2_observations""",
            """insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
               select parcel_key, date_trunc('month', observed_at), recorded_at, bit, bit, bit, array_fill(ndvi, array[31]),
                      array_fill(0.03, array[31])
               from s2_observations, lateral (select 1 << extract(day from observed_at)::int - 1 as bit) day""",
            """insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1,
                   probabilities)
               select parcel_key, s2.recorded_at, observed_at, model_key, 1, 0, 0, 0, array[0.3, 0.7]
               from s2_observations s2, models where extract(day from observed_at)::int % 7 = 0""",
        ):
            connection.execute(sa.text(statement), where)
        for table in ("s2_observations", "s1_observations", "ndvi_months", "posteriors", "parcels"):
            connection.execute(sa.text(f"analyze {table}"))
    return shared_dsn


@pytest.fixture
def season_of_rows(season_dsn: str) -> Iterator[sa.Connection]:
    """The season, in a transaction that is taken back."""
    with engine(season_dsn).connect() as opened:
        yield opened


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read a table and were run."""
    if "Relation Name" in plan and plan.get("Actual Loops", 1) > 0:
        yield plan
    for child in plan.get("Plans", []):
        yield from scans(child)


@pytest.mark.parametrize(
    ("query", "table", "most_rows"),
    [
        ("select * from s2_known(:parcel, '2023-03-01', '2023-12-01')", "s2_observations", DATES),
        ("select * from s2_recorded_by(:parcel, '2023-03-01', '2023-12-01', '2023-06-01')", "s2_observations", DATES),
        ("select * from s1_known(:parcel, '2023-03-01', '2023-12-01')", "s1_observations", DATES),
        ("select * from ndvi_known(:parcel, '2023-03-01', '2023-12-01')", "ndvi_months", DATES),
        ("select * from daily_ndvi where parcel_key = :parcel", "ndvi_months", DATES),
        ("select * from latest_posteriors where parcel_key = :parcel", "posteriors", DATES),
    ],
)
def test_a_parcels_season_is_read_by_its_key(
    query: str, table: str, most_rows: int, season_of_rows: sa.Connection
) -> None:
    parcel = season_of_rows.execute(sa.text("select min(parcel_key) + 100 from parcels")).scalar_one()
    assert len(season_of_rows.execute(sa.text(query), {"parcel": parcel}).all()) > 0
    (explained,) = season_of_rows.execute(sa.text(f"explain (analyze, format json) {query}"), {"parcel": parcel}).one()
    plan = explained[0] if isinstance(explained, list) else json.loads(explained)[0]
    chunks = [node for node in scans(plan["Plan"]) if node["Relation Name"].startswith("_hyper")]
    assert chunks, "no chunk was read"
    assert {node["Node Type"] for node in chunks} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, table
    assert all(f"{table}_pkey" in node.get("Index Name", f"{table}_pkey") for node in chunks)
    removed = sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in chunks)
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in chunks) + removed
    assert read <= most_rows, "reads other parcels' rows"


def test_a_month_touches_only_its_chunks(season_of_rows: sa.Connection) -> None:
    query = "explain (format json) select * from s2_known(1, '2023-05-01', '2023-05-20')"
    (explained,) = season_of_rows.execute(sa.text(query)).one()
    chunks = [node for node in scans(explained[0]["Plan"]) if node["Relation Name"].startswith("_hyper")]
    assert 1 <= len(chunks) <= 2


def test_a_parcels_history_reads_its_own_rows_alone(season_of_rows: sa.Connection) -> None:
    """Alerts of others too; by a plan that a connection made before there was much."""
    ask = sa.text("select kind, count(*) as n from parcel_history(:parcel, '2023-03-01', '2023-12-01') group by kind")
    parcel = season_of_rows.execute(sa.text("select min(parcel_key) + 100 from parcels")).scalar_one()
    season_of_rows.execute(ask, {"parcel": parcel})
    for statement in (
        """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at, closed_at)
           select parcel_key, 'r', 'closed', 'red', 0.9, '2023-05-01', '2023-05-03', '2023-05-04' from parcels, generate_series(1, 5)""",
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
           select alert_key, opened_at, 'opened', 'yellow', 0.8, '{}' from alerts""",
    ):
        season_of_rows.execute(sa.text(statement))
    for table in ("alerts", "alert_events"):
        season_of_rows.execute(sa.text(f"analyze {table}"))
    read = sa.text("""select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_all_tables
                      where relname in ('alerts', 'alert_events') or schemaname = '_timescaledb_internal'""")
    before = season_of_rows.execute(read).scalar_one()
    found = {row.kind: int(row.n) for row in season_of_rows.execute(ask, {"parcel": parcel})}
    assert found["alert"] == 5
    assert found["s2"] == found["s1"] == DATES
    rows = 2 * found["s2"] + DATES + found["posterior"] + 2 * 5  # a version of a month at each date
    assert season_of_rows.execute(read).scalar_one() - before <= 1.05 * rows


def test_a_planned_history_sees_what_comes_into_a_new_chunk(dsn: str) -> None:
    insert = sa.text("""insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                                                     available_at, recorded_at, scene_key) values (7, :at, 8, 0, false, 9, :at, :at, 1)""")
    with (
        engine(dsn).connect().execution_options(isolation_level="AUTOCOMMIT") as asking,
        engine(dsn).connect() as storing,
    ):
        for month in range(1, 13):
            asked = asking.execute(sa.text("select count(*) from parcel_history(7)")).scalar_one()
            assert asked == month - 1
            known = asking.execute(sa.text("select count(*) from s2_known(7, '2023-01-01', '2024-01-01', 'infinity')"))
            assert known.scalar_one() == month - 1
            storing.execute(insert, {"at": datetime(2023, month, 2, tzinfo=UTC)})
            storing.commit()


UNWATCHED, WATCHED = 200_000, 20_000


@pytest.fixture
def backlog(connection: sa.Connection) -> sa.Connection:
    """Much that is pending of a season without a model, older than what is pending of one with a model."""
    for statement in (
        """insert into seasons (name, starts_on, ends_on) values ('2022', '2022-01-01', '2022-12-31'),
           ('2023', '2023-01-01', '2023-12-31')""",
        "insert into regions (code) values ('r')",
        """insert into parcels (collection, season_key, source_id, region_key, recorded_at)
           select 'c', season_key, 'p' || nr, region_key, now() from seasons, regions, generate_series(1, 10000) nr""",
        """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
           values ('m', 'ndvi', '{}', '{}', '{}', '', '', now())""",
        """insert into model_activations select season_key, 'c', 'ndvi', now(), model_key
           from seasons, models where name = '2023'""",
        *(
            f"""insert into pending_work (season_key, collection, parcel_key, recorded_at, task)
                select season_key, collection, parcel_key, now(), 'rules'
                from generate_series(1, {n} / 10000), parcels join seasons using (season_key) where name = '{season}'"""
            for season, n in (("2022", UNWATCHED), ("2023", WATCHED))
        ),
        "analyze pending_work",
        "analyze parcels",
    ):
        connection.execute(sa.text(statement))
    return connection


def fetched(connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """Sequential scans and rows fetched by index in this transaction, by table."""
    rows = connection.execute(
        sa.text("""select relname, seq_scan, idx_tup_fetch from pg_stat_xact_user_tables
                   where relname in ('pending_work', 'parcels')""")
    )
    return {row.relname: (row.seq_scan, row.idx_tup_fetch) for row in rows}


def test_a_claim_reads_the_head_of_its_own_queue(backlog: sa.Connection) -> None:
    before = fetched(backlog)
    claimed = work.claim(backlog, 500, datetime.now(UTC))
    assert claimed is not None
    assert (len(claimed.parcel_keys), len(claimed.pending)) == (500, 1000)
    work.done(backlog, claimed)
    after = fetched(backlog)
    assert {name: after[name][0] - before[name][0] for name in after} == {"pending_work": 0, "parcels": 0}
    read = {name: after[name][1] - before[name][1] for name in after}
    # A page of 4 rows a parcel, the oldest row of each, all rows of each, and their removal.
    assert read["pending_work"] <= 500 * (4 + 1 + 2 + 2)
    assert read["parcels"] <= 500


def test_a_claim_does_not_read_again_what_claims_before_it_removed(backlog: sa.Connection) -> None:
    """An open snapshot keeps removed rows from vacuum, as of a backup: here that of the transaction that removes them."""
    first = work.claim(backlog, 5000, datetime.now(UTC))
    assert first is not None
    work.done(backlog, first)
    queue = first.season_key, first.collection
    reads, left = [], first.head + 5000
    for heads in ({}, {queue: first.head}, {queue: left}):
        before = blocks_read(backlog)
        claimed = work.claim(backlog, 10, datetime.now(UTC), heads=heads)
        assert claimed is not None
        reads.append(blocks_read(backlog) - before)
        assert claimed.head == claimed.pending["pending_key"].min() == left
    assert reads[2] < reads[1] / 2
    last = int(backlog.execute(sa.text("select max(pending_key) from pending_work")).scalar_one())
    again = work.claim(backlog, 10, datetime.now(UTC), heads={queue: last + 1})
    assert again is not None, "where nothing is left from there on it is read from the first"
    assert again.head == left


def blocks_read(connection: sa.Connection) -> int:
    """Return blocks of pending work and its queue that this transaction read."""
    names = "'pending_work', 'pending_work_pkey'"
    found = "select sum(pg_stat_get_xact_blocks_fetched(oid)) from pg_class where relname in"
    return int(connection.execute(sa.text(f"{found} ({names})")).scalar_one())


def test_a_claim_goes_past_parcels_that_others_hold(backlog: sa.Connection, dsn: str) -> None:
    backlog.get_transaction().commit()  # type: ignore[union-attr]
    now = datetime.now(UTC)
    with engine(dsn).connect() as one, engine(dsn).connect() as another:
        first, second = work.claim(one, 4000, now), work.claim(another, 50, now)
        assert first is not None
        assert second is not None
        assert len(second.parcel_keys) == 50
        assert second.parcel_keys.min() > first.parcel_keys.max()


def test_the_claim_of_a_parcels_pending_work_has_an_index(season_of_rows: sa.Connection) -> None:
    season_of_rows.execute(
        sa.text("""insert into pending_work (season_key, collection, parcel_key, recorded_at, task)
                   select season_key, collection, parcel_key, now(), 'rules' from parcels, generate_series(1, 20)""")
    )
    season_of_rows.execute(sa.text("analyze pending_work"))
    (explained,) = season_of_rows.execute(
        sa.text("explain (format json) select * from pending_work where parcel_key = 5")
    ).one()
    assert "Seq Scan" not in {node["Node Type"] for node in scans(explained[0]["Plan"])}


def test_a_parcel_is_found_by_the_agencys_id_through_an_index(connection: sa.Connection) -> None:
    for statement in (
        "insert into seasons (name, starts_on, ends_on) values ('2023', '2023-01-01', '2023-12-31')",
        "insert into regions (code) values ('r')",
        """insert into parcels (collection, season_key, source_id, region_key, recorded_at)
           select 'c' || nr % 4, season_key, 'p' || nr, region_key, now() from seasons, regions, generate_series(1, 50000) nr""",
        "analyze parcels",
    ):
        connection.execute(sa.text(statement))
    asked: list[tuple[str, Any]] = []
    sa.event.listen(
        connection, "before_cursor_execute", lambda _c, _cursor, text, given, *_: asked.append((text, given))
    )
    assert len(history.find_parcel(connection, "p4711", None, None)) == 1
    ((text, given),) = asked
    (explained,) = connection.exec_driver_sql(f"explain (format json) {text}", given).one()
    scanned = [node for node in scans(explained[0]["Plan"]) if node["Relation Name"] == "parcels"]
    assert [node.get("Index Name", "parcels_source_id") for node in scanned] == ["parcels_source_id"]
    assert "Seq Scan" not in {node["Node Type"] for node in scanned}
