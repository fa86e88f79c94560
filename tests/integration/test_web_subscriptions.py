"""Subscriptions in the API: one's own, of what one may see when it happens, and of nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from db import access
from db.connect import engine
from monitor.subscriptions.settings import DeliverySettings
from tests.web_server import bearer, serving
from web.routes.subscriptions import delivery_settings
from web.settings import WebSettings

Headers = dict[str, str]
Store = psycopg.Connection[tuple[Any, ...]]
MAIL = {"name": "mine", "channel": "email", "to": "anna@example.org"}
AROUND = {"type": "Polygon", "coordinates": [[[4.9, 51.9], [5.2, 51.9], [5.2, 52.2], [4.9, 52.2], [4.9, 51.9]]]}
ELSEWHERE = {"type": "Polygon", "coordinates": [[[9, 49], [9.1, 49], [9.1, 49.1], [9, 49]]]}


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(dsn: str) -> Iterator[TestClient]:
    with (
        serving(dsn, WebSettings(requests_per_minute=10_000)) as app,
        TestClient(app, raise_server_exceptions=False) as opened,
    ):
        app.dependency_overrides[delivery_settings] = lambda: DeliverySettings(webhook_hosts=["hooks.example.org"])
        yield opened


@pytest.fixture
def anna(dsn: str) -> Headers:
    return bearer(dsn, "anna", "inspector", "north")


@pytest.fixture
def otto(dsn: str) -> Headers:
    return bearer(dsn, "otto", "operator")


def happens(store: Store, event: str = "escalated") -> None:
    """Let something happen to every alert."""
    store.execute(
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
           select alert_key, now(), %s, 'red', 0.9, '2025-05-20', '{}' from alerts""",
        [event],
    )


def waiting(store: Store) -> list[tuple[str, str]]:
    """Return for whom which parcels' events wait."""
    return store.execute(
        """select s.person, source_id from outbox o join subscriptions s using (subscription_key) join alerts using (alert_key)
           join parcels using (parcel_key) order by 1, 2"""
    ).fetchall()


def test_a_subscription_receives_what_its_person_may_see_when_it_happens(
    dsn: str, client: TestClient, store: Store, anna: Headers, otto: Headers
) -> None:
    made = client.post("/api/subscriptions", headers=anna, json=MAIL)
    assert (made.status_code, made.json()["name"], made.json()["unknown"]) == (201, "mine", [])
    assert client.post("/api/subscriptions", headers=otto, json=MAIL).status_code == 201  # another's name is no matter
    happens(store)
    assert waiting(store) == [("anna", "north-1"), ("otto", "north-1"), ("otto", "south-1")]
    with engine(dsn).begin() as connection:
        access.revoke_regions(connection, "anna", ["north"])
        access.end_person(connection, "otto", datetime.now(UTC))
    happens(store)
    assert len(waiting(store)) == 3  # nothing more


def test_a_decision_in_the_api_reaches_subscribers(
    client: TestClient, store: Store, anna: Headers, otto: Headers
) -> None:
    given = MAIL | {"events": ["dismissed"], "area": AROUND}
    assert client.post("/api/subscriptions", headers=otto, json=given).status_code == 201
    (line,) = client.get("/api/alerts", headers=anna).json()["lines"]
    path = f"/api/alerts/{line['alert']}/decisions"
    assert client.post(path, headers=anna, json={"decision": "dismiss", "reason": "grazed"}).status_code == 201
    assert waiting(store) == [("otto", "north-1")]


def test_regions_that_are_not_seen_are_none(client: TestClient, anna: Headers) -> None:
    for field in ("regions", "except_regions"):
        answers = [
            client.post("/api/subscriptions", headers=anna, json=MAIL | {field: ["north", name]})
            for name in ("south", "nowhere")
        ]
        assert [one.status_code for one in answers] == [422, 422]
        assert answers[0].text.replace("south", "nowhere") == answers[1].text
    assert client.get("/api/subscriptions", headers=anna).json()["subscriptions"] == []


def test_crops_of_other_regions_are_not_known(client: TestClient, store: Store, anna: Headers) -> None:
    store.execute(
        """update declarations set crop_name = 'hemp' where parcel_key = (select parcel_key from parcels where source_id = 'south-1')"""
    )
    made = client.post("/api/subscriptions", headers=anna, json=MAIL | {"crops": ["maize", "hemp", "sugar cane"]})
    assert set(made.json()["unknown"]) == {"hemp", "sugar cane"}


def test_a_drawn_area_counts_and_can_be_taken_back(client: TestClient, store: Store, anna: Headers) -> None:
    made = client.post(
        "/api/subscriptions", headers=anna, json=MAIL | {"area": ELSEWHERE, "min_confidence": 0.5}
    ).json()
    path = f"/api/subscriptions/{made['subscription']}"
    happens(store)
    assert waiting(store) == []
    changed = client.patch(
        path, headers=anna, json={"area": AROUND, "mode": "daily", "at": "06:30", "name": "ours"}
    ).json()
    assert (changed["name"], changed["mode"], changed["at"], changed["min_confidence"]) == (
        "ours",
        "daily",
        "06:30:00",
        0.5,
    )
    assert changed["area"]["type"] == "MultiPolygon"
    happens(store)
    assert waiting(store) == [("anna", "north-1")]
    cleared = client.patch(path, headers=anna, json={"area": None, "min_confidence": None}).json()
    assert (cleared["area"], cleared["min_confidence"], cleared["mode"]) == (None, None, "daily")


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "nobody"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 100},
        {"channel": "atom", "to": "a.xml"},
        {"channel": "webhook", "to": "https://elsewhere.example.org/x"},
        {"area": {"type": "Point", "coordinates": [5, 52]}},
        {"area": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 1], [1, 0], [0, 0]]]}},
        {"area": {"type": "Polygon", "coordinates": [[[5, 52]] * 20_000]}},
        {"rules": ["none"]},
        {"zone": "Europe/Nowhere"},
        {"quiet": "22:00-22:00"},
        {"min_confidence": 2},
        {"crops": ["a\0"]},
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(
    client: TestClient, store: Store, anna: Headers, wrong: dict[str, Any]
) -> None:
    answer = client.post("/api/subscriptions", headers=anna, json=MAIL | wrong)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert {one["at"].split(".")[1] for one in answer.json()["errors"]} <= wrong.keys()
    assert store.execute("select count(*) from subscriptions").fetchone() == (0,)


def test_others_subscriptions_are_none(client: TestClient, store: Store, anna: Headers, otto: Headers) -> None:
    hook = {"name": "hook", "channel": "webhook", "to": "https://hooks.example.org/secret?token=1"}
    made = client.post("/api/subscriptions", headers=otto, json=hook).json()
    assert made["secret"].startswith("whsec_")
    assert "token" not in made["address"]
    path = f"/api/subscriptions/{made['subscription']}"
    assert "secret" not in client.get(path, headers=otto).json()
    store.execute(
        """insert into subscriptions (name, channel, address, events, mode, within_s, at, weekday, zone, min_interval_s,
                                      created_at, created_by)
           values ('old', 'email', 'x@example.org', '{opened}', 'immediate', 1, '07:00', 1, 'UTC', 0, now(), 'anna')"""
    )
    assert client.get("/api/subscriptions", headers=anna).json()["subscriptions"] == []
    for answer in (
        client.get(path, headers=anna),
        client.patch(path, headers=anna, json={"name": "x"}),
        client.delete(path, headers=anna),
        client.get(f"{path}/deliveries", headers=anna),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            f"you have no subscription {made['subscription']}",
        )
    again = client.post("/api/subscriptions", headers=otto, json=hook)
    assert (again.status_code, again.json()["errors"][0]["at"]) == (409, "body.name")
    renewed = client.patch(path, headers=otto, json={"new_secret": True}).json()
    assert renewed["secret"] not in (None, made["secret"])


def test_deliveries_and_the_end(client: TestClient, store: Store, anna: Headers) -> None:
    made = client.post("/api/subscriptions", headers=anna, json=MAIL).json()
    path = f"/api/subscriptions/{made['subscription']}"
    happens(store)
    store.execute(
        """insert into deliveries (idempotency_key, subscription_key, formed_at, next_try_at, state, ended_at, last_error)
           values (gen_random_uuid(), %s, now(), now(), 'dead', now(), '550 no such user')""",
        [made["subscription"]],
    )
    (one,) = client.get(f"{path}/deliveries", headers=anna).json()["deliveries"]
    assert (one["state"], one["last_error"]) == ("dead", "550 no such user")
    assert client.delete(path, headers=anna).status_code == 204
    assert client.get(path, headers=anna).status_code == 404
    assert waiting(store) == []
    assert store.execute("select count(*) from subscription_secrets").fetchone() == (0,)
    assert store.execute("select state from deliveries").fetchall() == [("discarded",)]
