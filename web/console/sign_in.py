"""Sign-in and sign-out: ordinary forms, which need no script."""

import hmac
from typing import Annotated, Final

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from web.console.frame import SIGN_IN, PageRoute, page
from web.principals import COOKIE, Gate, csrf_token, is_own_origin, who_asks

router = APIRouter(route_class=PageRoute, include_in_schema=False)
HOME: Final = "/console/inbox"


@router.get("/")
@router.get("/console")
@router.get("/console/")
def home() -> Response:
    """Lead to the page that work begins on."""
    return RedirectResponse(HOME, 303)


@router.get(SIGN_IN)
def form(request: Request, back: Annotated[str, Query(alias="next")] = HOME) -> Response:
    """Show the form; who is signed in already goes on."""
    try:
        who_asks(request)
    except HTTPException as error:
        if error.status_code != 401:
            raise
        return page(request, "sign_in.html", back=back, problem="")
    return RedirectResponse(_own(back), 303)


@router.post(SIGN_IN)
def sign_in(
    request: Request, key: Annotated[str, Form(max_length=200)], back: Annotated[str, Form()] = HOME
) -> Response:
    """Begin a sign-in with a key, and go on to where one came from."""
    gate: Gate = request.app.state.gate
    gate.count(f"nobody at {request.client.host if request.client else ''}")
    if not is_own_origin(request):
        raise HTTPException(403, "sign in on our own page")
    found = gate.of_key(key.strip())
    if found is None:
        problem = "This key is not valid, or not any more. Ask who administers Parcelwatch for one."
        return page(request, "sign_in.html", 401, back=back, problem=problem)
    response = RedirectResponse(_own(back), 303)
    gate.sign_in(response, found)
    return response


@router.post("/console/sign-out")
def sign_out(request: Request, csrf: Annotated[str, Form()]) -> Response:
    """End the sign-in of the cookie."""
    token = request.cookies.get(COOKIE, "")
    if not is_own_origin(request) or not hmac.compare_digest(csrf.encode(), csrf_token(token).encode()):
        raise HTTPException(403, "sign out on our own page")
    response = RedirectResponse(SIGN_IN, 303)
    request.app.state.gate.sign_out(response, token)
    return response


def _own(address: str) -> str:
    """Return an address if it is a page of the console, else its first one: nobody is led elsewhere."""
    return address if address.startswith("/console/") and "\\" not in address and address.isprintable() else HOME
