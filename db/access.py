"""Who uses the API and the console, what each may see, and connections that see just that (docs/decisions/0015-contract.md)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db.connect import connect

Role = Literal["reader", "inspector", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True)
class Principal:
    """A person who asks, or a program in the name of one."""

    name: str
    role: Role


@dataclass(frozen=True)
class KeyRow:
    """A key that may be used now: whose it is, and the hash of its secret."""

    name: str
    role: Role
    secret_hash: str


@dataclass(frozen=True)
class PersonRow:
    """A person: role, regions granted, keys that may be used now (id and purpose), accounts to sign in with (e-mail or subject)."""

    name: str
    role: Role
    regions: Sequence[str]
    keys: Sequence[str]
    identities: Sequence[str]
    added_at: datetime
    ended_at: datetime | None


@contextmanager
def asking(engine: sa.Engine, principal: Principal) -> Iterator[sa.Connection]:
    """Yield a connection that sees what a person may see, for one transaction.

    The contract's views and functions answer by it. The role comes from `ROLES` alone, and both settings end with the transaction, so
    that the next user of the connection has neither.
    """
    with engine.begin() as connection:
        connection.execute(
            sa.text("select set_config('role', :role, true), set_config('parcelwatch.principal', :name, true)"),
            {"role": f"parcelwatch_{principal.role}", "name": principal.name},
        )
        yield connection


@contextmanager
def watching(connection: sa.Connection) -> Iterator[None]:
    """Let a connection of `asking` read the state of the chain within (`db.status`); check first that the person is an operator."""
    role = connection.execute(
        sa.text("select current_setting('role'), set_config('role', 'parcelwatch_watcher', true)")
    ).one()[0]
    yield
    connection.execute(sa.text("select set_config('role', :role, true)"), {"role": role})


@contextmanager
def deciding(connection: sa.Connection) -> Iterator[None]:
    """Let a connection of `asking` read and write tables within, of the parcels that the person may see.

    The role's rights and the row security of `parcels` hold for administrators' logins too. What is asked by the key of an alert
    passes no parcel: check first that it is seen (`db.decisions.seen_alerts`).
    """
    role = connection.execute(
        sa.text("""select set_config('parcelwatch.role', current_setting('role'), true),
                          set_config('role', 'parcelwatch_decider', true)""")
    ).scalar_one()
    yield
    connection.execute(sa.text("select set_config('role', :role, true)"), {"role": role})


def add_login(dsn: str, role: Role, name: str, password: str) -> str:
    """Make a login of the database in a role of the contract; return its connection string."""
    with connect(dsn, autocommit=True) as connection:
        made = sql.SQL("create role {} login password {} in role {}")
        connection.execute(
            made.format(sql.Identifier(name), sql.Literal(password), sql.Identifier(f"parcelwatch_{role}"))
        )
    return make_conninfo(dsn, user=name, password=password)


def add_person(connection: sa.Connection, principal: Principal, by: str, now: datetime) -> None:
    """Add a person, or give one who is there another role; one who left is back, without keys."""
    connection.execute(
        sa.text("""insert into parcelwatch_access.people (name, role, added_by, added_at) values (:name, :role, :by, :now)
                   on conflict (name) do update set role = excluded.role, ended_at = null, added_by = :by, added_at = :now"""),
        {**principal.__dict__, "by": by, "now": now},
    )


def end_person(connection: sa.Connection, name: str, now: datetime) -> bool:
    """End a person's access: keys, sessions and grants; return whether there was one."""
    ended = connection.execute(
        sa.text("update parcelwatch_access.people set ended_at = :now where name = :name and ended_at is null"),
        {"name": name, "now": now},
    ).rowcount
    for statement in (
        "update parcelwatch_access.api_keys set revoked_at = :now where person = :name and revoked_at is null",
        "update parcelwatch_access.sessions set ended_at = :now where person = :name and ended_at is null",
        "delete from parcelwatch_access.region_grants where principal = :name",
    ):
        connection.execute(sa.text(statement), {"name": name, "now": now})
    return ended > 0


def people(connection: sa.Connection) -> list[PersonRow]:
    """Return all people by name, those who left too, and logins of the database that regions were granted to."""
    rows = connection.execute(
        sa.text("""select name, coalesce(p.role, 'inspector') as role, added_at, ended_at,
                          array(select code from parcelwatch_access.region_grants join regions using (region_key)
                                where principal = name order by code) as regions,
                          array(select key_id || ' (' || purpose || ')' from parcelwatch_access.api_keys
                                where person = name and revoked_at is null and expires_at > now() order by made_at) as keys,
                          array(select coalesce(email, subject) || case when is_by_groups then ' (by groups)' else '' end
                                from parcelwatch_access.identities where person = name order by 1) as identities
                   from parcelwatch_access.people p full join
                       (select principal as name, min(granted_at) as added_at from parcelwatch_access.region_grants
                        where principal not in (select name from parcelwatch_access.people) group by principal) g
                       using (name, added_at) order by name""")
    )
    return [PersonRow(**row._mapping) for row in rows]


def grant_regions(connection: sa.Connection, name: str, regions: Sequence[str], by: str, now: datetime) -> list[str]:
    """Let a person, or a login of the database, see regions; return those of them that there are not."""
    connection.execute(
        sa.text("""insert into parcelwatch_access.region_grants (principal, region_key, granted_by, granted_at)
                   select :name, region_key, :by, :now from regions where code = any(:regions) on conflict do nothing"""),
        {"name": name, "regions": list(regions), "by": by, "now": now},
    )
    stored = connection.execute(sa.text("select code from regions where code = any(:codes)"), {"codes": list(regions)})
    return sorted(set(regions) - set(stored.scalars()))


def revoke_regions(connection: sa.Connection, name: str, regions: Sequence[str]) -> int:
    """Take regions back; return how many had been granted."""
    return connection.execute(
        sa.text("""delete from parcelwatch_access.region_grants g using regions r
                   where g.region_key = r.region_key and principal = :name and code = any(:regions)"""),
        {"name": name, "regions": list(regions)},
    ).rowcount


def add_key(
    connection: sa.Connection,
    key_id: str,
    person: str,
    purpose: str,
    secret_hash: str,
    by: str,
    now: datetime,
    expires_at: datetime,
) -> bool:
    """Store a key's hash; return whether the person is there to have one."""
    return (
        connection.execute(
            sa.text("""insert into parcelwatch_access.api_keys (key_id, person, purpose, secret_hash, made_by, made_at, expires_at)
                       select :key_id, name, :purpose, :secret_hash, :by, :now, :expires_at from parcelwatch_access.people
                       where name = :person and ended_at is null"""),
            {
                "key_id": key_id,
                "person": person,
                "purpose": purpose,
                "secret_hash": secret_hash,
                "by": by,
                "now": now,
                "expires_at": expires_at,
            },
        ).rowcount
        > 0
    )


def revoke_key(connection: sa.Connection, key_id: str, now: datetime) -> bool:
    """Revoke a key; return whether there was one to revoke."""
    return (
        connection.execute(
            sa.text(
                "update parcelwatch_access.api_keys set revoked_at = :now where key_id = :key_id and revoked_at is null"
            ),
            {"key_id": key_id, "now": now},
        ).rowcount
        > 0
    )


def usable_key(connection: sa.Connection, key_id: str) -> KeyRow | None:
    """Return a key that is neither revoked nor expired, of a person who is still there."""
    row = connection.execute(
        sa.text("""select name, role, secret_hash from parcelwatch_access.api_keys k
                   join parcelwatch_access.people on name = person
                   where key_id = :key_id and revoked_at is null and expires_at > now() and ended_at is null"""),
        {"key_id": key_id},
    ).one_or_none()
    return None if row is None else KeyRow(**row._mapping)


def begin_session(
    connection: sa.Connection, token_hash: bytes, person: str, now: datetime, expires_at: datetime
) -> None:
    """Store a sign-in."""
    connection.execute(
        sa.text(
            "insert into parcelwatch_access.sessions (token_hash, person, begun_at, expires_at) values (:t, :p, :now, :to)"
        ),
        {"t": token_hash, "p": person, "now": now, "to": expires_at},
    )


def person_of_session(connection: sa.Connection, token_hash: bytes) -> Principal | None:
    """Return whose session it is that neither ended nor expired."""
    row = connection.execute(
        sa.text("""select name, role from parcelwatch_access.sessions s join parcelwatch_access.people p on name = person
                   where token_hash = :token_hash and s.ended_at is null and p.ended_at is null and expires_at > now()"""),
        {"token_hash": token_hash},
    ).one_or_none()
    return None if row is None else Principal(**row._mapping)


def end_session(connection: sa.Connection, token_hash: bytes, now: datetime) -> None:
    """End a sign-in."""
    connection.execute(
        sa.text("update parcelwatch_access.sessions set ended_at = :now where token_hash = :t and ended_at is null"),
        {"t": token_hash, "now": now},
    )
