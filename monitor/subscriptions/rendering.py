"""Messages in words: subject, text, HTML, and the data of a webhook. Names come from outside and break out of none of them.

Control characters, line breaks among them, go before anything else (`printable`); HTML is escaped last, where it is made.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from db.deliveries import SentEvent
from monitor.alerts import evidence
from monitor.alerts.lifecycle import named_decision
from terminal.output import printable

LONGEST_SUBJECT: Final = 150
"""Characters; longer ones are cut by what shows them."""


@dataclass(frozen=True)
class Message:
    """What a subscription receives at once; the same whenever it is made of the same delivery."""

    key: UUID
    """The idempotency key: receivers that saw it know the message."""
    subscription: str
    formed_at: datetime
    events: Sequence[SentEvent]

    @property
    def newest(self) -> Sequence[SentEvent]:
        """Return the last event of each alert, in the order of their first."""
        return list({event.alert_key: event for event in self.events}.values())


def subject(message: Message) -> str:
    """Return the subject in one line: what it is about, at most `LONGEST_SUBJECT` characters."""
    if len(message.newest) == 1:
        event = message.newest[0]
        said = f"alert {event.alert_key} {happened(event)}: {event.rule}, {event.colour}, parcel {event.source_id}"
    else:
        colours = Counter(event.colour for event in message.newest)
        counts = ", ".join(f"{colours[one]} {one}" for one in ("red", "yellow", "green") if colours[one])
        said = f"{len(message.newest)} alerts ({counts})" if message.newest else "nothing to report"
    line = printable(f"Parcelwatch, {message.subscription}: {said}")
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1]}…"


def happened(event: SentEvent) -> str:
    """Return what happened to an alert, and by whom."""
    decision = event.evidence.get("decision")
    by = f"by {decision.get('by')}" if decision else "by the monitor"
    return f"{named_decision(event.event)} {by}"


def why(event: SentEvent) -> str:
    """Return why, in a sentence: a person's reason, else what the finding rests on."""
    decision = event.evidence.get("decision") or {}
    parts = [str(decision["reason"])] if decision.get("reason") else []
    parts += [f"answer due {decision['deadline']}"] if decision.get("deadline") else []
    parts += [str(event.evidence["because"])] if event.evidence.get("because") else []
    return "; ".join([*parts, evidence.why(event.rule, event.evidence)])


def cells(event: SentEvent) -> dict[str, str]:
    """Return what is shown of an event, by heading, in printable characters."""
    shown = {
        "alert": str(event.alert_key),
        "when": f"{event.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "what": happened(event),
        "colour": event.colour,
        "rule": event.rule,
        "confidence": f"{event.confidence:.2f}",
        "parcel": f"{event.source_id} ({event.collection}, {event.season}, {event.region})",
        "area": "not known" if event.area_ha is None else f"{event.area_ha:.2f} ha",
        "declared": event.declared_crop or "nothing",
        "departed": str(event.departed_on or "not known"),
        "why": why(event),
    }
    return {heading: printable(value) for heading, value in shown.items()}


def text(message: Message) -> str:
    """Return the message as plain text: a block of lines for each event."""
    blocks = ["\n".join(f"{name:<11} {value}" for name, value in cells(event).items()) for event in message.events]
    return "\n\n".join([subject(message), *blocks, _foot(message)]) + "\n"


def page(message: Message) -> str:
    """Return the message as HTML: a table with a row for each event, nothing that has to be fetched."""
    rows = [cells(event) for event in message.events]
    head = "".join(f"<th align=left>{html.escape(name)}</th>" for name in (rows[0] if rows else ()))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(value)}</td>' for value in row.values())}</tr>" for row in rows)
    title = html.escape(subject(message))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body><h1>{title}</h1>'
        f'<table border="1" cellspacing="0" cellpadding="4"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"<p>{html.escape(_foot(message))}</p></body></html>\n"
    )


def _foot(message: Message) -> str:
    return printable(f"Sent because of the subscription {message.subscription}; delivery {message.key}.")


def data(message: Message) -> Mapping[str, Any]:
    """Return the message for programs: what the texts say, as values."""
    return {
        "subscription": message.subscription,
        "events": [
            {
                "event_nr": event.event_nr,
                "alert": event.alert_key,
                "event": event.event,
                "recorded_at": event.recorded_at.astimezone(UTC).isoformat(),
                "rule": event.rule,
                "colour": event.colour,
                "confidence": round(event.confidence, 4),
                "departed_on": None if event.departed_on is None else event.departed_on.isoformat(),
                "collection": event.collection,
                "season": event.season,
                "parcel": event.source_id,
                "region": event.region,
                "area_ha": None if event.area_ha is None else round(event.area_ha, 4),
                "declared_crop": event.declared_crop,
                "why": why(event),
                "evidence": dict(event.evidence),
            }
            for event in message.events
        ],
    }
