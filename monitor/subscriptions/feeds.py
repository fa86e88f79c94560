"""Feeds: an Atom file of the newest events, and a calendar of the days on which answers to requests are due.

A file is made anew at each delivery from all that was delivered, so that sending twice changes nothing.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from db.deliveries import Deadline, SentEvent
from monitor.subscriptions import rendering
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered
from monitor.subscriptions.rendering import Message
from monitor.subscriptions.settings import DeliverySettings
from terminal.output import printable

_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_file(name: str) -> str:
    """Return the name of a feed's file. Raises InvalidSubscription where it could lead out of the folder."""
    if not _FILE.fullmatch(name):
        raise InvalidSubscription(
            "a feed's file is a name of letters, digits, dots, - and _, below PARCELWATCH_DELIVERIES_FOLDER"
        )
    return name


def atom(subscription_key: int, message: Message) -> bytes:
    """Return an Atom feed of the events of a message, newest first; an event has the same id in every file."""
    from feedgen.feed import FeedGenerator

    feed = FeedGenerator()
    feed.id(_urn("subscription", subscription_key))
    feed.title(printable(f"Parcelwatch, {message.subscription}"))
    feed.author({"name": "Parcelwatch"})
    feed.updated(max((event.recorded_at for event in message.events), default=message.formed_at))
    for event in message.events:
        single = Message(message.key, message.subscription, message.formed_at, [event])
        entry = feed.add_entry(order="prepend")
        entry.id(_urn("event", event.event_nr))
        entry.title(rendering.subject(single))
        entry.updated(event.recorded_at)
        entry.content(rendering.text(single), type="text")
    made: bytes = feed.atom_str(pretty=True)
    return made


def calendar(name: str, deadlines: Sequence[Deadline]) -> bytes:
    """Return a calendar of when answers are due; those that nobody waits for any more are marked as cancelled."""
    from icalendar import Calendar, Event

    made = Calendar()
    made.add("prodid", "-//Parcelwatch//deadlines//EN")
    made.add("version", "2.0")
    made.add("x-wr-calname", printable(f"Parcelwatch, {name}"))
    for one in deadlines:
        entry = Event()
        entry.add("uid", f"request-{one.event_nr}@parcelwatch")
        entry.add("dtstamp", one.recorded_at.astimezone(UTC))
        entry.add("dtstart", one.deadline.astimezone(UTC))
        entry.add("summary", printable(f"Answer due: alert {one.alert_key}, parcel {one.source_id}"))
        entry.add(
            "description", printable(f"{one.rule}, {one.collection}, {one.season}: {one.reason or 'no reason given'}")
        )
        entry.add("status", "CANCELLED" if one.is_over else "CONFIRMED")
        entry.add("sequence", int(one.is_over))
        made.add_component(entry)
    content: bytes = made.to_ical()
    return content


def write(name: str, content: bytes, settings: DeliverySettings) -> None:
    """Replace a feed's file at once: who reads it sees the whole one of before or the whole new one.

    Raises:
        NotDelivered: it cannot be written.
    """
    if settings.folder is None:
        raise NotDelivered("no folder is set for feeds: PARCELWATCH_DELIVERIES_FOLDER")
    path = settings.folder / checked_file(name)
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=settings.folder, prefix=".", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise NotDelivered(f"{path} cannot be written: {error.strerror}") from error


def as_message(name: str, events: Sequence[SentEvent], now: datetime) -> Message:
    """Return events as a message that is sent nowhere."""
    return Message(uuid5(NAMESPACE_URL, f"parcelwatch:preview:{name}"), name, now, events)


def _urn(kind: str, number: int) -> str:
    return uuid5(NAMESPACE_URL, f"parcelwatch:{kind}:{number}").urn
