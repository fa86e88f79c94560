"""Subscriptions added and changed, checked: what the command line and the API share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from db import subscriptions as store
from db.connect import Connection
from db.policies import stored_rules
from db.subscriptions import StoredSubscription, Subscription
from monitor.subscriptions import asked as reading
from monitor.subscriptions import webhook
from monitor.subscriptions.settings import DeliverySettings


@dataclass(frozen=True)
class Kept:
    """A subscription as it was stored."""

    key: int
    asked: Subscription
    new_secret: str | None
    """What a webhook is signed with from now on, to be shown this once; None: as before, or nothing is signed."""
    unknown: Sequence[tuple[str, str]]
    """Regions and crops, as (region or crop, name), that no stored parcel has: an import may bring them, or they are misspelt."""


# More than six: who, what and where to.
def add(
    connection: Connection,
    name: str,
    channel: str,
    to: str,
    given: Mapping[str, Any],
    by: str,
    settings: DeliverySettings,
    now: datetime,
    person: str | None = None,
) -> Kept:
    """Store a subscription.

    Args:
        given: its other fields, as `monitor.subscriptions.asked.fields` reads them.
        person: of the API, who makes it for themselves.

    Raises:
        InvalidSubscription: it cannot be.
        NameTaken: there is one of that name.
    """
    address, secrets = reading.reached(channel, to, settings)
    events = reading.OF_DEADLINES if channel == "icalendar" else reading.OF_DEPARTURES
    asked = Subscription(**{"name": name, "channel": channel, "address": address, "events": events, **given})
    reading.check(asked, stored_rules(connection))
    key = store.add(connection, asked, secrets, by, now, person)
    return Kept(key, asked, secrets.signing, store.not_stored(connection, asked))


def change(
    connection: Connection,
    found: StoredSubscription,
    given: Mapping[str, Any],
    settings: DeliverySettings,
    to: str | None = None,
    *,
    new_secret: bool = False,
) -> Kept:
    """Change the given fields of a subscription, and take it up again where it was suspended.

    Args:
        given: fields, the name too; None takes a condition back.
        to: the new address.
        new_secret: sign a webhook with a new one.

    Raises:
        InvalidSubscription: it cannot be.
        NameTaken: there is another of that name.
    """
    before = secrets = store.secrets_of(connection, found.subscription_key)
    asked = replace(found.asked, **given)
    if to is not None:
        address, secrets = reading.reached(asked.channel, to, settings)
        asked = replace(asked, address=address)
        secrets = secrets if new_secret else replace(secrets, signing=before.signing)
    elif new_secret and asked.channel == "webhook":
        secrets = replace(before, signing=webhook.new_secret())
    reading.check(asked, stored_rules(connection))
    store.change(connection, found.subscription_key, asked, secrets)
    signing = secrets.signing if secrets.signing != before.signing else None
    return Kept(found.subscription_key, asked, signing, store.not_stored(connection, asked))
