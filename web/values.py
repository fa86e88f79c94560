"""Values that requests give: text that can be stored and shown, times with a zone, keys of the database."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import AfterValidator, StringConstraints

from monitor.inspection.arguments import LONGEST_NOTE
from web.parameters import BIGINT, storable

MOST_LINES: Final = 500
"""Lines of one page of a list."""


def _utc(at: datetime) -> datetime:
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is out of range") from None


Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(storable)]
"""A name or word."""
Note = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_NOTE), AfterValidator(storable)
]
"""What a person writes: why, or what is done."""
Time = Annotated[datetime, AfterValidator(_utc)]
"""ISO 8601; UTC where it names no zone."""
Key = Annotated[int, Path(ge=1, le=BIGINT)]
AsKnownAt = Annotated[Time | None, Query(description="as it was recorded by then; left out: now")]
Limit = Annotated[int, Query(ge=1, le=MOST_LINES, description="at most so many")]
Page = Annotated[int, Query(ge=1, le=1_000_000, description="which page of so many")]
