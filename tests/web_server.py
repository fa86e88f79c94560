"""The web server as it runs, on a login that has the rights of the server's role and no others; its address, and keys of people."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import psycopg
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db import access
from db.access import ROLES, Principal, Role
from db.connect import bounded_engine, engine
from web.app import create_app
from web.principals import make_key
from web.settings import OidcSettings, WebSettings


@contextmanager
def serving(dsn: str, settings: WebSettings | None = None, oidc: OidcSettings | None = None) -> Iterator[FastAPI]:
    """Yield an application on a login of its own, as docs/api.md tells to make it."""
    name, password = sql.Identifier(f"test_{secrets.token_hex(6)}"), secrets.token_hex(12)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("create role {} login noinherit password {}").format(name, sql.Literal(password)))
        owner.execute(sql.SQL("grant parcelwatch_web to {} with inherit true").format(name))
        for role in ROLES:
            owner.execute(
                sql.SQL("grant {} to {} with inherit false").format(sql.Identifier(f"parcelwatch_{role}"), name)
            )
        try:
            with serving_as(
                make_conninfo(dsn, user=name.as_string().strip('"'), password=password), settings, oidc
            ) as app:
                yield app
        finally:
            owner.execute(sql.SQL("drop role {}").format(name))


@contextmanager
def serving_as(dsn: str, settings: WebSettings | None = None, oidc: OidcSettings | None = None) -> Iterator[FastAPI]:
    """Yield an application on the login of a connection string."""
    made = bounded_engine(dsn, 4, 30.0)
    try:
        yield create_app(made, settings or WebSettings(), oidc)
    finally:
        made.dispose()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Yield the address at which an application answers."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served(dsn: str) -> Iterator[str]:
    """Yield the address of the API and the console on the login of a connection string."""
    with serving_as(dsn) as app, listening(app) as address:
        yield address


def key_of(dsn: str, name: str, role: Role, *regions: str, lasts: timedelta = timedelta(days=1)) -> str:
    """Add a person who sees regions; return a key of theirs."""
    key_id, whole, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, Principal(name, role), "ann", now)
        access.grant_regions(connection, name, regions, "ann", now)
        assert access.add_key(connection, key_id, name, "test", hashed, "ann", now, now + lasts)
    return whole


def bearer(dsn: str, name: str, role: Role, *regions: str) -> dict[str, str]:
    """Add a person who sees regions; return the header of a key of theirs."""
    return {"Authorization": f"Bearer {key_of(dsn, name, role, *regions)}"}


@dataclass(frozen=True)
class Api:
    """A client, and a key for each role; the inspector sees the north."""

    client: TestClient
    keys: Mapping[Role, str]

    def get(self, path: str, role: Role = "inspector", **more: Any) -> Any:
        """Return the answer to a request of somebody with a role."""
        headers = {"Authorization": f"Bearer {self.keys[role]}", **more.pop("headers", {})}
        return self.client.get(path, headers=headers, **more)


@contextmanager
def api_on(dsn: str) -> Iterator[Api]:
    """Yield a client of the API on a filled store."""
    keys = {role: key_of(dsn, role, role, *(["north"] if role == "inspector" else [])) for role in ROLES}
    settings = WebSettings(requests_per_minute=1_000_000)
    with serving(dsn, settings) as app, TestClient(app, raise_server_exceptions=False) as opened:
        yield Api(opened, keys)


def take_as_long(one: Callable[[], object], other: Callable[[], object]) -> bool:
    """Say whether two requests take as long, coarsely: what the network hides is not looked for, and a real difference comes each time."""
    for _ in range(3):
        took: tuple[list[float], list[float]] = ([], [])
        for nr in range(40):
            for which in ((0, 1), (0, 1), (1, 0), (1, 0))[nr % 4]:  # neither always by the same pooled connection
                began = time.perf_counter()
                (one, other)[which]()
                took[which].append(time.perf_counter() - began)
        a, b = map(median, took)
        if abs(a - b) < max(0.25 * max(a, b), 0.002):
            return True
    return False
