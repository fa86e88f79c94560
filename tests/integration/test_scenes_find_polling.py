"""Polling against a local STAC API: pages, conditions, and everything that servers do wrong; nothing is lost."""

import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import BrokerUnavailable, IngestError
from ingest.scenes.http_retries import Clock, Http, Patience, SourceRefused, SourceUnavailable, Stopped
from ingest.scenes.polling import BACK_OFFS, Bookmark, Failure, Outcome, attempt, poll, rounded, source_name
from ingest.scenes.profiles import CatalogueProfile, load_profile
from ingest.scenes.publish import Published
from ingest.scenes.record import FoundScene
from tests.stac_server import Answer, Asked, Fault, StacServer

BOX = (4.0, 50.0, 4.2, 50.2)
NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class Ledger:
    """A publisher that knows what it has."""

    scenes: list[FoundScene] = field(default_factory=list)
    calls: int = 0
    fails: int = 0

    def publish(self, found: Iterable[FoundScene]) -> Published:
        self.calls += 1
        if self.fails:
            self.fails -= 1
            raise BrokerUnavailable("broker: no answer at x; is it up? (parcelwatch stack status)")
        given = list(found)
        new = {scene.scene_id: scene for scene in given if scene.scene_id not in self.names()}
        self.scenes += new.values()
        return Published(len(new), len(given) - len(new))

    def names(self) -> set[str]:
        return {scene.scene_id for scene in self.scenes}


@dataclass
class Kept:
    """Sources in memory."""

    marks: dict[str, Bookmark] = field(default_factory=dict)
    errors: list[tuple[str, timedelta | None]] = field(default_factory=list)

    def bookmark(self, source: str) -> Bookmark | None:
        return self.marks.get(source)

    def succeeded(self, outcome: Outcome, now: datetime, next_at: datetime | None) -> None:  # noqa: ARG002
        assert outcome.since is not None
        assert outcome.polled_to is not None
        self.marks[outcome.source] = Bookmark(outcome.since, outcome.polled_to)

    def failed(self, source: str, message: str, now: datetime, retry_after: timedelta | None) -> datetime:  # noqa: ARG002
        self.errors.append((message, retry_after))
        return now + (retry_after or BACK_OFFS[0])


@dataclass
class Desk:
    """Everything a poll needs, with a clock that only counts."""

    profile: CatalogueProfile
    ledger: Ledger = field(default_factory=Ledger)
    kept: Kept = field(default_factory=Kept)
    waits: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    read_s: float = 5.0
    tries: int = 4
    stop: bool = False

    def http(self) -> Http:
        def wait(seconds: float) -> bool:
            self.waits.append(seconds)
            return self.stop

        clock = Clock(lambda: NOW, wait, lambda low, high: (low + high) / 2)
        return Http("here", Patience(tries=self.tries, connect_s=2.0, read_s=self.read_s), clock, self.lines.append)

    def poll(self, now: datetime = NOW, since: datetime | None = None) -> Outcome:
        return poll(
            self.profile, "S2", BOX, since, now, http=self.http(), publish=self.ledger.publish, sources=self.kept
        )

    @property
    def mark(self) -> Bookmark | None:
        return self.kept.marks.get(source_name(self.profile, "S2", BOX))


def item(number: int, at: datetime, published: datetime | None = None, **change: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": f"S2A_MSIL2A_{at:%Y%m%dT%H%M%S}_N0510_R094_T31UFU_{number:06d}",
        "collection": "s2",
        "bbox": [4.1, 50.1, 4.3, 50.3],
        "properties": {
            "datetime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "published": (published or at).strftime("%Y-%m-%dT%H:%M:%S.123Z"),
        },
        "assets": {"B02": {"href": "B02.tif"}},
        **change,
    }


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


@pytest.fixture
def desk(server: StacServer, tmp_path: Path) -> Desk:
    return desk_at(server, tmp_path, 'published = "published"\noverlap_hours = 6')


def desk_at(server: StacServer, folder: Path, more: str = "") -> Desk:
    file = folder / "here.toml"
    file.write_text(f'title = "t"\napi = "{server.api}"\npage_size = 10\n{more}\n[sensors.S2]\ncollections = ["s2"]\n')
    return Desk(load_profile(str(file)))


def test_every_page_is_published_and_then_the_bookmark_moves(server: StacServer, desk: Desk) -> None:
    server.add(*(item(number, NOW - number * DAY / 10) for number in range(35)))
    server.add(item(90, NOW - DAY, bbox=[9, 50, 10, 51]), item(91, NOW - DAY, collection="s1"))
    outcome = desk.poll()
    assert (outcome.new, outcome.known, outcome.rejected.count, desk.ledger.calls) == (35, 0, 0, 4)
    assert desk.mark == Bookmark(NOW - 10 * DAY, NOW)
    first = desk.ledger.scenes[0]
    assert (first.source, first.profile, first.kind) == (f"stac:{desk.profile.name}", desk.profile.name, "item")
    assert desk.waits == [desk.profile.pause_s] * 3


def test_late_and_out_of_order_scenes_are_found_by_publication(server: StacServer, desk: Desk) -> None:
    server.add(item(1, NOW - DAY))
    desk.poll()
    old, just_before = item(2, NOW - 8 * DAY, NOW + DAY), item(3, NOW - 2 * DAY, NOW - timedelta(hours=5))
    server.add(old, just_before)
    outcome = desk.poll(NOW + 2 * DAY)
    assert (outcome.new, outcome.known) == (2, 0)
    asked = server.searches()[-1].body
    assert asked["filter"] == {"op": ">=", "args": [{"property": "published"}, "2024-05-20T06:00:00Z"]}
    assert asked["datetime"] == "2024-05-10T12:00:00Z/.."
    assert desk.mark == Bookmark(NOW - 10 * DAY, NOW + 2 * DAY)


def test_query_extension(server: StacServer, tmp_path: Path) -> None:
    desk = desk_at(server, tmp_path, 'published = "updated"\npublished_by = "query"')
    server.add(item(1, NOW - DAY))
    assert desk.poll().new == 1
    changed = item(2, NOW - 2 * DAY)
    changed["properties"]["updated"] = "2024-05-21T00:00:00.5Z"
    server.add(changed)
    assert desk.poll(NOW + 2 * DAY).new == 1
    assert server.searches()[-1].body["query"] == {"updated": {"gte": "2024-05-20T06:00:00Z"}}


def test_where_only_acquisition_can_be_asked_the_overlap_is_days(server: StacServer, tmp_path: Path) -> None:
    desk = desk_at(server, tmp_path, "overlap_days = 4")
    server.add(item(1, NOW - DAY))
    desk.poll(since=NOW - 30 * DAY)
    server.add(item(2, NOW - 3 * DAY))
    outcome = desk.poll(NOW + timedelta(hours=1))
    assert (outcome.new, outcome.known) == (1, 1)
    assert server.searches()[-1].body["datetime"] == "2024-05-16T12:00:00Z/.."
    assert "filter" not in server.searches()[-1].body


def test_looking_further_back_than_before_looks_at_everything(server: StacServer, desk: Desk) -> None:
    server.add(item(1, NOW - DAY), item(2, NOW - 40 * DAY))
    desk.poll()
    assert desk.poll(NOW + DAY, since=NOW - 60 * DAY).new == 1
    assert "filter" not in server.searches()[-1].body
    desk.poll(NOW + 2 * DAY)
    assert server.searches()[-1].body["datetime"].startswith("2024-03-21")
    assert "filter" in server.searches()[-1].body


def test_retry_after_is_heeded_told_and_logged(
    server: StacServer, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    server.add(item(1, NOW - DAY))
    server.faults = [
        Fault("/v1/search", status=429, headers={"Retry-After": "3"}),
        Fault("/v1/search", status=503, headers={"Retry-After": "Mon, 20 May 2024 12:00:40 GMT"}),
    ]
    with caplog.at_level(logging.WARNING):
        assert desk.poll().new == 1
    assert desk.waits == [3.0 + 1.0, 40.0 + 1.0]
    assert "429 Too Many Requests; try 2 of 4 in 4.0 s" in desk.lines[0]
    assert [record.message for record in caplog.records] == desk.lines


def test_errors_of_the_server_pass_with_growing_waits(server: StacServer, desk: Desk) -> None:
    server.add(*(item(number, NOW - DAY) for number in range(25)))
    server.faults = [
        Fault("/v1/search", status=500, times=2, after=1),
        Fault("/v1/search", cut=0.5, after=1),
        Fault("/v1/search", body=b'{"type": "FeatureColl', after=2),
        Fault("/v1/search", body=b'{"detail": "busy"}'),
    ]
    desk.tries = 6
    assert desk.poll().new == 25
    message = " | ".join(desk.lines)
    for failure in ("500 Internal Server Error", "IncompleteRead", "Unterminated string", "no page of items"):
        assert failure in message
    assert {2.0, 4.0} < set(desk.waits)
    assert desk.mark is not None


def test_time_out_is_tried_again(server: StacServer, desk: Desk) -> None:
    server.add(item(1, NOW - DAY))
    server.faults = [Fault("/v1/search", delay_s=0.4)]
    desk.read_s = 0.1
    assert desk.poll().new == 1
    assert "no answer within 0.1 s" in desk.lines[0]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/v1/search", status=500, times=9, after=2),
        Fault("/v1/search", cut=0.3, times=9, after=2),
        Fault("/v1/search", body=b"<html>", times=9, after=2),
        Fault("/v1/search", status=404, times=1, after=2),
        Fault("/v1/search", status=429, headers={"Retry-After": "7200"}, times=1, after=2),
    ],
    ids=["500", "half", "broken", "404", "limit"],
)
def test_given_up_poll_keeps_the_bookmark_and_the_next_completes(server: StacServer, desk: Desk, fault: Fault) -> None:
    server.add(item(1, NOW - DAY))
    desk.poll()
    before = desk.mark
    later = NOW + 3 * DAY
    server.add(*(item(number, NOW + DAY) for number in range(2, 42)))
    server.faults = [Fault(**{**vars(fault), "after": 2})]
    given = attempt("here", lambda: desk.poll(later), desk.kept, later)
    assert isinstance(given, Failure)
    assert desk.mark == before
    message, retry_after = desk.kept.errors[0]
    assert message == given.message
    assert f"127.0.0.1:{server.port}/v1/search" in message
    assert (retry_after, given.next_at - later) == (
        (timedelta(hours=2), timedelta(hours=2)) if fault.status == 429 else (None, BACK_OFFS[0])
    )
    assert 0 < len(desk.ledger.names()) < 41
    server.faults = []
    outcome = desk.poll(later + timedelta(hours=1))
    assert (len(desk.ledger.names()), outcome.known) == (41, 20)
    assert desk.mark == Bookmark(NOW - 10 * DAY, later + timedelta(hours=1))


def test_publishing_that_fails_keeps_the_bookmark(server: StacServer, desk: Desk) -> None:
    server.add(*(item(number, NOW - DAY) for number in range(25)))
    desk.ledger.fails = 1
    with pytest.raises(BrokerUnavailable):
        desk.poll()
    assert desk.mark is None
    assert desk.poll(NOW + DAY).new == 25


def test_broken_items_are_counted_and_the_rest_goes_on(server: StacServer, desk: Desk) -> None:
    server.add(
        item(1, NOW - DAY),
        item(2, NOW - DAY, assets={}),
        {"id": "x", "collection": "s2"},
        item(4, NOW - 2 * DAY),
        item(3, NOW - DAY, properties={"datetime": "yesterday"}),
    )
    outcome = desk.poll()
    assert (outcome.new, outcome.rejected.count) == (2, 3)
    assert outcome.rejected.first is not None
    assert outcome.rejected.first.endswith("no assets")
    assert desk.mark is not None
    server.items[1]["assets"] = {"B02": {"href": "B02.tif"}}
    server.items[1]["properties"]["published"] = "2024-05-21T00:00:00Z"
    assert desk.poll(NOW + DAY).new == 1


def test_server_that_is_away_is_told(tmp_path: Path) -> None:
    with StacServer() as server:
        desk = desk_at(server, tmp_path)
    with pytest.raises(SourceUnavailable, match=r"given up after 4 of 4 tries") as caught:
        desk.poll()
    assert "Connection refused" in str(caught.value)
    assert len(desk.lines) == 3


def test_request_that_is_wrong_is_not_repeated(server: StacServer, desk: Desk) -> None:
    server.routes["POST /v1/search"] = lambda _: Answer({"detail": "collection s2 does not exist"}, 400)
    with pytest.raises(SourceRefused, match=r"400 Bad Request: .*collection s2 does not exist"):
        desk.poll()
    assert len(server.searches()) == 1


def test_asked_to_end_while_it_waits(server: StacServer, desk: Desk) -> None:
    server.faults = [Fault("/v1/search", status=500, times=9)]
    desk.stop = True
    with pytest.raises(Stopped):
        attempt("here", desk.poll, desk.kept, NOW)
    assert len(server.searches()) == 1
    assert desk.kept.errors == []


def paged(server: StacServer, pages: list[list[dict[str, Any]]], last: int | None = None) -> None:
    """A server that gives these pages, the last linking to page `last`."""

    def answer(asked: Asked) -> Answer:
        number = int(asked.body.get("token", 0))
        following = number + 1 if number + 1 < len(pages) else last
        link = {"rel": "next", "method": "POST", "href": f"{server.api}/search", "body": {"token": following}}
        links = [] if following is None else [link]
        return Answer({"type": "FeatureCollection", "features": pages[number], "links": links})

    server.routes["POST /v1/search"] = answer


def test_empty_page_before_the_last_ends_nothing(server: StacServer, desk: Desk) -> None:
    paged(server, [[item(1, NOW)], [], [], [item(2, NOW)]])
    assert desk.poll().new == 2


def test_pages_in_a_circle_are_an_error(server: StacServer, desk: Desk) -> None:
    paged(server, [[item(1, NOW)], [item(2, NOW)]], last=0)
    with pytest.raises(SourceUnavailable, match="in a circle"):
        desk.poll()
    assert desk.mark is None


def test_next_page_for_ever_ends_when_it_stays_empty(server: StacServer, desk: Desk) -> None:
    paged(server, [[item(1, NOW)], *([[]] * 200)])
    assert desk.poll().new == 1
    assert len(server.searches()) == 11


@pytest.mark.parametrize("seed", range(5))
def test_whatever_goes_wrong_nothing_is_lost(server: StacServer, tmp_path: Path, seed: int) -> None:
    """Items appear over days, late and in any order, while requests and publishing fail: every one is found."""
    dice = random.Random(seed)
    desk = desk_at(server, tmp_path, dice.choice(['published = "published"', "overlap_days = 5"]))
    desk.read_s = 0.05
    expected = set()
    now = NOW
    for number in range(30):
        now += timedelta(hours=dice.randint(1, 8))
        for part in range(dice.randint(0, 12)):
            late = item(100 * number + part, now - timedelta(hours=dice.randint(0, 100)), now)
            server.items.insert(dice.randint(0, len(server.items)), late)
            expected.add(late["id"])
        server.faults = [
            dice.choice(
                [
                    Fault("/v1", status=500, times=dice.randint(1, 6)),
                    Fault("/v1", cut=0.7),
                    Fault("/v1", status=429),
                    Fault("/v1", body=b"{", times=4),
                    Fault("/v1", delay_s=0.06) if number % 10 == 0 else Fault("/x"),
                ]
            )
            for _ in range(dice.randint(0, 2))
        ]
        desk.ledger.fails = dice.choice([0, 0, 0, 1])
        attempt("here", lambda now=now: desk.poll(now, NOW - 10 * DAY), desk.kept, now)  # type: ignore[misc]
    server.faults, desk.ledger.fails = [], 0
    desk.poll(now + timedelta(minutes=1), NOW - 10 * DAY)
    assert desk.ledger.names() == expected
    assert desk.kept.errors


def test_box_is_rounded_outwards() -> None:
    assert rounded((4.01, 50.19, 4.2, 50.21)) == (4.0, 50.1, 4.2, 50.3)
    assert rounded((-4.01, -50.19, -4.2, -50.21)) == (-4.1, -50.2, -4.2, -50.2)


def test_errors_are_one_tree() -> None:
    for error in (SourceUnavailable("x"), SourceRefused("x", 400), Stopped("x")):
        assert isinstance(error, IngestError)
