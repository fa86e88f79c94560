"""`parcelwatch alerts`: what departs, and what people decide on it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from db import history as store
from db.alerts import NoOpenAlert, decide
from db.connect import engine
from db.history import AlertFilter, KnownAlertRow
from db.status import Group, live_processes, waiting_for
from devstack.addresses import resolve_dsn
from monitor.alerts import evidence
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson, CollectionOption, RuleOption, SeasonOption, TimeOption
from monitor.inspection.listing import records
from terminal.output import console, plain
from terminal.times import shown

app = typer.Typer(help="List alerts, and record what people decide on them.")

Keys = Annotated[list[int], typer.Argument(metavar="ALERT", min=1, max=2**63 - 1, help="as `alerts` lists them")]
By = Annotated[str | None, typer.Option(help="who decides, else the user of this machine", callback=arguments.note)]


# More than six: the options of the command line.
@app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context,
    season: SeasonOption = None,
    collection: CollectionOption = None,
    rule: RuleOption = None,
    with_closed: Annotated[bool, typer.Option("--all", help="closed ones too")] = False,
    as_known_at: TimeOption = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: AsJson = False,
) -> None:
    """List open alerts: those to work on first, of these the confirmed ones, then the surest."""
    if context.invoked_subcommand is not None:
        return
    with engine(resolve_dsn()).connect() as connection:
        groups = arguments.groups(connection, season, collection)
        wanted = AlertFilter(season, collection, rule, with_closed)
        rows = store.known_alerts(connection, wanted, as_known_at, limit + 1)
        live = live_processes(connection)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        return
    kind = ("alerts" if with_closed else "open alerts") + (f" as known at {shown(as_known_at)}" if as_known_at else "")
    console.print(records(_columns(rows)) if rows else f"no {kind}")
    if rows and as_known_at:
        console.print(kind)
    if more:
        console.print(f"there are more than {limit}: --limit shows them, --season, --collection and --rule choose")
    if as_known_at is None:
        for sentence in _waits([one for one in groups if one.is_newest or season], live, is_empty=not rows):
            console.print(plain(sentence), soft_wrap=True)


def _waits(groups: Sequence[Group], live: Mapping[str, Sequence[str]], *, is_empty: bool) -> list[str]:
    """Return what a list of alerts waits for; of an empty one also that it waits for nothing."""
    if not groups:
        return ["no parcels are stored: `parcelwatch parcels import`"]
    found = [f"{one.season} / {one.collection}: {sentence}" for one in groups for sentence in waiting_for(one, live)]
    return found or (["nothing is pending: all that is stored was assessed"] if is_empty else [])


@app.command()
def acknowledge(
    alert: Keys,
    note: Annotated[str | None, typer.Option(help="what is done about it", callback=arguments.note)] = None,
    by: By = None,
) -> None:
    """Record that someone works on alerts; they stay in the list as acknowledged."""
    _decide(alert, "acknowledged", note, by)


@app.command()
def dismiss(
    alert: Keys,
    reason: Annotated[str, typer.Option(help="why they need no work", callback=arguments.note)],
    by: By = None,
) -> None:
    """Record that alerts need no work; they stay dismissed as long as their departure lasts."""
    _decide(alert, "dismissed", reason, by)


def _decide(
    keys: Sequence[int], event: Literal["acknowledged", "dismissed"], reason: str | None, by: str | None
) -> None:
    """Record one decision on several alerts, each in its own transaction: two locks at once could meet the monitor's."""
    who, done = by or arguments.operator(), list[int]()
    for key in sorted(set(keys)):
        try:
            with engine(resolve_dsn()).begin() as connection:
                decide(connection, key, event, reason, who, datetime.now(UTC))
        except NoOpenAlert as error:
            before = f"; {event} before it: {', '.join(map(str, done))}" if done else ""
            raise NotFound(f"{error}{before}") from error
        done.append(key)
    console.print(plain(f"{event} by {who}: alert {', '.join(map(str, done))}"), soft_wrap=True)


def _columns(rows: Sequence[KnownAlertRow]) -> dict[str, list[str]]:
    """Return the cells of the list by header."""
    return {
        "alert": [str(row.alert_key) for row in rows],
        "parcel": [plain(row.source_id) for row in rows],
        "collection, season": [plain(f"{row.collection}, {row.season}") for row in rows],
        "declared": [plain(row.declared_crop or "nothing") for row in rows],
        "rule": [f"[{row.colour}]{plain(row.rule)}[/]" for row in rows],
        "colour": [f"[{row.colour}]{row.colour}[/]" for row in rows],
        "state": [_state(row) for row in rows],
        "confidence": [f"{row.confidence:.2f}" for row in rows],
        "departed": [str(row.departed_on) for row in rows],
        "confirmed": [f"{row.confirmed_at:%Y-%m-%d}" if row.confirmed_at else "not yet" for row in rows],
        "why": [plain(evidence.why(row.rule, row.evidence)) for row in rows],
    }


def _state(row: KnownAlertRow) -> str:
    if row.state == "closed":
        return f"closed {row.closed_at:%Y-%m-%d}"
    if row.decided_by is None:
        return row.state
    reason = f": {row.decision_reason}" if row.decision_reason else ""
    return plain(f"{row.state} {row.decided_at:%Y-%m-%d} by {row.decided_by}{reason}")
