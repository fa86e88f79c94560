"""The lifecycle of an alert: a state machine whose state is the fold of an append-only log; nothing here reads or stores.

    candidate      a departure that no alert was opened for yet: before the first event
    open           opened by the monitor, or re-opened
    acknowledged, in_review, information_requested, dismissed, confirmed     a person's decisions
    closed         the departure is over, its evidence was withdrawn, or a person closed it

Two events have similar names: `confirmed` is the monitor's (a later acquisition says the same: red), `verified` a person's
(the state `confirmed`). Colour (of the evidence), state (of the work on it) and confidence are three different things.

An episode is the time that a departure lasts, by the dates of the behaviour and not of the runs. One alert is alive for each
parcel and rule; a departure in the episode of a closed alert re-opens it, or is silent where a person dismissed or closed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from db.tables import PENDING_STATES
from monitor.alerts.evidence import JUDGED_BY, LACKS_OBSERVATIONS, NOT_ASKED, SUPPRESSED
from monitor.alerts.rules import Colour, Finding

State = Literal[
    "candidate", "open", "acknowledged", "in_review", "information_requested", "dismissed", "confirmed", "closed"
]
Actor = Literal["monitor", "person"]
Event = Literal[
    "opened",
    "changed",
    "confirmed",
    "flagged",
    "escalated",
    "acknowledged",
    "reviewed",
    "requested",
    "answered",
    "dismissed",
    "verified",
    "closed",
    "reopened",
    "assigned",
    "commented",
]

PENDING: Final[tuple[State, ...]] = PENDING_STATES
"""States in which there is something left to decide."""
ALIVE: Final[tuple[State, ...]] = (*PENDING, "dismissed", "confirmed")

TRANSITIONS: Final[Mapping[tuple[Actor, Event], tuple[tuple[State, ...], State | None]]] = {
    ("monitor", "opened"): (("candidate",), "open"),
    ("monitor", "changed"): (ALIVE, None),
    ("monitor", "confirmed"): (ALIVE, None),
    ("monitor", "flagged"): (("confirmed",), "in_review"),
    ("monitor", "escalated"): (PENDING, None),
    ("monitor", "closed"): ((*PENDING, "dismissed"), "closed"),
    ("monitor", "reopened"): (("closed",), "open"),
    ("person", "acknowledged"): ((*PENDING, "dismissed"), "acknowledged"),
    ("person", "reviewed"): (PENDING, "in_review"),
    ("person", "requested"): (PENDING, "information_requested"),
    ("person", "answered"): (("information_requested",), "in_review"),
    ("person", "dismissed"): ((*PENDING, "dismissed"), "dismissed"),
    ("person", "verified"): (PENDING, "confirmed"),
    ("person", "closed"): (ALIVE, "closed"),
    ("person", "reopened"): (("dismissed", "confirmed", "closed"), "open"),
    ("person", "assigned"): (ALIVE, None),
    ("person", "commented"): ((*ALIVE, "closed"), None),
}
"""From which states an actor's event is allowed, and the state after it (None: the same)."""


class Refused(ValueError):
    """An event that the state of an alert does not allow; the message is one line without the alert's number."""


def after(state: State, actor: Actor, event: Event) -> State:
    """Return the state after an event.

    Raises:
        Refused: the event is not this actor's, or not allowed in this state.
    """
    if (actor, event) not in TRANSITIONS:
        raise Refused(f"is never {event} by a {actor}")
    allowed, then = TRANSITIONS[actor, event]
    if state not in allowed:
        raise Refused(f"is {named(state)}: it can be {event} only where it is {', '.join(map(named, allowed))}")
    return then or state


def named(state: str) -> str:
    """Return a state in words."""
    return state.replace("_", " ")


def named_decision(event: str) -> str:
    """Return what a person did, in words."""
    return "confirmed" if event == "verified" else event


@dataclass(frozen=True)
class OpenAlert:
    """An alert that is not closed."""

    alert_key: int
    colour: Colour
    is_confirmed: bool
    is_verified: bool = False
    state: State = "open"


@dataclass(frozen=True)
class Episode:
    """The newest closed alert of a parcel and rule."""

    ended_on: date
    """The day until which its departure was seen."""
    is_silent: bool
    """A person dismissed or closed it: the same departure alerts nobody again."""


def events(alert: OpenAlert | None, finding: Finding, before: Episode | None = None) -> tuple[Event, ...]:
    """Return what happens to the alert of a parcel and rule because of a new finding, in order.

    Args:
        alert: the one that is alive, None where there is none.
        finding: of the same parcel and rule.
        before: the newest closed alert of the parcel and rule, None where there is none.
    """
    if alert is not None and why_over(finding) is not None:
        if alert.is_verified:  # a person's verdict is never undone by the monitor
            return ("flagged",) if alert.state == "confirmed" else ()
        return ("closed",)
    if finding.outcome != "OK" or finding.colour == "green" or SUPPRESSED in finding.evidence:
        return ()
    if alert is None:
        first: Event = "opened"
        if before is not None and finding.departed_on is not None and finding.departed_on <= before.ended_on:
            if before.is_silent:
                return ()
            first = "reopened"
        return (first, "confirmed") if finding.colour == "red" else (first,)
    if finding.colour == "red" and not alert.is_confirmed:
        return ("confirmed",)
    return ("changed",) if finding.colour != alert.colour else ()


def why_over(finding: Finding) -> str | None:
    """Return why an alert is over that a finding is of; None where it is not: a lack of neighbours ends nothing."""
    if window := finding.evidence.get(SUPPRESSED):
        dates = f"from {window['from']} until {window['until']}"
        return f"the departure lies in the window {window['name']} ({dates}), which gives no alerts: {window['reason']}"
    if finding.colour == "green":
        return "the departure is over"
    if is_withdrawn(finding):
        return "evidence withdrawn"
    is_asked_no_more = NOT_ASKED.items() <= finding.evidence.items() or JUDGED_BY in finding.evidence
    if is_asked_no_more or (finding.outcome == "NOT_VALID" and "deadline" in finding.evidence):
        return str(finding.evidence["reason"])
    return None


def is_withdrawn(finding: Finding) -> bool:
    """Return whether too little is left of a parcel's own observations; a lack of neighbours withdraws nothing."""
    return finding.outcome == "NOT_VALID" and finding.evidence.get("lacks") == LACKS_OBSERVATIONS
