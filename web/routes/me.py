"""Who one is: role and regions."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from db import contract
from db.access import Role
from web.principals import COOKIE, Asked, Gate, Who, csrf_token

router = APIRouter(prefix="/api", tags=["people"])


class Me(BaseModel):
    """Who asks, and which regions they see."""

    name: str
    role: Role
    regions: list[str]


@router.get("/me")
def me(who: Who, connection: Asked) -> Me:
    """Return who you are, and which regions you see."""
    return Me(name=who.name, role=who.role, regions=contract.regions(connection))


class Key(BaseModel):
    """A key to sign in with."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


class SignIn(BaseModel):
    """What a page needs beside the cookie."""

    csrf_token: str


@router.post("/session", status_code=201)
def sign_in(request: Request, response: Response, given: Key) -> SignIn:
    """Begin a sign-in with a key: sets a cookie, for browsers. Changes then need the token in the header X-CSRF-Token."""
    gate: Gate = request.app.state.gate
    gate.count(f"nobody at {request.client.host if request.client else ''}")
    found = gate.of_key(given.key.strip())
    if found is None:
        raise HTTPException(401, "this key is not valid, or not any more: ask who administers Parcelwatch for one")
    return SignIn(csrf_token=csrf_token(gate.sign_in(response, found)))


@router.delete("/session", status_code=204)
def sign_out(request: Request, response: Response, _: Who) -> None:
    """End the sign-in of the cookie."""
    request.app.state.gate.sign_out(response, request.cookies.get(COOKIE, ""))
