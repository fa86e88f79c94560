"""Markers of parcels: the newest of each read as columns, appended where one changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import append
from db.columns import fetch_columns
from db.series import Keys

_JSONB_VERSION = b"\x01"
"""With which a binary jsonb begins (PostgreSQL 17 manual, `jsonb_recv`)."""


@dataclass(frozen=True)
class MarkerRows:
    """What markers say of parcels; arrays (N,)."""

    parcel_key: Keys
    marker: Sequence[str]
    version: Sequence[str]
    status: Sequence[str]
    value: NDArray[np.floating]
    """NaN where there is none."""
    day: NDArray[np.datetime64]
    """When it most likely happened, NaT where it did not."""
    confidence: NDArray[np.floating]
    """NaN where there is none."""
    evidence: Sequence[str]
    """JSON."""


@dataclass(frozen=True)
class MarkerRow:
    """What a marker says of a parcel as known at a time (columns of the SQL function `markers_known`)."""

    marker: str
    status: str
    value: float | None
    day: date | None
    confidence: float | None
    evidence: Mapping[str, Any]
    version: str
    recorded_at: datetime


def known(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[MarkerRow]:
    """Return what markers say of a parcel as known at a time (None: now)."""
    rows = connection.execute(
        sa.text("select * from markers_known(:parcel, coalesce(:at, timestamptz 'infinity'))").bindparams(
            sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))
        ),
        {"parcel": parcel_key, "at": as_known_at},
    )
    return [MarkerRow(**row._mapping) for row in rows]


def every(connection: sa.Connection, parcels: Keys, marker: str) -> list[tuple[int, MarkerRow]]:
    """Return keys and rows of all that a marker ever said of parcels, in the order in which it became known."""
    rows = connection.exec_driver_sql(
        """select key, marker, status::text, value, day, confidence, evidence, version, recorded_at
           from unnest(%s::bigint[]) key cross join lateral (
               select * from markers where (parcel_key, marker) = (key, %s) offset 0) said
           order by recorded_at""",
        (parcels, marker),
    )
    return [(key, MarkerRow(*row)) for key, *row in rows]


def latest(
    connection: sa.Connection, parcels: Keys, markers: Sequence[str], statuses: Sequence[str]
) -> NDArray[np.void]:
    """Return the newest row of each parcel and marker that has one.

    Fields: parcel_key; marker_nr and status_nr, places in `markers` and `statuses`; value and confidence, NaN for none; day, NaT for none.
    """
    rows = fetch_columns(
        connection,
        """select key as parcel_key, nr - 1 as marker_nr, array_position(%s::text[], status::text) - 1 as status_nr, value,
                  confidence, coalesce(day, '-infinity') as day
           from unnest(%s::bigint[]) key cross join unnest(%s::text[]) with ordinality as m (name, nr)
           cross join lateral (
               select status, value, confidence, day from markers
               where (parcel_key, marker) = (key, name) order by recorded_at desc limit 1) newest""",
        [list(statuses), parcels, list(markers)],
        {
            "parcel_key": "bigint",
            "marker_nr": "int",
            "status_nr": "int",
            "value": "real",
            "confidence": "real",
            "day": "date",
        },
    )
    rows["day"][rows["day"] < np.datetime64("0001-01-01")] = np.datetime64("NaT")
    return rows


def save(connection: sa.Connection, found: MarkerRows, now: datetime) -> None:
    """Append what markers say."""
    columns = {
        "marker": pa.array(found.marker),
        "version": pa.array(found.version),
        "status": pa.array(found.status),
        "value": pa.array(found.value.astype(np.float32), from_pandas=True),
        "day": pa.array(found.day.astype("M8[D]"), pa.date32()),
        "confidence": pa.array(found.confidence.astype(np.float32), from_pandas=True),
        "evidence": pa.array([_JSONB_VERSION + one.encode() for one in found.evidence], pa.binary()),
    }
    append(connection, "markers", found.parcel_key, columns, now)
