"""Parameters of requests, checked: times, text that can be stored, how much is asked for; and addresses of other pages."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

import typer
from fastapi import HTTPException, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from monitor.inspection.arguments import LONGEST_NOTE
from terminal.times import moment

BIGINT: Final = 2**63 - 1
MOST_ROWS: Final = 10_000
"""Rows of an answer at most: a season of one parcel has about a thousand."""
MOST_LINES: Final = 500
"""Lines of a page of a list."""
Row = TypeVar("Row")


def as_moment(text: str) -> datetime:
    """Return the time that a text names; raises ValueError for none, or one that no season of ours is near."""
    try:
        found = moment(text)
    except typer.BadParameter as error:
        raise ValueError(error.message) from None
    if not 1900 <= found.year < 2200:
        raise ValueError(f"{text!r} is before 1900 or after 2199")
    return found


def _moment(given: object) -> object:
    if isinstance(given, str):
        return as_moment(given)
    if isinstance(given, datetime):
        return given
    raise ValueError("a time is written as text: 2025-06-01T09:30Z")


def _past(value: datetime) -> datetime:
    if value > datetime.now(UTC):
        raise ValueError("this time is yet to come, and what will be known then is not: leave it out for now")
    return value


def storable(value: str) -> str:
    """Return a text that the database can hold; raises ValueError for others."""
    if "\0" in value or any("\ud800" <= one <= "\udfff" for one in value):
        raise ValueError("this text has characters that cannot be stored")
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""ISO 8601; UTC where it has no offset."""
Past = Annotated[Moment, AfterValidator(_past)]
AsKnownAt = Annotated[Past | None, Query(description="as it was recorded by then; left out: now")]
Chosen = Annotated[str, Field(max_length=200), AfterValidator(storable)]
"""What a form of the console chooses; empty: anything."""
Text = Annotated[Chosen, Field(min_length=1)]
"""A name or word."""
Note = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_NOTE), AfterValidator(storable)
]
"""What a person writes: why, or what is done."""
Key = Annotated[int, Field(ge=1, le=BIGINT)]
Limit = Annotated[int, Query(ge=1, le=MOST_LINES, description="at most so many")]
Page = Annotated[int, Query(ge=1, le=1_000_000, description="which page of so many")]


class Parameters(BaseModel):
    """Parameters after the question mark; one that is misspelt is an error, not everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Link(BaseModel):
    """An address that goes with an answer."""

    href: str
    rel: str
    type: str
    title: str


def address(request: Request, path: str, **parameters: Any) -> str:
    """Return the address of a path of this server, as the one who asks reaches it."""
    settings = request.app.state.settings
    scheme = "https" if settings.is_https else request.scope["scheme"]
    given = {name: value for name, value in parameters.items() if value is not None}
    query = f"?{urlencode(given)}" if given else ""
    return f"{scheme}://{request.headers.get('host', '')}{path}{query}"


def following(request: Request, **changes: object) -> str:
    """Return the address of this request with other values of some parameters."""
    given = dict(request.query_params) | {name: str(value) for name, value in changes.items()}
    return address(request, request.url.path, **given)


def page(rows: Sequence[Row], limit: int, place: Callable[[Row], Any]) -> tuple[list[Row], Any]:
    """Return the rows of a page, and the place where the next begins; None where there is none.

    Args:
        rows: in the order of their places, one more than the limit where there are more.
        limit: rows of a page at most.
        place: of a row; rows of one place stay together. Raises 422 where a place has more rows than the limit.
    """
    if len(rows) <= limit:
        return list(rows), None
    begins = place(rows[limit])
    kept = [row for row in rows[:limit] if place(row) != begins]
    if not kept:
        raise HTTPException(422, f"more than {limit} rows belong together here: ask with a greater limit")
    return kept, begins
