"""Bookmarks and failures of sources, kept in the database: each in a transaction of its own."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from db import scene_sources
from db.connect import Engine
from db.scene_sources import SceneSource
from ingest.scenes.polling import BACK_OFFS, Bookmark, Outcome


class DatabaseSources:
    """Sources of a database; every method may raise what the database raises when it is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def bookmark(self, source: str) -> Bookmark | None:
        """Return how far the source has been polled."""
        found = self.find(source)
        if found is None or found.since is None or found.polled_to is None:
            return None
        return Bookmark(found.since, found.polled_to)

    def find(self, source: str) -> SceneSource | None:
        """Return all that is known of a source."""
        with self._engine.begin() as connection:
            return scene_sources.source(connection, source)

    def all(self) -> Sequence[SceneSource]:
        """Return every source."""
        with self._engine.begin() as connection:
            return scene_sources.all_sources(connection)

    def forget(self, source: str) -> bool:
        """Forget a source with its bookmark; False where it is not known."""
        with self._engine.begin() as connection:
            return scene_sources.forget(connection, source)

    def succeeded(self, outcome: Outcome, now: datetime, next_at: datetime | None) -> None:
        """Move the bookmark and end a row of failures."""
        with self._engine.begin() as connection:
            scene_sources.record_poll(
                connection,
                outcome.source,
                since=outcome.since,
                polled_to=outcome.polled_to,
                new_scenes=outcome.new,
                rejected=outcome.rejected.count,
                last_rejection=outcome.rejected.first,
                now=now,
                next_at=next_at,
            )

    def failed(self, source: str, message: str, now: datetime, retry_after: timedelta | None) -> datetime:
        """Keep the failure; return when to poll again."""
        with self._engine.begin() as connection:
            kept = scene_sources.record_failure(connection, source, message, now, BACK_OFFS, retry_after)
        return kept.next_at or now
