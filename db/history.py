"""What people see: a parcel's history as known at a time, open alerts, the state of the whole chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db import recording
from db.sensors import SENSORS
from db.tables import PENDING_STATES


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
class KnownAlertRow:
    """An alert as known at a time (columns of the SQL function `alerts_known`); `outline` GeoJSON in degrees, as of today."""

    alert_key: int
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    declared_crop: str | None
    rule: str
    state: str
    colour: str
    confidence: float
    departed_on: date
    opened_at: datetime
    confirmed_at: datetime | None
    closed_at: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    decision_reason: str | None
    evidence: Mapping[str, Any]
    outline: Mapping[str, Any] | None


@dataclass(frozen=True)
class FirstRecord:
    """When anything of a parcel's observations was recorded first, and what times they cover."""

    recorded_at: datetime
    observed_from: datetime
    observed_to: datetime
    available_from: datetime


@dataclass(frozen=True)
class AlertFilter:
    """Which alerts are asked for; None where a field does not matter."""

    season: str | None = None
    collection: str | None = None
    rule: str | None = None
    with_closed: bool = False
    alert_key: int | None = None
    region: str | None = None
    colour: str | None = None
    state: str | None = None


def find_parcel(
    connection: sa.Connection, source_id: str, collection: str | None, season: str | None
) -> list[tuple[int, str, str]]:
    """Return keys of the parcels with a source id, with collection and season, newest season first."""
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
    """Return all that is known of a parcel between two times as known at a third, in order of time."""
    rows = connection.execute(
        sa.text("""select * from parcel_history(:parcel, coalesce(:first, '-infinity'), coalesce(:last, 'infinity'),
                                                coalesce(:as_known_at, 'infinity'))""").bindparams(
            *(sa.bindparam(name, type_=sa.TIMESTAMP(timezone=True)) for name in ("first", "last", "as_known_at"))
        ),
        {"parcel": parcel_key, "first": first, "last": last, "as_known_at": as_known_at},
    )
    return [HistoryRow(**row._mapping) for row in rows]


def parcel_history_available(connection: sa.Connection, parcel_key: int, as_available_at: datetime) -> list[HistoryRow]:
    """Return observations whose products could be had by a time, and declarations made by then, in order of time."""
    rows = connection.execute(
        sa.text("select * from parcel_history_available(:parcel, as_available_at => :at)"),
        {"parcel": parcel_key, "at": as_available_at},
    )
    return [HistoryRow(**row._mapping) for row in rows]


def parcel_row(connection: sa.Connection, parcel_key: int) -> HistoryRow:
    """Return the parcel itself as a row of its history: kind `parcel`, area in hectares, outline as GeoJSON in degrees."""
    row = connection.execute(
        sa.text("""select p.recorded_at, jsonb_build_object(
                       'collection', collection, 'season', s.name, 'source_id', source_id, 'region', r.code, 'area_ha', area_ha,
                       'not_monitorable_reason', not_monitorable_reason, 'outline', ST_AsGeoJSON(geom)::jsonb) as detail
                   from parcels p join seasons s using (season_key) join regions r using (region_key)
                   where parcel_key = :parcel"""),
        {"parcel": parcel_key},
    ).one()
    nothing = dict.fromkeys(("relative_orbit", "ndvi", "ndvi_sd", "origin", "vv_db", "vh_db", "crop", "probability"))
    return HistoryRow(at=row.recorded_at, kind="parcel", recorded_at=row.recorded_at, **nothing, detail=row.detail)


def first_record(connection: sa.Connection, parcel_key: int) -> FirstRecord | None:
    """Return when the first observation of a parcel was recorded; None where none ever was."""
    times = " union all ".join(
        f"select recorded_at, observed_at, available_at from {one.table} where parcel_key = :parcel"
        for one in SENSORS.values()
    )
    row = connection.execute(
        sa.text(f"""select min(recorded_at) as recorded_at, min(observed_at) as observed_from, max(observed_at) as observed_to,
                          min(available_at) as available_from
                   from ({times}) o"""),
        {"parcel": parcel_key},
    ).one()
    return None if row.recorded_at is None else FirstRecord(**row._mapping)


_ALERTS = """
    select alert_key, collection, season, source_id, region, area_ha, declared_crop, rule, state, colour, confidence, departed_on,
           opened_at, confirmed_at, closed_at, decided_by, decided_at, decision_reason, evidence,
           ST_AsGeoJSON(geom)::jsonb as outline
    from alerts_recorded_by(coalesce(:as_known_at, timestamptz 'infinity'))"""


def known_alerts(
    connection: sa.Connection, wanted: AlertFilter, as_known_at: datetime | None = None, limit: int = 1000
) -> list[KnownAlertRow]:
    """Return alerts as known at a time (None: now): those with something left to decide first, of these red ones, then the surest."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        _at(f"""{_ALERTS}
                where (cast(:season as text) is null or season = :season) and (cast(:rule as text) is null or rule = :rule)
                  and (cast(:collection as text) is null or collection = :collection)
                  and (closed_at is null or :with_closed)
                  and (cast(:alert_key as bigint) is null or alert_key = :alert_key)
                order by state = any(cast(:pending as alert_state[])) desc, closed_at is null desc, colour desc, confidence desc,
                         alert_key
                limit :limit"""),
        {**wanted.__dict__, "pending": list(PENDING_STATES), "as_known_at": as_known_at, "limit": limit},
    )
    return [KnownAlertRow(**row._mapping) for row in rows]


def alerts_of(
    connection: sa.Connection, alert_keys: Sequence[int], as_known_at: datetime | None = None
) -> list[KnownAlertRow]:
    """Return the alerts of keys as known at a time that is settled (None: now), in the order of the keys."""
    rows = connection.execute(
        _at(f"{_ALERTS} where alert_key = any(cast(:keys as bigint[]))"),
        {"keys": list(alert_keys), "as_known_at": as_known_at},
    )
    found = {row.alert_key: KnownAlertRow(**row._mapping) for row in rows}
    return [found[key] for key in alert_keys]


def _at(text: str) -> sa.TextClause:
    return sa.text(text).bindparams(sa.bindparam("as_known_at", type_=sa.TIMESTAMP(timezone=True)))
