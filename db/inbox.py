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
    "group_hash": "bigint",
}

_DECLARED: Final = """left join lateral (
    select crop_code, hcat_code from declarations d
    where d.parcel_key = {parcel_key} and recorded_at <= coalesce({at}, timestamptz 'infinity')
    order by recorded_at desc limit 1) declared on true"""
"""The newest declaration of a parcel by a time."""
# What alerts have of their parcels: of 100,000 parcels to read as many rows twice took most of the time.
_NOW: Final = """
select alert_key, parcel_key, rule, state, colour, confidence, departed_on, closed_at, parcel_season_key as season_key,
       parcel_collection as collection, parcel_region_key as region_key, parcel_area_ha as area_ha, parcel_crop_code as crop_code
from alerts"""
# The alerts first: else the planner may join all parcels with their logs, where it knows nothing of a table yet.
_THEN: Final = f"""
with wanted as materialized (
    select alert_key, parcel_key, rule, state, colour, confidence, departed_on, closed_at
    from alerts_recorded_by(%(at)s::timestamptz)
    where (%(rule)s::text is null or rule = %(rule)s) and (%(alert_key)s::bigint is null or alert_key = %(alert_key)s))
select wanted.*, season_key, collection, region_key, area_ha, crop_code from wanted join parcels using (parcel_key)
{_DECLARED.format(parcel_key="wanted.parcel_key", at="%(at)s")}"""
"""What the logs of alerts add up to."""
_RANKED: Final = """
select alert_key, parcel_key, state = any(%(pending)s::alert_state[]) as is_pending, closed_at is null as is_open,
       colour = 'red' as is_red, confidence, area_ha, departed_on,
       hashtextextended(collection, hashtextextended(coalesce(crop_code, ' '), season_key::bigint << 16 | region_key)) as group_hash
from ({source}) known
where {is_wanted} (%(rule)s::text is null or rule = %(rule)s) and (%(alert_key)s::bigint is null or alert_key = %(alert_key)s)
  and (%(collection)s::text is null or collection = %(collection)s)
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

    `group_hash` is the same for parcels of one declared crop, region, collection and season; `area_ha` is NaN where it is not known.
    """
    recording.settle(connection, as_known_at)
    statement = _RANKED.format(
        source=_NOW if as_known_at is None else _THEN, is_wanted="" if wanted.with_closed else "closed_at is null and"
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
            {_DECLARED.format(parcel_key="wanted.parcel_key", at=":at")}
            order by nr""").bindparams(sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))),
        {"parcels": list(parcels), "at": as_known_at},
    )
    return [GroupRow(**row._mapping) for row in rows]
