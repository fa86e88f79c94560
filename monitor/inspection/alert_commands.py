"""`parcelwatch alerts`: what departs, and what people decide on it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from db.alerts import LogRow, NoOpenAlert, alert_log
from db.connect import engine
from db.history import AlertFilter
from db.incidents import incidents
from db.status import Group, live_processes, waiting_for
from db.suppressed import suppressed
from devstack.addresses import resolve_dsn
from monitor.alerts import evidence
from monitor.alerts.decisions import decide, decide_incident
from monitor.alerts.inbox import inbox_of, rows_of
from monitor.alerts.incidents import INCIDENT, incident_of
from monitor.alerts.lifecycle import Event, named_decision
from monitor.errors import NotFound
from monitor.inspection import arguments, bundle_files
from monitor.inspection.arguments import AsJson, CollectionOption, RuleOption, SeasonOption, TimeOption
from monitor.inspection.bundle import gather
from monitor.inspection.inbox_lines import columns, said_of, values
from monitor.inspection.listing import records
from terminal.output import console, plain
from terminal.times import moment, shown

app = typer.Typer(help="List alerts, and record what people decide on them.")


class Order(StrEnum):
    """What comes first in the list (monitor.alerts.inbox.Order)."""

    YIELD = "yield"
    SURE = "sure"


Keys = Annotated[
    list[str], typer.Argument(metavar="ALERT", help="as `alerts` lists them: 12, or I12 for all alerts of an incident")
]
Note = Annotated[
    str | None, typer.Option("--why", "--note", help="why, or what is done about it", callback=arguments.note)
]
Reason = Annotated[str, typer.Option("--why", "--reason", help="why, in a sentence", callback=arguments.note)]
Expect = Annotated[
    str | None,
    typer.Option(help="refuse where the state is another by now, as open or in_review", callback=arguments.state),
]
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
    order: Annotated[
        Order,
        typer.Option(help="yield: what an inspection settles and how soon the proof goes; sure: red, then the surest"),
    ] = Order.YIELD,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    page: Annotated[int, typer.Option(min=1, help="which page of so many")] = 1,
    members: Annotated[bool, typer.Option("--members", help="the alerts of regional incidents one by one")] = False,
    as_json: AsJson = False,
) -> None:
    """List open alerts: those to work on first, of these those whose inspection settles most."""
    if context.invoked_subcommand is not None:
        return
    with engine(resolve_dsn()).connect() as connection:
        groups = arguments.groups(connection, season, collection)
        arguments.require_rule(connection, rule)
        wanted = AlertFilter(season, collection, rule, with_closed)
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), order.value, members)
        n = len(listed.alert_keys)
        rows = rows_of(connection, listed, range(n)[(page - 1) * limit : page * limit], as_known_at)
        live = live_processes(connection)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(values(row), default=str))
        return
    kind = ("alerts" if with_closed else "open alerts") + (f" as known at {shown(as_known_at)}" if as_known_at else "")
    console.print(records(columns(rows)) if rows else f"no {kind}{f' on page {page}: there are {n}' if n else ''}")
    if rows and as_known_at:
        console.print(kind)
    if rows and n > len(rows):
        console.print(f"page {page} of {-(-n // limit)}, {n:,} in all: --page, --limit, --season, --collection, --rule")
    if as_known_at is None:
        for sentence in _waits([one for one in groups if one.is_newest or season], live, is_empty=not n):
            console.print(plain(sentence), soft_wrap=True)


def _waits(groups: Sequence[Group], live: Mapping[str, Sequence[str]], *, is_empty: bool) -> list[str]:
    """Return what a list of alerts waits for; of an empty one also that it waits for nothing."""
    if not groups:
        return ["no parcels are stored: `parcelwatch parcels import`"]
    found = [f"{one.season} / {one.collection}: {sentence}" for one in groups for sentence in waiting_for(one, live)]
    return found or (["nothing is pending: all that is stored was assessed"] if is_empty else [])


@app.command()
def acknowledge(alert: Keys, why: Note = None, by: By = None, expect: Expect = None) -> None:
    """Record that someone works on alerts; they stay in the list as acknowledged."""
    _decide(alert, "acknowledged", why, by, expect)


@app.command()
def review(alert: Keys, why: Note = None, by: By = None, expect: Expect = None) -> None:
    """Record that alerts are in review."""
    _decide(alert, "reviewed", why, by, expect)


@app.command()
def request(
    alert: Keys,
    why: Reason,
    until: Annotated[datetime, typer.Option(parser=moment, metavar="TIME", help="when the answer is due")],
    by: By = None,
    expect: Expect = None,
) -> None:
    """Record that the holder was asked for information, with a deadline."""
    if until <= datetime.now(UTC):
        raise typer.BadParameter(f"{shown(until)} is past: name a time to come", param_hint="'--until'")
    _decide(alert, "requested", why, by, expect, {"deadline": until.isoformat()})


@app.command()
def answer(
    alert: Keys,
    why: Reason,
    photo: Annotated[Path | None, typer.Option(help="a photo that answers")] = None,
    taken_at: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="TIME", help="when the photo was taken or the note written"),
    ] = None,
    position: Annotated[
        str | None, typer.Option(help="where: longitude,latitude in degrees", callback=arguments.position)
    ] = None,
    by: By = None,
    expect: Expect = None,
) -> None:
    """Record the answer to a request: what it says, and of a photo its time, position and SHA-256 (the file stays where it is)."""
    details: dict[str, Any] = {"answer": "photo" if photo else "note"}
    if photo:
        try:
            digest = hashlib.sha256(photo.read_bytes()).hexdigest()
        except OSError as error:
            raise NotFound(f"the photo {arguments.storable(str(photo))} cannot be read: {error.strerror}") from error
        details |= {"file": arguments.storable(photo.name), "sha256": digest}
    if taken_at:
        details["taken_at"] = taken_at.isoformat()
    if position:
        details["position"] = [float(one) for one in position.split(",")]
    _decide(alert, "answered", why, by, expect, details)


@app.command()
def dismiss(alert: Keys, why: Reason, by: By = None, expect: Expect = None) -> None:
    """Record that alerts need no work; they stay dismissed as long as their departure lasts."""
    _decide(alert, "dismissed", why, by, expect)


@app.command()
def confirm(alert: Keys, why: Reason, by: By = None, expect: Expect = None) -> None:
    """Record that what alerts say is true: seen in the field, or answered so."""
    _decide(alert, "verified", why, by, expect)


@app.command()
def close(alert: Keys, why: Reason, by: By = None, expect: Expect = None) -> None:
    """Close alerts; the same departure alerts nobody again."""
    _decide(alert, "closed", why, by, expect)


@app.command()
def reopen(alert: Keys, why: Reason, by: By = None, expect: Expect = None) -> None:
    """Open alerts again that were dismissed, confirmed or closed."""
    _decide(alert, "reopened", why, by, expect)


@app.command()
def assign(
    alert: Keys,
    to: Annotated[str, typer.Option(help="who is to work on them", callback=arguments.note)],
    why: Note = None,
    by: By = None,
    expect: Expect = None,
) -> None:
    """Record who is to work on alerts."""
    _decide(alert, "assigned", why, by, expect, {"to": to})


@app.command()
def comment(alert: Keys, why: Reason, by: By = None, expect: Expect = None) -> None:
    """Add a comment to the log of alerts, of closed ones too."""
    _decide(alert, "commented", why, by, expect)


@app.command()
def show(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="as `alerts` lists them: 12, or I12 for an incident")],
    as_known_at: TimeOption = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="write the evidence, as known at the last event: .json, .html, .pdf, .zip or a folder"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the whole log of an alert: what happened, by whom, why, and what it rests on; of an incident its alerts."""
    key, is_incident = arguments.alert_or_incident(alert)
    if bundle is not None:
        if is_incident:
            raise typer.BadParameter("a bundle is of one alert: `alerts show I12` lists those of an incident")
        _write_bundle(key, as_known_at, bundle)
    elif is_incident:
        _show_incident(key, as_known_at, as_json=as_json)
    else:
        _show_alert(key, as_known_at, as_json=as_json)


def _show_alert(alert: int, as_known_at: datetime | None, *, as_json: bool) -> None:
    with engine(resolve_dsn()).connect() as connection:
        log = alert_log(connection, alert, as_known_at)
        wanted = AlertFilter(with_closed=True, alert_key=alert)
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), with_members=True)
        rows = rows_of(connection, listed, range(len(listed.alert_keys)), as_known_at)
        within = None if not rows or as_json else incident_of(connection, alert, as_known_at)
    if not rows:
        by_then = f" by {shown(as_known_at)}" if as_known_at else ""
        raise NotFound(f"alert {alert} is not stored{by_then}; `parcelwatch alerts --all` lists those that are")
    if as_json:
        typer.echo(json.dumps({**values(rows[0])} | {"log": [entry.__dict__ for entry in log]}, default=str))
        return
    console.print(records(columns(rows)))
    if within:
        others = f"with {within.n_alerts - 1} other alerts of {within.n_parcels} parcels around"
        console.print(f"part of the regional incident {within.name}, {others}: `alerts show {within.name}`")
    for entry in log:
        console.print(plain(f"{entry.recorded_at:%Y-%m-%d %H:%M} UTC  {_entry(rows[0].rule, entry)}"), soft_wrap=True)


def _show_incident(alert: int, as_known_at: datetime | None, *, as_json: bool) -> None:
    with engine(resolve_dsn()).connect() as connection:
        if (incident := incident_of(connection, alert, as_known_at)) is None:
            by_then = f" as known at {shown(as_known_at)}" if as_known_at else ""
            raise NotFound(
                f"there is no incident I{alert}{by_then}; `parcelwatch alerts incidents` lists those there are"
            )
        wanted = AlertFilter(incident.season, incident.collection, incident.rule)
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), with_members=True)
        places = np.flatnonzero(np.isin(listed.alert_keys, incident.alert_keys)).tolist()
        rows = rows_of(connection, listed, places, as_known_at)
    if as_json:
        members = [values(row) for row in rows]
        typer.echo(json.dumps({"incident": incident.name, **incident.__dict__, "alerts": members}, default=str))
        return
    console.print(records(columns(rows)))
    console.print(f"{incident.name}: {said_of(incident)}", soft_wrap=True)


def _write_bundle(alert: int, as_known_at: datetime | None, path: Path) -> None:
    with engine(resolve_dsn()).connect() as connection:
        made = gather(connection, alert, as_known_at)
    for file in bundle_files.write(made, path):
        console.print(plain(f"bundle: {file}"), soft_wrap=True)
    for one in made.document["pictures"]:
        if one["missing"] is not None:
            where = f"{one['composite'].replace('_', ' ')} {one['role']}"
            console.print(plain(f"no picture ({where}): {one['missing']}"), soft_wrap=True)


@app.command("incidents")
def list_incidents(
    season: SeasonOption = None,
    collection: CollectionOption = None,
    as_known_at: TimeOption = None,
    as_json: AsJson = False,
) -> None:
    """List regional incidents: losses that lie close together in one week, each with its alerts."""
    with engine(resolve_dsn()).connect() as connection:
        rows = incidents(connection, INCIDENT, season, collection, as_known_at)
    if as_json:
        for row in rows:
            typer.echo(json.dumps({"incident": row.name, **row.__dict__}, default=str))
        return
    cells = {
        "incident": [row.name for row in rows],
        "collection, season": [plain(f"{row.collection}, {row.season}") for row in rows],
        "rule": [plain(row.rule) for row in rows],
        "departed": [f"{row.departed_from} to {row.departed_to}" for row in rows],
        "alerts": [f"{row.n_alerts} of {row.n_parcels} parcels" for row in rows],
        "hectares": [f"{row.area_ha:.0f}" for row in rows],
        "around": [f"{row.latitude:.3f} N {row.longitude:.3f} E" for row in rows],
        "declared": [plain(", ".join(row.crops)) for row in rows],
    }
    console.print(records(cells) if rows else "no regional incident")


@app.command("suppressed")
def list_suppressed(
    season: SeasonOption = None,
    collection: CollectionOption = None,
    rule: RuleOption = None,
    as_known_at: TimeOption = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: AsJson = False,
) -> None:
    """List departures that give no alert because they are dated in a window of the policy, with its reason."""
    with engine(resolve_dsn()).connect() as connection:
        arguments.require_rule(connection, rule)
        rows = suppressed(connection, AlertFilter(season, collection, rule), as_known_at, limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        return
    windows = [row.evidence[evidence.SUPPRESSED] for row in rows]
    cells = {
        "parcel": [plain(row.source_id) for row in rows],
        "collection, season": [plain(f"{row.collection}, {row.season}") for row in rows],
        "rule": [plain(row.rule) for row in rows],
        "colour": [f"[{row.colour}]{row.colour}[/]" for row in rows],
        "departed": [str(row.departed_on) for row in rows],
        "window": [plain(f"{one['name']}, {one['from']} to {one['until']}") for one in windows],
        "of policy": [plain(f"{one['policy']} version {one['policy_version']}") for one in windows],
        "reason": [plain(one["reason"]) for one in windows],
    }
    console.print(records(cells) if rows else "no departure lies in a window without alerts")
    if more:
        console.print(f"there are more than {limit}: --limit shows them, --season, --collection and --rule choose")


def _entry(rule: str, entry: LogRow) -> str:
    """Return an entry of a log in words: what, by whom, why, and what belongs to it."""
    decision = entry.evidence.get("decision")
    if decision is None:
        because = entry.evidence.get("because")
        said = evidence.why(rule, entry.evidence)
        return f"{entry.event} by the monitor ({entry.colour}): {f'{because}; ' if because else ''}{said}"
    details = [evidence.detail(name, value) for name, value in decision.items() if name not in ("by", "reason")]
    reason = f": {decision['reason']}" if decision.get("reason") else ""
    more = f" ({', '.join(details)})" if details else ""
    return f"{named_decision(entry.event)} by {decision['by']}{reason}{more}"


def _decide(
    named: Sequence[str],
    event: Event,
    reason: str | None,
    by: str | None,
    expected: str | None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record one decision: of an incident on all of its alerts or none, of alerts one after the other, each for itself."""
    asked = sorted({arguments.alert_or_incident(one) for one in named}, key=lambda one: (not one[1], one))
    who, done, what = by or arguments.operator(), list[str](), named_decision(event)
    decided = set[int]()
    for key, is_incident in asked:
        if key in decided and not is_incident:
            continue  # with its incident
        try:
            with engine(resolve_dsn()).begin() as connection:
                given = event, reason, who, datetime.now(UTC)
                if is_incident:
                    keys = decide_incident(connection, key, *given, expected=expected, details=details)
                else:
                    keys = [key]
                    decide(connection, key, *given, expected=expected, details=details)
        except NoOpenAlert as error:
            before = f"; {what} before it: {', '.join(done)}" if done else ""
            raise NotFound(f"{error}{before}") from error
        decided.update(keys)
        done.append(f"I{keys[0]} ({len(keys)} alerts: {', '.join(map(str, keys))})" if is_incident else str(key))
    console.print(plain(f"{what} by {who}: alert {', '.join(done)}"), soft_wrap=True)
