"""A regional incident is told once: what follows is folded into that message, and nothing is lost where it dies."""

import json
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import alerts, deliveries
from db.alerts import EventRow
from db.connect import engine
from db.deliveries import DeliveryRow, WaitingEvent
from db.incidents import Closeness
from db.incidents import incidents as find
from db.subscriptions import Secrets
from monitor.alerts.decisions import decide
from monitor.subscriptions import incidents, sender
from monitor.subscriptions.settings import DeliverySettings
from monitor.subscriptions.webhook import new_secret
from tests.receivers import kept, running
from tests.subscribed import NOW, add_parcels, open_alerts, subscribe

N = 24
EVENTS = ["opened", "confirmed", "reopened", "changed", "acknowledged"]


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a receiver of webhooks, and the file of what it accepted."""
    path = tmp_path_factory.mktemp("received") / "records"
    with running("http", path) as port:
        yield port, path


@pytest.fixture
def parcels(dsn: str, received: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fields in a row, 200 m apart: alerts on ten of them are an incident."""
    received[1].write_text("")
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with engine(dsn).begin() as connection:
        return add_parcels(connection, N, step=0.003)


@pytest.fixture
def asked(tmp_path: Path) -> DeliverySettings:
    return DeliverySettings(
        webhook_hosts=["127.0.0.1"], private_networks=["127.0.0.0/8"], give_up_after=1, folder=tmp_path  # type: ignore[list-item]
    )  # fmt: skip


def hook(received: tuple[int, Path], path: str = "hook") -> Secrets:
    return Secrets(f"http://127.0.0.1:{received[0]}/{path}", new_secret())


def to(connection: sa.Connection, secrets: Secrets, **given: Any) -> int:
    return subscribe(connection, secrets, channel="webhook", events=EVENTS, **given)


def lose(connection: sa.Connection, parcels: list[int]) -> list[int]:
    return open_alerts(connection, parcels, rule="early_loss")


def happens(
    connection: sa.Connection, event: str, state: str, keys: list[int], departed: date = date(2025, 5, 1)
) -> None:
    """Record an event of the monitor on alerts."""
    rests_on = {"reason": "made up"}
    rows = [EventRow(key, event, state, "red", 0.9, departed, rests_on) for key in keys]
    alerts.record_events(connection, rows, NOW)


def send(dsn: str, asked: DeliverySettings) -> sender.Sent:
    return sender.send_all(dsn, asked, lambda: NOW)


def listed(dsn: str) -> list[DeliveryRow]:
    with engine(dsn).begin() as connection:
        return deliveries.listed(connection, None, None, 100)


def told(received: tuple[int, Path]) -> list[list[tuple[int, str | None]]]:
    """Return what arrived: of each message the alert and the incident of its events."""
    data = [json.loads(one["body"])["data"]["events"] for one in kept(received[1])]
    return [[(event["alert"], event["incident"]) for event in events] for events in data]


def test_an_incident_is_one_message_and_what_follows_is_folded_into_it(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        to(connection, hook(received))
        subscribe(connection, name="feed", channel="atom", address="all.atom", events=EVENTS)
        apart = open_alerts(connection, parcels[:1])  # another rule: never the weather's
        few = lose(connection, parcels[:9])
    send(dsn, asked)
    assert sorted(told(received)) == [[(key, None)] for key in sorted(apart + few)], "nine are none"
    with engine(dsn).begin() as connection:
        more = lose(connection, parcels[9:14])
    send(dsn, asked)
    name = f"I{few[0]}"
    assert told(received)[10:] == [[(key, name) for key in more]]
    assert f"incident {name}: early_loss, 5 alerts (5 yellow), r0, r1, r2" in kept(received[1])[10]["body"]
    with engine(dsn).begin() as connection:
        happens(connection, "closed", "closed", few[:1])  # the alert that named it
        happens(connection, "confirmed", "open", few[1:])
        late = lose(connection, parcels[14:16])
    send(dsn, asked)
    assert len(told(received)) == 11
    (folded,) = [row for row in listed(dsn) if row.state == "folded"]
    assert (folded.events, str(folded.folded_into)) == (10, kept(received[1])[10]["key"])
    shown = CliRunner().invoke(parcelwatch.app, ["deliveries", "list", "--state", "folded"]).output
    assert f"told in {folded.folded_into}" in " ".join(shown.replace("\n", " ").split())
    with engine(dsn).begin() as connection:
        decide(connection, late[0], "acknowledged", "I go there", "anna", NOW)
    send(dsn, asked)
    assert told(received)[11:] == [[(late[0], None)]], "what people decide is told"
    feed = ElementTree.parse(asked.folder / "all.atom").getroot()  # type: ignore[operator]
    assert len(feed.findall("{http://www.w3.org/2005/Atom}entry")) == 1 + 9 + 5 + 8 + 2 + 1, "a feed has every event"


def test_the_same_fields_are_another_incident_in_another_week(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        to(connection, hook(received))
        keys = lose(connection, parcels[:10])
    send(dsn, asked)
    for _ in range(2):
        with engine(dsn).begin() as connection:
            happens(connection, "closed", "closed", keys)
            happens(connection, "reopened", "open", keys, date(2025, 7, 1))
        send(dsn, asked)
    assert told(received) == [[(key, f"I{keys[0]}") for key in keys]] * 2, "hail in May, drought in July, once each"


def test_what_was_folded_into_a_message_that_dies_is_told_again(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        key = to(connection, hook(received, "503"))
        first = lose(connection, parcels[:10])
    sender.form(dsn, asked, NOW)
    with engine(dsn).begin() as connection:
        more = lose(connection, parcels[10:13])
    sender.form(dsn, asked, NOW)
    assert sorted(row.state for row in listed(dsn)) == ["folded", "pending"]
    assert sender.send_next(dsn, key, asked, lambda: NOW) is False
    assert [(row.state, row.events) for row in listed(dsn)] == [("dead", 10)]
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("update subscription_secrets set address = :url where subscription_key = :key"),
            {"url": hook(received).address, "key": key},
        )
        connection.execute(sa.text("update subscriptions set not_before = null"))
        last = lose(connection, parcels[13:14])
    send(dsn, asked)
    assert told(received) == [[(alert, f"I{first[0]}") for alert in more + last]], "nobody was told yet"
    with engine(dsn).begin() as connection:
        deliveries.retry(connection, None, None, NOW)
    send(dsn, asked)
    assert sorted(alert for message in told(received) for alert, _ in message) == first + more + last


def test_a_message_that_dies_while_something_is_folded_into_it_loses_nothing(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        key = to(connection, hook(received))
        lose(connection, parcels[:10])
    sender.form(dsn, asked, NOW)
    with engine(dsn).begin() as connection:
        held = deliveries.claim(connection, key, NOW + timedelta(hours=1), NOW)
        late = lose(connection, parcels[10:11])
    assert held is not None

    def dies() -> None:
        with engine(dsn).begin() as other:
            deliveries.failed(other, held, "refused", None, NOW)

    dying = threading.Thread(target=dies)
    with engine(dsn).begin() as connection:
        assert deliveries.lock_subscription(connection, key)
        waits = deliveries.waiting_of(connection, key, 10)
        marked = incidents.marked(connection, key, waits, incidents.seen(connection, waits))
        assert [one.told_in for one in marked] == [held.delivery_key]
        dying.start()
        dying.join(0.5)
        assert dying.is_alive(), "it waits: else the event would be folded into a message that is dead"
        deliveries.fold(connection, key, marked, NOW)
    dying.join(10)
    with engine(dsn).begin() as connection:
        (waiting,) = deliveries.waiting_of(connection, key, 10)
        assert waiting == WaitingEvent(waiting.event_nr, late[0], NOW)
    assert [row.state for row in listed(dsn)] == ["dead"]


def test_incidents_are_found_once_for_all_subscriptions_and_what_comes_meanwhile_waits(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(dsn).begin() as connection:
        for nr in range(3):
            to(connection, hook(received), name=f"hook-{nr}")
        first = lose(connection, parcels[:9])
    asked_for, finder = list[list[int]](), "monitor.subscriptions.incidents.incidents"

    def found(connection: sa.Connection, closeness: Closeness, *, alert_keys: list[int]) -> Any:
        asked_for.append(alert_keys)
        rows = find(connection, closeness, alert_keys=alert_keys)
        with engine(dsn).begin() as other:
            lose(other, parcels[9:12])  # now they are an incident
        return rows

    monkeypatch.setattr(finder, found)
    assert sender.form(dsn, asked, NOW) == 3 * 9, "nine are none"
    assert asked_for == [first]
    monkeypatch.setattr(finder, find)
    assert sender.form(dsn, asked, NOW) == 3
    assert sorted((row.events, row.state) for row in listed(dsn)) == [(1, "pending")] * 27 + [(3, "pending")] * 3


def test_a_digest_has_one_block_of_an_incident(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        to(connection, hook(received), name="digest", mode="grouped", within_s=0)
        subscribe(connection, name="mail", mode="daily")
        apart = open_alerts(connection, parcels[:2])
        lost = lose(connection, parcels[:12])
    preview = CliRunner().invoke(parcelwatch.app, ["deliveries", "preview", "mail"]).output
    assert preview.count("incident    I") == 1
    assert "12 alerts (12 yellow) of one regional incident" in preview
    assert preview.count("alert       ") == len(apart)
    send(dsn, asked)
    with engine(dsn).begin() as connection:
        more = lose(connection, parcels[12:14])
    send(dsn, asked)
    name = f"I{lost[0]}"
    assert told(received) == [
        [(key, None) for key in apart] + [(key, name) for key in lost],
        [(key, name) for key in more],
    ], "a digest tells of what came since the one before"


def test_more_alerts_than_a_message_holds_are_folded(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        to(connection, hook(received))
        keys = lose(connection, parcels)
    send(dsn, asked.model_copy(update={"message_events": 10}))
    assert [[alert for alert, _ in message] for message in told(received)] == [keys[:10]]
    assert sorted((row.state, row.events) for row in listed(dsn)) == [("folded", N - 10), ("sent", 10)]


def test_a_message_is_removed_and_what_was_folded_into_it_says_so(
    dsn: str, asked: DeliverySettings, received: tuple[int, Path], parcels: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        to(connection, hook(received))
        lose(connection, parcels[:10])
    send(dsn, asked)
    with engine(dsn).begin() as connection:
        lose(connection, parcels[10:12])
    sender.form(dsn, asked, NOW + timedelta(days=1))
    with engine(dsn).begin() as connection:
        assert deliveries.remove_finished(connection, NOW + timedelta(hours=1), 10) == 1
    assert [(row.state, row.folded_into) for row in listed(dsn)] == [("folded", None)]
    with engine(dsn).begin() as connection:
        assert deliveries.remove_finished(connection, NOW + timedelta(days=2), 10) == 1
        assert connection.execute(sa.text("select count(*) from outbox")).scalar_one() == 0
