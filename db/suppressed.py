"""Departures that give no alert because their date lies in a suppression window: kept as findings, listed with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db import recording
from db.history import AlertFilter


@dataclass(frozen=True)
class SuppressedRow:
    """A departure without an alert, as the newest finding of its parcel and rule says."""

    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    rule: str
    colour: str
    confidence: float
    departed_on: date
    recorded_at: datetime
    evidence: Mapping[str, Any]
    """`suppressed` names the window, its dates, the reason and the policy."""


# From the index of what names a window; the newest finding of a parcel and rule is one look-up in the key of findings.
_SUPPRESSED = """
    select p.collection, s.name as season, p.source_id, r.code as region, p.area_ha, f.rule, f.colour::text, f.confidence,
           f.departed_on, f.recorded_at, f.evidence
    from findings f join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
    where f.evidence ? 'suppressed' and f.recorded_at <= coalesce(:at, timestamptz 'infinity')
      and not exists (select from findings later where (later.parcel_key, later.rule) = (f.parcel_key, f.rule)
                        and later.recorded_at > f.recorded_at and later.recorded_at <= coalesce(:at, timestamptz 'infinity'))
      and (cast(:season as text) is null or s.name = :season) and (cast(:rule as text) is null or f.rule = :rule)
      and (cast(:collection as text) is null or p.collection = :collection)
    order by f.departed_on desc, p.source_id, f.rule limit :limit"""


def suppressed(
    connection: sa.Connection, wanted: AlertFilter, as_known_at: datetime | None, limit: int
) -> list[SuppressedRow]:
    """Return departures that give no alert as known at a time (None: now), the latest departures first."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text(_SUPPRESSED).bindparams(sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))),
        {
            "season": wanted.season,
            "collection": wanted.collection,
            "rule": wanted.rule,
            "at": as_known_at,
            "limit": limit,
        },
    )
    return [SuppressedRow(**row._mapping) for row in rows]
