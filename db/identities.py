"""Who people are at an issuer of OpenID Connect, and sign-ins that have begun there (docs/decisions/0017-openid.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from db.access import Principal, Role

Refusal = Literal["unknown", "removed", "taken"]


@dataclass(frozen=True)
class Identity:
    """Who an issuer says signs in; the e-mail where the issuer has verified it, in lower case."""

    issuer: str
    subject: str
    email: str | None


@dataclass(frozen=True)
class ByGroups:
    """What the groups of a person give: a role, and the regions of an inspector."""

    role: Role
    regions: Sequence[str] = ()


def link(connection: sa.Connection, person: str, identity: Identity, by: str, now: datetime) -> str | None:
    """Let a person sign in by an identity and by no other; with an empty subject, who first signs in with the e-mail is this person.

    Returns who has the identity: if it is somebody else, or None since there is no such person, the transaction is to be undone.
    """
    unlink(connection, person)
    given = {"issuer": identity.issuer, "subject": identity.subject or None, "email": identity.email}
    connection.execute(
        sa.text("""insert into parcelwatch_access.identities (person, issuer, subject, email, added_by, added_at)
                   select name, :issuer, :subject, :email, :by, :now from parcelwatch_access.people
                   where name = :person and ended_at is null on conflict do nothing"""),
        {"person": person, "by": by, "now": now} | given,
    )
    return connection.execute(
        sa.text("""select person from parcelwatch_access.identities
                   where issuer = :issuer and (subject = :subject or email = :email) limit 1"""),
        given,
    ).scalar_one_or_none()


def unlink(connection: sa.Connection, person: str) -> bool:
    """Let a person sign in by key alone; return whether there was another way."""
    return (
        connection.execute(
            sa.text("delete from parcelwatch_access.identities where person = :person"), {"person": person}
        ).rowcount
        > 0
    )


def keep_out(connection: sa.Connection, person: str) -> None:
    """Let groups not bring back a person whose access an administrator ended."""
    connection.execute(
        sa.text("update parcelwatch_access.identities set is_by_groups = false where person = :person"),
        {"person": person},
    )


def person_of(
    connection: sa.Connection, identity: Identity, by_groups: ByGroups | None, now: datetime
) -> Principal | Refusal:
    """Return who signs in, or why nobody does.

    Somebody of a group who is new is added, called by the e-mail or else the subject; role and regions are those of the groups at each
    sign-in, and access ends with them.
    """
    row = connection.execute(
        sa.text("""select name, role, refusal from parcelwatch_access.person_of_identity(
                       :issuer, :subject, :email, :name, :role, cast(:regions as text[]), :now)"""),
        {
            "issuer": identity.issuer,
            "subject": identity.subject,
            "email": identity.email,
            "name": identity.email or identity.subject,
            "role": by_groups.role if by_groups else None,
            "regions": list(by_groups.regions) if by_groups else [],
            "now": now,
        },
    ).one()
    return row.refusal or Principal(row.name, row.role)


def begin(connection: sa.Connection, token_hash: bytes, back: str, expires_at: datetime) -> None:
    """Store a sign-in that begins at the issuer, and the page that it leads back to."""
    connection.execute(
        sa.text("insert into parcelwatch_access.pending_sign_ins values (:token_hash, :back, :expires_at)"),
        {"token_hash": token_hash, "back": back, "expires_at": expires_at},
    )


def take(connection: sa.Connection, token_hash: bytes) -> str | None:
    """Take a sign-in that has begun, and return the page it leads back to; None where it was taken or its time is over."""
    return connection.execute(
        sa.text("""delete from parcelwatch_access.pending_sign_ins
                   where token_hash = :token_hash and expires_at > now() returning back"""),
        {"token_hash": token_hash},
    ).scalar_one_or_none()


def remove_ended(connection: sa.Connection, kept: timedelta, limit: int) -> int:
    """Remove sign-ins that ended or ran out so long ago, and those at the issuer that nobody came back from; return how many.

    By the server's clock, as who signs in is asked by it. At most `limit` of each are removed, the oldest first.
    """
    ended = "least(ended_at, expires_at)"
    return sum(
        connection.execute(
            sa.text(f"""delete from parcelwatch_access.{table} where token_hash in (
                            select token_hash from parcelwatch_access.{table} where {ends} < now() - :kept
                            order by {ends} limit :limit)"""),
            {"kept": kept, "limit": limit},
        ).rowcount
        for table, ends, kept in (("sessions", ended, kept), ("pending_sign_ins", "expires_at", timedelta(0)))
    )
