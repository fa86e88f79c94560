"""Which database errors mean that the server cannot be had."""

import psycopg
import pytest
import sqlalchemy as sa

from db.connect import DatabaseUnavailable, is_away


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.AdminShutdown(),
        psycopg.errors.CannotConnectNow(),
        psycopg.errors.ConnectionFailure(),
        psycopg.errors.ReadOnlySqlTransaction(),
        psycopg.errors.TooManyConnections(),
        DatabaseUnavailable("no database"),
    ],
)
def test_a_server_that_cannot_be_had_is_away(error: Exception) -> None:
    assert is_away(error)
    assert is_away(sa.exc.OperationalError("select 1", {}, error))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.QueryCanceled(),
        psycopg.errors.DiskFull(),
        psycopg.errors.OutOfMemory(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.UndefinedTable(),
        ValueError("nothing of the database's"),
    ],
)
def test_a_server_that_answers_is_not_away(error: Exception) -> None:
    assert not is_away(error)
    assert not is_away(sa.exc.OperationalError("select 1", {}, error))
