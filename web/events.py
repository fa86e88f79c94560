"""New events of alerts, to those who listen: one reader asks whether there are any, each listener reads those that they may see."""

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from anyio.to_thread import run_sync
from fastapi import HTTPException, Request
from sse_starlette import ServerSentEvent

from db import access, decisions
from db.access import Principal, asking
from db.connect import Engine
from db.decisions import NewEventRow
from db.errors import DATABASE_ERRORS, DatabaseUnavailable
from web.principals import who_is
from web.settings import WebSettings

Position = tuple[datetime, int]
"""When the last event that was sent became known, and its number."""
START: Final = datetime(1970, 1, 1, tzinfo=UTC)
MOST_AT_ONCE: Final = 200
"""Events of one read; chosen because a listener who comes back after a night reads them in a few steps."""
log = logging.getLogger(__name__)


class Feed:
    """Knows of the newest event, and who listens."""

    def __init__(self, engine: Engine, settings: WebSettings) -> None:
        self._engine, self._settings = engine, settings
        self._counting, self._listeners = threading.Lock(), Counter[str]()
        self._reading, self._read_at, self._newest = threading.Lock(), -float("inf"), START

    def newest(self) -> datetime:
        """Return when the newest event became known: asked of the database once in an interval, however many listen."""
        with self._reading:
            if time.monotonic() - self._read_at >= self._settings.events_interval_s:
                with asking(self._engine, Principal("", "reader")) as connection, access.deciding(connection):
                    self._newest = decisions.newest_event(connection) or START
                self._read_at = time.monotonic()
            return self._newest

    def after(self, who: Principal, position: Position, until: datetime) -> list[NewEventRow]:
        """Return events that somebody may see after a position."""
        with asking(self._engine, who) as connection:
            return decisions.new_events(connection, position, until, MOST_AT_ONCE)

    def position(self, who: Principal, last_event_nr: int | None) -> Position | None:
        """Return the position of an event; None where it is none that somebody may see."""
        if last_event_nr is None:
            return None
        with asking(self._engine, who) as connection:
            return decisions.position_of(connection, last_event_nr)

    def require_place(self, who: Principal) -> None:
        """Raise 429 or 503 where too many listen."""
        if not self._has_place(who):
            raise HTTPException(429, f"{who.name} listens {self._settings.streams_per_person} times already: close one")
        if self._listeners.total() >= self._settings.streams:
            raise HTTPException(503, "too many listen now", {"Retry-After": "60"})

    @contextmanager
    def listening(self, who: Principal) -> Iterator[bool]:
        """Count a listener, and yield whether there is a place for them: two may have asked at once."""
        with self._counting:
            has_place = self._has_place(who) and self._listeners.total() < self._settings.streams
            self._listeners[who.name] += has_place
        try:
            yield has_place
        finally:
            with self._counting:
                self._listeners[who.name] -= has_place
                self._listeners += Counter()  # drops those who do not listen any more

    def _has_place(self, who: Principal) -> bool:
        return self._listeners[who.name] < self._settings.streams_per_person


async def stream(
    feed: Feed, request: Request, who: Principal, last_event_nr: int | None
) -> AsyncIterator[ServerSentEvent]:
    """Yield events that somebody may see, from the one after the last that they had, until their key or sign-in ends.

    Where that one is not known, it begins with now and says by an event `gap` that some may be missing.
    """
    settings: WebSettings = request.app.state.settings
    with feed.listening(who) as has_place:
        position = await run_sync(feed.position, who, last_event_nr)
        read_until = START
        if position is None:
            read_until = await run_sync(feed.newest)
            position = read_until, decisions.LAST_NUMBER
            if last_event_nr is not None:
                yield ServerSentEvent("{}", event="gap")
        alive_at = time.monotonic()
        while has_place:
            if time.monotonic() - alive_at >= settings.heartbeat_s:
                if await run_sync(who_is, request) != who:
                    return
                yield ServerSentEvent(comment="still here")
                alive_at = time.monotonic()
            rows: list[NewEventRow] = []
            try:
                if (until := await run_sync(feed.newest)) > read_until:
                    rows = await run_sync(feed.after, who, position, until)
                    read_until = until if len(rows) < MOST_AT_ONCE else read_until
            except (*DATABASE_ERRORS, DatabaseUnavailable) as error:  # the next try may find it again
                log.warning("events: %s", " ".join(str(error).split())[:200])
            for row in rows:
                position = row.recorded_at, row.event_nr
                yield ServerSentEvent(json.dumps(asdict(row), default=str), event="alert", id=str(row.event_nr))
            if len(rows) < MOST_AT_ONCE:
                await asyncio.sleep(settings.events_interval_s)
