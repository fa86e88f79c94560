"""What every page of the console has: its frame, who is signed in, and errors that are pages too."""

import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from db import access
from db.access import Principal, Role
from db.connect import Connection
from web.console import assets
from web.principals import COOKIE, csrf_token, who_asks

SIGN_IN: Final = "/console/sign-in"
NAVIGATION: Final = (
    ("/console/inbox", "Inbox"),
    ("/console/map", "Map"),
    ("/console/parcels", "Parcels"),
    ("/console/season", "Season"),
    ("/console/rounds", "Rounds"),
    ("/console/quality", "Quality"),
    ("/console/subscriptions", "Subscriptions"),
)
"""Addresses of the pages that the frame leads to, with their names."""
OPERATORS: Final[tuple[Role, ...]] = ("operator", "admin")
"""Roles that see how the chain does."""
HEALTH: Final = ("/console/health", "Health")

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


_TEMPLATES.globals |= {"asset": assets.url}
_TEMPLATES.filters |= {"minute": _minute}


def page(request: Request, template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """Return a page in its frame.

    Args:
        request: the one that is answered; who is signed in is known from it.
        template: a file of the folder `templates`.
        status: of the answer.
        shown: what the template shows, escaped.
    """
    who: Principal | None = getattr(request.state, "who", None)
    token = request.cookies.get(COOKIE)
    frame = {
        "who": who,
        "csrf": csrf_token(token) if who and token else "",
        "path": request.url.path,
        "navigation": (*NAVIGATION, HEALTH) if who and who.role in OPERATORS else NAVIGATION,
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(**frame, **shown), status)


def signed_in(request: Request) -> Principal:
    """Return who is signed in; others are sent to the sign-in, and from there back."""
    try:
        request.state.who = who_asks(request)
    except HTTPException as error:
        if error.status_code != 401:
            raise
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise HTTPException(303, "sign in first", {"Location": f"{SIGN_IN}?next={quote(back, safe='')}"}) from error
    return request.state.who  # type: ignore[no-any-return]


SignedIn = Annotated[Principal, Depends(signed_in)]


def _seen(request: Request, who: SignedIn) -> Iterator[Connection]:
    with access.asking(request.app.state.gate.engine, who) as connection:
        yield connection


Seen = Annotated[Connection, Depends(_seen, scope="function")]
"""A transaction that sees what the one who is signed in may see (as `web.principals.Asked`)."""


class PageRoute(APIRoute):
    """A route whose errors are pages: as the API words them, in the frame."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except Exception as error:  # noqa: BLE001, those without a handler go on
                return await _error_page(request, error)

        return handle


async def _error_page(request: Request, error: Exception) -> Response:
    """Return what the API would answer to an error, as a page."""
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    said = handler(request, error)
    response: Response = await said if isinstance(said, Awaitable) else said
    if response.status_code == 303:
        return RedirectResponse(response.headers["location"], 303)
    problem = json.loads(bytes(response.body))
    shown = page(request, "error.html", response.status_code, title=problem["title"], detail=problem["detail"])
    if wait := response.headers.get("retry-after"):
        shown.headers["retry-after"] = wait
    return shown
