"""Grafana's dashboards: each query runs as an operator, its macros replaced as Grafana does, and finds something."""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from devstack import archive, folders
from devstack.provision import provision
from tests.filled_store import fill
from tests.logins import login

GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
SOURCE = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "parcelwatch.yaml").read_text(encoding="utf-8"))[
    "datasources"
][0]
FROM, TO = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
CHOSEN: dict[str, str | list[str]] = {
    "season": "2025",
    "collection": "nl",
    "region": "north",
    "parcel": "north-1",
    "crop": ["maize", "o'hostile"],
}
TARGETS = [
    pytest.param(target, id=f"{name}-{panel['id']}{target['refId']}")
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    for target in panel["targets"]
]
VARIABLES = [
    pytest.param(variable, id=f"{name}-{variable['name']}")
    for name, board in DASHBOARDS.items()
    for variable in board["templating"]["list"]
    if variable["type"] == "query"
]


def quoted(value: str | list[str]) -> str:
    """Return a variable's value in the format `sqlstring`."""
    values = [value] if isinstance(value, str) else value
    return ",".join("'" + one.replace("'", "''") + "'" for one in values)


def interpolated(statement: str, interval: str = "6h") -> str:
    """Replace variables, then macros, as Grafana and its PostgreSQL data source do."""
    seconds = {"6h": 21600, "1d": 86400, "7d": 604800}
    statement = re.sub(r"\$\{(\w+):sqlstring\}", lambda found: quoted(CHOSEN[found[1]]), statement)
    statement = statement.replace("$__interval", interval)

    def group(found: re.Match[str]) -> str:
        every = seconds[found[3]]
        alias = ' AS "time"' if found[1] else ""
        return f"floor(extract(epoch from {found[2]})/{every})*{every}{alias}"

    statement = re.sub(r"\$__timeGroup(Alias)?\((\w+), '?(\w+)'?\)", group, statement)
    statement = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{FROM}' AND '{TO}'", statement)
    statement = statement.replace("$__timeFrom()", f"'{FROM}'").replace("$__timeTo()", f"'{TO}'")
    assert "$" not in statement, statement
    return statement


@pytest.fixture(scope="module")
def filled(shared_dsn: str) -> Iterator[str]:
    """The address of an operator's login of a filled store."""
    fill(shared_dsn)
    with login(shared_dsn, "parcelwatch_operator") as address:
        yield address


@pytest.mark.parametrize("target", TARGETS)
def test_every_query_of_a_panel_runs_and_finds_something(filled: str, target: dict[str, Any]) -> None:
    with psycopg.connect(filled, options="-c timezone=UTC") as connection:
        cursor = connection.execute(interpolated(target["rawSql"]).encode())
        rows = cursor.fetchall()
        names = [column.name for column in cursor.description or ()]
    assert rows
    if target["format"] == "time_series":
        times = [row[names.index("time")] for row in rows]
        assert times == sorted(times)
        seconds = [time.timestamp() if isinstance(time, datetime) else float(time) for time in times]
        assert all(datetime.fromtimestamp(second, UTC).year == 2025 for second in seconds)
        assert all(not isinstance(time, datetime) or time.tzinfo is not None for time in times)


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_has_the_value_that_is_asked_for(filled: str, variable: dict[str, Any]) -> None:
    with psycopg.connect(filled) as connection:
        values = [value for (value,) in connection.execute(interpolated(variable["query"]).encode())]
    chosen = CHOSEN[variable["name"]]
    assert (chosen if isinstance(chosen, str) else chosen[0]) in values


def test_panels_read_the_contract_through_the_provisioned_source() -> None:
    assert SOURCE["uid"] == "parcelwatch"
    uids = [board["uid"] for board in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids) == 3
    for board in DASHBOARDS.values():
        defined = {variable["name"] for variable in board["templating"]["list"]}
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for asked in (*board["panels"], *board["templating"]["list"]):
            if asked["type"] == "textbox":
                continue
            assert asked["datasource"] == {"type": SOURCE["type"], "uid": SOURCE["uid"]}
            for statement in [target["rawSql"] for target in asked.get("targets", [])] or [asked["query"]]:
                assert set(re.findall(r"\$\{(\w+)", statement)) <= defined, statement


def test_its_login_is_an_operator_whose_password_comes_from_the_environment(dsn: str) -> None:
    """Made by the file that the container runs, once and again with another password."""
    psql = provision(folders.cache_folder(os.environ, os.geteuid() == 0), os.environ, archive.silent).program("psql")
    parts = conninfo_to_dict(dsn)
    server = {
        f"PG{name.upper()}": str(parts[key])
        for name, key in {
            "host": "host",
            "port": "port",
            "user": "user",
            "password": "password",
            "database": "dbname",
        }.items()
    }
    statements = (
        (GRAFANA / "login.sql")
        .read_text(encoding="utf-8")
        .replace("grafana'", f"{(name := 'g' + secrets.token_hex(4))}'")
    )
    statements = statements.replace("role grafana", f"role {name}")  # roles are the server's: another test may make one
    assert SOURCE["user"] == "grafana"
    try:
        for password in ("it's $1 \\ first", "second"):
            environment = {**os.environ, **server, "PARCELWATCH_GRAFANA_PASSWORD": password}
            subprocess.run(
                [str(psql), "--file", "-"],
                input=statements,
                env=environment,
                check=True,
                text=True,
                capture_output=True,
            )
            with psycopg.connect(make_conninfo(dsn, user=name, password=password)) as connection:
                assert connection.execute("select count(*) from parcelwatch.chain_state").fetchone()
                assert connection.execute("show statement_timeout").fetchone() == ("30s",)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("select from public.parcels")
    finally:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(f"drop role if exists {name}".encode())
