"""Polling sources of scenes again and again: each when it is due, one's failure in nobody else's way."""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from db.errors import CONNECTION_ERRORS
from db.scene_sources import SceneSource
from ingest.scenes.http_retries import Stopped
from ingest.scenes.polling import BACK_OFFS, Failure, Sources, attempt

log: Final = logging.getLogger(__name__)
Poll = Callable[[datetime, datetime | None], Any]
"""Polls a source once, given the present and the time of the next poll; prints what it found."""


def poll_once(polls: Mapping[str, Poll], sources: Sources, now: Callable[[], datetime]) -> list[Failure]:
    """Poll each source once and return the failures. Raises Stopped, and DatabaseUnavailable or what SQLAlchemy raises."""
    given = []
    for source, poll in polls.items():
        at = now()
        result = attempt(source, lambda poll=poll, at=at: poll(at, None), sources, at)  # type: ignore[misc]
        if isinstance(result, Failure):
            log.error("%s: poll failed: %s", source, result.message)
            given.append(result)
    return given


def keep_polling(
    polls: Mapping[str, Poll],
    sources: Sources,
    every: timedelta,
    stop: threading.Event,
    now: Callable[[], datetime],
    find: Callable[[str], SceneSource | None],
) -> None:
    """Poll each source when it is due, until `stop`; a database that is away is waited for.

    A source that failed when last polled, by whatever process, is not asked before the time that it was given then.
    """
    due = {source: _first_due(find(source), now()) for source in polls}
    while not stop.is_set():
        for source, poll in polls.items():
            at = now()
            if due[source] > at or stop.is_set():
                continue
            following = at + every
            try:
                result = attempt(source, lambda poll=poll, at=at, following=following: poll(at, following), sources, at)  # type: ignore[misc]
                due[source] = following
                if isinstance(result, Failure):
                    due[source] = result.next_at
                    log.error(
                        "%s: poll failed: %s; next %s", source, result.message, f"{result.next_at:%Y-%m-%d %H:%M:%S}Z"
                    )
            except Stopped:
                return
            except CONNECTION_ERRORS as error:
                log.warning("%s: %s; nothing was moved", source, str(error).strip().splitlines()[0])
                due[source] = at + BACK_OFFS[0]
        stop.wait(max((min(due.values()) - now()).total_seconds(), 0.0))


def _first_due(kept: SceneSource | None, now: datetime) -> datetime:
    return kept.next_at if kept and kept.errors_in_row and kept.next_at else now
