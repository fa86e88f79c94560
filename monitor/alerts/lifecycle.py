"""The lifecycle of an alert: opened at the first departure, confirmed when it holds, closed when the parcel is green again.

    finding yellow  -> opened        finding red   -> opened and confirmed
    open and red    -> confirmed     open and green -> closed
    NOT_EXECUTED or NOT_VALID        -> nothing: no evidence changes no alert

Colour (of the evidence), state (of the work on it) and confidence are three different things. A dismissed alert stays
dismissed while its departure lasts, so that inspectors are not alerted twice.
"""

from dataclasses import dataclass
from typing import Literal

from monitor.alerts.rules import Colour, Finding

Event = Literal["opened", "changed", "confirmed", "acknowledged", "dismissed", "closed"]


@dataclass(frozen=True)
class OpenAlert:
    """An alert that is not closed."""

    alert_key: int
    colour: Colour
    is_confirmed: bool


def events(alert: OpenAlert | None, finding: Finding) -> tuple[Event, ...]:
    """Return what happens to the alert of a parcel and rule because of a new finding, in order."""
    if finding.outcome != "OK":
        return ()
    if alert is None:
        return {"green": (), "yellow": ("opened",), "red": ("opened", "confirmed")}[finding.colour or "green"]  # type: ignore[return-value]
    if finding.colour == "green":
        return ("closed",)
    if finding.colour == "red" and not alert.is_confirmed:
        return ("confirmed",)
    return ("changed",) if finding.colour != alert.colour else ()
