"""`parcelwatch access`: people and their keys, and the regions that each sees."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from db import access, identities
from db.access import ROLES, Principal
from db.connect import Connection, engine
from db.identities import Identity
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson
from monitor.inspection.listing import records
from terminal.output import console, plain
from web.principals import make_key
from web.settings import OidcSettings, WebSettings

app = typer.Typer(no_args_is_help=True, help="Who may use the API and the console, and see which regions in SQL.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="a person, or a login of the database", callback=arguments.note)
]
Regions = Annotated[list[str], typer.Option("--region", help="code of a region; several times for several")]
By = Annotated[str | None, typer.Option(help="who says so, else the user of this machine", callback=arguments.note)]


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help=f"one of {', '.join(ROLES)}")],
    region: Regions = [],  # noqa: B006, typer takes a list
    by: By = None,
) -> None:
    """Add a person, or give one another role. An inspector sees the regions given."""
    if role not in ROLES:
        raise typer.BadParameter(f"{arguments.storable(role)!r} is no role; known: {', '.join(ROLES)}")
    if role == "inspector" and not region:
        raise typer.BadParameter("an inspector sees nothing without --region")
    who, now = by or arguments.operator(), datetime.now(UTC)
    with engine(resolve_dsn()).begin() as connection:
        access.add_person(connection, Principal(name, role), who, now)
        _grant(connection, name, region, who, now)
    console.print(f"{plain(name)} is {role}; a key to sign in with: `parcelwatch access key`", soft_wrap=True)


@app.command()
def remove(name: Name) -> None:
    """End a person's access: keys, sign-ins and regions."""
    with engine(resolve_dsn()).begin() as connection:
        if not access.end_person(connection, name, datetime.now(UTC)):
            raise NotFound(f"nobody called {name!r} has access: `parcelwatch access list`")
        identities.keep_out(connection, name)
    console.print(f"{plain(name)} has no access any more; servers notice within half a minute", soft_wrap=True)


@app.command()
def grant(name: Name, region: Regions, by: By = None) -> None:
    """Let a person, or a login of the database, see regions."""
    with engine(resolve_dsn()).begin() as connection:
        _grant(connection, name, region, by or arguments.operator(), datetime.now(UTC))
    console.print(f"{plain(name)} sees {plain(', '.join(region))}", soft_wrap=True)


@app.command()
def revoke(name: Name, region: Regions) -> None:
    """Take regions back."""
    with engine(resolve_dsn()).begin() as connection:
        n = access.revoke_regions(connection, name, region)
    if n == 0:
        raise NotFound(f"{name!r} was granted none of {', '.join(region)}: `parcelwatch access list`")
    console.print(f"{n} regions taken back", soft_wrap=True)


@app.command()
def key(
    name: Name,
    purpose: Annotated[str, typer.Option("--for", help="what it is for, as: QGIS", callback=arguments.note)],
    days: Annotated[float | None, typer.Option(min=0.001, help="days after which it ends, else a year")] = None,
    by: By = None,
) -> None:
    """Make a key of a person, and print it this once."""
    key_id, whole, hashed = make_key()
    now = datetime.now(UTC)
    ends = now + timedelta(days=WebSettings().key_days if days is None else days)
    with engine(resolve_dsn()).begin() as connection:
        if not access.add_key(connection, key_id, name, purpose, hashed, by or arguments.operator(), now, ends):
            raise NotFound(f"nobody called {name!r} has access: `parcelwatch access add`")
    typer.echo(whole)
    typer.echo(f"until {ends:%Y-%m-%d}; it is not shown again, and revoked by `access revoke-key {key_id}`", err=True)


@app.command("revoke-key")
def revoke_key(key_id: Annotated[str, typer.Argument(help="its first part, as `access list` shows it")]) -> None:
    """Revoke a key; servers notice within half a minute."""
    with engine(resolve_dsn()).begin() as connection:
        if not access.revoke_key(connection, arguments.storable(key_id) or "", datetime.now(UTC)):
            raise NotFound(f"no key {key_id!r} is there to revoke: `parcelwatch access list`")
    console.print("revoked", soft_wrap=True)


@app.command()
def link(
    name: Name,
    email: Annotated[
        str | None,
        typer.Option(
            help="as the issuer has verified it; the first who signs in with it is this person", callback=arguments.note
        ),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="the issuer's own name of the person (claim sub)", callback=arguments.note)
    ] = None,
    by: By = None,
) -> None:
    """Let a person sign in with an account at the issuer of PARCELWATCH_OIDC_ISSUER, and with no other."""
    issuer = OidcSettings().issuer
    if issuer is None:
        raise typer.BadParameter("there is no issuer to sign in with: PARCELWATCH_OIDC_ISSUER")
    if (email is None) == (subject is None):
        raise typer.BadParameter("one of --email and --subject is needed")
    if email is not None and not (email.isascii() and "@" in email):
        raise typer.BadParameter(f"{email!r} is no e-mail that issuers verify: ASCII, with @")
    account = Identity(issuer, subject or "", email.lower() if email else None)
    with engine(resolve_dsn()).begin() as connection:
        holder = identities.link(connection, name, account, by or arguments.operator(), datetime.now(UTC))
        if holder is None:
            raise NotFound(f"nobody called {name!r} has access: `parcelwatch access add`")
        if holder != name:
            raise typer.BadParameter(f"this account is {holder!r}'s: `parcelwatch access unlink` it first")
    console.print(f"{plain(name)} signs in at {plain(issuer)} as {plain(subject or email or '')}", soft_wrap=True)


@app.command()
def unlink(name: Name) -> None:
    """Let a person sign in by key alone. A sign-in that has begun goes on; `access remove` ends all."""
    with engine(resolve_dsn()).begin() as connection:
        if not identities.unlink(connection, name):
            raise NotFound(f"{name!r} is linked to no account: `parcelwatch access list`")
    console.print(f"{plain(name)} signs in by key alone", soft_wrap=True)


@app.command("list")
def list_people(as_json: AsJson = False) -> None:
    """List people, and logins that regions were granted to."""
    with engine(resolve_dsn()).connect() as connection:
        rows = access.people(connection)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(asdict(row), default=str))
        return
    if not rows:
        console.print("nobody has access: `parcelwatch access add`")
        return
    columns = {
        "name": [plain(row.name) for row in rows],
        "role": ["gone" if row.ended_at else row.role for row in rows],
        "sees": [plain(", ".join(row.regions)) if row.role == "inspector" else "all regions" for row in rows],
        "keys": [plain(", ".join(row.keys)) for row in rows],
        "signs in as": [plain(", ".join(row.identities)) for row in rows],
        "since": [f"{row.added_at:%Y-%m-%d}" for row in rows],
    }
    console.print(records(columns))


def _grant(connection: Connection, name: str, regions: Sequence[str], by: str, now: datetime) -> None:
    if unknown := access.grant_regions(connection, name, regions, by, now):
        raise NotFound(f"no region {', '.join(map(repr, unknown))} is stored; they come with the parcels")
