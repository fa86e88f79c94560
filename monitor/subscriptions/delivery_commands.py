"""`parcelwatch deliveries`: send what subscriptions are to receive, and see what became of it."""

import json
import logging
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from db import deliveries as store
from db import subscriptions
from db.connect import engine
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson
from monitor.inspection.listing import records
from monitor.subscriptions import feeds, rendering, sender, webhook
from monitor.subscriptions.errors import InvalidSubscription
from monitor.subscriptions.settings import DeliverySettings
from terminal.output import console, plain
from terminal.signals import stop_on_signals

app = typer.Typer(no_args_is_help=True, help="Send what subscriptions are to receive, and see what became of it.")
STATES = ("pending", "sent", "dead", "discarded", "folded", "suspended")
Deliveries = Annotated[list[UUID] | None, typer.Argument(metavar="DELIVERY", help="as `deliveries list` shows them")]
Every = Annotated[bool, typer.Option("--all", help="all that are dead")]
Of = Annotated[
    str | None, typer.Option("--subscription", help="only of this subscription", callback=arguments.storable)
]


@app.command()
def run(once: Annotated[bool, typer.Option(help="send what is due now, then stop")] = False) -> None:
    """Send what becomes due until stopped (SIGTERM or Ctrl-C); any number may run side by side."""
    settings, clock = DeliverySettings(), lambda: datetime.now(UTC)
    if settings.lease_s < 3 * settings.timeout_s:
        raise InvalidSubscription(
            "PARCELWATCH_DELIVERIES_LEASE_S has to be at least three times PARCELWATCH_DELIVERIES_TIMEOUT_S: "
            "else a message that is still being sent is sent again"
        )
    if once:
        total = sender.send_all(resolve_dsn(), settings, clock)
        console.print(f"{total.formed} formed, {total.sent} sent, {total.failed} failed")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sender.run(resolve_dsn(), settings, clock, stop_on_signals())


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help=", ".join(STATES))] = None,
    subscription: Of = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first: which arrived, which are tried again and why, which are dead, which told of what was folded."""
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"there are {', '.join(STATES)}")
    with engine(resolve_dsn()).connect() as connection:
        rows = store.listed(connection, state, subscription, limit)
        of = {one.subscription_key for one in subscriptions.stored(connection, name=subscription)}
        is_waiting = state in (None, "pending") and any(key in of for key, _ in store.waiting(connection))
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        return
    columns = {
        "delivery": [str(row.idempotency_key) for row in rows],
        "subscription": [plain(row.subscription) for row in rows],
        "channel": [row.channel for row in rows],
        "state": [row.state for row in rows],
        "events": [str(row.events) for row in rows],
        "formed": [f"{row.formed_at:%Y-%m-%d %H:%M}" for row in rows],
        "attempts": [str(row.attempts) for row in rows],
        "next or end": [f"{row.ended_at or row.next_try_at:%Y-%m-%d %H:%M}" for row in rows],
        "error": [plain(f"told in {row.folded_into}" if row.folded_into else row.last_error) for row in rows],
    }
    if rows:
        console.print(records(columns))
        return
    waits = "; events wait: `parcelwatch deliveries run` sends each as it becomes due" if is_waiting else ""
    console.print(f"no deliveries{waits}", soft_wrap=True)


@app.command()
def retry(delivery: Deliveries = None, every: Every = False, subscription: Of = None) -> None:
    """Try dead deliveries again, under the keys that they had."""
    _check(delivery, every, subscription)
    with engine(resolve_dsn()).begin() as connection:
        n = store.retry(connection, delivery or None, subscription, datetime.now(UTC))
    _say(n, delivery, "are tried again")


@app.command()
def discard(
    delivery: Deliveries = None,
    every: Every = False,
    subscription: Of = None,
    by: Annotated[
        str | None, typer.Option(help="who decides, else the user of this machine", callback=arguments.note)
    ] = None,
) -> None:
    """Give up dead deliveries for good: they are not tried again, and removed as those that were sent."""
    _check(delivery, every, subscription)
    with engine(resolve_dsn()).begin() as connection:
        n = store.discard(connection, delivery or None, subscription, by or arguments.operator(), datetime.now(UTC))
    _say(n, delivery, "are discarded")


def _check(delivery: list[UUID] | None, every: bool, subscription: str | None) -> None:
    if bool(delivery) == (every or subscription is not None):
        raise typer.BadParameter("name deliveries, or give --all or --subscription")


def _say(n: int, delivery: list[UUID] | None, what: str) -> None:
    """Say what became of how many; of deliveries that were named, also how many stay."""
    if delivery and n < len(set(delivery)):
        console.print(f"{n} of {len(set(delivery))} {what}: the others are not dead, or their subscription was removed")
    else:
        console.print(f"{n} {what}" if n else "none is dead")


@app.command()
def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the subscription", callback=arguments.storable)],
) -> None:
    """Print what a subscription would be sent of the events that wait for it; of a feed the whole file. Nothing is sent."""
    settings, now = DeliverySettings(), datetime.now(UTC)
    with engine(resolve_dsn()).connect() as connection:
        found = subscriptions.stored(connection, name=name)
        if not found:
            raise NotFound(f"there is no subscription {name!r}; `parcelwatch subscriptions list` lists them")
        if found[0].asked.channel in ("atom", "icalendar"):
            typer.echo(sender.feed(connection, found[0], settings, now, with_waiting=True).decode())
            return
        events = sender.waiting_events(connection, found[0], settings.message_events)
    message = feeds.as_message(name, events, now)
    match found[0].asked.channel:
        case "webhook":
            typer.echo(webhook.body(message)[0].decode())
        case _:
            typer.echo(
                f"To: {found[0].asked.address}\nSubject: {rendering.subject(message)}\n\n{rendering.text(message)}"
            )
