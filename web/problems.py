"""Errors as problem details (RFC 9457): one form for all, without a word of how the server is made."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from db.errors import DATABASE_ERRORS, DatabaseUnavailable, is_away
from monitor.errors import NotFound
from terminal.errors import UserError

MEDIA_TYPE: Final = "application/problem+json"
log = logging.getLogger(__name__)


class Refused(HTTPException):
    """A refusal because of one place of the request, which the problem names."""

    def __init__(self, status: int, at: str, what: str) -> None:
        super().__init__(status, what)
        self.errors = [{"at": at, "what": what}]


class Problem(BaseModel):
    """What is wrong with a request, or why it cannot be answered now (RFC 9457)."""

    type: str = "about:blank"
    title: str
    """The meaning of the status."""
    status: int
    detail: str
    """What is wrong here, and what to do."""
    errors: list[dict[str, Any]] | None = None
    """Of a request that is not as described, or of which one place cannot be: each place and what is wrong there."""


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """Return a problem as an answer."""
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, **more).model_dump(
        exclude_none=True
    )
    return JSONResponse(content, status, dict(headers or {}), MEDIA_TYPE)


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "description": "what is wrong with the request",
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    },
    "5XX": {
        "description": "why there is no answer now",
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    },
}
"""For routes: how errors look."""


def add_handlers(app: FastAPI) -> None:
    """Let an app answer every error with a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NotFound, lambda _, error: problem(404, str(error)))
    app.add_exception_handler(UserError, _user)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _database)
    app.add_exception_handler(Exception, _defect)


def faults(error: RequestValidationError) -> list[dict[str, str]]:
    """Return each place of a request that is not as described, and what is wrong there."""
    return [
        {"at": ".".join(map(str, one["loc"])), "what": one["msg"].removeprefix("Value error, ")}
        for one in error.errors()
    ]


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers, errors=getattr(error, "errors", None))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = faults(error)
    return problem(422, "; ".join(f"{one['at']}: {one['what']}" for one in errors), errors=errors)


def _user(_: Request, error: Exception) -> JSONResponse:
    return _unavailable() if isinstance(error, DatabaseUnavailable) else problem(409, str(error))


def _database(request: Request, error: Exception) -> JSONResponse:
    if is_away(error):
        return _unavailable()
    state = getattr(getattr(error, "orig", error), "sqlstate", None) or ""
    if state == "57014":
        return problem(503, "this takes longer than a request may: ask for less", {"Retry-After": "60"})
    if state == "42501":
        return problem(403, "your role may not do this")
    if state.startswith("22"):  # values that the database cannot hold or compute with
        return problem(422, "a value is out of range")
    return _defect(request, error)


def _unavailable() -> JSONResponse:
    return problem(503, "the database cannot be reached now", {"Retry-After": "10"})


def _defect(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "a defect of the server; its log says more")
