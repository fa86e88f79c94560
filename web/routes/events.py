"""New events of alerts as they become known (server-sent events)."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from sse_starlette import EventSourceResponse

from web.events import Feed, stream
from web.principals import Who

router = APIRouter(prefix="/api", tags=["alerts"])
_STALLED_S = 30.0
"""A listener that takes nothing for so long is left."""


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "`alert` with the event as JSON; `gap`"}},
)
async def events(
    request: Request,
    who: Who,
    last_event_id: Annotated[str, Header(description="the number of the last event that you had")] = "",
) -> EventSourceResponse:
    """Send what happens to alerts that you may see, from now on, or since the event that `Last-Event-ID` names.

    Each message is an event `alert` whose `id` is the event's number; docs/asyncapi.yaml describes it. `gap` says that the event of
    `Last-Event-ID` is not known: some may be missing, so read the list again. The stream ends with the key or sign-in.
    """
    feed: Feed = request.app.state.feed
    feed.require_place(who)
    number = None
    if last_event_id:
        is_number = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
        number = int(last_event_id) if is_number else -1
    return EventSourceResponse(stream(feed, request, who, number), send_timeout=_STALLED_S, ping=3600)
