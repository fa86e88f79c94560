"""Parcels for exports: a page at a time, all of one state of the database (SQL contract, `parcels_known`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from db.connect import driver

PAGE: Final = 5_000
"""Parcels of a page: some 5 MB, and a second of the server (chosen so that no statement runs into a time-out of the API)."""


@dataclass(frozen=True)
class Selection:
    """Which parcels are exported, and as known when (None: now)."""

    collection: str
    season: str
    region: str | None = None
    as_known_at: datetime | None = None


class ExportRow(NamedTuple):
    """A parcel as it is exported; areas in hectares, the outline as WKB in EPSG:4326."""

    source_id: str
    region: str
    declared_crop_code: str | None
    declared_crop: str | None
    hcat_code: str | None
    declared_at: datetime | None
    area_ha: float | None
    perimeter_m: float | None
    not_monitorable_reason: str | None
    light: str
    lights: dict[str, str]
    """By rule; a rule that found nothing yet is missing."""
    likeliest_crop: str | None
    probability: float | None
    observed_to: datetime | None
    open_alerts: list[dict[str, Any]]
    wkb: bytes | None


_PAGE: Final = f"""
select {", ".join(ExportRow._fields[:-1])}, ST_AsBinary(geom)
from parcelwatch.parcels_known(%(collection)s, %(season)s, %(at)s, %(region)s, %(after)s, %(n)s)"""


def unchanging(engine: sa.Engine) -> sa.Engine:
    """Return the same engine with transactions that see one state of the database from their first statement to their end."""
    return engine.execution_options(isolation_level="REPEATABLE READ")


def settle(connection: sa.Connection, as_known_at: datetime | None) -> None:
    """Wait for what can still be recorded by a time, in a transaction of its own: one that is unchanging would not see it."""
    connection.execute(sa.text("select settled(:at)"), {"at": as_known_at})


def begin(connection: sa.Connection, most_idle_s: float) -> datetime:
    """Begin to read an export; return the time of the state that its transaction sees.

    Args:
        most_idle_s: the server ends a transaction whose reader takes longer than this for a page.
    """
    connection.execute(sa.text("set transaction read only"))
    at: datetime = connection.execute(
        sa.text("select now() from set_config('idle_in_transaction_session_timeout', :idle, true)"),
        {"idle": f"{round(most_idle_s * 1000)}ms"},
    ).scalar_one()
    return at


def obligations(connection: sa.Connection, selection: Selection) -> list[str]:
    """Return what the policy in force asks, in its order."""
    return list(
        connection.execute(
            sa.text("""select asked ->> 'name' from parcelwatch.policies_known(coalesce(:at, 'infinity'::timestamptz)) policy,
                           jsonb_array_elements(policy.content -> 'obligation') with ordinality of (asked, nr)
                       where season = :season and collection = :collection order by nr"""),
            {"at": selection.as_known_at, "season": selection.season, "collection": selection.collection},
        ).scalars()
    )


def pages(connection: sa.Connection, selection: Selection) -> Iterator[Sequence[ExportRow]]:
    """Yield the parcels in the order of their ids, up to `PAGE` at a time; nothing where there are none to be seen."""
    asked = {
        "collection": selection.collection,
        "season": selection.season,
        "at": selection.as_known_at or "infinity",
        "region": selection.region,
        "after": "",
        "n": PAGE,
    }
    rows: list[ExportRow]
    while True:
        with driver(connection).cursor(binary=True) as cursor:
            rows = [ExportRow._make(row) for row in cursor.execute(_PAGE.encode(), asked)]
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        asked["after"] = rows[-1].source_id
