"""The SQL contract: its names, and who sees what of it through every view and function, by every way that a login has."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

NAMES = Path(__file__).parents[2] / "docs" / "schemas" / "sql-contract.json"
HUMAN_ROLES = ("parcelwatch_reader", "parcelwatch_inspector", "parcelwatch_operator", "parcelwatch_admin")
AS_KNOWN_AT = "2026-01-01"
Cursor = psycopg.Connection[tuple[object, ...]]

CALLS = {
    "contract_version": "select parcelwatch.contract_version()",
    "parcel_key_of": "select parcelwatch.parcel_key_of('nl', '2025', source) from unnest(array['north-1', 'south-1']) source",
    "parcel_history": "select * from unnest(%(keys)s) k, parcelwatch.parcel_history(k, as_known_at => %(at)s)",
    "parcel_history_available": "select * from unnest(%(keys)s) k, parcelwatch.parcel_history_available(k, as_available_at => %(at)s)",
    "s2_known": "select * from unnest(%(keys)s) k, parcelwatch.s2_known(k, as_known_at => %(at)s)",
    "s1_known": "select * from unnest(%(keys)s) k, parcelwatch.s1_known(k, as_known_at => %(at)s)",
    "ndvi_known": "select * from unnest(%(keys)s) k, parcelwatch.ndvi_known(k, as_known_at => %(at)s)",
    "declaration_known": "select * from unnest(%(keys)s) k, parcelwatch.declaration_known(k, %(at)s)",
    "phenology_known": "select * from unnest(%(keys)s) k, parcelwatch.phenology_known(k, %(at)s)",
    "markers_known": "select * from unnest(%(keys)s) k, parcelwatch.markers_known(k, %(at)s)",
    "alerts_known": "select * from parcelwatch.alerts_known(%(at)s)",
    "lights_known": "select * from parcelwatch.lights_known('nl', '2025', %(at)s)",
    "weekly_ndvi_known": "select * from parcelwatch.weekly_ndvi_known('nl', '2025', as_known_at => %(at)s)",
    "parcels_known": "select * from parcelwatch.parcels_known('nl', '2025', %(at)s)",
    "policies_known": "select * from parcelwatch.policies_known(%(at)s)",
    "crop_areas": "select * from parcelwatch.crop_areas('nl', '2025', %(at)s)",
    "map_collections": "select * from parcelwatch.map_collections()",
    "map_tile": "select parcelwatch.map_tile('nl', '2025', 12, 2104, 1352, %(at)s)",
    "map_version": "select parcelwatch.map_version('nl', '2025', %(at)s)",
    "map_state": "select * from parcelwatch.map_state('nl', '2025', %(at)s)",
    "parcels_in": "select unnest(parcelwatch.parcels_in(ST_MakeEnvelope(4, 51, 6, 53, 4326))) as parcel_key",
    "round_changes": "select * from parcelwatch.round_changes('nl', '2025', 'May', 'June')",
    "map_parcels": "select * from parcelwatch.map_parcels('nl', '2025', %(at)s)",
}
"""Each function of the contract, asked of every parcel that there is."""
ROUND_BEFORE = (
    """insert into round_lights
       select 2, parcel_key, 'green', array['green'::light], array['3'], array[timestamptz '2025-05-01'], array[null::text] from parcels""",
    """insert into rounds (round_key, season_key, collection, name, as_known_at, recorded_at, published_by, reason, rules, rule_version,
                           settings, settings_sha256, n_parcels, content_sha256, sha256)
       select 2, season_key, 'nl', 'May', '2025-05-02', '2025-05-02', 'ann', 'monthly', array['early_loss'], '3', '{}', 'x', 2, 'y', 'y'
       from seasons""",
)
"""One in which all was green."""
OF_NO_REGION = {
    "contract_version",
    "policies_known",
    "seasons",
    "scenes",
    "chain_state",
    "map_collections",
    "map_version",
}
"""What says nothing of any parcel; a map's version is a hash."""
REFUSED = {
    *(("parcelwatch_inspector", view) for view in ("scenes", "chain_state")),
    ("parcelwatch_reader", "chain_state"),
}
"""Who may not ask what."""


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def owner(dsn: str) -> Iterator[Cursor]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in ROUND_BEFORE:
            connection.execute(statement.encode())
        yield connection


@pytest.fixture
def logins(dsn: str, owner: Cursor) -> Iterator[dict[str, str]]:
    """Connection strings of a login of each role; the inspector sees the north."""
    made, found = [], {}
    for role in (*HUMAN_ROLES, "parcelwatch_web"):
        name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(12)
        inherits = sql.SQL("noinherit" if role == "parcelwatch_web" else "inherit")
        owner.execute(
            sql.SQL("create role {} login password {} {} in role {}").format(
                sql.Identifier(name), sql.Literal(password), inherits, sql.Identifier(role)
            )
        )
        made.append(name)
        found[role] = make_conninfo(dsn, user=name, password=password)
        if role == "parcelwatch_web":
            for other in HUMAN_ROLES:
                owner.execute(sql.SQL("grant {} to {}").format(sql.Identifier(other), sql.Identifier(name)))
        if role == "parcelwatch_inspector":
            _grant(owner, name, "north")
    yield found
    for name in made:
        owner.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def _grant(owner: Cursor, principal: str, region: str) -> None:
    owner.execute(
        """insert into parcelwatch_access.region_grants
           select %s, region_key, 'ann', now() from regions where code = %s""",
        [principal, region],
    )


def _names(connection: Cursor) -> dict[str, dict[str, object]]:
    """Return views with their columns and types, and functions with what they take and give."""
    columns = connection.execute(
        """select c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
           from pg_class c join pg_attribute a on a.attrelid = c.oid and attnum > 0
           where relnamespace = 'parcelwatch'::regnamespace and relkind = 'v' order by c.relname, attnum"""
    ).fetchall()
    views: dict[str, object] = {}
    for view, column, kind in columns:
        views.setdefault(str(view), {})[column] = kind  # type: ignore[index]
    functions = connection.execute(
        """select proname, pg_get_function_arguments(oid), pg_get_function_result(oid) from pg_proc
           where pronamespace = 'parcelwatch'::regnamespace order by proname"""
    ).fetchall()
    return {
        "views": views,
        "functions": {str(name): {"takes": takes, "returns": gives} for name, takes, gives in functions},
    }


def _is_refused(connection: Cursor, statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_the_names_of_the_contract_are_as_published(owner: Cursor) -> None:
    """A name, type or argument that changes is a new version: publish it in the file, the page and CHANGELOG."""
    assert _names(owner) == json.loads(NAMES.read_text(encoding="utf-8"))


def test_everything_in_the_contract_is_described_and_documented(owner: Cursor) -> None:
    page = (NAMES.parents[1] / "sql.md").read_text(encoding="utf-8")
    for kind, catalogue in (("class", "pg_class"), ("proc", "pg_proc")):
        rows = owner.execute(
            f"""select {"rel" if kind == "class" else "pro"}name, obj_description(oid, '{catalogue}') from {catalogue}
                where {"rel" if kind == "class" else "pro"}namespace = 'parcelwatch'::regnamespace""".encode()
        ).fetchall()
        assert [name for name, text in rows if not text] == []
        assert [name for name, _ in rows if f"`{name}" not in page] == []


def test_tables_are_private(owner: Cursor) -> None:
    """No table, view or chunk outside the contract gives a person's role any right, and that of the API its own alone."""
    rights = owner.execute(
        """select role, oid::regclass::text, privilege from pg_class
           cross join unnest(%s::text[]) role
           cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege
           where relkind in ('r', 'v', 'm', 'p')
             and (relnamespace in ('public'::regnamespace, 'parcelwatch_access'::regnamespace, 'parcelwatch_map'::regnamespace)
                  or relnamespace = '_timescaledb_internal'::regnamespace and relname like '\\_hyper\\_%%')
             and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e')
             and (has_table_privilege(role, oid, privilege)
                  or privilege in ('select', 'insert', 'update', 'references') and has_any_column_privilege(role, oid, privilege))""",
        [[*HUMAN_ROLES, "parcelwatch_web"]],
    ).fetchall()
    assert set(rights) == {
        ("parcelwatch_web", f"parcelwatch_access.{table}", right)
        for table, allowed in {
            "people": ["select"],
            "api_keys": ["select"],
            "sessions": ["select", "insert", "update"],
            "pending_sign_ins": ["select", "insert", "delete"],
        }.items()
        for right in allowed
    }
    owners = "select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    assert owner.execute(owners.encode()).fetchall() == [("settled",)]  # which shows nothing


@pytest.mark.parametrize("role", [*HUMAN_ROLES, "parcelwatch_web"])
def test_a_login_is_refused_what_is_private(owner: Cursor, logins: dict[str, str], role: str) -> None:
    """As the server says it, whichever role the login takes on: a table, a chunk, a view of before, a grant."""
    chunk = owner.execute("select show_chunks('s2_observations')::text").fetchone()
    assert chunk is not None
    with psycopg.connect(logins[role], autocommit=True) as connection:
        for statement in (
            "select from public.parcels",
            f"select from {chunk[0]}",
            "select from public.open_alerts",
            "select from public.parcel_history(1)",
            "insert into parcelwatch_access.region_grants values ('me', 1, 'me', now())",
            "delete from public.alert_events",
            "set role parcelwatch_contract",
            "create table parcelwatch.mine (x int)",
        ):
            assert _is_refused(connection, statement), statement


@pytest.mark.parametrize("role", HUMAN_ROLES)
def test_each_role_sees_its_regions(owner: Cursor, logins: dict[str, str], role: str) -> None:
    """Every view and function: both regions for all but the inspector, who sees the north as if there were nothing else."""
    names = _names(owner)
    assert set(names["functions"]) == set(CALLS)
    keys = [key for key, *_ in owner.execute("select parcel_key from parcels order by source_id").fetchall()]
    south = str(keys[1])
    with psycopg.connect(logins[role], autocommit=True) as connection:
        asked = {view: f"select * from parcelwatch.{view}" for view in names["views"]} | CALLS
        for name, statement in asked.items():
            if (role, name) in REFUSED:
                assert _is_refused(connection, statement)
                continue
            cursor = connection.execute(statement.encode(), {"keys": keys, "at": AS_KNOWN_AT})
            rows = [dict(zip([d.name for d in cursor.description or ()], row, strict=True)) for row in cursor]
            assert rows, name
            if name in OF_NO_REGION:
                continue
            shown = json.dumps([list(row.values()) for row in rows], default=str)
            has_south = "south" in shown or any(str(row.get("parcel_key", row.get("k"))) == south for row in rows)
            if name == "alert_events":
                has_south = len(rows) == 2
            if name == "parcel_key_of":
                has_south = all(row["parcel_key_of"] for row in rows)
            assert has_south == (role != "parcelwatch_inspector"), name


def test_an_inspector_cannot_widen_what_is_seen(owner: Cursor, logins: dict[str, str]) -> None:
    """Neither by a setting, nor by a role, nor by an error of a foreign row, nor by a function that is asked of each row first."""
    owner.execute("insert into parcelwatch_access.region_grants select 'bob', region_key, 'ann', now() from regions")
    with psycopg.connect(logins["parcelwatch_inspector"], autocommit=True) as connection:
        connection.execute("select set_config('parcelwatch.principal', 'bob', false)")
        assert _sources(connection) == ["north-1"]
        assert _is_refused(connection, "set role parcelwatch_reader")
        connection.execute("set role parcelwatch_inspector")
        assert _sources(connection) == ["north-1"]
        connection.execute("select 1 / (case when source_id = 'south-1' then 0 else 1 end) from parcelwatch.parcels")
        connection.execute(
            """create function pg_temp.spy(text) returns boolean language plpgsql cost 0.0000001
               as $$ begin raise notice '%', $1; return true; end $$"""
        )
        seen: list[str] = []
        connection.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
        connection.execute("select from parcelwatch.parcels where pg_temp.spy(source_id)")
        assert seen == ["north-1"]


def test_whom_nothing_was_granted_sees_nothing(owner: Cursor, logins: dict[str, str]) -> None:
    owner.execute("delete from parcelwatch_access.region_grants")
    with psycopg.connect(logins["parcelwatch_inspector"], autocommit=True) as connection:
        assert _sources(connection) == []
        assert connection.execute("select count(*) from parcelwatch.alerts_known()").fetchone() == (0,)


def test_the_server_of_the_api_asks_for_a_person(owner: Cursor, logins: dict[str, str]) -> None:
    """It may do nothing by itself, takes on a role and names the person, both for one transaction."""
    _grant(owner, "carol", "south")
    with psycopg.connect(logins["parcelwatch_web"]) as connection:
        assert _is_refused(connection, "select from parcelwatch.parcels")
        connection.rollback()
        for role, person, sees in (
            ("parcelwatch_inspector", "carol", ["south-1"]),
            ("parcelwatch_inspector", "nobody", []),
            ("parcelwatch_inspector", "", []),
            ("parcelwatch_reader", "carol", ["north-1", "south-1"]),
        ):
            connection.execute(
                "select set_config('role', %s, true), set_config('parcelwatch.principal', %s, true)", [role, person]
            )
            assert _sources(connection) == sees
            connection.rollback()
        assert _is_refused(connection, "select from parcelwatch.parcels")


def _sources(connection: Cursor) -> list[object]:
    rows = connection.execute("select source_id from parcelwatch.parcels order by source_id").fetchall()
    return [source for source, *_ in rows]


def test_areas_of_crops(owner: Cursor) -> None:
    """Two hectares at 0.75 and 0.25: expected 1.5 and 0.5, each give or take 2 sqrt(0.75 x 0.25)."""
    rows = owner.execute(
        "select region, crop, area_ha, area_sd_ha, declared_ha from parcelwatch.crop_areas('nl', '2025')"
    )
    sd = pytest.approx(2 * (0.75 * 0.25) ** 0.5)
    assert rows.fetchall() == [
        ("north", "corn", 1.5, sd, 2),
        ("north", "wheat", 0.5, sd, 0),
        ("south", "corn", 1.5, sd, 2),
        ("south", "wheat", 0.5, sd, 0),
    ]


def test_withdrawn_and_replaced_observations_are_not_shown(owner: Cursor) -> None:
    rows = owner.execute("select distinct revision, ndvi from parcelwatch.s2_observations").fetchall()
    assert rows == [(1, pytest.approx(0.6))]
