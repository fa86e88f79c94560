"""The ledger of found scenes: who cuts which, what became of it, and whether its parcels add up.

    found ──► cutting ──► cut           observations emitted, every parcel accounted for
      ▲          ├──────► empty         no parcel to observe
      │          ├──────► superseded    a newer processing is cut
      └──────────┴─────── failed        with a cause; tried again by itself where that may help

A worker holds a scene by a lease that it renews; a dead worker's lease ends and the scene is anyone's again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from db.keys import Scene, scene_keys
from db.sensors import Sensor

State = Literal["found", "cutting", "cut", "failed", "superseded", "empty"]
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True, slots=True)
class NewScene:
    """A scene to enter: what its name says of it, and the record of the topic."""

    scene_id: str
    sensor: Sensor
    record: Mapping[str, Any]
    datatake: str | None
    found_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A scene that this worker holds until its lease ends."""

    scene_id: str
    record: Mapping[str, Any]
    worker: str
    attempt: int


def enter(connection: sa.Connection, scenes: Sequence[NewScene], now: datetime, or_mended: bool = False) -> list[str]:
    """Enter scenes that the ledger does not know as found; return their ids.

    Args:
        or_mended: those that failed are found anew too, at another place, perhaps; and those that ended in another way
            where the item at the same place says something else by now.
    """
    if not scenes:
        return []
    # A scene being cut is never found anew: its worker's record, and its attempt, stay what they were claimed with.
    rows = connection.execute(
        sa.text("""
            insert into found_scenes (scene_id, sensor, state, record, datatake, found_at, recorded_at)
            select scene_id, cast(sensor as sensor), 'found', record, datatake, found_at, :now
            from jsonb_to_recordset(:scenes) as new (scene_id text, sensor text, record jsonb, datatake text,
                                                     found_at timestamptz)
            order by scene_id on conflict (scene_id) do update set record = excluded.record, state = 'found', attempts = 0,
                next_try_at = null, published_at = null, cause = null, told = null
            where :or_mended and (found_scenes.state = 'failed'
                or found_scenes.state <> 'cutting' and found_scenes.record ->> 'href' = excluded.record ->> 'href'
                   and found_scenes.record -> 'item' <> excluded.record -> 'item')
            returning scene_id""").bindparams(sa.bindparam("scenes", type_=JSONB)),
        {
            "scenes": [
                {
                    "scene_id": one.scene_id,
                    "sensor": one.sensor,
                    "record": dict(one.record),
                    "datatake": one.datatake,
                    "found_at": one.found_at.isoformat(),
                }
                for one in scenes
            ],
            "now": now,
            "or_mended": or_mended,
        },
    )
    return list(rows.scalars())


def name_places(connection: sa.Connection, places: Sequence[str], now: datetime) -> None:
    """Keep folders and hosts that an operator named: scenes may be read from there."""
    connection.execute(
        sa.text("""insert into scene_places (place, named_at) select unnest(cast(:places as text[])), :now
                   on conflict (place) do nothing"""),
        {"places": list(places), "now": now},
    )


def named_places(connection: sa.Connection) -> list[str]:
    """Return the folders and hosts that operators named."""
    return list(connection.execute(sa.text("select place from scene_places order by place")).scalars())


def unpublished(connection: sa.Connection, limit: int) -> list[Mapping[str, Any]]:
    """Return records of scenes that no topic has confirmed and nobody has taken, oldest first."""
    rows = connection.execute(
        sa.text("""select record from found_scenes where state = 'found' and published_at is null
                   order by found_at, scene_id limit :limit"""),
        {"limit": limit},
    )
    return list(rows.scalars())


def mark_published(connection: sa.Connection, scene_ids: Sequence[str], now: datetime) -> None:
    """Mark scenes as confirmed by the topic."""
    connection.execute(
        sa.text("update found_scenes set published_at = :now where scene_id = any(:ids)"),
        {"ids": list(scene_ids), "now": now},
    )


_DUE: Final = """
    (state = 'found' and coalesce(next_try_at, '-infinity') <= :now)
    or (state = 'failed' and next_try_at <= :now) or (state = 'cutting' and lease_until <= :now)"""


def claim(
    connection: sa.Connection, worker: str, lease_until: datetime, now: datetime, scene_id: str | None = None
) -> Claim | None:
    """Take a scene that is due (that one, or the one found first); None where there is none."""
    # skip locked: workers that claim at the same moment take different scenes instead of waiting for each other.
    row = connection.execute(
        sa.text(f"""
            update found_scenes set state = 'cutting', worker = :worker, lease_until = :lease_until, next_try_at = null,
                   attempts = attempts + 1, begun_at = :now, ended_at = null
            where scene_id = (
                select scene_id from found_scenes
                where ({_DUE}) and (cast(:scene_id as text) is null or scene_id = :scene_id)
                order by found_at, scene_id limit 1 for update skip locked)
            returning scene_id, record, attempts"""),
        {"worker": worker, "lease_until": lease_until, "now": now, "scene_id": scene_id},
    ).one_or_none()
    return None if row is None else Claim(row.scene_id, row.record, worker, row.attempts)


# A claim is a worker and its attempt: a worker whose lease ended, and whose scene was claimed again, even by itself,
# matches no row any more, so nothing that it still does counts.
_MINE: Final = "scene_id = :scene_id and state = 'cutting' and worker = :worker and attempts = :attempt"


def _of(held: Claim) -> dict[str, Any]:
    return {"scene_id": held.scene_id, "worker": held.worker, "attempt": held.attempt}


def renew(connection: sa.Connection, held: Claim, lease_until: datetime) -> bool:
    """Make the lease longer; False where the scene is somebody else's by now."""
    return bool(
        connection.execute(
            sa.text(f"update found_scenes set lease_until = :lease_until where {_MINE}"),
            {**_of(held), "lease_until": lease_until},
        ).rowcount
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """What a scene sent last: the digest of its observations, and the lowest revision of those that were new then."""

    digest: bytes | None
    emitted_as: int
    is_in_store: bool
    """The store has all of it: no observation is still on its way."""


def sent(connection: sa.Connection, scene_id: str) -> Sent:
    """Return what a scene sent last."""
    row = connection.execute(
        sa.text("""select told_digest, told_as, coalesce(r.is_stored, false) as is_in_store
                   from found_scenes f join scene_reconciliation r using (scene_id) where scene_id = :scene_id"""),
        {"scene_id": scene_id},
    ).one()
    return Sent(row.told_digest, row.told_as, row.told_digest is None or row.is_in_store)


def sends(connection: sa.Connection, held: Claim, sent: Sent, revision: int) -> bool:
    """Keep what is about to be sent, and its highest revision; counts are open until the end. False if it is not ours."""
    # Committed before the first message leaves: after a crash the next attempt knows that these revisions may be out.
    return bool(
        connection.execute(
            sa.text(f"""update found_scenes set told_digest = :digest, told_as = :told_as,
                            revision = greatest(revision, :revision), expected = null, emitted = null, withdrawn = null,
                            skipped = null where {_MINE}"""),
            {**_of(held), "digest": sent.digest, "told_as": sent.emitted_as, "revision": revision},
        ).rowcount
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the parcels that a scene shows."""

    expected: int
    emitted: int
    withdrawn: int
    skipped: Mapping[str, int]
    homes: Mapping[str, int] = field(default_factory=dict)
    """Those skipped as other_tile, by the tile that they are observed from."""


def end(  # the claim, and one argument per fact that the ledger keeps of its end
    connection: sa.Connection,
    held: Claim,
    state: Literal["cut", "empty"],
    scene: Scene,
    counts: Counts,
    replaces: Sequence[str],
    note: str | None,
    now: datetime,
) -> bool:
    """End a cut: counts, and older processings that it supersedes. False, and nothing is changed, if it is not ours."""
    is_ours = connection.execute(
        sa.text(f"""update found_scenes set state = cast(:state as scene_state), lease_until = null, ended_at = :now,
                        cause = :cause, told = :told, expected = :expected, emitted = :emitted,
                        withdrawn = :withdrawn, skipped = :skipped, homes = :homes
                    where {_MINE}""").bindparams(sa.bindparam("homes", type_=JSONB)),
        {
            **_of(held),
            "state": state,
            "now": now,
            "cause": "no_parcels" if state == "empty" else None,
            "told": note,
            "expected": counts.expected,
            "emitted": counts.emitted,
            "withdrawn": counts.withdrawn,
            "skipped": sum(counts.skipped.values()),
            "homes": dict(counts.homes),
        },
    ).rowcount
    # Before anything else is written: a worker whose lease ended must not end, or supersede, what another is at.
    if not is_ours:
        return False
    key = scene_keys(connection, [scene], now)[scene.scene_id]
    connection.execute(sa.text("delete from scene_ledger where scene_key = :key and outcome <> 'stored'"), {"key": key})
    if counts.skipped:
        connection.execute(
            sa.text("insert into scene_ledger (scene_key, outcome, parcels) values (:key, :outcome, :parcels)"),
            [{"key": key, "outcome": reason, "parcels": n} for reason, n in sorted(counts.skipped.items())],
        )
    connection.execute(
        sa.text("""update found_scenes set state = 'superseded', superseded_by = :by, next_try_at = null
                   where scene_id = any(:ids) and state <> 'cutting'"""),
        {"by": held.scene_id, "ids": list(replaces)},
    )
    return True


def fail(
    connection: sa.Connection, held: Claim, cause: str, message: str, next_try_at: datetime | None, now: datetime
) -> bool:
    """End an attempt that came to nothing; `next_try_at` None waits for a person. False if it is not ours."""
    return bool(
        connection.execute(
            sa.text(f"""update found_scenes set state = 'failed', lease_until = null, ended_at = :now, cause = :cause,
                            told = :told, next_try_at = :next_try_at where {_MINE}"""),
            {**_of(held), "now": now, "cause": cause, "told": message, "next_try_at": next_try_at},
        ).rowcount
    )


def put_back(connection: sa.Connection, held: Claim, message: str | None, next_try_at: datetime) -> None:
    """Give a scene back that could not be tried now; the attempt does not count."""
    connection.execute(
        sa.text(f"""update found_scenes set state = 'found', lease_until = null, attempts = attempts - 1, told = :told,
                        next_try_at = :next_try_at where {_MINE}"""),
        {**_of(held), "told": message, "next_try_at": next_try_at},
    )


def supersede(connection: sa.Connection, held: Claim, by: str, message: str, now: datetime) -> None:
    """End a claim on an older processing of what is cut already."""
    connection.execute(
        sa.text(f"""update found_scenes set state = 'superseded', lease_until = null, ended_at = :now, told = :told,
                        cause = null, superseded_by = :by where {_MINE}"""),
        {**_of(held), "by": by, "told": message, "now": now},
    )


def shows(tile: str, datatake: str) -> str:
    """Return a condition: a product of the tile in the datatake is in the ledger and has not failed for good."""
    return f"""exists (select from found_scenes o where o.datatake = {datatake}
                         and (o.state <> 'failed' or o.next_try_at is not null)
                         and (o.family = o.datatake || '_T' || {tile} or position('_T' || {tile} || '_' in o.scene_id) > 0))"""


def is_any_due(connection: sa.Connection, by: datetime) -> bool:
    """Return whether a scene waits to be taken now, or will by a time."""
    return bool(
        connection.execute(sa.text(f"select exists (select from found_scenes where {_DUE})"), {"now": by}).scalar_one()
    )
