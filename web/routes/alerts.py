"""Alerts as they are worked on: the inbox, one alert with its log, its evidence as a file."""

import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel

from db import access, decisions
from db.alerts import alert_log
from db.connect import Connection
from db.history import AlertFilter
from monitor.alerts import evidence
from monitor.alerts.inbox import InboxRow, IncidentLine, inbox_of, rows_of
from monitor.alerts.incidents import incident_of
from monitor.alerts.lifecycle import State
from monitor.inspection import bundle, bundle_files
from monitor.inspection.inbox_lines import said_of
from web.parameters import AsKnownAt, Key, Limit, Page, Text
from web.principals import Asked, Who

router = APIRouter(prefix="/api", tags=["alerts"])
FORMS: Final = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
    "zip": "application/zip",
}
_drawing: Final = threading.Lock()
"""Bundles are drawn one after the other: each takes a second of a core, and fonts are not for several threads."""


class AlertLine(BaseModel):
    """An alert, with what its inspection yields."""

    kind: Literal["alert"] = "alert"
    alert: int
    parcel_key: int
    collection: str
    season: str
    parcel: str
    region: str
    area_ha: float | None
    declared_crop: str | None
    rule: str
    state: str
    colour: str
    confidence: float
    departed_on: date
    opened_at: datetime
    confirmed_at: datetime | None
    closed_at: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    decision_reason: str | None
    why: str
    """What it rests on, in words."""
    expected_ha: float
    """Hectares that an inspection settles, by the confidence."""
    days_left: int | None
    """Until the harvest of its neighbours takes the proof away; negative: since; null: not known."""


class Incident(BaseModel):
    """A regional incident: alerts of one rule and week that lie close together."""

    kind: Literal["incident"] = "incident"
    incident: str
    """As it is decided on: I12."""
    collection: str
    season: str
    rule: str
    week: date
    departed_from: date
    departed_to: date
    alerts: list[int]
    n_parcels: int
    n_red: int
    area_ha: float
    longitude: float
    latitude: float
    crops: list[str]
    why: str
    expected_ha: float
    days_left: int | None


class Inbox(BaseModel):
    """A page of the inbox."""

    n: int
    """Lines in all."""
    lines: list[AlertLine | Incident]
    next: str | None
    """Where the next page is."""


class Entry(BaseModel):
    """What happened to an alert."""

    recorded_at: datetime
    event: str
    by: str
    why: str | None
    details: dict[str, Any]
    """Of a decision: deadline, answer, assignee."""
    colour: str
    confidence: float


class AlertWithLog(AlertLine):
    """An alert with its whole log."""

    incident: str | None
    """The regional incident that it is part of."""
    outline: dict[str, Any] | None
    """GeoJSON in degrees, as of today."""
    evidence: dict[str, Any]
    log: list[Entry]


def no_alert(key: int) -> HTTPException:
    """Return the answer for an alert that there is not, or that is not to be seen."""
    return HTTPException(404, f"there is no alert {key}")


def require_alert(connection: Connection, key: int) -> int:
    """Return the key of an alert's parcel; raises 404 where the one who asks sees no such alert."""
    seen = decisions.seen_alerts(connection, [key])
    if key not in seen:
        raise no_alert(key)
    return seen[key]


# More than six: the parameters of the list.
@router.get("/alerts")
def alerts(
    request: Request,
    connection: Asked,
    region: Text | None = None,
    collection: Text | None = None,
    season: Text | None = None,
    rule: Text | None = None,
    colour: Literal["yellow", "red"] | None = None,
    state: State | None = None,
    closed: Annotated[bool, Query(description="closed ones too")] = False,
    order: Annotated[Literal["yield", "sure"], Query(description="of what is left to decide")] = "yield",
    members: Annotated[bool, Query(description="the alerts of regional incidents one by one")] = False,
    as_known_at: AsKnownAt = None,
    limit: Limit = 50,
    page: Page = 1,
) -> Inbox:
    """List alerts: those to work on first, of these those whose inspection settles most. A regional incident is one line."""
    wanted = AlertFilter(
        season, collection, rule, closed or state == "closed", region=region, colour=colour, state=state
    )
    with access.deciding(connection):
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), order, members)
        n = len(listed.alert_keys)
        places = range(n)[(page - 1) * limit : page * limit]
        rows = rows_of(connection, listed, places, as_known_at)
    lines = [_line(row, int(listed.parcel_keys[place])) for row, place in zip(rows, places, strict=True)]
    following = request.url.include_query_params(page=page + 1)
    return Inbox(n=n, lines=lines, next=f"{following.path}?{following.query}" if page * limit < n else None)


@router.get("/alerts/{alert}")
def alert(connection: Asked, alert: Key, as_known_at: AsKnownAt = None) -> AlertWithLog:
    """Return an alert with its evidence in words and its log, as known at a time."""
    parcel_key = require_alert(connection, alert)
    with access.deciding(connection):
        log = alert_log(connection, alert, as_known_at)
        wanted = AlertFilter(with_closed=True, alert_key=alert)
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), with_members=True)
        rows = rows_of(connection, listed, range(len(listed.alert_keys)), as_known_at)
        within = incident_of(connection, alert, as_known_at) if rows else None
    if not rows or not isinstance(row := rows[0], InboxRow):
        raise no_alert(alert)
    return AlertWithLog(
        **_alert(row, parcel_key).model_dump(),
        incident=within.name if within else None,
        outline=None if row.outline is None else dict(row.outline),
        evidence=dict(row.evidence),
        log=[Entry(**bundle.entry(row.rule, one)) for one in log],
    )


@router.get(
    "/alerts/{alert}/bundle.{form}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in FORMS.values()}, "description": "the file"}},
)
def evidence_bundle(
    request: Request,
    who: Who,
    alert: Key,
    form: Annotated[Literal["json", "html", "pdf", "zip"], Path()],
    as_known_at: AsKnownAt = None,
) -> Response:
    """Return the evidence of an alert as a file, as known at a time, or when the last event of its log was recorded."""
    # A transaction of its own: drawing takes a while, and no connection.
    with access.asking(request.app.state.gate.engine, who) as connection:
        require_alert(connection, alert)
        with access.deciding(connection):
            made = bundle.gather(connection, alert, as_known_at)
    with _drawing:
        content = bundle_files.content(made, f".{form}")
    # As a file, never as a page of ours: it brings a style of its own, and text of others.
    name = f'attachment; filename="alert-{alert}.{form}"'
    return Response(content, media_type=FORMS[form], headers={"Content-Disposition": name})


@router.get("/incidents/{incident}")
def incident(
    connection: Asked, incident: Annotated[str, Path(pattern=r"^I[1-9]\d{0,17}$")], as_known_at: AsKnownAt = None
) -> Inbox:
    """Return the alerts of a regional incident, as the inbox orders them."""
    key = int(incident[1:])
    with access.deciding(connection):
        found = incident_of(connection, key, as_known_at)
        if found is None:
            raise HTTPException(404, f"there is no incident {incident}")
        wanted = AlertFilter(found.season, found.collection, found.rule)
        listed = inbox_of(connection, wanted, as_known_at, datetime.now(UTC), with_members=True)
        members = set(found.alert_keys)
        places = [place for place, its in enumerate(listed.alert_keys.tolist()) if its in members]
        rows = rows_of(connection, listed, places, as_known_at)
    keys: Sequence[int] = listed.parcel_keys[places].tolist()
    return Inbox(n=len(rows), lines=[_line(row, its) for row, its in zip(rows, keys, strict=True)], next=None)


def _line(row: InboxRow | IncidentLine, parcel_key: int) -> AlertLine | Incident:
    return _incident(row) if isinstance(row, IncidentLine) else _alert(row, parcel_key)


def _alert(row: InboxRow, parcel_key: int) -> AlertLine:
    names = AlertLine.model_fields.keys() & row.__dict__
    return AlertLine(
        alert=row.alert_key,
        parcel_key=parcel_key,
        parcel=row.source_id,
        why=evidence.why(row.rule, row.evidence),
        **{name: getattr(row, name) for name in names},
    )


def _incident(row: IncidentLine) -> Incident:
    names = Incident.model_fields.keys() & row.__dict__
    return Incident(
        incident=row.name,
        alerts=list(row.alert_keys),
        why=f"regional incident: {said_of(row)}",
        **{name: getattr(row, name) for name in names},
    )
