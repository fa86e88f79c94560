"""What people look at: a parcel's history as known at a time, open alerts, the state of the whole chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True)
class HistoryRow:
    """One thing known of a parcel (columns of the SQL function `parcel_history`)."""

    at: datetime
    kind: str
    recorded_at: datetime
    relative_orbit: int | None
    ndvi: float | None
    ndvi_sd: float | None
    origin: str | None
    vv_db: float | None
    vh_db: float | None
    crop: str | None
    probability: float | None
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class OpenAlertRow:
    """An alert that is not closed (columns of the view `open_alerts`)."""

    alert_key: int
    collection: str
    season: str
    source_id: str
    region: str
    declared_crop: str | None
    rule: str
    state: str
    colour: str
    confidence: float
    departed_on: date
    opened_at: datetime
    confirmed_at: datetime | None
    evidence: Mapping[str, Any]


def find_parcel(
    connection: sa.Connection, source_id: str, collection: str | None, season: str | None
) -> list[tuple[int, str, str]]:
    """Keys of the parcels with a source id, with collection and season, newest season first."""
    rows = connection.execute(
        sa.text("""select parcel_key, collection, name from parcels join seasons using (season_key)
                   where source_id = :source_id and (cast(:collection as text) is null or collection = :collection)
                     and (cast(:season as text) is null or name = :season) order by starts_on desc, collection"""),
        {"source_id": source_id, "collection": collection, "season": season},
    )
    return [(row.parcel_key, row.collection, row.name) for row in rows]


def parcel_history(
    connection: sa.Connection,
    parcel_key: int,
    first: datetime | None,
    last: datetime | None,
    as_known_at: datetime | None,
) -> list[HistoryRow]:
    """All that is known of a parcel between two times as known at a third, in order of time."""
    rows = connection.execute(
        sa.text("""select * from parcel_history(:parcel, coalesce(:first, '-infinity'), coalesce(:last, 'infinity'),
                                                coalesce(:as_known_at, 'infinity'))""").bindparams(
            *(sa.bindparam(name, type_=sa.TIMESTAMP(timezone=True)) for name in ("first", "last", "as_known_at"))
        ),
        {"parcel": parcel_key, "first": first, "last": last, "as_known_at": as_known_at},
    )
    return [HistoryRow(**row._mapping) for row in rows]


def open_alerts(
    connection: sa.Connection, season: str | None = None, collection: str | None = None, rule: str | None = None,
    limit: int = 1000,
) -> list[OpenAlertRow]:  # fmt: skip
    """Alerts that are not closed: confirmed ones first, then the surest."""
    rows = connection.execute(
        sa.text("""select alert_key, collection, season, source_id, region, declared_crop, rule, state, colour, confidence,
                          departed_on, opened_at, confirmed_at, evidence
                   from open_alerts
                   where (cast(:season as text) is null or season = :season) and (cast(:rule as text) is null or rule = :rule)
                     and (cast(:collection as text) is null or collection = :collection)
                   order by colour desc, confidence desc, alert_key limit :limit"""),
        {"season": season, "collection": collection, "rule": rule, "limit": limit},
    )
    return [OpenAlertRow(**row._mapping) for row in rows]


def status(connection: sa.Connection) -> Sequence[tuple[str, str, str]]:
    """The state of the chain as (part, what, value), for people."""
    rows = connection.execute(
        sa.text("""
        select 'scenes', state || case state when 'failed' then ': ' || cause else '' end, to_char(count(*), 'FM999,999,999')
                || coalesce(', next try ' || min(next_try_at)::timestamptz(0), '') from found_scenes group by state, cause
        union all select 'scenes', 'looks failing: ' || source, errors_in_row || ', last: ' || last_error from scene_sources
            where errors_in_row > 0
        union all select 'ingest', 'observations stored of ' || sensor, to_char(sum(parcels), 'FM999,999,999,999')
            from scene_ledger join scenes using (scene_key) where outcome = 'stored' group by sensor
        union all select 'ingest', 'newest observation of ' || of_sensor, coalesce(max(observed_at)::text, 'none')
            from unnest(enum_range(null::sensor)) of_sensor left join scenes on sensor = of_sensor group by of_sensor
        union all select 'ingest', 'dead letters: ' || reason_code, count(*)::text from dead_letters
            where redriven_at is null group by reason_code
        union all select 'parcels', name || ' / ' || collection,
                count(*) filter (where not_monitorable_reason is null) || ' watched, '
                || count(*) filter (where not_monitorable_reason is not null) || ' not monitorable'
            from parcels join seasons using (season_key) group by name, collection
        union all select 'models', task || ' of ' || name || ' / ' || collection, left(model_id, 12) || ' since ' || a.recorded_at::text
            from (select distinct on (season_key, collection, task) * from model_activations
                  order by season_key, collection, task, recorded_at desc) a
            join models using (model_key, task) join seasons using (season_key)
        union all select 'monitor', 'pending in ' || name || ' / ' || collection,
                count(distinct parcel_key) || ' parcels, oldest since ' || min(w.recorded_at)
                || case when bool_and(not exists (select from model_activations a
                                      where (a.season_key, a.collection) = (p.season_key, p.collection)))
                   then ' (waits: no model is active for it)' else '' end
            from pending_work w join parcels p using (parcel_key) join seasons using (season_key) group by name, collection
        union all select 'monitor', 'postponed', count(distinct parcel_key) || ' parcels: ' || max(last_error)
            from pending_work where attempts > 0 having count(*) > 0
        union all select 'alerts', 'open, ' || rule || ', ' || colour, count(*)::text from alerts
            where closed_at is null group by rule, colour
        order by 1, 2""")
    )
    return [(str(a), str(b), str(c)) for a, b, c in rows]
