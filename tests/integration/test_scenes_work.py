"""Workers that die, share and compete, publishers that die: every scene cut once, every observation stored once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db.found_scenes import LedgerRow
from ingest.errors import DeliveryFailed
from ingest.scenes import cutting, worker
from ingest.scenes.adding import scenes_at
from ingest.scenes.begin import begin
from ingest.scenes.record import FoundScene
from ingest.scenes.settings import scenes_topic
from ingest.scenes.worker import Worker
from ingest.stream.producer import ObservationProducer, Sender
from tests.made_scenes import START, World, blanked, check_optical, inside, optical, s2_item, world
from tests.raw_headers import RawKey

BOXES = {
    f"p{nr}": (2.2 + 15 * (nr % 4), 2.2 + 15 * (nr // 4), 14.2 + 15 * (nr % 4), 14.2 + 15 * (nr // 4))
    for nr in range(16)
}

SEND = ObservationProducer.send


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES)
        yield made


class Killed(BaseException):
    """The process is gone."""


def killing(after: Callable[..., Any] | None) -> Callable[..., Any]:
    """What is replaced, done or not, and then the end."""

    def dies(*arguments: Any, **named: Any) -> Any:
        if after:
            after(*arguments, **named)
        raise Killed

    return dies


def half_sent(producer: ObservationProducer, table: Any) -> None:
    """Half of what is given has reached the broker."""
    SEND(producer, table.slice(0, table.num_rows // 2))
    producer.flush()


@pytest.mark.parametrize(
    ("where", "name", "after"),
    [
        (worker, "begin", None),
        (worker, "begin", begin),
        (cutting, "cut", None),
        (Worker, "_send", None),
        (ObservationProducer, "send", half_sent),
        (Worker, "_end", None),
        (Worker, "_end", Worker._end),
    ],
    ids=["claimed", "begun", "opened", "cut", "half sent", "sent", "ended"],
)
def test_a_worker_killed_anywhere_leaves_no_double(
    where: Any, name: str, after: Any, chain: World, tmp_path: Path
) -> None:
    numbers = optical(1)
    chain.add(s2_item(tmp_path, numbers))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(where, name, killing(after))
        with pytest.raises(Killed):
            chain.worker().run(threading.Event())
    chain.consumer.catch_up()
    state = chain.the_scene().state
    assert state == ("cut" if after is Worker._end else "cutting")
    chain.work()
    assert chain.the_scene().state == state, "taken before its lease ended"
    chain.now.put_forward(timedelta(minutes=5))
    chain.work()
    told = chain.the_scene()
    assert (told.state, told.emitted, told.stored, told.adds_up) == ("cut", 16, 16, True)
    assert told.attempts == (1 if after is Worker._end else 2)
    found = chain.current()
    assert set(found) == set(BOXES)
    for name_, row in found.items():
        check_optical(row, numbers, inside(BOXES[name_]))
    counts = chain.rows("""select (select count(*) from s2_observations) as n, (select count(*) from pixel_sets) as sets,
                                  (select count(*) from pending_work) as pending, (select count(*) from dead_letters) as bad""")
    assert counts == [{"n": 16, "sets": 16, "pending": 16, "bad": 0}]


def test_a_scene_that_kills_its_workers_is_left_alone_after_a_while(chain: World, tmp_path: Path) -> None:
    chain.add(s2_item(tmp_path, optical(2)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cutting, "cut", killing(None))
        for _ in range(5):
            with pytest.raises(Killed):
                chain.worker().run(threading.Event())
            chain.now.put_forward(timedelta(minutes=5))
    chain.work()
    told = chain.the_scene()
    assert (told.state, told.next_try_at) == ("failed", None)
    assert "5 workers vanished" in str(told.told)


def test_asked_to_end_it_finishes_the_scene_in_hand_and_no_other(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.add(*(s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr)) for nr in range(4)))
    stop = threading.Event()

    def asked(*arguments: Any) -> Any:
        stop.set()
        return cutting_cut(*arguments)

    cutting_cut = cutting.cut
    monkeypatch.setattr(cutting, "cut", asked)
    chain.worker().run(stop)
    assert sorted(row.state for row in chain.ledger().values()) == ["cut", "found", "found", "found"]
    chain.work()
    assert {(row.state, row.attempts) for row in chain.ledger().values()} == {("cut", 1)}


def test_two_workers_share(chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.add(*(s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr)) for nr in range(6)))
    meet, both = threading.Barrier(2), threading.local()

    def together(*arguments: Any) -> Any:
        if not hasattr(both, "met"):
            both.met = meet.wait(20)  # each worker's first scene waits for the other's
        return cutting_cut(*arguments)

    cutting_cut = cutting.cut
    monkeypatch.setattr(cutting, "cut", together)
    workers = [chain.worker(), chain.worker()]
    threads = [threading.Thread(target=one.run, args=(threading.Event(), True)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    chain.consumer.catch_up()
    rows = chain.ledger().values()
    assert {(row.state, row.attempts, row.is_stored) for row in rows} == {("cut", 1, True)}
    assert {row.worker for row in rows} == {"worker-0", "worker-1"}
    assert sum(one.ends["cut"] for one in workers) == 6
    assert chain.rows("select count(*) as n from s2_observations") == [{"n": 6 * 16}]
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 0}]


def test_one_that_was_believed_dead_sends_nothing(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.add(s2_item(tmp_path, optical(3)))
    slow = chain.worker()
    sent: list[int] = []

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(cutting, "cut", cutting_cut)
        chain.now.put_forward(timedelta(minutes=5))
        chain.work()
        monkeypatch.setattr(ObservationProducer, "send", lambda *_: sent.append(1))
        return cutting_cut(*arguments)

    cutting_cut = cutting.cut
    monkeypatch.setattr(cutting, "cut", overtaken)
    slow.run(threading.Event(), True)
    assert (slow.ends["lost"], sent) == (1, [])
    told = chain.the_scene()
    assert (told.state, told.worker, told.attempts, told.stored) == ("cut", "worker-1", 2, 16)


def test_scenes_of_one_family_are_cut_one_after_the_other(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        s2_item(
            tmp_path,
            blanked(optical(4), gap),
            strip=START + timedelta(seconds=60 * nr),
            made=START + timedelta(hours=nr + 6),
        )
        for nr, gap in enumerate((slice(34, 64), slice(0, 30)))
    )
    chain.add(first)
    seen: list[LedgerRow] = []

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(cutting, "cut", cutting_cut)
        chain.add(second)
        other = chain.worker()
        assert other._work(second.parent.name)
        seen.append(chain.ledger()[second.parent.name])
        return cutting_cut(*arguments)

    cutting_cut = cutting.cut
    monkeypatch.setattr(cutting, "cut", meanwhile)
    chain.work()
    assert (seen[0].state, seen[0].attempts, seen[0].told) == ("found", 0, f"waits for {first.parent.name}")
    rows = chain.ledger()
    assert [(rows[one.parent.name].state, rows[one.parent.name].revision) for one in (first, second)] == [
        ("cut", 0),
        ("cut", 1),
    ]
    assert set(chain.current()) == set(BOXES)


def test_a_part_whose_other_part_cannot_be_read_leaves_what_that_told(chain: World, tmp_path: Path) -> None:
    first, second = (
        s2_item(
            tmp_path,
            blanked(optical(5), gap),
            strip=START + timedelta(seconds=60 * nr),
            made=START + timedelta(hours=nr + 6),
        )
        for nr, gap in enumerate((slice(40, 64), slice(0, 38)))
    )
    chain.add(first)
    chain.work()
    before = chain.current()
    for band in first.parent.glob("*.tif"):
        band.unlink()
    chain.add(second)
    chain.work()
    row = chain.ledger()[second.parent.name]
    assert row.state == "cut"
    assert "not merged with" in str(row.told)
    after = chain.current()
    assert set(after) == set(BOXES)
    assert {name: after[name] for name in before} == before
    assert row.skipped_by["other_part"] == 4  # the row of parcels that both show


def test_a_failure_in_between_is_completed_by_a_retry(chain: World, tmp_path: Path) -> None:
    item = s2_item(tmp_path, optical(6))
    band = item.parent / "B08.tif"
    whole = band.read_bytes()
    band.write_bytes(whole[:3000])
    chain.add(item)
    chain.work()
    assert chain.the_scene().state == "failed"
    band.write_bytes(whole)
    chain.now.put_forward(timedelta(minutes=2))
    chain.work()
    told = chain.the_scene()
    assert (told.state, told.attempts, told.cause, told.is_stored) == ("cut", 2, None, True)
    assert chain.rows("select count(*) as n, max(revision) as newest from s2_observations") == [{"n": 16, "newest": 0}]


def test_a_publisher_that_dies_before_the_topic_has_it(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr)) for nr in range(2))

    def away(_: Sender) -> None:
        raise DeliveryFailed("away")

    with monkeypatch.context() as patched:
        patched.setattr(Sender, "flush", away)
        with pytest.raises(DeliveryFailed):
            chain.add(first)
    assert chain.the_scene().published_at is None
    assert (chain.add(first).known, chain.the_scene().published_at is not None) == (1, True)
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "flush", away)
        with pytest.raises(DeliveryFailed):
            chain.add(second)
    chain.work()
    assert {row.state for row in chain.ledger().values()} == {"cut"}, "the ledger alone is enough"


def test_records_of_others_and_bad_records(chain: World, tmp_path: Path) -> None:
    (found,) = scenes_at(str(s2_item(tmp_path, optical(7))), None, lambda _: None, chain.now())
    chain.publisher.publish([])
    topic, sender = scenes_topic(chain.settings.ingest), Sender(chain.bootstrap, 900_000)
    chain.worker().run(threading.Event(), True)  # makes the topic
    for value in (b"no json", found.to_json().replace(b"scene/1", b"scene/2"), found.to_json(), found.to_json()):
        sender.send(topic, value, [])
    sender.flush()
    sender.close()
    chain.work()
    assert (chain.the_scene().state, chain.the_scene().attempts) == ("cut", 1)
    letters = chain.rows(
        "select reason_code, topic, convert_from(payload, 'utf8') as payload from dead_letters order by 1"
    )
    assert [(row["reason_code"], row["topic"]) for row in letters] == [("malformed", topic), ("unknown_schema", topic)]
    assert letters[0]["payload"] == "no json"
    chain.work()
    assert chain.rows("select count(*) as n from dead_letters") == [{"n": 2}]


def test_a_hostile_record_holds_no_worker(chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = scenes_at(str(s2_item(tmp_path, optical(7))), None, lambda _: None, chain.now())
    topic, sender = scenes_topic(chain.settings.ingest), Sender(chain.bootstrap, 900_000)
    chain.worker().run(threading.Event(), True)  # makes the topic
    good, from_json = found.to_json(), FoundScene.from_json
    hostile = [
        good.replace(b'"properties":{', b'"properties":{"\\u0000":1,'),
        good.replace(b'"properties":{', b'"properties":{"a":1e400,'),
        good.replace(b'"properties":{', b'"properties":{"a":NaN,'),
        b"raise",
    ]
    assert good not in hostile

    def unforeseen(value: bytes) -> FoundScene:
        if value == b"raise":
            raise KeyError("a\0\nb")
        return from_json(value)

    monkeypatch.setattr(FoundScene, "from_json", unforeseen)
    for value in [*hostile, good]:
        sender.send(topic, value, [])
    for key in ("a", RawKey("\xff")):
        sender.send(topic, good, [(key, b"\0")])
    sender.flush()
    sender.close()
    chain.work()
    assert (chain.the_scene().state, chain.the_scene().attempts) == ("cut", 1)
    letters = chain.rows("select reason_code, payload from dead_letters order by message_offset, partition")
    assert {row["reason_code"] for row in letters} == {"malformed"}
    assert sorted(bytes(row["payload"]) for row in letters) == sorted([*hostile, good])


def test_a_broker_that_goes_away_costs_no_attempt(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.add(s2_item(tmp_path, optical(8)))

    def away(producer: ObservationProducer, table: Any) -> int:
        half_sent(producer, table)
        monkeypatch.setattr(ObservationProducer, "send", SEND)
        raise DeliveryFailed("away")

    monkeypatch.setattr(ObservationProducer, "send", away)
    chain.work()
    told = chain.the_scene()
    assert (told.state, told.attempts, told.emitted, told.stored) == ("cut", 1, 16, 16)


def test_a_surprise_in_one_scene_leaves_the_others_alone(
    chain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.add(*(s2_item(tmp_path, optical(nr), start=START + timedelta(days=nr)) for nr in range(2)))

    def surprised(*_: Any) -> None:
        monkeypatch.setattr(cutting, "cut", cut)
        raise ZeroDivisionError("of ours")

    cut = cutting.cut
    monkeypatch.setattr(cutting, "cut", surprised)
    chain.work()
    rows = sorted(chain.ledger().values(), key=lambda row: row.state)
    assert [(row.state, row.cause) for row in rows] == [("cut", None), ("failed", "unexpected")]
    assert "unexpected ZeroDivisionError: of ours" in str(rows[1].told)


def test_work_until_idle_does_not_wait_for_a_consumer_that_is_not_there(chain: World, tmp_path: Path) -> None:
    first, second = (
        s2_item(
            tmp_path,
            blanked(optical(9), gap),
            strip=START + timedelta(seconds=60 * nr),
            made=START + timedelta(hours=nr + 6),
        )
        for nr, gap in enumerate((slice(40, 64), slice(0, 38)))
    )
    chain.add(first)
    chain.worker().run(threading.Event(), True)  # and nothing is stored
    for band in first.parent.glob("*.tif"):
        band.unlink()
    chain.add(second)
    waiting = chain.worker()
    waiting.run(threading.Event(), True)
    row = chain.ledger()[second.parent.name]
    assert (waiting.ends["put_back"], row.state, row.attempts) == (1, "found", 0)
    assert "waits until the store has" in str(row.told)
    chain.consumer.catch_up()
    chain.now.put_forward(timedelta(minutes=1))
    chain.work()
    assert chain.ledger()[second.parent.name].state == "cut"
    assert set(chain.current()) == set(BOXES)
