"""Sign-in and sign-out: ordinary forms and links, which need no script."""

import hmac
import logging
import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from db.access import Principal
from db.identities import ByGroups, Identity
from web.console.frame import SIGN_IN, PageRoute, page
from web.oidc import Issuer, NotSignedIn, state_of
from web.parameters import address
from web.principals import COOKIE, PENDING_COOKIE, PENDING_PATH, Gate, csrf_token, is_own_origin, who_asks
from web.settings import is_protected

log = logging.getLogger(__name__)

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
        return _form(request, 200, back)
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
        return _form(request, 401, back, problem)
    response = RedirectResponse(_own(back), 303)
    gate.sign_in(response, found)
    return response


@router.get(f"{SIGN_IN}/oidc")
def begin(request: Request, back: Annotated[str, Query(alias="next", max_length=2000)] = HOME) -> Response:
    """Lead to the issuer: a link, since a form may lead to our own pages alone."""
    issuer, token = _issuer(request), secrets.token_urlsafe(32)
    try:
        response = RedirectResponse(issuer.way_there(token, _callback(request)), 303)
    except NotSignedIn as error:
        return _form(request, error.status, back, refused=str(error))
    gate: Gate = request.app.state.gate
    gate.begin_elsewhere(response, token, _own(back))
    return response


@router.get(f"{SIGN_IN}/callback")
def come_back(request: Request, state: str = "", code: str = "", error: str = "", iss: str | None = None) -> Response:
    """Begin the sign-in of who comes back from the issuer."""
    issuer = _issuer(request)
    gate: Gate = request.app.state.gate
    token = request.cookies.get(PENDING_COOKIE, "")
    is_ours = hmac.compare_digest(state.encode(), state_of(token).encode())
    back = gate.come_back(token) if is_ours else None
    try:
        if back is None:
            raise NotSignedIn(
                400, "This sign-in did not begin in this browser, took too long or was used before. Begin again."
            )
        if error or not code or iss not in (None, issuer.url):
            raise NotSignedIn(
                401, f"{issuer.url} signed nobody in ({error[:100] or 'its answer is not for us'}). Begin again."
            )
        person = _known(gate, issuer, *issuer.who_came_back(token, _callback(request), code))
    except NotSignedIn as refused:
        return _form(request, refused.status, back or HOME, refused=str(refused))
    # A page that goes on by itself: browsers send the cookie of a sign-in with what our own pages ask for alone, and this was the issuer's.
    response = page(request, "signed_in.html", back=_own(back), name=person.name)
    gate.sign_in(response, person)
    response.delete_cookie(PENDING_COOKIE, PENDING_PATH)
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


def _form(request: Request, status: int, back: str, problem: str = "", refused: str = "") -> Response:
    """Return the sign-in page: what is wrong with the key, or why an issuer's word was not taken."""
    issuer: Issuer | None = request.app.state.issuer
    elsewhere = issuer.settings.name if issuer else ""
    return page(request, "sign_in.html", status, back=back, problem=problem, refused=refused, elsewhere=elsewhere)


def _issuer(request: Request) -> Issuer:
    """Return the issuer that people may sign in with, and count the request."""
    request.app.state.gate.count(f"nobody at {request.client.host if request.client else ''}")
    issuer: Issuer | None = request.app.state.issuer
    if issuer is None:
        raise HTTPException(404, "there is no sign-in of this kind here: use a key")
    if not is_protected(_callback(request)):
        raise HTTPException(503, "this sign-in needs https: set PARCELWATCH_WEB_IS_HTTPS behind a proxy that encrypts")
    return issuer


def _callback(request: Request) -> str:
    """Return where the issuer leads back to."""
    return address(request, f"{SIGN_IN}/callback")


def _known(gate: Gate, issuer: Issuer, identity: Identity, by_groups: ByGroups | None) -> Principal:
    """Return who an identity is here. Raises NotSignedIn."""
    found = gate.of_identity(identity, by_groups)
    if isinstance(found, Principal):
        return found
    who = f"{identity.email or 'a person without a verified e-mail'} (subject {identity.subject})"
    log.warning("sign-in by %s refused: %s is %s", issuer.url, who, found)
    said = {
        "unknown": "has no access here",
        "removed": "has no access here any more",
        "taken": "has a name that is somebody else's here",
    }
    raise NotSignedIn(403, f"{who} {said[found]}: ask who administers Parcelwatch.")


def _own(back: str) -> str:
    """Return an address if it is a page of the console, else its first one: nobody is led elsewhere."""
    return back if back.startswith("/console/") and "\\" not in back and back.isprintable() else HOME
