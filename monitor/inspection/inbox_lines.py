"""Lines of the inbox in words: an alert each, or a regional incident."""

from collections.abc import Mapping, Sequence
from typing import Any

from db.incidents import IncidentRow
from monitor.alerts import evidence
from monitor.alerts.inbox import InboxRow, IncidentLine
from monitor.alerts.lifecycle import named
from terminal.output import plain


def columns(rows: Sequence[InboxRow | IncidentLine]) -> dict[str, list[str]]:
    """Return the cells of the list by header."""
    lines = [_of_incident(row) if isinstance(row, IncidentLine) else _of_alert(row) for row in rows]
    return {header: [line[header] for line in lines] for header in (lines[0] if lines else ())}


def values(row: InboxRow | IncidentLine) -> Mapping[str, Any]:
    """Return a line for programs; that of an incident has its name in `incident`."""
    return {"incident": row.name, **row.__dict__} if isinstance(row, IncidentLine) else row.__dict__


def said_of(incident: IncidentRow) -> str:
    """Return what an incident is, where, how many and how large."""
    around = f"around {incident.latitude:.3f} N {incident.longitude:.3f} E"
    return f"{incident.n_alerts} of {incident.n_parcels} parcels, {incident.area_ha:.0f} ha, {around}"


def _of_alert(row: InboxRow) -> dict[str, str]:
    return {
        "alert": str(row.alert_key),
        "parcel": plain(row.source_id),
        "collection, season": plain(f"{row.collection}, {row.season}"),
        "declared": plain(row.declared_crop or "nothing"),
        "rule": f"[{row.colour}]{plain(row.rule)}[/]",
        "colour": f"[{row.colour}]{row.colour}{_recovering(row)}[/]",
        "state": _state(row),
        "confidence": f"{row.confidence:.2f}",
        "expected ha": f"{row.expected_ha:.1f}",
        "days left": _days_left(row.days_left),
        "departed": str(row.departed_on),
        "confirmed": f"{row.confirmed_at:%Y-%m-%d}" if row.confirmed_at else "not yet",
        "why": plain(evidence.why(row.rule, row.evidence)),
    }


def _of_incident(row: IncidentLine) -> dict[str, str]:
    colour = "red" if row.n_red else "yellow"
    return {
        "alert": row.name,
        "parcel": f"{row.n_alerts} of {row.n_parcels}",
        "collection, season": plain(f"{row.collection}, {row.season}"),
        "declared": plain(", ".join(row.crops)),
        "rule": f"[{colour}]{plain(row.rule)}[/]",
        "colour": f"[{colour}]{row.n_red} red[/]",
        "state": "incident",
        "confidence": "",
        "expected ha": f"{row.expected_ha:.1f}",
        "days left": _days_left(row.days_left),
        "departed": f"{row.departed_from} to {row.departed_to}",
        "confirmed": "",
        "why": f"regional incident: {said_of(row)}; `alerts show {row.name}`",
    }


def _recovering(row: InboxRow) -> str:
    is_over = row.state == "closed" or evidence.recovering_since(row.evidence) is None
    return "" if is_over else ", recovering"


def _days_left(days: int | None) -> str:
    """Return how long the proof lasts."""
    if days is None:
        return "unknown"
    return "any day now" if days == 0 else str(days) if days > 0 else f"gone {-days} days"


def _state(row: InboxRow) -> str:
    if row.state == "closed":
        return f"closed {row.closed_at:%Y-%m-%d}"
    if row.decided_by is None:
        return named(row.state)
    reason = f": {row.decision_reason}" if row.decision_reason else ""
    return plain(f"{named(row.state)} {row.decided_at:%Y-%m-%d} by {row.decided_by}{reason}")
