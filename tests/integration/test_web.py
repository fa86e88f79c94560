"""The web server: who asks, what is refused, and how errors look."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from fastapi.testclient import TestClient

from db import access
from db.connect import bounded_engine, engine
from tests.web_server import key_of
from web.app import create_app
from web.principals import COOKIE, CSRF_HEADER, csrf_token
from web.settings import WebSettings


@pytest.fixture
def client(dsn: str) -> Iterator[TestClient]:
    """A client of an application with two regions and nobody who may use it."""
    with psycopg.connect(dsn) as connection:
        connection.execute("insert into regions (code) values ('north'), ('south')")
    made = bounded_engine(dsn, 2, 5.0)
    app = create_app(made, WebSettings(requests_per_minute=20))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened
    made.dispose()


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_says_who_asks_and_what_they_see(dsn: str, client: TestClient) -> None:
    inspector, reader = key_of(dsn, "anna", "inspector", "north"), key_of(dsn, "rita", "reader")
    for _ in range(2):  # the second time it is remembered
        answer = client.get("/api/me", headers=_bearer(inspector))
        assert answer.json() == {"name": "anna", "role": "inspector", "regions": ["north"]}
    assert client.get("/api/me", headers=_bearer(reader)).json()["regions"] == ["north", "south"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", "Bearer pw_0_0", "Bearer pw_é_é", "Basic YTpi", "Bearer pw_a_b_c"]
)
def test_without_a_key_nothing_is_shown(client: TestClient, header: str) -> None:
    answer = client.get("/api/me", headers=[(b"Authorization", header.encode("latin-1"))] if header else [])
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "a key is needed: `Authorization: Bearer pw_...`, or sign in",
    }


def test_a_key_that_ended_or_was_revoked_or_whose_person_left_is_none(dsn: str, client: TestClient) -> None:
    ended = key_of(dsn, "anna", "reader", lasts=timedelta(seconds=-1))
    revoked, left = key_of(dsn, "anna", "reader"), key_of(dsn, "bob", "reader")
    with engine(dsn).begin() as connection:
        assert access.revoke_key(connection, revoked.split("_")[1], datetime.now(UTC))
        assert access.end_person(connection, "bob", datetime.now(UTC))
    for key in (ended, revoked, left, revoked[:-1] + "0"):
        assert client.get("/api/me", headers=_bearer(key)).status_code == 401


def test_secrets_are_not_stored(dsn: str) -> None:
    key = key_of(dsn, "anna", "reader")
    with psycopg.connect(dsn) as connection:
        stored = connection.execute("select k::text from parcelwatch_access.api_keys k").fetchall()
    assert key.split("_")[2] not in str(stored)
    assert "$argon2id$" in str(stored)


def test_a_sign_in_is_a_cookie_that_no_script_reads_and_changes_need_our_page(dsn: str, client: TestClient) -> None:
    assert client.post("/api/session", json={"key": "pw_0_0"}).status_code == 401
    answer = client.post("/api/session", json={"key": key_of(dsn, "anna", "reader")})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/me").json()["name"] == "anna"
    token = answer.json()["csrf_token"]
    assert token == csrf_token(client.cookies[COOKIE])
    own = {CSRF_HEADER: token, "Origin": "http://testserver"}
    for headers in ({}, {CSRF_HEADER: "x"}, {CSRF_HEADER: "é"}, own | {"Origin": "http://elsewhere"}):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        assert client.delete("/api/session", headers=raw).status_code == 403
    assert client.get("/api/me").status_code == 200
    stolen = client.cookies[COOKIE]
    assert client.delete("/api/session", headers=own).status_code == 204
    client.cookies.set(COOKIE, stolen)
    assert client.get("/api/me").status_code == 401


def test_who_asks_too_often_is_told_when_to_come_again(dsn: str, client: TestClient) -> None:
    anna, rita = key_of(dsn, "anna", "reader"), key_of(dsn, "rita", "reader")
    statuses = [client.get("/api/me", headers=_bearer(anna)).status_code for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    assert 1 <= int(client.get("/api/me", headers=_bearer(anna)).headers["retry-after"]) <= 61
    assert client.get("/api/me", headers=_bearer(rita)).status_code == 200  # others are served


def test_every_answer_has_its_headers(client: TestClient) -> None:
    for path in ("/api/me", "/nowhere", "/api/openapi.json"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_database_that_is_away_is_said_in_a_sentence(client: TestClient, dsn: str) -> None:
    key = key_of(dsn, "anna", "reader")
    away = bounded_engine("postgresql://nobody@127.0.0.1:1/x", 1, 1.0)
    client.app.state.gate.engine = away  # type: ignore[attr-defined]
    answer = client.get("/api/me", headers=_bearer(key))
    assert (answer.status_code, answer.json()["detail"]) == (503, "the database cannot be reached now")
    assert answer.headers["retry-after"]
