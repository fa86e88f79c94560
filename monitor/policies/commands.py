"""`parcelwatch policy`: check a policy, read it in words, try it on a stored season, put it in force."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from db import policies, work
from db.connect import Connection, engine
from db.seasons import Season, season_by_name
from db.status import season_groups
from devstack.addresses import resolve_dsn
from monitor.alerts.settings import with_thresholds
from monitor.errors import NotFound, PolicyError
from monitor.inspection import arguments
from monitor.policies.calibrate import calibrate
from monitor.policies.cover import LEVEL
from monitor.policies.policy import Obligation, Policy, Red, Selection, read_policy
from monitor.settings import MonitorSettings
from terminal.output import console, plain, printable
from terminal.times import shown

if TYPE_CHECKING:  # what a trial needs takes seconds to import; the other commands start without
    from monitor.policies.trial import DayOfTrial

app = typer.Typer(no_args_is_help=True, help="What an agency asks of which parcels: check, explain, try, put in force.")

app.command()(calibrate)
PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="a policy in TOML (docs/policies.md)")]
SeasonName = Annotated[str, typer.Option("--season", help="a stored season", callback=arguments.storable)]


class Clock(StrEnum):
    """Which clock says what was known on a day."""

    RECORDED = "recorded"
    AVAILABLE = "available"


@app.command()
def check(file: PolicyFile) -> None:
    """Check a policy; what is wrong is said with its line."""
    policy = read_policy(file)
    n, alike, windows = len(policy.obligation), len(policy.paid_alike), len(policy.suppress)
    console.print(
        f"{plain(policy.name)} version {policy.version} is valid; obligations: {n}, groups paid alike: {alike}"
    )
    if policy.red:
        console.print(f"rules whose red is bounded: {len(policy.red)}")
    if windows:
        console.print(f"windows without alerts: {windows}")
    console.print(f"SHA-256 {policy.hash}")


@app.command()
def example(
    undeclared: Annotated[bool, typer.Option("--undeclared", help="of fields whose crops nobody declared")] = False,
) -> None:
    """Print an example to begin with."""
    name = "undeclared.toml" if undeclared else "2025.toml"
    typer.echo((files("monitor.policies") / "examples" / name).read_text(encoding="utf-8"), nl=False)


@app.command()
def explain(file: PolicyFile) -> None:
    """Say in words what a policy asks, and how it is seen."""
    policy = read_policy(file)
    typer.echo(f"{policy.title or policy.name} ({policy.name}, version {policy.version})")
    for one in policy.obligation:
        typer.echo(f"\n{one.title or one.name} [{one.name}]")
        typer.echo(f"  asked of   {_of(one.parcels)}")
        for name, text in zip(("asked", "red", "yellow"), _words(one), strict=True):
            typer.echo(f"  {name:10} {text}")
        if one.source:
            typer.echo(f"  source     {one.source}")
    for window in policy.suppress:
        of = ", ".join(window.rules) or "any rule"
        typer.echo(f"\n{window.name}: no alert of {of} from a departure between {window.begin} and {window.until}")
        typer.echo(f"  of         {_of(window.parcels)}")
        typer.echo(f"  why        {window.reason}")
        typer.echo("  recorded   the finding stays, with this reason: `parcelwatch alerts suppressed`")
    for red in policy.red:
        typer.echo(f"\n{red.rule}: when a departure may be red, else it is yellow")
        for name, text in _when_red(red):
            typer.echo(f"  {name:10} {text}")
    for group in policy.paid_alike:
        typer.echo(f"\n{group.name} are paid alike: no alert between {', '.join(group.classes)}")


def _when_red(red: Red) -> Iterator[tuple[str, str]]:
    """Yield in words when departures of a rule may be red, and what that rests on."""
    if red.above is not None and red.risk is not None and red.confidence is not None:
        yield "confidence", f"of {red.above:g} at least, as the finding states it"
        yield (
            "promise",
            f"at most {1000 * red.risk:g} of 1,000 parcels are falsely red, with {red.confidence:.0%} confidence",
        )
        yield "rests on", f"{red.n:,} verdicts: {printable(red.source)}, chosen on {red.chosen_on}"
        yield "SHA-256", f"{red.source_sha256} (of the verdicts)"
    if red.not_before is not None:
        yield "day", f"none as of an earlier day of the season than {red.not_before} (month-day)"


def _of(parcels: Selection) -> str:
    parts = []
    if parcels.crops:
        parts.append(f"declared as {', '.join(parcels.crops)}")
    if parcels.except_crops:
        parts.append(f"not declared as {', '.join(parcels.except_crops)}")
    if parcels.regions:
        parts.append(f"in {', '.join(parcels.regions)}")
    if parcels.except_regions:
        parts.append(f"not in {', '.join(parcels.except_regions)}")
    if parcels.min_area_ha:
        parts.append(f"of at least {parcels.min_area_ha} ha")
    if parcels.source_ids is not None:
        parts.append(f"among the {len(parcels.source_ids)} listed in {parcels.listed_in}")
    return f"parcels {', '.join(parts)}" if parts else "all parcels"


def _words(one: Obligation) -> tuple[str, str, str]:
    """Return what is asked, what makes a parcel red and what yellow."""
    window = f"from {one.begin} to {one.until}"
    again = f"again at least {one.confirm_days} days later, with nothing else between"
    if one.kind == "mown":
        return (
            f"a cut or grazing {window}, with {one.grace_days} days of grace",
            "never: cuts are missed too",
            "the sward grew up and died back once, and neither was seen",
        )
    if one.kind == "not_mown":
        return f"no cut {window}", "a cut of confidence 0.9 or more lies within it", "a cut lies within it"
    if one.kind == "harvested":
        return (
            f"the crop leaves the field {window}, with {one.grace_days} days of grace",
            f"clear views and radar show the harvest before; or the crop is seen green after {one.until + timedelta(days=one.grace_days)}, "
            f"{again}, on views that follow each other closely from its peak on, or its late harvest confirmed by radar",
            "the harvest is seen before on clear views alone; or the crop is seen green after the deadline",
        )
    if one.kind == "tilled":
        return (
            f"tillage {window}, with {one.grace_days} days of grace",
            "never: tillage is missed too",
            "views show vegetation throughout, none farther apart than 20 days",
        )
    if one.kind == "not_tilled":
        return f"no tillage {window}", "both sensors saw tillage within it", "one sensor saw tillage within it"
    level = LEVEL[one.kind] if one.ndvi is None else one.ndvi
    if one.kind == "cover_days":
        return (
            f"{one.days} days of vegetation (NDVI from {level}) in one stretch {window}",
            f"bare views leave no stretch of {one.days} days, seen {again}",
            f"bare views leave no stretch of {one.days} days",
        )
    if one.kind == "established_by":
        by = one.until + timedelta(days=one.grace_days)
        return (
            f"vegetation (NDVI from {level}) seen {window}, with {one.grace_days} days of grace",
            f"none was seen by {by}, and then, before any, bare soil and {again}",
            f"none was seen by {by}, and then, before any, bare soil",
        )
    before = " on a parcel that was green on two days before (NDVI from 0.5)" if one.kind == "not_ploughed" else ""
    before += "" if one.green_from is None else f", one of them since {one.green_from}"
    return (
        f"no bare soil (NDVI below {level}) {window}{before}",
        f"bare soil is seen, {again}",
        "the newest clear view shows bare soil",
    )


# More than six: the options of the command line.
@app.command("try")
def try_(
    file: PolicyFile,
    season: SeasonName,
    collection: arguments.CollectionOption = None,
    every: Annotated[
        int, typer.Option(min=1, max=366, help="days between the dates that are tried: more take less time")
    ] = 1,
    clock: Annotated[
        Clock,
        typer.Option(
            help="recorded: as it was known here; available: as it could have been, for a season imported later"
        ),
    ] = Clock.RECORDED,
    alerts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write parcels that turn yellow or red as CSV")
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="a threshold of the rules other than that in force; repeatable"
        ),
    ] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Say what a policy and the rules would have said of a stored season day by day, beside what was said; nothing is stored."""
    from monitor.policies.trial import Trial, in_force

    policy, rules = read_policy(file), with_thresholds(MonitorSettings().rules, changed or [])
    with engine(resolve_dsn()).connect() as connection:
        stored, of = _season(connection, season, collection)
        last = min(stored.ends_on, datetime.now(UTC).date())
        days = [
            day
            for nr in range(0, (last - stored.starts_on).days + 1, every)
            if (day := stored.starts_on + timedelta(nr))
        ]
        if not days:
            raise NotFound(f"season {season} begins on {stored.starts_on}: nothing is known of it yet")
        days = days if days[-1] == last else [*days, last]
        trial = Trial(policy, rules, stored, of, days, f"{clock.value}_at")  # type: ignore[arg-type]
        tried, said = list(trial.run(connection)), list(in_force(connection, stored, of, days))
    if alerts is not None:
        _write(alerts, tried)
    if as_json:
        for whose, rows in (("tried", tried), ("in force", said)):
            for one in rows:
                typer.echo(json.dumps({"policy": whose, **asdict(one)}, default=str))
        return
    _print(f"{policy.name} version {policy.version}", tried, said)
    _print_never_asked(policy, stored)
    if clock is Clock.RECORDED and not _is_decided(tried):
        console.print(
            f"nothing of {plain(of)} in {plain(season)} could be decided by what was recorded by these days; "
            "of a season that was imported afterwards say --clock available",
            soft_wrap=True,
        )


def _season(connection: Connection, name: str, collection: str | None) -> tuple[Season, str]:
    """Return the season and its collection; raises NotFound where there is none or several."""
    season = season_by_name(connection, name)
    found = [
        one.collection
        for one in season_groups(connection)
        if one.season == name and collection in (None, one.collection)
    ]
    if len(found) != 1:
        there = (
            f"several collections ({', '.join(found)}); name one by --collection"
            if found
            else "no parcels of that collection"
        )
        raise NotFound(f"season {name} has {there}")
    return season, found[0]


def _print_never_asked(policy: Policy, season: Season) -> None:
    """Print which obligations have their window outside of a season: nothing is ever seen in it."""
    for one in policy.obligation:
        if one.begin > season.ends_on or one.until < season.starts_on:
            console.print(
                f"{plain(one.name)} is asked from {one.begin} to {one.until}, outside of season {plain(season.name)} "
                f"({season.starts_on} to {season.ends_on}): it finds nothing there",
                soft_wrap=True,
            )


def _print(title: str, tried: Sequence["DayOfTrial"], said: Sequence["DayOfTrial"]) -> None:
    """Print lights and alerts of each rule, tried and in force, at the end of each month and where an alert came."""
    from monitor.policies.trial import LIGHTS

    columns = [*LIGHTS, "new alerts"]
    table = Table(
        "rule", "as known on", *columns, title=f"{plain(title)} tried; in brackets what is in force said, if otherwise"
    )
    both = [{(one.rule, one.day): _cells(one) for one in rows} for rows in (tried, said)]
    days = sorted({day for _, day in both[0]})
    monthly = {f"{day:%Y-%m}": day for day in days}.values()
    for rule, day in sorted({*both[0], *both[1]}):
        cells = [one.get((rule, day), [0] * len(columns)) for one in both]
        if day in monthly or cells[0][-1] or cells[1][-1]:
            shown = (f"{a:,}" if a == b else f"{a:,} ({b:,})" for a, b in zip(*cells, strict=True))
            table.add_row(plain(rule), str(day), *shown)
    console.print(table)


def _is_decided(tried: Sequence["DayOfTrial"]) -> bool:
    """Return whether any parcel had a light by which it is, or is not, as declared."""
    return any(one.lights[light] for one in tried for light in ("green", "yellow", "red"))


def _cells(one: "DayOfTrial") -> list[int]:
    return [*one.lights.values(), len(one.turned)]


def _write(file: Path, tried: Sequence["DayOfTrial"]) -> None:
    import csv

    try:
        with file.open("w", encoding="utf-8", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(["as_known_on", "rule", "source_id", "colour", "departed_on"])
            for one in tried:
                rows.writerows(
                    [one.day, one.rule, turned.source_id, turned.colour, turned.departed_on] for turned in one.turned
                )
    except OSError as error:
        raise PolicyError(f"{file}: {error.strerror or error}") from error


@app.command()
def activate(
    file: PolicyFile,
    season: SeasonName,
    why: Annotated[str, typer.Option("--why", help="why, in a sentence", callback=arguments.note)],
    collection: arguments.CollectionOption = None,
    by: Annotated[
        str | None, typer.Option(help="who decides, else the user of this machine", callback=arguments.note)
    ] = None,
) -> None:
    """Put a policy in force: from now on the monitor asks it of every parcel of the season."""
    policy, now = read_policy(file), datetime.now(UTC)
    with engine(resolve_dsn()).begin() as connection:
        stored, of = _season(connection, season, collection)
        before = policies.in_force(connection, stored.season_key, of)
        if before is not None and before.hash == policy.hash:  # of its name and version too
            console.print(
                f"{plain(policy.name)} version {policy.version} is in force already for {plain(of)} in {plain(season)}, "
                f"since {shown(before.recorded_at)}; nothing is changed",
                soft_wrap=True,
            )
            return
        content = policy.name, policy.version, policy.hash, policy.content()
        policies.put_in_force(connection, stored.season_key, of, content, by or arguments.operator(), why, now)
        n = work.mark_season(connection, stored.season_key, of, "rules", now)
    console.print(
        f"{plain(policy.name)} version {policy.version} is in force for {plain(of)} in {plain(season)}; {n:,} parcels are asked anew"
    )
    _print_never_asked(policy, stored)


@app.command("show")
def show(
    season: SeasonName,
    collection: arguments.CollectionOption = None,
    as_known_at: arguments.TimeOption = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Say which policy is in force, or was as known at a time."""
    with engine(resolve_dsn()).connect() as connection:
        stored, of = _season(connection, season, collection)
        row = policies.in_force(connection, stored.season_key, of, as_known_at)
    if as_json:
        typer.echo(json.dumps(None if row is None else row.__dict__, default=str))
        return
    if row is None:
        by_then = f" as known at {shown(as_known_at)}" if as_known_at else ""
        console.print(f"no policy is in force for {plain(of)} in {plain(season)}{by_then}", soft_wrap=True)
        return
    names = ", ".join(one.name for one in Policy.stored(row.content).obligation)
    console.print(
        f"{plain(row.name)} version {row.version} since {shown(row.recorded_at)}, by {plain(row.decided_by)}: {plain(row.reason)}"
    )
    console.print(f"asks {names or 'nothing beside the rules'}")
    console.print(f"SHA-256 {row.hash}")
