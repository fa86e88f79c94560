"""The page of health: how the chain does, and what to do where it does not."""

from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from db import contract
from web.console.frame import OPERATORS, PageRoute, Seen, SignedIn, page
from web.routes import operation as api
from web.routes.operation import StatusLine

ADVICE: Final = (
    ("scenes", "failed", "`parcelwatch scenes list --state failed` shows them; mend the cause, then `parcelwatch scenes retry --failed`."),
    ("scenes", "found", "They wait for a worker: start another `parcelwatch scenes work` if they stay."),
    ("scenes", "polls failing", "Nothing is lost: read the error and mend it; `parcelwatch scenes sources` says when it is tried next."),
    ("scenes", "pictures of alerts: given up", "Mend what the error says, then `parcelwatch chips cut ALERT`."),
    ("scenes", "pictures of alerts", "They are tried again by themselves; `parcelwatch chips cut ALERT` tries at once."),
    ("ingest", "dead letters", "`parcelwatch ingest dead-letters` shows them; mend the cause, then `parcelwatch ingest redrive`."),
    ("monitor", "pending", "Start another `parcelwatch monitor run` if the oldest one gets older."),
    ("monitor", "postponed", "They are tried again, less and less often: read the error and report it."),
    ("deliveries", "suspended", "Nothing is lost: give another address with `parcelwatch subscriptions change`."),
    ("deliveries", "dead", "`parcelwatch deliveries retry` tries them again, `parcelwatch deliveries discard` gives them up."),
    ("deliveries", "pending", "They wait for their next attempt or a sender: start another `parcelwatch deliveries run` if they stay."),
)  # fmt: skip
"""What to do about a line of the status: its part, how what it is of begins, and the advice (docs/operating.md); the first one counts."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/console/health")
def shown(request: Request, who: SignedIn, connection: Seen) -> Response:
    """Show how the chain does; for operators and administrators."""
    if who.role not in OPERATORS:
        raise HTTPException(403, f"this is for the role {' or '.join(OPERATORS)}; yours is {who.role}")
    now = datetime.now(UTC)
    newest = [
        (one, in_words(now - one.observed_at), in_words(one.recorded_at - one.available_at))
        for one in contract.newest_scenes(connection)
    ]
    lines = api.status(connection).lines
    advised = [(one, advice(one)) for one in lines]
    return page(
        request,
        "health.html",
        newest=newest,
        waiting=[(one, what) for one, what in advised if what],
        others=[one for one, what in advised if not what],
        now=now,
    )


def advice(line: StatusLine) -> str | None:
    """Return what to do about a line of the status; None where nothing is to be done."""
    if line.part == "processes":
        return f"Start `parcelwatch {line.what}`." if line.value == "none is live" else None
    found = next((what for part, begins, what in ADVICE if part == line.part and line.what.startswith(begins)), None)
    if found is None and line.part == "monitor":
        # What alerts wait for says itself which command helps (`db.status.waiting_for`).
        return "Run the command that stands beside." if "`" in line.value else "Nothing: it goes on by itself."
    return found


def in_words(span: timedelta) -> str:
    """Return a span of time in its largest unit of which there are two."""
    minutes = span.total_seconds() / 60
    for unit, size in (("days", 1440), ("hours", 60)):
        if abs(minutes) >= 2 * size:
            return f"{minutes / size:.0f} {unit}"
    return f"{minutes:.0f} minutes"
