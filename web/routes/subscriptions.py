"""One's own subscriptions: which events of the alerts that one may see are sent where, and what became of them."""

import json
import uuid
from dataclasses import fields as fields_of
from datetime import UTC, datetime, time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, Field, WithJsonSchema

from db import access, contract, deliveries
from db import subscriptions as store
from db.access import Principal
from db.connect import Connection
from db.subscriptions import StoredSubscription
from monitor.alerts.lifecycle import Event
from monitor.subscriptions import asked as reading
from monitor.subscriptions import keeping
from monitor.subscriptions.errors import InvalidSubscription
from monitor.subscriptions.keeping import Kept
from monitor.subscriptions.settings import DeliverySettings
from web.parameters import Key, Limit, Text
from web.principals import Asked, Who
from web.problems import Refused

router = APIRouter(prefix="/api/subscriptions", tags=["subscriptions"])
Texts = Annotated[list[Text], Field(min_length=1, max_length=100)]
MOST: Final = 50
"""Subscriptions of one person."""
MOST_POINTS: Final = 10_000
"""Points of a drawn area: every new alert is compared with it."""
Area = Annotated[
    dict[str, Any], Field(description="GeoJSON, a Polygon or MultiPolygon in degrees, or a Feature of one")
]

TimeOfDay = Annotated[time, WithJsonSchema({"type": "string", "pattern": r"^\d\d:\d\d:\d\d$"})]
"""In the zone that is named beside it: without an offset it is no `time` of JSON schema (RFC 3339)."""


class Wanted(BaseModel):
    """Which events are sent, and when; null or left out: any. An event of what is excepted is never sent."""

    regions: Texts | None = None
    crops: Texts | None = None
    """Names or codes, in any case."""
    schemes: Texts | None = None
    rules: Texts | None = None
    colours: Annotated[list[Literal["yellow", "red"]], Field(min_length=1, max_length=2)] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    area: Area | None = None
    except_regions: Texts | None = None
    except_crops: Texts | None = None
    except_schemes: Texts | None = None
    except_rules: Texts | None = None
    except_area: Area | None = None
    events: Annotated[list[Event], Field(min_length=1, max_length=20)] | None = None
    mode: Literal["immediate", "grouped", "daily", "weekly"] | None = None
    within: Text | None = None
    """Of grouped: how long the oldest event waits for others, as 15m."""
    at: Text | None = None
    """Of daily and weekly: the time of day, as 07:00."""
    weekday: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] | None = None
    zone: Text | None = None
    """Of these times, as Europe/Amsterdam."""
    quiet: Text | None = None
    """Hours in which nothing is sent, as 22:00-06:00."""
    min_interval: Text | None = None
    """At least so long between messages, as 1h."""


class NewSubscription(Wanted):
    """A subscription to make."""

    name: Text
    channel: Literal["email", "webhook"]
    to: Annotated[str, Field(min_length=1, max_length=2000)]
    """The address: an e-mail, or a webhook's URL."""


class ChangedSubscription(Wanted):
    """What is changed of a subscription: what is given; null takes a condition back."""

    name: Text | None = None
    to: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    new_secret: bool = False
    """Sign a webhook with a new secret."""


class OwnSubscription(BaseModel):
    """A subscription of one's own."""

    subscription: int
    name: str
    channel: str
    address: str
    """As it may be shown."""
    events: list[str]
    regions: list[str] | None
    """Of these, those that you may see when something happens; null: all of them."""
    crops: list[str] | None
    schemes: list[str] | None
    rules: list[str] | None
    colours: list[str] | None
    min_confidence: float | None
    area: dict[str, Any] | None
    except_regions: list[str] | None
    except_crops: list[str] | None
    except_schemes: list[str] | None
    except_rules: list[str] | None
    except_area: dict[str, Any] | None
    mode: str
    within_s: int
    at: TimeOfDay
    weekday: int
    """1 Monday to 7 Sunday."""
    zone: str
    quiet_from: TimeOfDay | None
    quiet_to: TimeOfDay | None
    min_interval_s: int
    created_at: datetime
    suspended_at: datetime | None
    suspended_because: str | None


class KeptSubscription(OwnSubscription):
    """A subscription that was made or changed."""

    secret: str | None
    """What a webhook is signed with from now on, shown this once."""
    unknown: list[str]
    """Names of crops that no parcel you see has: an import may bring them, or they are misspelt."""


class OwnSubscriptions(BaseModel):
    """One's own subscriptions, by name; nobody has more than fifty."""

    subscriptions: list[OwnSubscription]
    next: None = None


class Delivery(BaseModel):
    """A message of a subscription, and what became of it."""

    delivery: uuid.UUID
    state: str
    events: int
    formed_at: datetime
    attempts: int
    next_try_at: datetime
    ended_at: datetime | None
    last_error: str | None


class Deliveries(BaseModel):
    """The newest messages of a subscription."""

    deliveries: list[Delivery]
    next: None = None


def delivery_settings() -> DeliverySettings:
    """Return which addresses can be reached."""
    return DeliverySettings()


Settings = Annotated[DeliverySettings, Depends(delivery_settings)]


@router.get("")
def subscriptions(who: Who, connection: Asked) -> OwnSubscriptions:
    """List your subscriptions."""
    with access.deciding(connection):
        found = store.stored(connection, person=who.name)
    return OwnSubscriptions(subscriptions=[OwnSubscription(**_values(one)) for one in found])


@router.post("", status_code=201)
def add(who: Who, connection: Asked, settings: Settings, given: NewSubscription) -> KeptSubscription:
    """Make a subscription. It receives what happens from now on to alerts that you may see by then."""
    fields = _read(connection, given)
    with access.deciding(connection):
        if len(store.stored(connection, person=who.name)) >= MOST:
            raise HTTPException(409, f"you have {MOST} subscriptions: end one first")
        name, now = _stored_name(who, given.name), datetime.now(UTC)
        try:
            kept = keeping.add(connection, name, given.channel, given.to, fields, who.name, settings, now, who.name)
        except store.NameTaken:
            raise Refused(409, "body.name", f"you have a subscription {given.name!r} already") from None
        except InvalidSubscription as error:
            raise _refused(error) from None
        return _kept(connection, who, kept)


@router.get("/{subscription}")
def subscription(who: Who, connection: Asked, subscription: Key) -> OwnSubscription:
    """Return a subscription of yours."""
    with access.deciding(connection):
        return OwnSubscription(**_values(_own(connection, who, subscription)))


@router.patch("/{subscription}")
def change(
    who: Who, connection: Asked, settings: Settings, subscription: Key, given: ChangedSubscription
) -> KeptSubscription:
    """Change what is given of a subscription, and take it up again where it was suspended."""
    fields = _read(connection, given)
    with access.deciding(connection):
        found = _own(connection, who, subscription, lock=True)
        if given.name is not None:
            fields["name"] = _stored_name(who, given.name)
        try:
            kept = keeping.change(connection, found, fields, settings, given.to, new_secret=given.new_secret)
        except store.NameTaken:
            raise Refused(409, "body.name", f"you have a subscription {given.name!r} already") from None
        except InvalidSubscription as error:
            raise _refused(error) from None
        return _kept(connection, who, kept)


@router.delete("/{subscription}", status_code=204)
def end(who: Who, connection: Asked, subscription: Key) -> None:
    """End a subscription: what waits is not sent."""
    with access.deciding(connection):
        store.end(connection, _own(connection, who, subscription, lock=True).subscription_key, datetime.now(UTC))


@router.get("/{subscription}/deliveries")
def deliveries_of(who: Who, connection: Asked, subscription: Key, limit: Limit = 50) -> Deliveries:
    """List the newest messages of a subscription, and what became of each."""
    with access.deciding(connection):
        name = _own(connection, who, subscription).asked.name
        rows = deliveries.listed(connection, None, name, limit)
    return Deliveries(
        deliveries=[
            Delivery(delivery=one.idempotency_key, **{name: getattr(one, name) for name in _OF_DELIVERIES})
            for one in rows
        ]
    )


_OF_DELIVERIES: Final = tuple(name for name in Delivery.model_fields if name != "delivery")
_CLEARABLE: Final = {name: (name,) for name, one in Wanted.model_fields.items() if name not in ("events", "mode")} | {
    "quiet": ("quiet_from", "quiet_to")
}
_TIMES: Final = ("within", "at", "weekday", "zone", "min_interval")
"""They have a value always: null leaves them as they are."""


def _own(connection: Connection, who: Principal, key: int, *, lock: bool = False) -> StoredSubscription:
    """Return a subscription of a person; raises 404."""
    found = store.stored(connection, key=key, person=who.name, lock=lock)
    if not found:
        raise HTTPException(404, f"you have no subscription {key}")
    return found[0]


def _read(connection: Connection, given: Wanted) -> dict[str, Any]:
    """Return the fields that are given, as they are stored; null takes a condition back. Raises 422."""
    names = given.model_fields_set & Wanted.model_fields.keys()
    values = {name: getattr(given, name) for name in names}
    seen = set(contract.regions(connection))
    for name in ("regions", "except_regions"):
        for region in values.get(name) or ():
            if region not in seen:
                raise Refused(422, f"body.{name}", f"there is no region {region!r}")
    for name in ("area", "except_area"):
        if values.get(name) is not None:
            values[name] = _text_of(values[name], name)
    try:
        fields = reading.fields(values)
    except InvalidSubscription as error:
        raise _refused(error) from None
    cleared = [name for name in names if values[name] is None and name in _CLEARABLE and name not in _TIMES]
    return dict.fromkeys((field for name in cleared for field in _CLEARABLE[name]), None) | fields


def _refused(error: InvalidSubscription) -> Exception:
    return HTTPException(422, str(error)) if error.field is None else Refused(422, f"body.{error.field}", str(error))


def _text_of(drawn: dict[str, Any], name: str) -> str:
    """Return a drawn area as the text that `asked.area` reads; raises 422 where it has too many points."""
    text = json.dumps(drawn)
    if text.count("[") > MOST_POINTS + 1000:
        raise Refused(422, f"body.{name}", f"an area has at most {MOST_POINTS} points")
    return text


def _stored_name(who: Principal, name: str) -> str:
    """Return the name under which a person's subscription is stored: nobody else's, so that none says whose there are."""
    return f"{who.name}/{name}"


def _values(found: StoredSubscription) -> dict[str, Any]:
    import shapely

    asked = {one.name: getattr(found.asked, one.name) for one in fields_of(found.asked)}
    for name in ("area", "except_area"):
        if asked[name] is not None:
            asked[name] = json.loads(shapely.to_geojson(shapely.from_wkt(asked[name])))
    return asked | {
        "subscription": found.subscription_key,
        "name": found.asked.name.removeprefix(f"{found.person}/"),
        "created_at": found.created_at,
        "suspended_at": found.suspended_at,
        "suspended_because": found.suspended_because,
    }


def _kept(connection: Connection, who: Principal, kept: Kept) -> KeptSubscription:
    values = _values(_own(connection, who, kept.key))
    return KeptSubscription(**values, secret=kept.new_secret, unknown=[name for _, name in kept.unknown])
