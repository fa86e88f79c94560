"""Phenology of parcels' seasons: the newest of each read as columns, appended where it changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import append
from db.columns import fetch_columns
from db.series import Keys

DATES: Final = ("sos", "pos", "eos")
NUMBERS: Final = ("measures", "measures_sd", "logistic", "logistic_sd")
"""Columns of real[], in the orders of `models.season_metrics.METRICS` and `models.double_logistic.PARAMETERS`."""

Reals = NDArray[np.floating]


@dataclass(frozen=True)
class SeasonDates:
    """Start, peak and end of the seasons of N parcels, days (N,), NaT for none; measures, NaN for none."""

    parcel_key: Keys
    reason: Sequence[str | None]
    """Why there are no dates; None where there are."""
    sos: NDArray[np.datetime64]
    pos: NDArray[np.datetime64]
    eos: NDArray[np.datetime64]
    is_complete: bool
    """Whether the season was over."""
    measures: Reals
    """(N, K)"""
    measures_sd: Reals
    """(N, K)"""
    logistic: Reals | None
    """(N, L) parameters of the fitted double logistic; None where none was fitted."""
    logistic_sd: Reals | None


@dataclass(frozen=True)
class MeasureRow:
    """A measure of a parcel's season as known at a time (columns of the SQL function `phenology_known`)."""

    measure: str
    method: str
    value: float | None
    sd: float | None
    day: date | None
    unit: str
    status: str
    recorded_at: datetime


def known(connection: sa.Connection, parcel_key: int, as_known_at: datetime | None) -> list[MeasureRow]:
    """Return the measures of a parcel's season as known at a time (None: now)."""
    rows = connection.execute(
        sa.text("select * from phenology_known(:parcel, coalesce(:at, timestamptz 'infinity'))").bindparams(
            sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))
        ),
        {"parcel": parcel_key, "at": as_known_at},
    )
    return [MeasureRow(**row._mapping) for row in rows]


def latest(
    connection: sa.Connection, parcels: Keys, starts_on: date, reasons: Sequence[str], n_measures: int
) -> NDArray[np.void]:
    """Return the newest phenology of parcels that have any.

    Fields: parcel_key; sos, pos, eos in days since `starts_on`, -1 for none; reason_nr, the place in `reasons` of why there are no
    dates, -1 where there are; is_complete; recorded_at; measures and measures_sd (n_measures,), NaN where there is none.
    """
    measured = dict.fromkeys(NUMBERS[:2], n_measures)
    return fetch_columns(
        connection,
        """select newest.parcel_key, coalesce(sos - %s::date, -1) as sos, coalesce(pos - %s::date, -1) as pos,
                  coalesce(eos - %s::date, -1) as eos, recorded_at, coalesce(is_complete, false) as is_complete,
                  coalesce(measures, nothing) as measures, coalesce(measures_sd, nothing) as measures_sd,
                  case when reason is null then -1 else coalesce(array_position(%s::text[], reason) - 1, -2) end as reason_nr
           from array_fill('NaN'::real, array[%s::int]) nothing cross join unnest(%s::bigint[]) as wanted (key)
           cross join lateral (
               select * from phenology where parcel_key = key order by recorded_at desc limit 1) newest""",
        [starts_on, starts_on, starts_on, list(reasons), n_measures, parcels],
        {
            "parcel_key": "bigint",
            "reason_nr": "int",
            "recorded_at": "time",
            "is_complete": "bool",
            **dict.fromkeys(DATES, "int"),
            **measured,
        },
    )


def save(connection: sa.Connection, found: SeasonDates, now: datetime) -> None:
    """Append phenology of seasons."""
    columns = {
        "outcome": pa.array(["OK" if reason is None else "NOT_VALID" for reason in found.reason]),
        "reason": pa.array(found.reason, pa.string()),
        "is_complete": pa.repeat(pa.scalar(found.is_complete), len(found.parcel_key)),
        **{name: pa.array(getattr(found, name).astype("M8[D]"), pa.date32()) for name in DATES},
    }
    for name in NUMBERS:
        if (numbers := getattr(found, name)) is not None:
            flat = pa.array(numbers.astype(np.float32).ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1])
    append(connection, "phenology", found.parcel_key, columns, now)
