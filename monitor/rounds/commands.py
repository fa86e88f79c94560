"""`parcelwatch rounds`: lights published at dates, and what changed between them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from db import rounds as store
from db.connect import Connection, engine
from db.rounds import ChangeRow, RoundRow
from db.seasons import season_by_key, season_by_name
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson, CollectionOption, SeasonOption, TimeOption
from monitor.inspection.listing import records
from monitor.rounds.differences import causes, in_order, is_turned
from monitor.rounds.publish import Order, publish, why_unproven
from monitor.settings import MonitorSettings
from terminal.output import console, plain
from terminal.times import shown

app = typer.Typer(no_args_is_help=True, help="Publish the lights of all parcels, and list what changed since.")

RoundArgument = Annotated[
    str,
    typer.Argument(metavar="ROUND", help="number or name, as `rounds list` shows them", callback=arguments.storable),
]
SHOWN_CHANGES = 50
"""Changes that `rounds diff` prints where no other limit is given."""


# More than six: the options of the command line.
@app.command("publish")
def publish_round(
    season: Annotated[str, typer.Option(help="season of the parcels", callback=arguments.storable)],
    name: Annotated[str, typer.Option(help="what the round is called, as 2025-july", callback=arguments.note)],
    why: Annotated[str, typer.Option("--why", help="why, in a sentence", callback=arguments.note)],
    collection: CollectionOption = None,
    as_known_at: TimeOption = None,
    by: Annotated[
        str | None, typer.Option(help="who publishes, else the user of this machine", callback=arguments.note)
    ] = None,
) -> None:
    """Freeze the light of every parcel, as known at a time. It never changes afterwards."""
    with engine(resolve_dsn()).begin() as connection:
        its_collection = arguments.the_collection(connection, season, collection)
        order = Order(
            season_by_name(connection, season), its_collection, name, by or arguments.operator(), why, as_known_at
        )
        earlier = store.rounds(connection, season, its_collection)
        row = publish(connection, order, MonitorSettings().rules, datetime.now(UTC))
        turned = [one for one in store.changes(connection, earlier[-1], row) if is_turned(one)] if earlier else []
    console.print(
        plain(f"round {row.round_key} ({name}): {row.n_parcels} parcels as known at {shown(row.as_known_at)}"),
        soft_wrap=True,
    )
    console.print(f"lights, as CSV: SHA-256 {row.content_sha256}", soft_wrap=True)
    if turned:
        diff = f"rounds diff {earlier[-1].round_key} {row.round_key}"
        console.print(
            f"{len(turned)} green lights of round {earlier[-1].round_key} are not green any more: `{diff}`",
            soft_wrap=True,
        )


@app.command("list")
def list_rounds(season: SeasonOption = None, collection: CollectionOption = None, as_json: AsJson = False) -> None:
    """List published rounds in their order."""
    with engine(resolve_dsn()).connect() as connection:
        rows = store.rounds(connection, season, collection)
        season_of = {key: season_by_key(connection, key).name for key in {row.season_key for row in rows}}
    if as_json:
        for row in rows:
            typer.echo(json.dumps({"season": season_of[row.season_key]} | asdict(row), default=str))
        return
    if not rows:
        console.print("no round is published: `parcelwatch rounds publish`")
        return
    columns = {
        "round": [str(row.round_key) for row in rows],
        "name": [plain(row.name) for row in rows],
        "collection, season": [plain(f"{row.collection}, {season_of[row.season_key]}") for row in rows],
        "as known at": [f"{row.as_known_at:%Y-%m-%d %H:%M}" for row in rows],
        "parcels": [str(row.n_parcels) for row in rows],
        "by": [plain(row.published_by) for row in rows],
        "why": [plain(row.reason) for row in rows],
    }
    console.print(records(columns))


@app.command()
def show(
    which: RoundArgument,
    csv: Annotated[Path | None, typer.Option(help="file to write the lights of every parcel to")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a round says, and prove by its hashes that nothing of it was changed."""
    with engine(resolve_dsn()).connect() as connection:
        row = _the_round(connection, which)
        counts = store.counts(connection, row.round_key)
        unproven = why_unproven(connection, row)
        if csv:
            _write(connection, row, csv)
    if as_json:
        typer.echo(json.dumps(asdict(row) | {"lights": counts, "is_proven": unproven is None}, default=str))
    else:
        _print(row, counts)
        if csv:
            console.print(f"lights: {plain(csv)}", soft_wrap=True)
    if unproven:
        raise NotFound(f"round {row.round_key} is not what was published: {unproven}")


def _write(connection: Connection, row: RoundRow, path: Path) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(store.content(connection, row.round_key, row.rules))
    except OSError as error:
        raise NotFound(f"{arguments.storable(str(path))} cannot be written: {error.strerror}") from error


def _print(row: RoundRow, counts: Any) -> None:
    console.print(
        plain(
            f"round {row.round_key} ({row.name}) of {row.collection}, as known at {shown(row.as_known_at)}, "
            f"published by {row.published_by}: {row.reason}"
        ),
        soft_wrap=True,
    )
    named = {"": "parcels"} | {rule: rule for rule in row.rules}
    lights = ("red", "yellow", "suppressed", "green", "not_valid", "not_executed")
    columns = {"lights of": [plain(named[rule]) for rule in named]}
    columns |= {
        light.replace("_", " "): [str(counts.get(rule, {}).get(light, 0)) for rule in named] for light in lights
    }
    console.print(records(columns))
    console.print(f"lights, as CSV: SHA-256 {row.content_sha256}; round: SHA-256 {row.sha256}", soft_wrap=True)
    policy = f", policy {row.policy_sha256}" if row.policy_sha256 else ""
    console.print(f"rules of version {row.rule_version}, settings {row.settings_sha256}{policy}", soft_wrap=True)


@app.command()
def diff(
    earlier: RoundArgument,
    later: RoundArgument,
    limit: Annotated[int, typer.Option(min=1, help="print at most so many")] = SHOWN_CHANGES,
    as_json: AsJson = False,
) -> None:
    """List lights that differ: green ones that turned first, each with what was recorded in between."""
    with engine(resolve_dsn()).connect() as connection:
        before, after = _the_round(connection, earlier), _the_round(connection, later)
        if (before.season_key, before.collection) != (after.season_key, after.collection):
            raise NotFound(f"rounds {before.round_key} and {after.round_key} are not of one collection and season")
        if before.as_known_at > after.as_known_at:
            raise NotFound(
                f"round {after.round_key} is the earlier one: `rounds diff {after.round_key} {before.round_key}`"
            )
        changes = in_order(store.changes(connection, before, after))
    if as_json:
        for one in changes:
            typer.echo(json.dumps(asdict(one) | {"causes": causes(one)}, default=str))
        return
    turned = sum(map(is_turned, changes))
    console.print(f"{len(changes)} lights differ, {turned} of them were green")
    if not changes:
        return
    _print_changes(changes[:limit])
    for rule, n in sorted(Counter(one.rule for one in changes if is_turned(one)).items()):
        console.print(plain(f"{rule}: {n} green lights turned"))
    if len(changes) > limit:
        console.print(f"the first {limit} are shown: --limit shows more, --json all")


def _print_changes(changes: Sequence[ChangeRow]) -> None:
    columns = {
        "parcel": [plain(one.source_id) for one in changes],
        "region": [plain(one.region) for one in changes],
        "declared": [plain(one.declared_crop or "nothing") for one in changes],
        "rule": [plain(one.rule) for one in changes],
        "was": [_named(one.before) for one in changes],
        "is": [_named(one.after) for one in changes],
        "recorded in between": [plain(", ".join(causes(one))) for one in changes],
    }
    console.print(records(columns))


def _named(light: str | None) -> str:
    return "none" if light is None else light.replace("_", " ")


def _the_round(connection: Connection, which: str) -> RoundRow:
    """Return the round of a number or name; raises NotFound where none or several have it."""
    rows = store.rounds(connection)
    found = [row for row in rows if str(row.round_key) == which or row.name == which]
    if not found:
        published = ", ".join(f"{row.round_key} ({row.name})" for row in rows[-5:]) or "none"
        raise NotFound(f"no round {which!r} is published; published: {published}")
    if len(found) > 1:
        raise NotFound(f"several rounds are called {which!r}: name one by its number, as `rounds list` shows them")
    return found[0]
