"""A client of the API on a filled store, and keys of people of every role."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient

from db import access
from db.access import ROLES, Principal
from db.connect import bounded_engine, engine
from tests.filled_store import fill
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
def api_on(dsn: str) -> Iterator[Api]:
    """A client of the API on a fresh database, which is filled."""
    fill(dsn)
    now = datetime.now(UTC)
    keys: dict[access.Role, str] = {}
    with engine(dsn).begin() as connection:
        for role in ROLES:
            key_id, keys[role], hashed = make_key()
            access.add_person(connection, Principal(role, role), "ann", now)
            access.add_key(connection, key_id, role, "test", hashed, "ann", now, now + timedelta(days=1))
        access.grant_regions(connection, "inspector", ["north"], "ann", now)
    made = bounded_engine(dsn, 4, 10.0)
    with TestClient(
        create_app(made, WebSettings(requests_per_minute=1_000_000)), raise_server_exceptions=False
    ) as opened:
        yield Api(opened, keys)
    made.dispose()
