"""The client on a real server: tables of what a key may see, pages, what is refused for now, and errors of one line."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException

import parcelwatch
from db import access
from db.access import Principal
from db.connect import bounded_engine, engine
from web.app import create_app
from web.client import ApiError, Client
from web.principals import make_key
from web.settings import WebSettings

LISTS = APIRouter(prefix="/api/test")
N_REFUSED = {"n": 0}


@LISTS.get("/rows")
def rows(after: int = 0, refused: int = 0, only: str = "") -> dict[str, object]:
    """Answer with the next of five rows, and now and then with none for now."""
    if N_REFUSED["n"] < refused:
        N_REFUSED["n"] += 1
        raise HTTPException(503 if N_REFUSED["n"] % 2 else 429, "not\nnow", {"Retry-After": "3"})
    link = {"rel": "next", "href": f"/api/test/rows?after={after + 1}&only={quote(only)}"}
    return {"rows": [{"nr": after, "only": only}], "links": [link] if after < 4 else []}


@LISTS.get("/lines")
def lines(page: int = 1) -> dict[str, object]:
    """Answer as the inbox does."""
    return {"lines": [{"nr": page}], "next": "/api/test/lines?page=2" if page == 1 else None}


@LISTS.get("/elsewhere")
def elsewhere() -> dict[str, object]:
    """Lead to another server."""
    return {"lines": [], "next": "http://127.0.0.1:9/api/test/lines"}


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def server(dsn: str) -> Iterator[str]:
    made = bounded_engine(dsn, 2, 5.0)
    app: FastAPI = create_app(made, WebSettings())
    app.include_router(LISTS)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()
    made.dispose()


@pytest.fixture
def key(dsn: str, server: str) -> str:
    """The key of an inspector of the north."""
    assert server
    key_id, whole, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, Principal("anna", "inspector"), "ann", now)
        access.grant_regions(connection, "anna", ["north"], "ann", now)
        assert access.add_key(connection, key_id, "anna", "test", hashed, "ann", now, now + timedelta(days=1))
    return whole


def test_a_table_of_parcels_in_two_lines(key: str, server: str) -> None:
    client = parcelwatch.connect(server, key)
    parcels = client.parcels("nl", "2025")
    assert list(parcels["id"]) == ["north-1"]
    assert parcels["light"].iloc[0] == "red"
    assert client.parcels("nl", "2025", as_known_at="2025-05-01")["light"].iloc[0] == "not_executed"
    assert list(client.alerts()["region"]) == ["north"]
    assert {"s2", "declaration", "alert"} <= set(client.history(1)["kind"])
    assert client.me() == {"name": "anna", "role": "inspector", "regions": ["north"]}


def test_all_pages_are_one_table_and_what_is_refused_for_now_is_asked_again(key: str, server: str) -> None:
    waited: list[float] = []
    N_REFUSED["n"] = 0
    client = Client(server, key, waited.append)
    table = client.rows("test/rows", refused=4, only="x&y")
    assert list(table["nr"]) == [0, 1, 2, 3, 4]
    assert set(table["only"]) == {"x&y"}
    assert waited == [3.0] * 4
    assert list(client.rows("/test/lines")["nr"]) == [1, 2]


def test_errors_are_one_line(key: str, server: str) -> None:
    client = Client(server, key, lambda _: None)
    N_REFUSED["n"] = 0
    for asked, status, said in (
        (lambda: client.parcels("nl", "1999"), 404, "no parcel of collection 'nl' in season '1999'"),
        (lambda: client.rows("test/rows", refused=99), 429, "not now (429)"),
        (lambda: client.rows("me"), None, "is no list"),
        (lambda: client.rows("test/elsewhere"), None, "is on another server"),
        (lambda: Client(server, "pw_0_0").me(), 401, "a key is needed"),
        (lambda: Client("http://127.0.0.1:9", key).me(), None, "is it up?"),
        (lambda: parcelwatch.connect("parcels.example.org", key), None, "is no address"),
    ):
        with pytest.raises(ApiError) as caught:
            asked()
        assert (caught.value.status, said in str(caught.value), "\n" in str(caught.value)) == (status, True, False)
        assert key not in str(caught.value)
