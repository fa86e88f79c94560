"""Rows of a query as numpy columns: the server joins their binary forms to one value, which is one structured array.

Reading row by row, COPY too, costs Python microseconds a row; fields of fixed width need none of that: 3 times as fast as COPY.

Source: PostgreSQL 17 manual, the binary send functions of its types (big endian; times in microseconds since 2000-01-01).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.connect import driver

Kind = Literal["bigint", "int", "smallint", "real", "bool", "time", "date"]
_WIRE: Final[Mapping[Kind, str]] = {
    "bigint": ">i8",
    "int": ">i4",
    "smallint": ">i2",
    "real": ">f4",
    "bool": ">i1",
    "time": ">i8",
    "date": ">i4",
}
_SEND: Final[Mapping[Kind, str]] = {
    "bigint": "int8send({}::bigint)",
    "int": "int4send({}::int)",
    "smallint": "int2send({}::smallint)",
    "real": "float4send(coalesce({}, 'NaN')::real)",
    "bool": "boolsend({}::boolean)",
    "time": "timestamptz_send({}::timestamptz)",
    "date": "date_send({}::date)",
}
_ARRAY_HEAD: Final = [("dimensions", ">i4"), ("has_null", ">i4"), ("oid", ">i4"), ("length", ">i4"), ("lower", ">i4")]
EPOCH: Final = np.datetime64("2000-01-01T00:00:00", "us")  # PostgreSQL counts microseconds and days from here


def fetch_columns(
    connection: sa.Connection,
    query: str,
    parameters: Sequence[object] | Mapping[str, object],
    columns: Mapping[str, Kind | int],
) -> NDArray[np.void]:
    """Return rows of `query`, in its order, as a structured array with the fields `columns`; a number n is a real[] of n values.

    Null reals come as NaN; other columns must not be null. Times come as datetime64[us] and dates as datetime64[D], UTC.
    The rows are one value of the server's: below 1 GB, so a caller asks for some thousand parcels at a time.
    """
    expressions = " || ".join(
        f"array_send({name}::real[])" if isinstance(kind, int) else _SEND[kind].format(name)
        for name, kind in columns.items()
    )
    # `query` is our own SQL, never a user's.
    statement = f"select string_agg({expressions}, ''::bytea), count(*) from ({query}) source"
    with driver(connection).cursor(binary=True) as cursor:
        found = cursor.execute(statement.encode(), parameters, prepare=False).fetchone()
    assert found is not None
    payload, n = found
    wire = _wire(columns)
    if len(payload or b"") != n * wire.itemsize:  # a null makes a whole row null
        raise ValueError(f"a column of {', '.join(columns)} holds a null, or an array of another length")
    return _native(np.frombuffer(payload or b"", wire), columns)


def no_rows(columns: Mapping[str, Kind | int]) -> NDArray[np.void]:
    """Return what `fetch_columns` does for a query without rows."""
    return _native(np.empty(0, _wire(columns)), columns)


def _wire(columns: Mapping[str, Kind | int]) -> np.dtype[np.void]:
    """Return a row as the server writes it."""
    return np.dtype(
        [(name, real_array(kind) if isinstance(kind, int) else _WIRE[kind]) for name, kind in columns.items()]
    )


def real_array(n: int) -> np.dtype[np.void]:
    """Return how the server writes a real[] of n values, none null."""
    return np.dtype([*_ARRAY_HEAD, ("elements", [("size", ">i4"), ("value", ">f4")], (n,))])


def _native(rows: NDArray[np.void], columns: Mapping[str, Kind | int]) -> NDArray[np.void]:
    kinds: dict[str, Any] = {"time": "M8[us]", "date": "M8[D]", "bool": "?"}
    fields: list[Any] = [
        (name, "=f4", (kind,)) if isinstance(kind, int) else (name, kinds.get(kind, _WIRE[kind].replace(">", "=")))
        for name, kind in columns.items()
    ]
    native = np.empty(len(rows), fields)
    for name, kind in columns.items():
        if isinstance(kind, int):
            native[name] = rows[name]["elements"]["value"]
            continue
        values = rows[name].astype(rows[name].dtype.newbyteorder("="))
        if kind == "time":
            native[name] = EPOCH + values.astype("m8[us]")
        elif kind == "date":
            native[name] = EPOCH.astype("M8[D]") + values.astype("m8[D]")
        else:
            native[name] = values
    return native


def to_utc(time: np.datetime64) -> datetime:
    """Return a numpy time as an aware datetime."""
    moment: datetime = time.astype("M8[us]").item()
    return moment.replace(tzinfo=UTC)
