"""The client on a real server: tables of what a key may see, pages, what is refused for now, and errors of one line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import APIRouter, HTTPException
from matplotlib import pyplot

import parcelwatch
from tests.web_server import key_of, listening, serving
from web.client import ApiError, Client

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
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
    with serving(dsn) as app:
        app.include_router(LISTS)
        with listening(app) as address:
            yield address


@pytest.fixture
def key(dsn: str, server: str) -> str:
    """The key of an inspector of the north."""
    assert server
    return key_of(dsn, "anna", "inspector", "north")


def test_a_table_of_parcels_in_two_lines(key: str, server: str) -> None:
    client = parcelwatch.connect(server, key)
    parcels = client.parcels("nl", "2025")
    assert list(parcels["id"]) == ["north-1"]
    assert parcels["light"].iloc[0] == "red"
    assert client.parcels("nl", "2025", as_known_at="2025-05-01")["light"].iloc[0] == "not_executed"
    assert list(client.alerts()["region"]) == ["north"]
    assert {"s2", "declaration", "alert"} <= set(client.history(1)["kind"])
    assert client.me() == {"name": "anna", "role": "inspector", "regions": ["north"]}


def test_the_lines_of_the_page_draw_a_map(
    key: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (lines,) = re.findall(
        r"^```python\n([^`]*parcelwatch import connect.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    for ours, here in (
        ("http://127.0.0.1:8080", server),
        ("KEY", key),
        ("nl-brp", "nl"),
        ('"r"', '"north"'),
        ('"wheat"', '"maize"'),
    ):
        assert ours in lines
        lines = lines.replace(ours, here)
    names: dict[str, Any] = {}
    exec(compile(lines, "sql.md", "exec"), names)  # the page is ours
    assert list(names["wheat"]["id"]) == ["north-1"]
    assert Path("wheat.png").read_bytes().startswith(b"\x89PNG")
    pyplot.close("all")


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
