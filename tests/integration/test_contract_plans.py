"""Hot questions of the contract, asked by a reader of a season of many parcels: each reads the rows it answers with, by index."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from monitor.schedule import roll_up_weeks
from tests.logins import login

PARCELS, DATES = 3000, 36
KEY = 1234
Asking = psycopg.Connection[tuple[Any, ...]]
FILLED = (
    "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')",
    "insert into regions (code) select 'r' || nr from generate_series(1, 20) nr",
    f"""insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
        select 'nl', season_key, 'p' || nr, region_key, ST_Multi(ST_MakeEnvelope(5 + nr / 1e4, 52, 5 + nr / 1e4 + 1e-4, 52.1, 4326)), 2,
               '2025-01-01' from seasons, generate_series(1, {PARCELS}) nr join regions on code = 'r' || 1 + nr % 20""",
    """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
       select parcel_key, '2025-01-02', '2025-01-02', parcel_key / 20 % 12, 'crop ' || parcel_key / 20 % 12 from parcels""",
    f"""insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
        select 's' || nr, 'S2', 'A', 8, at, at, at from generate_series(0, {DATES - 1}) nr,
               lateral (select timestamptz '2025-01-03 10:30Z' + nr * interval '10 days' as at) pass""",
    """insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at, recorded_at,
           scene_key, ndvi)
       select parcel_key, observed_at, 8, 0, false, 9, available_at, s.recorded_at, scene_key, 0.5 from scenes s, parcels""",
    """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at, recorded_at,
           scene_key, direction, radiometry, vv, vh)
       select parcel_key, observed_at, 88, 0, false, 9, available_at, s.recorded_at, scene_key, 'ascending', 'sigma0', 0.1, 0.01
       from scenes s, parcels""",
    """insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
       select parcel_key, month, month + 40, 1, 1, 1, array_fill(0.5, array[31]), array_fill(0.03, array[31])
       from parcels, lateral (
           select ('2025-01-01'::date + nr * interval '1 month')::date as month from generate_series(0, 11) nr) months""",
    """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
       values ('m', 'classifier', '{"classes": ["a", "b"]}', '{}', '{}', '{}', '', '2025-01-01')""",
    """insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
       select parcel_key, s.recorded_at, observed_at, model_key, 1, 0, 0, 0, array[0.3, 0.7] from scenes s, models, parcels""",
    """insert into phenology (parcel_key, recorded_at, outcome, sos, pos, eos, is_complete, measures, measures_sd)
       select parcel_key, '2025-10-01', 'OK', '2025-04-11', '2025-06-20', '2025-08-09', true, array_fill(100.0, array[13]),
              array_fill(2.5, array[13]) from parcels""",
    """insert into markers (parcel_key, marker, recorded_at, version, status, value, day, confidence, evidence)
       select parcel_key, 'harvest', '2025-10-01', '1', 'OK', 1, '2025-08-20', 0.85, '{}' from parcels""",
    """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at, closed_at)
       select parcel_key, 'early_loss', 'closed', 'red', 0.9, '2025-05-01', '2025-05-02', '2025-06-02'
       from parcels, generate_series(1, 5)""",
    """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
       select alert_key, opened_at, 'opened', 'red', 0.9, '{}' from alerts""",
    "insert into scene_ledger select scene_key, 'stored', count(*) from s2_observations group by scene_key",
)
TABLES = ["parcels", "declarations", "phenology", "markers", "alerts", "alert_events", "weekly_ndvi", "shapes"]
"""Beside chunks, which are all counted."""
CHUNKED = ["s2_observations", "s1_observations", "ndvi_months", "posteriors"]
READ = """
select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) from pg_stat_xact_all_tables
where relname = any(%s) or schemaname = '_timescaledb_internal'"""


@pytest.fixture(scope="module")
def reader(shared_dsn: str) -> Iterator[str]:
    """The address of a reader of the filled season."""
    with psycopg.connect(shared_dsn, autocommit=True) as owner:
        for statement in FILLED:
            owner.execute(statement.encode())
    roll_up_weeks(shared_dsn)
    with psycopg.connect(shared_dsn, autocommit=True) as owner:
        for table in (*TABLES[:-1], "parcelwatch_map.shapes", *CHUNKED):
            owner.execute(f"vacuum analyze {table}".encode())
    with login(shared_dsn, "parcelwatch_reader") as address:
        yield address


WEEKS = DATES  # each pass is of a week of its own
IN_BOX = "parcel_key = any ((select parcelwatch.parcels_in(ST_MakeEnvelope(5.10002, 52.01, 5.10055, 52.02, 4326)))::bigint[])"
BY_PARCEL = "select * from parcelwatch.{} where parcel_key = %(key)s"


@pytest.mark.parametrize(
    ("statement", "answers", "reads"),
    [
        (BY_PARCEL.format("parcels"), 1, 3),
        (BY_PARCEL.format("s2_observations"), DATES, DATES + 2),
        (BY_PARCEL.format("s1_observations"), DATES, DATES + 2),
        (BY_PARCEL.format("daily_ndvi"), 12 * 31, 12 + 2),
        (BY_PARCEL.format("posteriors"), DATES, DATES + 3),
        (BY_PARCEL.format("latest_posteriors"), 1, 8),
        (BY_PARCEL.format("phenology"), 1, 3),
        (BY_PARCEL.format("markers"), 1, 3),
        (BY_PARCEL.format("alerts"), 5, 5 * 3 + 10),
        ("select * from parcelwatch.s2_known(%(key)s, '2025-03-01', '2025-09-01')", 19, 19 + 2),
        ("select * from parcelwatch.s2_known(%(key)s, '2025-03-01', '2025-09-01', '2025-07-01')", 12, 19 + 2),
        ("select * from parcelwatch.ndvi_known(%(key)s, '2025-03-01', '2025-05-01')", 2, 8),
        ("select * from parcelwatch.parcel_history(%(key)s)", 3 * DATES + 12 + 5 + 1, 4 * DATES + 40),
        ("select * from parcelwatch.parcel_history(%(key)s, as_known_at => '2025-07-01')", 60, 4 * DATES + 40),
        ("select parcelwatch.parcel_key_of('nl', '2025', 'p7')", 1, 3),
        (f"select * from parcelwatch.parcels where {IN_BOX}", 6, 6 * 6),
        (f"select * from parcelwatch.alerts where {IN_BOX}", 6 * 5, 6 * (5 * 4 + 6)),
        (
            "select * from parcelwatch.weekly_ndvi where region = 'r3' and declared_crop = 'crop 5'",
            WEEKS,
            12 * WEEKS + 1,
        ),
    ],
)
def test_it_reads_what_it_answers_with(reader: str, statement: str, answers: int, reads: int) -> None:
    with psycopg.connect(reader) as connection:
        rows = connection.execute(statement.encode(), {"key": KEY}).fetchall()
        assert len(rows) >= answers
        read = connection.execute(READ.encode(), [TABLES]).fetchone()
    assert read is not None
    assert read[0] <= reads


def test_a_week_as_known_at_a_time_reads_no_other_weeks_views(reader: str) -> None:
    """Of the store's 108,000 views those of a chunk at most: pages of other weeks of it are passed over, or read in vain."""
    with psycopg.connect(reader) as connection:
        ask = b"select * from parcelwatch.weekly_ndvi_known('nl', '2025', '2025-06-02', '2025-06-03', '2025-12-31')"
        assert len(connection.execute(ask).fetchall()) == 20 * 12
        read = connection.execute(READ.encode(), [["s2_observations"]]).fetchone()
    assert read is not None
    assert read[0] <= 2 * 3 * PARCELS  # views, and once more the few revisions
