"""A database of its own beside a given one, for a run that must touch nothing that is there."""

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db.connect import connect


class NoFreshDatabase(Exception):
    """The account may not create a database; the caller gives another account or another server."""


def fresh_database(dsn: str, name: str) -> str:
    """Creates the empty database `name` on the server of `dsn`; returns its own connection string."""
    try:
        with connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise NoFreshDatabase(f"database {name} cannot be created: {str(error).strip().splitlines()[0]}") from error
    return make_conninfo(dsn, dbname=name)
