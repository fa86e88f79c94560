"""Numpy arrays come to the server as they are, whatever their type and byte order."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from db.connect import driver, engine


@pytest.fixture
def connection(shared_dsn: str) -> Iterator[sa.Connection]:
    with engine(shared_dsn).connect() as opened:
        yield opened


@pytest.mark.parametrize("kind", ["i2", ">i4", "i8", "u4"])
def test_integers_arrive(connection: sa.Connection, kind: str) -> None:
    given = np.array([3, 0, 2**15 - 1], kind)
    rows = driver(connection).execute("select pg_typeof(%s)::text, %s", [given, given[::-1]]).fetchall()
    assert rows == [("bigint[]", given[::-1].tolist())]


@pytest.mark.parametrize("unit", ["us", "s", "D"])
def test_times_arrive_in_utc(connection: sa.Connection, unit: str) -> None:
    given = np.array(["1999-12-31", "2025-06-30", "1969-01-01"], f"M8[{unit}]")
    (row,) = driver(connection).execute(
        "select pg_typeof(%s)::text, array(select (t at time zone 'UTC')::text from unnest(%s) t)", [given, given]
    )
    assert row == ("timestamp with time zone[]", [f"{day} 00:00:00" for day in given.astype("M8[D]").astype(str)])
    exact = np.array(["2025-06-30T10:20:30.123456"], "M8[us]")
    assert driver(connection).execute("select extract(microseconds from (%s)[1])::int", [exact]).fetchone() == (
        30123456,
    )


def test_empty_arrays_keep_their_type(connection: sa.Connection) -> None:
    for given, kind in ((np.empty(0, np.int64), "bigint[]"), (np.empty(0, "M8[us]"), "timestamp with time zone[]")):
        found = driver(connection).execute("select pg_typeof(%s)::text, cardinality(%s)", [given, given]).fetchone()
        assert found == (kind, 0)


@pytest.mark.parametrize(
    "given", [np.zeros((2, 2), int), np.array([0.5]), np.array([True]), np.array(["2025-01-01", "NaT"], "M8[us]")]
)
def test_what_is_no_list_of_integers_or_times_is_refused(connection: sa.Connection, given: NDArray[np.generic]) -> None:
    with pytest.raises(psycopg.DataError, match="no list of integers or times"):
        driver(connection).execute("select %s", [given])
