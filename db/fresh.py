"""Databases that are made: the product's own on a new server, and one beside a given one for a run that must touch nothing there."""

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db.connect import connect
from terminal.errors import UserError


class NoFreshDatabase(UserError):
    """The account may not create a database; the caller gives another account or another server."""


def fresh_database(dsn: str, name: str) -> str:
    """Create the empty database `name` on the server of `dsn`; return its own connection string."""
    try:
        with connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise NoFreshDatabase(f"database {name} cannot be created: {str(error).strip().splitlines()[0]}") from error
    return make_conninfo(dsn, dbname=name)


def ensure_database(admin_dsn: str, name: str) -> None:
    """Create a database on a server if it is not there."""
    with connect(admin_dsn, autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
