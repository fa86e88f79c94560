"""`parcelwatch subscriptions`: who receives which alerts, when and how."""

import json
from collections.abc import Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from db import deliveries
from db import subscriptions as store
from db.connect import Connection, engine
from db.subscriptions import StoredSubscription, Subscription
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson
from monitor.inspection.listing import records
from monitor.subscriptions import asked as reading
from monitor.subscriptions import feeds, keeping, sender
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered
from monitor.subscriptions.keeping import Kept
from monitor.subscriptions.settings import DeliverySettings
from monitor.subscriptions.timing import Timing
from terminal.output import console, plain
from terminal.times import shown

app = typer.Typer(no_args_is_help=True, help="Who receives which alerts, when and how.")


def _text(value: str | None) -> str | None:
    return arguments.storable(value)


def _texts(values: Sequence[str] | None) -> list[str] | None:
    return None if not values else [str(arguments.storable(value)) for value in values]


def _many(names: str, help: str) -> Any:
    return typer.Option(*names.split(), help=f"{help}; may be given several times", callback=_texts)


def _area(path: Path | None) -> str | None:
    """Return the text of a file with a drawn area."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSubscription(f"the area {arguments.storable(str(path))} cannot be read: {error}") from error


Name = Annotated[str, typer.Argument(metavar="NAME", help="of the subscription", callback=arguments.storable)]
Channel = Annotated[str, typer.Option(help=", ".join(reading.CHANNELS))]
To = Annotated[
    str, typer.Option(help="address: an e-mail, a webhook's URL, a feed's file name, an Apprise URL", callback=_text)
]
Regions = Annotated[list[str] | None, _many("--region", "only this region")]
Crops = Annotated[list[str] | None, _many("--crop", "only this declared crop, by name or code")]
Schemes = Annotated[list[str] | None, _many("--scheme", "only this scheme: the name of a policy")]
Rules = Annotated[list[str] | None, _many("--rule", "only this rule, or obligation of a policy")]
Colours = Annotated[list[str] | None, _many("--colour", "only this colour")]
Events = Annotated[list[str] | None, _many("--event", f"only this event, of {', '.join(reading.EVENTS)}")]
Confidence = Annotated[float | None, typer.Option("--min-confidence", help="only alerts at least so sure, 0 to 1")]
Area = Annotated[
    Path | None, typer.Option(help="only parcels that touch the polygon in this file, GeoJSON or WKT, degrees")
]
NotRegions = Annotated[list[str] | None, _many("--except-region", "all but this region")]
NotCrops = Annotated[list[str] | None, _many("--except-crop", "all but this declared crop")]
NotSchemes = Annotated[list[str] | None, _many("--except-scheme", "all but this scheme")]
NotRules = Annotated[list[str] | None, _many("--except-rule", "all but this rule")]
NotArea = Annotated[Path | None, typer.Option(help="all but parcels that touch the polygon in this file")]
Mode = Annotated[str | None, typer.Option("--when", help=", ".join(reading.MODES))]
Within = Annotated[str | None, typer.Option(help="grouped: how long the oldest event waits for others, as 15m")]
At = Annotated[str | None, typer.Option(help="daily and weekly: the time of day, as 07:00")]
Day = Annotated[str | None, typer.Option(help="weekly: the day, as monday")]
Zone = Annotated[str | None, typer.Option(help="the time zone of these times, as Europe/Amsterdam")]
Quiet = Annotated[str | None, typer.Option(help="hours in which nothing is sent, as 22:00-06:00")]
Interval = Annotated[str | None, typer.Option("--min-interval", help="at least so long between messages, as 1h")]
By = Annotated[str | None, typer.Option(help="who subscribes, else the user of this machine", callback=arguments.note)]
_CLEARABLE: Final = {
    "region": ("regions",),
    "crop": ("crops",),
    "scheme": ("schemes",),
    "rule": ("rules",),
    "colour": ("colours",),
    "min-confidence": ("min_confidence",),
    "area": ("area",),
    "except-region": ("except_regions",),
    "except-crop": ("except_crops",),
    "except-scheme": ("except_schemes",),
    "except-rule": ("except_rules",),
    "except-area": ("except_area",),
    "quiet": ("quiet_from", "quiet_to"),
}
"""Options that `change --any` takes back, with their fields."""


# More than six: the options of the command line.
@app.command()
def add(
    name: Name,
    channel: Channel,
    to: To,
    region: Regions = None,
    crop: Crops = None,
    scheme: Schemes = None,
    rule: Rules = None,
    colour: Colours = None,
    event: Events = None,
    min_confidence: Confidence = None,
    area: Area = None,
    except_region: NotRegions = None,
    except_crop: NotCrops = None,
    except_scheme: NotSchemes = None,
    except_rule: NotRules = None,
    except_area: NotArea = None,
    when: Mode = None,
    within: Within = None,
    at: At = None,
    day: Day = None,
    zone: Zone = None,
    quiet: Quiet = None,
    min_interval: Interval = None,
    by: By = None,
) -> None:
    """Add a subscription; it receives what happens from now on. Of a webhook the signing secret is shown, this once."""
    given, who, now = reading.fields(_options(locals())), by or arguments.operator(), datetime.now(UTC)
    try:
        with engine(resolve_dsn()).begin() as connection:
            kept = keeping.add(connection, name, channel, to, given, who, DeliverySettings(), now)
    except store.NameTaken as error:
        raise InvalidSubscription(
            f"there is a subscription {name!r} already; `subscriptions change` changes it"
        ) from error
    _print_kept(kept)


def _print_kept(kept: Kept) -> None:
    asked = kept.asked
    console.print(plain(f"{asked.name}: {asked.channel} to {asked.address}, {_when(asked)}"), soft_wrap=True)
    for kind, name in kept.unknown:
        console.print(
            plain(f"no stored parcel has the {kind} {name!r} yet: `parcelwatch parcels list` shows those there are")
        )
    if kept.new_secret:
        console.print(plain(f"signing secret, shown this once: {kept.new_secret}"), soft_wrap=True)


@app.command()
def change(
    name: Name,
    to: Annotated[str | None, typer.Option(help="the new address", callback=_text)] = None,
    rename: Annotated[str | None, typer.Option(help="the new name", callback=_text)] = None,
    any_: Annotated[list[str], typer.Option("--any", help=f"no longer only: {', '.join(_CLEARABLE)}")] = [],  # noqa: B006
    new_secret: Annotated[bool, typer.Option(help="webhook: sign with a new secret, shown this once")] = False,
    region: Regions = None,
    crop: Crops = None,
    scheme: Schemes = None,
    rule: Rules = None,
    colour: Colours = None,
    event: Events = None,
    min_confidence: Confidence = None,
    area: Area = None,
    except_region: NotRegions = None,
    except_crop: NotCrops = None,
    except_scheme: NotSchemes = None,
    except_rule: NotRules = None,
    except_area: NotArea = None,
    when: Mode = None,
    within: Within = None,
    at: At = None,
    day: Day = None,
    zone: Zone = None,
    quiet: Quiet = None,
    min_interval: Interval = None,
) -> None:
    """Change what is given of a subscription, and take it up again where it was suspended."""
    given = reading.fields(_options(locals()))
    for option in any_:
        if option not in _CLEARABLE:
            raise InvalidSubscription(f"--any {option!r}: there are {', '.join(_CLEARABLE)}")
        given |= dict.fromkeys(_CLEARABLE[option])
    with engine(resolve_dsn()).begin() as connection:
        found = _one(connection, name, lock=True)
        try:
            kept = keeping.change(
                connection, found, given | {"name": rename or name}, DeliverySettings(), to, new_secret=new_secret
            )
        except store.NameTaken as error:
            raise InvalidSubscription(f"there is a subscription {rename!r} already") from error
    _print_kept(kept)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that both commands have, by the names of `asked.fields`."""
    plural = ("region", "crop", "scheme", "rule", "colour", "event")
    names = {one: f"{one}s" for one in plural} | {f"except_{one}": f"except_{one}s" for one in plural[:4]}
    same = ("min_confidence", "within", "at", "zone", "quiet", "min_interval")
    names |= {one: one for one in same} | {"when": "mode", "day": "weekday"}
    mode = given["when"]
    if mode is not None and mode not in reading.MODES:
        raise InvalidSubscription(f"{mode!r} is no --when: there are {', '.join(reading.MODES)}")
    areas = {one: _area(given[one]) for one in ("area", "except_area")}
    return {field: given[option] for option, field in names.items()} | areas


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List subscriptions."""
    with engine(resolve_dsn()).connect() as connection:
        found = store.stored(connection)
    if as_json:
        for one in found:
            typer.echo(json.dumps(_as_values(one), default=str))
        return
    columns = {
        "name": [plain(one.asked.name) for one in found],
        "channel": [one.asked.channel for one in found],
        "address": [plain(one.asked.address) for one in found],
        "when": [plain(_when(one.asked)) for one in found],
        "state": [_state(one) for one in found],
        "of": [plain(_filter(one.asked)) for one in found],
    }
    console.print(records(columns) if found else "no subscriptions; `parcelwatch subscriptions add`")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a subscription, what waits for it, and when that is due."""
    with engine(resolve_dsn()).connect() as connection:
        found = _one(connection, name)
        waiting = deliveries.waiting_of(connection, found.subscription_key, 1)
        last = deliveries.last_formed(connection, found.subscription_key)
    due_at = Timing.of(found.asked).ready_at(waiting[0].recorded_at) if waiting else None
    if as_json:
        typer.echo(json.dumps(_as_values(found) | {"last_sent": last, "next_due": due_at}, default=str))
        return
    lines = {
        "channel": f"{found.asked.channel} to {found.asked.address}",
        "when": _when(found.asked),
        "of": _filter(found.asked),
        "events": ", ".join(found.asked.events),
        "added": f"{shown(found.created_at)} by {found.created_by}",
        "state": _state(found),
        "last message": shown(last) if last else "none yet",
        "next message": f"not before {shown(due_at)}" if due_at else "nothing waits",
    }
    for what, said in lines.items():
        console.print(plain(f"{what:<13} {said}"), soft_wrap=True)


@app.command()
def remove(name: Name) -> None:
    """Remove a subscription: what waits is not sent; what was sent stays in `deliveries list`."""
    with engine(resolve_dsn()).begin() as connection:
        store.end(connection, _one(connection, name, lock=True).subscription_key, datetime.now(UTC))
    console.print(plain(f"removed: {name}"))


@app.command()
def test(name: Name) -> None:
    """Send a test message now: the newest events of the subscription, none where there are none. A feed is written anew."""
    settings, dsn, now = DeliverySettings(), resolve_dsn(), datetime.now(UTC)
    with engine(dsn).connect() as connection:
        found = _one(connection, name)
        secrets = store.secrets_of(connection, found.subscription_key)
        events = deliveries.newest_events(connection, found.subscription_key, 3, with_waiting=True)
    try:
        if found.asked.channel in ("atom", "icalendar"):
            sender.write_feed(dsn, found, settings, now)
        else:
            message = feeds.as_message(f"{found.asked.name} {now}", events, now)
            sender.over_channel(found, secrets, replace(message, subscription=f"test of {name}"), settings, now)
    except NotDelivered as error:
        raise InvalidSubscription(f"the test of {name} did not arrive: {error}") from error
    console.print(plain(f"sent: a test of {name}, {found.asked.channel} to {found.asked.address}"), soft_wrap=True)


def _one(connection: Connection, name: str, lock: bool = False) -> StoredSubscription:
    """Return the subscription of a name. Raises NotFound where there is none."""
    found = store.stored(connection, name=name, lock=lock)
    if not found:
        raise NotFound(f"there is no subscription {name!r}; `parcelwatch subscriptions list` lists them")
    return found[0]


def _when(asked: Subscription) -> str:
    """Return in words when a subscription is sent."""
    at = f"at {asked.at:%H:%M} {asked.zone}"
    said = {
        "immediate": "immediately",
        "grouped": f"grouped within {reading.in_words(asked.within_s)}",
        "daily": f"daily {at}",
        "weekly": f"weekly on {reading.WEEKDAYS[asked.weekday - 1]} {at}",
    }[asked.mode]
    if asked.quiet_from is not None and asked.quiet_to is not None:
        said += f", quiet {asked.quiet_from:%H:%M}-{asked.quiet_to:%H:%M} {asked.zone}"
    return said + (f", at least {reading.in_words(asked.min_interval_s)} apart" if asked.min_interval_s else "")


def _filter(asked: Subscription) -> str:
    """Return in words what a subscription is of."""
    parts = []
    for option, names in _CLEARABLE.items():
        value = getattr(asked, names[0])
        if value is None or option == "quiet":
            continue
        said = "a drawn polygon" if "area" in option else value if isinstance(value, float) else ", ".join(value)
        parts.append(f"{option.replace('except-', 'not ').replace('-', ' ')} {said}")
    return "; ".join(parts) or "all alerts"


def _state(found: StoredSubscription) -> str:
    if found.suspended_at is None:
        return "active"
    return plain(f"suspended {found.suspended_at:%Y-%m-%d}: {found.suspended_because}")


def _as_values(found: StoredSubscription) -> dict[str, Any]:
    """Return a subscription without its secrets."""
    asked = {one.name: getattr(found.asked, one.name) for one in fields_of(found.asked)}
    return (
        asked
        | {"created_at": found.created_at, "created_by": found.created_by}
        | {"suspended_at": found.suspended_at, "suspended_because": found.suspended_because}
    )
