"""Which database errors mean that the server cannot be had."""

import traceback
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from db.connect import check_address, connect, engine
from db.errors import DatabaseUnavailable, InvalidAddress, is_away


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


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:s3c@ret@host/name",
        "postgresql://user:s3c/ret@host/name",
        "postgresql://user:12/s3cret@host/name",
        "postgresql://user:s3c%ret@host/name",
        "postgresql://user:s3c ret@host/name",
        "postgresql//user:s3cret@host/name",
        "postgresql+psycopg://user:s3cret@host/name",
        "host=host password=s3c ret dbname=name",
        "host=host password='s3cret dbname=name",
        "host=host password=s3cret nonsense=1",
        "s3cret",
        "postgresql://user:s3cret@host:54x2/name",
    ],
)
@pytest.mark.parametrize("use", [connect, lambda dsn: engine(dsn).connect(), check_address])
def test_a_connection_string_that_cannot_be_read_is_one_line_without_the_password(
    dsn: str, use: Callable[[str], object]
) -> None:
    with pytest.raises(InvalidAddress) as raised:
        use(dsn)
    shown = "".join(traceback.format_exception(raised.value, chain=True)).split("InvalidAddress: ")[1:]
    assert len(shown) == 1
    assert str(raised.value).count("\n") == 0
    assert not any(part in str(raised.value) for part in ("s3c", "ret", "user"))
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:s3c%40ret@host:5432/name",
        "postgresql://user:s3c?[ret#@host/name",
        "postgresql://user@/name?host=/run/postgresql",
        "postgresql://one:5432,two:5433/name?target_session_attrs=read-write",
        "host=host port=5432 dbname=name password='s3c@ret'",
        "service=parcels",
        "",
    ],
)
def test_every_form_of_a_connection_string_passes(dsn: str) -> None:
    check_address(dsn)
