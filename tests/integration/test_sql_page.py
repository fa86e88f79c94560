"""The SQL page: every statement runs as who it is for and finds something, and what it says of functions and views is so."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

from db.connect import engine
from monitor.schedule import roll_up_weeks
from tests.logins import login

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
FOR_READERS, FOR_THE_OWNER = PAGE.split("## What the owner sees")


def statements(page: str) -> list[str]:
    return [
        statement.strip()
        for block in re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for statement in re.sub(r"(--[^\n]*)", "", block).split(";")
        if statement.strip()
    ]


STATEMENTS, PRIVATE = statements(FOR_READERS), statements(FOR_THE_OWNER)


@pytest.fixture(scope="module")
def filled(shared_dsn: str) -> str:
    """The page's parcel, its neighbour with a crop that no model knows, and all that is said of them."""
    with engine(shared_dsn).begin() as opened:
        for statement in (
            """insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')""",
            "insert into regions (code) values ('r')",
            """insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
               select 'nl-brp', season_key, source_id, region_key,
                      ST_GeomFromText('MULTIPOLYGON(((5 52,5.01 52,5.01 52.01,5 52)))', 4326), 2, '2025-01-01'
               from seasons, regions, unnest(array['10984', '10985']) source_id""",
            """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
               select parcel_key, timestamptz '2025-04-01', timestamptz '2025-04-01', source_id,
                      case source_id when '10984' then 'maize' else 'hemp' end from parcels
               union all select parcel_key, '2025-03-01', '2025-03-01', '1', 'wheat' from parcels""",
            """insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
               values ('s', 'S2', 'S2A', 8, '2025-05-01', '2025-05-01', '2025-05-01')""",
            """insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
                   recorded_at, scene_key, ndvi)
               select parcel_key, '2025-05-01 10:30+00', 8, 0, false, 50, '2025-05-01 15:00+00', '2025-05-02', scene_key, 0.5
               from parcels, scenes""",
            """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at,
                   recorded_at, scene_key, direction, radiometry, vv, vh)
               select parcel_key, '2025-05-02 06:00+00', 88, 0, false, 50, '2025-05-02 09:00+00', '2025-05-02', scene_key, 'ascending',
                      'sigma0', 0.1, 0.02 from parcels, scenes""",
            """insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
               select parcel_key, '2025-06-01', '2025-06-02', 1, 1, 0, array_fill(0.5, array[31]), array_fill(0.03, array[31])
               from parcels""",
            """insert into phenology (parcel_key, recorded_at, outcome, sos, pos, eos, is_complete, measures, measures_sd)
               select parcel_key, '2025-10-01', 'OK', '2025-04-11', '2025-06-20', '2025-08-09', true, array_fill(100.0, array[13]),
                      array_fill(2.5, array[13]) from parcels""",
            """insert into markers (parcel_key, marker, recorded_at, version, status, value, day, confidence, evidence)
               select parcel_key, 'harvest', '2025-10-01', '1', 'OK', 1, '2025-08-20', 0.85, '{}' from parcels""",
            """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
               values ('m', 'classifier', '{"classes": ["corn", "wheat"]}', '{}', '{"class_of": {"10984": "corn", "1": "wheat"}}', '{}',
                       '', now())""",
            """insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
               select parcel_key, '2025-05-02', '2025-05-02', model_key, 1, 0, 0, 0, array[0.25, 0.75] from models, parcels""",
            """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
               select parcel_key, 'crop_mismatch', 'acknowledged', 'red', 0.9, '2025-05-01', '2025-05-02' from parcels""",
            """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
               select alert_key, timestamptz '2025-05-02', 'opened', colour 'red', 0.9, '{"observed_to": "2025-05-01"}'::jsonb from alerts
               union all select alert_key, '2025-05-03', 'acknowledged', 'red', 0.9, '{"decision": {"by": "anna"}}' from alerts""",
            """insert into found_scenes (scene_id, sensor, state, record, found_at, recorded_at, cause)
               values ('f', 'S2', 'failed', '{}', now(), now(), 'unreadable')""",
            """insert into found_scenes (scene_id, sensor, state, record, found_at, recorded_at, expected, emitted, withdrawn, skipped)
               values ('c', 'S2', 'cut', '{}', now(), now(), 5, 5, 0, 0)""",
            """insert into crop_progress (season_key, collection, region_key, crop_code, recorded_at, n_parcels, first_day, standing_share,
                   median_ndvi, lower_ndvi, middle_ndvi, upper_ndvi)
               select season_key, 'nl-brp', region_key, '10984', '2025-06-01', 9, '2025-01-08', array[0.1, 0.2, 0.3, 0.4],
                      array[0.4, 0.4, 0.4, 0.4], array[0.2, 0.3], array[0.3, 0.4], array[0.4, 0.5] from seasons, regions""",
            """with field as (
                   insert into parcels (collection, season_key, source_id, region_key, recorded_at)
                   select 'nl-brp', season_key, '10986', region_key, '2025-01-01' from seasons, regions returning parcel_key
               ), declared as (
                   insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
                   select parcel_key, '2025-04-01', '2025-04-01', '1', 'wheat' from field
               )
               insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
                   recorded_at, scene_key, ndvi)
               select parcel_key, '2025-05-01 10:30+00', 8, 0, false, 50, '2025-05-01 15:00+00', '2025-05-02', scene_key, 0.7
               from field, scenes""",
            "insert into scene_ledger select scene_key, 'stored', 3 from scenes",
        ):
            opened.exec_driver_sql(statement)
    roll_up_weeks(shared_dsn)
    return shared_dsn


@pytest.fixture
def connection(filled: str) -> Iterator[sa.Connection]:
    """The owner where the page's rows are stored, in a transaction that is taken back."""
    with engine(filled).connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def reader(filled: str) -> Iterator[str]:
    """The address of an analyst, where the page's rows are stored."""
    with login(filled, "parcelwatch_reader") as address:
        yield address


def asked(address: str, statement: str) -> list[sa.Row[Any]]:
    """Return the answer to a login."""
    own = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(address), poolclass=sa.NullPool)
    with own.connect() as opened:
        return list(opened.exec_driver_sql(statement.replace("%", "%%")).all())


def test_the_page_has_its_statements() -> None:
    assert len(STATEMENTS) >= 15
    assert len(PRIVATE) >= 2


@pytest.mark.parametrize("statement", STATEMENTS, ids=range(len(STATEMENTS)))
def test_every_statement_for_readers_runs_and_finds_something(statement: str, filled: str, reader: str) -> None:
    if "chain_state" in statement:
        with login(filled, "parcelwatch_operator") as operator:
            assert asked(operator, statement)
    else:
        assert asked(reader, statement)


@pytest.mark.parametrize("statement", PRIVATE, ids=range(len(PRIVATE)))
def test_every_statement_for_the_owner_runs_and_finds_something(statement: str, connection: sa.Connection) -> None:
    assert connection.exec_driver_sql(statement.replace("%", "%%")).all()


IN_SENTENCES = [
    statement
    for page in sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    for statement in re.findall(r"`((?:select|insert|update|delete) [^`]+)`", page.read_text(encoding="utf-8"))
    if page.stem != "LOG"
]


@pytest.mark.parametrize("statement", IN_SENTENCES)
def test_every_statement_in_a_sentence_runs(statement: str, connection: sa.Connection) -> None:
    connection.exec_driver_sql(statement)
    connection.rollback()


def test_every_function_and_view_on_the_page_is_there(connection: sa.Connection) -> None:
    for section, catalogue in (
        ("Functions", "select proname from pg_proc"),
        ("Views", "select viewname from pg_views"),
    ):
        (table,) = re.findall(rf"^### {section}\n(.*?)(?:^#+ |^```)", PAGE, re.MULTILINE | re.DOTALL)
        first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        named = {name for cell in first_cells for name in re.findall(r"`(\w+)[(`]", cell)}
        assert named
        assert named <= set(connection.execute(sa.text(catalogue)).scalars())


def test_a_crop_that_the_model_never_learnt_is_said(connection: sa.Connection) -> None:
    rows = connection.execute(
        sa.text(
            "select source_id, knows_declared_crop, declared_class, probability_of_declared from latest_posteriors order by 1"
        )
    ).all()
    assert [tuple(row) for row in rows] == [("10984", True, "corn", 0.25), ("10985", False, None, None)]


def test_an_amended_parcel_counts_once_and_under_its_newest_crop(reader: str) -> None:
    (statement,) = [one for one in STATEMENTS if "share_seen" in one]
    assert sorted((row.declared_crop, row.parcels) for row in asked(reader, statement)) == [("hemp", 1), ("maize", 1)]


def test_quartiles_are_those_of_the_days_dekad(reader: str) -> None:
    """The season begins on 8 January, the last days of a dekad: the 11th is of its second."""
    rows = asked(reader, "select day::text as day, lower_ndvi from parcelwatch.crop_bands order by day")
    assert [row.day for row in rows] == ["2025-01-08", "2025-01-09", "2025-01-10", "2025-01-11"]
    assert [row.lower_ndvi for row in rows] == pytest.approx([0.2, 0.2, 0.2, 0.3])


def test_an_unknown_parcel_is_an_error_that_names_what_is_stored(connection: sa.Connection) -> None:
    with pytest.raises(sa.exc.DatabaseError) as refused, connection.begin_nested():
        connection.execute(sa.text("select * from parcel_history(parcel_key_of('nl_brp', '2025', '10984'))")).all()
    assert "no parcel '10984' in collection 'nl_brp', season '2025'" in str(refused.value)
    assert "nl-brp / 2025" in str(refused.value)
    assert connection.execute(sa.text("select parcel_key_of('x', 'y', null, missing_ok => true)")).scalar_one() is None


PLOT, CLIENT, QGIS, GEOPANDAS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The analyst's login under the name that the page gives it."""
    lines = "\n".join(f"{name}={value}" for name, value in conninfo_to_dict(reader).items())
    (tmp_path / "services").write_text(f"[parcelwatch]\n{lines}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("service")
@pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy")
def test_the_lines_for_a_plot_draw_wheat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert all(len([line for line in lines.splitlines() if line]) < 10 for lines in (PLOT, CLIENT, QGIS))
    names: dict[str, Any] = {}
    exec(compile(PLOT, "sql.md", "exec"), names)  # the page is ours
    assert names["weeks"]["median_ndvi"].tolist() == pytest.approx([0.7])
    assert Path("wheat.png").read_bytes().startswith(b"\x89PNG")
    names["engine"].dispose()
    names["plt"].close("all")


@pytest.mark.usefixtures("service")
def test_the_lines_for_geopandas_write_the_open_alerts() -> None:
    names: dict[str, Any] = {}
    exec(compile(GEOPANDAS, "sql.md", "exec"), names)
    names["engine"].dispose()
    written = geopandas.read_file("alerts.gpkg")
    assert sorted(zip(written["source_id"], written["declared_crop"], strict=True)) == [
        ("10984", "maize"),
        ("10985", "hemp"),
    ]
    assert written.total_bounds == pytest.approx((5, 52, 5.01, 52.01))
