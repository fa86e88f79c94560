"""What people decide on alerts: each decision is an event of the alert's log, and one taken back is another."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, File, Form, Header, HTTPException, Path, Request, Response, UploadFile
from pydantic import BaseModel, Field, model_validator

from db import access, decisions
from db.access import Principal
from db.alerts import NoOpenAlert
from db.connect import Connection
from monitor.alerts.decisions import decide_together
from monitor.alerts.incidents import incident_of
from monitor.alerts.lifecycle import Event, State
from monitor.alerts.undo import undo
from web.parameters import BIGINT, Key, Moment, Note, Text
from web.principals import Asked, having
from web.routes.alerts import no_alert, require_alert
from web.settings import WebSettings

router = APIRouter(prefix="/api", tags=["decisions"])
Decider = Annotated[Principal, Depends(having("inspector", "operator", "admin"))]
Verb = Literal[
    "acknowledge", "review", "request", "answer", "dismiss", "confirm", "close", "reopen", "assign", "comment"
]
EVENTS: Final[dict[Verb, Event]] = {
    "acknowledge": "acknowledged",
    "review": "reviewed",
    "request": "requested",
    "answer": "answered",
    "dismiss": "dismissed",
    "confirm": "verified",
    "close": "closed",
    "reopen": "reopened",
    "assign": "assigned",
    "comment": "commented",
}
WITHOUT_REASON: Final = ("acknowledge", "review", "assign")
"""Decisions that need no reason."""
MOST_ALERTS: Final = 200
"""Alerts of one decision: what a person can have looked at; their log entries are written in one transaction."""
PHOTOS: Final = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
"""First bytes of the kinds of photos that are taken: what a sender calls them counts for nothing."""
AlertNumber = Annotated[int, Field(ge=1, le=BIGINT)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="of the client's making: a request that comes again within a day is answered as before, and not done again",
    ),
]


class Decision(BaseModel):
    """What is decided, and why."""

    decision: Verb
    reason: Note | None = None
    """Why; only acknowledge, review and assign go without."""
    deadline: Moment | None = None
    """Of a request: when the answer is due."""
    to: Text | None = None
    """Of an assignment: who is to work on it."""
    expected: State | dict[AlertNumber, State] | None = None
    """The state that was seen, of all alerts or by alert: refused (409) where it is another by now."""

    @model_validator(mode="after")
    def _belongs(self) -> "Decision":
        if self.reason is None and self.decision not in WITHOUT_REASON:
            raise ValueError(f"{self.decision} needs a reason")
        for given, name, verb in ((self.deadline, "deadline", "request"), (self.to, "to", "assign")):
            if (given is None) == (self.decision == verb):
                raise ValueError(f"{name} is of {verb}, which needs it")
        if self.deadline is not None and self.deadline <= datetime.now(UTC):
            raise ValueError("the deadline is past: name a time to come")
        if self.to is not None and not self.to.strip():
            raise ValueError("an assignment is to somebody")
        return self

    def details(self) -> dict[str, Any]:
        """Return what belongs to the decision beside its reason."""
        if self.deadline is not None:
            return {"deadline": self.deadline.isoformat()}
        return {"answer": "note"} if self.decision == "answer" else {"to": self.to} if self.to is not None else {}


class Decisions(Decision):
    """A decision on many alerts: on all, or, where one of them does not allow it, on none."""

    alerts: Annotated[list[AlertNumber], Field(min_length=1, max_length=MOST_ALERTS)]


class Undone(BaseModel):
    """Decisions to take back: on all, or on none."""

    events: Annotated[list[AlertNumber], Field(min_length=1, max_length=MOST_ALERTS)]
    """Their numbers, as the decision answered them."""


class Decided(BaseModel):
    """An alert after a decision."""

    alert: int
    event: int
    """Number of the event in its log, by which it can be taken back."""
    state: str


class Outcome(BaseModel):
    """All alerts that were decided on."""

    decided: list[Decided]


@router.post("/alerts/{alert}/decisions", status_code=201)
def decide(
    connection: Asked, who: Decider, alert: Key, given: Decision, idempotency_key: IdempotencyKey = None
) -> Outcome:
    """Record a decision on an alert."""
    require_alert(connection, alert)
    asked = given.model_dump_json().encode() + str(alert).encode()
    return _once(connection, who, idempotency_key, asked, lambda: _decide(connection, who, [alert], given))


@router.post("/decisions", status_code=201)
def decide_many(connection: Asked, who: Decider, given: Decisions, idempotency_key: IdempotencyKey = None) -> Outcome:
    """Record a decision on up to 200 alerts: on all or on none. 404 where one of them is none, 409 where one does not allow it."""
    keys = sorted(set(given.alerts))
    seen = decisions.seen_alerts(connection, keys)
    for key in keys:
        if key not in seen:
            raise no_alert(key)
    asked = given.model_dump_json().encode()
    return _once(connection, who, idempotency_key, asked, lambda: _decide(connection, who, keys, given))


@router.post("/incidents/{incident}/decisions", status_code=201)
def decide_on_incident(
    connection: Asked,
    who: Decider,
    incident: Annotated[str, Path(pattern=r"^I[1-9]\d{0,17}$")],
    given: Decision,
    idempotency_key: IdempotencyKey = None,
) -> Outcome:
    """Record a decision on all alerts of a regional incident that you see, or on none."""

    def do() -> Outcome:
        with access.deciding(connection):
            found = incident_of(connection, int(incident[1:]))
        if found is None:
            raise HTTPException(404, f"there is no incident {incident}")
        return _decide(connection, who, found.alert_keys, given)

    return _once(connection, who, idempotency_key, given.model_dump_json().encode() + incident.encode(), do)


@router.post("/decisions/undo", status_code=201)
def take_back(connection: Asked, who: Decider, given: Undone) -> Outcome:
    """Take decisions of your own back: alerts return to the states before, by further events. 409 where one has gone on since."""
    of = decisions.alerts_of_events(connection, given.events)
    for number in given.events:
        if number not in of:
            raise HTTPException(404, f"there is no event {number}")
    decided = {alert: number for number, alert in of.items()}
    if len(decided) < len(of):
        raise HTTPException(409, "two of the events are of one alert: take back the last one first")
    with access.deciding(connection):
        try:
            undo(connection, decided, who.name, datetime.now(UTC))
        except NoOpenAlert as error:
            raise HTTPException(409, str(error)) from error
        return _outcome(connection, list(decided))


# More than six: the fields of the form.
@router.post("/alerts/{alert}/answer", status_code=201)
def answer(
    request: Request,
    connection: Asked,
    who: Decider,
    alert: Key,
    note: Annotated[Note, Form(description="what it says")],
    photo: Annotated[UploadFile | None, File(description="JPEG or PNG")] = None,
    taken_at: Annotated[Moment | None, Form(description="when the photo was taken or the note written")] = None,
    longitude: Annotated[float | None, Form(ge=-180, le=180, description="where, in degrees")] = None,
    latitude: Annotated[float | None, Form(ge=-90, le=90)] = None,
    expected: Annotated[State | None, Form()] = None,
    idempotency_key: IdempotencyKey = None,
) -> Outcome:
    """Record the answer to a request, with a photo: the log names its SHA-256, time and position."""
    settings: WebSettings = request.app.state.settings
    require_alert(connection, alert)
    if (longitude is None) != (latitude is None):
        raise HTTPException(422, "a position has a longitude and a latitude")
    details: dict[str, Any] = {"answer": "photo" if photo else "note"}
    image, kind = b"", ""
    if photo is not None:
        image = photo.file.read(settings.photo_bytes + 1)
        if len(image) > settings.photo_bytes:
            raise HTTPException(413, f"a photo of more than {settings.photo_bytes} bytes is not taken")
        kind = next((its for begins, its in PHOTOS.items() if image.startswith(begins)), "")
        if not kind:
            raise HTTPException(415, "a photo is JPEG or PNG")
        details |= {"file": _name(photo.filename), "sha256": hashlib.sha256(image).hexdigest()}
    if taken_at is not None:
        details["taken_at"] = taken_at.isoformat()
    if longitude is not None:
        details["position"] = [longitude, latitude]
    given = Decision(decision="answer", reason=note, expected=expected)

    def do() -> Outcome:
        if image:
            with access.deciding(connection):
                digest = bytes.fromhex(details["sha256"])
                decisions.store_photo(connection, digest, kind, image, datetime.now(UTC))
        return _decide(connection, who, [alert], given, details)

    asked = json.dumps([alert, note, expected, details]).encode()
    return _once(connection, who, idempotency_key, asked, do)


@router.get(
    "/alerts/{alert}/photos/{sha256}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in PHOTOS.values()}, "description": "the photo"}},
)
def photo(connection: Asked, alert: Key, sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]) -> Response:
    """Return a photo that answered a request, by the SHA-256 that the alert's log names."""
    require_alert(connection, alert)
    with access.deciding(connection):
        found = decisions.photo(connection, alert, bytes.fromhex(sha256))
    if found is None:
        raise HTTPException(404, f"the log of alert {alert} names no such photo that is stored here")
    return Response(found[1], media_type=found[0], headers={"Cache-Control": "private, no-cache"})


def _decide(
    connection: Connection,
    who: Principal,
    alerts: Sequence[int],
    given: Decision,
    details: dict[str, Any] | None = None,
) -> Outcome:
    """Record a decision on alerts that were found to be seen. Raises 409."""
    with access.deciding(connection):
        try:
            decide_together(
                connection,
                alerts,
                EVENTS[given.decision],
                given.reason,
                who.name,
                datetime.now(UTC),
                expected=given.expected,
                details=given.details() if details is None else details,
            )
        except NoOpenAlert as error:
            raise HTTPException(409, str(error)) from error
        return _outcome(connection, alerts)


def _outcome(connection: Connection, alerts: Sequence[int]) -> Outcome:
    rows = decisions.decided(connection, alerts)
    return Outcome(decided=[Decided(alert=row.alert_key, event=row.event_nr, state=row.state) for row in rows])


def _once(connection: Connection, who: Principal, key: str | None, asked: bytes, do: Callable[[], Outcome]) -> Outcome:
    """Return what is done, or was done already of a request with the same key. Raises 409 where that was another request."""
    if key is None:
        return do()
    digest = hashlib.sha256(asked).digest()
    with access.deciding(connection):
        is_same, answer = decisions.answered(connection, who.name, key, digest, datetime.now(UTC))
    if not is_same:
        raise HTTPException(409, "this Idempotency-Key was another request's")
    if answer is not None:
        return Outcome(**answer)
    done = do()
    with access.deciding(connection):
        decisions.remember(connection, who.name, key, done.model_dump())
    return done


def _name(filename: str | None) -> str:
    """Return a file's name as it is kept: the last part, printable."""
    last = (filename or "photo").replace("\\", "/").rpartition("/")[2]
    return "".join(one for one in last if one.isprintable())[:200] or "photo"
