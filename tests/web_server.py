"""The web server as it runs: an application on a login that has the rights of the server's role and no others."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
from fastapi import FastAPI
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db import access
from db.access import ROLES, Principal, Role
from db.connect import bounded_engine, engine
from web.app import create_app
from web.principals import make_key
from web.settings import WebSettings


@contextmanager
def serving(dsn: str, settings: WebSettings) -> Iterator[FastAPI]:
    """Yield an application on a login of its own, as docs/api.md tells to make it."""
    name, password = sql.Identifier(f"test_{secrets.token_hex(6)}"), secrets.token_hex(12)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("create role {} login noinherit password {}").format(name, sql.Literal(password)))
        owner.execute(sql.SQL("grant parcelwatch_web to {} with inherit true").format(name))
        for role in ROLES:
            owner.execute(
                sql.SQL("grant {} to {} with inherit false").format(sql.Identifier(f"parcelwatch_{role}"), name)
            )
        made = bounded_engine(make_conninfo(dsn, user=name.as_string().strip('"'), password=password), 4, 10.0)
        try:
            yield create_app(made, settings)
        finally:
            made.dispose()
            owner.execute(sql.SQL("drop role {}").format(name))


def bearer(dsn: str, name: str, role: Role, *regions: str) -> dict[str, str]:
    """Add a person who sees regions; return the header of a key of theirs."""
    key_id, whole, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, Principal(name, role), "ann", now)
        access.grant_regions(connection, name, regions, "ann", now)
        assert access.add_key(connection, key_id, name, "test", hashed, "ann", now, now + timedelta(days=1))
    return {"Authorization": f"Bearer {whole}"}
