"""Binary COPY written column by column brings back what went in: nulls, lengths, extremes, in any mixture."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from db.binary_copy import _ROWS_AT_ONCE, copy_into
from db.connect import connect, engine

KINDS = {
    "nr": (pa.int32(), "integer", st.integers(-(2**31), 2**31 - 1)),
    "big": (pa.int64(), "bigint", st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int16(), "smallint", st.integers(-(2**15), 2**15 - 1)),
    "real": (pa.float32(), "real", st.floats(width=32, allow_nan=False)),
    "is_so": (pa.bool_(), "boolean", st.booleans()),
    "at": (
        pa.timestamp("us", "UTC"),
        "timestamptz",
        st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    ),
    "words": (
        pa.string(),
        "text",
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    ),
    "pixels": (pa.binary(), "bytea", st.binary(max_size=6) | st.sampled_from([bytes(4), b"\1\0\0\0"])),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, _, values) in KINDS.items()}), max_size=12
)


@given(rows=ROWS, skipped=st.integers(0, 3))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_copied_in_comes_out(dsn: str, rows: list[dict[str, object]], skipped: int) -> None:
    schema = pa.schema([("ordinal", pa.int32()), *((name, kind) for name, (kind, _, _) in KINDS.items())])
    numbered = [{"ordinal": nr} | row for nr, row in enumerate(rows)]
    # A slice: the columns' buffers then begin before their first row.
    table = pa.Table.from_pylist(numbered, schema=schema).slice(min(skipped, len(rows)))
    in_order = ["ordinal", *(name for name in KINDS if name != "real")]
    columns = ", ".join(f"{name} {kind}" for name, (_, kind, _) in KINDS.items())
    with engine(dsn).begin() as connection:
        connection.execute(sa.text(f"create temp table copied (ordinal integer, {columns}) on commit drop"))
        copy_into(connection, "copied", table.column_names, table)
        # A real as text has its shortest digits: as a double it has them all.
        query = f"select {', '.join(in_order)}, real::float8 from copied order by ordinal"
        found = [tuple(row) for row in connection.execute(sa.text(query))]
    assert found == [tuple(row[name] for name in (*in_order, "real")) for row in table.to_pylist()]


def test_more_rows_than_a_block_are_copied_whole(dsn: str) -> None:
    numbers = np.arange(2 * _ROWS_AT_ONCE + 1, dtype=np.int32)
    texts = [f"{number:05}" for number in numbers.tolist()]
    with engine(dsn).begin() as connection:
        connection.execute(sa.text("create temp table copied (nr integer, words text) on commit drop"))
        copy_into(connection, "copied", ("nr", "words"), pa.table({"nr": numbers, "words": texts}))
        found = [tuple(row) for row in connection.execute(sa.text("select nr, words from copied order by nr"))]
    assert found == list(zip(numbers.tolist(), texts, strict=True))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_array_of_integers_is_a_parameter(dsn: str, numbers: list[int]) -> None:
    with connect(dsn) as connection:
        found = connection.execute("select unnest(%s)", [np.array(numbers, np.int64)]).fetchall()
    assert [number for (number,) in found] == numbers


@pytest.mark.parametrize("values", [np.zeros((2, 2), np.int64), np.zeros(2)], ids=["two dimensions", "no integers"])
def test_another_array_is_no_parameter(dsn: str, values: NDArray[Any]) -> None:
    with connect(dsn) as connection, pytest.raises(psycopg.DataError, match="no list of integers"):
        connection.execute("select unnest(%s)", [values])
