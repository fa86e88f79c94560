"""Found scenes as people see them: their state, their reconciliation, and which are to be tried again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.scenes import State, shows


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A scene as people see it."""

    scene_id: str
    sensor: str
    state: State
    found_at: datetime
    published_at: datetime | None
    attempts: int
    worker: str | None
    lease_until: datetime | None
    next_try_at: datetime | None
    begun_at: datetime | None
    ended_at: datetime | None
    cause: str | None
    told: str | None
    datatake: str | None
    baseline: str | None
    processed_at: datetime | None
    revision: int | None
    superseded_by: str | None
    expected: int | None
    emitted: int | None
    withdrawn: int | None
    skipped: int | None
    skipped_by: Mapping[str, int]
    homes: Mapping[str, int] | None
    stored: int
    adds_up: bool | None
    is_stored: bool | None
    record: Mapping[str, Any]


def retry(
    connection: sa.Connection, scene_ids: Sequence[str] | None, states: Sequence[State], now: datetime
) -> list[str]:
    """Make scenes due that are in one of the states (and among the ids); return their ids.

    Workers learn of it from the ledger alone; scenes that one is at are left to it.
    """
    rows = connection.execute(
        sa.text("""update found_scenes set state = 'found', attempts = 0, next_try_at = null, lease_until = null,
                          cause = null, told = null, superseded_by = null
                   where state = any(cast(:states as scene_state[])) and coalesce(lease_until, '-infinity') <= :now
                     and (cast(:ids as text[]) is null or scene_id = any(:ids)) returning scene_id"""),
        {"states": list(states), "ids": None if scene_ids is None else list(scene_ids), "now": now},
    )
    return sorted(rows.scalars())


def left_to_missing_tiles(connection: sa.Connection, found_by: datetime) -> list[str]:
    """Cut scenes, found by a time, that left parcels to a tile of which their pass has no product."""
    rows = connection.execute(
        sa.text(f"""select scene_id from found_scenes f where state = 'cut' and found_at <= :found_by
                      and exists (select from jsonb_object_keys(homes) home where not {shows("home", "f.datatake")})
                    order by scene_id"""),
        {"found_by": found_by},
    )
    return list(rows.scalars())


def ledger(
    connection: sa.Connection,
    *,
    scene_id: str | None = None,
    state: State | None = None,
    since: datetime | None = None,
    limit: int = 1000,
) -> list[LedgerRow]:
    """Return scenes with their reconciliation, those found last first."""
    rows = connection.execute(
        sa.text("""
            select scene_id, sensor, f.state, found_at, published_at, attempts, worker, lease_until, next_try_at, begun_at,
                   ended_at, cause, told, datatake, baseline, processed_at, revision, superseded_by, f.expected,
                   f.emitted, f.withdrawn, f.skipped, r.skipped_by, f.homes, r.stored, r.adds_up, r.is_stored, record
            from (
                select * from found_scenes
                where (cast(:scene_id as text) is null or scene_id = :scene_id)
                  and (cast(:state as text) is null or state = cast(:state as scene_state))
                  and found_at >= coalesce(:since, '-infinity'::timestamptz)
                order by found_at desc, scene_id limit :limit
            ) f join scene_reconciliation r using (scene_id)
            order by found_at desc, scene_id""").bindparams(sa.bindparam("since", type_=sa.TIMESTAMP(timezone=True))),
        {"scene_id": scene_id, "state": state, "since": since, "limit": limit},
    )
    return [LedgerRow(**row._mapping) for row in rows]


def count_by_state(connection: sa.Connection) -> dict[State, int]:
    """Return how many scenes are in each state that has any."""
    rows = connection.execute(
        sa.text("select state::text, count(*) as n from found_scenes group by state order by state")
    )
    return {row.state: row.n for row in rows}
