"""The page of one's own subscriptions, and the form that makes one, which the map has too."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from db.access import deciding
from db.connect import Connection
from db.policies import stored_rules
from monitor.alerts.rules import RULES
from monitor.inspection.bundle import RULE_TITLES
from monitor.subscriptions import asked
from web.console.frame import PageRoute, Seen, SignedIn, page
from web.routes import subscriptions as api
from web.routes.subscriptions import OwnSubscription

CHANNELS: Final = {"email": "e-mail", "webhook": "webhook"}
NARROWED: Final = (("regions", "Regions"), ("crops", "Crops"), ("schemes", "Schemes"), ("rules", "What departs"))
"""Conditions that have an opposite, with their names on the page."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/console/subscriptions")
def shown(request: Request, who: SignedIn, connection: Seen) -> Response:
    """Show one's subscriptions, by name."""
    found = api.subscriptions(who, connection).subscriptions
    lines = [(one, facts(one)) for one in found]
    return page(request, "subscriptions.html", lines=lines, rules=rules(connection))


def rules(connection: Connection) -> list[tuple[str, str]]:
    """Return what can be chosen in the form: rules and obligations of policies, with their names for people."""
    with deciding(connection):
        return [(one, title(one)) for one in (*RULES, *stored_rules(connection))]


def title(rule: str) -> str:
    """Return what a rule or an obligation is called by people."""
    return RULE_TITLES.get(rule, rule.replace("_", " "))


def facts(one: OwnSubscription) -> list[tuple[str, str]]:
    """Return what a subscription says, as (name, value)."""
    found = [("Sent by", f"{CHANNELS.get(one.channel, one.channel)} to {one.address}"), ("When", when(one))]
    values: dict[str, Any] = one.model_dump()
    for field, name in NARROWED:
        for prefix, word in (("", ""), ("except_", "all but ")):
            if given := values[prefix + field]:
                names = [title(rule) for rule in given] if field == "rules" else given
                found.append((name, word + ", ".join(names)))
    if one.colours:
        found.append(("Colour", " and ".join(one.colours)))
    if one.min_confidence is not None:
        found.append(("At least", f"{one.min_confidence:.0%} sure"))
    if one.except_area:
        found.append(("Area", "all but a drawn one"))
    if sorted(one.events) != sorted(asked.OF_DEPARTURES):
        found.append(("Events", ", ".join(one.events).replace("_", " ")))
    return found


def when(one: OwnSubscription) -> str:
    """Return when messages are sent, in words."""
    at = f"at {one.at:%H:%M} ({one.zone})"
    said = {
        "immediate": "at once",
        "grouped": f"together, {asked.in_words(one.within_s)} after the first",
        "daily": f"daily {at}",
        "weekly": f"on {asked.WEEKDAYS[one.weekday - 1].capitalize()}s {at}",
    }[one.mode]
    if one.quiet_from is not None and one.quiet_to is not None:
        said += f", not from {one.quiet_from:%H:%M} to {one.quiet_to:%H:%M}"
    return said + (f", at least {asked.in_words(one.min_interval_s)} apart" if one.min_interval_s else "")
