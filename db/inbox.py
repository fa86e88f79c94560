"""What the order of the inbox rests on: of each alert its place in the work, hectares, day and group of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import recording
from db.columns import Kind, fetch_columns
from db.history import AlertFilter
from db.tables import PENDING_STATES

_COLUMNS: Final[dict[str, Kind | int]] = {
    "alert_key": "bigint",
    "parcel_key": "bigint",
    "is_pending": "bool",
    "is_open": "bool",
    "is_red": "bool",
    "confidence": "real",
    "area_ha": "real",
    "departed_on": "date",
    "group_nr": "int",
}

_NOW: Final = "alerts"
"""The rows of open alerts, by their index, and not their logs."""
_THEN: Final = "alerts_recorded_by(%(at)s::timestamptz)"
"""What the logs of alerts add up to."""
_DECLARED: Final = """left join lateral (
    select crop_code, hcat_code from declarations d
    where d.parcel_key = wanted.parcel_key and recorded_at <= coalesce({at}, timestamptz 'infinity')
    order by recorded_at desc limit 1) declared on true"""
"""The newest declaration by a time of the parcels that are `wanted`."""
# The alerts first: else the planner may join all parcels with their logs, where it knows nothing of a table yet.
_RANKED: Final = """
with wanted as materialized (
    select alert_key, parcel_key, state, colour, confidence, departed_on, closed_at from {source}
    where {is_wanted} (%(rule)s::text is null or rule = %(rule)s) and (%(alert_key)s::bigint is null or alert_key = %(alert_key)s))
select alert_key, parcel_key, state = any(%(pending)s::alert_state[]) as is_pending, closed_at is null as is_open,
       colour = 'red' as is_red, confidence, area_ha, departed_on,
       dense_rank() over (order by season_key, collection, region_key, crop_code) - 1 as group_nr
from wanted join parcels using (parcel_key) {declared}
where (%(collection)s::text is null or collection = %(collection)s)
  and (%(region)s::text is null or region_key = (select region_key from regions where code = %(region)s))
  and (%(colour)s::text is null or colour::text = %(colour)s) and (%(state)s::text is null or state::text = %(state)s)
  and (%(season)s::text is null or season_key = (select season_key from seasons where name = %(season)s))"""


@dataclass(frozen=True)
class GroupRow:
    """Parcels of one declared crop in one region, collection and season."""

    season_key: int
    season: str
    starts_on: date
    ends_on: date
    collection: str
    region: str
    crop_code: str | None
    hcat_code: str | None


def ranked(connection: sa.Connection, wanted: AlertFilter, as_known_at: datetime | None) -> NDArray[np.void]:
    """Return of each alert that is wanted, as known at a time (None: now), what its place in the inbox rests on; in no order.

    `group_nr` numbers declared crops of regions from 0; `area_ha` is NaN where it is not known.
    """
    recording.settle(connection, as_known_at)
    statement = _RANKED.format(
        source=_NOW if as_known_at is None else _THEN,
        is_wanted="" if wanted.with_closed else "closed_at is null and",
        declared=_DECLARED.format(at="%(at)s"),
    )
    given = {**wanted.__dict__, "pending": list(PENDING_STATES), "at": as_known_at}
    return fetch_columns(connection, statement, given, _COLUMNS)


def groups_of(connection: sa.Connection, parcels: Sequence[int], as_known_at: datetime | None) -> list[GroupRow]:
    """Return the group of each parcel as declared by a time that is settled (None: now), in their order."""
    rows = connection.execute(
        sa.text(f"""
            select season_key, s.name as season, starts_on, ends_on, collection, r.code as region, crop_code, hcat_code
            from unnest(cast(:parcels as bigint[])) with ordinality as wanted (parcel_key, nr)
            join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
            {_DECLARED.format(at=":at")}
            order by nr""").bindparams(sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))),
        {"parcels": list(parcels), "at": as_known_at},
    )
    return [GroupRow(**row._mapping) for row in rows]
