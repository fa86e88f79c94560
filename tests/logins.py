"""Logins of the database in the contract's roles, gone after the test."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


@contextmanager
def login(dsn: str, role: str) -> Iterator[str]:
    """Yields the address, as a URL, of a login in one role."""
    name, password, parts = f"test_{secrets.token_hex(6)}", secrets.token_hex(12), conninfo_to_dict(dsn)
    with psycopg.connect(dsn, autocommit=True) as owner:
        made = sql.SQL("create role {} login password {} in role {}")
        owner.execute(made.format(sql.Identifier(name), sql.Literal(password), sql.Identifier(role)))
        try:
            yield f"postgresql://{name}:{password}@{quote(str(parts['host']), safe='')}:{parts['port']}/{parts['dbname']}"
        finally:
            owner.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
