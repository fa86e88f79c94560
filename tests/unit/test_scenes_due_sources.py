"""Looking again and again: each source when it is due, failures in nobody else's way, an end that comes at once."""

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from db.errors import DatabaseUnavailable
from db.scene_sources import SceneSource
from ingest.scenes.due_sources import keep_polling, poll_once
from ingest.scenes.http_retries import SourceUnavailable, Stopped
from ingest.scenes.polling import BACK_OFFS, Bookmark, Outcome

NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class World:
    """A clock that waiting moves, sources in memory, and what looks do: their next failures."""

    now: datetime = NOW
    ends_at: datetime = NOW + 5 * HOUR
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    looked: list[tuple[str, float]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    in_row: int = 0

    def poll(self, name: str, at: datetime, next_at: datetime | None) -> None:
        self.looked.append((name, (at - NOW) / HOUR))
        assert next_at in (None, at + HOUR)
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def polls(self, *names: str) -> dict[str, object]:
        return {name: lambda at, next_at, name=name: self.poll(name, at, next_at) for name in names}

    def bookmark(self, source: str) -> Bookmark | None:
        raise AssertionError(source)

    def succeeded(self, outcome: Outcome, now: datetime, next_at: datetime | None) -> None:
        raise AssertionError(outcome, now, next_at)

    def failed(self, source: str, message: str, now: datetime, retry_after: timedelta | None) -> datetime:
        self.kept.append((source, message))
        self.in_row += 1
        return now + max(BACK_OFFS[self.in_row - 1], retry_after or timedelta())

    def run(self, *names: str, found: SceneSource | None = None) -> None:
        world, stop = self, threading.Event()

        class Stop(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                world.now += timedelta(seconds=timeout)
                if world.now > world.ends_at:
                    stop.set()
                    self.set()
                return self.is_set()

        keep_polling(self.polls(*names), self, HOUR, Stop(), lambda: self.now, lambda _: found)  # type: ignore[arg-type]


def test_each_when_it_is_due() -> None:
    world = World()
    world.run("a", "b")
    assert world.looked == [(name, hour) for hour in (0, 1, 2, 3, 4, 5) for name in ("a", "b")]


def test_one_that_fails_is_asked_sooner_then_later_and_others_go_on() -> None:
    world = World(ends_at=NOW + 1.5 * HOUR, failures={"a": [SourceUnavailable("away")] * 3})
    world.run("a", "b")
    minutes = {name: [round(60 * hour) for one, hour in world.looked if one == name] for name in "ab"}
    assert minutes == {"a": [0, 1, 3, 7, 67], "b": [0, 60]}
    assert world.kept == [("a", "away")] * 3


def test_what_the_source_asks_for_is_heeded() -> None:
    world = World(ends_at=NOW + 3 * HOUR, failures={"a": [SourceUnavailable("limit", 7200.0)]})
    world.run("a")
    assert [hour for _, hour in world.looked] == [0, 2, 3]


def test_wait_outlives_the_process() -> None:
    kept = SceneSource("a", None, None, None, 0, 0, None, 2, "limit", NOW, NOW + 2 * HOUR)
    world = World(ends_at=NOW + 3 * HOUR)
    world.run("a", found=kept)
    assert [hour for _, hour in world.looked] == [2, 3]


def test_database_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World(ends_at=NOW + 0.5 * HOUR, failures={"a": [DatabaseUnavailable("database: away")]})
    world.run("a", "b")
    assert [(name, round(60 * hour)) for name, hour in world.looked] == [("a", 0), ("b", 0), ("a", 1)]
    assert "a: database: away; nothing was moved" in caplog.text


def test_asked_to_end_within_a_look() -> None:
    world = World(failures={"a": [Stopped("asked to end")]})
    world.run("a", "b")
    assert world.looked == [("a", 0)]
    assert world.kept == []


def test_once_gives_the_failures() -> None:
    world = World(failures={"a": [SourceUnavailable("away")]})
    given = poll_once(world.polls("a", "b"), world, lambda: NOW)  # type: ignore[arg-type]
    assert [(failure.source, failure.message) for failure in given] == [("a", "away")]
    assert [name for name, _ in world.looked] == ["a", "b"]
