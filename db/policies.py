"""Policies put in force: appended, the newest of a season and collection holds."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db import recording
from terminal.errors import UserError


class VersionInForce(UserError):
    """A policy of that name and version was in force with another content; the caller raises the version."""


@dataclass(frozen=True)
class PolicyRow:
    """A policy that was put in force."""

    name: str
    version: int
    hash: str
    content: str
    """JSON, of which `hash` is the SHA-256."""
    decided_by: str
    reason: str
    recorded_at: datetime


def put_in_force(
    connection: sa.Connection,
    season_key: int,
    collection: str,
    policy: tuple[str, int, str, str],
    by: str,
    why: str,
    now: datetime,
) -> datetime:
    """Append a policy (name, version, hash, content); returns when it became known.

    Raises:
        VersionInForce: this name and version had another content.
    """
    name, version, hash_, content = policy
    other = connection.execute(
        sa.text("""select recorded_at from policies where (season_key, collection, name, version) = (:s, :c, :n, :v)
                   and hash <> :hash limit 1"""),
        {"s": season_key, "c": collection, "n": name, "v": version, "hash": hash_},
    ).scalar_one_or_none()
    if other is not None:
        raise VersionInForce(
            f"{name} version {version} was put in force on {other:%Y-%m-%d} with another content; raise its version"
        )
    recorded_at = recording.begin(connection, now)
    connection.execute(
        sa.text("""insert into policies (season_key, collection, name, version, hash, content, decided_by, reason, recorded_at)
                   values (:s, :c, :n, :v, :hash, :content, :by, :why, :at)"""),
        {
            "s": season_key,
            "c": collection,
            "n": name,
            "v": version,
            "hash": hash_,
            "content": content,
            "by": by,
            "why": why,
            "at": recorded_at,
        },
    )
    return recorded_at


def in_force(
    connection: sa.Connection, season_key: int, collection: str, as_known_at: datetime | None = None
) -> PolicyRow | None:
    """Return the policy of a season and collection as known at a time that is settled (None: now); None where there is none."""
    row = connection.execute(
        sa.text("""select name, version, hash, content, decided_by, reason, recorded_at from policies
                   where (season_key, collection) = (:s, :c) and recorded_at <= coalesce(:at, 'infinity'::timestamptz)
                   order by recorded_at desc limit 1"""),
        {"s": season_key, "c": collection, "at": as_known_at},
    ).one_or_none()
    return None if row is None else PolicyRow(*row)


def stored_rules(connection: sa.Connection, of: tuple[int, str] | None = None) -> list[str]:
    """Return the names of all obligations that were ever in force, of a season and collection (None: of any)."""
    season_key, collection = of or (None, None)
    rows = connection.execute(
        sa.text("""select distinct asked ->> 'name' from policies, jsonb_array_elements(content::jsonb -> 'obligation') asked
                   where cast(:s as int) is null or (season_key, collection) = (:s, :c) order by 1"""),
        {"s": season_key, "c": collection},
    )
    return list(rows.scalars())
