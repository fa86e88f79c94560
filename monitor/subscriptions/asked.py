"""What a person asks for in a subscription, checked: areas, times, zones, names; what belongs together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import time
from typing import Any, Final, get_args
from zoneinfo import ZoneInfo

from db.subscriptions import Secrets, Subscription
from monitor.alerts.lifecycle import Event
from monitor.alerts.rules import RULES
from monitor.subscriptions import feeds, mail, services, webhook
from monitor.subscriptions.errors import InvalidSubscription
from monitor.subscriptions.settings import DeliverySettings

EVENTS: Final[tuple[str, ...]] = get_args(Event)
COLOURS: Final = ("green", "yellow", "red")
CHANNELS: Final = ("email", "webhook", "atom", "icalendar", "apprise")
MODES: Final = ("immediate", "grouped", "daily", "weekly")
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OF_DEPARTURES: Final = ("opened", "confirmed", "flagged", "reopened", "escalated")
"""Events that bring something to do: the default."""
OF_DEADLINES: Final = ("requested", "answered", "dismissed", "verified", "closed", "reopened")
"""Events that begin or end a wait for an answer: the default of calendars."""
LONGEST_NAME: Final = 80
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Of durations, in seconds."""


def check(asked: Subscription, obligations: Sequence[str] = ()) -> None:
    """Check what does not depend on the channel.

    Args:
        obligations: of policies; their names are rules, too.

    Raises:
        InvalidSubscription: it cannot be.
    """
    if not 0 < len(asked.name.strip()) <= LONGEST_NAME or not asked.name.isprintable():
        raise InvalidSubscription(f"a subscription's name has 1 to {LONGEST_NAME} printable characters", "name")
    rules = (*RULES, *obligations)
    for field, known in {"events": EVENTS, "colours": COLOURS, "rules": rules, "except_rules": rules}.items():
        for value in getattr(asked, field) or ():
            if value not in known:
                raise InvalidSubscription(
                    f"{value!r} is none of {field.removeprefix('except_')}: {', '.join(known)}", field
                )
    if asked.min_confidence is not None and not 0 <= asked.min_confidence <= 1:
        raise InvalidSubscription("a confidence is from 0 to 1", "min_confidence")
    if asked.quiet_from is not None and asked.quiet_from == asked.quiet_to:
        raise InvalidSubscription("quiet hours that begin when they end leave no time to send", "quiet")
    zone(asked.zone)


def zone(name: str) -> str:
    """Return the name of a time zone. Raises InvalidSubscription where there is none of that name."""
    try:
        return ZoneInfo(name).key
    except (ValueError, OSError, LookupError) as error:  # paths, folders and what is not there raise each of these
        raise InvalidSubscription(f"{name!r} is no time zone: write one as Europe/Amsterdam", "zone") from error


def time_of_day(text: str) -> time:
    """Return a time of day, written as 7:00 or 07:00. Raises InvalidSubscription."""
    try:
        hours, minutes = text.strip().split(":")
        return time(int(hours), int(minutes))
    except ValueError as error:
        raise InvalidSubscription(f"{text!r} is no time of day: write 07:00") from error


def quiet_hours(text: str) -> tuple[time, time]:
    """Return the first and the last moment of quiet hours, written as 22:00-06:00. Raises InvalidSubscription."""
    first, _, last = text.partition("-")
    return time_of_day(first), time_of_day(last)


def duration(text: str) -> int:
    """Return seconds of a duration, written as 30s, 15m, 2h or 1d. Raises InvalidSubscription."""
    number, unit = text.strip()[:-1], text.strip()[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise InvalidSubscription(f"{text!r} is no duration: write 30s, 15m, 2h or 1d")
    seconds = int(number) * _UNITS[unit]
    if seconds > 366 * 86400:
        raise InvalidSubscription(f"{text!r} is longer than a year")
    return seconds


def in_words(seconds: int) -> str:
    """Return a duration as `duration` reads it, in the largest unit that leaves no rest."""
    unit, length = next((unit, length) for unit, length in _UNITS.items() if seconds % length == 0)
    return f"{seconds // length}{unit}"


def area(text: str) -> str:
    """Return a drawn area, GeoJSON or WKT in degrees, as the WKT of a valid multipolygon.

    Raises:
        InvalidSubscription: it is no polygon, crosses itself or lies outside of the Earth.
    """
    import numpy as np
    import shapely

    try:
        with np.errstate(invalid="ignore"):  # a NaN among the coordinates: not valid, as is said below
            drawn = shapely.from_geojson(text) if text.lstrip().startswith("{") else shapely.from_wkt(text)
        if isinstance(drawn, shapely.GeometryCollection):  # a GeoJSON FeatureCollection
            drawn = shapely.union_all(list(drawn.geoms))
    except (shapely.errors.ShapelyError, ValueError) as error:  # GEOS may cut its message within a letter: no Unicode
        raise InvalidSubscription(
            f"the area cannot be read as GeoJSON or WKT: {' '.join(str(error).split())[:100]}"
        ) from error
    if drawn.geom_type not in ("Polygon", "MultiPolygon") or drawn.is_empty:
        raise InvalidSubscription(
            f"the area has to be a polygon, this is a {drawn.geom_type}{' without points' * drawn.is_empty}"
        )
    if not drawn.is_valid:
        raise InvalidSubscription(f"the area is no valid polygon: {shapely.is_valid_reason(drawn)}")
    west, south, east, north = drawn.bounds
    if not (max(abs(west), abs(east)) <= 180 and max(abs(south), abs(north)) <= 90):
        raise InvalidSubscription("the area has to be in degrees (longitude, latitude; WGS 84)")
    return str(shapely.to_wkt(shapely.force_2d(drawn), rounding_precision=7))


def reached(channel: str, to: str, settings: DeliverySettings) -> tuple[str, Secrets]:
    """Return the address as it may be shown, and the secrets, of a channel.

    Raises:
        InvalidSubscription: the channel cannot reach such an address.
    """
    if channel not in CHANNELS:
        raise InvalidSubscription(f"{channel!r} is no channel; there are {', '.join(CHANNELS)}", "channel")
    with _named("to"):
        match channel:
            case "email":
                return mail.checked_address(to), Secrets()
            case "webhook":
                return webhook.shown(webhook.checked_url(to, settings)), Secrets(to, webhook.new_secret())
            case "apprise":
                return f"{services.checked_service(to, settings)}://…", Secrets(to)
            case _:
                return feeds.checked_file(to), Secrets()


def fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a subscription that options of the command line give; what was not given is left out.

    Raises:
        InvalidSubscription: an option cannot be read.
    """
    given = {name: value for name, value in options.items() if value is not None and value != []}
    made: dict[str, Any] = {}
    readers = {
        "within": ("within_s", duration),
        "min_interval": ("min_interval_s", duration),
        "at": ("at", time_of_day),
        "area": ("area", area),
        "except_area": ("except_area", area),
    }
    for name, value in given.items():
        with _named(name):
            if name == "quiet":
                made["quiet_from"], made["quiet_to"] = quiet_hours(value)
            elif name == "weekday":
                if value.lower() not in WEEKDAYS:
                    raise InvalidSubscription(f"{value!r} is no day of the week: {', '.join(WEEKDAYS)}")
                made["weekday"] = WEEKDAYS.index(value.lower()) + 1
            else:
                field, read = readers.get(name, (name, lambda one: one))
                made[field] = read(value)
    return made


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Say of what is wrong which field it is."""
    try:
        yield
    except InvalidSubscription as error:
        error.field = field
        raise
