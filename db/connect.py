"""Connections: SQLAlchemy for reads, psycopg underneath for COPY, one place for both."""

from typing import Final, LiteralString

import psycopg
import sqlalchemy as sa
from psycopg.rows import TupleRow

APPLICATION_NAME: LiteralString = "parcelwatch"


class DatabaseUnavailable(Exception):
    """No connection could be had; the caller waits and tries again, nothing was written."""


_engines: Final[dict[str, sa.Engine]] = {}


def engine(dsn: str) -> sa.Engine:
    """The engine of a database: always UTC, checked before use so that a restarted server is noticed at once."""
    if dsn not in _engines:
        _engines[dsn] = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: connect(dsn), pool_pre_ping=True, pool_size=5
        )
    return _engines[dsn]


def close_engines() -> None:
    """Closes every pooled connection; engines are made anew when they are asked for."""
    for made in _engines.values():
        made.dispose()
    _engines.clear()


def connect(dsn: str, autocommit: bool = False) -> psycopg.Connection[TupleRow]:
    """A psycopg connection in UTC; raises DatabaseUnavailable in one line when there is none."""
    try:
        return psycopg.connect(
            dsn, autocommit=autocommit, connect_timeout=10, application_name=APPLICATION_NAME, options="-c timezone=UTC"
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"database: {str(error).strip().splitlines()[0]}; is it up? (parcelwatch stack status)"
        ) from error


def driver(connection: sa.Connection) -> psycopg.Connection[TupleRow]:
    """The psycopg connection below a SQLAlchemy one: same transaction, for COPY."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw
