"""Polling a catalogue: what was published since the bookmark is published to our topic; then the bookmark moves.

    asked for = [bookmark - overlap, ...)        scenes are published late and out of order
    bookmark  = the moment this poll began       stored only after everything found was published

A poll that fails leaves the bookmark where it was, so the next one finds the same again; what was published before the
failure is known to the ledger by then. An item that is no scene is counted and reported, and found again by the overlap.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from db.sensors import Sensor
from ingest.errors import IngestError
from ingest.scenes.catalogue import Box, search
from ingest.scenes.http_retries import Http, SourceUnavailable, Stopped
from ingest.scenes.items import NotAScene, scene_of_item
from ingest.scenes.profiles import CatalogueProfile
from ingest.scenes.publish import Published
from ingest.scenes.record import FoundScene

T = TypeVar("T")
FIRST_SINCE: Final = timedelta(days=10)
"""How far back a first poll goes by default (two passes of Sentinel-2 over any place)."""
BACK_OFFS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 16, 32, 60))
"""From a failed poll to the next, by failures in a row; with an overlap of hours nothing is missed by waiting."""


Publish = Callable[[Iterable[FoundScene]], Published]


@dataclass(frozen=True, slots=True)
class Rejections:
    """Things found that cannot become records: how many, and the first sentence about one."""

    count: int = 0
    first: str | None = None

    def also(self, message: str) -> "Rejections":
        """Return the rejections with one more."""
        return Rejections(self.count + 1, self.first or message)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A poll that succeeded."""

    source: str
    new: int
    known: int
    rejected: Rejections
    since: datetime | None = None
    polled_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """How far a source has been polled: everything acquired since `since` and published before `polled_to`."""

    since: datetime
    polled_to: datetime


class Sources(Protocol):
    """Where bookmarks and failures are kept."""

    def bookmark(self, source: str) -> Bookmark | None:
        """Return the source's bookmark, None before its first poll."""

    def succeeded(self, outcome: Outcome, now: datetime, next_at: datetime | None) -> None:
        """Move the bookmark and forget failures."""

    def failed(self, source: str, message: str, now: datetime, retry_after: timedelta | None) -> datetime:
        """Keep the failure, and return when to poll again; the bookmark stays."""


def source_name(profile: CatalogueProfile, sensor: Sensor, box: Box) -> str:
    """Return the name under which a poll is bookmarked: another area is another source."""
    return f"stac:{profile.name} {sensor} {','.join(f'{side:g}' for side in box)}"


def rounded(box: Box) -> Box:
    """Return the box grown to tenths of a degree: parcels that come later seldom make it another source (a tile is a degree)."""
    west, south, east, north = box
    return (
        math.floor(west * 10) / 10,
        math.floor(south * 10) / 10,
        math.ceil(east * 10) / 10,
        math.ceil(north * 10) / 10,
    )


def poll(  # what to ask, for which box and time, and by which three ports: request, publish, keep
    profile: CatalogueProfile,
    sensor: Sensor,
    box: Box,
    since: datetime | None,
    now: datetime,
    *,
    http: Http,
    publish: Publish,
    sources: Sources,
    next_at: datetime | None = None,
) -> Outcome:
    """Poll once for a sensor's scenes over a box, and move the bookmark when all of them are published.

    Args:
        since: earliest acquisition; None: as the last time, or ten days before the first.
        now: the moment of this poll.
        next_at: the moment of the next, to be shown.

    Raises IngestError; the bookmark then stays.
    """
    reading, source = profile.reading(sensor), source_name(profile, sensor, box)
    mark = sources.bookmark(source)
    since = since or (mark.since if mark else now - FIRST_SINCE)
    published_since = None
    acquired_since = since
    if mark and mark.since <= since:  # else this poll goes further back than any before
        published_since = mark.polled_to - profile.overlap
        if not profile.published:
            acquired_since = max(since, published_since)
    new, known, rejected = 0, 0, Rejections()
    for page in search(http, profile, sensor, box, acquired_since, published_since):
        found: list[FoundScene] = []
        for item in page:
            try:
                found.append(
                    scene_of_item(
                        item,
                        sensor,
                        reading,
                        source=f"stac:{profile.name}",
                        profile=profile.name,
                        place=profile.api,
                        found_at=now,
                    )
                )
            except NotAScene as error:
                rejected = rejected.also(str(error))
        if found:
            counted = publish(found)
            new, known = new + counted.new, known + counted.known
    outcome = Outcome(source, new, known, rejected, since, now)
    sources.succeeded(outcome, now, next_at)
    return outcome


@dataclass(frozen=True, slots=True)
class Failure:
    """A poll that failed; it is kept with the source."""

    source: str
    message: str
    next_at: datetime


def attempt(source: str, poll_source: Callable[[], T], sources: Sources, now: datetime) -> T | Failure:
    """Poll a source; a failure is kept and returned, so that others go on. Raises Stopped."""
    try:
        return poll_source()
    except Stopped:
        raise
    except IngestError as error:
        wait_s = error.retry_after_s if isinstance(error, SourceUnavailable) else None
        next_at = sources.failed(source, str(error), now, timedelta(seconds=wait_s) if wait_s else None)
        return Failure(source, str(error), next_at)
