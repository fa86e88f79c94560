"""Random samples of parcels and the verdicts on them; verdicts on alerts beside them. All of it is append-only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db import recording
from db.rounds import joined_by_hash

_TIME = sa.TIMESTAMP(timezone=True)


@dataclass(frozen=True)
class PopulationRow:
    """A parcel that can be drawn, as known at a time."""

    parcel_key: int
    source_id: str
    declared_crop: str | None
    area_ha: float
    light: str
    lights: Mapping[str, str]
    """By rule; rules that found nothing of the parcel are not executed."""


@dataclass(frozen=True)
class SampleRow:
    """A sample as it was drawn."""

    season_key: int
    collection: str
    as_known_at: datetime
    drawn_by: str
    reason: str
    seed: str
    allocation: str
    minimum: int
    expected_wrong: Mapping[str, float]
    confidence: float
    half_width: float | None
    """That was wanted; None where a number of parcels was."""
    second_share: float


@dataclass(frozen=True)
class StoredSampleRow:
    """A stored sample, with how far its review is."""

    sample_key: int
    season: str
    collection: str
    as_known_at: datetime
    recorded_at: datetime
    drawn_by: str
    reason: str
    seed: str
    allocation: str
    confidence: float
    half_width: float | None
    n_parcels: int
    n_sampled: int
    n_reviewed: int


@dataclass(frozen=True)
class StratumRow:
    """A stratum of a sample."""

    stratum_nr: int
    light: str
    crop: str | None
    n_parcels: int
    n_sampled: int
    area_ha: float


@dataclass(frozen=True)
class ItemRow:
    """A parcel that was drawn, with what was known of it then."""

    item: int
    parcel_key: int
    stratum_nr: int
    declared_crop: str | None
    light: str
    lights: Mapping[str, str]
    inbox_rank: int | None
    n_reviewers: int


@dataclass(frozen=True)
class DrawnRow:
    """A parcel that was drawn, as the report counts it."""

    item: int
    stratum_nr: int
    region: str
    area_ha: float
    light: str
    lights: Mapping[str, str]
    inbox_rank: int | None


@dataclass(frozen=True)
class FormRow:
    """A parcel that was drawn, as a reviewer may see it: nothing here says what was found of it."""

    item: int
    parcel_key: int
    source_id: str
    declared_crop: str | None
    area_ha: float | None
    longitude: float | None
    latitude: float | None
    n_reviewers: int


@dataclass(frozen=True)
class VerdictRow:
    """A verdict on a parcel that was drawn."""

    item: int
    verdict: str
    reviewer: str
    reason: str | None


@dataclass(frozen=True)
class AlertVerdictRow:
    """What a person decided on an alert."""

    alert_key: int
    rule: str
    colour: str
    region: str
    departed_on: date
    is_true: bool


def population(connection: sa.Connection, season_key: int, collection: str, at: datetime) -> list[PopulationRow]:
    """Return all parcels of a collection in a season with their lights as known at a time that is settled, by id."""
    with joined_by_hash(connection):
        rows = connection.execute(
            sa.text("""with of_parcel as (
                           select parcel_key, max(light) as light, jsonb_object_agg(rule, light) as lights
                           from lights_recorded_by(cast(:season as smallint), :collection, :at) group by parcel_key)
                       select p.parcel_key, p.source_id, declared.crop_name as declared_crop,
                              coalesce(p.area_ha, 0) as area_ha, coalesce(l.light, 'not_executed') as light,
                              coalesce(l.lights, '{}') as lights
                       from parcels p left join of_parcel l using (parcel_key)
                       left join lateral declaration_recorded_by(p.parcel_key, :at) declared on true
                       where p.season_key = :season and p.collection = :collection and p.recorded_at <= :at
                       order by p.source_id collate "C" """),
            {"season": season_key, "collection": collection, "at": at},
        ).all()
    return [PopulationRow(*row) for row in rows]


def save(
    connection: sa.Connection, row: SampleRow, strata: Sequence[StratumRow], items: Sequence[ItemRow], now: datetime
) -> int:
    """Store a sample; return its key."""
    names = [one.name for one in fields(row)]
    values = {name: getattr(row, name) for name in names} | {"expected_wrong": json.dumps(dict(row.expected_wrong))}
    key: int = connection.execute(
        sa.text(f"""insert into quality_samples (recorded_at, {", ".join(names)})
                    values (:recorded_at, {", ".join(f":{name}" for name in names)}) returning sample_key"""),
        values | {"recorded_at": recording.begin(connection, now)},
    ).scalar_one()
    for table, rows in (("quality_strata", strata), ("quality_items", items)):
        columns = [one.name for one in fields(rows[0])]
        connection.execute(
            sa.text(f"""insert into {table} (sample_key, {", ".join(columns)})
                        values (:sample_key, {", ".join(f":{column}" for column in columns)})"""),
            [{column: _storable(getattr(one, column)) for column in columns} | {"sample_key": key} for one in rows],
        )
    return key


def _storable(value: Any) -> Any:
    return json.dumps(dict(value)) if isinstance(value, Mapping) else value


def samples(
    connection: sa.Connection, season: str | None = None, collection: str | None = None
) -> list[StoredSampleRow]:
    """Return stored samples in their order; None: of any season, or collection."""
    rows = connection.execute(
        sa.text("""select sample_key, s.name as season, collection, as_known_at, recorded_at, drawn_by, reason, seed, allocation,
                          confidence, half_width, n_parcels, n_sampled, n_reviewed
                   from quality_samples q join seasons s using (season_key)
                   cross join lateral (select sum(n_parcels)::int as n_parcels, sum(n_sampled)::int as n_sampled
                                       from quality_strata t where t.sample_key = q.sample_key) strata
                   cross join lateral (select count(distinct item)::int as n_reviewed
                                       from quality_verdicts v where v.sample_key = q.sample_key) reviews
                   where (cast(:season as text) is null or s.name = :season)
                     and (cast(:collection as text) is null or collection = :collection)
                   order by sample_key"""),
        {"season": season, "collection": collection},
    )
    return [StoredSampleRow(**row._mapping) for row in rows]


def strata(connection: sa.Connection, sample_key: int) -> list[StratumRow]:
    """Return the strata of a sample in their order."""
    rows = connection.execute(
        sa.text("""select stratum_nr, light, crop, n_parcels, n_sampled, area_ha from quality_strata
                   where sample_key = :key order by stratum_nr"""),
        {"key": sample_key},
    )
    return [StratumRow(**row._mapping) for row in rows]


def drawn(connection: sa.Connection, sample_key: int) -> list[DrawnRow]:
    """Return the parcels of a sample as the report counts them, in their order."""
    rows = connection.execute(
        sa.text("""select item, stratum_nr, r.code as region, coalesce(area_ha, 0) as area_ha, light, lights, inbox_rank
                   from quality_items join parcels using (parcel_key) join regions r using (region_key)
                   where sample_key = :key order by item"""),
        {"key": sample_key},
    )
    return [DrawnRow(**row._mapping) for row in rows]


def form_rows(connection: sa.Connection, sample_key: int) -> list[FormRow]:
    """Return the parcels of a sample as a reviewer may see them, in their order."""
    rows = connection.execute(
        sa.text("""select item, parcel_key, source_id, declared_crop, area_ha, ST_X(ST_PointOnSurface(geom)) as longitude,
                          ST_Y(ST_PointOnSurface(geom)) as latitude, n_reviewers
                   from quality_items join parcels using (parcel_key) where sample_key = :key order by item"""),
        {"key": sample_key},
    )
    return [FormRow(**row._mapping) for row in rows]


def pictured_since(connection: sa.Connection, sample_key: int) -> datetime | None:
    """Return since when every parcel of a sample is to have pictures, whatever its light; None where not all are."""
    since: datetime | None = connection.execute(
        sa.text("""select case when count(*) = count(c.parcel_key) then max(c.recorded_at) end
                   from quality_items left join chip_parcels c using (parcel_key) where sample_key = :key"""),
        {"key": sample_key},
    ).scalar_one()
    return since


def verdicts(connection: sa.Connection, sample_key: int, as_known_at: datetime | None = None) -> list[VerdictRow]:
    """Return the verdicts on a sample as known at a time (None: now), in the order in which they were recorded."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text("""select item, verdict, reviewer, reason from quality_verdicts
                   where sample_key = :key and recorded_at <= coalesce(:at, timestamptz 'infinity')
                   order by verdict_nr""").bindparams(sa.bindparam("at", type_=_TIME)),
        {"key": sample_key, "at": as_known_at},
    )
    return [VerdictRow(**row._mapping) for row in rows]


def record_verdicts(connection: sa.Connection, sample_key: int, rows: Sequence[VerdictRow], now: datetime) -> None:
    """Append verdicts to a sample; they become known together."""
    recorded_at = recording.begin(connection, now)
    connection.execute(
        sa.text("""insert into quality_verdicts (sample_key, item, recorded_at, verdict, reviewer, reason)
                   values (:key, :item, :recorded_at, :verdict, :reviewer, :reason)"""),
        [one.__dict__ | {"key": sample_key, "recorded_at": recorded_at} for one in rows],
    )


def alert_verdicts(
    connection: sa.Connection, season: str, collection: str, as_known_at: datetime | None = None
) -> list[AlertVerdictRow]:
    """Return what people decided on the alerts of a collection in a season, as known at a time (None: now)."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text("""select alert_key, rule, colour, r.code as region, departed_on, is_true
                   from alert_verdicts_recorded_by(coalesce(:at, timestamptz 'infinity')) v
                   join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
                   where s.name = :season and p.collection = :collection order by alert_key""").bindparams(
            sa.bindparam("at", type_=_TIME)
        ),
        {"season": season, "collection": collection, "at": as_known_at},
    )
    return [AlertVerdictRow(**row._mapping) for row in rows]


def keys_of(connection: sa.Connection, season_key: int, collection: str, ids: Sequence[str]) -> dict[str, int]:
    """Return the keys of the parcels of a collection in a season that have these ids."""
    rows = connection.execute(
        sa.text("""select source_id, parcel_key from parcels
                   where season_key = :season and collection = :collection and source_id = any(:ids)"""),
        {"season": season_key, "collection": collection, "ids": list(ids)},
    )
    return {row.source_id: row.parcel_key for row in rows}


def red_confidences(
    connection: sa.Connection, parcels: Sequence[int], rule: str, as_known_at: datetime | None
) -> dict[int, float]:
    """Return with which confidence a rule calls parcels red as known at a time (None: now), by parcel key.

    It is the rule's own verdict, also where the policy holds it at yellow, and the last one that it could come to: a light stays
    as it is where a rule cannot decide any more.
    """
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text("""select key, newest.confidence from unnest(cast(:keys as bigint[])) key cross join lateral (
                       select colour, confidence, evidence from findings
                       where (parcel_key, rule) = (key, :rule) and outcome = 'OK'
                         and recorded_at <= coalesce(:at, timestamptz 'infinity') order by recorded_at desc limit 1) newest
                   where colour = 'red' or evidence ? 'held_at_yellow'""").bindparams(sa.bindparam("at", type_=_TIME)),
        {"keys": list(parcels), "rule": rule, "at": as_known_at},
    )
    return {row.key: round(row.confidence, 3) for row in rows}
