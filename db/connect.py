"""Connections: SQLAlchemy for reads, psycopg underneath for COPY, one place for both."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads
from pydantic_core import from_json
from sqlalchemy.engine.interfaces import DBAPIConnection

from db.errors import DatabaseUnavailable, InvalidAddress
from db.parameters import BigintsDumper

Connection = sa.Connection
Engine = sa.Engine
"""What the other packages call a connection and an engine: SQL is written in `db` alone."""

APPLICATION_NAME: LiteralString = "parcelwatch"
_name: str = APPLICATION_NAME


def name_process(command: str) -> None:
    """Let connections made from now on name the command of this process, its host and its number: `status` lists them.

    Args:
        command: such as "ingest run".
    """
    global _name
    end = f" {socket.gethostname().split('.')[0][:20]}:{os.getpid()}"
    _name = f"{APPLICATION_NAME} {command}"[: 63 - len(end)] + end  # the server keeps 63 characters


def drop_pooled(dsn: str) -> None:
    """Forget pooled connections of a database, so that the next one is made anew: a pool outlives a failover."""
    if dsn in _engines:
        _engines[dsn].dispose()


_engines: Final[dict[str, sa.Engine]] = {}


def engine(dsn: str) -> sa.Engine:
    """Return the engine of a database: always UTC, checked before use so that a restarted server is noticed at once."""
    if dsn not in _engines:
        _engines[dsn] = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: connect(dsn), poolclass=_Pool, pool_pre_ping=True, pool_size=5
        )
    return _engines[dsn]


def bounded_engine(dsn: str, connections: int, statement_timeout_s: float) -> sa.Engine:
    """Return an engine of its own with so many connections at most, whose statements end after a time."""

    def made() -> psycopg.Connection[TupleRow]:
        connection = connect(dsn, autocommit=True)
        connection.execute(
            "select set_config('statement_timeout', %s, false)", [f"{round(statement_timeout_s * 1000)}ms"]
        )
        connection.autocommit = False
        return connection

    bounded = sa.create_engine(
        "postgresql+psycopg://", creator=made, poolclass=_Pool, pool_size=connections, max_overflow=0
    )
    # Checked before use once it lay idle: of requests that follow each other, the check was one round trip in six.
    sa.event.listen(bounded, "checkin", lambda _, record: record.info.update(idle_since=time.monotonic()))
    sa.event.listen(bounded, "checkout", lambda raw, record, _: _check_idle(bounded, raw, record.info))
    return bounded


_IDLE_S: Final = 1.0
"""A server that restarts is away for longer: connections in use meanwhile fail, and the pool is made anew."""


def _check_idle(of: sa.Engine, raw: DBAPIConnection, info: Mapping[str, float]) -> None:
    if time.monotonic() - info.get("idle_since", time.monotonic()) > _IDLE_S:
        try:
            of.dialect.do_ping(raw)
        except psycopg.Error as error:
            raise sa.exc.DisconnectionError from error


class _Pool(sa.QueuePool):
    """A pool that, once it was disposed of, closes what comes back to it: SQLAlchemy leaves that to the garbage collector."""

    _is_disposed = False

    def dispose(self) -> None:
        self._is_disposed = True
        super().dispose()

    def _do_return_conn(self, record: sa.pool.ConnectionPoolEntry) -> None:
        if self._is_disposed:
            record.close()
        else:
            super()._do_return_conn(record)


def close_engines() -> None:
    """Close every pooled connection; engines are made anew when they are asked for."""
    for made in _engines.values():
        made.dispose()
    _engines.clear()


def connect(dsn: str, autocommit: bool = False) -> psycopg.Connection[TupleRow]:
    """Return a psycopg connection in UTC, to the tables; raises DatabaseUnavailable in one line when there is none, InvalidAddress."""
    check_address(dsn)
    try:
        # Tables are in `public`; the schema of the contract must not hide them from a login of its name.
        connection = psycopg.connect(
            dsn,
            autocommit=autocommit,
            connect_timeout=10,
            application_name=_name,
            options="-c timezone=UTC -c search_path=public",
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"database: {str(error).strip().splitlines()[0]}; is it up? (parcelwatch stack status)"
        ) from error
    connection.adapters.register_dumper("numpy.ndarray", BigintsDumper)
    set_json_loads(from_json, connection)  # a season's history has 600 documents: a third of the time until it is here
    return connection


def check_address(dsn: str) -> None:
    """Check a connection string without connecting. Errors: InvalidAddress.

    A special character in a password that is not percent-encoded moves parts of it into host, port or database,
    which then stand in messages: an "@" there says so.
    """
    try:
        parts = conninfo_to_dict(dsn)
        [int(port) for port in str(parts.get("port") or 0).split(",")]
        is_torn = any("@" in str(parts.get(part) or "") for part in ("host", "port", "dbname"))
    except (psycopg.Error, ValueError):
        is_torn = True
    if is_torn:
        raise InvalidAddress(
            "the connection string of the database (PARCELWATCH_DSN) cannot be read: it is "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters of the password written as %40 for @ and so on"
        ) from None  # the cause repeats parts of the string


def driver(connection: sa.Connection) -> psycopg.Connection[TupleRow]:
    """Return the psycopg connection below a SQLAlchemy one: same transaction, for COPY."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def address_parts(dsn: str) -> dict[str, str]:
    """Return host, port, user, password and dbname of a connection string."""
    return {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}


def answers(dsn: str) -> bool:
    """Return whether a server answers at an address within five seconds."""
    try:
        psycopg.connect(make_conninfo(dsn, connect_timeout=5)).close()
    except psycopg.OperationalError:
        return False
    return True
