"""The alert that a log makes, by the state machine alone: what the row of an alert and `alerts_known` are compared with."""

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.alerts.lifecycle import Actor, Event, State, after
from monitor.alerts.rules import Colour


@dataclass(frozen=True)
class Logged:
    """What the state of an alert depends on, of an entry of its log."""

    actor: Actor
    event: Event
    colour: Colour


@dataclass(frozen=True)
class Alert:
    """An alert as its log says."""

    state: State = "candidate"
    colour: Colour = "green"
    is_confirmed: bool = False
    """A later, independent acquisition says the same."""
    is_verified: bool = False
    """A person confirmed it."""

    def then(self, entry: Logged) -> "Alert":
        """Return the alert after one more entry; raises Refused for one that its state does not allow."""
        state = after(self.state, entry.actor, entry.event)
        falls_back = entry.event in ("changed", "reopened") and entry.colour == "yellow"
        is_confirmed = entry.event == "confirmed" or (self.is_confirmed and not falls_back)
        undecided = entry.event in ("reopened", "dismissed")
        is_verified = entry.event == "verified" or (self.is_verified and not undecided)
        return Alert(state, entry.colour, is_confirmed, is_verified)


def fold(log: Iterable[Logged]) -> Alert:
    """Return the alert that a log makes; raises Refused where an entry was not allowed."""
    alert = Alert()
    for entry in log:
        alert = alert.then(entry)
    return alert
