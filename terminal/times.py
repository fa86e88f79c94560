"""Times that people give and are shown."""

from datetime import UTC, datetime

import typer


def moment(text: str) -> datetime:
    """Return the time that an ISO 8601 text names; without an offset it is in UTC, and a day begins at midnight.

    Raises:
        BadParameter: no such form, or no such time.
    """
    plain = text.strip()
    try:
        found = datetime.fromisoformat(plain.removesuffix(" UTC").strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{plain!r} is no time: write 2025-06-01, 2025-06-01T09:30, '2025-06-01 09:30:00' (all UTC) or 2025-06-01T11:30+02:00"
        ) from None


def shown(time: datetime) -> str:
    """Return a time in UTC to the minute, and in this machine's zone where that is another."""
    local = time.astimezone()
    here = f" ({local:%Y-%m-%d %H:%M %Z} here)" if local.utcoffset() else ""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC{here}"
