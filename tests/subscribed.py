"""Parcels with alerts for the tests of subscriptions."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import sqlalchemy as sa

from db import alerts
from db.alerts import EventRow, FindingRow
from db.subscriptions import Secrets, Subscription, add

NOW: Final = datetime(2025, 6, 1, 12, tzinfo=UTC)
CROPS: Final = ("Maize", "Winter wheat", "Grassland")


def add_parcels(
    connection: sa.Connection, n: int, names: Mapping[int, str] | None = None, step: float = 0.01
) -> list[int]:
    """Store a season with n parcels in regions r0 to r2, each `step` degrees east of the last, crops in turn; return their keys."""
    for statement in (
        "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')",
        "insert into regions (code) values ('r0'), ('r1'), ('r2')",
    ):
        connection.execute(sa.text(statement))
    keys = connection.execute(
        sa.text("""insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
                   select 'nl', season_key, coalesce(cast(:names as jsonb) ->> nr::text, 'parcel-' || nr), region_key,
                          ST_Multi(ST_MakeEnvelope(5 + nr * :step, 52, 5 + (nr + 0.5) * :step, 52.005, 4326)), 4.5, '2025-01-01'
                   from generate_series(0, :n - 1) nr cross join seasons join regions on code = 'r' || nr % 3
                   order by nr returning parcel_key"""),
        {"n": n, "names": sa_json(names), "step": step},
    ).scalars()
    found = list(keys)
    connection.execute(
        sa.text("""insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
                   select key, '2025-01-01', '2025-01-01', 'c' || nr % 3, (cast(:crops as text[]))[1 + nr % 3]
                   from unnest(cast(:keys as bigint[])) with ordinality as p (key, n) cross join lateral (select n - 1 as nr) x"""),
        {"keys": found, "crops": list(CROPS)},
    )
    return found


def sa_json(names: Mapping[int, str] | None) -> str:
    """Return names as JSON."""
    import json

    return json.dumps({str(nr): name for nr, name in (names or {}).items()})


def open_alerts(
    connection: sa.Connection,
    parcels: list[int],
    now: datetime = NOW,
    colour: str = "yellow",
    *,
    rule: str = "crop_mismatch",
    confidence: float = 0.9,
    evidence: Mapping[str, Any] | None = None,
) -> list[int]:
    """Open an alert on each parcel, as the monitor does, and return their keys."""
    rests_on = dict(evidence or {"reason": "made up"})
    found = [FindingRow(key, rule, "OK", colour, confidence, date(2025, 5, 1), rests_on) for key in parcels]
    keys = alerts.new_alerts(connection, found, now)
    alerts.record_events(
        connection,
        [EventRow(key, "opened", "open", colour, confidence, date(2025, 5, 1), rests_on) for key in keys],
        now,
    )
    return keys


def subscribe(connection: sa.Connection, secrets: Secrets = Secrets(), **asked: Any) -> int:
    """Store a subscription to all that is opened and return its key."""
    values = {"name": "all", "channel": "email", "address": "anna@example.org", "events": ["opened"]} | asked
    return add(connection, Subscription(**values), secrets, "anna", NOW)
