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
        return _newest(self.events)

    @property
    def apart(self) -> Sequence[SentEvent]:
        """Return the events of alerts that are told one by one."""
        return [event for event in self.events if event.incident is None]

    @property
    def incidents(self) -> Mapping[int, Sequence[SentEvent]]:
        """Return the last event of each alert of each regional incident, by the alert that names it."""
        found = dict[int, list[SentEvent]]()
        for event in self.events:
            if event.incident is not None:
                found.setdefault(event.incident, []).append(event)
        return {incident: _newest(events) for incident, events in found.items()}


def _newest(events: Sequence[SentEvent]) -> Sequence[SentEvent]:
    return list({event.alert_key: event for event in events}.values())


def subject(message: Message) -> str:
    """Return the subject in one line: what it is about, at most `LONGEST_SUBJECT` characters."""
    incidents = message.incidents
    if len(incidents) == 1 and not message.apart:
        ((incident, members),) = incidents.items()
        said = f"incident I{incident}: {members[0].rule}, {_counted(members)}, {_places(members)}"
    elif len(message.newest) == 1:
        event = message.newest[0]
        said = f"alert {event.alert_key} {happened(event)}: {event.rule}, {event.colour}, parcel {event.source_id}"
    else:
        named = ", ".join(f"I{incident}" for incident in incidents)
        said = (_counted(message.newest) if message.newest else "nothing to report") + (
            f", incidents {named}" if named else ""
        )
    line = printable(f"Parcelwatch, {message.subscription}: {said}")
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1]}…"


def _counted(newest: Sequence[SentEvent]) -> str:
    """Return how many alerts these are, and of which colours."""
    colours = Counter(event.colour for event in newest)
    counts = ", ".join(f"{colours[one]} {one}" for one in ("red", "yellow", "green") if colours[one])
    return f"{len(newest)} alert{'' if len(newest) == 1 else 's'} ({counts})"


def _places(newest: Sequence[SentEvent]) -> str:
    return ", ".join(sorted({event.region for event in newest}))


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


def block(incident: int, members: Sequence[SentEvent]) -> dict[str, str]:
    """Return what is shown of a regional incident, by heading, in printable characters: of its alerts in this message.

    Args:
        members: the last event of each.
    """
    first = members[0]
    crops = Counter(event.declared_crop or "nothing" for event in members).most_common()
    days = sorted(str(event.departed_on) for event in members if event.departed_on is not None)
    shown = {
        "incident": f"I{incident}",
        "what": f"{_counted(members)} of one regional incident",
        "rule": first.rule,
        "where": f"{_places(members)} ({first.collection}, {first.season})",
        "area": f"{sum(event.area_ha or 0.0 for event in members):.2f} ha",
        "declared": ", ".join(f"{crop} ({n})" for crop, n in crops),
        "departed": f"{days[0]} to {days[-1]}" if days else "not known",
        "alerts": ", ".join(f"{event.alert_key} (parcel {event.source_id})" for event in members),
        "now": f"parcelwatch alerts show I{incident}",
    }
    return {heading: printable(value) for heading, value in shown.items()}


def text(message: Message) -> str:
    """Return the message as plain text: a block of lines for each incident and each event of none."""
    shown = [*(block(*one) for one in message.incidents.items()), *map(cells, message.apart)]
    blocks = ["\n".join(f"{name:<11} {value}" for name, value in one.items()) for one in shown]
    return "\n\n".join([subject(message), *blocks, _foot(message)]) + "\n"


def page(message: Message) -> str:
    """Return the message as HTML: a table for incidents, one for events of none; nothing that has to be fetched."""
    tables = ([block(*one) for one in message.incidents.items()], [cells(event) for event in message.apart])
    title = html.escape(subject(message))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body><h1>{title}</h1>'
        f"{''.join(_table(rows) for rows in tables if rows)}<p>{html.escape(_foot(message))}</p></body></html>\n"
    )


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th align=left>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(value)}</td>' for value in row.values())}</tr>" for row in rows)
    return (
        f'<table border="1" cellspacing="0" cellpadding="4"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
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
                "incident": None if event.incident is None else f"I{event.incident}",
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
