"""A STAC API on the loopback, with files to be read by ranges, and faults on demand.

    with StacServer(files={"B02.tif": path}) as server:
        server.add({"id": ..., "collection": "sentinel-2-l2a", "bbox": [...], "assets": {... server.file("B02.tif")}})
        server.faults.append(Fault("/v1/search", status=429, headers={"Retry-After": "3"}, times=2))
        ...                                        # server.api is the landing page's address
        server.asked                               # what was requested

Searches: collections, bbox, datetime, one condition of the filter (CQL2 JSON, `>=`) or query (`gte`) extension, limit;
pages are linked as pgstac does it (POST, body with a token). Further paths by `routes`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path begins with `path`."""

    path: str
    status: int | None = None
    """Answered instead of the real thing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent instead of the real body."""
    cut: float | None = None
    """Share of the body that is sent before the connection closes; Content-Length says the whole."""
    delay_s: float = 0.0
    times: int = 1
    after: int = 0
    """Requests of the path that go well before."""
    method: str | None = None


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str
    body: Any
    headers: Mapping[str, str]
    raw: bytes


@dataclass(frozen=True)
class Answer:
    """One answer; `body` is sent as JSON unless it is bytes."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Asked], Answer]


class StacServer:
    """The server; a context manager. Lists may be changed while it runs."""

    def __init__(
        self,
        items: Iterable[dict[str, Any]] = (),
        files: Mapping[str, Path | bytes] | None = None,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.items = list(items)
        self.files = dict(files or {})
        self.faults = list(faults)
        self.routes: dict[str, Route] = {}
        """Further paths: a regular expression of "METHOD PATH" and what answers it."""
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/v1"

    def add(self, *items: dict[str, Any]) -> None:
        """More items."""
        self.items.extend(items)

    def file(self, name: str) -> str:
        """The address of one of the files."""
        return f"{self.url}/files/{name}"

    def publish(self, path: Path, collection: str, box: tuple[float, float, float, float]) -> str:
        """Puts an item's file into the catalogue and the files of its assets behind it; returns its id."""
        item: dict[str, Any] = json.loads(path.read_text())
        for asset in item["assets"].values():
            name = f"{item['id']}/{asset['href'].removeprefix('./')}"
            self.files[name] = path.parent / asset["href"]
            asset["href"] = self.file(name)
        self.add({**item, "collection": collection, "bbox": list(box)})
        return str(item["id"])

    def searches(self) -> list[Asked]:
        """Searches that were asked for."""
        return [asked for asked in self.asked if asked.path == "/v1/search"]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer(self, asked: Asked) -> Answer:
        for pattern, route in self.routes.items():
            if re.fullmatch(pattern, f"{asked.method} {asked.path}"):
                return route(asked)
        if asked.path in ("/v1", "/v1/"):
            return Answer({"type": "Catalog", "id": "local", "stac_version": "1.1.0", "links": []})
        if asked.path == "/v1/search" and asked.method == "POST":
            return self._search(asked.body)
        if found := re.fullmatch(r"/v1/collections/([^/]+)/items/([^/]+)", asked.path):
            items = [item for item in self.items if (item.get("collection"), item.get("id")) == found.groups()]
            return Answer(items[0]) if items else Answer({"detail": "no such item"}, 404)
        if asked.path.startswith("/files/"):
            return self._file(asked)
        return Answer({"detail": "no such path"}, 404)

    def _search(self, body: dict[str, Any]) -> Answer:
        found = [item for item in self.items if _is_wanted(item, body)]
        begin, limit = int(str(body.get("token", "next:0")).partition(":")[2]), int(body.get("limit", 10))
        links = []
        if begin + limit < len(found):
            next_body = {**body, "token": f"next:{begin + limit}"}
            links.append({"rel": "next", "method": "POST", "href": f"{self.api}/search", "body": next_body})
        page = found[begin : begin + limit]
        return Answer({"type": "FeatureCollection", "features": page, "links": links})

    def _file(self, asked: Asked) -> Answer:
        kept = self.files.get(unquote(asked.path.removeprefix("/files/")))
        if kept is None:
            return Answer(b"", 404)
        content = kept if isinstance(kept, bytes) else kept.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("Range", ""))
        if span is None:
            return Answer(content, 200, {"Accept-Ranges": "bytes"})
        begin, end = int(span[1]), min(int(span[2] or len(content) - 1), len(content) - 1)
        if begin > end:
            return Answer(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
        return Answer(content[begin : end + 1], 206, {"Content-Range": f"bytes {begin}-{end}/{len(content)}"})

    def _fault(self, asked: Asked) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times < 1 or not asked.path.startswith(fault.path) or fault.method not in (None, asked.method):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_json = "json" in self.headers.get("Content-Type", "")
                parts = urlsplit(self.path)
                asked = Asked(
                    self.command,
                    parts.path,
                    parts.query,
                    json.loads(raw) if raw and is_json else None,
                    dict(self.headers),
                    raw,
                )
                server.asked.append(asked)
                fault = server._fault(asked)
                if fault is not None:
                    time.sleep(fault.delay_s)
                answer = server._answer(asked) if fault is None or fault.status is None else Answer(b"", fault.status)
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                body = fault.body if fault is not None and fault.body is not None else body
                sent = body if fault is None or fault.cut is None else body[: int(len(body) * fault.cut)]
                try:
                    self.send_response(answer.status)
                    if not isinstance(answer.body, bytes):
                        self.send_header("Content-Type", "application/json")
                    for name, value in {**answer.headers, **(fault.headers if fault else {})}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(sent)
                except OSError:  # the client has given up
                    self.close_connection = True
                self.close_connection = self.close_connection or len(sent) < len(body)

            do_GET = do_POST = do_HEAD = _do  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _is_wanted(item: dict[str, Any], body: dict[str, Any]) -> bool:
    properties = item.get("properties") or {}
    if body.get("collections") and item.get("collection") not in body["collections"]:
        return False
    if (box := body.get("bbox")) and (mine := item.get("bbox")):
        west, south, east, north = box
        if mine[0] > east or mine[2] < west or mine[1] > north or mine[3] < south:
            return False
    moment = str(properties.get("datetime"))
    begin, _, end = str(body.get("datetime") or "../..").partition("/")
    if (begin != ".." and moment[:1].isdecimal() and moment < begin) or (end not in ("", "..") and moment > end):
        return False
    at_least = {name: condition["gte"] for name, condition in (body.get("query") or {}).items()}
    if condition := body.get("filter"):
        assert condition["op"] == ">="
        assert body["filter-lang"] == "cql2-json"
        at_least[condition["args"][0]["property"]] = condition["args"][1]
    return all(str(properties.get(name)) >= value for name, value in at_least.items())
