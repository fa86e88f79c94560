"""Phenology of parcels' seasons: the newest of each read as columns, appended where it changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

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
    if not len(found.parcel_key):
        return
    dates = {name: getattr(found, name).astype("M8[D]").tolist() for name in DATES}
    numbers = {name: getattr(found, name) for name in NUMBERS}
    # An array for each row is a slice of one that holds those of all: unnest knows no arrays of arrays.
    slices = ", ".join(
        f"(cast(:{name} as real[]))[cast(:n_{name} as int) * (nr - 1) + 1 \\: cast(:n_{name} as int) * nr]"
        for name in NUMBERS
    )
    connection.execute(
        sa.text(f"""
            insert into phenology (parcel_key, recorded_at, outcome, reason, sos, pos, eos, is_complete, {", ".join(NUMBERS)})
            select parcel_key, :now, case when reason is null then 'OK' else 'NOT_VALID' end::outcome, reason, sos, pos, eos,
                   :is_complete, {slices}
            from unnest(cast(:keys as bigint[]), cast(:reasons as text[]),
                        cast(:sos as date[]), cast(:pos as date[]), cast(:eos as date[]))
                with ordinality as found (parcel_key, reason, sos, pos, eos, nr)
            on conflict do nothing"""),
        {
            "now": now,
            "keys": found.parcel_key,
            "reasons": list(found.reason),
            "is_complete": found.is_complete,
            **dates,
            **{name: None if one is None else one.astype(np.float64).ravel().tolist() for name, one in numbers.items()},
            **{f"n_{name}": 0 if one is None else one.shape[1] for name, one in numbers.items()},
        },
    )
