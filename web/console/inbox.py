"""The inbox: what is left to decide, in the order of the API's list, and the form by which people decide."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from db import console as reads
from db.access import deciding
from monitor.alerts.lifecycle import ALIVE, State, named
from monitor.inspection.bundle import RULE_TITLES
from web.console.decisions import decisions_of
from web.console.frame import PageRoute, Seen, SignedIn, page
from web.parameters import Chosen, Page
from web.routes import alerts as api
from web.routes.alerts import AlertLine, Incident

PAGE_LINES: Final = 25
SOON_DAYS: Final = 14
"""Days within which a deadline or the end of the proof is marked (as `monitor.alerts.yields`)."""
FILTERS: Final = ("region", "rule", "colour", "state")

router = APIRouter(route_class=PageRoute, include_in_schema=False)


# More than six: the filters of the list.
@router.get("/console/inbox")
def inbox(
    request: Request,
    who: SignedIn,
    connection: Seen,
    region: Chosen = "",
    rule: Chosen = "",
    colour: Literal["", "yellow", "red"] = "",
    state: Literal["", State] = "",
    order: Literal["yield", "sure"] = "yield",
    members: Annotated[bool, Query()] = False,
    number: Annotated[Page, Query(alias="page")] = 1,
) -> Response:
    """Show alerts, those to work on first."""
    listed = api.alerts(
        request,
        connection,
        region=region or None,
        rule=rule or None,
        colour=colour or None,
        state=state or None,
        order=order,
        members=members,
        limit=PAGE_LINES,
        page=number,
    )
    keys = [one.alert for one in listed.lines if isinstance(one, AlertLine)]
    standing = reads.standing(connection, keys)
    with deciding(connection):
        counts = reads.open_counts(connection)
    wanted = {"region": region, "rule": rule, "colour": colour, "state": state}
    others = {name: value for name, value in wanted.items() if value} | ({"order": order} if order != "yield" else {})
    others |= {"members": "true"} if members else {}
    n_pages = max(1, -(-listed.n // PAGE_LINES))
    return page(
        request,
        "inbox.html",
        lines=[_line(one, standing, datetime.now(UTC)) for one in listed.lines],
        n=listed.n,
        n_dismissed=sum(row.n for row in counts if row.state == "dismissed" and _is_asked(row, wanted)),
        choices=_choices(counts),
        wanted=wanted,
        order=order,
        members=members,
        number=number,
        n_pages=n_pages,
        first=(number - 1) * PAGE_LINES + 1,
        pages={to: f"?{urlencode(others | {'page': to})}" for to in (number - 1, number + 1) if 1 <= to <= n_pages},
        decisions=decisions_of(who),
    )


def _is_asked(row: reads.OpenCount, wanted: dict[str, str]) -> bool:
    return all(getattr(row, name) == value for name, value in wanted.items() if value)


def _choices(counts: Sequence[reads.OpenCount]) -> dict[str, list[tuple[str, str, int]]]:
    """Return of each filter its values as they are asked for and shown, with the alerts of each that are not closed."""
    found: dict[str, dict[str, int]] = {name: {} for name in FILTERS}
    for row in counts:
        for name, values in found.items():
            value = getattr(row, name)
            values[value] = values.get(value, 0) + row.n
    states = [state for state in ALIVE if state in found["state"]]
    ordered = {name: sorted(values) for name, values in found.items()} | {"state": states}
    words = {"rule": _title, "state": named}
    return {
        name: [(value, words.get(name, str)(value), found[name][value]) for value in values]
        for name, values in ordered.items()
    }


def _line(one: AlertLine | Incident, standing: dict[int, reads.Standing], now: datetime) -> dict[str, Any]:
    """Return a line as the template shows it."""
    shown = one.model_dump() | {"left": proof_left(one.days_left), "is_soon": _is_soon(one.days_left)}
    title = _title(one.rule)
    if isinstance(one, Incident):
        colour = "red" if one.n_red else "yellow"
        return shown | {"title": title, "keys": one.alerts, "states": {}, "colour": colour, "name": one.incident}
    its = standing.get(one.alert, reads.Standing(one.alert, None, None))
    deadline = None if its.deadline is None or one.state != "information_requested" else its.deadline
    return shown | {
        "title": title,
        "name": str(one.alert),
        "keys": [one.alert],
        "deadline": deadline,
        "is_late": deadline is not None and deadline < now,
        "is_due": deadline is not None and deadline < now + timedelta(days=SOON_DAYS),
        "assigned_to": its.assigned_to,
        "state_words": named(one.state),
        "decided_on": _day(one.decided_at),
    }


def proof_left(days: int | None) -> str:
    """Return how long what is to be seen can still be seen, in words."""
    if days is None:
        return "not known"
    if days < 0:
        return f"gone since {_days(-days)}"
    return "may go any day" if days == 0 else f"another {_days(days)}"


def _title(rule: str) -> str:
    return RULE_TITLES.get(rule, rule.replace("_", " "))


def _days(days: int) -> str:
    return f"{days} day" if days == 1 else f"{days} days"


def _is_soon(days: int | None) -> bool:
    return days is not None and 0 <= days <= SOON_DAYS


def _day(at: datetime | None) -> date | None:
    return None if at is None else at.astimezone(UTC).date()
