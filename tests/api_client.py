"""A client of the API on a filled store, and keys of people of every role."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo

from db import access
from db.access import ROLES, Principal
from db.connect import bounded_engine, engine
from web.app import create_app
from web.principals import make_key
from web.settings import WebSettings


@dataclass(frozen=True)
class Api:
    """A client, and a key for each role; the inspector sees the north."""

    client: TestClient
    keys: Mapping[access.Role, str]

    def get(self, path: str, role: access.Role = "inspector", **more: Any) -> Any:
        """Return the answer to a request of somebody with a role."""
        headers = {"Authorization": f"Bearer {self.keys[role]}", **more.pop("headers", {})}
        return self.client.get(path, headers=headers, **more)


@contextmanager
def api_on(dsn: str, with_the_chains_login: bool = False) -> Iterator[Api]:
    """A client of the API on a filled store; the server's login may only take on the roles of people."""
    now = datetime.now(UTC)
    keys: dict[access.Role, str] = {}
    with engine(dsn).begin() as connection:
        for role in ROLES:
            key_id, keys[role], hashed = make_key()
            access.add_person(connection, Principal(role, role), "ann", now)
            access.add_key(connection, key_id, role, "test", hashed, "ann", now, now + timedelta(days=1))
        access.grant_regions(connection, "inspector", ["north"], "ann", now)
    with nullcontext(dsn) if with_the_chains_login else _login_of_the_server(dsn) as own:
        made = bounded_engine(own, 4, 10.0)
        app = create_app(made, WebSettings(requests_per_minute=1_000_000))
        with TestClient(app, raise_server_exceptions=False) as opened:
            yield Api(opened, keys)
        made.dispose()


@contextmanager
def _login_of_the_server(dsn: str) -> Iterator[str]:
    login, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(12)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(f"create role {login} login password '{password}' in role parcelwatch_web".encode())
        for role in ROLES:
            owner.execute(f"grant parcelwatch_{role} to {login} with inherit false".encode())
        yield make_conninfo(dsn, user=login, password=password)
        owner.execute(f"drop role {login}".encode())
