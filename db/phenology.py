"""Dates of parcels' seasons: the newest of each read as columns, appended where they changed."""

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


@dataclass(frozen=True)
class SeasonDates:
    """Start, peak and end of the seasons of N parcels, days (N,), NaT for none."""

    parcel_key: Keys
    reason: Sequence[str | None]
    """Why there are no dates; None where there are."""
    sos: NDArray[np.datetime64]
    pos: NDArray[np.datetime64]
    eos: NDArray[np.datetime64]


def latest(connection: sa.Connection, parcels: Keys, starts_on: date, reasons: Sequence[str]) -> NDArray[np.void]:
    """Return the newest dates of parcels that have any: parcel_key, reason_nr, and sos, pos, eos in days since `starts_on`.

    `reason_nr` is the place in `reasons` of why there are no dates, -1 where there are; a date that is not known is -1.
    """
    return fetch_columns(
        connection,
        """select newest.parcel_key, coalesce(sos - %s::date, -1) as sos, coalesce(pos - %s::date, -1) as pos,
                  coalesce(eos - %s::date, -1) as eos,
                  case when reason is null then -1 else coalesce(array_position(%s::text[], reason) - 1, -2) end as reason_nr
           from unnest(%s::bigint[]) as wanted (key) cross join lateral (
               select * from phenology where parcel_key = key order by recorded_at desc limit 1) newest""",
        [starts_on, starts_on, starts_on, list(reasons), parcels],
        {"parcel_key": "bigint", "reason_nr": "int", **dict.fromkeys(DATES, "int")},
    )


def save(connection: sa.Connection, found: SeasonDates, now: datetime) -> None:
    """Append start, peak and end of seasons."""
    if not len(found.parcel_key):
        return
    dates = {name: getattr(found, name).astype("M8[D]").tolist() for name in DATES}
    connection.execute(
        sa.text("""
            insert into phenology (parcel_key, recorded_at, outcome, reason, sos, pos, eos)
            select parcel_key, :now, case when reason is null then 'OK' else 'NOT_VALID' end::outcome, reason, sos, pos, eos
            from unnest(cast(:keys as bigint[]), cast(:reasons as text[]),
                        cast(:sos as date[]), cast(:pos as date[]), cast(:eos as date[]))
                as found (parcel_key, reason, sos, pos, eos)
            on conflict do nothing"""),
        {"now": now, "keys": found.parcel_key, "reasons": list(found.reason), **dates},
    )
