"""New events of alerts as they become known (server-sent events)."""

from fastapi import APIRouter, Request
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
async def events(request: Request, who: Who) -> EventSourceResponse:
    """Send what happens to alerts that you may see, from now on, or since the event that `Last-Event-ID` names.

    Each message is an event `alert` whose `id` is the event's number; docs/asyncapi.yaml describes it. `gap` says that the event of
    `Last-Event-ID` is not known: some may be missing, so read the list again. The stream ends with the key or sign-in.
    """
    feed: Feed = request.app.state.feed
    feed.require_place(who)
    last = request.headers.get("last-event-id", "")
    number = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else -1 if last else None
    return EventSourceResponse(stream(feed, request, who, number), send_timeout=_STALLED_S, ping=3600)
