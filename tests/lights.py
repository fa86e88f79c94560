"""Parcels with findings and alerts, written as the monitor would: what rounds and samples are made of."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

START = datetime(2025, 5, 1, 6, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SQUARE = "MULTIPOLYGON(((5 52,5.01 52,5.01 52.01,5 52.01,5 52)))"
OUTCOMES = {"not_executed": ("NOT_EXECUTED", None), "not_valid": ("NOT_VALID", None)}


def add_parcels(
    connection: sa.Connection, crops: Mapping[str, str], at: datetime = START, region: str = "r", area_ha: float = 2.0
) -> None:
    """Store parcels of collection nl in season 2025, their crops by their ids."""
    for statement in (
        "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31') on conflict do nothing",
        "insert into regions (code) values (:region) on conflict do nothing",
        """insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
           select 'nl', season_key, id, region_key, ST_GeomFromText(:square, 4326), :area, :at
           from seasons, regions, unnest(cast(:ids as text[])) id where name = '2025' and code = :region""",
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           select parcel_key, :at, :at, crop, crop from parcels
           join unnest(cast(:ids as text[]), cast(:crops as text[])) d (id, crop) on id = source_id""",
    ):
        values = {"region": region, "square": SQUARE, "area": area_ha, "at": at}
        connection.execute(sa.text(statement), values | {"ids": list(crops), "crops": list(crops.values())})


def add_findings(
    connection: sa.Connection,
    rule: str,
    lights: Mapping[str, str],
    at: datetime,
    evidence: Mapping[str, object] | None = None,
    version: str = "1",
) -> None:
    """Store what a rule found of parcels at a time: their lights by their ids."""
    said = [OUTCOMES.get(light, ("OK", light)) for light in lights.values()]
    connection.execute(
        sa.text("""insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, confidence, departed_on, evidence)
                   select parcel_key, :rule, :at, :version, outcome, colour, 0.9,
                          case when colour in ('yellow', 'red') then cast(:at as date) end, cast(:evidence as jsonb)
                   from parcels join unnest(cast(:ids as text[]), cast(:outcomes as outcome[]), cast(:colours as colour[]))
                       f (id, outcome, colour) on id = source_id"""),
        {
            "rule": rule,
            "at": at,
            "version": version,
            "evidence": json.dumps(dict(evidence or {})),
            "ids": list(lights),
            "outcomes": [outcome for outcome, _ in said],
            "colours": [colour for _, colour in said],
        },
    )


def add_alert(
    connection: sa.Connection, source_id: str, rule: str, at: datetime, colour: str = "red", confidence: float = 0.9
) -> int:
    """Store an alert that is open; return its key."""
    values = {"id": source_id, "rule": rule, "at": at, "colour": colour, "confidence": confidence}
    key: int = connection.execute(
        sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                   select parcel_key, :rule, 'open', cast(:colour as colour), :confidence, cast(:at as date), :at
                   from parcels where source_id = :id returning alert_key"""),
        values,
    ).scalar_one()
    connection.execute(
        sa.text("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
                   values (:key, :at, 'opened', cast(:colour as colour), :confidence, cast(:at as date), '{}')"""),
        values | {"key": key},
    )
    return key


def add_view(
    connection: sa.Connection, source_ids: Sequence[str], observed: datetime, recorded: datetime, **of: object
) -> None:
    """Store a view of parcels; `revision` and `is_withdrawn` as given."""
    values = {"revision": 0, "is_withdrawn": False, "ndvi": 0.5} | of
    connection.execute(
        sa.text("""insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
                       recorded_at, scene_key, ndvi)
                   select parcel_key, :observed, 8, :revision, :is_withdrawn, 50, :observed, :recorded, 1, :ndvi
                   from parcels where source_id = any(:ids)"""),
        values | {"ids": list(source_ids), "observed": observed, "recorded": recorded},
    )
