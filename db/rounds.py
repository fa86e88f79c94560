"""Rounds: the lights of all parcels of a collection, frozen and hashed; what changed from one to another.

    lights as known at a time ── round_lights (one row a parcel) ── CSV, ordered ── SHA-256 ── rounds, chained by their hashes

The lights are written before the round that holds their hash: from then on the database refuses to add, change or remove any.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db.connect import driver

NOTHING_FOUND = "not_executed"
"""The light of a parcel for a rule that found nothing of it yet."""


@dataclass(frozen=True)
class RoundRow:
    """A published round."""

    round_key: int
    season_key: int
    collection: str
    name: str
    as_known_at: datetime
    recorded_at: datetime
    published_by: str
    reason: str
    rules: Sequence[str]
    rule_version: str
    settings: Mapping[str, Any]
    """Of the rules, as the publishing machine has them."""
    settings_sha256: str
    policy_sha256: str | None
    n_parcels: int
    content_sha256: str
    """Of the bytes that `content` yields."""
    previous_sha256: str | None
    """The `sha256` of the round published before, of whatever season; None for the first."""
    sha256: str
    """Of all other fields."""

    def digest(self) -> str:
        """Return what `sha256` has to be."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "sha256"}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=_as_text).encode()).hexdigest()


@dataclass(frozen=True)
class ChangeRow:
    """A light that differs between two rounds; None where a round does not have the parcel."""

    source_id: str
    region: str
    declared_crop: str | None
    rule: str
    before: str | None
    after: str | None
    parcel_before: str | None
    parcel_after: str | None
    state_before: str | None
    state_after: str | None
    departed_on: date | None
    is_rule_changed: bool
    is_declared_anew: bool
    is_model_new: bool
    is_decided: bool
    n_withdrawn: int
    n_revised: int
    n_new: int


@contextmanager
def joined_by_hash(connection: sa.Connection) -> Iterator[None]:
    """Let statements join whole tables by hash: where statistics are missing, as after an import, they would take minutes."""
    connection.execute(sa.text("set local enable_nestloop = off"))
    yield
    connection.execute(sa.text("set local enable_nestloop = on"))


def lock(connection: sa.Connection) -> None:
    """Let no other round be published before the transaction ends: each is chained to the one before."""
    connection.execute(sa.text("lock table rounds in share row exclusive mode"))


def freeze(
    connection: sa.Connection, season_key: int, collection: str, at: datetime, known_rules: Sequence[str]
) -> tuple[int, Sequence[str], int]:
    """Write the lights of a new round as known at a time that is settled; return its key, its rules, its number of parcels.

    Args:
        known_rules: of today, in their order; others that found something of the parcels follow.
    """
    where = {"season": season_key, "collection": collection, "at": at}
    connection.execute(
        sa.text("""create temporary table lights_of_round on commit drop as
                   select parcel_key, rule, light, rule_version, found_at, alert_state
                   from lights_recorded_by(cast(:season as smallint), :collection, :at)"""),
        where,
    )
    found = connection.execute(sa.text("select distinct rule from lights_of_round order by rule")).scalars().all()
    rules = [*known_rules, *(one for one in found if one not in known_rules)]
    round_key: int = connection.execute(
        sa.text("select nextval(pg_get_serial_sequence('rounds', 'round_key'))")
    ).scalar_one()
    with joined_by_hash(connection):
        written = connection.execute(
            sa.text("""insert into round_lights (round_key, parcel_key, light, lights, rule_versions, found_at, alert_states)
                       select :round, p.parcel_key, coalesce(max(l.light), cast(:nothing as light)),
                              array_agg(coalesce(l.light, cast(:nothing as light)) order by nr), array_agg(l.rule_version order by nr),
                              array_agg(l.found_at order by nr), array_agg(l.alert_state order by nr)
                       from parcels p cross join unnest(cast(:rules as text[])) with ordinality r (rule, nr)
                       left join lights_of_round l using (parcel_key, rule)
                       where p.season_key = :season and p.collection = :collection and p.recorded_at <= :at
                       group by p.parcel_key"""),
            where | {"round": round_key, "rules": rules, "nothing": NOTHING_FOUND},
        )
    return round_key, rules, written.rowcount


def content(connection: sa.Connection, round_key: int, rules: Sequence[str]) -> Iterator[bytes]:
    """Yield the CSV of a round's lights: a header, a line for each parcel in the order of their ids' bytes, times in UTC."""
    columns = ", ".join(
        f"""lights[{nr}] as "{_name(rule)}", rule_versions[{nr}] as "{_name(rule)} version",
            to_char(found_at[{nr}] at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "{_name(rule)} found at",
            alert_states[{nr}] as "{_name(rule)} alert" """
        for nr, rule in enumerate(rules, 1)
    )
    statement = f"""copy (select source_id as parcel, light as parcel_light, {columns}
                          from round_lights join parcels using (parcel_key) where round_key = {int(round_key)}
                          order by source_id collate "C") to stdout with (format csv, header, encoding 'UTF8')"""
    with driver(connection).cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for block in copy:
            yield bytes(block)


def _name(rule: str) -> str:
    """Return a rule's name as it stands between double quotes."""
    return rule.replace('"', '""')


def content_sha256(connection: sa.Connection, round_key: int, rules: Sequence[str]) -> str:
    """Return the SHA-256 of the lights of a round as they are stored."""
    digest = hashlib.sha256()
    for block in content(connection, round_key, rules):
        digest.update(block)
    return digest.hexdigest()


def newest_sha256(connection: sa.Connection) -> str | None:
    """Return the hash of the round that was published last; None where there is none."""
    return connection.execute(
        sa.text("select sha256 from rounds order by recorded_at desc, round_key desc limit 1")
    ).scalar_one_or_none()


def publish(connection: sa.Connection, row: RoundRow) -> None:
    """Store a round whose lights are written; from now on nothing of it changes."""
    names = [one.name for one in fields(row)]
    values = {name: getattr(row, name) for name in names} | {"rules": list(row.rules)}
    connection.execute(
        sa.text(
            f"insert into rounds ({', '.join(names)}) values ({', '.join(f':{name}' for name in names)})"
        ).bindparams(sa.bindparam("settings", type_=sa.JSON)),
        values,
    )


def rounds(connection: sa.Connection, season: str | None = None, collection: str | None = None) -> list[RoundRow]:
    """Return published rounds in their order; None: of any season, or collection."""
    rows = connection.execute(
        sa.text(f"""select {", ".join(f"rounds.{one.name}" for one in fields(RoundRow))}
                    from rounds join seasons s using (season_key)
                    where (cast(:season as text) is null or s.name = :season)
                      and (cast(:collection as text) is null or collection = :collection)
                    order by rounds.recorded_at, round_key"""),
        {"season": season, "collection": collection},
    )
    return [RoundRow(**row._mapping) for row in rows]


def counts(connection: sa.Connection, round_key: int) -> Mapping[str, Mapping[str, int]]:
    """Return how many parcels of a round have each light, by rule; the parcels' own under an empty name."""
    rows = connection.execute(
        sa.text("""select rule, one as light, count(*) as n
                   from rounds join round_lights using (round_key)
                   cross join lateral unnest(rules || text '', lights || light) as of (rule, one)
                   where round_key = :round group by rule, one order by rule, one"""),
        {"round": round_key},
    )
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row.rule, {})[row.light] = row.n
    return found


def changes(connection: sa.Connection, before: RoundRow, after: RoundRow) -> list[ChangeRow]:
    """Return the lights that differ between two rounds, with what was recorded of their parcels in between, in no order."""
    asked = {
        "before": before.round_key,
        "after": after.round_key,
        "season": after.season_key,
        "collection": after.collection,
    }
    with joined_by_hash(connection):
        rows = connection.execute(
            sa.text(_CHANGES), asked | {"since": before.as_known_at, "until": after.as_known_at}
        ).all()
    return [ChangeRow(**row._mapping) for row in rows]


# Findings and observations are asked for by parcel, whose rows lie together: of those few that changed. Dates bound the chunks read.
_OBSERVED = """select is_withdrawn, revision from {table} o
    where o.parcel_key = c.parcel_key and o.recorded_at > :since and o.recorded_at <= :until
      and o.observed_at >= season.starts_on - 60 and o.observed_at < season.ends_on + 60"""
_FOUND = """select rule_version, evidence -> 'thresholds' as thresholds, departed_on from findings f
    where (f.parcel_key, f.rule, f.recorded_at) = (c.parcel_key, c.rule, c.found_{when}) limit 1"""
_CHANGES = f"""
with one as (select parcel_key, rule, light, parcel_light, found_at, alert_state from published_lights where round_key = :before),
two as (select parcel_key, rule, light, parcel_light, found_at, alert_state from published_lights where round_key = :after),
c as materialized (
    select parcel_key, rule, one.light as before, two.light as after, one.parcel_light as parcel_before,
           two.parcel_light as parcel_after, one.alert_state as state_before, two.alert_state as state_after,
           one.found_at as found_before, two.found_at as found_after
    from one full join two using (parcel_key, rule)
    -- A new rule that found nothing changes nothing.
    where coalesce(one.light, 'not_executed') <> coalesce(two.light, 'not_executed'))
select p.source_id, g.code as region, declared.crop_name as declared_crop, c.rule, c.before, c.after, c.parcel_before,
       c.parcel_after, c.state_before, c.state_after, f2.departed_on,
       coalesce(f1.rule_version <> f2.rule_version or f1.thresholds <> f2.thresholds, false) as is_rule_changed,
       exists (select from declarations d where d.parcel_key = c.parcel_key and d.recorded_at > :since and d.recorded_at <= :until)
           as is_declared_anew,
       exists (select from model_activations m where (m.season_key, m.collection) = (:season, :collection)
                 and m.recorded_at > :since and m.recorded_at <= :until) as is_model_new,
       c.state_before is distinct from c.state_after and c.found_before is not distinct from c.found_after as is_decided,
       n_withdrawn, n_revised, n_new
from c join parcels p using (parcel_key) join regions g using (region_key) join seasons season using (season_key)
left join lateral declaration_recorded_by(c.parcel_key, :until) declared on true
left join lateral ({_FOUND.format(when="before")}) f1 on true
left join lateral ({_FOUND.format(when="after")}) f2 on true
cross join lateral (
    select count(*) filter (where is_withdrawn) as n_withdrawn,
           count(*) filter (where revision > 0 and not is_withdrawn) as n_revised,
           count(*) filter (where revision = 0 and not is_withdrawn) as n_new
    from ({_OBSERVED.format(table="s2_observations")} union all {_OBSERVED.format(table="s1_observations")}) o
) observed"""


def _as_text(value: Any) -> str:
    """Return a time as its hash is made: UTC, to the microsecond."""
    return str(value.isoformat(timespec="microseconds"))
