"""Exports by HTTP: of the regions that who asks may see, and what becomes of those that cannot be made."""

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyogrio
import pytest
import uvicorn
from fastapi.testclient import TestClient
from pyarrow import csv, parquet

from db.connect import bounded_engine
from monitor.exports.files import CHUNKS
from tests.web_server import key_of
from web.app import create_app
from web.settings import WebSettings


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def client(dsn: str) -> Iterator[TestClient]:
    """A client of an application that makes one export at once, with a reader's key."""
    made = bounded_engine(dsn, 2, 5.0)
    with TestClient(create_app(made, WebSettings(exports=1)), raise_server_exceptions=False) as opened:
        opened.headers["Authorization"] = f"Bearer {key_of(dsn, 'rita', 'reader')}"
        yield opened
    made.dispose()


def _ids(answer: Any, kind: str, folder: Path) -> list[str]:
    if kind == "csv":
        return list(csv.read_csv(io.BytesIO(answer.content))["id"].to_pylist())
    if kind == "parquet":
        return list(parquet.read_table(io.BytesIO(answer.content))["id"].to_pylist())
    (folder / "x.gpkg").write_bytes(answer.content)
    return list(pyogrio.read_arrow(folder / "x.gpkg")[1]["id"].to_pylist())


@pytest.mark.parametrize("kind", ["csv", "parquet", "gpkg"])
def test_each_sees_the_parcels_of_their_regions(dsn: str, client: TestClient, tmp_path: Path, kind: str) -> None:
    answer = client.get(f"/api/exports/nl/2025.{kind}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''nl-2025.{kind}"
    assert _ids(answer, kind, tmp_path) == ["north-1", "south-1"]
    client.headers["Authorization"] = f"Bearer {key_of(dsn, 'anna', 'inspector', 'north')}"
    answer = client.get(f"/api/exports/nl/2025.{kind}")
    assert _ids(answer, kind, tmp_path) == ["north-1"]
    assert b"south" not in answer.content
    hidden, unknown = (client.get(f"/api/exports/nl/2025.{kind}?region={one}") for one in ("south", "wouth"))
    assert (hidden.status_code, hidden.text.replace("south", "wouth")) == (404, unknown.text)


def test_as_known_at(client: TestClient) -> None:
    for given, lights in (("2025-05-01", ["not_executed"] * 2), ("2025-06-02T12:00:00%2B02:00", ["red"] * 2)):
        answer = client.get(f"/api/exports/nl/2025.csv?as_known_at={given}")
        assert csv.read_csv(io.BytesIO(answer.content))["light"].to_pylist() == lights
    assert client.get("/api/exports/nl/2025.csv?as_known_at=2100-01-01").json()["status"] == 422


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nl/2025.shp", 422),
        ("nl/2024.csv", 404),
        ("xx/2025.csv", 404),
        ("n%00l/2025.csv", 422),
        ("nl/2025.csv?region=%00", 422),
        ("nl/2025.csv?as_known_at=never", 422),
        ("nl/2025.gpkg?region=';drop table parcels", 404),
    ],
)
def test_what_there_is_not_is_a_problem(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/exports/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert client.get("/api/exports/nl/2025.csv").status_code == 200  # nothing is held


def test_nobody_exports_without_a_key(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.get("/api/exports/nl/2025.csv").status_code == 401


def test_more_exports_at_once_are_refused(client: TestClient) -> None:
    with client.app.state.exports:  # type: ignore[attr-defined]
        answer = client.get("/api/exports/nl/2025.parquet")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


@contextmanager
def _served(app: Any) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    _until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def _until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_an_export_that_breaks_off_looks_so_and_one_that_nobody_reads_ends(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Iterator[bytes]:
        yield b"first"
        raise psycopg.OperationalError("gone")

    def endless(_: Any) -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    slots: Any = client.app.state.exports  # type: ignore[attr-defined]
    headers = {"Authorization": client.headers["Authorization"]}
    with _served(client.app) as port:
        for made in (broken, endless):
            monkeypatch.setitem(CHUNKS, "csv", made)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/api/exports/nl/2025.csv", headers=headers)
            answer = connection.getresponse()
            if made is broken:
                with pytest.raises(http.client.IncompleteRead):
                    answer.read()
            else:
                answer.read(1 << 21)
                assert slots._value == 0
            answer.close()
            connection.close()
            _until(lambda: slots._value == 1)


def test_the_description_names_the_kinds_of_files(client: TestClient) -> None:
    said = client.get("/api/openapi.json").json()["paths"]["/api/exports/{collection}/{season}.{kind}"]["get"]
    assert set(said["responses"]["200"]["content"]) >= {"text/csv", "application/vnd.apache.parquet"}
    assert json.dumps(said)
