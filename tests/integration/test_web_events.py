"""New events of alerts over a real connection: those of one's regions, in order, from where one left off, until one's key ends."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import psycopg
import pytest
import uvicorn
import yaml

from db import access
from db.connect import engine
from devstack.process import free_port
from tests.web_server import bearer, serving
from web.settings import WebSettings

Store = psycopg.Connection[tuple[Any, ...]]
Messages = Iterator[dict[str, str]]


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(dsn: str) -> Iterator[str]:
    """The address of a server that looks for events often."""
    settings = WebSettings(
        requests_per_minute=10_000, events_interval_s=0.05, heartbeat_s=0.2, streams=3, streams_per_person=2
    )
    with serving(dsn, settings) as app:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@contextmanager
def listening(url: str, headers: dict[str, str], last: int | str | None = None) -> Iterator[Messages]:
    """Yield the messages that a listener gets."""
    more = {} if last is None else {"Last-Event-ID": str(last)}
    with httpx2.stream("GET", f"{url}/api/events", headers=headers | more, timeout=20) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield messages(answer)


def messages(answer: httpx2.Response) -> Messages:
    """Yield the fields of each message; of a heartbeat none."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line:
            yield fields
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def next_alert(found: Messages) -> dict[str, Any]:
    message = next(one for one in found if one.get("event") == "alert")
    data: dict[str, Any] = json.loads(message["data"])
    assert int(message["id"]) == data["event_nr"]
    return data


def happens(store: Store, parcel: str, event: str = "escalated") -> int:
    row = store.execute(
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
           select alert_key, recording_begins(now()), %s, 'red', 0.9, '2025-05-20', '{}' from alerts join parcels using (parcel_key)
           where source_id = %s returning event_nr""",
        [event, parcel],
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_events_come_as_they_happen_of_ones_regions_alone(dsn: str, url: str, store: Store) -> None:
    anna, rita = bearer(dsn, "anna", "inspector", "north"), bearer(dsn, "rita", "reader")
    with listening(url, anna) as hers, listening(url, rita) as all_of_them:
        next(hers), next(all_of_them)  # they listen: nothing from before is sent
        south = happens(store, "south-1")
        north = happens(store, "north-1")
        first = next_alert(hers)
        assert (first["event_nr"], first["source_id"], first["region"]) == (north, "north-1", "north")
        assert [next_alert(all_of_them)["event_nr"] for _ in range(2)] == [south, north]
    document = yaml.safe_load((Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text(encoding="utf-8"))
    jsonschema_rs.validate(document["components"]["messages"]["alert"]["payload"], first)


def test_who_comes_back_gets_what_was_missed(dsn: str, url: str, store: Store) -> None:
    anna = bearer(dsn, "anna", "inspector", "north")
    seen = happens(store, "north-1")
    happens(store, "south-1")
    missed = [happens(store, "north-1", event) for event in ("changed", "escalated")]
    with listening(url, anna, seen) as found:
        assert [next_alert(found)["event_nr"] for _ in range(2)] == missed


def test_who_comes_back_with_what_is_not_known_is_told_of_a_gap(dsn: str, url: str, store: Store) -> None:
    anna = bearer(dsn, "anna", "inspector", "north")
    foreign = happens(store, "south-1")
    for last in (foreign, 999_999, "x", "9" * 30):
        with listening(url, anna, last) as found:
            assert next(found)["event"] == "gap"
            next(found)
            assert next_alert_after(store, found) == "north-1"


def next_alert_after(store: Store, found: Messages) -> str:
    happens(store, "north-1")
    return str(next_alert(found)["source_id"])


def test_an_event_that_was_numbered_first_and_committed_last_is_not_missed(dsn: str, url: str, store: Store) -> None:
    rita = bearer(dsn, "rita", "reader")
    insert = """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
                select alert_key, recording_begins(now()), 'escalated', 'red', 0.9, '2025-05-20', '{}'
                from alerts join parcels using (parcel_key) where source_id = 'north-1' returning event_nr"""
    with listening(url, rita) as found:
        next(found)
        with psycopg.connect(dsn) as slow:
            first = slow.execute(insert).fetchone()
            second = happens(store, "south-1")
            time.sleep(0.5)
            slow.commit()
        assert first is not None
        assert {next_alert(found)["event_nr"] for _ in range(2)} == {first[0], second}


def test_a_stream_ends_with_the_sign_in(dsn: str, url: str) -> None:
    key = bearer(dsn, "anna", "inspector", "north")["Authorization"].split()[1]
    with httpx2.Client(base_url=url) as client:
        assert client.post("/api/session", json={"key": key}).status_code == 201
        with client.stream("GET", "/api/events", timeout=20) as answer:
            found = messages(answer)
            next(found)
            with engine(dsn).begin() as connection:
                access.end_person(connection, "anna", datetime.now(UTC))
            assert all(one == {} for one in found)  # heartbeats, and then the end


def test_listeners_are_few(dsn: str, url: str) -> None:
    anna, rita = bearer(dsn, "anna", "inspector", "north"), bearer(dsn, "rita", "reader")
    with listening(url, anna) as one, listening(url, anna) as two:
        next(one), next(two)
        assert httpx2.get(f"{url}/api/events", headers=anna).status_code == 429
        with listening(url, rita) as three:
            next(three)
            refused = httpx2.get(f"{url}/api/events", headers=bearer(dsn, "otto", "operator"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert httpx2.get(f"{url}/api/events").status_code == 401
    with listening(url, anna) as again:  # who left makes place
        next(again)
